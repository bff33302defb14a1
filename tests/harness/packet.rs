//! The packets that a server may send, read from bytes.

use super::wire::{Properties, Protocol, V5, Value};

/// A packet from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    ConnAck { session_present: bool, code: u8, properties: Properties },
    Publish(Message),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    SubAck { id: u16, codes: Vec<u8> },
    UnsubAck { id: u16, codes: Vec<u8> },
    PingResp,
    Disconnect { code: u8, properties: Properties },
}

/// The answer to a PUBLISH or to another answer; towards a 3.1.1 client `code` is always 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    pub id: u16,
    pub code: u8,
    pub properties: Properties,
}

/// A PUBLISH from the server; `id` is 0 at QoS 0.
#[derive(Clone, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub id: u16,
    pub dup: bool,
    pub retain: bool,
    pub properties: Properties,
}

impl Message {
    /// The payload, which must be UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload is UTF-8")
    }

    /// The payload, which must be JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, payload, qos, id, dup, retain, properties } = self;
        let payload = String::from_utf8_lossy(payload);
        let shown: String = payload.chars().take(300).collect();
        write!(f, "{topic} qos={qos} id={id} dup={dup} retain={retain} {properties:?} {shown}")
    }
}

/// Takes the first packet off `buffer`; `None` if it is not all there yet.
pub fn take(protocol: Protocol, buffer: &mut Vec<u8>) -> Option<Packet> {
    let mut length = 0usize;
    let mut header = 1;
    loop {
        let byte = *buffer.get(header)?;
        length |= usize::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        assert!(header < 5, "a remaining length of more than four bytes: {:02x?}", &buffer[..5]);
    }
    if buffer.len() < header + length {
        return None;
    }
    let frame: Vec<u8> = buffer.drain(..header + length).collect();
    Some(decode(protocol, frame[0], &frame[header..]))
}

fn decode(protocol: Protocol, first: u8, body: &[u8]) -> Packet {
    let mut rest = Cursor { protocol, bytes: body };
    let packet = match (first >> 4, first & 0x0F) {
        (2, 0) => {
            let flags = rest.byte();
            assert!(flags <= 1, "CONNACK flags {flags:#04x}");
            Packet::ConnAck { session_present: flags == 1, code: rest.byte(), properties: rest.properties() }
        }
        (3, flags) => Packet::Publish(rest.message(flags)),
        (4, 0) => Packet::PubAck(rest.ack()),
        (5, 0) => Packet::PubRec(rest.ack()),
        (6, 2) => Packet::PubRel(rest.ack()),
        (7, 0) => Packet::PubComp(rest.ack()),
        (9, 0) => {
            let (id, _) = (rest.two(), rest.properties());
            Packet::SubAck { id, codes: rest.remaining() }
        }
        (11, 0) => {
            let (id, _) = (rest.two(), rest.properties());
            Packet::UnsubAck { id, codes: rest.remaining() }
        }
        (13, 0) => Packet::PingResp,
        (14, 0) if protocol == V5 => match rest.bytes {
            [] => Packet::Disconnect { code: 0, properties: Properties::none() },
            _ => Packet::Disconnect { code: rest.byte(), properties: rest.properties_if_any() },
        },
        _ => panic!("a server may not send {first:#04x}, body {body:02x?}"),
    };
    assert!(rest.bytes.is_empty(), "bytes left behind {packet:?}: {:02x?}", rest.bytes);
    packet
}

struct Cursor<'a> {
    protocol: Protocol,
    bytes: &'a [u8],
}

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.bytes.split_at_checked(count).expect("the packet is longer than it says");
        self.bytes = rest;
        taken.to_vec()
    }

    fn remaining(&mut self) -> Vec<u8> {
        self.take(self.bytes.len())
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn two(&mut self) -> u16 {
        let bytes = self.take(2);
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    fn four(&mut self) -> u32 {
        (u32::from(self.two()) << 16) | u32::from(self.two())
    }

    fn variable(&mut self) -> u32 {
        let mut number = 0;
        for place in 0..4 {
            let byte = self.byte();
            number |= u32::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                return number;
            }
        }
        panic!("a variable byte integer of more than four bytes")
    }

    fn binary(&mut self) -> Vec<u8> {
        let length = self.two();
        self.take(usize::from(length))
    }

    fn string(&mut self) -> String {
        String::from_utf8(self.binary()).expect("strings are UTF-8")
    }

    fn properties_if_any(&mut self) -> Properties {
        if self.bytes.is_empty() { Properties::none() } else { self.properties() }
    }

    /// Nothing in 3.1.1, which has none.
    fn properties(&mut self) -> Properties {
        if self.protocol != V5 {
            return Properties::none();
        }
        let length = self.variable() as usize;
        let mut inner = Cursor { protocol: self.protocol, bytes: &self.take(length) };
        let mut properties = Properties::none();
        while !inner.bytes.is_empty() {
            let id = inner.byte();
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Value::Byte(inner.byte()),
                0x13 | 0x21 | 0x22 | 0x23 => Value::Two(inner.two()),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Four(inner.four()),
                0x0B => Value::Variable(inner.variable()),
                0x03 | 0x08 | 0x12 | 0x15 | 0x1A | 0x1C | 0x1F => Value::Text(inner.string()),
                0x09 | 0x16 => Value::Binary(inner.binary()),
                0x26 => Value::Pair(inner.string(), inner.string()),
                _ => panic!("there is no property {id:#04x}"),
            };
            properties.0.push((id, value));
        }
        properties
    }

    fn ack(&mut self) -> Ack {
        let id = self.two();
        assert_ne!(id, 0, "a packet identifier of 0");
        if self.bytes.is_empty() {
            return Ack { id, code: 0, properties: Properties::none() };
        }
        assert_eq!(self.protocol, V5, "an acknowledgement with a reason to a 3.1.1 client");
        Ack { id, code: self.byte(), properties: self.properties_if_any() }
    }

    fn message(&mut self, flags: u8) -> Message {
        let (dup, qos, retain) = (flags & 8 != 0, (flags >> 1) & 3, flags & 1 != 0);
        assert!(qos < 3, "QoS 3");
        assert!(qos > 0 || !dup, "DUP at QoS 0");
        let topic = self.string();
        let id = if qos > 0 { self.two() } else { 0 };
        assert_eq!(qos > 0, id != 0, "the packet identifier of a QoS {qos} PUBLISH is {id}");
        let properties = self.properties();
        Message { topic, payload: self.remaining(), qos, id, dup, retain, properties }
    }
}
