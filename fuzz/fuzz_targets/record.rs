//! Stored values: any bytes are read or refused, as each kind of value there is; what is read is written in one way
//! that is read as the same. Once as the bytes are, and once under a sound checksum, which would hide all the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbrad::store::fuzzing;

fuzz_target!(|data: &[u8]| {
    let parts = [fuzzing::value, fuzzing::pointer, fuzzing::integer];
    parts.iter().for_each(|kind| _ = kind(data));

    let kinds = [fuzzing::record, fuzzing::entry, fuzzing::progress, fuzzing::created, fuzzing::floor];
    for (kind, framed) in kinds.iter().zip(fuzzing::framed(data)) {
        assert_eq!(kind(data), None, "a checksum of any bytes is found right once in four thousand million times");
        if let Some(written) = kind(&framed) {
            damaged(kind, &written, data.len());
        }
    }
});

/// A changed byte or a cut anywhere is found.
fn damaged(kind: &fn(&[u8]) -> Option<Vec<u8>>, framed: &[u8], seed: usize) {
    let at = seed.wrapping_mul(31) % framed.len();
    let mut changed = framed.to_vec();
    changed[at] ^= 1 << (seed % 8);
    assert_eq!(kind(&changed), None, "byte {at} was changed");
    assert_eq!(kind(&framed[..at]), None, "cut at {at}");
}
