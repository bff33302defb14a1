//! The messages, whole: a field more or less is a failure.

use serde_json::{Value, json};

use crate::{
    harness::{
        server::Server,
        wire::{BOTH, V4},
    },
    thing::{Event, Thing},
};

const CLASSIC: &str = "$aws/things/lamp/shadow";
const NAMED: &str = "$aws/things/lamp/shadow/name/config$1";

fn event(name: &str, payload: Value) -> Event {
    (name.to_owned(), payload)
}

#[test]
fn the_life_of_a_shadow() {
    for (protocol, prefix) in BOTH.into_iter().zip([CLASSIC, NAMED]) {
        let server = Server::start();
        let mut thing = Thing::new(&server, protocol, "lamp", prefix);
        let state = json!({
            "desired": {"color": "red", "list": [1, {"a": true, "b": []}, [2]], "empty": {}, "deep": {"x": 1.5}},
            "reported": {"color": "blue", "deep": {"x": 1.50}, "rssi": -60},
        });
        let stamped = json!({
            "desired": {
                "color": {"timestamp": "T"},
                "list": [{"timestamp": "T"}, {"a": {"timestamp": "T"}, "b": []}, [{"timestamp": "T"}]],
                "empty": {},
                "deep": {"x": {"timestamp": "T"}},
            },
            "reported": {
                "color": {"timestamp": "T"}, "deep": {"x": {"timestamp": "T"}}, "rssi": {"timestamp": "T"},
            },
        });
        let delta = json!({"color": "red", "list": [1, {"a": true, "b": []}, [2]], "empty": {}});
        let delta_stamped = json!({
            "color": {"timestamp": "T"},
            "list": [{"timestamp": "T"}, {"a": {"timestamp": "T"}, "b": []}, [{"timestamp": "T"}]],
            "empty": {},
        });

        let (events, ack) = thing.request("update", json!({"state": state, "clientToken": "t1"}).to_string());
        assert_eq!(ack.code, 0);
        assert_eq!(
            events,
            [
                event(
                    "update/delta",
                    json!({
                        "version": 1, "timestamp": "T", "state": delta, "metadata": delta_stamped, "clientToken": "t1"
                    })
                ),
                event(
                    "update/documents",
                    json!({
                        "previous": null,
                        "current": {"state": state, "metadata": stamped, "version": 1},
                        "timestamp": "T", "clientToken": "t1",
                    })
                ),
                event(
                    "update/accepted",
                    json!({
                        "state": state, "metadata": stamped, "version": 1, "timestamp": "T", "clientToken": "t1"
                    })
                ),
            ]
        );

        // Only what is sent is in accepted; a removed member has a time there, and is nowhere else.
        let patch = json!({"desired": {"empty": null, "list": null, "deep": null}, "reported": {"color": "red"}});
        let (events, _) = thing.request("update", json!({"state": patch}).to_string());
        let previous = json!({"state": state, "metadata": stamped, "version": 1});
        let state = json!({
            "desired": {"color": "red"}, "reported": {"color": "red", "deep": {"x": 1.5}, "rssi": -60}
        });
        let stamped = json!({
            "desired": {"color": {"timestamp": "T"}},
            "reported": {"color": {"timestamp": "T"}, "deep": {"x": {"timestamp": "T"}}, "rssi": {"timestamp": "T"}},
        });
        let current = json!({"state": state, "metadata": stamped, "version": 2});
        assert_eq!(
            events,
            [
                event("update/documents", json!({"previous": previous, "current": current, "timestamp": "T"})),
                event(
                    "update/accepted",
                    json!({
                        "state": patch,
                        "metadata": {
                            "desired": {"empty": {"timestamp": "T"}, "list": {"timestamp": "T"}, "deep": {"timestamp": "T"}},
                            "reported": {"color": {"timestamp": "T"}},
                        },
                        "version": 2, "timestamp": "T",
                    })
                ),
            ]
        );

        let (events, _) = thing.request("get", r#"{"clientToken":"t2"}"#);
        let got = json!({
            "state": state, "metadata": stamped, "version": 2, "timestamp": "T", "clientToken": "t2"
        });
        assert_eq!(events, [event("get/accepted", got)]);

        // What an SDK sends along with a delete is not looked at.
        let (events, _) = thing.request("delete", r#"{"version":77,"etag":5,"x":1,"clientToken":"t3"}"#);
        let deleted = json!({"version": 3, "timestamp": "T", "clientToken": "t3"});
        assert_eq!(events, [event("delete/accepted", deleted)]);

        let (events, _) = thing.request("update", r#"{"state":{"reported":{"a":1}}}"#);
        assert_eq!(events[0].1["previous"], Value::Null, "what was deleted is not there");
        assert_eq!(events[1].1["version"], json!(4), "a version never comes again");
    }
}

/// Each row: the state before, the update, and the state in `accepted` and in a later get.
#[test]
fn empty_states() {
    let server = Server::start();
    let at = |state: Value, metadata: Value| (state, metadata);
    let t = || json!({"timestamp": "T"});
    let a = || json!({"desired": {"a": 1}});
    let stamped = || json!({"desired": {"a": t()}});
    // sent, in accepted, in get
    let table = [
        (r#"{}"#, at(json!({}), json!({})), at(a(), stamped())),
        (r#"{"desired":{}}"#, at(json!({"desired": {}}), json!({"desired": {}})), at(a(), stamped())),
        (r#"{"desired":{"a":1}}"#, at(a(), stamped()), at(a(), stamped())),
        (r#"null"#, at(Value::Null, t()), at(json!({}), json!({}))),
        (r#"{"desired":null}"#, at(json!({"desired": null}), json!({"desired": t()})), at(json!({}), json!({}))),
        (r#"{"desired":{"a":null}}"#, at(json!({"desired": {"a": null}}), stamped()), at(json!({}), json!({}))),
        (
            r#"{"desired":{"a":{"b":null}}}"#,
            at(json!({"desired": {"a": {"b": null}}}), json!({"desired": {"a": {"b": t()}}})),
            at(json!({"desired": {"a": {}}, "delta": {"a": {}}}), json!({"desired": {"a": {}}})),
        ),
    ];
    for (number, (sent, accepted, got)) in table.into_iter().enumerate() {
        let mut thing = Thing::new(&server, V4, &format!("thing-{number}"), &format!("$aws/things/e{number}/shadow"));
        // The section is gone with its last key, so reported alone makes the shadow be there.
        thing.request("update", r#"{"state":{"desired":{"a":1}}}"#);
        let (events, _) = thing.request("update", format!(r#"{{"state":{sent}}}"#));
        let (name, payload) = events.last().unwrap();
        assert_eq!(name, "update/accepted", "{sent}");
        let (state, metadata) = accepted;
        let expected = json!({"state": state, "metadata": metadata, "version": 2, "timestamp": "T"});
        assert_eq!(*payload, expected, "{sent}");
        let (events, _) = thing.request("get", "");
        let (mut state, metadata) = got;
        if state == a() {
            state["delta"] = json!({"a": 1});
        }
        let expected = json!({"state": state, "metadata": metadata, "version": 2, "timestamp": "T"});
        assert_eq!(events, [event("get/accepted", expected)], "after {sent}");
    }
}

/// Every update takes a version and is published like any other, even if it changes no value.
#[test]
fn an_update_that_changes_nothing_takes_a_version() {
    let server = Server::start();
    let mut thing = Thing::new(&server, V4, "thing", CLASSIC);
    thing.request("update", r#"{"state":{"desired":{"a":1},"reported":{"b":[1]}}}"#);
    for (number, state) in
        [r#"{}"#, r#"{"desired":{}}"#, r#"{"desired":{"a":1.0}}"#, r#"{"reported":{"b":[1],"x":null}}"#]
            .into_iter()
            .enumerate()
    {
        let (events, _) = thing.request("update", format!(r#"{{"state":{state}}}"#));
        let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["update/delta", "update/documents", "update/accepted"], "{state}");
        assert_eq!(events[2].1["version"], json!(number + 2), "{state}");
        assert_eq!(events[0].1["state"], json!({"a": 1}), "the delta is the whole difference, after {state}");
    }
}
