//! The other clients: devices whose latency is measured, and writers whose throughput is.
//!
//! A victim updates on a fixed schedule, and its latency counts from the time that the schedule says: an update that waits
//! for the server, for the connection, or behind another one is as late as its device sees it. Each has threads of its
//! own, apart from the attacker, which is another process.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::packet::{self, Connect, Credentials, Publish};
use crate::bench::frame::{self, split};

/// An update of a victim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// The scheduled time.
    pub(super) at: Instant,
    /// The time from then to the PUBACK, or to the end of the measurement.
    pub(super) took: Duration,
}

/// The measurements of all victims and writers.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// The updates of the victims.
    pub(super) samples: Vec<Sample>,
    /// The times at which updates of the writers were acknowledged.
    pub(super) written: Vec<Instant>,
    /// Updates refused.
    pub(super) refused: u64,
    /// Connections that ended.
    pub(super) reconnects: u64,
    /// The longest that a thread of a victim was late by itself.
    pub(super) late: Duration,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    refused: AtomicU64,
    reconnects: AtomicU64,
    ready: AtomicU64,
    late_us: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    written: Mutex<Vec<Instant>>,
}

/// Running victims and writers.
pub(super) struct Victims {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Victims {
    /// Starts victims with the first of the credentials, and writers with the others in turn. Returns once all have
    /// connected. With fewer credentials there are fewer of both, as the server limits the sessions of each.
    ///
    /// # Errors
    ///
    /// One of them cannot connect.
    pub(super) fn start(
        server: SocketAddr,
        credentials: &[Credentials],
        victims: usize,
        writers: usize,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut running = Self { shared: shared.clone(), threads: Vec::new() };
        let share = (credentials.len() * victims / (victims + writers).max(1)).clamp(1, credentials.len().max(1));
        let (first, others) = credentials.split_at_checked(share).unwrap_or((credentials, &[]));
        let others = if others.is_empty() { first } else { others };
        let writers = writers.min(others.len() * WRITERS_EACH);
        for (number, login) in first.iter().enumerate() {
            let victim = Arc::new(Victim {
                server,
                login: login.clone(),
                connect: format!("victim-{number}"),
                state: Mutex::default(),
                shared: shared.clone(),
            });
            let sender = victim.clone();
            // The schedules of the victims do not coincide.
            let offset = VICTIM_PERIOD.mul_f64(number as f64 / first.len().max(1) as f64);
            running.spawn(move || victim.receive())?;
            running.spawn(move || sender.send(offset))?;
        }
        for (number, login) in others.iter().cycle().take(writers).enumerate() {
            let (login, shared) = (login.clone(), shared.clone());
            running.spawn(move || write(server, &login, number, &shared))?;
        }
        let deadline = Instant::now() + CONNECT_DEADLINE;
        while shared.ready.load(Ordering::Relaxed) < (first.len() + writers) as u64 {
            ensure!(Instant::now() < deadline, "the victims could not connect to {server} in {CONNECT_DEADLINE:?}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    fn spawn(&mut self, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        self.threads.push(thread::Builder::new().name("victim".to_owned()).stack_size(256 * 1024).spawn(run)?);
        Ok(())
    }

    /// Ends them and returns their measurements.
    pub(super) fn finish(mut self) -> Observed {
        self.end();
        let shared = &self.shared;
        Observed {
            samples: std::mem::take(&mut lock(&shared.samples)),
            written: std::mem::take(&mut lock(&shared.written)),
            refused: shared.refused.load(Ordering::Relaxed),
            reconnects: shared.reconnects.load(Ordering::Relaxed),
            late: Duration::from_micros(shared.late_us.load(Ordering::Relaxed)),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        self.end();
    }
}

/// A device that updates its shadow.
struct Victim {
    server: SocketAddr,
    login: Credentials,
    connect: String,
    state: Mutex<Updates>,
    shared: Arc<Shared>,
}

/// The updates of a victim that are not acknowledged.
#[derive(Default)]
struct Updates {
    stream: Option<TcpStream>,
    /// The scheduled times of those that are not sent.
    due: VecDeque<Instant>,
    /// The scheduled times of those that are sent.
    sent: VecDeque<Instant>,
    count: u64,
}

impl Victim {
    fn send(&self, offset: Duration) {
        let mut next = Instant::now() + offset;
        while !self.shared.stop.load(Ordering::Relaxed) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let late = next.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
            self.shared.late_us.fetch_max(late, Ordering::Relaxed);
            let mut updates = lock(&self.state);
            updates.due.push_back(next);
            self.flush(&mut updates);
            next += VICTIM_PERIOD;
        }
        let updates = lock(&self.state);
        let mut samples = lock(&self.shared.samples);
        samples.extend(updates.due.iter().chain(&updates.sent).map(|at| Sample { at: *at, took: at.elapsed() }));
        if let Some(stream) = &updates.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends what is due, as far as the server's receive maximum allows.
    fn flush(&self, updates: &mut Updates) {
        let Updates { stream: Some(stream), due, sent, count } = updates else { return };
        while sent.len() < IN_FLIGHT {
            let Some(at) = due.pop_front() else { return };
            *count += 1;
            sent.push_back(at);
            if stream.write_all(&update(&format!("shadow/{}/update", self.login.name), *count)).is_err() {
                // The receiver sees the end of the connection.
                return;
            }
        }
    }

    fn receive(&self) {
        let mut first = true;
        while !self.shared.stop.load(Ordering::Relaxed) {
            match Link::open(self.server, &self.login, &self.connect) {
                Ok(link) => {
                    self.shared.ready.fetch_add(u64::from(first), Ordering::Relaxed);
                    first = false;
                    let _ = self.receive_from(link);
                }
                Err(_) => thread::sleep(RECONNECT),
            }
            if !self.shared.stop.load(Ordering::Relaxed) {
                self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn receive_from(&self, mut link: Link) -> anyhow::Result<()> {
        let mut updates = lock(&self.state);
        updates.stream = Some(link.stream.try_clone()?);
        self.flush(&mut updates);
        drop(updates);
        let outcome = loop {
            match link.puback() {
                Ok(Some(reason)) => {
                    let mut updates = lock(&self.state);
                    if let Some(at) = updates.sent.pop_front() {
                        lock(&self.shared.samples).push(Sample { at, took: at.elapsed() });
                    }
                    self.shared.refused.fetch_add(u64::from(reason >= 0x80), Ordering::Relaxed);
                    self.flush(&mut updates);
                }
                Ok(None) if !self.shared.stop.load(Ordering::Relaxed) => {}
                Ok(None) => return Ok(()),
                Err(error) => break Err(error),
            }
        };
        // Sent updates are due again, with their time.
        let mut updates = lock(&self.state);
        updates.stream = None;
        while let Some(at) = updates.sent.pop_back() {
            updates.due.push_front(at);
        }
        outcome
    }
}

/// Updates in a loop, one at a time, at most [`WRITER_RATE`] a second.
fn write(server: SocketAddr, login: &Credentials, number: usize, shared: &Shared) {
    let (mut count, mut first) = (0, true);
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(mut link) = Link::open(server, login, &format!("writer-{number}")) else {
            thread::sleep(RECONNECT);
            continue;
        };
        shared.ready.fetch_add(u64::from(first), Ordering::Relaxed);
        first = false;
        let period = Duration::from_secs_f64(1.0 / WRITER_RATE);
        let mut next = Instant::now() + period.mul_f64(number as f64 / 10.0);
        while !shared.stop.load(Ordering::Relaxed) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            // Late updates are not made up for: that is the loss of throughput.
            next = Instant::now().max(next + period);
            count += 1;
            // Names in turn, each below the rate of a shadow.
            let topic = format!("shadow/{}/name/w{}-{}/update", login.name, number, count % 4);
            if link.stream.write_all(&update(&topic, count)).is_err() {
                break;
            }
            match wait_for(&mut link, shared) {
                Some(reason) => {
                    lock(&shared.written).push(Instant::now());
                    shared.refused.fetch_add(u64::from(reason >= 0x80), Ordering::Relaxed);
                }
                None => break,
            }
        }
        if !shared.stop.load(Ordering::Relaxed) {
            shared.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn wait_for(link: &mut Link, shared: &Shared) -> Option<u8> {
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(reason) = link.puback().ok()? {
            return Some(reason);
        }
    }
    None
}

/// A connection that only updates.
struct Link {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Link {
    fn open(server: SocketAddr, login: &Credentials, client_id: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, CONNECT_DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TURN))?;
        let mut link = Self { stream, received: Vec::new() };
        link.stream.write_all(&packet::connect(login, &Connect { client_id, ..Connect::default() }))?;
        let deadline = Instant::now() + CONNECT_DEADLINE;
        while Instant::now() < deadline {
            if let Some((kind, reason)) = link.packet(1)? {
                ensure!(
                    kind == frame::CONNACK && reason == 0,
                    "the CONNECT of {} was refused: {reason:#04x}",
                    login.name
                );
                return Ok(link);
            }
        }
        bail!("no CONNACK")
    }

    /// Returns the reason of the next PUBACK; `None` if none came in a while.
    fn puback(&mut self) -> anyhow::Result<Option<u8>> {
        let packet = self.packet(2)?;
        ensure!(packet.is_none_or(|(kind, _)| kind == frame::PUBACK), "the server ended the connection");
        Ok(packet.map(|(_, reason)| reason))
    }

    /// Returns the next packet's type and the byte at a place in it, 0 if it is not so long.
    fn packet(&mut self, place: usize) -> anyhow::Result<Option<(u8, u8)>> {
        if let Some((found, rest)) = split(&self.received)? {
            let packet = (found.kind, found.body.get(place).copied().unwrap_or_default());
            let used = self.received.len() - rest.len();
            self.received.drain(..used);
            return Ok(Some(packet));
        }
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => self.received.extend(buffer.get(..count).context("bytes read")?),
            Err(error) if [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind()) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        self.packet(place)
    }
}

fn update(topic: &str, count: u64) -> Vec<u8> {
    let payload = format!(r#"{{"state":{{"reported":{{"temperature":{},"uptime":{count}}}}}}}"#, count % 40);
    let id = u16::try_from(count % 60_000 + 1).unwrap_or(1);
    packet::publish(&Publish { topic, payload: payload.as_bytes(), qos: 1, id, ..Publish::default() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time between two updates of a victim: half of the rate that a shadow may have.
const VICTIM_PERIOD: Duration = Duration::from_millis(100);
/// Updates a second of a writer, at most.
const WRITER_RATE: f64 = 30.0;
/// Writers with the same credential, within the sessions that a device may have.
const WRITERS_EACH: usize = 3;
/// Updates in flight of a victim, within the server's receive maximum.
const IN_FLIGHT: usize = 60;
const RECONNECT: Duration = Duration::from_millis(200);
const TURN: Duration = Duration::from_millis(250);
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
