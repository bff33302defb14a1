//! The frame of every stored value: a format byte before it and a checksum after it.
//!
//! ```text
//! format (1 byte) · payload · CRC-32 of table, key, format and payload (4 bytes, little-endian)
//! ```
//!
//! The checksum covers the key, so a valid value under a wrong key is detected. A reader reports a newer format instead
//! of guessing. New fields do not raise the format: a payload ends in *extensions*, each a tag, a length and its bytes.
//! An older record has fewer of them.

use crate::store::codec::{DecodeError, Decoder, put_len, put_u64};

/// The format that this program writes, and the newest it reads.
pub(super) const FORMAT: u8 = 1;

const CHECKSUM_BYTES: usize = 4;

/// Clears `out` and begins a frame in it.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.push(FORMAT);
}

/// Ends the frame begun in `out`, stored under `key` of `table`.
pub(super) fn finish(out: &mut Vec<u8>, table: &str, key: &[u8]) {
    let checksum = checksum(table, key, out);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// Returns the payload of a frame found under `key` of `table`.
pub(super) fn open<'a>(framed: &'a [u8], table: &str, key: &[u8]) -> Result<Decoder<'a>, DecodeError> {
    let (body, found) = framed.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Truncated)?;
    let (format, payload) = body.split_first().ok_or(DecodeError::Truncated)?;
    if u32::from_le_bytes(*found) != checksum(table, key, body) {
        return Err(DecodeError::Checksum);
    }
    if *format != FORMAT {
        return Err(DecodeError::Format { found: (*format).into(), supported: FORMAT.into() });
    }
    Ok(Decoder::new(payload))
}

/// Appends an extension with the bytes written by `write`.
pub(super) fn put_extension(out: &mut Vec<u8>, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    write(&mut bytes);
    put_u64(out, tag);
    put_len(out, bytes.len());
    out.extend_from_slice(&bytes);
}

/// Reads the extensions at the end of a payload. `read` returns true if it knows the tag; an unknown one comes from a
/// newer program.
pub(super) fn extensions<'a>(
    mut payload: Decoder<'a>,
    mut read: impl FnMut(u64, Decoder<'a>) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    while !payload.is_empty() {
        let tag = payload.u64()?;
        let length = payload.count()?;
        if !read(tag, Decoder::new(payload.bytes(length)?))? {
            let found = u32::try_from(tag).unwrap_or(u32::MAX);
            return Err(DecodeError::Format {
                found: u32::from(FORMAT).saturating_add(found),
                supported: FORMAT.into(),
            });
        }
    }
    Ok(())
}

/// Checks that a payload has no extensions.
pub(super) fn no_extensions(payload: Decoder<'_>) -> Result<(), DecodeError> {
    extensions(payload, |_, _| Ok(false))
}

fn checksum(table: &str, key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(table.as_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn framed() -> Vec<u8> {
        let mut out = vec![9, 9];
        begin(&mut out);
        out.extend_from_slice(b"payload");
        finish(&mut out, "state", b"key");
        out
    }

    #[test]
    fn a_frame_opens_only_under_its_own_key() {
        let value = framed();
        assert_eq!(open(&value, "state", b"key").unwrap().bytes(7), Ok(&b"payload"[..]));
        assert_eq!(open(&value, "state", b"kez").err(), Some(DecodeError::Checksum));
        assert_eq!(open(&value, "journal", b"key").err(), Some(DecodeError::Checksum));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let value = framed();
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&flipped, "state", b"key").err(), Some(DecodeError::Checksum), "bit {bit}");
        }
        for length in 0..value.len() {
            assert!(open(&value[..length], "state", b"key").is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_reported() {
        let mut newer = vec![FORMAT + 1, 1, 2, 3];
        finish(&mut newer, "state", b"key");
        let expected = DecodeError::Format { found: u32::from(FORMAT) + 1, supported: FORMAT.into() };
        assert_eq!(open(&newer, "state", b"key").err(), Some(expected));
    }
}
