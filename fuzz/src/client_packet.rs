//! The packets of a client, written from OASIS MQTT 3.1.1 and 5.0: what the codec reads has to be read the same again.

use umbrad::mqtt::protocol::packet::{
    ClientPacket, Connect, PacketId, Properties, Protocol, Publish, Reason, RetainHandling, Subscribe, Subscription,
    Will,
};

/// `packet` as a client would send it; what is refused in it (a filter that is none) stands there as another refused
/// one.
#[must_use]
pub fn write(protocol: Protocol, packet: &ClientPacket) -> Vec<u8> {
    match packet {
        ClientPacket::Connect(connect) => write_connect(connect),
        ClientPacket::Publish(publish) => write_publish(protocol, publish),
        ClientPacket::PubAck(id, reason) => ack(protocol, 0x40, *id, *reason),
        ClientPacket::PubRec(id, reason) => ack(protocol, 0x50, *id, *reason),
        ClientPacket::PubRel(id) => ack(protocol, 0x62, *id, Reason::SUCCESS),
        ClientPacket::PubComp(id) => ack(protocol, 0x70, *id, Reason::SUCCESS),
        ClientPacket::Subscribe(subscribe) => write_subscribe(protocol, subscribe),
        ClientPacket::Unsubscribe(id, filters) => {
            let mut body = Body::with_id(*id);
            body.properties(protocol, &Body::default());
            for filter in filters {
                body.text(&filter.as_ref().map_or(REFUSED.to_owned(), ToString::to_string));
            }
            body.packet(0xA2)
        }
        ClientPacket::PingReq => Body::default().packet(0xC0),
        ClientPacket::Disconnect(reason, expiry) => {
            let (mut body, mut properties) = (Body::default(), Body::default());
            if protocol == Protocol::V5 {
                body.0.push(reason.0);
                properties.option(0x11, expiry.map(u32::to_be_bytes));
                body.properties(protocol, &properties);
            }
            body.packet(0xE0)
        }
    }
}

/// No filter.
const REFUSED: &str = "a#";

fn write_connect(connect: &Connect) -> Vec<u8> {
    let Connect { protocol, client_id, clean_start, keep_alive, will, username, password, .. } = connect;
    let (mut body, mut properties) = (Body::default(), Body::default());
    body.text(if connect.is_3_1 { "MQIsdp" } else { "MQTT" });
    let level = match protocol {
        Protocol::V4 if connect.is_3_1 => 3,
        Protocol::V4 => 4,
        Protocol::V5 => 5,
    };
    body.0.push(level | u8::from(connect.bridge) << 7);
    let will_flags = will.as_ref().map_or(0, |will| 4 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
    let login = u8::from(username.is_some()) << 7 | u8::from(password.is_some()) << 6;
    body.0.push(u8::from(*clean_start) << 1 | will_flags | login);
    body.0.extend(keep_alive.to_be_bytes());
    properties.0.push(0x11);
    properties.0.extend(connect.session_expiry.to_be_bytes());
    properties.0.push(0x21);
    properties.0.extend(connect.receive_maximum.get().to_be_bytes());
    properties.option(0x27, connect.maximum_packet_size.map(u32::to_be_bytes));
    properties.0.extend([0x17, u8::from(connect.request_problem_information)]);
    properties.option_text(0x15, connect.authentication_method.as_deref());
    body.properties(*protocol, &properties);
    body.text(client_id);
    if let Some(Will { topic, payload, delay, properties, .. }) = will {
        let mut section = message_properties(properties.as_deref());
        section.0.push(0x18);
        section.0.extend(delay.to_be_bytes());
        body.properties(*protocol, &section);
        body.text(topic.as_str());
        body.binary(payload);
    }
    if let Some(username) = username {
        body.text(username);
    }
    if let Some(password) = password {
        body.binary(password);
    }
    body.packet(0x10)
}

fn write_publish(protocol: Protocol, publish: &Publish) -> Vec<u8> {
    let Publish { topic, alias, payload, qos, id, dup, retain, properties } = publish;
    let mut body = Body::default();
    body.text(topic.as_ref().map_or("", |topic| topic.as_str()));
    body.0.extend(id.map(|id| id.get().to_be_bytes()).into_iter().flatten());
    let mut section = message_properties(properties.as_deref());
    section.option(0x23, alias.map(|alias| alias.get().to_be_bytes()));
    body.properties(protocol, &section);
    body.0.extend_from_slice(payload);
    body.packet(0x30 | u8::from(*dup) << 3 | (*qos as u8) << 1 | u8::from(*retain))
}

fn write_subscribe(protocol: Protocol, subscribe: &Subscribe) -> Vec<u8> {
    let (mut body, mut properties) = (Body::with_id(subscribe.id), Body::default());
    if let Some(id) = subscribe.subscription_id {
        properties.0.push(0x0B);
        properties.varint(id as usize);
    }
    body.properties(protocol, &properties);
    for filter in &subscribe.filters {
        let Ok(Subscription { filter, qos, no_local, retain_as_published, retain_handling }) = filter else {
            body.text(REFUSED);
            body.0.push(0);
            continue;
        };
        let handling = match retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1,
            RetainHandling::DoNotSend => 2,
        };
        body.text(&filter.to_string());
        body.0.push(*qos as u8 | u8::from(*no_local) << 2 | u8::from(*retain_as_published) << 3 | handling << 4);
    }
    body.packet(0x82)
}

fn ack(protocol: Protocol, first_byte: u8, id: PacketId, reason: Reason) -> Vec<u8> {
    let mut body = Body::with_id(id);
    if protocol == Protocol::V5 {
        body.0.push(reason.0);
        body.properties(protocol, &Body::default());
    }
    body.packet(first_byte)
}

fn message_properties(properties: Option<&Properties>) -> Body {
    let mut section = Body::default();
    let Some(properties) = properties else { return section };
    section.option(0x01, properties.payload_format_indicator.map(|indicator| [indicator]));
    section.option(0x02, properties.message_expiry.map(u32::to_be_bytes));
    section.option_text(0x03, properties.content_type.as_deref());
    section.option_text(0x08, properties.response_topic.as_ref().map(|topic| topic.as_str()));
    if let Some(data) = &properties.correlation_data {
        section.0.push(0x09);
        section.binary(data);
    }
    for (name, value) in &properties.user {
        section.0.push(0x26);
        section.text(name);
        section.text(value);
    }
    section
}

/// The bytes after the fixed header, or those of the properties.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn with_id(id: PacketId) -> Self {
        Self(id.get().to_be_bytes().to_vec())
    }

    fn text(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }

    fn binary(&mut self, bytes: &[u8]) {
        self.0.extend(u16::try_from(bytes.len()).expect("it was read from a length of two bytes").to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: usize) {
        while value > 0x7F {
            self.0.push(0x80 | (value % 0x80) as u8);
            value /= 0x80;
        }
        self.0.push(value as u8);
    }

    fn option<const N: usize>(&mut self, property: u8, value: Option<[u8; N]>) {
        if let Some(value) = value {
            self.0.push(property);
            self.0.extend(value);
        }
    }

    fn option_text(&mut self, property: u8, text: Option<&str>) {
        if let Some(text) = text {
            self.0.push(property);
            self.text(text);
        }
    }

    /// MQTT 5 alone has properties.
    fn properties(&mut self, protocol: Protocol, properties: &Self) {
        if protocol == Protocol::V5 {
            self.varint(properties.0.len());
            self.0.extend_from_slice(&properties.0);
        }
    }

    fn packet(self, first_byte: u8) -> Vec<u8> {
        let mut header = Self(vec![first_byte]);
        header.varint(self.0.len());
        [header.0, self.0].concat()
    }
}
