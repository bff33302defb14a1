//! One measured device: its socket, and its state between connecting and the next update.
//!
//! Order: TCP connection, CONNECT, CONNACK, one SUBSCRIBE with four filters, SUBACK; then one update at a time, done
//! when both its `accepted` and its PUBACK have arrived, in either order. Anything else, such as a rejection, is an error
//! that ends the whole measurement: only accepted updates are counted.
//!
//! The packets to send while one read is handled are collected and written at once.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, bail, ensure};
use mio::Registry;

use super::{
    frame::{self, Frame, Login, Message, Protocol},
    message::{self, ID_BYTES, Templates, UpdateKind},
    socket::Socket,
    tally::UpdateStats,
};

/// The state shared by all connections of a measurement.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The MQTT version.
    pub(crate) protocol: Protocol,
    /// The login.
    pub(crate) login: Option<Login<'static>>,
    /// QoS of the subscriptions.
    pub(crate) event_qos: u8,
    /// The templates of the updates.
    pub(crate) templates: Templates,
    /// The counts.
    pub(crate) tally: UpdateStats,
    /// True if a finished update is followed by the next.
    pub(crate) updating: bool,
    /// Connections whose subscriptions were granted.
    pub(crate) subscribed: usize,
    /// Updates sent and not yet accepted and acknowledged.
    pub(crate) in_flight: usize,
    /// Connections whose first update is done.
    pub(crate) reported: usize,
    /// Collects the packets that one connection has to send.
    out: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Greeting,
    Subscribing,
    Idle,
    Updating { accepted: bool, acknowledged: bool },
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
}

impl Shared {
    /// The placeholder of a connection that is not open yet.
    pub(crate) fn new(
        protocol: Protocol,
        event_qos: u8,
        manner: UpdateKind,
        login: Option<Login<'static>>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            protocol,
            login,
            event_qos,
            templates: Templates::new(protocol, manner)?,
            tally: UpdateStats::new(),
            updating: false,
            subscribed: 0,
            in_flight: 0,
            reported: 0,
            out: Vec::with_capacity(4096),
        })
    }
}

impl Connection {
    /// Starts to connect device number `number`.
    pub(crate) fn dial(number: usize, broker: SocketAddr, registry: &Registry) -> anyhow::Result<Self> {
        let id = message::device_id(number).into_bytes().try_into();
        let id = id.map_err(|_| anyhow::anyhow!("device {number} needs a longer id"))?;
        let device = Device { stage: Stage::Dialling, id, count: 0, version: 0, packet_id: 0, sent_at: Instant::now() };
        Ok(Self { socket: Socket::dial(number, broker, registry)?, device })
    }

    /// Returns the number of updates done.
    pub(crate) fn updates(&self) -> u64 {
        self.device.count
    }

    /// Returns the time at which the update in flight was sent.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        matches!(self.device.stage, Stage::Updating { .. }).then_some(self.device.sent_at)
    }

    /// Sends the first update, unless one is in flight.
    pub(crate) fn begin(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        ensure!(self.device.stage == Stage::Idle, "a device that is not connected cannot begin");
        shared.out.clear();
        self.device.next_update(shared);
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
        frame::write_connect(&mut shared.out, shared.protocol, self.device.name(), shared.login);
        self.socket.send(&shared.out)
    }

    /// Handles a readable socket: reads all bytes through `buffer` and answers.
    pub(crate) fn readable(&mut self, buffer: &mut [u8], shared: &mut Shared) -> anyhow::Result<()> {
        shared.out.clear();
        let Self { socket, device } = self;
        let read = socket.read(buffer, |frame| device.frame(frame, shared));
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
            shared.tally.accepted(self.sent_at.elapsed(), payload.len());
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
        if self.count == 0 {
            shared.reported += 1;
        }
        self.count += 1;
        self.stage = Stage::Idle;
        shared.in_flight -= 1;
        if shared.updating {
            self.next_update(shared);
        }
    }

    fn next_update(&mut self, shared: &mut Shared) {
        self.packet_id = self.packet_id % u16::MAX + 1;
        if self.count == 0 {
            let topic = format!("shadow/{}/update", self.name());
            let report = message::full_report();
            let id = Some(self.packet_id);
            frame::write_publish(&mut shared.out, shared.protocol, topic.as_bytes(), id, report.as_bytes());
        } else {
            shared.templates.write(&mut shared.out, &self.id, self.packet_id, self.count, self.version);
        }
        self.stage = Stage::Updating { accepted: false, acknowledged: false };
        self.sent_at = Instant::now();
        shared.in_flight += 1;
    }

    fn name(&self) -> &str {
        str::from_utf8(&self.id).unwrap_or_default()
    }
}

/// The topics that every device subscribes to, of its own shadow.
const FILTERS: [&str; 4] = ["update/accepted", "update/rejected", "update/delta", "get/accepted"];
