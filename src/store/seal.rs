//! What every stored value is wrapped in: a format byte before it and a checksum after it.
//!
//! ```text
//! format (1 byte) · payload · CRC-32 of table, key, format and payload (4 bytes, little-endian)
//! ```
//!
//! The checksum covers the key, so a sound value under a wrong key is found too. A reader that meets a higher format
//! says so instead of guessing. New fields do not raise the format: a payload ends in *extensions*, each a tag, a
//! length and its bytes, and an older record simply has fewer of them.

use crate::store::codec::{DecodeError, Decoder, put_len, put_u64};

/// The format this program writes, and the highest it reads.
pub(super) const FORMAT: u8 = 1;

const CHECKSUM_BYTES: usize = 4;

/// Begins a value in `out`, which is emptied.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.push(FORMAT);
}

/// Ends the value begun in `out`: it belongs to `key` of `table`.
pub(super) fn finish(out: &mut Vec<u8>, table: &str, key: &[u8]) {
    let checksum = checksum(table, key, out);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The payload of `sealed`, found under `key` of `table`.
pub(super) fn open<'a>(sealed: &'a [u8], table: &str, key: &[u8]) -> Result<Decoder<'a>, DecodeError> {
    let (body, found) = sealed.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Truncated)?;
    let (format, payload) = body.split_first().ok_or(DecodeError::Truncated)?;
    if u32::from_le_bytes(*found) != checksum(table, key, body) {
        return Err(DecodeError::Checksum);
    }
    if *format != FORMAT {
        return Err(DecodeError::Format { found: (*format).into(), supported: FORMAT.into() });
    }
    Ok(Decoder::new(payload))
}

/// Appends an extension whose bytes `write` appends.
pub(super) fn put_extension(out: &mut Vec<u8>, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    write(&mut bytes);
    put_u64(out, tag);
    put_len(out, bytes.len());
    out.extend_from_slice(&bytes);
}

/// Reads the extensions at the end of a payload; `read` is given each with its tag and tells whether it knows it. One
/// that it does not know comes from a newer program.
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

/// Reads the extensions of a payload that has none so far.
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

    fn sealed() -> Vec<u8> {
        let mut out = vec![9, 9];
        begin(&mut out);
        out.extend_from_slice(b"payload");
        finish(&mut out, "state", b"key");
        out
    }

    #[test]
    fn a_sealed_value_opens_under_its_own_key_only() {
        let value = sealed();
        assert_eq!(open(&value, "state", b"key").unwrap().bytes(7), Ok(&b"payload"[..]));
        assert_eq!(open(&value, "state", b"kez").err(), Some(DecodeError::Checksum));
        assert_eq!(open(&value, "journal", b"key").err(), Some(DecodeError::Checksum));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let value = sealed();
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
    fn a_newer_format_is_named() {
        let mut newer = vec![FORMAT + 1, 1, 2, 3];
        finish(&mut newer, "state", b"key");
        let expected = DecodeError::Format { found: u32::from(FORMAT) + 1, supported: FORMAT.into() };
        assert_eq!(open(&newer, "state", b"key").err(), Some(expected));
    }
}
