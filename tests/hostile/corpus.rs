//! Every packet of `tests/packets`, whose README describes the format.

use std::{fs, path::PathBuf};

use crate::{
    bystander::Bystander,
    harness::{
        client::Client,
        packet::{Ack, Packet},
        server::Server,
        wire::{self, Protocol, V4, V5},
    },
};

struct Case {
    name: String,
    protocols: Vec<Protocol>,
    connected: bool,
    bytes: Vec<u8>,
    /// The words of `expect`.
    expect: Vec<String>,
}

fn corpus() -> Vec<Case> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/packets");
    let mut files: Vec<PathBuf> = ["good", "bad"]
        .into_iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).expect("the corpus is there"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| parse(&file.display().to_string(), &fs::read_to_string(file).unwrap())).collect()
}

fn parse(name: &str, text: &str) -> Case {
    let field = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("# {field}: ")));
        line.unwrap_or_else(|| panic!("{name}: no {field}")).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let protocols = field("protocol").iter().map(|level| if level == "4" { V4 } else { V5 }).collect();
    let connected = match field("sent")[0].as_str() {
        "first" => false,
        "connected" => true,
        other => panic!("{name}: sent: {other}"),
    };
    Case { name: name.to_owned(), protocols, connected, bytes: bytes(name, text), expect: field("expect") }
}

/// Pairs of hex digits, and text in quotes.
fn bytes(name: &str, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for (number, part) in line.split('"').enumerate() {
            if number % 2 == 1 {
                bytes.extend(part.as_bytes());
                continue;
            }
            let digits: String = part.split_whitespace().collect();
            assert!(digits.len().is_multiple_of(2), "{name}: {line}");
            let pairs = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
            bytes.extend(pairs.map(|byte| byte.unwrap_or_else(|error| panic!("{name}: {error} in {line}"))));
        }
    }
    bytes
}

#[test]
fn every_packet_of_the_corpus() {
    let mut server = Server::with(crate::harness::server::UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let cases = corpus();
    assert!(cases.len() > 50, "the corpus has {} packets", cases.len());
    let mut failures = Vec::new();
    let mut tried = 0;
    for case in &cases {
        for protocol in &case.protocols {
            let outcome = std::panic::catch_unwind(|| play(&server, case, *protocol));
            tried += 1;
            if outcome.is_err() {
                failures.push(format!("{} {protocol:?}", case.name));
            }
        }
    }
    bystander.check(&mut server);
    assert!(failures.is_empty(), "{} of {tried} are answered otherwise: {failures:#?}", failures.len());
    println!("{} packets, {tried} times sent", cases.len());
}

fn play(server: &Server, case: &Case, protocol: Protocol) {
    let mut client = Client::open(server, protocol);
    if case.connected {
        client = Client::connect(server, protocol, "corpus");
    }
    // The server may close before it has all of it.
    let _ = client.try_send(&case.bytes);
    let numbers: Vec<u8> = case.expect.iter().filter_map(|word| word.strip_prefix("0x")).map(hex).collect();
    let id = case.expect.get(1).and_then(|word| word.parse().ok());
    let v5 = protocol == V5;
    let answered = |ack: &Ack| {
        assert_eq!(Some(ack.id), id, "{}", case.name);
        match numbers.first() {
            Some(code) if v5 => assert_eq!(ack.code, *code, "{}", case.name),
            _ => assert!(ack.code < 0x80 || numbers.len() == 1, "{}: {ack:?}", case.name),
        }
    };
    match case.expect[0].as_str() {
        "connack" => {
            let code = client.connack().code;
            assert_eq!(code, numbers[0], "{}", case.name);
            if code == 0 { client.ping() } else { assert_eq!(client.closed(), None, "{}", case.name) }
        }
        "disconnect" => assert_eq!(client.closed(), v5.then_some(numbers[0]), "{}", case.name),
        "close" => assert_eq!(client.closed(), None, "{}", case.name),
        "nothing" => {
            client.send(wire::PINGREQ);
            assert_eq!(client.recv(), Packet::PingResp, "{}", case.name);
        }
        expected => match (expected, client.recv()) {
            ("pingresp", Packet::PingResp) => {}
            ("puback", Packet::PubAck(ack)) | ("pubrec", Packet::PubRec(ack)) => answered(&ack),
            ("pubrel", Packet::PubRel(ack)) | ("pubcomp", Packet::PubComp(ack)) => answered(&ack),
            ("suback", Packet::SubAck { id: found, codes }) | ("unsuback", Packet::UnsubAck { id: found, codes }) => {
                assert_eq!((Some(found), codes), (id, numbers), "{}", case.name);
            }
            (expected, other) => panic!("{}: {other:?} in the place of {expected}", case.name),
        },
    }
}

fn hex(digits: &str) -> u8 {
    u8::from_str_radix(digits, 16).unwrap()
}
