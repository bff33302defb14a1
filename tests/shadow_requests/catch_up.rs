//! A persistent session that comes back: the newest of every shadow that changed, never a backlog of older ones.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{
    client::Client,
    server::{Server, Setup, UNLIMITED},
    shadow::{Requester, documents_version, version},
    wire::{BOTH, Connect, Publish, V5},
};

/// Sets `reported.n` of a shadow, leaving a delta.
fn set(client: &mut Client, id: &str, value: u64) {
    let body = json!({"state": {"reported": {"n": value}, "desired": {"n": 0}}}).to_string();
    assert_eq!(client.publish(&format!("shadow/{id}/update"), body, 1), 0);
}

#[test]
fn a_resync_sends_the_newest_state() {
    let server = Server::with(UNLIMITED);
    let mut writer = Client::connect(&server, V5, "writer");
    for protocol in BOTH {
        let id = |name: &str| format!("{name}-{}", protocol as u8);
        for name in ["often", "deleted", "unchanged"] {
            set(&mut writer, &id(name), 1);
        }
        let connect = Connect::persistent(protocol, &id("session"));
        let (mut client, _) = Client::connect_as(&server, &connect);
        let ids: Vec<String> = ["often", "deleted", "unchanged", "once"].map(id).into();
        for id in &ids {
            client.subscribe(&[(&format!("shadow/{id}/update/+"), 1), (&format!("shadow/{id}/document"), 1)]);
        }
        let mut retained = 0;
        while retained < 3 {
            retained += u32::from(client.message().topic.ends_with("/document"));
        }
        client.disconnect();

        for value in 2..=50 {
            set(&mut writer, &id("often"), value);
        }
        set(&mut writer, &id("once"), 1);
        assert_eq!(writer.publish(&format!("shadow/{}/delete", id("deleted")), "", 1), 0);

        let (mut client, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        let documents = newest(&mut client, &id("often"), 50, 3);
        let expected: BTreeMap<String, Option<u64>> =
            [(id("often"), Some(50)), (id("deleted"), None), (id("once"), Some(1))].into();
        assert_eq!(documents, expected, "{protocol:?}");

        // And it goes on from there, one version at a time.
        set(&mut writer, &id("often"), 51);
        let mut heard = Vec::new();
        while heard.len() < 4 {
            let message = client.message();
            heard.push(message.topic.rsplit('/').next().unwrap().to_owned());
            let found = if heard.last().unwrap() == "documents" {
                documents_version(&message)
            } else {
                version(&message.json())
            };
            assert_eq!(found, 51, "{message:?}");
        }
        assert_eq!(heard[..3], ["delta", "documents", "accepted"]);
        client.disconnect();
    }
}

/// Reads until `count` documents have come; no event of `id` may be older than `version_of_id`.
fn newest(client: &mut Client, id: &str, version_of_id: u64, count: usize) -> BTreeMap<String, Option<u64>> {
    let mut documents = BTreeMap::new();
    let mut delta_of_id = false;
    while documents.len() < count {
        let message = client.message();
        let device = message.topic.split('/').nth(1).unwrap().to_owned();
        let kind = message.topic.rsplit('/').next().unwrap();
        if kind == "document" {
            let found = (!message.payload.is_empty()).then(|| version(&message.json()));
            assert_eq!(documents.insert(device, found), None, "each once: {message:?}");
            continue;
        }
        let found = if kind == "documents" { documents_version(&message) } else { version(&message.json()) };
        assert!(device != id || found == version_of_id, "superseded: {message:?}");
        delta_of_id |= device == id && kind == "delta";
    }
    assert!(delta_of_id, "the current delta comes too");
    documents
}

/// Thousands of shadows changed: all of them come, each once, however long it takes, and the live changes after.
#[test]
fn a_resync_after_many_changes() {
    const SHADOWS: usize = 2_000;
    let server = Server::with(UNLIMITED);
    let connect = Connect::persistent(V5, "away");
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.subscribe(&[("shadow/+/document", 1)]);
    client.disconnect();
    let mut writer = Client::connect(&server, V5, "writer");
    for round in 1..=2 {
        for first in (0..SHADOWS).step_by(50) {
            for number in first..first + 50 {
                let body = json!({"state": {"reported": {"n": round, "filler": "x".repeat(300)}}}).to_string();
                let publish = Publish::new(&format!("shadow/far-{number}/update"), body);
                writer.send(publish.encode(V5, 1, number as u16 + 1));
            }
            for number in first..first + 50 {
                assert_eq!(writer.puback(number as u16 + 1).code, 0);
            }
        }
    }
    let (mut client, _) = Client::connect_as(&server, &connect);
    let mut seen = BTreeMap::new();
    while seen.len() < SHADOWS {
        let message = client.message();
        assert_eq!(version(&message.json()), 2, "{message:?}");
        assert_eq!(seen.insert(message.topic.clone(), ()), None, "each once: {message:?}");
    }
    let mut last = Requester::private(&server, "last", "shadow/far-7");
    last.update(json!({"state": {"reported": {"n": 3}}}));
    let message = client.message();
    assert_eq!((&*message.topic, version(&message.json())), ("shadow/far-7/document", 3));
    println!("{SHADOWS} shadows changed twice meanwhile: {} documents", seen.len());
}

/// The journal no longer reaches back to when the session left: the state of every shadow comes.
#[test]
fn a_resync_beyond_the_journal_retention() {
    const SHADOWS: usize = 20;
    let server = Server::with(Setup { store: "journal_bytes_max = \"16 MiB\"", ..UNLIMITED });
    let mut writer = Client::connect(&server, V5, "writer");
    for number in 0..SHADOWS {
        set(&mut writer, &format!("old-{number}"), 1);
    }
    let connect = Connect::persistent(V5, "away");
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.subscribe(&[("shadow/+/document", 1 | 0x20), ("shadow/+/update/delta", 1)]);
    client.disconnect();
    for value in 1..=4_000u64 {
        let body = json!({"state": {"reported": {"n": value, "filler": "x".repeat(7_000)}}}).to_string();
        let id = (value % 60_000) as u16 + 1;
        writer.send(Publish::new("shadow/busy/update", body).encode(V5, 1, id));
        if value > 16 {
            assert_eq!(writer.puback(id - 16).code, 0);
        }
    }
    writer.ping();
    (4_000 - 15..=4_000).for_each(|id| assert_eq!(writer.puback(id + 1).code, 0));
    let (mut client, _) = Client::connect_as(&server, &connect);
    let mut documents = BTreeMap::new();
    let mut deltas = 0;
    while documents.get("shadow/busy/document") != Some(&4_000) {
        let message = client.message();
        if message.topic.ends_with("/document") {
            documents.insert(message.topic.clone(), version(&message.json()));
        } else {
            deltas += 1;
        }
    }
    set(&mut writer, "old-3", 2);
    while documents.get("shadow/old-3/document") != Some(&2) {
        let message = client.message();
        if message.topic.ends_with("/document") {
            let known = documents.insert(message.topic.clone(), version(&message.json()));
            assert!(known.is_none_or(|known| known < version(&message.json())), "{message:?}");
        }
    }
    println!("{} documents and {deltas} deltas after an absence longer than the journal", documents.len());
}
