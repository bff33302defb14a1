//! `dryRun`: the decision and the document that would result, for the sender alone.

use serde_json::json;

use crate::harness::{client::Client, server::Server, shadow::Requester, wire::V5};

#[test]
fn a_dry_run_returns_the_outcome_and_changes_nothing() {
    let server = Server::start();
    let mut witness = Client::connect(&server, V5, "witness");
    witness.subscribe(&[("shadow/dry/#", 1)]);
    let mut app = Requester::new(&server, V5, "app-1", "shadow/dry");
    let dry = |body: serde_json::Value| {
        let mut body = body;
        body["dryRun"] = json!(true);
        body["idempotencyKey"] = json!("k");
        body
    };
    let reply = app.update(dry(json!({"state": {"desired": {"a": 1}}})));
    assert_eq!((&reply["dryRun"], &reply["changed"], &reply["version"]), (&json!(true), &json!(true), &json!(1)));
    assert_eq!(reply["document"]["state"], json!({"desired": {"a": 1}}));
    app.rejected("get", json!({}), 404, "not-found");
    let real = app.update(json!({"state": {"desired": {"a": 1}}, "idempotencyKey": "k"}));
    assert!(real.get("replayed").is_none(), "the dry run left no key: {real}");
    assert_eq!(real["etag"], reply["etag"], "the dry run has the etag of the update");
    let reply = app.update(dry(json!({"state": {"desired": {"a": 1}}})));
    assert_eq!(reply["replayed"], json!(true), "{reply}");
    app.rejected("update", dry(json!({"state": {"desired": {"a": 2}}})), 422, "idempotency-key-reused");
    let stale = json!({"state": {"desired": {"a": 2}}, "version": 0, "dryRun": true});
    app.rejected("update", stale, 409, "version-conflict");
    let large = json!({"state": {"desired": {"a": "x".repeat(9000)}}, "dryRun": true});
    app.rejected("update", large, 413, "too-large");
    app.update(json!({"state": {"reported": {"end": true}}}));

    let mut heard = Vec::new();
    while heard.last().is_none_or(|topic| topic != "shadow/dry/document") || heard.len() < 8 {
        heard.push(witness.message().topic);
    }
    let expected = [
        "get/rejected",
        "update/delta",
        "update/documents",
        "update/accepted",
        "document",
        "delta",
        "update/delta",
        "update/documents",
        "update/accepted",
        "document",
    ];
    assert_eq!(heard, expected.map(|event| format!("shadow/dry/{event}")), "only what was done was announced");
}
