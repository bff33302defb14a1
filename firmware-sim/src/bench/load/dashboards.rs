//! Dashboards: subscribers of the accepted updates of all devices.
//!
//! Each device has one update in flight. It is done when every dashboard has received it, and followed by the next at
//! once; so nothing queues beyond the devices' updates, and no dashboard may miss one. Updates have no precondition.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::{
    event_loop::{CONNECT_DEADLINE, Clients, DRAIN_DEADLINE, EventLoop, Measured, Phases},
    message::{self, ID_BYTES, Templates, UpdateKind, device_id_bytes},
    socket::{Mqtt, Socket},
    tally::UpdateStats,
};
use crate::bench::frame::{self, Frame, Message, Protocol};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct DashboardLoad {
    /// The broker.
    pub(crate) broker: SocketAddr,
    /// Subscribers of all updates.
    pub(crate) dashboards: usize,
    /// Devices with an update in flight, on one connection.
    pub(crate) devices: usize,
    /// The times of the measurement.
    pub(crate) phases: Phases,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Greeting,
    Subscribing,
    Ready,
}

/// The update in flight of one device.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    /// Updates sent.
    count: u64,
    /// The version in the last event.
    version: u64,
    /// Dashboards that have received it.
    received: usize,
    acknowledged: bool,
    since: Instant,
}

/// Connected dashboards and their device connection, which is the first of the sockets.
pub(crate) struct Dashboards {
    polled: EventLoop,
    all: All,
}

struct All {
    load: DashboardLoad,
    sockets: Vec<(Socket, Stage)>,
    state: State,
}

struct State {
    dashboards: usize,
    devices: Vec<InFlight>,
    templates: Templates,
    updating: bool,
    ready: usize,
    in_flight: usize,
    /// Deliveries; the latency is that of the last dashboard of an update.
    deliveries: u64,
    tally: UpdateStats,
    /// The packets of the device connection.
    out: Vec<u8>,
}

impl Dashboards {
    /// Connects and subscribes all.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: DashboardLoad) -> anyhow::Result<Self> {
        let mut polled = EventLoop::new(&load.stop)?;
        let idle = InFlight { count: 0, version: 0, received: 0, acknowledged: false, since: Instant::now() };
        let state = State {
            dashboards: load.dashboards,
            devices: vec![idle; load.devices],
            templates: Templates::new(Protocol::V311, UpdateKind::Unconditional)?,
            updating: false,
            ready: 0,
            in_flight: 0,
            deliveries: 0,
            tally: UpdateStats::new(),
            out: Vec::new(),
        };
        let dial = |token| Ok((Socket::dial(token, load.broker, polled.registry())?, Stage::Dialling));
        let sockets = (0..=load.dashboards).map(dial).collect::<anyhow::Result<Vec<_>>>()?;
        let mut all = All { load, sockets, state };
        polled.turn_until(&mut all, CONNECT_DEADLINE, "dashboards not connected", |all, _| {
            Ok(all.sockets.len() - all.state.ready)
        })?;
        Ok(Self { polled, all })
    }

    /// Warms up, measures, and waits for the updates in flight. Returns deliveries a second, and the updates.
    ///
    /// # Errors
    ///
    /// A dashboard missed an update, or received one twice.
    pub(crate) fn run(mut self) -> anyhow::Result<(f64, Measured)> {
        let Self { polled, all } = &mut self;
        all.state.updating = true;
        (0..all.state.devices.len()).for_each(|device| all.state.send(device));
        all.flush_devices()?;
        polled.turn_for(all, all.load.phases.warm_up)?;
        all.state.deliveries = 0;
        let started = Instant::now();
        let measured = polled.measure(all, Phases { warm_up: Duration::ZERO, ..all.load.phases })?;
        let deliveries = all.state.deliveries as f64 / started.elapsed().as_secs_f64();
        all.state.updating = false;
        polled.turn_until(all, DRAIN_DEADLINE, "updates not delivered to all dashboards", |all, _| {
            Ok(all.state.in_flight)
        })?;
        Ok((deliveries, measured))
    }
}

impl All {
    fn flush_devices(&mut self) -> anyhow::Result<()> {
        let Some((devices, _)) = self.sockets.first_mut() else { return Ok(()) };
        if !self.state.out.is_empty() {
            devices.send(&self.state.out)?;
            self.state.out.clear();
        }
        Ok(())
    }
}

impl Clients for All {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        let Some((socket, stage)) = self.sockets.get_mut(token) else { return Ok(()) };
        if *stage != Stage::Dialling {
            return socket.flush();
        }
        socket.dialled()?;
        *stage = Stage::Greeting;
        let mut out = Vec::new();
        frame::write_connect(&mut out, Protocol::V311, &format!("dashboard-{token}"), None);
        socket.send(&out)
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let (mut out, state) = (Vec::new(), &mut self.state);
        let Some((socket, stage)) = self.sockets.get_mut(token) else { return Ok(()) };
        let read = socket.read::<Mqtt>(buffer, |frame| state.take(token, frame, stage, &mut out));
        read.with_context(|| format!("dashboard {token}"))?;
        if !out.is_empty() {
            socket.send(&out)?;
        }
        self.flush_devices()
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.state.tally
    }

    fn waiting_longer_than(&self, limit: Duration) -> usize {
        let devices = self.state.devices.iter();
        devices.filter(|device| self.state.updating && device.since.elapsed() > limit).count()
    }
}

impl State {
    fn take(&mut self, token: usize, frame: Frame<'_>, stage: &mut Stage, out: &mut Vec<u8>) -> anyhow::Result<()> {
        match (frame.kind, *stage) {
            (frame::PUBLISH, Stage::Ready) => return self.delivered(&Message::parse(frame, Protocol::V311)?),
            (frame::PUBACK, Stage::Ready) => {
                let device = usize::from(frame::puback(frame.body)?) - 1;
                self.devices.get_mut(device).context("a PUBACK without an update")?.acknowledged = true;
                self.finish(device);
            }
            (frame::CONNACK, Stage::Greeting) => {
                frame::connack(frame.body)?;
                // The device connection subscribes to nothing.
                *stage = if token == 0 { Stage::Ready } else { Stage::Subscribing };
                self.ready += usize::from(token == 0);
                if token > 0 {
                    frame::write_subscribe(out, Protocol::V311, &["shadow/+/update/accepted"], 0);
                }
            }
            (frame::SUBACK, Stage::Subscribing) => {
                frame::suback(frame.body, 1, Protocol::V311)?;
                *stage = Stage::Ready;
                self.ready += 1;
            }
            (kind, stage) => bail!("packet type {kind} while {stage:?}"),
        }
        Ok(())
    }

    fn delivered(&mut self, event: &Message<'_>) -> anyhow::Result<()> {
        let id = event.topic.strip_prefix(b"shadow/").and_then(|rest| rest.get(..ID_BYTES));
        let number = id.and_then(|id| str::from_utf8(id).ok()?.strip_prefix("bench-")?.parse::<usize>().ok());
        let device = number.context("an event of an unknown device")?;
        let state = self.devices.get_mut(device).context("an event of an unknown device")?;
        let version = message::quick_version(event.payload).context("accepted without a version")?;
        // The first dashboard that receives an update says its version.
        if state.received == 0 {
            ensure!(state.version == 0 || version == state.version + 1, "version {version} after {}", state.version);
            state.version = version;
        }
        ensure!(version == state.version, "version {version} in the place of {}", state.version);
        state.received += 1;
        self.deliveries += 1;
        self.finish(device);
        Ok(())
    }

    fn finish(&mut self, device: usize) {
        let Some(state) = self.devices.get(device).filter(|state| state.acknowledged) else { return };
        if state.received == self.dashboards {
            self.tally.accepted(state.since.elapsed(), 0);
            self.in_flight -= 1;
            if self.updating {
                self.send(device);
            }
        }
    }

    fn send(&mut self, device: usize) {
        let Some(state) = self.devices.get_mut(device) else { return };
        state.count += 1;
        (state.received, state.acknowledged, state.since) = (0, false, Instant::now());
        let packet_id = device as u16 + 1;
        self.templates.write(&mut self.out, &device_id_bytes(device), packet_id, state.count, 0);
        self.in_flight += 1;
    }
}
