//! MQTT 5 user properties that mean fields.

use serde_json::json;

use crate::harness::{
    server::Server,
    shadow::{Requester, version},
    wire::{V4, V5},
};

#[test]
fn user_properties_stand_for_payload_fields() {
    let server = Server::start();
    let mut app = Requester::new(&server, V5, "app-1", "shadow/beside");
    let state = |n: u64| json!({"state": {"desired": {"n": n}}});
    let first = app.request_with("update", state(1), &[("if-version", "0"), ("idempotency-key", "k"), ("x", "y")]);
    assert!(first.accepted, "{first:?}");
    // As a field it is the same request.
    let mut again = state(1);
    (again["version"], again["idempotencyKey"]) = (json!(0), json!("k"));
    assert_eq!(app.update(again)["replayed"], json!(true));
    app.update(json!({"state": {"reported": {"n": 1}}}));

    let etag = first.body["etag"].as_str().unwrap();
    for (given, code) in [
        (&[("if-version", "1")][..], 409),
        (&[("if-match", etag)], 409),
        (&[("if-version", "1"), ("on-conflict", "reject")], 409),
        (&[("if-version", "one")], 400),
        (&[("on-conflict", "rebuild")], 400),
        (&[("idempotency-key", "")], 400),
        (&[("idempotency-key", "k")], 422),
    ] {
        let answer = app.request_with("update", state(2), given);
        assert_eq!(answer.body["code"], json!(code), "{given:?}: {answer:?}");
    }
    let mut both = state(2);
    both["version"] = json!(2);
    let answer = app.request_with("update", both.clone(), &[("if-version", "1")]);
    assert_eq!((&answer.body["code"], &answer.body["error"]), (&json!(400), &json!("invalid-field")), "{answer:?}");
    assert_eq!(answer.ack.code, 0x99);
    assert!(app.request_with("update", both, &[("if-version", "2")]).accepted);
    let answer = app.request_with("update", state(3), &[("if-version", "1"), ("on-conflict", "rebase")]);
    assert_eq!(answer.body["conflicts"][0]["path"], json!("/desired/n"), "{answer:?}");
    let rebased = json!({"state": {"reported": {"other": 1}}});
    let answer = app.request_with("update", rebased, &[("if-version", "1"), ("on-conflict", "rebase")]);
    assert_eq!((&answer.body["rebasedFrom"], version(&answer.body)), (&json!(1), 4), "{answer:?}");
    assert_eq!(app.request_with("delete", json!({}), &[("if-version", "3")]).body["code"], json!(409));
    assert!(app.request_with("delete", json!({}), &[("if-version", "4")]).accepted);

    // 3.1.1 has none, and needs none.
    let mut old = Requester::new(&server, V4, "app-2", "shadow/beside");
    old.rejected("update", json!({"state": {}, "version": 1, "idempotencyKey": "k"}), 409, "version-conflict");
}
