//! The MQTT connection of an attacker, over TCP or WebSocket.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{
    packet::{self, Connect, Publish},
    stage::Stage,
};
use crate::bench::frame::{self, split};

/// A connection after its CONNACK.
pub(super) struct Client {
    /// The socket.
    pub(super) stream: TcpStream,
    stage: Arc<Stage>,
    received: Vec<u8>,
    next_id: u16,
    /// False for an attack that never acknowledges.
    pub(super) acknowledges: bool,
}

/// A packet from the server.
pub(super) struct Packet {
    /// The packet type.
    pub(super) kind: u8,
    /// The flags of the first byte.
    pub(super) flags: u8,
    /// The bytes after the remaining length.
    pub(super) body: Vec<u8>,
}

impl Packet {
    /// Returns the reason code of a PUBACK or PUBREC.
    pub(super) fn reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or_default()
    }
}

impl Client {
    /// Connects with the attacker's credential.
    ///
    /// # Errors
    ///
    /// The server refused it.
    pub(super) async fn open(stage: &Arc<Stage>, connect: &Connect<'_>) -> anyhow::Result<Self> {
        Self::open_as(stage, &packet::connect(&stage.orders.device, connect), None).await
    }

    /// Connects with a packet, and a receive buffer of a size.
    pub(super) async fn open_as(
        stage: &Arc<Stage>,
        connect: &[u8],
        receive_buffer: Option<u32>,
    ) -> anyhow::Result<Self> {
        let mut stream = dial(stage, stage.orders.mqtt, receive_buffer).await?;
        stream.write_all(connect).await?;
        let mut client = Self { stream, stage: stage.clone(), received: Vec::new(), next_id: 0, acknowledges: true };
        let connack = tokio::time::timeout(ANSWER, client.next()).await.context("no CONNACK")??;
        ensure!(connack.kind == frame::CONNACK, "packet type {} in the place of a CONNACK", connack.kind);
        let code = connack.body.get(1).copied().unwrap_or(0xff);
        ensure!(code == 0, "the CONNECT was refused: {code:#04x}");
        stage.count(|counts| counts.connected += 1);
        Ok(client)
    }

    /// Sends bytes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Returns the next packet.
    pub(super) async fn next(&mut self) -> anyhow::Result<Packet> {
        loop {
            if let Some((found, rest)) = split(&self.received)? {
                let packet = Packet { kind: found.kind, flags: found.flags, body: found.body.to_vec() };
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }

    /// Returns the next packet of a type, and counts the messages before it.
    ///
    /// # Errors
    ///
    /// The server ends the connection.
    pub(super) async fn answer(&mut self, kind: u8) -> anyhow::Result<Packet> {
        loop {
            let packet = self.next().await?;
            if packet.kind == kind {
                return Ok(packet);
            }
            match packet.kind {
                frame::PUBLISH => self.delivered(&packet).await?,
                frame::DISCONNECT => bail!("DISCONNECT {:#04x}", packet.body.first().copied().unwrap_or_default()),
                _ => {}
            }
        }
    }

    /// Counts a message, and acknowledges it.
    async fn delivered(&mut self, packet: &Packet) -> anyhow::Result<()> {
        self.stage.count(|counts| counts.deliveries += 1);
        if self.acknowledges && packet.flags & 0b0110 == 0b0010 {
            let message = frame::Message::parse(
                frame::Frame { kind: packet.kind, flags: packet.flags, body: &packet.body },
                frame::Protocol::V5,
            )?;
            if let Some(id) = message.packet_id {
                let mut out = Vec::new();
                frame::write_puback(&mut out, id);
                self.send(&out).await?;
            }
        }
        Ok(())
    }

    /// Counts and acknowledges all messages until the connection ends.
    pub(super) async fn receive(mut self) -> anyhow::Result<()> {
        self.answer(NONE).await.map(drop)
    }

    /// Discards everything until the connection ends.
    pub(super) async fn discard(mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while self.stream.read(&mut buffer).await? > 0 {
            self.stage.count(|counts| counts.deliveries += 1);
        }
        bail!("the server closed the connection")
    }

    /// Subscribes, and counts a SUBACK with a refusal as refused.
    pub(super) async fn subscribe<T: AsRef<str>>(&mut self, filters: &[T], qos: u8) -> anyhow::Result<()> {
        let id = self.id();
        self.send(&packet::subscribe(id, filters, qos)).await?;
        let suback = self.answer(frame::SUBACK).await?;
        let codes = suback.body.get(2..).and_then(|rest| {
            let (length, rest) = frame::variable_length(rest).ok().flatten()?;
            rest.get(length..)
        });
        let bad = codes.and_then(|codes| codes.iter().find(|code| **code >= 0x80)).copied();
        self.stage.outcome(codes.is_some() && bad.is_none(), || format!("a filter was refused: {bad:02x?}"));
        Ok(())
    }

    /// Sends a message at QoS 1 or 2, and returns the reason code of its PUBACK or PUBREC.
    pub(super) async fn request(&mut self, message: &Publish<'_>) -> anyhow::Result<u8> {
        let id = self.id();
        self.send(&packet::publish(&Publish { id, ..message.clone() })).await?;
        let kind = if message.qos == 2 { PUBREC } else { frame::PUBACK };
        Ok(self.answer(kind).await?.reason())
    }

    /// Sends a message at QoS 1 or 2, and counts whether it was accepted.
    pub(super) async fn publish(&mut self, message: &Publish<'_>) -> anyhow::Result<()> {
        let reason = self.request(message).await?;
        self.stage.outcome(reason < 0x80, || format!("a message was refused: {reason:#04x}"));
        Ok(())
    }

    /// Sends messages at QoS 1, as many at once as the server takes, and returns the places of those that were refused.
    pub(super) async fn publish_all(&mut self, messages: &[Publish<'_>]) -> anyhow::Result<Vec<usize>> {
        let (mut refused, mut in_flight, mut batch) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut messages = messages.iter().enumerate().peekable();
        while messages.peek().is_some() || !in_flight.is_empty() {
            for (place, message) in messages.by_ref().take(WINDOW - in_flight.len()) {
                let id = self.id();
                batch.extend(packet::publish(&Publish { qos: 1, id, ..message.clone() }));
                in_flight.insert(id.to_be_bytes(), place);
            }
            if !batch.is_empty() {
                self.send(&std::mem::take(&mut batch)).await?;
            }
            let puback = self.answer(frame::PUBACK).await?;
            let place = puback.body.first_chunk().and_then(|id| in_flight.remove(id));
            let (place, reason) = (place.context("a PUBACK of an unknown id")?, puback.reason());
            if reason >= 0x80 {
                refused.push(place);
            }
            self.stage.outcome(reason < 0x80, || format!("a message was refused: {reason:#04x}"));
        }
        Ok(refused)
    }

    /// Disconnects in an orderly way; a session with an expiry stays.
    pub(super) async fn leave(mut self) -> anyhow::Result<()> {
        self.send(&packet::DISCONNECT).await?;
        self.stream.shutdown().await?;
        // The server has handled the DISCONNECT when it closes.
        let _ = tokio::time::timeout(ANSWER, async {
            while self.stream.read_buf(&mut self.received).await? > 0 {
                self.received.clear();
            }
            Ok::<_, std::io::Error>(())
        })
        .await;
        Ok(())
    }

    /// Returns the next packet id.
    pub(super) fn id(&mut self) -> u16 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }
}

/// Opens a TCP connection from the next source address.
pub(super) async fn dial(
    stage: &Stage,
    to: std::net::SocketAddr,
    receive_buffer: Option<u32>,
) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if to.ip().is_loopback() {
        socket.set_reuseaddr(true)?;
        socket.bind(stage.source())?;
    }
    let stream = tokio::time::timeout(ANSWER, socket.connect(to)).await.context("no connection in time")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// PUBREC: a QoS 2 message was received.
pub(super) const PUBREC: u8 = 5;
/// UNSUBACK.
pub(super) const UNSUBACK: u8 = 11;
/// PINGRESP.
pub(super) const PINGRESP: u8 = 13;
/// No packet type of a server.
const NONE: u8 = 0;
/// The QoS 1 messages in flight: the receive maximum of the server.
const WINDOW: usize = 64;
const ANSWER: Duration = Duration::from_secs(15);
