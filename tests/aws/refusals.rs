//! Codes and messages, letter by letter: clients compare them.

use serde_json::{Value, json};

use crate::{
    harness::{
        server::{Server, Setup},
        wire::{BOTH, V5},
    },
    thing::Thing,
};

fn rejected(code: u16, message: &str, token: Option<&str>) -> Value {
    let mut body = json!({"code": code, "message": message, "timestamp": "T"});
    if let Some(token) = token {
        body["clientToken"] = json!(token);
    }
    body
}

#[test]
fn requests_that_are_refused() {
    let deep = format!(r#"{{"state":{{"desired":{}1{}}}}}"#, r#"{"a":"#.repeat(10), "}".repeat(10));
    let large = format!(r#"{{"state":{{"desired":{{"a":"{}"}}}}}}"#, "x".repeat(8192));
    let long_token = format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "x".repeat(65));
    // request, payload, code, message
    let table: [(&str, &[u8], u16, &str); 22] = [
        ("update", b"", 400, "Invalid JSON"),
        ("update", b"{\"state\":", 400, "Invalid JSON"),
        ("update", b"[]", 400, "Invalid JSON"),
        ("update", b"{\"state\":{}} x", 400, "Invalid JSON"),
        ("update", b"{\"state\":{\"desired\":{\"a\":1e999}}}", 400, "Invalid JSON"),
        ("update", b"{}", 400, "Missing required node: state"),
        ("update", b"{\"state\":5}", 400, "State node must be an object"),
        ("update", b"{\"state\":{\"desired\":5}}", 400, "Desired node must be an object"),
        ("update", b"{\"state\":{\"reported\":[]}}", 400, "Reported node must be an object"),
        ("update", b"{\"state\":{\"wanted\":{}}}", 400, "State contains an invalid node: 'wanted'"),
        ("update", b"{\"state\":{\"tags\":{}}}", 400, "State contains an invalid node: 'tags'"),
        ("update", b"{\"state\":{\"desired\":{\"a\":[null]}}}", 400, "State contains an invalid node: 'a'"),
        ("update", b"{\"state\":{},\"version\":\"1\"}", 400, "Invalid version"),
        ("update", b"{\"state\":{},\"version\":-1}", 400, "Invalid version"),
        ("update", b"{\"state\":{},\"clientToken\":1}", 400, "Invalid clientToken"),
        ("update", long_token.as_bytes(), 400, "Invalid clientToken"),
        ("update", deep.as_bytes(), 400, "JSON contains too many levels of nesting; maximum is 8"),
        ("update", large.as_bytes(), 413, "Json document too large.  Size is 8200, max allowed: 8192"),
        (
            "update",
            b"{\"state\":{\"desired\":{\"a\":\"\xff\"}}}",
            415,
            "Unsupported documented encoding; supported encoding is UTF-8",
        ),
        ("get", b"", 404, "No shadow exists with name: 'refused'"),
        ("get", b"x", 400, "Invalid JSON"),
        ("delete", b"{}", 404, "No shadow exists with name: 'refused'"),
    ];
    let quota = Setup { limits: "requests_rate = \"20/s burst 1000\"", ..Setup::default() };
    let server = Server::with(quota);
    for protocol in BOTH {
        let mut thing = Thing::new(&server, protocol, "refused", "$aws/things/refused/shadow");
        for (operation, payload, code, message) in table {
            let (events, ack) = thing.request(operation, payload);
            let shown = String::from_utf8_lossy(payload);
            assert_eq!(events, [(format!("{operation}/rejected"), rejected(code, message, None))], "{shown:.100}");
            assert_eq!(ack.code, 0, "on AWS topics all are acknowledged alike");
        }
    }
}

#[test]
fn a_token_is_echoed_and_a_conflict_has_no_other_field() {
    let server = Server::start();
    let mut thing = Thing::new(&server, V5, "thing", "$aws/things/c/shadow/name/n");
    let missing = rejected(404, "No shadow exists with name: 'c~n'", Some("t0"));
    for operation in ["get", "delete"] {
        let (events, _) = thing.request(operation, r#"{"clientToken":"t0"}"#);
        assert_eq!(events, [(format!("{operation}/rejected"), missing.clone())]);
    }
    thing.request("update", r#"{"state":{"desired":{"a":1}}}"#);
    thing.request("update", r#"{"state":{"desired":{"a":2}}, "version": 1}"#);
    let (events, ack) = thing.request("update", r#"{"state":{"desired":{"a":3}},"version":1,"clientToken":"t1"}"#);
    assert_eq!(events, [("update/rejected".into(), rejected(409, "Version conflict", Some("t1")))]);
    assert_eq!(ack.code, 0);
    let (events, _) = thing.request("update", r#"{"state":{"other":{}},"clientToken":"t2"}"#);
    assert_eq!(events[0].1["clientToken"], json!("t2"));
    // Unknown fields beside `state` are no concern of anybody.
    let body = r#"{"state":{"desired":{"a":4}},"desired":{"b":1},"etag":7,"replace":"no","dryRun":true,"v":[[1]]}"#;
    let (events, _) = thing.request("update", body);
    assert_eq!(events.last().unwrap().1["state"], json!({"desired": {"a": 4}}));
    let (events, _) = thing.request("get", r#"{"version":9}"#);
    assert_eq!(events[0].1["version"], json!(3));
}

#[test]
fn a_request_over_a_quota_has_code_429() {
    let limits = "requests_rate = \"1/s burst 1\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    let mut thing = Thing::new(&server, V5, "hasty", "$aws/things/hasty/shadow");
    let ids = [(); 3].map(|()| thing.send("update", r#"{"state":{},"clientToken":"q"}"#));
    // The refusals do not wait for the disk as the one that is accepted does.
    let mut refused = 0;
    while refused < 2 {
        let (name, body) = thing.event();
        if name == "update/rejected" {
            refused += 1;
            assert_eq!(body["code"], json!(429));
            let fields: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(fields, ["clientToken", "code", "message", "timestamp"]);
        }
    }
    for id in ids {
        assert_eq!(thing.client.puback(id).code, 0);
    }
}
