//! Tests: the corpus of `tests/packets` through the codec, unchanged and mutated.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{fs, path::Path};

use bytes::BytesMut;

use crate::mqtt::protocol::{
    codec::{Frame, FrameLimits, decode, decode_connect, split_frame},
    packet::{ClientPacket, Connect, Protocol},
    violation::Violation,
};

/// One file of the corpus, in one of its versions.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// True if it is the first packet of its connection.
    pub(crate) first: bool,
    pub(crate) expect: String,
    pub(crate) bytes: Vec<u8>,
}

/// Returns the samples in all files of `good` or `bad`.
pub(crate) fn samples(directory: &str) -> Vec<Sample> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packets").join(directory);
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| parse(file)).collect()
}

fn parse(file: &Path) -> Vec<Sample> {
    let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let text = fs::read_to_string(file).unwrap();
    let (comments, data): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
    let field = |field: &str| {
        let prefix = format!("# {field}: ");
        let value = comments.iter().find_map(|line| line.strip_prefix(&prefix));
        value.unwrap_or_else(|| panic!("{name} has no field {field}")).to_owned()
    };
    let sample = |protocol| Sample {
        name: name.clone(),
        protocol,
        first: field("sent") == "first",
        expect: field("expect"),
        bytes: bytes(&data.join("\n")),
    };
    let protocol = |number| if number == "4" { Protocol::V4 } else { Protocol::V5 };
    field("protocol").split(' ').map(|number| sample(protocol(number))).collect()
}

/// Parses the notation of the files: hex digits, and text in quotes.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let unquoted = |part: &str| part.split_whitespace().map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
    // Every second part is in quotes.
    text.split('"')
        .enumerate()
        .flat_map(|(index, part)| if index % 2 == 1 { part.as_bytes().to_vec() } else { unquoted(part) })
        .collect()
}

#[derive(Debug)]
pub(crate) enum Decoded {
    Incomplete,
    Packet(ClientPacket),
    Connect(Box<Connect>),
    /// A refused CONNECT, with the CONNACK.
    Refused(Violation, Vec<u8>),
    Violated(Violation),
}

/// Decodes `bytes`.
pub(crate) fn run(protocol: Protocol, first: bool, bytes: &[u8]) -> Decoded {
    let mut buffer = BytesMut::from(bytes);
    let frame: Frame =
        match split_frame(&mut buffer, FrameLimits { packet_bytes_max: 128 * 1024, dup_on_control: false }) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Decoded::Incomplete,
            Err(violation) if first => return Decoded::Refused(violation, Vec::new()),
            Err(violation) => return Decoded::Violated(violation),
        };
    if !first {
        return decode(protocol, frame).map_or_else(Decoded::Violated, Decoded::Packet);
    }
    decode_connect(frame).map_or_else(
        |refusal| {
            let mut out = Vec::new();
            refusal.answer(&mut out);
            Decoded::Refused(refusal.violation, out)
        },
        |connect| Decoded::Connect(Box::new(connect)),
    )
}

#[test]
fn good_packets_decode() {
    let samples = samples("good");
    assert!(samples.len() > 40);
    for Sample { name, protocol, first, bytes, .. } in samples {
        match run(protocol, first, &bytes) {
            Decoded::Connect(connect) => assert!(first && connect.protocol == protocol, "{name}"),
            Decoded::Packet(_) => assert!(!first, "{name}"),
            other => panic!("{name} {protocol:?}: {other:?}"),
        }
    }
}

#[test]
fn bad_packets_are_refused_with_their_expected_reason() {
    let samples = samples("bad");
    assert!(samples.len() > 60);
    for Sample { name, protocol, first, expect, bytes } in samples {
        let (outcome, code) = expect.split_once(' ').unwrap_or((&expect, "0x00"));
        let code = u8::from_str_radix(code.strip_prefix("0x").unwrap(), 16).unwrap();
        let answer = match protocol {
            Protocol::V4 => vec![0x20, 2, 0, code],
            Protocol::V5 => vec![0x20, 3, 0, code, 0],
        };
        match (outcome, run(protocol, first, &bytes)) {
            ("disconnect", Decoded::Violated(violation)) => {
                assert_eq!(violation.reason().0, code, "{name} {violation}")
            }
            ("connack", Decoded::Refused(violation, out)) => assert_eq!(out, answer, "{name}: {violation}"),
            ("close", Decoded::Refused(violation, out)) => assert!(out.is_empty(), "{name}: {violation}"),
            // The codec accepts this one, and the connection refuses it.
            ("connack", Decoded::Connect(connect)) if code == 0x8C => assert!(connect.authentication_method.is_some()),
            // Well-formed packets, which the session refuses.
            ("disconnect", Decoded::Packet(_)) if SESSION.contains(&name.as_str()) => {}
            (_, other) => panic!("{name} {protocol:?}: {other:?}"),
        }
    }
}

#[test]
fn a_mutated_packet_never_panics() {
    for sample in samples("good").into_iter().chain(samples("bad")) {
        mutate(&sample.bytes, |bytes| {
            for first in [true, false] {
                for protocol in [Protocol::V4, Protocol::V5] {
                    // Any result is fine here, as long as there is one.
                    let _ = run(protocol, first, bytes);
                }
            }
        });
    }
}

/// Calls `check` with every truncation, also with a corrected length, and then with each bit flipped, and with every
/// change of one byte.
pub(crate) fn mutate(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    let step = if bytes.len() > 200 { 16 } else { 1 };
    for end in (0..=bytes.len()).step_by(step) {
        check(&bytes[..end]);
        let mut whole = bytes[..end].to_vec();
        if end >= 2 && end - 2 < 0x80 {
            whole[1] = (end - 2) as u8;
            check(&whole);
            for bit in 0..end * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                check(&flipped);
            }
        }
    }
    for at in (0..bytes.len()).step_by(step) {
        let mut changed = bytes.to_vec();
        for byte in 0..=u8::MAX {
            changed[at] = byte;
            check(&changed);
        }
    }
}

/// Bad packets that are well formed: they are wrong only in the context of earlier packets.
const SESSION: [&str; 3] =
    ["v5-publish-topic-alias-too-large", "v5-publish-topic-alias-unset", "v5-disconnect-raises-session-expiry"];
