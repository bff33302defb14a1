//! The guarded codec: the input is what a socket delivers.
//!
//! However it is cut into pieces, the same packets are split off, and no byte is lost or made up. What decodes and is
//! written again, by the crate or by the standard, decodes to the same. What refuses a CONNECT is a CONNACK or silence.

#![no_main]

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use umbra_fuzz::client_packet;
use umbrad::mqtt::protocol::{
    codec::{self, Frame, FrameLimits, decode, decode_connect, split_frame},
    message::{Delivery, Message},
    packet::{ClientPacket, Properties, Protocol, Publish, ServerPacket},
    topic::TopicName,
    violation::Violation,
};

fuzz_target!(|data: &[u8]| {
    let whole = Split::of([data]);
    assert_eq!([whole.frames.iter().flat_map(Frame::as_bytes).copied().collect(), whole.rest.clone()].concat(), data);
    for length in [1, 2, 3, 7, 64] {
        let pieces = Split::of(data.chunks(length));
        assert!(pieces == whole, "in pieces of {length}: {pieces:?}; in one: {whole:?}");
    }
    if whole.violation.is_none() {
        assert!(!begins_with_a_packet(&whole.rest), "a whole packet was left");
    }
    for frame in &whole.frames {
        assert_eq!(packet_length(frame.as_bytes()), Some(frame.as_bytes().len()));
        connect(frame);
        for protocol in [Protocol::V4, Protocol::V5] {
            if let Ok(packet) = decode(protocol, frame.clone()) {
                again(protocol, &packet);
            }
        }
    }
});

const LIMITS: FrameLimits = FrameLimits { packet_bytes_max: 1024, dup_on_control: false };

/// The result of splitting a stream.
#[derive(Debug)]
struct Split {
    frames: Vec<Frame>,
    rest: Vec<u8>,
    violation: Option<Violation>,
}

impl Split {
    fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut buffer, mut frames, mut violation) = (BytesMut::new(), Vec::new(), None);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while violation.is_none() {
                match split_frame(&mut buffer, LIMITS) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(found) => violation = Some(found),
                }
            }
        }
        Self { frames, rest: buffer.to_vec(), violation }
    }
}

impl PartialEq for Split {
    fn eq(&self, other: &Self) -> bool {
        self.frames.iter().map(Frame::as_bytes).eq(other.frames.iter().map(Frame::as_bytes))
            && self.rest == other.rest
            && self.violation == other.violation
    }
}

/// Returns the length of the packet that `bytes` begins with; `None` if they are too few to know it.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.iter().skip(1).position(|byte| *byte < 0x80)? + 1;
    let digits = bytes.get(1..=length)?.iter().rev();
    Some(1 + length + digits.fold(0, |value, digit| value * 0x80 + usize::from(digit & 0x7F)))
}

fn begins_with_a_packet(bytes: &[u8]) -> bool {
    packet_length(bytes).is_some_and(|length| length <= bytes.len())
}

fn connect(frame: &Frame) {
    match decode_connect(frame.clone()) {
        Ok(connect) => {
            let written = client_packet::write(connect.protocol, &ClientPacket::Connect(Box::new(connect.clone())));
            assert_eq!(decode_connect(one_frame(&written)), Ok(connect));
        }
        Err(refusal) => {
            let mut answer = Vec::new();
            refusal.answer(&mut answer);
            let sound = match answer.as_slice() {
                [] => true,
                [0x20, 2, 0, code] => refusal.protocol == Some(Protocol::V4) && (1..=5).contains(code),
                [0x20, 3, 0, code, 0] => refusal.protocol == Some(Protocol::V5) && *code >= 0x80,
                _ => false,
            };
            assert!(sound, "{refusal:?} is answered {answer:02x?}");
        }
    }
}

fn one_frame(written: &[u8]) -> Frame {
    let unlimited = FrameLimits { packet_bytes_max: usize::MAX, dup_on_control: false };
    let mut buffer = BytesMut::from(written);
    let frame = split_frame(&mut buffer, unlimited).expect("sound").expect("whole");
    assert!(buffer.is_empty());
    frame
}

/// Written by the standard, and by the crate where it can, `packet` is decoded again.
fn again(protocol: Protocol, packet: &ClientPacket) {
    let is_read_as = |written: &[u8], expected: &ClientPacket| {
        assert_eq!(decode(protocol, one_frame(written)).as_ref(), Ok(expected), "{protocol:?} {written:02x?}");
    };
    is_read_as(&client_packet::write(protocol, packet), packet);
    let answer = match packet {
        ClientPacket::Publish(publish) => {
            let (written, expected) = delivered(protocol, publish);
            return is_read_as(&written, &ClientPacket::Publish(expected));
        }
        ClientPacket::PubAck(id, reason) => ServerPacket::PubAck(*id, *reason, None),
        ClientPacket::PubRec(id, reason) => ServerPacket::PubRec(*id, *reason, None),
        ClientPacket::PubRel(id) => ServerPacket::PubRel(*id, umbrad::mqtt::protocol::packet::Reason::SUCCESS),
        ClientPacket::PubComp(id) => ServerPacket::PubComp(*id, umbrad::mqtt::protocol::packet::Reason::SUCCESS),
        ClientPacket::Disconnect(reason, None) if protocol == Protocol::V5 => ServerPacket::Disconnect(*reason, None),
        _ => return,
    };
    let mut written = Vec::new();
    codec::encode(protocol, &answer, usize::MAX, &mut written).expect("there is no limit");
    is_read_as(&written, packet);
}

/// `publish` as it goes out to a subscriber, and what that one has to read. An alias ends with its connection, and
/// 3.1.1 has no properties.
fn delivered(protocol: Protocol, publish: &Publish) -> (Vec<u8>, Publish) {
    let Publish { topic, payload, qos, id, dup, retain, properties, .. } = publish.clone();
    let topic = topic.unwrap_or_else(|| TopicName::new("t").expect("valid"));
    let now = Instant::now();
    let message = Message::new(topic.clone(), payload.clone(), qos, retain, properties.clone(), now);
    let delivery = Delivery { retain, ..Delivery::new(Arc::new(message), qos) };
    let mut written = Vec::new();
    assert!(delivery.write(protocol, id, dup, now, usize::MAX, &mut written));
    let properties: Option<Box<Properties>> = properties.filter(|_| protocol == Protocol::V5);
    (written, Publish { topic: Some(topic), alias: None, payload, qos, id, dup, retain, properties })
}
