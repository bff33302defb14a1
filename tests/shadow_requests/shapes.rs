//! The shapes of accepted, delta, documents and get, and what a merge leaves.

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    server::Server,
    shadow::{Requester, version},
    wire::{BOTH, V4, V5},
};

/// The names of the members of an object, sorted.
fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().collect();
    names.sort();
    names.into_iter().map(String::as_str).collect()
}

fn is_etag_of(document: &Value) {
    let etag = document["etag"].as_str().unwrap();
    let digest = etag.strip_prefix(&format!("\"{}-", version(document))).and_then(|rest| rest.strip_suffix('"'));
    let digest = digest.unwrap_or_else(|| panic!("the etag of {document}"));
    assert!(digest.len() == 32 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{etag}");
}

#[test]
fn the_messages_of_an_update() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/shapes-{}", protocol as u8);
        let mut watcher = Client::connect(&server, V5, "watcher");
        watcher.subscribe(&[(&format!("{prefix}/update/+"), 1)]);
        let mut client = Requester::new(&server, protocol, "writer", &prefix);
        let state = json!({
            "desired": {"mode": "heat", "target": 21.5, "list": [1, {"a": 2}], "empty": {}, "deep": {"x": true}},
            "reported": {"mode": "off", "target": 21.50, "rssi": -60},
            "tags": {"room": "north"}
        });
        let accepted = client.update(json!({"state": state, "version": 0}));
        assert_eq!(names(&accepted), ["changed", "clientToken", "etag", "metadata", "state", "timestamp", "version"]);
        assert_eq!((&accepted["state"], version(&accepted), &accepted["changed"]), (&state, 1, &json!(true)));
        is_etag_of(&accepted);

        let stamp = &accepted["metadata"]["desired"]["mode"];
        assert_eq!(names(stamp), ["by", "timestamp", "version"]);
        assert_eq!((&stamp["version"], &stamp["by"]), (&json!(1), &json!("anonymous/writer")));
        assert!(stamp["timestamp"].as_u64().unwrap() > 1_700_000_000, "epoch seconds: {stamp}");
        // One leaf each: a scalar, an array however deep, an empty object.
        for leaf in ["list", "empty", "target"] {
            assert_eq!(accepted["metadata"]["desired"][leaf]["version"], json!(1), "{leaf} in {accepted}");
        }
        assert_eq!(accepted["metadata"]["desired"]["deep"]["x"]["version"], json!(1));
        assert_eq!(accepted["metadata"]["tags"]["room"]["version"], json!(1));

        let delta = watcher.message();
        assert_eq!(delta.topic, format!("{prefix}/update/delta"));
        let delta = delta.json();
        assert_eq!(names(&delta), ["clientToken", "metadata", "state", "timestamp", "version"]);
        // Equal by value is no difference; what is only reported is not in it; arrays and empty objects are.
        assert_eq!(delta["state"], json!({"mode": "heat", "list": [1, {"a": 2}], "empty": {}, "deep": {"x": true}}));
        assert_eq!(delta["metadata"]["deep"]["x"]["version"], json!(1));
        assert_eq!(delta["version"], json!(1));

        let documents = watcher.message().json();
        assert_eq!(names(&documents), ["clientToken", "current", "previous", "timestamp"]);
        assert_eq!(documents["previous"], Value::Null);
        assert_eq!(documents["current"]["state"], state);
        assert_eq!(version(&documents["current"]), 1);
        assert_eq!(documents["current"]["metadata"]["reported"]["rssi"]["version"], json!(1));
        assert_eq!(watcher.message().json(), accepted, "everybody hears the same accepted");

        let got = client.get();
        assert_eq!(names(&got), ["clientToken", "etag", "metadata", "state", "timestamp", "version"]);
        assert_eq!(names(&got["state"]), ["delta", "desired", "reported", "tags"]);
        assert_eq!((&got["state"]["delta"], &got["etag"]), (&delta["state"], &accepted["etag"]));
        assert_eq!(names(&got["metadata"]), ["desired", "reported", "tags"]);
    }
}

#[test]
fn merges() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "writer", "shadow/merge");
    // What is sent, and desired and reported after it.
    let rows = [
        (
            "objects merge",
            json!({"state": {"desired": {"a": {"b": 1}, "l": [1, 2]}}}),
            json!({"desired": {"a": {"b": 1}, "l": [1, 2]}}),
        ),
        (
            "deep",
            json!({"state": {"desired": {"a": {"c": 2}}}}),
            json!({"desired": {"a": {"b": 1, "c": 2}, "l": [1, 2]}}),
        ),
        (
            "null removes",
            json!({"state": {"desired": {"a": {"b": null}}}}),
            json!({"desired": {"a": {"c": 2}, "l": [1, 2]}}),
        ),
        ("arrays whole", json!({"state": {"desired": {"l": [3]}}}), json!({"desired": {"a": {"c": 2}, "l": [3]}})),
        (
            "kinds change",
            json!({"state": {"desired": {"a": 1, "l": {"x": 1}}}}),
            json!({"desired": {"a": 1, "l": {"x": 1}}}),
        ),
        (
            "nested empty objects stay",
            json!({"state": {"desired": {"l": {"x": null}}}}),
            json!({"desired": {"a": 1, "l": {}}}),
        ),
        (
            "two sections",
            json!({"state": {"desired": {"a": 2}, "reported": {"r": 1}}}),
            json!({"desired": {"a": 2, "l": {}}, "reported": {"r": 1}}),
        ),
        (
            "replace",
            json!({"state": {"desired": {"n": 1}}, "replace": true}),
            json!({"desired": {"n": 1}, "reported": {"r": 1}}),
        ),
        ("a section is cleared", json!({"state": {"desired": null}}), json!({"reported": {"r": 1}})),
        ("the last key takes the section along", json!({"state": {"reported": {"r": null}}}), json!({})),
        (
            "again",
            json!({"state": {"desired": {"a": 1}, "reported": {"a": 1}, "tags": {"t": 1}}}),
            json!({"desired": {"a": 1}, "reported": {"a": 1}, "tags": {"t": 1}}),
        ),
        ("all is cleared", json!({"state": null}), json!({})),
    ];
    for (number, (what, body, expected)) in rows.into_iter().enumerate() {
        let accepted = client.update(body.clone());
        assert_eq!((version(&accepted), &accepted["changed"]), (number as u64 + 1, &json!(true)), "{what}");
        assert_eq!(accepted["state"], body["state"], "{what}");
        let mut state = client.get()["state"].clone();
        state.as_object_mut().unwrap().remove("delta");
        assert_eq!(state, expected, "{what}");
    }
}

/// The version a leaf's value last changed at stays where it is when the value does.
#[test]
fn metadata_has_the_time_of_each_change() {
    let server = Server::start();
    let mut first = Requester::new(&server, V5, "first", "shadow/meta");
    let mut second = Requester::new(&server, V5, "second", "shadow/meta");
    first.update(json!({"state": {"reported": {"a": 1, "b": {"c": 1}, "l": [1]}}}));
    let accepted = second.update(json!({"state": {"reported": {"a": 1.0, "b": {"c": 2}, "l": [1], "n": null}}}));
    let expect = |of: &Value, what: &str| {
        let leaf = |name: &str| (of["reported"][name]["version"].clone(), of["reported"][name]["by"].clone());
        assert_eq!(leaf("a"), (json!(1), json!("anonymous/first")), "{what}");
        assert_eq!(leaf("l"), (json!(1), json!("anonymous/first")), "{what}");
        assert_eq!(of["reported"]["b"]["c"]["version"], json!(2), "{what}");
        assert_eq!(of["reported"]["b"]["c"]["by"], json!("anonymous/second"), "{what}");
    };
    expect(&accepted["metadata"], "accepted");
    expect(&first.get()["metadata"], "get");
}

#[test]
fn an_update_that_changes_nothing() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/noop-{}", protocol as u8);
        let mut client = Requester::new(&server, protocol, "writer", &prefix);
        client.update(json!({"state": {"desired": {"a": 1, "b": [1, 2]}}}));
        let before = client.get();
        let mut watcher = Client::connect(&server, V4, "watcher");
        watcher.subscribe(&[(&format!("{prefix}/update/+"), 0)]);
        let rows = [
            json!({"state": {}}),
            json!({"state": {"desired": {}}}),
            json!({"state": {"desired": {"a": 1.0}}}),
            json!({"state": {"desired": {"b": [1, 2], "absent": null}, "reported": null}}),
            json!({"state": {"desired": {"b": [1, 2], "a": 1}}, "replace": true}),
            json!({"state": {"desired": {"a": 1}}, "version": 1}),
        ];
        for body in rows {
            let accepted = client.update(body.clone());
            assert_eq!(accepted["changed"], json!(false), "{body}");
            assert_eq!((&accepted["version"], &accepted["etag"]), (&before["version"], &before["etag"]), "{body}");
            let message = watcher.message();
            assert_eq!(message.topic, format!("{prefix}/update/accepted"), "{body}: neither delta nor documents");
        }
        let after = client.get();
        assert_eq!((&after["metadata"], &after["timestamp"]), (&before["metadata"], &before["timestamp"]));
    }
}

#[test]
fn named_shadows_are_independent() {
    let server = Server::start();
    let mut classic = Requester::new(&server, V5, "classic", "shadow/named");
    let mut named = Requester::new(&server, V4, "named", "shadow/named/name/$config:1");
    classic.update(json!({"state": {"reported": {"which": "classic"}}}));
    classic.update(json!({"state": {"reported": {"second": true}}}));
    assert_eq!(version(&named.update(json!({"state": {"reported": {"which": "named"}}, "version": 0}))), 1);
    assert_eq!(named.get()["state"], json!({"reported": {"which": "named"}}));
    assert_eq!(classic.get()["state"], json!({"reported": {"which": "classic", "second": true}}));
    let absent =
        Requester::new(&server, V5, "absent", "shadow/named/name/none").rejected("get", json!({}), 404, "not-found");
    assert_eq!(absent.body["message"], json!("No shadow exists with name: 'named~none'"));
}

/// The same state has the same digest, however it is spelled.
#[test]
fn the_etag_depends_on_the_content_only() {
    let server = Server::start();
    let mut etags = Vec::new();
    for (device, payload) in [
        ("e1", r#"{"state":{"desired":{"a":1,"b":0.5,"ü":"x"},"reported":{"z":{}}}}"#),
        ("e2", r#"{ "state" : {"reported":{"z":{ }},"desired":{"\u00fc":"\u0078","b":5e-1,"a":1.0}} }"#),
    ] {
        let prefix = format!("shadow/{device}");
        let mut client = Requester::new(&server, V5, device, &prefix);
        assert_eq!(client.client.publish(&format!("{prefix}/update"), payload, 1), 0);
        etags.push(client.get()["etag"].clone());
        // Tags are no part of it but for the version.
        let tagged = client.update(json!({"state": {"tags": {"t": device}}}));
        etags.push(tagged["etag"].clone());
    }
    assert_eq!(etags[0], etags[2]);
    assert_eq!(etags[1], etags[3]);
    let digest = |etag: &Value| etag.as_str().unwrap().split_once('-').unwrap().1.to_owned();
    assert_eq!(digest(&etags[0]), digest(&etags[1]));
}
