//! One shadow, two dialects: each hears of everything, in its own shape.

use serde_json::{Value, json};

use crate::{
    harness::{
        server::Server,
        wire::{V4, V5},
    },
    thing::{Event, Thing},
};

const NATIVE: &str = "shadow/d1";
const AWS: &str = "$aws/things/d1/shadow";

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

fn fields(payload: &Value) -> Vec<&str> {
    payload.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn events_reach_the_subscribers_of_both() {
    let server = Server::start();
    let mut native = Thing::new(&server, V5, "native", NATIVE);
    let mut aws = Thing::new(&server, V4, "aws", AWS);
    let body = json!({"state": {"desired": {"a": [1]}, "tags": {"t": 1}}, "clientToken": "n1"}).to_string();
    let (received, _) = native.request("update", body);
    let heard = aws.reply();
    assert_eq!(names(&received), ["update/delta", "update/documents", "update/accepted"]);
    assert_eq!(names(&heard), names(&received));
    assert_eq!(received[2].1["state"]["tags"], json!({"t": 1}));
    assert_eq!(fields(&received[2].1), ["changed", "clientToken", "etag", "metadata", "state", "timestamp", "version"]);
    // Of the native fields and of `tags`, which AWS has not, nothing shows.
    let metadata = json!({"desired": {"a": [{"timestamp": "T"}]}});
    assert_eq!(
        heard[2].1,
        json!({
            "state": {"desired": {"a": [1]}}, "metadata": metadata, "version": 1, "timestamp": "T", "clientToken": "n1"
        })
    );
    assert_eq!(heard[1].1["current"], json!({"state": {"desired": {"a": [1]}}, "metadata": metadata, "version": 1}));

    // The other way round, with a change that AWS cannot see in between.
    native.request("update", r#"{"state":{"tags":{"t":2}}}"#);
    let heard = aws.reply();
    assert_eq!(heard[2].1, json!({"state": {}, "metadata": {}, "version": 2, "timestamp": "T"}));
    let (received, _) = aws.request("update", r#"{"state":{"desired":{"a":[1]}},"version":2,"clientToken":"a1"}"#);
    let heard = native.reply();
    assert_eq!(names(&heard), names(&received));
    assert_eq!((&heard[2].1["version"], &heard[2].1["changed"]), (&json!(3), &json!(true)), "AWS took a version");
    assert_eq!(heard[2].1["metadata"]["desired"]["a"]["version"], json!(1), "but no value changed");
    assert_eq!(heard[2].1["clientToken"], json!("a1"));

    // No-ops, refusals, gets and deletions are published in both as well.
    let (received, _) = native.request("update", r#"{"state":{"desired":{"a":[1]}}}"#);
    assert_eq!((names(&received), &received[0].1["changed"]), (vec!["update/accepted"], &json!(false)));
    assert_eq!(names(&aws.reply()), ["update/accepted"]);
    let (received, ack) = native.request("update", r#"{"state":{},"version":1,"clientToken":"n2"}"#);
    assert_eq!((names(&received), ack.code), (vec!["update/rejected"], 0x83));
    assert_eq!(
        aws.reply()[0].1,
        json!({
            "code": 409, "message": "Version conflict", "timestamp": "T", "clientToken": "n2"
        })
    );
    aws.request("get", "");
    assert_eq!(names(&native.reply()), ["get/accepted"]);
    aws.request("delete", "");
    assert_eq!(native.reply(), [("delete/accepted".into(), json!({"version": 4, "timestamp": "T"}))]);
}

/// Tags survive what an AWS client does to the whole state.
#[test]
fn aws_cannot_touch_tags() {
    let server = Server::start();
    let mut native = Thing::new(&server, V5, "native", NATIVE);
    native.request("update", r#"{"state":{"tags":{"t":1},"reported":{"a":1}}}"#);
    let mut aws = Thing::new(&server, V4, "aws", AWS);
    aws.request("update", r#"{"state":null}"#);
    native.reply();
    let (events, _) = native.request("get", "");
    assert_eq!(events[0].1["state"], json!({"tags": {"t": 1}}));
}

/// A heartbeat over AWS moves the time of what it repeats and nothing else; after a crash it is the same.
#[test]
fn a_repeated_value_over_aws_survives_a_crash() {
    let mut server = Server::start();
    let mut aws = Thing::new(&server, V4, "aws", AWS);
    aws.request("update", r#"{"state":{"reported":{"a":1,"b":{"c":[2]}}}}"#);
    aws.request("update", r#"{"state":{"reported":{"a":1}}}"#);
    aws.request("update", r#"{"state":{}}"#);
    let get = |server: &Server| Thing::new(server, V5, "native", NATIVE).request("get", "").0.remove(0).1;
    let before = get(&server);
    assert_eq!(before["version"], json!(3));
    assert_eq!(before["metadata"]["reported"]["a"]["version"], json!(1));
    server.kill();
    server.restart();
    assert_eq!(get(&server), before);
}

/// The concurrency of the native dialect works over AWS topics too; its answers have AWS's shape.
#[test]
fn stale_writers_of_other_fields_over_aws() {
    let server = Server::start();
    let mut native = Thing::new(&server, V5, "native", NATIVE);
    let mut aws = Thing::new(&server, V5, "aws", AWS);
    native.request("update", r#"{"state":{"desired":{"a":1,"b":1}}}"#);
    native.request("update", r#"{"state":{"desired":{"a":2}}}"#);
    (0..2).for_each(|_| drop(aws.reply()));
    // A heartbeat over AWS takes a version and is no conflict for anybody.
    aws.request("update", r#"{"state":{"desired":{"a":2,"b":1}}}"#);
    native.reply();
    let conflict = json!({"code": 409, "message": "Version conflict", "timestamp": "T"});
    // update, the version it makes or `None`
    for (body, version) in [
        (r#"{"state":{"desired":{"a":3}},"version":1,"onConflict":"rebase"}"#, None),
        (r#"{"state":{"desired":{"a":3}},"expect":[{"path":"/desired/a","value":1}]}"#, None),
        (r#"{"state":{"desired":{"b":2}},"version":2,"onConflict":"rebase"}"#, Some(4)),
        (r#"{"state":{"desired":{"a":3}},"version":2,"onConflict":"rebase"}"#, Some(5)),
        (r#"{"state":{"desired":{"c":1}},"expect":[{"path":"/desired/c","absent":true}]}"#, Some(6)),
    ] {
        let (events, ack) = aws.request("update", body);
        let (name, received) = events.last().unwrap();
        assert_eq!(ack.code, 0, "{body}");
        match version {
            None => assert_eq!((name.as_str(), received), ("update/rejected", &conflict), "{body}"),
            Some(version) => {
                assert_eq!((name.as_str(), &received["version"]), ("update/accepted", &json!(version)), "{body}");
                assert_eq!(fields(received), ["metadata", "state", "timestamp", "version"], "{body}");
            }
        }
    }
}

/// A replay has the first outcome's version and the new token, and reaches nobody but its sender.
#[test]
fn a_replay_over_aws() {
    let server = Server::start();
    let mut aws = Thing::new(&server, V4, "aws", AWS);
    let mut other = Thing::new(&server, V5, "other", AWS);
    let send = |thing: &mut Thing, token: &str| {
        let body = json!({"state": {"reported": {"a": 1}}, "idempotencyKey": "k", "clientToken": token});
        thing.request("update", body.to_string()).0.pop().unwrap()
    };
    let first = send(&mut aws, "t1");
    aws.request("update", r#"{"state":{"reported":{"b":1}}}"#);
    let (name, mut again) = send(&mut aws, "t2");
    assert_eq!(again["clientToken"], json!("t2"));
    again["clientToken"] = json!("t1");
    assert_eq!((name, again), first);
    aws.request("update", r#"{"state":{"reported":{"c":1}}}"#);
    let versions: Vec<Value> = (0..3).map(|_| other.reply().pop().unwrap().1["version"].clone()).collect();
    assert_eq!(versions, [1, 2, 3], "the replay was sent to its sender alone, and took no version");
}
