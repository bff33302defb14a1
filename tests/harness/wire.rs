//! MQTT 3.1.1 and 5 packets as bytes: what a client writes and what it reads.
//!
//! Written from the standards (OASIS MQTT 3.1.1 and 5.0), not from the server. Encoding checks nothing, so that a test
//! can say what no client should; decoding panics on anything the standard does not allow a server to send.

use std::fmt;

/// The protocol level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    V4 = 4,
    V5 = 5,
}

pub use Protocol::{V4, V5};

/// Both, for tests that hold of each.
pub const BOTH: [Protocol; 2] = [V4, V5];

/// Property identifiers, MQTT 5.0 section 2.2.2.2.
pub mod prop {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
}

/// The value of a property, by its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

/// Properties in the order of the wire.
#[derive(Clone, Default, PartialEq)]
pub struct Properties(pub Vec<(u8, Value)>);

impl Properties {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn with(mut self, id: u8, value: Value) -> Self {
        self.0.push((id, value));
        self
    }

    pub fn get(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|(found, _)| *found == id).map(|(_, value)| value)
    }

    /// Every value of a property that may come more than once.
    pub fn all(&self, id: u8) -> Vec<&Value> {
        self.0.iter().filter(|(found, _)| *found == id).map(|(_, value)| value).collect()
    }

    pub fn text(&self, id: u8) -> Option<&str> {
        match self.get(id)? {
            Value::Text(text) => Some(text),
            other => panic!("property {id:#04x} is {other:?}"),
        }
    }

    /// The value of a property that is a number.
    pub fn number(&self, id: u8) -> Option<u32> {
        match self.get(id)? {
            Value::Byte(number) => Some(u32::from(*number)),
            Value::Two(number) => Some(u32::from(*number)),
            Value::Four(number) | Value::Variable(number) => Some(*number),
            other => panic!("property {id:#04x} is {other:?}"),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (id, value) in &self.0 {
            body.push(*id);
            match value {
                Value::Byte(number) => body.push(*number),
                Value::Two(number) => body.extend(number.to_be_bytes()),
                Value::Four(number) => body.extend(number.to_be_bytes()),
                Value::Variable(number) => body.extend(variable(*number)),
                Value::Text(text) => body.extend(string(text)),
                Value::Binary(bytes) => body.extend(binary(bytes)),
                Value::Pair(name, value) => body.extend([string(name), string(value)].concat()),
            }
        }
        [variable(body.len() as u32), body].concat()
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(id, value)| (format!("{id:#04x}"), value))).finish()
    }
}

/// A variable byte integer.
pub fn variable(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7F) as u8;
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

/// Binary data: two bytes of length, then the bytes.
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A UTF-8 string.
pub fn string(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// A packet from its first byte and what follows the remaining length.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], variable(body.len() as u32).as_slice(), body].concat()
}

/// A CONNECT to be.
#[derive(Clone, Debug)]
pub struct Connect {
    pub protocol: Protocol,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Properties,
    pub will: Option<(Publish, u8)>,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
}

impl Connect {
    /// A clean session that may be silent for ever.
    pub fn new(protocol: Protocol, client_id: &str) -> Self {
        let client_id = client_id.to_owned();
        Self {
            protocol,
            client_id,
            clean: true,
            keep_alive: 0,
            properties: Properties::none(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// A session that goes on and outlives the connection (by an hour, in MQTT 5).
    pub fn persistent(protocol: Protocol, client_id: &str) -> Self {
        let connect = Self { clean: false, ..Self::new(protocol, client_id) };
        if protocol == V5 { connect.property(prop::SESSION_EXPIRY, Value::Four(3_600)) } else { connect }
    }

    pub fn clean(self, clean: bool) -> Self {
        Self { clean, ..self }
    }

    pub fn keep_alive(self, keep_alive: u16) -> Self {
        Self { keep_alive, ..self }
    }

    pub fn property(self, id: u8, value: Value) -> Self {
        Self { properties: self.properties.with(id, value), ..self }
    }

    pub fn will(self, message: Publish, qos: u8) -> Self {
        Self { will: Some((message, qos)), ..self }
    }

    /// With a user name and password.
    pub fn user(self, name: &str, password: impl AsRef<[u8]>) -> Self {
        Self { username: Some(name.to_owned()), password: Some(password.as_ref().to_vec()), ..self }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = string(&self.client_id);
        if let Some((will, qos)) = &self.will {
            flags |= 0x04 | (qos << 3) | (u8::from(will.retain) << 5);
            if self.protocol == V5 {
                payload.extend(will.properties.encode());
            }
            payload.extend([string(&will.topic), binary(&will.payload)].concat());
        }
        if let Some(username) = &self.username {
            flags |= 0x80;
            payload.extend(string(username));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            payload.extend(binary(password));
        }
        let mut body = [string("MQTT"), vec![self.protocol as u8, flags]].concat();
        body.extend(self.keep_alive.to_be_bytes());
        if self.protocol == V5 {
            body.extend(self.properties.encode());
        }
        body.extend(payload);
        frame(0x10, &body)
    }
}

/// A PUBLISH to be, or a will.
#[derive(Clone, Debug)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub dup: bool,
    pub properties: Properties,
}

impl Publish {
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        let (topic, payload) = (topic.to_owned(), payload.as_ref().to_vec());
        Self { topic, payload, retain: false, dup: false, properties: Properties::none() }
    }

    pub fn retain(self) -> Self {
        Self { retain: true, ..self }
    }

    pub fn dup(self) -> Self {
        Self { dup: true, ..self }
    }

    pub fn property(self, id: u8, value: Value) -> Self {
        Self { properties: self.properties.with(id, value), ..self }
    }

    /// The packet; `id` is left out at QoS 0.
    pub fn encode(&self, protocol: Protocol, qos: u8, id: u16) -> Vec<u8> {
        let mut body = string(&self.topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if protocol == V5 {
            body.extend(self.properties.encode());
        }
        body.extend(&self.payload);
        frame(0x30 | (u8::from(self.dup) << 3) | (qos << 1) | u8::from(self.retain), &body)
    }
}

/// PUBACK 0x40, PUBREC 0x50, PUBREL 0x62 or PUBCOMP 0x70, saying success.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    frame(first, &id.to_be_bytes())
}

/// SUBSCRIBE; each filter comes with its options byte.
pub fn subscribe(protocol: Protocol, id: u16, filters: &[(&str, u8)], properties: &Properties) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if protocol == V5 {
        body.extend(properties.encode());
    }
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    frame(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(protocol: Protocol, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if protocol == V5 {
        body.push(0);
    }
    for filter in filters {
        body.extend(string(filter));
    }
    frame(0xA2, &body)
}

pub const PINGREQ: [u8; 2] = [0xC0, 0];
pub const DISCONNECT: [u8; 2] = [0xE0, 0];
