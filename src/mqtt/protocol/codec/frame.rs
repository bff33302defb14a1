//! Framing: splits single packets off the bytes that a socket delivered.
//!
//! Some errors are refused by the fixed header alone, without waiting for the rest: a packet type that clients do not
//! send, wrong flags, or a length above the limit. This bounds the bytes buffered for one packet.

use bytes::BytesMut;

use crate::mqtt::protocol::{
    codec::{
        put::{self, varint_len},
        reader::peek_varint,
    },
    violation::Violation,
};

/// Limits of a connection's packets.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Bytes of one packet, its fixed header included.
    pub packet_bytes_max: usize,
    /// True for MQTT 3.1, where a client may resend PUBREL, SUBSCRIBE and UNSUBSCRIBE with the DUP flag. The flag is
    /// removed.
    pub dup_on_control: bool,
}

/// One whole packet, as bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(crate) bytes: BytesMut,
    header_len: usize,
}

/// The type of a packet that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    Unsubscribe,
    PingReq,
    Disconnect,
    Auth,
}

/// Splits the first whole packet off `buffer`; `None` means that more bytes are needed.
///
/// # Errors
///
/// A violation in the fixed header. Nothing after it can be decoded.
pub fn split_frame(buffer: &mut BytesMut, limits: FrameLimits) -> Result<Option<Frame>, Violation> {
    let Some((header_len, bytes)) = peek(buffer, limits)? else { return Ok(None) };
    if buffer.len() < bytes {
        return Ok(None);
    }
    let mut bytes = buffer.split_to(bytes);
    if limits.dup_on_control
        && let Some(first) = bytes.first_mut()
    {
        *first = without_dup(*first);
    }
    Ok(Some(Frame { bytes, header_len }))
}

/// Returns the length of the packet at the start of `buffer`, if it is whole and its fixed header is valid.
#[must_use]
pub fn whole_packet(buffer: &[u8], limits: FrameLimits) -> Option<usize> {
    let (_, bytes) = peek(buffer, limits).ok()??;
    (bytes <= buffer.len()).then_some(bytes)
}

/// Returns the bytes of the fixed header and of the packet at the start of `buffer`; `None` if the header is not whole.
fn peek(buffer: &[u8], limits: FrameLimits) -> Result<Option<(usize, usize)>, Violation> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
    check_first_byte(if limits.dup_on_control { without_dup(*first) } else { *first })?;
    let Some((remaining, length_len)) = peek_varint(rest)? else { return Ok(None) };
    let header_len = 1 + length_len;
    let bytes = header_len + remaining;
    match bytes > limits.packet_bytes_max {
        true => Err(Violation::PacketTooLarge { bytes, max: limits.packet_bytes_max }),
        false => Ok(Some((header_len, bytes))),
    }
}

impl Frame {
    /// Returns the bytes of the packet, its fixed header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns a packet with the same first byte and another body.
    pub(crate) fn with_body(&self, parts: &[&[u8]]) -> Self {
        let mut bytes = vec![self.first_byte()];
        put::varint(parts.iter().map(|part| part.len()).sum(), &mut bytes);
        let header_len = bytes.len();
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Self { bytes: BytesMut::from(&*bytes), header_len }
    }

    pub(crate) fn first_byte(&self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> Result<Kind, Violation> {
        check_first_byte(self.first_byte())
    }

    /// Returns the bytes after the fixed header.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    /// Returns true if the remaining length is in its shortest form, which MQTT 5 requires and 3.1.1 does not.
    pub(crate) fn length_is_shortest(&self) -> bool {
        varint_len(self.body().len()) + 1 == self.header_len
    }
}

#[cfg(feature = "fuzzing")]
impl Frame {
    /// Returns the bytes of the packet.
    #[doc(hidden)]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the first byte of a packet of MQTT 3.1 as 3.1.1 has it. Section 2.1 of MQTT 3.1.
fn without_dup(byte: u8) -> u8 {
    const DUP: u8 = 0b1000;
    match byte >> 4 {
        6 | 8 | 10 => byte & !DUP,
        _ => byte,
    }
}

fn check_first_byte(byte: u8) -> Result<Kind, Violation> {
    let (kind, flags) = match byte >> 4 {
        1 => (Kind::Connect, 0),
        3 => return Ok(Kind::Publish),
        4 => (Kind::PubAck, 0),
        5 => (Kind::PubRec, 0),
        6 => (Kind::PubRel, 2),
        7 => (Kind::PubComp, 0),
        8 => (Kind::Subscribe, 2),
        10 => (Kind::Unsubscribe, 2),
        12 => (Kind::PingReq, 0),
        14 => (Kind::Disconnect, 0),
        15 => (Kind::Auth, 0),
        server @ (2 | 9 | 11 | 13) => return Err(Violation::ServerPacketType(server)),
        other => return Err(Violation::UnknownPacketType(other)),
    };
    // [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1]
    if byte & 0x0F == flags { Ok(kind) } else { Err(Violation::ReservedBits("the fixed header")) }
}
