//! One measured device: its socket, and its state between connecting and the next update.
//!
//! Order: TCP connection, CONNECT, CONNACK, one SUBSCRIBE with four filters, SUBACK; then one update at a time, done
//! when both its `accepted` and its PUBACK have arrived, in either order. Anything else, such as a rejection, is an error
//! that ends the whole measurement: only accepted updates are counted.
//!
//! In an open loop an update that is due while another is in flight waits, and its latency counts from the time at which
//! it was due.
//!
//! The packets to send while one read is handled are collected and written at once.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use anyhow::{Context, bail, ensure};
use mio::Registry;

use super::{
    message::{self, ID_BYTES, Templates, UpdateKind},
    socket::{Mqtt, Socket},
    tally::UpdateStats,
};
use crate::bench::frame::{self, Frame, Login, Message, Protocol};

/// The state shared by all connections of a measurement.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The MQTT version.
    pub(crate) protocol: Protocol,
    /// The login.
    pub(crate) login: Option<Login<'static>>,
    /// The keep-alive in seconds; 0: none.
    pub(crate) keep_alive: u16,
    /// QoS of the subscriptions.
    pub(crate) event_qos: u8,
    /// The templates of the updates.
    pub(crate) templates: Templates,
    /// The counts.
    pub(crate) tally: UpdateStats,
    /// True if a finished update is followed by the next: the closed loop.
    pub(crate) updating: bool,
    /// If set, a device sends an update as soon as it is subscribed. Its latency counts from this time.
    pub(crate) update_when_subscribed: Option<Instant>,
    /// Updates that were due before this time are not counted.
    pub(crate) counted_from: Instant,
    /// Connections whose subscriptions were granted.
    pub(crate) subscribed: usize,
    /// Updates that were accepted and acknowledged.
    pub(crate) finished: u64,
    /// Updates sent and not yet accepted and acknowledged.
    pub(crate) in_flight: usize,
    /// Collects the packets that one connection has to send.
    out: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Greeting,
    Subscribing,
    Idle,
    Updating {
        accepted: bool,
        acknowledged: bool,
    },
    /// The connection ended, and is not dialled again yet.
    Lost,
}

/// One device and its socket.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    device: Device,
}

/// One device.
#[derive(Debug)]
struct Device {
    stage: Stage,
    id: [u8; ID_BYTES],
    /// Updates done since the connection was made.
    count: u64,
    /// The shadow's version in the last reply.
    version: u64,
    packet_id: u16,
    sent_at: Instant,
    /// The time from which the latency of the update in flight counts.
    due_at: Instant,
    /// Updates of an open loop that are due, while another is in flight.
    due: VecDeque<Instant>,
}

impl Shared {
    /// The placeholder of a connection that is not open yet.
    pub(crate) fn new(
        protocol: Protocol,
        event_qos: u8,
        kind: UpdateKind,
        login: Option<Login<'static>>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            protocol,
            login,
            keep_alive: 0,
            event_qos,
            templates: Templates::new(protocol, kind)?,
            tally: UpdateStats::new(),
            updating: false,
            update_when_subscribed: None,
            counted_from: Instant::now(),
            subscribed: 0,
            finished: 0,
            in_flight: 0,
            out: Vec::with_capacity(4096),
        })
    }
}

impl Connection {
    /// Starts to connect device number `number`.
    pub(crate) fn dial(number: usize, broker: SocketAddr, registry: &Registry) -> anyhow::Result<Self> {
        let (id, now) = (message::device_id_bytes(number), Instant::now());
        let device = Device {
            stage: Stage::Dialling,
            id,
            count: 0,
            version: 0,
            packet_id: 0,
            sent_at: now,
            due_at: now,
            due: VecDeque::new(),
        };
        Ok(Self { socket: Socket::dial(number, broker, registry)?, device })
    }

    /// Replaces the connection, which is reset, by a new one. The device keeps the version that it knows.
    pub(crate) fn redial(&mut self, number: usize, broker: SocketAddr, registry: &Registry) -> anyhow::Result<()> {
        // A connection that failed has no option to set.
        let _ = self.socket.reset_on_close();
        self.socket = Socket::dial(number, broker, registry)?;
        self.device.stage = Stage::Dialling;
        Ok(())
    }

    /// Ends the connection, until it is dialled again.
    pub(crate) fn lose(&mut self) {
        self.socket.shut_down();
        self.device.stage = Stage::Lost;
    }

    /// True if the connection ended, and is not dialled again yet.
    pub(crate) fn lost(&self) -> bool {
        self.device.stage == Stage::Lost
    }

    /// True while the connection is not subscribed yet.
    pub(crate) fn connecting(&self) -> bool {
        matches!(self.device.stage, Stage::Dialling | Stage::Greeting | Stage::Subscribing)
    }

    /// Returns the time at which the update in flight was sent.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        matches!(self.device.stage, Stage::Updating { .. }).then_some(self.device.sent_at)
    }

    /// Sends the first update, unless one is in flight.
    pub(crate) fn begin(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        ensure!(self.device.stage == Stage::Idle, "a device that is not connected cannot begin");
        shared.out.clear();
        self.device.next_update(shared, Instant::now());
        self.socket.send(&shared.out)
    }

    /// Sends the update that was due at `due`, or has it wait for the one in flight.
    pub(crate) fn update_due(&mut self, shared: &mut Shared, due: Instant) -> anyhow::Result<()> {
        if self.device.stage != Stage::Idle {
            self.device.due.push_back(due);
            return Ok(());
        }
        shared.out.clear();
        self.device.next_update(shared, due);
        self.socket.send(&shared.out)
    }

    /// Handles a writable socket.
    pub(crate) fn writable(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        if self.device.stage != Stage::Dialling {
            return self.socket.flush();
        }
        self.socket.dialled()?;
        self.device.stage = Stage::Greeting;
        shared.out.clear();
        let Shared { out, protocol, login, keep_alive, .. } = shared;
        frame::write_connect_with(out, *protocol, self.device.name(), *login, *keep_alive);
        self.socket.send(&shared.out)
    }

    /// Handles a readable socket: reads all bytes through `buffer` and answers.
    pub(crate) fn readable(&mut self, buffer: &mut [u8], shared: &mut Shared) -> anyhow::Result<()> {
        shared.out.clear();
        let Self { socket, device } = self;
        let read = socket.read::<Mqtt>(buffer, |frame| device.frame(frame, shared));
        read.with_context(|| format!("device {}", device.name()))?;
        if shared.out.is_empty() { Ok(()) } else { socket.send(&shared.out) }
    }
}

impl Device {
    fn frame(&mut self, frame: Frame<'_>, shared: &mut Shared) -> anyhow::Result<()> {
        match (frame.kind, self.stage) {
            (frame::PUBLISH, _) => self.message(Message::parse(frame, shared.protocol)?, shared),
            (frame::PUBACK, Stage::Updating { accepted, acknowledged: false }) => {
                let id = frame::puback(frame.body)?;
                ensure!(id == self.packet_id, "PUBACK {id} for packet {}", self.packet_id);
                self.stage = Stage::Updating { accepted, acknowledged: true };
                self.advance(shared);
                Ok(())
            }
            (frame::CONNACK, Stage::Greeting) => {
                frame::connack(frame.body)?;
                self.subscribe(shared);
                Ok(())
            }
            (frame::SUBACK, Stage::Subscribing) => {
                frame::suback(frame.body, FILTERS.len(), shared.protocol)?;
                self.stage = Stage::Idle;
                shared.subscribed += 1;
                if let Some(since) = shared.update_when_subscribed {
                    self.next_update(shared, since);
                }
                Ok(())
            }
            (frame::DISCONNECT, _) => bail!("the server disconnected: {:02x?}", frame.body),
            (kind, stage) => bail!("packet type {kind} while {stage:?}"),
        }
    }

    fn subscribe(&mut self, shared: &mut Shared) {
        let filters = FILTERS.map(|event| format!("shadow/{}/{event}", self.name()));
        let filters = filters.each_ref().map(String::as_str);
        frame::write_subscribe(&mut shared.out, shared.protocol, &filters, shared.event_qos);
        self.stage = Stage::Subscribing;
    }

    fn message(&mut self, message: Message<'_>, shared: &mut Shared) -> anyhow::Result<()> {
        let own = message.topic.strip_prefix(b"shadow/").and_then(|rest| rest.strip_prefix(&self.id));
        let text = || String::from_utf8_lossy(message.payload).into_owned();
        match own {
            Some(b"/update/accepted") => self.accepted(message.payload, shared)?,
            Some(b"/update/rejected") => bail!("an update was rejected: {}", text()),
            Some(b"/update/delta" | b"/get/accepted") => bail!("unasked for: {}", text()),
            _ => bail!("a message that is not its own: {}", String::from_utf8_lossy(message.topic)),
        }
        if let Some(id) = message.packet_id {
            frame::write_puback(&mut shared.out, id);
        }
        Ok(())
    }

    fn accepted(&mut self, payload: &[u8], shared: &mut Shared) -> anyhow::Result<()> {
        let Stage::Updating { accepted: false, acknowledged } = self.stage else {
            bail!("accepted without being asked: {}", String::from_utf8_lossy(payload));
        };
        if self.count == 0 {
            self.version = message::parse_version(payload)?;
        } else {
            let version = message::quick_version(payload).context("accepted without a version")?;
            ensure!(version == self.version + 1, "version {version} accepted after {}", self.version);
            self.version = version;
            if self.due_at >= shared.counted_from {
                shared.tally.accepted(self.due_at.elapsed(), payload.len());
            }
        }
        self.stage = Stage::Updating { accepted: true, acknowledged };
        self.advance(shared);
        Ok(())
    }

    /// Finishes an update that is accepted and acknowledged, and sends the next.
    fn advance(&mut self, shared: &mut Shared) {
        if self.stage != (Stage::Updating { accepted: true, acknowledged: true }) {
            return;
        }
        self.count += 1;
        shared.finished += 1;
        self.stage = Stage::Idle;
        shared.in_flight -= 1;
        if let Some(due) = self.due.pop_front() {
            self.next_update(shared, due);
        } else if shared.updating {
            self.next_update(shared, Instant::now());
        }
    }

    fn next_update(&mut self, shared: &mut Shared, due: Instant) {
        self.packet_id = self.packet_id % u16::MAX + 1;
        if self.count == 0 {
            let topic = format!("shadow/{}/update", self.name());
            let report = message::full_report(message::device_number(&self.id));
            let id = Some(self.packet_id);
            frame::write_publish(&mut shared.out, shared.protocol, topic.as_bytes(), id, report.as_bytes());
        } else {
            shared.templates.write(&mut shared.out, &self.id, self.packet_id, self.count, self.version);
        }
        self.stage = Stage::Updating { accepted: false, acknowledged: false };
        self.sent_at = Instant::now();
        self.due_at = due;
        shared.in_flight += 1;
    }

    fn name(&self) -> &str {
        str::from_utf8(&self.id).unwrap_or_default()
    }
}

/// The topics that every device subscribes to, of its own shadow.
const FILTERS: [&str; 4] = ["update/accepted", "update/rejected", "update/delta", "get/accepted"];
