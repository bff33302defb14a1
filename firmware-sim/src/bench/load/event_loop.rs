//! The loop that polls all sockets of a load.
//!
//! It shares the machine with the measured server, so its own cost is part of the result: no task per connection, no
//! allocation per request, one read and one write per answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::{Events, Poll, Registry};
use serde::Serialize;

use super::tally::{Latencies, UpdateStats};
use crate::bench::process::cpu_time;

/// A set of connected clients. A token names one of their sockets.
pub(crate) trait Clients {
    /// Handles a writable socket.
    fn writable(&mut self, token: usize) -> anyhow::Result<()>;

    /// Handles a readable socket, reading through `buffer`.
    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()>;

    /// Sends the requests of an open loop that are due, and returns the longest time until the next one.
    fn send_due(&mut self) -> anyhow::Result<Duration> {
        Ok(TURN)
    }

    /// Returns the counts of the measurement.
    fn stats(&mut self) -> &mut UpdateStats;

    /// Returns the number of requests that have waited longer than `limit`.
    fn waiting_longer_than(&self, limit: Duration) -> usize;
}

/// The time that all measurements have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    /// Time of load before the measurement.
    pub(crate) warm_up: Duration,
    /// Duration of the measurement.
    pub(crate) measured: Duration,
}

/// The numbers of every measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    /// Finished requests.
    pub(crate) requests: u64,
    /// Finished requests a second.
    pub(crate) per_second: f64,
    /// Milliseconds of a request.
    pub(crate) latency_ms: Latencies,
    /// Mean bytes of the payload of an answer.
    pub(crate) answer_bytes: usize,
    /// Microseconds of CPU of this process per request.
    pub(crate) generator_cpu_us: f64,
}

/// A poll of all sockets.
pub(crate) struct EventLoop {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    stop: Arc<AtomicBool>,
}

impl EventLoop {
    /// Returns a loop without sockets, which fails once `stop` is set.
    pub(crate) fn new(stop: &Arc<AtomicBool>) -> anyhow::Result<Self> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
        Ok(Self { poll, events, buffer: vec![0; BUFFER_BYTES], stop: stop.clone() })
    }

    /// Returns the registry of its sockets.
    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits for ready sockets and handles them.
    pub(crate) fn turn(&mut self, clients: &mut impl Clients) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let wait = clients.send_due()?;
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error).context("epoll"),
            _ => {}
        }
        for event in &self.events {
            let token = event.token().0;
            if event.is_writable() {
                clients.writable(token)?;
            }
            if event.is_readable() {
                clients.readable(token, &mut self.buffer)?;
            }
        }
        Ok(())
    }

    /// Turns for `time`.
    pub(crate) fn turn_for(&mut self, clients: &mut impl Clients, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(clients)?;
        }
        find_lost(clients)
    }

    /// Turns until `left` returns 0. `left` may also open further sockets.
    ///
    /// # Errors
    ///
    /// It takes longer than `limit`; the text names `what` is left.
    pub(crate) fn turn_until<C: Clients>(
        &mut self,
        clients: &mut C,
        limit: Duration,
        what: &str,
        mut left: impl FnMut(&mut C, &Registry) -> anyhow::Result<usize>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = left(clients, self.poll.registry())?;
            if left == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{left} {what} after {limit:?}");
            self.turn(clients)?;
        }
    }

    /// Warms up and measures; the load goes on after it.
    pub(crate) fn measure(&mut self, clients: &mut impl Clients, phases: Phases) -> anyhow::Result<Measured> {
        self.turn_for(clients, phases.warm_up)?;
        clients.stats().reset();
        let clock = CpuClock::start()?;
        self.turn_for(clients, phases.measured)?;
        clock.measured(clients.stats())
    }
}

/// The start of a measurement.
pub(crate) struct CpuClock {
    started: Instant,
    cpu: Duration,
}

impl CpuClock {
    /// Starts now.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self { started: Instant::now(), cpu: cpu_time(std::process::id())? })
    }

    /// Returns the numbers from the start until now.
    pub(crate) fn measured(&self, stats: &UpdateStats) -> anyhow::Result<Measured> {
        let (elapsed, cpu) = (self.started.elapsed(), cpu_time(std::process::id())? - self.cpu);
        let requests = stats.updates();
        Ok(Measured {
            requests,
            per_second: requests as f64 / elapsed.as_secs_f64(),
            latency_ms: stats.latencies(),
            answer_bytes: stats.accepted_bytes(),
            generator_cpu_us: cpu.as_secs_f64() * 1e6 / requests.max(1) as f64,
        })
    }
}

/// Fails if a request has waited too long.
pub(crate) fn find_lost(clients: &impl Clients) -> anyhow::Result<()> {
    let lost = clients.waiting_longer_than(LOST_AFTER);
    ensure!(lost == 0, "{lost} requests got no answer in {LOST_AFTER:?}");
    Ok(())
}

const BUFFER_BYTES: usize = 64 * 1024;
/// The longest time of one poll.
pub(crate) const TURN: Duration = Duration::from_millis(100);
/// The time after which a request counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// The time in which all clients must have connected.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(240);
/// The time in which the requests in flight must be answered.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_secs(60);
/// Connections that open at a time: enough to never wait, too few to overflow the server's backlog.
pub(crate) const CONNECTING_MAX: usize = 256;
