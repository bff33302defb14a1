//! The MQTT of the load generator: finds frames in a buffer, writes packets into one.
//!
//! Reading copies nothing, and writing allocates nothing once a buffer has grown. It accepts only packets that a server
//! may send to these clients; any other is an error that ends the measurement.

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;

/// The MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum Protocol {
    /// 3.1.1
    #[value(name = "3.1.1")]
    V311,
    /// 5.0
    #[value(name = "5")]
    V5,
}

/// One MQTT packet in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// The packet type, high nibble of the first byte.
    pub(crate) kind: u8,
    /// The flags, low nibble of the first byte.
    pub(crate) flags: u8,
    /// The bytes after the remaining length.
    pub(crate) body: &'a [u8],
}

/// Packet types sent by a server.
pub(crate) const CONNACK: u8 = 2;
/// PUBLISH: a message.
pub(crate) const PUBLISH: u8 = 3;
/// PUBACK: a QoS 1 message was acknowledged.
pub(crate) const PUBACK: u8 = 4;
/// SUBACK: filters were granted or refused.
pub(crate) const SUBACK: u8 = 9;
/// DISCONNECT, in MQTT 5: the server closes with a reason.
pub(crate) const DISCONNECT: u8 = 14;

/// Splits off the first frame; `None` if it is incomplete.
pub(crate) fn split(buffer: &[u8]) -> anyhow::Result<Option<(Frame<'_>, &[u8])>> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
    let Some((length, rest)) = variable_length(rest)? else { return Ok(None) };
    ensure!(length <= FRAME_MAX, "a packet of {length} bytes from the server");
    let frame = |(body, rest)| (Frame { kind: first >> 4, flags: first & 0x0f, body }, rest);
    Ok(rest.split_at_checked(length).map(frame))
}

/// Returns a variable byte integer and the bytes after it; `None` if it is incomplete.
pub(crate) fn variable_length(buffer: &[u8]) -> anyhow::Result<Option<(usize, &[u8])>> {
    let mut length = 0;
    for (at, byte) in buffer.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(buffer.get(at + 1..).map(|rest| (length, rest)));
        }
    }
    // [MQTT-1.5.5-1]: at most four bytes.
    ensure!(buffer.len() < 4, "a remaining length of more than four bytes");
    Ok(None)
}

/// A PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// The topic.
    pub(crate) topic: &'a [u8],
    /// The packet id, at QoS 1 and 2.
    pub(crate) packet_id: Option<u16>,
    /// The payload.
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a PUBLISH.
    pub(crate) fn parse(frame: Frame<'a>, protocol: Protocol) -> anyhow::Result<Self> {
        let (length, rest) = u16_first(frame.body)?;
        let (topic, rest) = rest.split_at_checked(length.into()).context("a PUBLISH shorter than its topic")?;
        let (packet_id, rest) = match frame.flags & 0b0110 {
            0 => (None, rest),
            _ => u16_first(rest).map(|(id, rest)| (Some(id), rest))?,
        };
        let payload = if protocol == Protocol::V5 { after_properties(rest)? } else { rest };
        Ok(Self { topic, packet_id, payload })
    }
}

/// Returns the packet id of a PUBACK.
///
/// # Errors
///
/// Its reason is not a success.
pub(crate) fn puback(body: &[u8]) -> anyhow::Result<u16> {
    let (id, reason) = puback_reason(body)?;
    ensure!(reason < 0x80, "an update was answered by PUBACK {reason:#04x}");
    Ok(id)
}

/// Returns the packet id and the reason of a PUBACK.
pub(crate) fn puback_reason(body: &[u8]) -> anyhow::Result<(u16, u8)> {
    let (id, rest) = u16_first(body)?;
    Ok((id, rest.first().copied().unwrap_or(0)))
}

/// Checks that a CONNACK accepts the connection.
pub(crate) fn connack(body: &[u8]) -> anyhow::Result<()> {
    match body.get(1) {
        Some(0) => Ok(()),
        code => bail!("the connection was refused: {code:?}"),
    }
}

/// Checks that a SUBACK grants `filters` filters.
pub(crate) fn suback(body: &[u8], filters: usize, protocol: Protocol) -> anyhow::Result<()> {
    let (_, rest) = u16_first(body)?;
    let codes = if protocol == Protocol::V5 { after_properties(rest)? } else { rest };
    ensure!(codes.len() == filters && codes.iter().all(|code| *code < 0x80), "filters were refused: {codes:02x?}");
    Ok(())
}

fn after_properties(buffer: &[u8]) -> anyhow::Result<&[u8]> {
    let (length, rest) = variable_length(buffer)?.context("a packet that ends in its property length")?;
    rest.get(length..).context("a packet shorter than its properties")
}

fn u16_first(buffer: &[u8]) -> anyhow::Result<(u16, &[u8])> {
    let (bytes, rest) = buffer.split_first_chunk::<2>().context("a packet that ends too early")?;
    Ok((u16::from_be_bytes(*bytes), rest))
}

/// A user name with its password.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Login<'a> {
    /// The user name.
    pub(crate) user: &'a str,
    /// The password.
    pub(crate) password: &'a str,
}

/// Writes a CONNECT with a clean session and no keep-alive, so that an idle device sends nothing.
pub(crate) fn write_connect(out: &mut Vec<u8>, protocol: Protocol, client_id: &str, login: Option<Login<'_>>) {
    write_connect_with(out, protocol, client_id, login, 0);
}

/// Writes a CONNECT with a clean session and a keep-alive in seconds; 0: none.
pub(crate) fn write_connect_with(
    out: &mut Vec<u8>,
    protocol: Protocol,
    client_id: &str,
    login: Option<Login<'_>>,
    keep_alive: u16,
) {
    write_packet(out, 0x10, |body| {
        write_text(body, b"MQTT");
        body.push(if protocol == Protocol::V5 { 5 } else { 4 });
        body.push(if login.is_some() { 0b1100_0010 } else { 0b0000_0010 });
        body.extend(keep_alive.to_be_bytes());
        write_no_properties(body, protocol);
        write_text(body, client_id.as_bytes());
        if let Some(Login { user, password }) = login {
            write_text(body, user.as_bytes());
            write_text(body, password.as_bytes());
        }
    });
}

/// Writes a CONNECT of MQTT 3.1.1 that continues the session of `client_id` and keeps it, without keep-alive.
pub(crate) fn write_persistent_connect(out: &mut Vec<u8>, client_id: &str) {
    write_packet(out, 0x10, |body| {
        write_text(body, b"MQTT");
        body.extend([4, 0, 0, 0]);
        write_text(body, client_id.as_bytes());
    });
}

/// Writes one SUBSCRIBE for all `filters` at one QoS.
pub(crate) fn write_subscribe(out: &mut Vec<u8>, protocol: Protocol, filters: &[&str], qos: u8) {
    // [MQTT-3.8.1-1]: the reserved flags are 0010.
    write_packet(out, 0x82, |body| {
        body.extend([0, 1]);
        write_no_properties(body, protocol);
        for filter in filters {
            write_text(body, filter.as_bytes());
            body.push(qos);
        }
    });
}

/// Writes a PUBLISH, at QoS 1 if it has a packet id, else at QoS 0.
pub(crate) fn write_publish(
    out: &mut Vec<u8>,
    protocol: Protocol,
    topic: &[u8],
    packet_id: Option<u16>,
    payload: &[u8],
) {
    write_publish_with(out, protocol, topic, packet_id, &[], payload);
}

/// Writes a PUBLISH with properties, at most 127 bytes of them, which MQTT 3.1.1 does not have.
pub(crate) fn write_publish_with(
    out: &mut Vec<u8>,
    protocol: Protocol,
    topic: &[u8],
    packet_id: Option<u16>,
    properties: &[u8],
    payload: &[u8],
) {
    let first = if packet_id.is_some() { 0x32 } else { 0x30 };
    write_packet(out, first, |body| {
        write_text(body, topic);
        if let Some(id) = packet_id {
            body.extend(id.to_be_bytes());
        }
        if protocol == Protocol::V5 {
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        body.extend(payload);
    });
}

/// Writes a successful PUBACK, which is the same in both versions.
pub(crate) fn write_puback(out: &mut Vec<u8>, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend([0x40, 2, high, low]);
}

/// Writes a packet: the first byte, the remaining length, and a body.
pub(crate) fn write_packet(out: &mut Vec<u8>, first: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(first);
    let start = out.len();
    body(out);
    let mut length = out.len() - start;
    let mut encoded = Vec::with_capacity(4);
    loop {
        let more = length > 0x7f;
        encoded.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    out.splice(start..start, encoded);
}

fn write_no_properties(out: &mut Vec<u8>, protocol: Protocol) {
    if protocol == Protocol::V5 {
        out.push(0);
    }
}

/// Writes a string with its length in two bytes.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(text.iter().take(length.into()));
}

/// The largest packet: larger than any of these measurements.
const FRAME_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let mut bytes = Vec::new();
        write_publish(&mut bytes, Protocol::V311, b"a/b", Some(7), &[b'x'; 300]);
        write_puback(&mut bytes, 9);
        for end in 0..bytes.len() {
            let part = bytes.get(..end).unwrap_or_default();
            let found = split(part).expect("well formed");
            // Two bytes of remaining length: the first frame is 1 + 2 + 5 + 2 + 300 bytes.
            assert_eq!(found.is_some(), end >= 310, "{end} bytes");
        }
        let (frame, rest) = split(&bytes).expect("well formed").expect("complete");
        let message = Message::parse(frame, Protocol::V311).expect("a PUBLISH");
        assert_eq!((message.topic, message.packet_id, message.payload.len()), (&b"a/b"[..], Some(7), 300));
        let (frame, rest) = split(rest).expect("well formed").expect("complete");
        assert_eq!((frame.kind, puback(frame.body).expect("a success"), rest), (PUBACK, 9, &[][..]));
    }

    #[test]
    fn both_versions_read_what_they_write() {
        for protocol in [Protocol::V311, Protocol::V5] {
            for packet_id in [None, Some(513)] {
                let mut bytes = Vec::new();
                write_publish(&mut bytes, protocol, b"t", packet_id, b"{}");
                let (frame, _) = split(&bytes).expect("well formed").expect("complete");
                let message = Message::parse(frame, protocol).expect("a PUBLISH");
                assert_eq!(message, Message { topic: b"t", packet_id, payload: b"{}" }, "{protocol:?}");
            }
        }
    }

    #[test]
    fn literal_bytes() {
        let mut bytes = Vec::new();
        write_connect(&mut bytes, Protocol::V311, "ab", None);
        assert_eq!(bytes, b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02ab");
        bytes.clear();
        write_connect(&mut bytes, Protocol::V5, "ab", None);
        assert_eq!(bytes, b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02ab");
        bytes.clear();
        write_persistent_connect(&mut bytes, "ab");
        assert_eq!(bytes, b"\x10\x0e\x00\x04MQTT\x04\x00\x00\x00\x00\x02ab");
        bytes.clear();
        write_subscribe(&mut bytes, Protocol::V5, &["a", "b"], 1);
        assert_eq!(bytes, b"\x82\x0b\x00\x01\x00\x00\x01a\x01\x00\x01b\x01");
    }

    #[test]
    fn what_does_not_accept_is_an_error() {
        let rows = [
            ("endless length", split(b"\x30\xff\xff\xff\xff\x01").is_err()),
            ("huge frame", split(b"\x30\xff\xff\xff\x7f").is_err()),
            ("CONNACK 5", connack(&[0, 5]).is_err()),
            ("CONNACK cut", connack(&[0]).is_err()),
            ("SUBACK 0x80", suback(&[0, 1, 0, 0x80], 2, Protocol::V311).is_err()),
            ("SUBACK of too few", suback(&[0, 1, 0], 2, Protocol::V311).is_err()),
            ("PUBACK 0x97", puback(&[0, 1, 0x97]).is_err()),
            ("topic cut", Message::parse(Frame { kind: 3, flags: 0, body: b"\x00\x05ab" }, Protocol::V311).is_err()),
            (
                "properties cut",
                Message::parse(Frame { kind: 3, flags: 0, body: b"\x00\x01a\x05" }, Protocol::V5).is_err(),
            ),
        ];
        for (label, failed) in rows {
            assert!(failed, "{label}");
        }
    }
}
