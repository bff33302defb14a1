//! The course of an attack in the attacker's process, and its counts.
//!
//! The process receives the orders to begin and to stop over its standard input, and reports over its standard output, a line of
//! JSON each: `ready` once the preparation is done, `attacking` once the load is on, and its [`Counts`] at the end.

use std::{
    io::{BufRead, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{catalogue::Parameters, packet::Credentials};

/// The server and the credentials, as the attacker's process receives them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The name of the attack.
    pub(super) attack: String,
    /// Its parameters.
    pub(super) parameters: Parameters,
    /// The server's MQTT address.
    pub(super) mqtt: SocketAddr,
    /// The server's HTTP address.
    pub(super) http: Option<SocketAddr>,
    /// The one credential of the attacker.
    pub(super) device: Credentials,
    /// Another device.
    pub(super) victim: String,
    /// Credentials for the preparation.
    pub(super) admins: Vec<Credentials>,
}

/// The events that the attacker's process reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Event {
    /// The preparation is done.
    Ready,
    /// The load is on.
    Attacking,
    /// The attack has ended.
    Done(Counts),
    /// The attack could not be run.
    Failed(String),
}

/// The counts of an attack.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    /// Items wanted by the preparation: sessions, retained messages, shadows.
    pub(super) wanted: u64,
    /// Items that the server accepted.
    pub(super) prepared: u64,
    /// Connections accepted.
    pub(super) connected: u64,
    /// Requests and messages sent by the attack, without its preparation.
    pub(super) requests: u64,
    /// Requests handled as the attack intends.
    pub(super) accepted: u64,
    /// Requests refused or throttled.
    pub(super) refused: u64,
    /// Messages and events received during the attack; of a connection that discards them, reads.
    pub(super) deliveries: u64,
    /// Connections that failed or that the server ended.
    pub(super) ended: u64,
    /// The first error or refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Phase {
    Prepare,
    Attack,
    Stop,
}

/// A running attack.
pub(super) struct Stage {
    /// The server and the credentials.
    pub(super) orders: Orders,
    counts: Mutex<Counts>,
    phase: watch::Receiver<Phase>,
    sources: AtomicU32,
}

impl Stage {
    /// Reads the orders from standard input.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub(super) fn read() -> anyhow::Result<Arc<Self>> {
        let mut lines = std::io::stdin().lines();
        let orders = lines.next().context("orders on standard input")??;
        let orders: Orders = serde_json::from_str(&orders)?;
        let (sender, phase) = watch::channel(Phase::Prepare);
        std::thread::spawn(move || {
            let mut lines = std::io::stdin().lock().lines();
            while let Some(Ok(line)) = lines.next() {
                let _ = sender.send(if line == "attack" { Phase::Attack } else { Phase::Stop });
            }
            // The parent has gone.
            let _ = sender.send(Phase::Stop);
        });
        Ok(Arc::new(Self { orders, counts: Mutex::default(), phase, sources: AtomicU32::new(0) }))
    }

    /// Returns a parameter of the attack; 0 if there is none of this name.
    pub(super) fn parameter(&self, name: &str) -> usize {
        self.orders.parameters.get(name).copied().unwrap_or_default()
    }

    /// Returns the name of the attacker, which is its device id.
    pub(super) fn own(&self) -> &str {
        &self.orders.device.name
    }

    /// Changes the counts.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a request and its outcome; `why` describes a refusal.
    pub(super) fn outcome(&self, accepted: bool, why: impl FnOnce() -> String) {
        self.count(|counts| {
            counts.requests += 1;
            if accepted {
                counts.accepted += 1;
            } else {
                counts.refused += 1;
                counts.first_error.get_or_insert_with(why);
            }
        });
    }

    /// Notes an error that ended a connection.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.count(|counts| {
            counts.ended += 1;
            counts.first_error.get_or_insert_with(|| format!("{error:#}"));
        });
    }

    /// Returns the counts so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the next source address, so that many short connections do not use up the ports of one.
    pub(super) fn source(&self) -> SocketAddr {
        let number = self.sources.fetch_add(1, Ordering::Relaxed);
        let last = u8::try_from(number % 200).unwrap_or_default() + 2;
        SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0)
    }

    /// Reports that the preparation is done, and waits for the order to attack. Requests and messages count from here.
    pub(super) async fn ready(&self) {
        report(&Event::Ready);
        self.reached(Phase::Attack).await;
        self.count(|counts| {
            (counts.requests, counts.accepted, counts.refused, counts.deliveries) = (0, 0, 0, 0);
        });
    }

    /// Reports that the load is on, and waits for the order to stop.
    pub(super) async fn attacking(&self) {
        report(&Event::Attacking);
        self.stopped().await;
    }

    /// Waits for the order to stop.
    pub(super) async fn stopped(&self) {
        self.reached(Phase::Stop).await;
    }

    async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.clone();
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }

    /// Runs `act` in `count` tasks, again and again, until the order to stop. An error is counted, and after a pause the
    /// task begins anew. The load is on with the first outcome.
    pub(super) async fn crowd<F, T>(self: &Arc<Self>, count: usize, act: F)
    where
        F: Fn(Arc<Self>, usize) -> T + Clone + Send + 'static,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let _tasks = self.spawn_crowd(count, act);
        self.attacking_once(|counts| counts.requests > 0).await;
    }

    /// As [`Self::crowd`]; the load is on with the first message that arrives at a reader.
    pub(super) async fn crowd_with_readers<F, T>(self: &Arc<Self>, count: usize, act: F)
    where
        F: Fn(Arc<Self>, usize) -> T + Clone + Send + 'static,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let _tasks = self.spawn_crowd(count, act);
        self.attacking_once(|counts| counts.deliveries > 0).await;
    }

    async fn attacking_once(&self, on: impl Fn(&Counts) -> bool) {
        let deadline = Instant::now() + FIRST_OUTCOME;
        while !on(&self.counts()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.attacking().await;
    }

    /// Spawns the tasks of [`Self::crowd`]. They end when the set is dropped.
    pub(super) fn spawn_crowd<F, T>(self: &Arc<Self>, count: usize, act: F) -> JoinSet<()>
    where
        F: Fn(Arc<Self>, usize) -> T + Clone + Send + 'static,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (stage, act) = (self.clone(), act.clone());
            tasks.spawn(async move {
                loop {
                    if let Err(error) = act(stage.clone(), number).await {
                        stage.failed(&error);
                        tokio::time::sleep(RETRY).await;
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        tasks
    }

    /// Runs `act` once for each number below `count`, some at a time, and returns the results that succeeded.
    ///
    /// Ends early when a row of attempts fails or the time is over: a server may refuse the rest by a limit.
    pub(super) async fn gather<F, T, R>(self: &Arc<Self>, count: usize, act: F) -> Vec<R>
    where
        F: Fn(Arc<Self>, usize) -> T,
        T: Future<Output = anyhow::Result<R>> + Send + 'static,
        R: Send + 'static,
    {
        self.count(|counts| counts.wanted += count as u64);
        let results = self.each(count, act).await;
        self.count(|counts| counts.prepared += results.len() as u64);
        results
    }

    /// As [`Self::gather`], without counting what was prepared.
    pub(super) async fn each<F, T, R>(self: &Arc<Self>, count: usize, act: F) -> Vec<R>
    where
        F: Fn(Arc<Self>, usize) -> T,
        T: Future<Output = anyhow::Result<R>> + Send + 'static,
        R: Send + 'static,
    {
        let (mut tasks, mut results) = (JoinSet::new(), Vec::new());
        let (mut next, mut failures, deadline) = (0, 0, Instant::now() + PREPARATION);
        loop {
            while next < count && tasks.len() < AT_ONCE && failures < FAILURES_MAX && Instant::now() < deadline {
                tasks.spawn(tokio::time::timeout(ATTEMPT, act(self.clone(), next)));
                next += 1;
            }
            match tasks.join_next().await {
                Some(Ok(Ok(Ok(result)))) => {
                    failures = 0;
                    results.push(result);
                }
                Some(Ok(Ok(Err(error)))) => {
                    failures += 1;
                    self.failed(&error);
                }
                Some(_) => {
                    failures += 1;
                    self.failed(&anyhow::anyhow!("no answer in {ATTEMPT:?}"));
                }
                None => return results,
            }
        }
    }
}

/// Writes an event to standard output.
pub(super) fn report(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        let mut out = std::io::stdout().lock();
        // The parent may have gone; standard input then says so.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// The time for the first outcome. A server that is stalled sooner is under load, too.
const FIRST_OUTCOME: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 64;
const FAILURES_MAX: usize = 128;
const RETRY: Duration = Duration::from_millis(100);
const ATTEMPT: Duration = Duration::from_secs(60);
/// The longest preparation.
pub(super) const PREPARATION: Duration = Duration::from_secs(60);
