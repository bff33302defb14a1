//! `idempotencyKey`: a repeated request returns the first outcome and changes nothing.

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    server::{Server, UNLIMITED},
    shadow::{Requester, version},
    wire::BOTH,
};

fn keyed(key: &str, body: &Value) -> Value {
    let mut body = body.clone();
    body["idempotencyKey"] = json!(key);
    body
}

/// Returns the reply without the fields that differ between a first reply and a replay.
fn outcome(reply: &Value) -> Value {
    let mut reply = reply.clone();
    reply.as_object_mut().unwrap().retain(|key, _| !["clientToken", "replayed", "metadata"].contains(&key.as_str()));
    reply
}

#[test]
fn a_repeated_key_returns_the_first_outcome() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/again-{}", protocol as u8);
        let mut witness = Client::connect(&server, protocol, "witness");
        witness.subscribe(&[(&format!("{prefix}/+/accepted"), 1), (&format!("{prefix}/+/documents"), 1)]);
        let mut app = Requester::new(&server, protocol, "app-1", &prefix);
        let body = json!({"state": {"desired": {"n": 1}}, "version": 0});
        let first = app.update(keyed("a", &body));
        app.update(json!({"state": {"desired": {"n": 2}, "tags": {"x": 1}}}));
        let again = app.update(keyed("a", &body));
        assert_eq!((outcome(&again), &again["replayed"]), (outcome(&first), &json!(true)));
        assert_ne!(again["clientToken"], first["clientToken"]);
        // Preconditions and order of keys count as what they mean, from wherever they are given.
        let other = keyed("a", &json!({"version": 0.0, "state": {"desired": {"n": 1.0}}}));
        assert_eq!(outcome(&app.update(other))["version"], json!(1));
        for other in [json!({"state": {"desired": {"n": 1}}}), json!({"state": {"desired": {"n": 2}}, "version": 0})] {
            app.rejected("update", keyed("a", &other), 422, "idempotency-key-reused");
        }
        app.rejected("delete", keyed("a", &json!({})), 422, "idempotency-key-reused");
        // Another principal has keys of its own.
        let mut other = Requester::new(&server, protocol, "app-2", &prefix);
        other.rejected("update", keyed("a", &body), 409, "version-conflict");
        let deleted = app.accepted("delete", keyed("gone", &json!({})));
        let again = app.accepted("delete", keyed("gone", &json!({})));
        assert_eq!((version(&again), &again["replayed"]), (version(&deleted), &json!(true)));
        let end = app.update(json!({"state": {"desired": {"n": 3}}}));
        assert_eq!(version(&end), 4);
        let heard: Vec<_> = witness.messages(7).into_iter().map(|(_, body)| body).collect();
        let heard: Vec<Value> = heard.iter().map(|body| serde_json::from_str(body).unwrap()).collect();
        assert!(heard.iter().all(|body| body.get("replayed").is_none()), "a replay was announced: {heard:?}");
        assert_eq!(heard.last().unwrap()["version"], json!(4), "{heard:?}");
    }
}

#[test]
fn keys_survive_a_crash_and_a_restart() {
    let mut server = Server::with(UNLIMITED);
    let mut first_replies: Vec<(String, &str, Value, Value)> = Vec::new();
    let mut app = Requester::private(&server, "app-1", "shadow/crash");
    for n in 0..6 {
        let body = json!({"state": {"desired": {"n": n / 2}}});
        let key = format!("n-{n}");
        // Every second one changes nothing.
        let first = app.update(keyed(&key, &body));
        assert_eq!(first["changed"], json!(n % 2 == 0));
        first_replies.push((key, "update", body, first));
    }
    first_replies.push(("gone".into(), "delete", json!({}), app.accepted("delete", keyed("gone", &json!({})))));
    drop(app);
    for round in 0..3 {
        match round {
            0 => server.kill(),
            1 => _ = server.stop(),
            _ => server.kill(),
        }
        server.restart();
        let mut app = Requester::private(&server, "app-1", "shadow/crash");
        for (key, operation, body, first) in &first_replies {
            let again = app.accepted(operation, keyed(key, body));
            assert_eq!((outcome(&again), &again["replayed"]), (outcome(first), &json!(true)), "round {round}: {key}");
        }
        app.rejected("get", json!({}), 404, "not-found");
    }
    server.stop();
}
