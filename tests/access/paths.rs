//! Paths that may not be written, and the ways round that do not lead there.

use serde_json::{Value, json};

use crate::{
    harness::{
        client::Client,
        server::Server,
        shadow::Requester,
        wire::{V4, V5},
    },
    site::{client, site},
};

fn boss(server: &Server) -> Requester {
    Requester::over(client(server, "boss", V5), "boss", "shadow/lamp-1")
}

/// Sends an update; the code of its PUBACK.
fn sent(client: &mut Client, body: &str) -> u8 {
    client.publish("shadow/lamp-1/update", body, 1)
}

#[test]
fn path_rules_hold_for_every_spelling() {
    let server = site();
    let mut boss = boss(&server);
    let start = json!({
        "desired": {"zone": {"t": 20, "u": 1}, "mode": "eco", "flat": 5},
        "reported": {"zone": {"t": 19}},
        "tags": {"owner": "x"},
    });
    boss.update(json!({ "state": start }));
    let mut partial = client(&server, "partial", V5);
    for (body, code) in [
        (r#"{"state":{"desired":{"zone":{"u":9}}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":{"t":21,"u":9}}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":{"t":21}},"reported":{"zone":{"t":21}}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":{"t":21}}},"replace":true}"#, 0x87),
        (r#"{"state":{"desired":{"zone":null}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":{}}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":[]}}}"#, 0x87),
        (r#"{"state":{"desired":null}}"#, 0x87),
        (r#"{"state":{"tags":null}}"#, 0x87),
        (r#"{"state":null}"#, 0x87),
        (r#"{"state":{"desired":{"Zone":{"t":21}}}}"#, 0x87),
        (r#"{"state":{"Desired":{"zone":{"t":21}}}}"#, 0x99), // no section
        (r#"{"state":{"desired":{"zone":{"T":21}}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":{"t ":21}}}}"#, 0x87),
        ("{\"state\":{\"desired\":{\"zone\":{\"\u{0442}\":21}}}}", 0x87), // Cyrillic
        ("{\"state\":{\"desired\":{\"zone\u{200b}\":{\"t\":21}}}}", 0x87), // a space of no width
        (r#"{"state":{"desired":{"zone/t":21}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone~1t":21}}}"#, 0x87),
        (r#"{"state":{"desired":{"$zone":{"t":21}}}}"#, 0x87),
        (r#"{"state":{"desired":{"zone":{"t":21},"zone":{"u":9}}}}"#, 0x99), // a duplicate key
        (r#"{"state":{"desired":{"zone":{"t":21}}},"state":{"desired":{"mode":"off"}}}"#, 0x99),
    ] {
        assert_eq!(sent(&mut partial, body), code, "{body}");
    }
    assert_eq!(boss.get()["version"], 1);
    assert_eq!(partial.publish("shadow/lamp-1/delete", "", 1), 0x87);
    assert_eq!(partial.publish("shadow/lamp-1/name/n/update", r#"{"state":{"desired":{"zone":{"u":1}}}}"#, 1), 0x87);
    for body in [r#"{"state":{"desired":{"zone":{"t":21}}}}"#, r#"{"state":{"desired":{"zone":{"t":{"deep":[1]}}}}}"#] {
        assert_eq!(sent(&mut partial, body), 0, "{body}");
    }
    let mut expected = start;
    expected["desired"]["zone"]["t"] = json!({"deep": [1]});
    let mut state = boss.get()["state"].clone();
    state.as_object_mut().unwrap().remove("delta");
    assert_eq!(state, expected);
}

/// The right to write `/desired/zone/t` does not allow to replace a scalar at `/desired/zone` by an object.
#[test]
fn a_write_above_a_protected_path_is_refused() {
    let server = site();
    let (mut boss, mut partial) = (boss(&server), client(&server, "partial", V5));
    for (there, code) in [(json!(5), 0x87), (json!(["a"]), 0x87), (json!({"u": 1}), 0), (json!({}), 0)] {
        boss.update(json!({"state": {"desired": {"zone": there}}, "replace": true}));
        assert_eq!(sent(&mut partial, r#"{"state":{"desired":{"zone":{"t":21}}}}"#), code, "{there}");
        let now = boss.get()["state"]["desired"]["zone"].clone();
        match code {
            0 => assert_eq!(now["t"], 21),
            _ => assert_eq!(now, there),
        }
    }
}

/// A null state clears what may be cleared: a device's own sections, not the notes about it.
#[test]
fn a_null_state_keeps_protected_paths() {
    let server = site();
    let mut boss = boss(&server);
    for protocol in [V4, V5] {
        boss.update(json!({"state": {"desired": {"a": 1}, "reported": {"a": 1}, "tags": {"t": 1}}}));
        let mut lamp = client(&server, "lamp-1", protocol);
        assert_eq!(sent(&mut lamp, r#"{"state":null}"#), 0);
        assert_eq!(boss.get()["state"], json!({"tags": {"t": 1}}));
    }
}

/// The refusal names the path, to who asked alone.
#[test]
fn a_refusal_names_the_path() {
    let server = site();
    let mut lamp = Requester::over(client(&server, "lamp-1", V5), "lamp-1", "shadow/lamp-1");
    let answer =
        lamp.rejected("update", json!({"state": {"reported": {"a": 1}, "tags": {"b": {"c": 1}}}}), 403, "forbidden");
    assert_eq!(answer.body["message"], "Forbidden: /tags/b/c");
    let (code, text) = (answer.ack.code, answer.ack.properties.text(crate::harness::wire::prop::REASON_STRING));
    assert_eq!((code, text), (0x87, Some("Forbidden: /tags/b/c")));
    let mut app = Requester::over(client(&server, "app-1", V5), "app-1", "shadow/lamp-1");
    let refused = app.rejected("update", json!({"state": {"reported": {"a": 1}}}), 403, "forbidden");
    assert_eq!(refused.body["message"], "Forbidden: /reported/a");
    let refused = app.rejected("delete", Value::Object(Default::default()), 403, "forbidden");
    assert_eq!(refused.body["message"], "Forbidden: /reported");
}
