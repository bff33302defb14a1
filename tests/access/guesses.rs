//! Paths that may not be read: seen nowhere, and not to be guessed.

use serde_json::{Value, json};

use crate::{
    harness::{
        client::Client,
        server::Server,
        shadow::Requester,
        wire::{Properties, V5},
    },
    site::{client, connect, heard, site},
};

fn over(server: &Server, user: &str) -> Requester {
    Requester::over(client(server, user, V5), user, "shadow/lamp-1")
}

/// A shadow of which `partial` may read `/desired/zone/t` and `/reported/zone`.
fn hidden(boss: &mut Requester, pin: u64) {
    boss.update(json!({
        "state": {
            "desired": {"zone": {"t": 20, "pin": pin}, "mode": "eco"},
            "reported": {"zone": {"t": 19, "pin": 0}, "mode": "off"},
            "tags": {"owner": pin},
        },
        "replace": true,
    }));
}

#[test]
fn every_message_shows_only_readable_paths() {
    let server = site();
    let (mut boss, mut partial) = (over(&server, "boss"), over(&server, "partial"));
    hidden(&mut boss, 1);
    let seen = json!({"desired": {"zone": {"t": 20}}, "reported": {"zone": {"t": 19, "pin": 0}}});
    let mut with_delta = seen.clone();
    with_delta["delta"] = json!({"zone": {"t": 20}});
    assert_eq!(partial.get()["state"], with_delta);

    let mut listener = Client::connect_as(&server, &connect("partial", "listener", V5)).0;
    let filters = ["shadow/lamp-1/#", "$aws/things/lamp-1/shadow/#"];
    listener.subscribe_with(&filters.map(|filter| (filter, 1)), &Properties::none());
    hidden(&mut boss, 2); // nothing of which may be seen changes
    boss.update(json!({"state": {"desired": {"zone": {"t": 22}}, "tags": {"owner": 3}}}));
    boss.update(json!({"state": {"desired": {"zone": null}}}));
    boss.request("update", json!({"state": {"desired": {"zone": {"pin": 9}}}, "version": 1}));
    boss.request("get", json!({}));
    // `partial` has no ordinary topics: its own next update says that all before has come.
    partial.update(json!({"state": {"desired": {"zone": {"t": 1}}}}));
    let mut said = Vec::new();
    loop {
        let message = listener.message();
        assert!(!message.text().contains("pin\":2") && !message.text().contains("owner"), "{}", message.text());
        assert!(!message.text().contains("mode") && !message.text().contains("tags"), "{}", message.text());
        let done = message.topic == "$aws/things/lamp-1/shadow/update/accepted" && message.json()["version"] == 5;
        said.push((message.topic.clone(), message.text().to_owned()));
        if done {
            break;
        }
    }
    let received = |topic: &str, version: u64| {
        let found =
            said.iter().filter(|(at, _)| at == topic).map(|(_, text)| serde_json::from_str::<Value>(text).unwrap());
        found.filter(|body| body["version"] == version).collect::<Vec<_>>()
    };
    assert_eq!(received("shadow/lamp-1/update/accepted", 2)[0]["state"], seen);
    assert_eq!(received("shadow/lamp-1/update/accepted", 3)[0]["state"], json!({"desired": {"zone": {"t": 22}}}));
    assert_eq!(received("shadow/lamp-1/update/accepted", 4)[0]["state"], json!({"desired": {"zone": {"t": null}}}));
    let rejected = &received("shadow/lamp-1/update/rejected", 4)[0];
    assert_eq!((&rejected["conflicts"], &rejected["clean"]), (&json!([]), &json!([])));
    assert_eq!(rejected.get("etag"), None, "that of another reader");
}

/// A change of which nothing may be seen still arrives, with its version and an empty state.
#[test]
fn a_hidden_change_shows_only_as_a_version() {
    let server = site();
    let (mut boss, mut lamp) = (over(&server, "boss"), client(&server, "lamp-1", V5));
    lamp.subscribe(&[("shadow/lamp-1/update/accepted", 1), ("devices/lamp-1/#", 1)]);
    boss.update(json!({"state": {"tags": {"secret": "x"}}}));
    let received = heard(&server, &mut lamp, "devices/lamp-1/marker");
    assert_eq!(received.len(), 1);
    assert_eq!((&received[0].json()["state"], &received[0].json()["version"]), (&json!({}), &json!(1)));
}

#[test]
fn expectations_and_dry_runs_do_not_confirm_guesses() {
    let server = site();
    let (mut boss, mut partial) = (over(&server, "boss"), over(&server, "partial"));
    hidden(&mut boss, 4711);
    let update = json!({"state": {"desired": {"zone": {"t": 20}}}});
    for (path, allowed) in [
        ("/desired/zone/t", true),
        ("/reported/zone/pin", true),
        ("/desired/zone/pin", false),
        ("/desired/zone", false),
        ("/desired", false),
        ("/reported", false),
        ("/tags/owner", false),
    ] {
        for condition in [json!({"value": 4711}), json!({"value": 1}), json!({"absent": true}), json!({"version": 1})] {
            let mut expectation = condition.clone();
            expectation["path"] = json!(path);
            let mut body = update.clone();
            body["expect"] = json!([expectation]);
            let answer = partial.request("update", body);
            match allowed {
                true => assert_ne!(answer.body["code"], 403, "{path} {condition}"),
                false => {
                    assert_eq!(answer.body["message"], format!("Forbidden: {path}"), "{path} {condition}");
                }
            }
        }
    }
    // An app may read tags and write them; it may not write what it cannot read either. `partial` may do neither.
    let guess = json!({"state": {"desired": {"zone": {"pin": 4711}}}, "dryRun": true});
    partial.rejected("update", guess, 403, "forbidden");
    let dry = partial.accepted("update", json!({"state": {"desired": {"zone": {"t": 5}}}, "dryRun": true}));
    let document = json!({"desired": {"zone": {"t": 5}}, "reported": {"zone": {"t": 19, "pin": 0}}});
    assert_eq!(dry["document"]["state"], document);
}

/// An etag that digested what may not be read would let its reader try all four-digit pins at home.
#[test]
fn etags_cover_only_readable_paths() {
    let etags = [1, 2].map(|pin| {
        let server = site();
        let (mut boss, mut partial) = (over(&server, "boss"), over(&server, "partial"));
        hidden(&mut boss, pin);
        let (own, full) = (partial.get()["etag"].clone(), boss.get()["etag"].clone());
        assert_ne!(own, full);
        let dry = json!({"state": {"desired": {"zone": {"t": 20}}}, "dryRun": true});
        assert_eq!(partial.accepted("update", dry)["etag"], own);
        // Its own tag is a condition for it, that of another reader is none.
        let conditional = |etag: &Value| json!({"state": {"desired": {"zone": {"t": 20}}}, "etag": etag});
        let refused = partial.rejected("update", conditional(&full), 409, "version-conflict");
        assert_eq!(refused.body["etag"], own, "the one to try again with");
        partial.accepted("update", conditional(&own));
        boss.accepted("update", conditional(&full));
        own
    });
    assert_eq!(etags[0], etags[1]);
}

/// The mistake in a payload was published to all subscribers of refusals, with the names and values in it.
#[test]
fn refusals_quote_only_readable_values() {
    let server = site();
    let mut boss = over(&server, "boss");
    hidden(&mut boss, 1);
    let prefixes = ["shadow/lamp-1", "$aws/things/lamp-1/shadow"];
    let mut partial = client(&server, "partial", V5);
    let mut listeners = ["lamp-1", "viewer-1"].map(|user| client(&server, user, V5));
    for listener in listeners.iter_mut().chain([&mut partial]) {
        let topics = prefixes.map(|prefix| format!("{prefix}/update/rejected"));
        listener.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), 1)));
    }
    let refused = [
        r#"{"state":{"tags":{"secret":[null]}}}"#,
        r#"{"state":{"secret":{}}}"#,
        r#"{"state":{"tags":{"secret":1,"secret":2}}}"#,
        r#"{"state":{"tags":{"a":secret}}}"#,
        r#"{"state":{},"secret":1}"#,
        r#"{"state":{},"expect":[{"path":"/tags/secret","secret":1}]}"#,
        r#"{"state":{},"expect":[{"path":"/tags/secret","value":"secret"}]}"#,
        r#"{"state":{"tags":{"secret":"secret"}},"version":0}"#,
    ];
    let mut app = client(&server, "app-1", V5);
    app.subscribe(&[("shadow/lamp-1/update/rejected", 1)]);
    for body in refused {
        assert!(app.publish("shadow/lamp-1/update", body, 1) >= 0x80, "{body}");
    }
    let own: Vec<_> = (0..refused.len()).map(|_| app.message().text().to_owned()).collect();
    let quoting = |all: &[String]| all.iter().filter(|text| text.contains("secret")).count();
    let [lamp, viewer] = listeners
        .map(|mut listener| (0..2 * refused.len()).map(|_| listener.message().text().to_owned()).collect::<Vec<_>>());
    let heard: Vec<_> = (0..2 * refused.len()).map(|_| partial.message().text().to_owned()).collect();
    assert!(quoting(&own) >= 6 && quoting(&viewer) >= 6, "{own:?} {viewer:?}");
    assert_eq!((quoting(&lamp), quoting(&heard)), (0, 0), "{lamp:?} {heard:?}");
    // The requester receives it, whatever else it may read.
    partial.publish("shadow/lamp-1/update", r#"{"state":{"secret":{}}}"#, 1);
    assert_eq!(partial.message().json()["message"], "State contains an invalid node: 'secret'");
}
