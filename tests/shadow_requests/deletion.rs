//! Deleting a shadow, and what remains: its version.

use serde_json::json;

use crate::harness::{
    server::Server,
    shadow::{Requester, version},
    wire::{BOTH, Publish, V5},
};

#[test]
fn a_recreated_shadow_continues_its_versions() {
    let mut server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/delete-{}", protocol as u8);
        let mut client = Requester::new(&server, protocol, "client", &prefix);
        client.rejected("delete", json!({}), 404, "not-found");
        client.update(json!({"state": {"desired": {"a": 1}, "tags": {"t": 1}}}));
        client.update(json!({"state": {"desired": {"a": 2}}}));
        let deleted = client.accepted("delete", json!({}));
        let mut names: Vec<_> = deleted.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["clientToken", "timestamp", "version"]);
        assert_eq!(version(&deleted), 3);
        let absent = client.rejected("get", json!({}), 404, "not-found");
        assert_eq!(absent.body["message"], json!(format!("No shadow exists with name: 'delete-{}'", protocol as u8)));
        client.rejected("delete", json!({}), 404, "not-found");
        // Created again: what was there is gone, the counting is not.
        assert_eq!(version(&client.update(json!({"state": {"reported": {"r": 1}}}))), 4);
        assert_eq!(client.get()["state"], json!({"reported": {"r": 1}}));
        client.accepted("delete", json!({"version": 4}));
    }
    server.stop();
    server.restart();
    let mut client = Requester::new(&server, V5, "client", "shadow/delete-5");
    client.rejected("get", json!({}), 404, "not-found");
    assert_eq!(
        version(&client.update(json!({"state": {"reported": {"r": 2}}, "version": 0}))),
        6,
        "also after a restart"
    );
}

#[test]
fn preconditions_on_a_deleted_shadow() {
    let server = Server::start();
    // What is asked of the tombstone at version 2, and whether it holds.
    let rows = [
        ("absent", json!({"version": 0}), true),
        ("its own version", json!({"version": 2}), true),
        ("an older version", json!({"version": 1}), false),
        ("a version to come", json!({"version": 3}), false),
        ("nothing", json!({}), true),
    ];
    for (number, (what, mut body, holds)) in rows.into_iter().enumerate() {
        let mut client = Requester::new(&server, V5, "client", &format!("shadow/tomb-{number}"));
        let alive = client.update(json!({"state": {"desired": {"a": 1}}}));
        client.accepted("delete", json!({}));
        body["state"] = json!({"desired": {"a": 2}});
        let mut tagged = body.clone();
        tagged["etag"] = alive["etag"].clone();
        client.rejected("update", tagged, 409, "version-conflict");
        let answer = client.request("update", body);
        assert_eq!(answer.accepted, holds, "{what}: {answer:?}");
        if holds {
            assert_eq!(version(&answer.body), 3, "{what}");
        } else {
            assert_eq!((version(&answer.body), answer.body.get("etag")), (2, None), "{what}: {answer:?}");
        }
    }
}

#[test]
fn delete_honours_version_and_etag() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/cond");
    let first = client.update(json!({"state": {"desired": {"a": 1}}}));
    let second = client.update(json!({"state": {"desired": {"a": 2}}}));
    for body in [json!({"version": 1}), json!({"version": 0}), json!({"etag": first["etag"]})] {
        let refused = client.rejected("delete", body, 409, "version-conflict");
        assert_eq!((version(&refused.body), &refused.body["etag"]), (2, &second["etag"]));
    }
    client.accepted("delete", json!({"etag": second["etag"], "version": 2}));
}

/// `get` and `delete` may come with nothing at all, and then nothing is echoed.
#[test]
fn empty_payloads() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/empty");
    client.update(json!({"state": {"desired": {"a": 1}}}));
    for (operation, payload) in [("get", ""), ("get", "{}"), ("delete", "")] {
        let ack = client.client.publish_message(&Publish::new(&format!("shadow/empty/{operation}"), payload), 1);
        assert_eq!(ack.code, 0, "{operation} {payload:?}");
        let message = client.client.message();
        assert_eq!(message.topic, format!("shadow/empty/{operation}/accepted"));
        assert!(message.json().get("clientToken").is_none(), "{message:?}");
    }
}
