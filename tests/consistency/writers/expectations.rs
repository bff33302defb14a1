//! `expect`: conditions on single paths.

use serde_json::json;

use crate::harness::{server::Server, shadow::Requester, wire::V5};

#[test]
fn expectations_decide() {
    let server = Server::start();
    let mut app = Requester::new(&server, V5, "app-1", "shadow/expect");
    app.update(json!({"state": {"desired": {"mode": "heat", "list": [1, 2]}, "reported": {"t": 1}}}));
    app.update(json!({"state": {"reported": {"t": 2}}}));
    let rows = [
        (json!([{"path": "/desired/mode", "version": 1}]), json!([])),
        (json!([{"path": "/desired/mode", "value": "heat"}, {"path": "/desired/list/1", "value": 2.0}]), json!([])),
        (json!([{"path": "/desired/never", "absent": true}]), json!([])),
        (
            json!([{"path": "/reported/t", "version": 1}]),
            json!([{"path": "/reported/t", "expected": "version", "current": 2, "version": 2}]),
        ),
        (
            json!([{"path": "/desired/mode", "value": "eco"}, {"path": "/desired/list", "absent": true},
                   {"path": "/desired/mode", "version": 1}, {"path": "/tags/x", "value": 1}]),
            json!([{"path": "/desired/mode", "expected": "value", "current": "heat", "version": 1},
                   {"path": "/desired/list", "expected": "absent", "current": [1, 2], "version": 1},
                   {"path": "/tags/x", "expected": "value"}]),
        ),
    ];
    for (row, (expect, failed)) in rows.into_iter().enumerate() {
        // The version is stale, which an expectation does not mind and a rebase forgives.
        let body = json!({"state": {"desired": {"row": {row.to_string(): 1}}}, "expect": expect, "version": 2, "onConflict": "rebase"});
        if failed == json!([]) {
            app.update(body);
            continue;
        }
        let refused = app.rejected("update", body, 409, "expectation-failed");
        let mut listed = refused.body["failed"].clone();
        for entry in listed.as_array_mut().unwrap() {
            let entry = entry.as_object_mut().unwrap();
            assert_eq!(entry.remove("by").is_some(), entry.contains_key("version"), "{entry:?}");
            entry.remove("timestamp");
        }
        assert_eq!(listed, failed);
        assert_eq!(refused.ack.code, 0x83);
    }
    app.rejected("update", json!({"state": {}, "expect": [{"path": "x", "absent": true}]}), 400, "invalid-field");
}
