//! The order in which the events of one shadow, and the acknowledgements of its requests, reach each client.
//!
//! The quotas are raised, and so is the room for slow readers: what a subscriber that falls behind may lose is not
//! the matter here.

use std::thread;

use crate::harness::{
    client::Client,
    packet::Packet,
    server::{Server, Setup, UNLIMITED},
    shadow::{documents_version, version},
    wire::{BOTH, Properties, Protocol, Publish, V4, V5},
};
use serde_json::json;

const WRITERS: u64 = 4;
const UPDATES_EACH: u64 = 100;
const LAST: u64 = WRITERS * UPDATES_EACH;

const ROOMY: Setup = Setup {
    limits: "requests_rate = \"1000000/s burst 1000000\"\npublishes_rate = \"10000000/s burst 5000\"\n\
             outbox_bytes_max = \"64 MiB\"",
    ..UNLIMITED
};

type Follower = (&'static str, Protocol, &'static [(&'static str, u8)]);

/// Ways to follow the three events of an update: name, protocol, filters with their QoS.
const FOLLOWERS: [Follower; 6] = [
    ("exact-1", V5, &[("shadow/o/update/delta", 1), ("shadow/o/update/documents", 1), ("shadow/o/update/accepted", 1)]),
    ("exact-0", V4, &[("shadow/o/update/accepted", 0), ("shadow/o/update/documents", 0), ("shadow/o/update/delta", 0)]),
    ("mixed", V5, &[("shadow/o/update/delta", 0), ("shadow/+/update/documents", 1), ("shadow/o/+/accepted", 0)]),
    ("plus", V4, &[("shadow/+/update/+", 1)]),
    ("hash-0", V4, &[("shadow/o/#", 0)]),
    ("hash-2", V5, &[("shadow/o/#", 2)]),
];

#[test]
fn every_subscriber_sees_every_version_once_and_in_order() {
    let server = Server::with(ROOMY);
    let followers = FOLLOWERS.map(|(name, protocol, filters)| {
        let mut client = Client::connect(&server, protocol, name);
        client.subscribe(filters);
        (name, client)
    });
    thread::scope(|scope| {
        for (name, client) in followers {
            scope.spawn(move || follow(name, client));
        }
        for writer in 0..WRITERS {
            let server = &server;
            scope.spawn(move || write(server, writer));
        }
    });
    println!(
        "{} followers saw {LAST} versions by {WRITERS} writers, each as delta, documents, accepted",
        FOLLOWERS.len()
    );
}

/// Keeps several updates under way; every one of them changes `desired`, which nobody reports, so each has a delta.
fn write(server: &Server, writer: u64) {
    let mut client = Client::connect(server, BOTH[writer as usize % 2], &format!("writer-{writer}"));
    let ids: Vec<u16> = (0..UPDATES_EACH)
        .map(|number| {
            let body = json!({"state": {"desired": {format!("w{writer}"): number}}});
            let id = client.next_id();
            client.send(Publish::new("shadow/o/update", body.to_string()).encode(client.protocol, 1, id));
            if number >= 16 {
                client.puback(id - 16);
            }
            id
        })
        .collect();
    for id in &ids[ids.len() - 16..] {
        assert_eq!(client.puback(*id).code, 0);
    }
}

fn follow(name: &str, mut client: Client) {
    for expected in 1..=LAST {
        for kind in ["delta", "documents", "accepted"] {
            let message = loop {
                let message = client.message();
                if message.topic.starts_with("shadow/o/update/") {
                    break message;
                }
            };
            let found = if kind == "documents" { documents_version(&message) } else { version(&message.json()) };
            let topic = format!("shadow/o/update/{kind}");
            assert_eq!((&*message.topic, found), (&*topic, expected), "{name} expected {kind} of {expected}");
            if kind == "documents" && expected > 1 {
                assert_eq!(version(&message.json()["previous"]), expected - 1, "{name}");
            }
        }
    }
}

#[test]
fn the_acknowledgement_comes_after_the_events() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/ack-{}", protocol as u8);
        let mut client = Client::connect(&server, protocol, "requester");
        client.subscribe_with(&[(&format!("{prefix}/update/+"), 1)], &Properties::none());
        let rows: [(u8, &str, &[&str], u8); 5] = [
            (1, r#"{"state": {"desired": {"a": 1}}}"#, &["delta", "documents", "accepted"], 0x00),
            (1, r#"{"state": {"reported": {"a": 1}}, "version": 1}"#, &["documents", "accepted"], 0x00),
            (1, r#"{"state": {"reported": {"a": 1}}}"#, &["accepted"], 0x00),
            (1, r#"{"state": {"desired": {"a": 2}}, "version": 1}"#, &["rejected"], 0x83),
            (2, r#"{"state": {"desired": {"a": 3}}, "version": 1}"#, &["rejected"], 0x83),
        ];
        for (qos, body, events, code) in rows {
            let id = client.next_id();
            client.send(Publish::new(&format!("{prefix}/update"), body).encode(protocol, qos, id));
            for event in events {
                match client.recv() {
                    Packet::Publish(message) => {
                        assert_eq!(message.topic, format!("{prefix}/update/{event}"), "{body}");
                        client.acknowledge(&message);
                    }
                    other => panic!("{body}: {other:?} before {event}"),
                }
            }
            let code = if protocol == V5 { code } else { 0 };
            match (qos, client.recv()) {
                (1, Packet::PubAck(ack)) | (2, Packet::PubRec(ack)) => {
                    assert_eq!((ack.id, ack.code), (id, code), "{body}")
                }
                (_, other) => panic!("{body}: {other:?} in the place of the acknowledgement"),
            }
            if qos == 2 && protocol == V4 {
                client.send(crate::harness::wire::ack(0x62, id));
                client.pubcomp(id);
            }
        }
    }
}

/// Reads never wait for the writer; but what was acknowledged, to whomever, is seen by every get sent after.
#[test]
fn a_get_returns_earlier_acknowledged_writes() {
    let server = Server::with(ROOMY);
    let mut writer = Client::connect(&server, V5, "writer");
    let mut reader = Client::connect(&server, V4, "reader");
    reader.subscribe(&[("shadow/g/get/accepted", 0)]);
    for number in 1..=100u64 {
        let body = json!({"state": {"reported": {"n": number}}}).to_string();
        assert_eq!(writer.publish("shadow/g/update", body, 1), 0);
        reader.publish("shadow/g/get", "", 0);
        let document = reader.message().json();
        assert_eq!((version(&document), &document["state"]["reported"]["n"]), (number, &json!(number)), "{document}");
    }
}
