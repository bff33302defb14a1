//! Connections that act for many devices, with several requests in flight each, over MQTT 5.
//!
//! A reply comes to the Response Topic of its request, which names its slot among those in flight; a request is done when
//! both its reply and its PUBACK have arrived. Shadow `s` belongs to connection `s % connections`, so every update
//! expects the version that its connection knows, and none conflicts; only in contention all connections write to one
//! shadow, and a rejected update is repeated under the version that the rejection names.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::Registry;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::Deserialize;

use super::{
    event_loop::{CONNECT_DEADLINE, Clients, CpuClock, DRAIN_DEADLINE, EventLoop, Measured, Phases},
    message::{self, ReplyTo, Templates, UpdateKind},
    socket::{Mqtt, Socket},
    tally::UpdateStats,
};
use crate::bench::frame::{self, Frame, Message, Protocol};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct GatewayLoad {
    /// The broker.
    pub(crate) broker: SocketAddr,
    /// Connections.
    pub(crate) connections: usize,
    /// Requests in flight of each, at most 100.
    pub(crate) in_flight: usize,
    /// Shadows of all connections; at least as many as requests in flight, or one in contention.
    pub(crate) shadows: usize,
    /// The share of gets among the requests, 0 to 1.
    pub(crate) reads: f64,
    /// True if all connections write to shadow 0.
    pub(crate) contended: bool,
    /// The times of the measurement.
    pub(crate) phases: Phases,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

/// The choice of the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// No further request.
    Nothing,
    /// The first update of each shadow, once.
    Fill,
    /// A uniformly random shadow of the connection; in contention the one shadow.
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Greeting,
    Subscribing,
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Update,
    Get,
}

/// A place for a request in flight.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// `None`: free.
    request: Option<Request>,
    shadow: usize,
    replied: bool,
    acknowledged: bool,
    rejected: bool,
    /// The time at which the request was sent, for the first time.
    since: Instant,
}

/// One connection.
struct Gateway {
    socket: Socket,
    state: State,
}

/// The state of one connection.
struct State {
    number: usize,
    stage: Stage,
    slots: Vec<Slot>,
    /// The next of its shadows to fill.
    to_fill: usize,
}

/// The state shared by all connections.
struct Shared {
    connections: usize,
    shadows: usize,
    reads: f64,
    contended: bool,
    choice: Choice,
    templates: Templates,
    /// The known version of each shadow; in contention the one that each connection knows.
    versions: Vec<u32>,
    tally: UpdateStats,
    rejected: u64,
    ready: usize,
    in_flight: usize,
    random: SmallRng,
    out: Vec<u8>,
}

/// Connected gateways.
pub(crate) struct Gateways {
    polled: EventLoop,
    all: All,
    load: GatewayLoad,
}

/// The connections, without the loop that polls them.
struct All {
    gateways: Vec<Gateway>,
    shared: Shared,
}

/// The results of a load with contention.
#[derive(Debug, Clone)]
pub(crate) struct Contention {
    /// Accepted updates; latency from the first attempt.
    pub(crate) measured: Measured,
    /// Attempts per accepted update.
    pub(crate) attempts: f64,
}

impl Gateways {
    /// Connects and subscribes all.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: GatewayLoad) -> anyhow::Result<Self> {
        ensure!((1..=100).contains(&load.in_flight), "1 to 100 requests in flight, not {}", load.in_flight);
        crate::bench::limits::raise_open_files(load.connections)?;
        let mut polled = EventLoop::new(&load.stop)?;
        let shared = Shared {
            connections: load.connections,
            shadows: load.shadows,
            reads: load.reads,
            contended: load.contended,
            choice: Choice::Nothing,
            templates: Templates::with_reply(UpdateKind::Conditional)?,
            versions: vec![0; if load.contended { load.connections } else { load.shadows }],
            tally: UpdateStats::new(),
            rejected: 0,
            ready: 0,
            in_flight: 0,
            random: SmallRng::seed_from_u64(1),
            out: Vec::new(),
        };
        let dial = |number| Gateway::dial(number, &load, polled.registry());
        let gateways = (0..load.connections).map(dial).collect::<anyhow::Result<Vec<_>>>()?;
        let mut all = All { gateways, shared };
        polled.turn_until(&mut all, CONNECT_DEADLINE, "gateways not connected", |all, _| {
            Ok(all.gateways.len() - all.shared.ready)
        })?;
        Ok(Self { polled, all, load })
    }

    /// Creates all shadows, and returns the rate.
    pub(crate) fn fill(&mut self) -> anyhow::Result<Measured> {
        let Self { polled, all, .. } = self;
        all.shared.tally.reset();
        let clock = CpuClock::start()?;
        all.begin(Choice::Fill)?;
        polled.turn_until(all, FILL_DEADLINE, "requests in flight while filling", |all, _| Ok(all.shared.in_flight))?;
        let created = all.shared.versions.iter().take(all.shared.shadows).filter(|version| **version > 0).count();
        ensure!(created == all.shared.shadows, "{created} of {} shadows were created", all.shared.shadows);
        clock.measured(&all.shared.tally)
    }

    /// Begins requests for random shadows, which go on, and warms up.
    pub(crate) fn warm_up(&mut self) -> anyhow::Result<()> {
        self.all.begin(Choice::Random)?;
        self.polled.turn_for(&mut self.all, self.load.phases.warm_up)
    }

    /// Warms up until at least `requests` have finished, and returns their number.
    pub(crate) fn warm_up_for(&mut self, requests: u64) -> anyhow::Result<u64> {
        self.all.shared.tally.reset();
        self.warm_up()?;
        let Self { polled, all, .. } = self;
        polled.turn_until(all, FILL_DEADLINE, "requests of the warm-up", |all, _| {
            let left = requests.saturating_sub(all.shared.tally.updates());
            Ok(usize::try_from(left).unwrap_or(usize::MAX))
        })?;
        Ok(self.all.shared.tally.updates())
    }

    /// Measures; the requests go on after it.
    pub(crate) fn measure(&mut self) -> anyhow::Result<Measured> {
        let phases = Phases { warm_up: Duration::ZERO, ..self.load.phases };
        self.polled.measure(&mut self.all, phases)
    }

    /// Warms up and measures updates of shadow 0 by all connections, and waits for those in flight.
    pub(crate) fn contend(&mut self) -> anyhow::Result<Contention> {
        let version = self.all.shared.versions.first().copied().unwrap_or_default();
        self.all.shared.versions.fill(version);
        self.warm_up()?;
        self.all.shared.rejected = 0;
        let measured = self.measure()?;
        let attempts = 1.0 + self.all.shared.rejected as f64 / measured.requests.max(1) as f64;
        self.drain()?;
        Ok(Contention { measured, attempts })
    }

    /// Sends no more requests and waits for those in flight.
    pub(crate) fn drain(&mut self) -> anyhow::Result<()> {
        self.all.shared.choice = Choice::Nothing;
        self.polled
            .turn_until(&mut self.all, DRAIN_DEADLINE, "requests not answered", |all, _| Ok(all.shared.in_flight))
    }
}

impl All {
    fn begin(&mut self, choice: Choice) -> anyhow::Result<()> {
        self.shared.choice = choice;
        for gateway in &mut self.gateways {
            self.shared.out.clear();
            gateway.state.fill_slots(&mut self.shared);
            gateway.socket.send(&self.shared.out)?;
        }
        Ok(())
    }
}

impl Clients for All {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(Gateway { socket, state }) = self.gateways.get_mut(token) else { return Ok(()) };
        if state.stage != Stage::Dialling {
            return socket.flush();
        }
        socket.dialled()?;
        state.stage = Stage::Greeting;
        let mut out = Vec::new();
        frame::write_connect(&mut out, Protocol::V5, &format!("gateway-{token}"), None);
        socket.send(&out)
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let Some(Gateway { socket, state }) = self.gateways.get_mut(token) else { return Ok(()) };
        self.shared.out.clear();
        let read = socket.read::<Mqtt>(buffer, |frame| state.take(frame, &mut self.shared));
        read.with_context(|| format!("gateway {token}"))?;
        state.fill_slots(&mut self.shared);
        if self.shared.out.is_empty() { Ok(()) } else { socket.send(&self.shared.out) }
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.shared.tally
    }

    fn waiting_longer_than(&self, limit: Duration) -> usize {
        let slots = self.gateways.iter().flat_map(|gateway| &gateway.state.slots);
        // A writer in contention may be unlucky for long.
        let waits = |slot: &&Slot| slot.request.is_some() && slot.since.elapsed() > limit;
        slots.filter(waits).count()
    }
}

impl Gateway {
    fn dial(number: usize, load: &GatewayLoad, registry: &Registry) -> anyhow::Result<Self> {
        let slot = Slot {
            request: None,
            shadow: 0,
            replied: false,
            acknowledged: false,
            rejected: false,
            since: Instant::now(),
        };
        let slots = vec![slot; load.in_flight];
        let state = State { number, stage: Stage::Dialling, slots, to_fill: number };
        Ok(Self { socket: Socket::dial(number, load.broker, registry)?, state })
    }
}

impl State {
    fn take(&mut self, frame: Frame<'_>, shared: &mut Shared) -> anyhow::Result<()> {
        match (frame.kind, self.stage) {
            (frame::PUBLISH, Stage::Ready) => {
                let message = Message::parse(frame, Protocol::V5)?;
                let slot = ReplyTo::slot_of(message.topic).context("a message that is no reply")?;
                self.replied(slot, message.payload, shared)
            }
            (frame::PUBACK, Stage::Ready) => {
                let (id, reason) = frame::puback_reason(frame.body)?;
                self.acknowledged(usize::from(id) - 1, reason, shared)
            }
            (frame::CONNACK, Stage::Greeting) => {
                frame::connack(frame.body)?;
                let filter = ReplyTo::filter(self.number);
                frame::write_subscribe(&mut shared.out, Protocol::V5, &[&filter], 0);
                self.stage = Stage::Subscribing;
                Ok(())
            }
            (frame::SUBACK, Stage::Subscribing) => {
                frame::suback(frame.body, 1, Protocol::V5)?;
                self.stage = Stage::Ready;
                shared.ready += 1;
                Ok(())
            }
            (frame::DISCONNECT, _) => bail!("the server disconnected: {:02x?}", frame.body),
            (kind, stage) => bail!("packet type {kind} while {stage:?}"),
        }
    }

    fn replied(&mut self, at: usize, payload: &[u8], shared: &mut Shared) -> anyhow::Result<()> {
        let slot = self.slots.get_mut(at).filter(|slot| slot.request.is_some()).context("a reply without a request")?;
        ensure!(!slot.replied, "two replies to one request");
        slot.replied = true;
        if slot.request == Some(Request::Get) {
            ensure!(payload.starts_with(br#"{"state""#), "a get failed: {}", String::from_utf8_lossy(payload));
            shared.tally.accepted(slot.since.elapsed(), payload.len());
        } else {
            let key = if shared.contended { self.number } else { slot.shadow };
            let known = shared.versions.get_mut(key).context("a known shadow")?;
            if payload.starts_with(br#"{"code""#) {
                let current = conflict(payload).filter(|_| shared.contended);
                let text = || format!("an update was rejected: {}", String::from_utf8_lossy(payload));
                *known = current.with_context(text)?;
                slot.rejected = true;
            } else {
                let version = message::quick_version(payload).context("accepted without a version")?;
                ensure!(version == u64::from(*known) + 1, "version {version} accepted after {known}");
                *known = u32::try_from(version).context("a version")?;
                shared.tally.accepted(slot.since.elapsed(), payload.len());
            }
        }
        self.finish(at, shared);
        Ok(())
    }

    fn acknowledged(&mut self, at: usize, reason: u8, shared: &mut Shared) -> anyhow::Result<()> {
        let slot =
            self.slots.get_mut(at).filter(|slot| slot.request.is_some()).context("a PUBACK without a request")?;
        // The reply says why; only a version conflict can be repeated.
        ensure!(reason < 0x80 || reason == OTHER_REASON, "a request was answered by PUBACK {reason:#04x}");
        slot.acknowledged = true;
        self.finish(at, shared);
        Ok(())
    }

    /// Frees the slot of a request that is replied to and acknowledged, or repeats a rejected one.
    fn finish(&mut self, at: usize, shared: &mut Shared) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.replied && slot.acknowledged) else { return };
        if slot.rejected {
            shared.rejected += 1;
            if shared.choice != Choice::Nothing {
                (slot.replied, slot.acknowledged, slot.rejected) = (false, false, false);
                let version = shared.versions.get(self.number).copied().unwrap_or_default();
                let reply = ReplyTo { connection: self.number, slot: at };
                shared.templates.write_with_reply(&mut shared.out, slot.shadow, reply, version.into());
                return;
            }
        }
        slot.request = None;
        shared.in_flight -= 1;
    }

    /// Sends requests until no slot is free.
    fn fill_slots(&mut self, shared: &mut Shared) {
        if shared.choice == Choice::Nothing || self.stage != Stage::Ready {
            return;
        }
        for at in 0..self.slots.len() {
            if self.slots.get(at).is_some_and(|slot| slot.request.is_none()) {
                let Some(shadow) = self.choose(shared) else { return };
                self.send(at, shadow, shared);
            }
        }
    }

    /// Returns the shadow of the next request.
    fn choose(&mut self, shared: &mut Shared) -> Option<usize> {
        match shared.choice {
            Choice::Nothing => None,
            Choice::Fill => {
                let next = (self.to_fill < shared.shadows).then_some(self.to_fill)?;
                self.to_fill += shared.connections;
                Some(next)
            }
            Choice::Random if shared.contended => Some(0),
            Choice::Random => {
                let own = (shared.shadows - self.number).div_ceil(shared.connections);
                let in_flight = |shadow| self.slots.iter().any(|slot| slot.request.is_some() && slot.shadow == shadow);
                (0..CHOICES_MAX).find_map(|_| {
                    let shadow = self.number + shared.connections * shared.random.random_range(0..own);
                    (!in_flight(shadow)).then_some(shadow)
                })
            }
        }
    }

    fn send(&mut self, at: usize, shadow: usize, shared: &mut Shared) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let key = if shared.contended { self.number } else { shadow };
        let version = shared.versions.get(key).copied().unwrap_or_default();
        let reply = ReplyTo { connection: self.number, slot: at };
        let get = shared.choice == Choice::Random && shared.reads > 0.0 && shared.random.random_bool(shared.reads);
        let request = if get { Request::Get } else { Request::Update };
        match (request, version) {
            (Request::Get, _) => message::write_request(&mut shared.out, shadow, "get", reply, b""),
            (Request::Update, 0) => {
                message::write_request(
                    &mut shared.out,
                    shadow,
                    "update",
                    reply,
                    message::full_report(shadow).as_bytes(),
                );
            }
            (Request::Update, _) => {
                shared.templates.write_with_reply(&mut shared.out, shadow, reply, version.into());
            }
        }
        let since = Instant::now();
        *slot = Slot { request: Some(request), shadow, replied: false, acknowledged: false, rejected: false, since };
        shared.in_flight += 1;
    }
}

/// Returns the current version in a version conflict.
fn conflict(payload: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Rejected {
        error: String,
        version: u32,
    }
    let rejected: Rejected = serde_json::from_slice(payload).ok()?;
    (rejected.error == "version-conflict").then_some(rejected.version)
}

/// The reason code of a request that is refused for a reason of its own.
const OTHER_REASON: u8 = 0x83;
/// Attempts to find a shadow that has no request in flight.
const CHOICES_MAX: usize = 1_000;
const FILL_DEADLINE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_conflict_is_repeated() {
        let conflicted =
            br#"{"code":409,"error":"version-conflict","expected":1,"version":7,"conflicts":[{"version":3}]}"#;
        assert_eq!(conflict(conflicted), Some(7));
        assert_eq!(conflict(br#"{"code":429,"error":"too-many-requests","version":7}"#), None);
        assert_eq!(conflict(b"{}"), None);
    }
}
