//! One measured device: its socket, and its state between connecting and the next update.
//!
//! Order: TCP connection, CONNECT, CONNACK, one SUBSCRIBE with four filters, SUBACK; then one update at a time, done
//! when both its `accepted` and its PUBACK have arrived, in either order. Anything else, such as a rejection, is an error
//! that ends the whole measurement: only accepted updates are counted.
//!
//! The packets to send while one read is handled are collected and written at once.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use mio::{Interest, Registry, Token, net::TcpStream};

use super::{
    frame::{self, Frame, Login, Message, Protocol},
    message::{self, ID_BYTES, Templates, UpdateKind},
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

/// One device.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    stage: Stage,
    id: [u8; ID_BYTES],
    /// Updates done since the connection was made.
    count: u64,
    /// The shadow's version in the last reply.
    version: u64,
    packet_id: u16,
    sent_at: Instant,
    /// An incomplete frame.
    partial: Vec<u8>,
    /// Bytes that the socket did not accept yet.
    unsent: Vec<u8>,
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
        let mut stream = TcpStream::connect(broker).context("connecting")?;
        // Registered once for both: with edge triggering no further calls are needed.
        registry.register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let id = message::device_id(number).into_bytes().try_into();
        let id = id.map_err(|_| anyhow::anyhow!("device {number} needs a longer id"))?;
        Ok(Self {
            stream,
            stage: Stage::Dialling,
            id,
            count: 0,
            version: 0,
            packet_id: 0,
            sent_at: Instant::now(),
            partial: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// Returns the number of updates done.
    pub(crate) fn updates(&self) -> u64 {
        self.count
    }

    /// Returns the time at which the update in flight was sent.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        matches!(self.stage, Stage::Updating { .. }).then_some(self.sent_at)
    }

    /// Sends the first update, unless one is in flight.
    pub(crate) fn begin(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        ensure!(self.stage == Stage::Idle, "a device that is not connected cannot begin");
        shared.out.clear();
        self.next_update(shared);
        self.send(&shared.out)
    }

    /// Handles a writable socket.
    pub(crate) fn writable(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        if self.stage == Stage::Dialling {
            if let Some(error) = self.stream.take_error()? {
                return Err(error).context("connecting");
            }
            self.stream.set_nodelay(true)?;
            self.stage = Stage::Greeting;
            shared.out.clear();
            frame::write_connect(&mut shared.out, shared.protocol, self.name(), shared.login);
            return self.send(&shared.out);
        }
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent)?;
        }
        Ok(())
    }

    /// Handles a readable socket: reads all bytes through `buffer` and answers.
    pub(crate) fn readable(&mut self, buffer: &mut [u8], shared: &mut Shared) -> anyhow::Result<()> {
        shared.out.clear();
        loop {
            let held = self.partial.len();
            let (head, tail) = buffer.split_at_mut_checked(held).context("a packet larger than the buffer")?;
            head.copy_from_slice(&self.partial);
            let room = tail.len();
            let read = match self.stream.read(tail) {
                Ok(0) => bail!("the server closed the connection of {}", self.name()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).with_context(|| format!("reading for {}", self.name())),
            };
            self.take(buffer.get(..held + read).unwrap_or_default(), shared)?;
            // A read that did not fill the buffer has emptied the socket; later bytes cause a new event.
            if read < room {
                break;
            }
        }
        if shared.out.is_empty() { Ok(()) } else { self.send(&shared.out) }
    }

    fn take(&mut self, mut bytes: &[u8], shared: &mut Shared) -> anyhow::Result<()> {
        while let Some((frame, rest)) = frame::split(bytes)? {
            self.frame(frame, shared).with_context(|| format!("device {}", self.name()))?;
            bytes = rest;
        }
        self.partial.clear();
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

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

    /// Writes the bytes that the socket accepts and keeps the rest.
    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < bytes.len() {
            match self.stream.write(bytes.get(sent..).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero)).context("writing"),
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("writing for {}", self.name())),
            }
        }
        self.unsent.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    fn name(&self) -> &str {
        str::from_utf8(&self.id).unwrap_or_default()
    }
}

/// The topics that every device subscribes to, of its own shadow.
const FILTERS: [&str; 4] = ["update/accepted", "update/rejected", "update/delta", "get/accepted"];
