//! Writers for the data types of MQTT.
//!
//! The caller checks lengths: [`length_prefixed`] takes at most [`u16::MAX`] bytes, and [`varint`] a value of at most
//! [`VARINT_MAX`].

/// The largest variable byte integer, also the largest remaining length.
pub(crate) const VARINT_MAX: usize = 268_435_455;

/// Writes a variable byte integer in its shortest form [MQTT-1.5.5-1].
pub(crate) fn varint(value: usize, out: &mut Vec<u8>) {
    debug_assert!(value <= VARINT_MAX, "{value} does not fit a variable byte integer");
    let mut rest = value;
    while rest >= 0x80 {
        out.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Returns the number of bytes that [`varint`] writes for `value`.
pub(crate) fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Writes a two-byte integer.
pub(crate) fn two(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Writes a four-byte integer.
pub(crate) fn four(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Writes a string or binary data, with its two-byte length before it.
pub(crate) fn length_prefixed(bytes: &[u8], out: &mut Vec<u8>) {
    debug_assert!(u16::try_from(bytes.len()).is_ok(), "{} bytes do not fit a two-byte length", bytes.len());
    two(bytes.len() as u16, out);
    out.extend_from_slice(bytes);
}
