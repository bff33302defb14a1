//! `P/document`: the current document as a retained message that the service keeps up to date.

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    packet::Message,
    server::Server,
    shadow::{Requester, version},
    wire::{BOTH, Properties, Protocol, V4, V5},
};

const AS_PUBLISHED: u8 = 0x08;
const IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

fn set(server: &Server, prefix: &str, value: u64) -> Value {
    Requester::private(server, "setter", prefix).update(json!({"state": {"desired": {"v": value}}}))
}

/// Waits for `count` documents, then sees that no more come before a marker; sorted by topic.
fn documents(client: &mut Client, count: usize) -> Vec<Message> {
    let mut documents = Vec::new();
    let mut marked = count == 0;
    client.subscribe(&[("marker", 1)]);
    if marked {
        client.publish("marker", "", 1);
    }
    loop {
        let message = client.message();
        if message.topic == "marker" {
            documents.sort_by(|a: &Message, b| a.topic.cmp(&b.topic));
            return documents;
        }
        if message.topic.ends_with("/document") {
            documents.push(message);
        }
        if documents.len() >= count && !marked {
            client.publish("marker", "", 1);
            marked = true;
        }
    }
}

/// Returns the first messages of a new client's subscription.
fn brought(server: &Server, protocol: Protocol, filter: &str, qos: u8, count: usize) -> Vec<Message> {
    let mut client = Client::connect(server, protocol, "late");
    client.subscribe(&[(filter, qos)]);
    documents(&mut client, count)
}

#[test]
fn it_comes_with_the_subscription() {
    let server = Server::start();
    for (prefix, value) in [("shadow/a", 1), ("shadow/b", 2), ("shadow/a/name/n", 3)] {
        set(&server, prefix, value);
    }
    set(&server, "shadow/gone", 4);
    Requester::private(&server, "setter", "shadow/gone").accepted("delete", json!({}));
    let rows: [(&str, &[u64]); 8] = [
        ("shadow/a/document", &[1]),
        ("shadow/+/document", &[1, 2]),
        ("shadow/a/#", &[1, 3]),
        ("shadow/a/name/n/document", &[3]),
        ("shadow/+/name/+/document", &[3]),
        ("shadow/#", &[1, 3, 2]),
        ("shadow/gone/document", &[]),
        ("shadow/never/document", &[]),
    ];
    for protocol in BOTH {
        for qos in 0..3u8 {
            for (filter, values) in rows {
                let messages = brought(&server, protocol, filter, qos, values.len());
                let found: Vec<_> =
                    messages.iter().map(|m| m.json()["state"]["desired"]["v"].as_u64().unwrap()).collect();
                assert_eq!(found, values, "{filter} {protocol:?}");
                for message in messages {
                    assert!(message.retain, "{message:?}");
                    assert_eq!(message.qos, qos.min(1), "{message:?}");
                }
            }
        }
    }
}

#[test]
fn it_has_the_shape_of_get() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/shape");
    client.update(json!({"state": {"desired": {"a": 1}, "reported": {"b": [1]}, "tags": {"t": "x"}}}));
    let mut got = client.get();
    got.as_object_mut().unwrap().remove("clientToken");
    let messages = brought(&server, V4, "shadow/shape/document", 1, 1);
    assert_eq!(messages[0].json(), got);
}

#[test]
fn it_follows_every_change() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/follow-{}", protocol as u8);
        let topic = format!("{prefix}/document");
        let mut client = Client::connect(&server, protocol, "follower");
        client.subscribe(&[(&topic, 1)]);
        // A change is awaited before the next is made, so none is superseded.
        for value in 1..=5 {
            set(&server, &prefix, value);
            let message = client.message();
            assert_eq!((&*message.topic, message.retain), (&*topic, false));
            assert_eq!(version(&message.json()), value);
        }
        Requester::private(&server, "setter", &prefix).accepted("delete", json!({}));
        let message = client.message();
        assert_eq!((&*message.topic, message.payload.len()), (&*topic, 0), "empty once deleted");
        set(&server, &prefix, 1);
        assert_eq!(version(&client.message().json()), 7);
    }
}

/// However fast it changes, what a subscriber sees only goes forward, and ends with the last.
#[test]
fn it_never_goes_back() {
    let server = Server::with(crate::harness::server::UNLIMITED);
    let mut client = Client::connect(&server, V5, "follower");
    client.subscribe(&[("shadow/fast/document", 0)]);
    let mut setter = Client::connect(&server, V5, "setter");
    for value in 1..=500u64 {
        let body = json!({"state": {"reported": {"v": value}}}).to_string();
        let publish = crate::harness::wire::Publish::new("shadow/fast/update", body);
        setter.send(publish.encode(V5, 0, 0));
    }
    let mut seen = vec![0];
    while *seen.last().unwrap() < 500 {
        let body = client.message().json();
        assert_eq!(body["state"]["reported"]["v"], body["version"]);
        assert!(version(&body) > *seen.last().unwrap(), "{} after {seen:?}", version(&body));
        seen.push(version(&body));
    }
    println!("500 versions, {} documents sent", seen.len() - 1);
}

#[test]
fn retain_handling_applies() {
    let server = Server::start();
    set(&server, "shadow/handle", 1);
    let filter = "shadow/handle/document";
    let mut client = Client::connect(&server, V5, "client");
    let rows = [
        (NEVER, 0, "2 never sends"),
        (IF_NEW, 0, "1, but the subscription exists"),
        (0, 1, "0 sends"),
        (0, 1, "0 sends every time"),
    ];
    for (options, count, what) in rows {
        client.subscribe_with(&[(filter, 1 | options)], &Properties::none());
        assert_eq!(documents(&mut client, count).len(), count, "{what}");
    }
    client.unsubscribe(&[filter]);
    client.subscribe_with(&[(filter, 1 | IF_NEW)], &Properties::none());
    assert_eq!(documents(&mut client, 1).len(), 1, "1, new");

    // A change is sent without the flag unless the subscriber wants it as published.
    for (options, flag, value) in [(0, false, 2), (AS_PUBLISHED, true, 3)] {
        client.subscribe_with(&[(filter, 1 | NEVER | options)], &Properties::none());
        set(&server, "shadow/handle", value);
        assert_eq!(client.message().retain, flag, "options {options:#04x}");
    }
}

#[test]
fn a_shared_subscription_gets_none_on_subscribing() {
    let server = Server::start();
    set(&server, "shadow/shared", 1);
    let mut client = Client::connect(&server, V5, "member");
    client.subscribe(&[("$share/g/shadow/shared/document", 1)]);
    assert!(documents(&mut client, 0).is_empty());
    set(&server, "shadow/shared", 2);
    assert_eq!(version(&client.message().json()), 2);
}
