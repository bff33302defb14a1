//! A reader for the data types of MQTT in the body of one packet. It never reads beyond the end.

use crate::mqtt::protocol::{codec::put::varint_len, violation::Violation};

/// The unread rest of a packet or property section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the number of unread bytes.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn one(&mut self) -> Result<u8, Violation> {
        let (byte, rest) = self.rest.split_first().ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(crate) fn two(&mut self) -> Result<u16, Violation> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(crate) fn four(&mut self) -> Result<u32, Violation> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// Reads a variable byte integer, which must be in its shortest form [MQTT-1.5.5-1].
    pub(crate) fn varint(&mut self) -> Result<usize, Violation> {
        let (value, length) = peek_varint(self.rest)?.ok_or(Violation::Truncated)?;
        if length != varint_len(value) {
            return Err(Violation::VariableInteger);
        }
        self.take(length)?;
        Ok(value)
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.two()?;
        self.take(length.into())
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        // [MQTT-1.5.4-1], which surrogates break too, and [MQTT-1.5.4-2].
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.contains(&0) => Ok(text),
            _ => Err(Violation::BadString),
        }
    }

    /// Checks that no bytes are left.
    pub(crate) fn end(self) -> Result<(), Violation> {
        if self.is_empty() { Ok(()) } else { Err(Violation::TrailingBytes) }
    }
}

/// Returns the variable byte integer at the start of `bytes` and its length; `None` if it continues after them.
///
/// # Errors
///
/// [`Violation::VariableInteger`] if it does not end with its fourth byte.
pub(crate) fn peek_varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, Violation> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Violation::VariableInteger) }
}
