//! For small devices: `P/delta`, the difference to make up and nothing else, and requests that want no metadata.

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    packet::Message,
    server::{Server, UNLIMITED},
    shadow::{Requester, version},
    wire::{BOTH, Connect, Properties, Publish, V4, V5, Value as Property, prop},
};

const IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

fn update(server: &Server, prefix: &str, state: Value) {
    Requester::private(server, "setter", prefix).update(json!({ "state": state }));
}

/// The messages before one that is published now.
fn until_now(client: &mut Client) -> Vec<Message> {
    client.subscribe(&[("now", 1)]);
    client.publish("now", "", 1);
    let mut messages = Vec::new();
    loop {
        match client.message() {
            message if message.topic == "now" => {
                client.unsubscribe(&["now"]);
                return messages;
            }
            message => messages.push(message),
        }
    }
}

/// A device that boots needs one subscription.
#[test]
fn the_lean_delta_is_sent_on_subscribing() {
    let server = Server::start();
    update(&server, "shadow/a", json!({"desired": {"v": 1, "w": {"x": [2]}}, "reported": {"v": 1}}));
    update(&server, "shadow/a/name/n", json!({"desired": {"v": 3}, "tags": {"t": 1}}));
    update(&server, "shadow/even", json!({"desired": {"v": 4}, "reported": {"v": 4.0}}));
    update(&server, "shadow/gone", json!({"desired": {"v": 5}}));
    Requester::private(&server, "setter", "shadow/gone").accepted("delete", json!({}));
    let (a, n) = (json!({"version": 1, "state": {"w": {"x": [2]}}}), json!({"version": 1, "state": {"v": 3}}));
    for protocol in BOTH {
        for (filter, expected) in [
            ("shadow/a/delta", vec![&a]),
            ("shadow/a/name/n/delta", vec![&n]),
            ("shadow/+/delta", vec![&a]),
            ("shadow/+/name/+/delta", vec![&n]),
            ("shadow/even/delta", vec![]),
            ("shadow/gone/delta", vec![]),
            ("shadow/never/delta", vec![]),
            ("$share/g/shadow/a/delta", vec![]),
        ] {
            let mut client = Client::connect(&server, protocol, "boots");
            client.subscribe(&[(filter, 1)]);
            // What is retained is looked up in turns with what is queued.
            let mut messages: Vec<Message> = (0..expected.len()).map(|_| client.message()).collect();
            messages.extend(until_now(&mut client));
            assert!(messages.iter().all(|message| message.retain), "{messages:?}");
            let found: Vec<Value> = messages.iter().map(Message::json).collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter} {protocol:?}");
        }
    }
    // Nothing of it below `$aws/`.
    let mut client = Client::connect(&server, V5, "aws");
    client.subscribe(&[("$aws/#", 1)]);
    update(&server, "shadow/a", json!({"desired": {"v": 7}}));
    let topics: Vec<_> = until_now(&mut client).into_iter().map(|message| message.topic).collect();
    assert!(topics.iter().all(|topic| !topic.ends_with("shadow/delta")), "{topics:?}");
}

#[test]
fn the_lean_delta_is_sent_when_it_changes() {
    let server = Server::start();
    for (protocol, prefix) in [(V4, "shadow/change-4"), (V5, "shadow/change-5"), (V5, "shadow/change/name/n")] {
        let topic = format!("{prefix}/delta");
        let mut client = Client::connect(&server, protocol, "device");
        client.subscribe(&[(&topic, 1)]);
        for (number, (state, received)) in [
            (json!({"reported": {"v": 1}}), None),
            (json!({"desired": {"v": 2}}), Some(json!({"version": 2, "state": {"v": 2}}))),
            (json!({"reported": {"other": 1}}), None),
            (json!({"desired": {"other": 1.0}}), None),
            (json!({"desired": {"w": {}}}), Some(json!({"version": 5, "state": {"v": 2, "w": {}}}))),
            (json!({"reported": {"v": 2}}), Some(json!({"version": 6, "state": {"w": {}}}))),
            (json!({"reported": {"w": {}}}), Some(Value::Null)),
            (json!({"desired": {"v": 3}}), Some(json!({"version": 8, "state": {"v": 3}}))),
        ]
        .into_iter()
        .enumerate()
        {
            update(&server, prefix, state.clone());
            let messages = until_now(&mut client);
            let found: Vec<_> = messages
                .iter()
                .map(|message| if message.payload.is_empty() { Value::Null } else { message.json() })
                .collect();
            assert_eq!(found, received.into_iter().collect::<Vec<_>>(), "{topic}, update {number}: {state}");
            assert!(messages.iter().all(|message| message.topic == topic && !message.retain), "{messages:?}");
        }
        Requester::private(&server, "setter", prefix).accepted("delete", json!({}));
        let messages = until_now(&mut client);
        assert_eq!(messages.iter().map(|message| message.payload.len()).collect::<Vec<_>>(), [0], "deleted");
        client.disconnect();
    }
}

/// However fast it changes, what a subscriber sees only goes forward, and ends with the last.
#[test]
fn the_lean_delta_never_goes_back() {
    let server = Server::with(UNLIMITED);
    let mut client = Client::connect(&server, V5, "follower");
    client.subscribe(&[("shadow/fast/delta", 0), ("shadow/fast/document", 1)]);
    let mut setter = Client::connect(&server, V5, "setter");
    for value in 1..=500u64 {
        let body = json!({"state": {"desired": {"v": value}}}).to_string();
        setter.send(Publish::new("shadow/fast/update", body).encode(V5, 0, 0));
    }
    let mut last = [0, 0];
    while last != [500, 500] {
        let message = client.message();
        let body = message.json();
        let is_document = message.topic.ends_with("/document");
        assert_eq!(if is_document { &body["state"]["desired"]["v"] } else { &body["state"]["v"] }, &body["version"]);
        let last = &mut last[usize::from(is_document)];
        assert!(version(&body) > *last, "{} after {last}", version(&body));
        *last = version(&body);
    }
}

/// A session that was away is sent the difference as it is, also that there is none any more.
#[test]
fn a_resumed_session_receives_the_current_lean_delta() {
    let server = Server::start();
    let connect = Connect::persistent(V5, "device");
    for (desired, reported, received) in [(2, 1, Some(2)), (3, 3, None), (4, 3, Some(4))] {
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe_with(&[("shadow/away/delta", 1 | NEVER)], &Properties::none());
        until_now(&mut client);
        client.disconnect();
        update(&server, "shadow/away", json!({"desired": {"v": desired}}));
        update(&server, "shadow/away", json!({"reported": {"v": reported, "n": desired}}));
        let (mut client, _) = Client::connect_as(&server, &connect);
        let message = client.message();
        let found = (!message.payload.is_empty()).then(|| message.json()["state"]["v"].as_u64().unwrap());
        assert_eq!((&*message.topic, found), ("shadow/away/delta", received));
        client.disconnect();
    }
}

#[test]
fn retain_handling_applies_to_the_lean_delta() {
    let server = Server::start();
    update(&server, "shadow/handle", json!({"desired": {"v": 1}}));
    let mut client = Client::connect(&server, V5, "client");
    for (options, count) in [(NEVER, 0), (IF_NEW, 0), (0, 1), (0, 1)] {
        client.subscribe_with(&[("shadow/handle/delta", 1 | options)], &Properties::none());
        let mut messages: Vec<Message> = (0..count).map(|_| client.message()).collect();
        messages.extend(until_now(&mut client));
        assert_eq!(messages.len(), count, "options {options:#04x}");
    }
}

/// `"metadata": false` applies to the requester only: others receive all fields.
#[test]
fn a_request_can_omit_metadata() {
    let server = Server::start();
    let mut device = Client::connect(&server, V5, "device");
    let mut other = Client::connect(&server, V5, "other");
    let filters = [("shadow/d/update/+", 1), ("shadow/d/get/+", 1), ("$aws/things/d/shadow/update/+", 1)];
    for client in [&mut device, &mut other] {
        client.subscribe(&filters);
    }
    device.subscribe(&[("reply", 1)]);
    let request = |topic: &str, body: Value| {
        Publish::new(topic, body.to_string()).property(prop::RESPONSE_TOPIC, Property::Text("reply".to_owned()))
    };
    let update = json!({"state": {"desired": {"a": 1}, "reported": {"b": 2}}, "metadata": false});
    for (topic, body) in [
        ("shadow/d/update", update.clone()),
        ("shadow/d/get", json!({"metadata": false})),
        ("shadow/d/update", json!({"state": {"desired": {"a": 2}}, "metadata": true})),
        ("shadow/d/get", json!({"metadata": true})),
    ] {
        assert_eq!(device.publish_message(&request(topic, body.clone()), 1).code, 0, "{topic} {body}");
        let lean = body["metadata"] == json!(false);
        for (client, is_requester) in [(&mut device, true), (&mut other, false)] {
            let messages = until_now(client);
            assert!(messages.iter().any(|message| message.topic.ends_with("/accepted")), "{messages:?}");
            assert_eq!(messages.iter().any(|message| message.topic == "reply"), is_requester);
            for message in messages {
                let (topic, body) = (&message.topic, message.json());
                let parts = if topic.ends_with("/documents") { vec![&body["current"]] } else { vec![&body] };
                let expected = !(lean && is_requester) || topic.starts_with("$aws/");
                let found = parts.iter().all(|part| part.get("metadata").is_some());
                assert_eq!(found, expected, "{topic} of {lean} for {is_requester}: {body}");
            }
        }
    }
    let dry = json!({"state": {"desired": {"a": 3}}, "dryRun": true, "metadata": false});
    device.publish_message(&Publish::new("shadow/d/update", dry.to_string()), 1);
    let received = until_now(&mut device)[0].json();
    assert_eq!((received.get("metadata"), received["document"].get("metadata")), (None, None), "{received}");
    for (topic, body) in [
        ("shadow/d/update", json!({"state": {}, "metadata": "no"})),
        ("shadow/d/get", json!({"metadata": null})),
        ("shadow/d/delete", json!({"metadata": 0})),
    ] {
        assert_eq!(device.publish_message(&Publish::new(topic, body.to_string()), 1).code, 0x99, "{topic} {body}");
    }
    assert_eq!(device.publish("shadow/d/delete", r#"{"metadata": false}"#, 1), 0);
}
