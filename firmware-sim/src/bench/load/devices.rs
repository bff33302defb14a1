//! Devices, each with its own connection and shadow, and at most one update in flight.
//!
//! - Closed loop: a finished update is followed by the next at once.
//! - Open loop: updates are due at a fixed rate, the devices in turn ([`super::schedule`]).
//!
//! Order: connect all (a bounded number at a time), one full report of each, then the load.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use mio::Registry;
use serde::Serialize;

use super::{
    device::{Connection, Shared},
    event_loop::{
        CONNECT_DEADLINE, CONNECTING_MAX, Clients, CpuClock, DRAIN_DEADLINE, EventLoop, Measured, Phases, TURN,
        find_lost,
    },
    message::UpdateKind,
    schedule::Schedule,
    tally::{Latencies, UpdateStats},
};
use crate::bench::frame::{Login, Protocol};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The brokers, over which the devices are spread; at least one.
    pub(crate) brokers: Vec<SocketAddr>,
    /// Devices connected, each with its shadow.
    pub(crate) devices: usize,
    /// The MQTT version.
    pub(crate) protocol: Protocol,
    /// QoS of the subscriptions; updates are QoS 1 always.
    pub(crate) event_qos: u8,
    /// The kind of the updates.
    pub(crate) kind: UpdateKind,
    /// The times of the measurement, after each device's first report.
    pub(crate) phases: Phases,
    /// The login of the devices; `None`: they are anonymous.
    pub(crate) login: Option<Login<'static>>,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Load {
    /// Returns the broker of a device.
    fn broker_of(&self, number: usize) -> anyhow::Result<SocketAddr> {
        let place = number.checked_rem(self.brokers.len());
        place.and_then(|place| self.brokers.get(place).copied()).context("there is no broker")
    }
}

/// The results of a measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// Devices connected.
    pub(crate) devices: usize,
    /// Accepted updates, latency from publish to accepted, or from the time at which it was due.
    #[serde(flatten)]
    pub(crate) measured: Measured,
    /// Seconds until all devices were connected and subscribed.
    pub(crate) connect_seconds: f64,
    /// Bytes of an update as sent, MQTT included.
    pub(crate) update_bytes: usize,
}

/// The results of a reconnect storm.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Storm {
    /// Seconds until every device was connected and subscribed, and its next update was accepted.
    pub(crate) seconds: f64,
    /// Milliseconds of the single devices.
    pub(crate) latency_ms: Latencies,
    /// Connections that the server refused or reset, and that were tried again.
    pub(crate) redials: usize,
}

/// Connected devices.
pub(crate) struct Generator {
    polled: EventLoop,
    devices: Devices,
    connect_time: Duration,
}

/// The devices, without the loop that polls them.
struct Devices {
    load: Load,
    connections: Vec<Connection>,
    shared: Shared,
    /// The open loop.
    schedule: Option<Schedule>,
    /// The failed connections of a storm, in which connections may fail.
    failed: Option<Vec<usize>>,
}

impl Generator {
    /// Connects and subscribes all devices.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: Load) -> anyhow::Result<Self> {
        let mut generator = Self::new(load)?;
        let started = Instant::now();
        generator.polled.turn_until(
            &mut generator.devices,
            CONNECT_DEADLINE,
            "devices not connected",
            |all, registry| {
                all.dial_more(registry)?;
                Ok(all.load.devices - all.shared.subscribed)
            },
        )?;
        generator.connect_time = started.elapsed();
        Ok(generator)
    }

    fn new(load: Load) -> anyhow::Result<Self> {
        crate::bench::limits::raise_open_files(load.devices)?;
        let polled = EventLoop::new(&load.stop)?;
        let shared = Shared::new(load.protocol, load.event_qos, load.kind, load.login)?;
        let connections = Vec::with_capacity(load.devices);
        let devices = Devices { load, connections, shared, schedule: None, failed: None };
        Ok(Self { polled, devices, connect_time: Duration::ZERO })
    }

    /// Returns the time it took to connect all.
    pub(crate) fn connect_time(&self) -> Duration {
        self.connect_time
    }

    /// Returns the number of all updates, first reports and warm-up included.
    pub(crate) fn updates(&self) -> u64 {
        self.devices.shared.finished
    }

    /// Runs the closed loop; also returns the number of all updates, first reports and warm-up included.
    ///
    /// # Errors
    ///
    /// An update was rejected, answered wrongly, or lost.
    pub(crate) fn run(mut self) -> anyhow::Result<(Measurement, u64)> {
        self.first_reports()?;
        let measured = self.closed_loop()?;
        self.drain()?;
        Ok((self.measurement(measured), self.updates()))
    }

    /// Has each device report its whole document, and waits until all reports are accepted.
    pub(crate) fn first_reports(&mut self) -> anyhow::Result<()> {
        self.begin_all()?;
        self.drain()
    }

    /// Warms up and measures a closed loop, which goes on after it.
    pub(crate) fn closed_loop(&mut self) -> anyhow::Result<Measured> {
        self.devices.shared.updating = true;
        self.begin_all()?;
        let phases = self.devices.load.phases;
        self.polled.measure(&mut self.devices, phases)
    }

    /// Warms up and measures an open loop of `rate` updates a second. Every update that was due in the measured time
    /// counts, however late it is answered.
    pub(crate) fn open_loop(&mut self, rate: f64) -> anyhow::Result<Measured> {
        ensure!(rate > 0.0, "an open loop needs a rate");
        let Self { polled, devices, .. } = self;
        devices.schedule = Some(Schedule::new(Instant::now(), rate));
        polled.turn_for(devices, devices.load.phases.warm_up)?;
        devices.shared.tally.reset();
        devices.shared.counted_from = Instant::now();
        let clock = CpuClock::start()?;
        polled.turn_for(devices, devices.load.phases.measured)?;
        devices.schedule = None;
        self.drain()?;
        clock.measured(&self.devices.shared.tally)
    }

    /// Sends no more updates and waits for those in flight.
    pub(crate) fn drain(&mut self) -> anyhow::Result<()> {
        self.devices.shared.updating = false;
        self.polled
            .turn_until(&mut self.devices, DRAIN_DEADLINE, "updates not answered", |all, _| Ok(all.shared.in_flight))
    }

    /// Adds what is known of the devices to a measurement.
    pub(crate) fn measurement(&self, measured: Measured) -> Measurement {
        Measurement {
            devices: self.devices.load.devices,
            measured,
            connect_seconds: self.connect_time.as_secs_f64(),
            update_bytes: self.devices.shared.templates.len(),
        }
    }

    /// Connects the devices and has each update from its subscription on; ends `time` after the first CONNECT, however
    /// many are connected then. A connection that fails while it is made is tried again. Returns the accepted updates, the subscribed
    /// devices, and the further tries.
    pub(crate) fn ramp_up(load: Load, time: Duration) -> anyhow::Result<(u64, usize, usize)> {
        let mut generator = Self::new(load)?;
        let Self { polled, devices, .. } = &mut generator;
        let started = Instant::now();
        // rumqttd refuses a client without a keep-alive.
        devices.shared.keep_alive = u16::MAX;
        devices.shared.updating = true;
        devices.shared.update_when_subscribed = Some(started);
        devices.failed = Some(Vec::new());
        let (until, mut redials) = (started + time, 0);
        while Instant::now() < until {
            devices.dial_more(polled.registry())?;
            redials += devices.redial(polled.registry(), devices.shared.subscribed)?;
            polled.turn(devices)?;
        }
        Ok((devices.shared.finished, devices.shared.subscribed, redials))
    }

    /// Ends all connections and connects all devices again; each sends an update, conditional on the last
    /// version that it knows, as soon as it is subscribed. A connection that fails is tried again.
    ///
    /// # Errors
    ///
    /// An update was rejected, so another one was lost; or not all devices were served in time.
    pub(crate) fn storm(&mut self) -> anyhow::Result<Storm> {
        let Self { polled, devices, .. } = self;
        let (started, before) = (Instant::now(), devices.shared.finished);
        devices.shared.tally.reset();
        devices.shared.counted_from = started;
        devices.shared.update_when_subscribed = Some(started);
        devices.lose_all();
        let mut dialled = 0;
        let subscribed = devices.shared.subscribed;
        let wanted = before + devices.connections.len() as u64;
        polled.turn_until(devices, CONNECT_DEADLINE, "devices not served", |all, registry| {
            let again = all.shared.subscribed - subscribed;
            dialled += all.redial(registry, again)?;
            Ok((wanted - all.shared.finished) as usize)
        })?;
        let seconds = started.elapsed().as_secs_f64();
        devices.failed = None;
        devices.shared.update_when_subscribed = None;
        let redials = dialled - devices.connections.len();
        Ok(Storm { seconds, latency_ms: devices.shared.tally.latencies(), redials })
    }

    fn begin_all(&mut self) -> anyhow::Result<()> {
        let Devices { connections, shared, .. } = &mut self.devices;
        connections.iter_mut().try_for_each(|connection| connection.begin(shared))?;
        find_lost(&self.devices)
    }
}

impl Devices {
    /// Keeps a bounded number of connections opening.
    fn dial_more(&mut self, registry: &Registry) -> anyhow::Result<()> {
        while self.connections.len() < self.load.devices
            && self.connections.len() - self.shared.subscribed < CONNECTING_MAX
        {
            let number = self.connections.len();
            self.connections.push(Connection::dial(number, self.load.broker_of(number)?, registry)?);
        }
        Ok(())
    }

    /// Ends all connections.
    fn lose_all(&mut self) {
        self.connections.iter_mut().for_each(Connection::lose);
        self.failed = Some((0..self.connections.len()).rev().collect());
    }

    /// Dials lost connections, as many at a time as a server's backlog holds, and returns their number. `again` are those
    /// that are subscribed again.
    fn redial(&mut self, registry: &Registry, again: usize) -> anyhow::Result<usize> {
        let (devices, mut dialled) = (self.connections.len(), 0);
        let Some(failed) = &mut self.failed else { return Ok(0) };
        while devices - again - failed.len() < BACKLOG {
            let Some(number) = failed.pop() else { break };
            if let Some(connection) = self.connections.get_mut(number) {
                connection.redial(number, self.load.broker_of(number)?, registry)?;
                dialled += 1;
            }
        }
        Ok(dialled)
    }

    /// Keeps the number of a connection that failed while it connected, in a storm; otherwise returns the error.
    fn or_redial(&mut self, number: usize, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        let connection = self.connections.get_mut(number).filter(|connection| connection.connecting());
        match (&mut self.failed, connection, outcome) {
            (Some(failed), Some(connection), Err(_)) => {
                connection.lose();
                failed.insert(0, number);
                Ok(())
            }
            (_, _, outcome) => outcome,
        }
    }
}

impl Clients for Devices {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(token).filter(|one| !one.lost()) else { return Ok(()) };
        let written = connection.writable(&mut self.shared);
        self.or_redial(token, written)
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(token).filter(|one| !one.lost()) else { return Ok(()) };
        let read = connection.readable(buffer, &mut self.shared);
        self.or_redial(token, read)
    }

    fn send_due(&mut self) -> anyhow::Result<Duration> {
        let Some(schedule) = &mut self.schedule else { return Ok(TURN) };
        let (now, devices) = (Instant::now(), self.connections.len() as u64);
        while let Some((number, due)) = schedule.take_due(now) {
            if let Some(connection) = self.connections.get_mut((number % devices) as usize) {
                connection.update_due(&mut self.shared, due)?;
            }
        }
        Ok(schedule.next_due().saturating_duration_since(now))
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.shared.tally
    }

    fn waiting_longer_than(&self, limit: Duration) -> usize {
        let waits = |connection: &&Connection| connection.waiting_since().is_some_and(|at| at.elapsed() > limit);
        self.connections.iter().filter(waits).count()
    }
}

/// Connections that a storm opens at a time; Linux caps the backlog of a listener at 4,096.
const BACKLOG: usize = 4_000;
