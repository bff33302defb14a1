//! Input of a node from other nodes: records of the log, messages, and the commands in both. Any bytes are read or refused, and
//! what is read has one encoding, which is read as the same. Records and messages are tried with the bytes as they are, and with
//! the bytes as their content under a valid checksum.

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
