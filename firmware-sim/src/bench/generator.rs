//! The closed loop: all devices on one thread and one epoll, each with exactly one update in flight.
//!
//! It shares the machine with the measured server, so its own cost is part of the result: no task per connection, no
//! allocation per update, one read and one write per answer.
//!
//! Order: connect all (a bounded number at a time), one full report of each, warm up, measure, then wait for the updates
//! in flight. An update that is rejected, answered wrongly or not answered fails the measurement.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::{Events, Poll};
use serde::Serialize;

use super::{
    connection::{Connection, Shared},
    frame::{Login, Protocol},
    message::UpdateKind,
    process::cpu_time,
    tally::Latencies,
};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The broker.
    pub(crate) broker: SocketAddr,
    /// Devices connected, each with its shadow.
    pub(crate) devices: usize,
    /// The MQTT version.
    pub(crate) protocol: Protocol,
    /// QoS of the subscriptions; updates are QoS 1 always.
    pub(crate) event_qos: u8,
    /// The kind of the updates.
    pub(crate) kind: UpdateKind,
    /// Time before the measurement, after each device's first report.
    pub(crate) warm_up: Duration,
    /// Duration of the measurement.
    pub(crate) measured: Duration,
    /// The login of the devices; `None`: they are anonymous.
    pub(crate) login: Option<Login<'static>>,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

/// The results of a measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// Devices connected.
    pub(crate) devices: usize,
    /// Accepted updates a second.
    pub(crate) updates_per_second: f64,
    /// Milliseconds from publish to accepted.
    pub(crate) latency_ms: Latencies,
    /// Seconds until all devices were connected and subscribed.
    pub(crate) connect_seconds: f64,
    /// Bytes of an update as sent, MQTT included.
    pub(crate) update_bytes: usize,
    /// Mean bytes of the payload of `accepted`.
    pub(crate) accepted_bytes: usize,
    /// Microseconds of CPU of this process per update.
    pub(crate) generator_cpu_us: f64,
}

/// Connected devices.
pub(crate) struct Generator {
    load: Load,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    shared: Shared,
    buffer: Vec<u8>,
    connect_time: Duration,
}

impl Generator {
    /// Connects and subscribes all devices.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: Load) -> anyhow::Result<Self> {
        super::limits::raise_open_files(load.devices)?;
        let mut generator = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: Vec::with_capacity(load.devices),
            shared: Shared::new(load.protocol, load.event_qos, load.kind, load.login)?,
            buffer: vec![0; BUFFER_BYTES],
            connect_time: Duration::ZERO,
            load,
        };
        let started = Instant::now();
        let deadline = started + CONNECT_DEADLINE;
        while generator.shared.subscribed < generator.load.devices {
            generator.dial_more()?;
            generator.turn()?;
            let (ready, all) = (generator.shared.subscribed, generator.load.devices);
            ensure!(Instant::now() < deadline, "{ready} of {all} devices connected in {CONNECT_DEADLINE:?}");
        }
        generator.connect_time = started.elapsed();
        Ok(generator)
    }

    /// Returns the time it took to connect all.
    pub(crate) fn connect_time(&self) -> Duration {
        self.connect_time
    }

    /// Runs the measurement; also returns the number of all updates, first reports and warm-up included.
    ///
    /// # Errors
    ///
    /// An update was rejected, answered wrongly, or lost.
    pub(crate) fn run(mut self) -> anyhow::Result<(Measurement, u64)> {
        self.first_reports()?;
        self.turn_for(self.load.warm_up)?;
        self.shared.tally.reset();
        let (started, cpu) = (Instant::now(), cpu_time(std::process::id())?);
        self.turn_for(self.load.measured)?;
        let (elapsed, cpu) = (started.elapsed(), cpu_time(std::process::id())? - cpu);
        let tally = &self.shared.tally;
        let updates = tally.updates().max(1) as f64;
        let measured = Measurement {
            devices: self.load.devices,
            updates_per_second: tally.updates() as f64 / elapsed.as_secs_f64(),
            latency_ms: tally.latencies(),
            connect_seconds: self.connect_time.as_secs_f64(),
            update_bytes: self.shared.templates.len(),
            accepted_bytes: tally.accepted_bytes(),
            generator_cpu_us: cpu.as_secs_f64() * 1e6 / updates,
        };
        self.drain()?;
        let updates = self.connections.iter().map(Connection::updates).sum();
        Ok((measured, updates))
    }

    /// Keeps a bounded number of connections opening: enough to never wait, too few to overflow the server's backlog.
    fn dial_more(&mut self) -> anyhow::Result<()> {
        while self.connections.len() < self.load.devices
            && self.connections.len() - self.shared.subscribed < CONNECTING_MAX
        {
            let number = self.connections.len();
            self.connections.push(Connection::dial(number, self.load.broker, self.poll.registry())?);
        }
        Ok(())
    }

    fn first_reports(&mut self) -> anyhow::Result<()> {
        self.shared.updating = true;
        for connection in &mut self.connections {
            connection.begin(&mut self.shared)?;
        }
        let deadline = Instant::now() + FIRST_REPORTS_DEADLINE;
        while self.shared.reported < self.load.devices {
            self.turn()?;
            let (done, all) = (self.shared.reported, self.load.devices);
            ensure!(Instant::now() < deadline, "{done} of {all} first updates accepted in {FIRST_REPORTS_DEADLINE:?}");
        }
        Ok(())
    }

    fn turn_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        self.find_lost()
    }

    /// Sends no more updates and waits for those in flight.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.shared.updating = false;
        while self.shared.in_flight > 0 {
            self.turn()?;
            self.find_lost()?;
        }
        Ok(())
    }

    /// Fails if an update has waited too long.
    fn find_lost(&self) -> anyhow::Result<()> {
        let lost = |connection: &&Connection| connection.waiting_since().is_some_and(|at| at.elapsed() > LOST_AFTER);
        let lost = self.connections.iter().filter(lost).count();
        ensure!(lost == 0, "{lost} of {} updates in flight got no answer in {LOST_AFTER:?}", self.shared.in_flight);
        Ok(())
    }

    /// Waits for ready sockets and handles them.
    fn turn(&mut self) -> anyhow::Result<()> {
        if self.load.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        match self.poll.poll(&mut self.events, Some(TURN)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error).context("epoll"),
            _ => {}
        }
        for event in &self.events {
            let Some(connection) = self.connections.get_mut(event.token().0) else { continue };
            if event.is_writable() {
                connection.writable(&mut self.shared)?;
            }
            if event.is_readable() {
                connection.readable(&mut self.buffer, &mut self.shared)?;
            }
        }
        Ok(())
    }
}

const BUFFER_BYTES: usize = 64 * 1024;
const CONNECTING_MAX: usize = 256;
const CONNECT_DEADLINE: Duration = Duration::from_secs(120);
const FIRST_REPORTS_DEADLINE: Duration = Duration::from_secs(60);
const LOST_AFTER: Duration = Duration::from_secs(10);
const TURN: Duration = Duration::from_millis(100);
