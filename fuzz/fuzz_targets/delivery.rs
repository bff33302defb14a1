//! A session with a client that keeps to the protocol and loses its connection at any moment: nothing is lost, asked
//! for twice at QoS 2, or out of order, and in the end nothing is left. The first byte says which way the messages go,
//! each later one is a step.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbrad::mqtt::{protocol::packet::Protocol, session::fuzzing};

fuzz_target!(|data: &[u8]| {
    let Some((which, steps)) = data.split_first() else { return };
    match which % 3 {
        0 => fuzzing::inbound(Protocol::V4, steps),
        1 => fuzzing::inbound(Protocol::V5, steps),
        _ => fuzzing::outbound(steps),
    }
});
