//! The encoder of server packets, except PUBLISH.
//!
//! *Invariant:* no packet larger than the client's Maximum Packet Size is written. A larger packet is written without
//! its reason string [MQTT-3.2.2-19] [MQTT-3.14.2-3]. If it is still too large, the connection has to end.
//!
//! Properties and reason codes are omitted for a 3.1.1 client, and packets that 3.1.1 does not have are not written.

use crate::mqtt::protocol::{
    codec::put,
    packet::{ConnAck, PacketId, Protocol, Reason, ServerPacket},
    topic::is_clean,
};

/// The error for a packet that exceeds the client's Maximum Packet Size even without its reason string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet exceeds the client's maximum packet size")]
pub struct TooLarge;

/// Appends `packet` to `out`, in at most `bytes_max` bytes. Appends nothing if `protocol` has no such packet.
///
/// # Errors
///
/// [`TooLarge`]: nothing was written.
pub fn encode(protocol: Protocol, packet: &ServerPacket, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), TooLarge> {
    let start = out.len();
    write(protocol, packet, true, out);
    if out.len() - start > bytes_max {
        out.truncate(start);
        write(protocol, packet, false, out);
    }
    if out.len() - start > bytes_max {
        out.truncate(start);
        return Err(TooLarge); // [MQTT-3.1.2-24]
    }
    Ok(())
}

/// Writes `packet` regardless of its size, with its reason string if `explain` is set.
fn write(protocol: Protocol, packet: &ServerPacket, explain: bool, out: &mut Vec<u8>) {
    match packet {
        ServerPacket::ConnAck(connack) => connack_packet(protocol, connack, explain, out),
        ServerPacket::PubAck(id, reason, text) => ack(protocol, 0x40, *id, *reason, explained(explain, text), out),
        ServerPacket::PubRec(id, reason, text) => ack(protocol, 0x50, *id, *reason, explained(explain, text), out),
        ServerPacket::PubRel(id, reason) => ack(protocol, 0x62, *id, *reason, None, out),
        ServerPacket::PubComp(id, reason) => ack(protocol, 0x70, *id, *reason, None, out),
        ServerPacket::SubAck(id, reasons) => {
            let codes = reasons.iter().map(|reason| match protocol {
                Protocol::V4 => reason.subscribe_return_code(),
                Protocol::V5 => reason.0,
            });
            list(protocol, 0x90, *id, codes, out);
        }
        ServerPacket::UnsubAck(id, reasons) => match protocol {
            Protocol::V4 => ack(protocol, 0xB0, *id, Reason::SUCCESS, None, out),
            Protocol::V5 => list(protocol, 0xB0, *id, reasons.iter().map(|reason| reason.0), out),
        },
        ServerPacket::PingResp => out.extend_from_slice(&[0xD0, 0]),
        ServerPacket::Disconnect(reason, text) if protocol == Protocol::V5 => {
            let mut body = Vec::new();
            reason_and_text(*reason, explained(explain, text), &mut body);
            packet_of(0xE0, &body, out);
        }
        ServerPacket::Disconnect(..) => {} // [MQTT-3.14.0-1]: a 3.1.1 server does not send it.
    }
}

fn explained(explain: bool, text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|_| explain)
}

/// Writes PUBACK, PUBREC, PUBREL or PUBCOMP.
fn ack(protocol: Protocol, first_byte: u8, id: PacketId, reason: Reason, text: Option<&str>, out: &mut Vec<u8>) {
    let [high, low] = id.get().to_be_bytes();
    // Success, the common case, takes four bytes in both versions.
    if protocol == Protocol::V4 || (reason == Reason::SUCCESS && text.is_none()) {
        out.extend_from_slice(&[first_byte, 2, high, low]);
        return;
    }
    let mut body = vec![high, low];
    reason_and_text(reason, text, &mut body);
    packet_of(first_byte, &body, out);
}

/// Writes SUBACK or UNSUBACK, with one code per filter.
fn list(protocol: Protocol, first_byte: u8, id: PacketId, codes: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let mut body = id.get().to_be_bytes().to_vec();
    if protocol == Protocol::V5 {
        body.push(0); // No properties.
    }
    body.extend(codes);
    packet_of(first_byte, &body, out);
}

fn connack_packet(protocol: Protocol, connack: &ConnAck, explain: bool, out: &mut Vec<u8>) {
    // [MQTT-3.2.2-6]
    let session_present = u8::from(connack.session_present && connack.reason == Reason::SUCCESS);
    if protocol == Protocol::V4 {
        if let Some(code) = connack.reason.connect_return_code() {
            packet_of(0x20, &[session_present, code], out);
        }
        return;
    }
    let mut properties = Vec::new();
    if let Some(limits) = &connack.limits {
        properties.push(0x21);
        put::two(limits.receive_maximum.get(), &mut properties);
        properties.push(0x27);
        put::four(limits.maximum_packet_size, &mut properties);
        properties.push(0x22);
        put::two(limits.topic_alias_maximum, &mut properties);
        if let Some(seconds) = limits.session_expiry {
            properties.push(0x11);
            put::four(seconds, &mut properties);
        }
        if let Some(seconds) = limits.server_keep_alive {
            properties.push(0x13);
            put::two(seconds, &mut properties);
        }
    }
    if let Some(id) = &connack.assigned_client_id {
        properties.push(0x12);
        put::length_prefixed(id.as_bytes(), &mut properties);
    }
    if let Some(text) = connack.reason_string.as_ref().filter(|_| explain) {
        reason_string(text, &mut properties);
    }
    let mut body = vec![session_present, connack.reason.0];
    put::varint(properties.len(), &mut body);
    body.append(&mut properties);
    packet_of(0x20, &body, out);
}

/// Writes the reason code and properties. Absent properties are omitted, and then a reason code of 0 too.
fn reason_and_text(reason: Reason, text: Option<&str>, body: &mut Vec<u8>) {
    if reason == Reason::SUCCESS && text.is_none() {
        return;
    }
    body.push(reason.0);
    if let Some(text) = text {
        let mut properties = Vec::new();
        reason_string(text, &mut properties);
        put::varint(properties.len(), body);
        body.append(&mut properties);
    }
}

/// Writes a reason string. It may quote the client, so characters that client libraries treat as malformed are
/// replaced.
fn reason_string(text: &str, properties: &mut Vec<u8>) {
    let end = text.floor_char_boundary(REASON_STRING_BYTES_MAX);
    let text = text.get(..end).unwrap_or_default();
    properties.push(0x1F);
    if is_clean(text) {
        return put::length_prefixed(text.as_bytes(), properties);
    }
    let shown = |c: char| if is_clean(c.encode_utf8(&mut [0; 4])) { c } else { char::REPLACEMENT_CHARACTER };
    put::length_prefixed(text.chars().map(shown).collect::<String>().as_bytes(), properties);
}

fn packet_of(first_byte: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(first_byte);
    put::varint(body.len(), out);
    out.extend_from_slice(body);
}

/// Bytes at which a reason string is truncated.
const REASON_STRING_BYTES_MAX: usize = 1024;
