//! A refused update lists its conflicting paths with their current and base values.

use serde_json::{Value, json};

use crate::harness::{
    server::{Server, UNLIMITED},
    shadow::{Requester, version},
    wire::{BOTH, V5},
};

fn conflict(path: &str, yours: Value, base: Value, current: Value) -> Value {
    json!({"path": path, "yours": yours, "base": base, "current": current})
}

/// The conflicts without who made them, which is checked to be there.
fn conflicts_by(body: &Value, by: &str) -> Value {
    let conflicts =
        body["conflicts"].as_array().unwrap_or_else(|| panic!("no conflicts in {body}")).iter().map(|conflict| {
            assert_eq!(conflict["by"], json!(format!("anonymous/{by}")), "{body}");
            assert!(conflict["version"].is_u64() && conflict["timestamp"].is_u64(), "{body}");
            let mut conflict = conflict.clone();
            conflict.as_object_mut().unwrap().retain(|key, _| !["by", "version", "timestamp"].contains(&key.as_str()));
            conflict
        });
    conflicts.collect()
}

#[test]
fn a_stale_update_lists_its_conflicts() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/stale-{}", protocol as u8);
        let mut app = Requester::new(&server, protocol, "app-1", &prefix);
        app.update(json!({"state": {"desired": {"target": 19, "mode": "heat", "fan": {"speed": 1, "auto": true}}}}));
        app.update(json!({"state": {"desired": {"target": 20}}}));
        app.update(json!({"state": {"desired": {"target": 23, "fan": {"speed": null}}}}));
        let mine =
            json!({"desired": {"target": 21, "mode": "eco", "fan": {"speed": 2, "auto": false}}, "reported": {"t": 1}});
        for on_conflict in ["reject", "rebase"] {
            let body = json!({"state": mine, "version": 1, "onConflict": on_conflict});
            let refused = app.rejected("update", body, 409, "version-conflict").body;
            assert_eq!((&refused["expected"], &refused["version"]), (&json!(1), &json!(3)));
            let removed = json!({"path": "/desired/fan/speed", "yours": 2, "base": 1, "removed": true});
            assert_eq!(
                conflicts_by(&refused, "app-1"),
                json!([removed, conflict("/desired/target", json!(21), json!(19), json!(23))])
            );
            assert_eq!(refused["clean"], json!(["/desired/fan/auto", "/desired/mode", "/reported/t"]));
        }
        // Clean paths can be sent unchanged, conflicting ones with the version of the reply.
        let body = json!({"state": {"desired": {"mode": "eco"}}, "version": 1, "onConflict": "rebase"});
        let accepted = app.update(body);
        assert_eq!((&accepted["rebasedFrom"], version(&accepted)), (&json!(1), 4));
        let body = json!({"state": {"desired": {"target": 21}}, "version": 3, "onConflict": "rebase"});
        assert_eq!(version(&app.update(body)), 5);
        let body = json!({"state": {"desired": {"target": 22}}, "version": 5, "onConflict": "rebase"});
        assert!(app.update(body).get("rebasedFrom").is_none(), "the current version needs no rebase");
    }
}

/// A stale deletion and a stale replacement list the changed paths; a known etag is resolved to its version.
#[test]
fn other_stale_requests_list_their_conflicts() {
    let server = Server::start();
    let mut app = Requester::new(&server, V5, "app-1", "shadow/others");
    let first = app.update(json!({"state": {"desired": {"a": 1, "b": 1}, "tags": {"x": 1}}}));
    app.update(json!({"state": {"desired": {"b": 2}}}));
    let gone = conflict("/desired/b", Value::Null, json!(1), json!(2));
    let etag = &first["etag"];
    let refused = app.rejected("delete", json!({ "etag": etag }), 409, "version-conflict").body;
    assert_eq!((conflicts_by(&refused, "app-1"), &refused["expected"]), (json!([gone]), &json!(1)));
    let body = json!({"state": {"desired": {"a": 5}}, "replace": true, "version": 1});
    let refused = app.rejected("update", body, 409, "version-conflict").body;
    assert_eq!((conflicts_by(&refused, "app-1"), &refused["clean"]), (json!([gone]), &json!(["/desired/a"])));
    // Nothing of it changed, and still the etag is another one.
    let body = json!({"state": {"desired": {"a": 5}}, "etag": etag, "onConflict": "rebase"});
    let refused = app.rejected("update", body, 409, "version-conflict").body;
    assert_eq!((&refused["conflicts"], &refused["clean"]), (&json!([]), &json!(["/desired/a"])));
}

/// The former value is found as far back as is walked, while the acknowledgements keep their order.
#[test]
fn base_values_come_from_the_journal() {
    const VERSIONS: u64 = 1_010;
    let server = Server::with(UNLIMITED);
    let mut app = Requester::private(&server, "app-1", "shadow/deep");
    for n in 1..=VERSIONS {
        app.update(json!({"state": {"reported": {"n": n}}}));
    }
    for seen in [1, 9, 10, 11, 500, VERSIONS - 9, VERSIONS - 8, VERSIONS - 1] {
        let refused =
            app.rejected("update", json!({"state": {"reported": {"n": 0}}, "version": seen}), 409, "version-conflict");
        let conflict = &refused.body["conflicts"][0];
        assert_eq!((&conflict["yours"], &conflict["current"]), (&json!(0), &json!(VERSIONS)));
        let base = (VERSIONS - seen <= 1_000).then(|| json!(seen));
        assert_eq!(conflict.get("base"), base.as_ref(), "{VERSIONS} versions, seen {seen}");
    }
    // A refusal that takes a long look back, and requests behind it: the PUBACKs come as the requests went.
    let mut client = crate::harness::client::Client::connect(&server, V5, "orderly");
    let ids: Vec<u16> = (0..20u16)
        .map(|n| {
            let version = if n.is_multiple_of(2) { json!(20) } else { json!(VERSIONS - 1) };
            let body = json!({"state": {"reported": {"n": n}}, "version": version}).to_string();
            let id = client.next_id();
            client.send(crate::harness::wire::Publish::new("shadow/deep/update", body).encode(V5, 1, id));
            id
        })
        .collect();
    let acknowledged: Vec<u16> = ids
        .iter()
        .map(|_| {
            client.wait("PUBACK", |packet| match packet {
                crate::harness::packet::Packet::PubAck(ack) => Some((ack.id, ack.code)),
                _ => None,
            })
        })
        .map(|(id, code)| {
            assert_eq!(code, 0x83);
            id
        })
        .collect();
    assert_eq!(acknowledged, ids);
}

#[test]
fn lists_at_most_64_paths() {
    let server = Server::start();
    let mut app = Requester::new(&server, V5, "app-1", "shadow/many");
    let all = |value: u64| {
        let members: serde_json::Map<_, _> = (0..80).map(|n| (format!("k{n:02}"), json!(value))).collect();
        json!({ "reported": members })
    };
    app.update(json!({"state": all(1)}));
    app.update(json!({"state": all(2)}));
    let refused = app.rejected("update", json!({"state": all(3), "version": 1}), 409, "version-conflict").body;
    assert_eq!(refused["conflicts"].as_array().unwrap().len(), 64);
    assert_eq!((&refused["clean"], &refused["truncated"]), (&json!([]), &json!(true)));
}
