//! The packets that a session sends, read by OASIS MQTT 3.1.1 and 5.0.

use umbrad::mqtt::protocol::packet::{PacketId, Protocol, QoS, Reason};

/// A packet of the server. A 3.1.1 client receives no reasons: success stands for them.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// PUBLISH at this QoS.
    Publish {
        /// The delivery guarantee.
        qos: QoS,
        /// `Some` exactly for QoS 1 and 2.
        id: Option<PacketId>,
        /// True if it is sent again.
        dup: bool,
        /// The application message.
        payload: Vec<u8>,
    },
    /// PUBACK.
    PubAck(PacketId, Reason),
    /// PUBREC.
    PubRec(PacketId, Reason),
    /// PUBREL.
    PubRel(PacketId, Reason),
    /// PUBCOMP.
    PubComp(PacketId, Reason),
    /// SUBACK with so many reasons.
    SubAck(PacketId, usize),
    /// UNSUBACK.
    UnsubAck(PacketId),
    /// PINGRESP.
    PingResp,
}

/// Reads all of `bytes`, which have to be whole packets.
#[must_use]
pub fn read(protocol: Protocol, mut bytes: &[u8]) -> Vec<Sent> {
    let mut sent = Vec::new();
    while !bytes.is_empty() {
        let mut fields = Fields(bytes);
        let first = fields.take(1)[0];
        let length = fields.varint();
        let (mut body, rest) = (Fields(fields.take(length)), fields.0);
        sent.push(packet(protocol, first, &mut body));
        assert!(body.0.is_empty(), "bytes after the end of a packet {first:02x}");
        bytes = rest;
    }
    sent
}

fn packet(protocol: Protocol, first: u8, body: &mut Fields<'_>) -> Sent {
    match first {
        0x30..0x40 => publish(protocol, first, body),
        0x40 => Sent::PubAck(body.id(), body.reason(protocol)),
        0x50 => Sent::PubRec(body.id(), body.reason(protocol)),
        0x62 => Sent::PubRel(body.id(), body.reason(protocol)),
        0x70 => Sent::PubComp(body.id(), body.reason(protocol)),
        0x90 => {
            let id = body.id();
            body.properties(protocol);
            Sent::SubAck(id, std::mem::take(&mut body.0).len())
        }
        0xB0 => {
            let id = body.id();
            body.properties(protocol);
            let reasons = std::mem::take(&mut body.0).len();
            assert_eq!(reasons > 0, protocol == Protocol::V5);
            Sent::UnsubAck(id)
        }
        0xD0 => Sent::PingResp,
        other => panic!("a server does not send {other:02x} to a connected client"),
    }
}

fn publish(protocol: Protocol, first: u8, body: &mut Fields<'_>) -> Sent {
    let qos = match first >> 1 & 3 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => panic!("QoS 3"),
    };
    let topic = body.two();
    assert!(std::str::from_utf8(body.take(topic.into())).is_ok_and(|topic| !topic.is_empty()));
    let id = (qos != QoS::AtMostOnce).then(|| body.id());
    body.properties(protocol);
    Sent::Publish { qos, id, dup: first & 8 != 0, payload: std::mem::take(&mut body.0).to_vec() }
}

/// The rest of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(count).expect("the packet goes on");
        self.0 = rest;
        taken
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.take(1)[0], self.take(1)[0]])
    }

    fn id(&mut self) -> PacketId {
        PacketId::new(self.two()).expect("an identifier is not 0")
    }

    fn varint(&mut self) -> usize {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        panic!("a variable byte integer of five bytes")
    }

    fn properties(&mut self, protocol: Protocol) {
        if protocol == Protocol::V5 {
            let length = self.varint();
            self.take(length);
        }
    }

    /// A reason code and properties, which are left out where they say nothing.
    fn reason(&mut self, protocol: Protocol) -> Reason {
        if protocol == Protocol::V4 || self.0.is_empty() {
            return Reason::SUCCESS;
        }
        let reason = Reason(self.take(1)[0]);
        if !self.0.is_empty() {
            self.properties(protocol);
        }
        reason
    }
}
