//! What nodes of a cluster read of each other: records of the log, messages, and the commands in both. Any bytes are read or refused, and what
//! is read is written in one way that is read as the same. Records and messages once as the bytes are, and once with the bytes as
//! their content, under a sound checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbrad::store::fuzzing;

fuzz_target!(|data: &[u8]| {
    let _ = fuzzing::envelope(data);
    let kinds = [fuzzing::log_record, fuzzing::bus_message];
    for (kind, framed) in kinds.iter().zip(fuzzing::framed_for_nodes(data)) {
        assert_eq!(kind(data), None, "a checksum of any bytes is found right once in four thousand million times");
        if let Some(written) = kind(&framed) {
            let at = data.len().wrapping_mul(31) % written.len();
            assert_eq!(kind(&written[..at]), None, "cut at {at}");
        }
    }
});
