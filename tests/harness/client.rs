//! A blocking MQTT client that hides nothing: a socket, what came from it in order, and packet identifiers.
//!
//! [`Client::recv`] gives the next packet as it came. The others wait for one kind of packet and keep what came before
//! it for later, in order.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    DEADLINE,
    packet::{Ack, Message, Packet, take},
    server::Server,
    wire::{self, Connect, Properties, Protocol, Publish},
};

/// One connection.
pub struct Client {
    pub protocol: Protocol,
    stream: TcpStream,
    buffer: Vec<u8>,
    inbox: VecDeque<Packet>,
    last_id: u16,
}

/// A CONNACK.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnAck {
    pub session_present: bool,
    pub code: u8,
    pub properties: Properties,
}

/// The packet, or the end, that came within some time.
#[derive(Debug)]
pub enum Received {
    Packet(Packet),
    /// The connection ended.
    Closed,
    /// Nothing.
    Late,
}

impl Client {
    /// A connection on which nothing was sent yet.
    pub fn open(server: &Server, protocol: Protocol) -> Self {
        Self::over(TcpStream::connect(server.address).expect("the server listens"), protocol)
    }

    /// As [`Client::open`], from another loopback address.
    pub fn open_from(server: &Server, protocol: Protocol, source: [u8; 4]) -> Self {
        Self::try_open_from(server, protocol, source).expect("the server listens")
    }

    /// As [`Client::open_from`], where the server may have closed the connection already.
    pub fn try_open_from(server: &Server, protocol: Protocol, source: [u8; 4]) -> std::io::Result<Self> {
        // The standard library cannot choose where a connection comes from.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            socket.connect(server.address).await?.into_std()
        })?;
        stream.set_nonblocking(false)?;
        Ok(Self::over(stream, protocol))
    }

    /// As [`Client::open`], at another listener.
    pub fn open_at(address: SocketAddr, protocol: Protocol) -> Self {
        Self::over(TcpStream::connect(address).expect("the server listens"), protocol)
    }

    /// As [`Client::open`], to a server that may not be there.
    pub fn try_to(address: SocketAddr, protocol: Protocol) -> std::io::Result<Self> {
        Ok(Self::over(TcpStream::connect(address)?, protocol))
    }

    fn over(stream: TcpStream, protocol: Protocol) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.set_write_timeout(Some(*DEADLINE)).expect("a socket");
        Self { protocol, stream, buffer: Vec::new(), inbox: VecDeque::new(), last_id: 0 }
    }

    /// Sends a CONNECT of a clean session, if the server takes it; the code of the CONNACK, or `None` if the connection
    /// was closed without one.
    pub fn ask_in(&mut self, client_id: &str) -> Option<u8> {
        self.try_send(Connect::new(self.protocol, client_id).encode()).ok()?;
        match self.try_recv()? {
            Packet::ConnAck { code, .. } => Some(code),
            other => panic!("{other:?} in the place of CONNACK"),
        }
    }

    /// Connects a clean session; it must be accepted.
    pub fn connect(server: &Server, protocol: Protocol, client_id: &str) -> Self {
        Self::connect_as(server, &Connect::new(protocol, client_id)).0
    }

    /// Connects; it must be accepted.
    pub fn connect_as(server: &Server, connect: &Connect) -> (Self, ConnAck) {
        let mut client = Self::open(server, connect.protocol);
        client.send(connect.encode());
        let answer = client.connack();
        assert_eq!(answer.code, 0, "{connect:?} was refused: {answer:?}");
        (client, answer)
    }

    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server reads");
    }

    /// Writes bytes to a server that may have closed the connection.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The next packet, whatever it is.
    pub fn recv(&mut self) -> Packet {
        self.try_recv().expect("a packet, but the server closed the connection")
    }

    /// The next packet, or `None` once the connection is closed.
    pub fn try_recv(&mut self) -> Option<Packet> {
        self.inbox.pop_front().or_else(|| self.read_packet())
    }

    /// The first packet `pick` chooses; those before it stay.
    pub fn wait<T>(&mut self, what: &str, pick: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some((place, found)) = self.inbox.iter().enumerate().find_map(|(i, p)| Some((i, pick(p)?))) {
            self.inbox.remove(place);
            return found;
        }
        loop {
            let packet = self.read_packet().unwrap_or_else(|| panic!("closed before {what}; got {:?}", self.inbox));
            match pick(&packet) {
                Some(found) => return found,
                None => self.inbox.push_back(packet),
            }
        }
    }

    /// The CONNACK, which must be the next packet.
    pub fn connack(&mut self) -> ConnAck {
        match self.recv() {
            Packet::ConnAck { session_present, code, properties } => ConnAck { session_present, code, properties },
            other => panic!("{other:?} in the place of CONNACK"),
        }
    }

    /// Reads until the server has closed the connection; the code of its DISCONNECT, if it sent one.
    pub fn closed(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(packet) = self.try_recv() {
            assert_eq!(reason, None, "{packet:?} after DISCONNECT");
            if let Packet::Disconnect { code, .. } = packet {
                reason = Some(code);
            }
        }
        reason
    }

    /// Reads whatever comes until the server has closed the connection.
    pub fn discard_until_closed(&mut self) {
        self.stream.set_read_timeout(Some(*DEADLINE)).expect("a socket");
        match std::io::copy(&mut self.stream, &mut std::io::sink()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server did not close the connection: {error}"),
        }
    }

    /// Returns true if the server answers `bytes` with anything before it closes the connection.
    pub fn is_answered(&mut self, bytes: &[u8]) -> bool {
        self.stream.set_read_timeout(Some(*DEADLINE)).expect("a socket");
        let read = self.try_send(bytes).and_then(|()| self.stream.read(&mut [0]));
        match read {
            Ok(count) => count > 0,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("the server neither answers nor closes the connection: {error}"),
        }
    }

    /// Asks for a PINGRESP and waits for it: the server has read all that was sent before.
    pub fn ping(&mut self) {
        self.send(wire::PINGREQ);
        self.wait("PINGRESP", |packet| (*packet == Packet::PingResp).then_some(()));
    }

    /// A packet identifier that was not used yet, or not for long.
    pub fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// Subscribes; every filter must be granted, with the QoS asked for.
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) {
        let codes = self.subscribe_with(filters, &Properties::none());
        let asked: Vec<u8> = filters.iter().map(|(_, options)| options & 3).collect();
        assert_eq!(codes, asked, "the codes of the SUBACK for {filters:?}");
    }

    /// Subscribes with options and properties of MQTT 5; the codes of the SUBACK.
    pub fn subscribe_with(&mut self, filters: &[(&str, u8)], properties: &Properties) -> Vec<u8> {
        let id = self.next_id();
        self.send(wire::subscribe(self.protocol, id, filters, properties));
        self.wait("SUBACK", |packet| match packet {
            Packet::SubAck { id: found, codes } if *found == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Unsubscribes; the codes of the UNSUBACK, of which 3.1.1 has none.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(wire::unsubscribe(self.protocol, id, filters));
        self.wait("UNSUBACK", |packet| match packet {
            Packet::UnsubAck { id: found, codes } if *found == id => Some(codes.clone()),
            _ => None,
        })
    }

    /// Publishes and goes through the whole handshake; the code of the PUBACK or PUBREC.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> u8 {
        self.publish_message(&Publish::new(topic, payload), qos).code
    }

    /// Publishes and goes through the whole handshake; the PUBACK or PUBREC.
    pub fn publish_message(&mut self, message: &Publish, qos: u8) -> Ack {
        let id = self.next_id();
        self.send(message.encode(self.protocol, qos, id));
        match qos {
            0 => Ack { id, code: 0, properties: Properties::none() },
            1 => self.puback(id),
            _ => {
                let received = self.pubrec(id);
                if received.code < 0x80 {
                    self.send(wire::ack(0x62, id));
                    self.pubcomp(id);
                }
                received
            }
        }
    }

    /// Waits for the PUBACK of `id`.
    pub fn puback(&mut self, id: u16) -> Ack {
        self.wait("PUBACK", |packet| match packet {
            Packet::PubAck(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// Waits for the PUBREC of `id`.
    pub fn pubrec(&mut self, id: u16) -> Ack {
        self.wait("PUBREC", |packet| match packet {
            Packet::PubRec(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// Waits for the PUBCOMP of `id`.
    pub fn pubcomp(&mut self, id: u16) -> Ack {
        self.wait("PUBCOMP", |packet| match packet {
            Packet::PubComp(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// Waits for the PUBREL of `id`.
    pub fn pubrel(&mut self, id: u16) -> Ack {
        self.wait("PUBREL", |packet| match packet {
            Packet::PubRel(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// The next message, not acknowledged.
    pub fn peek_message(&mut self) -> Message {
        self.wait("PUBLISH", |packet| match packet {
            Packet::Publish(message) => Some(message.clone()),
            _ => None,
        })
    }

    /// The next message, acknowledged through the whole handshake.
    pub fn message(&mut self) -> Message {
        let message = self.peek_message();
        self.acknowledge(&message);
        message
    }

    /// Acknowledges a message as its QoS asks.
    pub fn acknowledge(&mut self, message: &Message) {
        match message.qos {
            0 => {}
            1 => self.send(wire::ack(0x40, message.id)),
            _ => {
                self.send(wire::ack(0x50, message.id));
                self.pubrel(message.id);
                self.send(wire::ack(0x70, message.id));
            }
        }
    }

    /// The next `count` messages as (topic, payload), acknowledged.
    pub fn messages(&mut self, count: usize) -> Vec<(String, String)> {
        (0..count).map(|_| self.message()).map(|m| (m.topic.clone(), m.text().to_owned())).collect()
    }

    /// Says goodbye and waits until the server has closed the connection.
    pub fn disconnect(mut self) {
        self.send(wire::DISCONNECT);
        while self.try_recv().is_some() {}
    }

    /// Ends the connection without DISCONNECT, and waits until the server has seen it.
    pub fn abandon(mut self) {
        self.stream.shutdown(Shutdown::Write).expect("a socket");
        while self.try_recv().is_some() {}
    }

    /// Closes the socket without a word.
    pub fn drop_connection(self) {}

    /// Another handle to the socket, for a thread that only writes.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket")
    }

    /// The next packet, if it comes within `limit`.
    pub fn recv_within(&mut self, limit: Duration) -> Received {
        match self.inbox.pop_front() {
            Some(packet) => Received::Packet(packet),
            None => self.read_within(limit),
        }
    }

    fn read_packet(&mut self) -> Option<Packet> {
        match self.read_within(*DEADLINE) {
            Received::Packet(packet) => Some(packet),
            Received::Closed => None,
            Received::Late => panic!("no packet for {:?}; kept {:?}", *DEADLINE, self.inbox),
        }
    }

    fn read_within(&mut self, limit: Duration) -> Received {
        let deadline = Instant::now() + limit;
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(packet) = take(self.protocol, &mut self.buffer) {
                return Received::Packet(packet);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Late;
            }
            self.stream.set_read_timeout(Some(left)).expect("a socket");
            match self.stream.read(&mut chunk) {
                Ok(0) => return Received::Closed,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Received::Closed,
                Err(error) => panic!("reading: {error}"),
            }
        }
    }
}

/// DISCONNECT of MQTT 5 with a reason and properties.
pub fn disconnect_with(code: u8, properties: &Properties) -> Vec<u8> {
    wire::frame(0xE0, &[vec![code], properties.encode()].concat())
}
