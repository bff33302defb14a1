//! Rights: a rollout changes what its creator may change, with its login, and nobody else sees it.

use std::fs;

use serde_json::{Value, json};

use crate::{
    harness::{eventually, http::Reply, users::passwd},
    site::{Site, error},
};

const RELOADED: &str = "users, keys and roles reloaded";

/// Sends a request of a user.
fn as_user(site: &Site, user: &str, head: &str, body: &Value) -> Reply {
    site.send("users", &format!("{head}\n{}", authorization(user)), body)
}

fn authorization(user: &str) -> String {
    format!("Authorization: Basic {}", base64(&format!("{user}:password of {user}")))
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = bytes.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
        let digit = |place: usize| match place > bytes.len() {
            true => '=',
            false => char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]),
        };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(group).collect()
}

#[test]
fn devices_and_paths_that_the_creator_may_not_change_are_skipped() {
    let site = Site::open();
    for device in ["lamp-1", "lamp-2", "pump-1"] {
        site.merge(&format!("{device}/shadow"), &json!({"desired": {"mode": "on"}}));
    }
    let spec =
        |path: &str| json!({"devices": ["lamp-1", "pump-1"], "patch": {"desired": {path: 2}}, "success": "accepted"});
    let dry = site.send("lamps", "PUT /v1/rollouts/r?dry_run=true", &spec("mode")).json();
    assert_eq!((&dry["wouldChange"], &dry["forbidden"]), (&json!(1), &json!(1)), "{dry}");
    assert_eq!(site.create("lamps", "r", &spec("mode")).status, 201);
    site.wait_for("r", "completed");
    assert_eq!(site.states("r"), "lamp-1 converged, pump-1 skipped (forbidden)");
    let by = site.send("web", "GET /v1/devices/lamp-1/shadow/history", &Value::Null).json()["entries"][0].clone();
    assert_eq!((&by["by"], &by["client"]), (&json!("anonymous/lamps"), &json!("rollout:r")), "{by}");
    assert_eq!(site.create("lamps", "other", &spec("zone")).status, 201);
    site.wait_for("other", "completed");
    assert_eq!(site.states("other"), "lamp-1 skipped (forbidden), pump-1 skipped (forbidden)");
    // It may not see what is reported there, so it cannot know of the convergence.
    let blind = json!({"devices": ["lamp-1"], "patch": {"desired": {"level": 2}}});
    assert_eq!(site.create("lamps", "blind", &blind).status, 201);
    site.wait_for("blind", "completed");
    assert_eq!(site.states("blind"), "lamp-1 skipped (forbidden)");
    // A query finds what its author may see.
    let query = json!({"query": "desired.mode:on", "patch": {"desired": {"mode": 3}}, "success": "accepted"});
    assert_eq!(site.create("lamps", "query", &query).json()["devices"], 1);
    let refused = site.create("viewer", "viewer", &spec("mode"));
    assert_eq!(error(&refused), "403 forbidden", "{}", refused.text());
}

/// A path that the creator cannot read any more is not in the delta that it sees; that is no convergence.
#[test]
fn a_device_does_not_converge_on_what_the_creator_may_not_read_any_more() {
    let site = Site::open();
    site.merge("lamp-1/shadow", &json!({"desired": {"mode": 1}}));
    let spec = json!({"devices": ["lamp-1"], "patch": {"desired": {"mode": 2}}, "deadlineSeconds": 5});
    assert_eq!(site.create("lamps", "r", &spec).status, 201);
    eventually("the update", || (site.rollout("r")["counts"]["sent"] == 1).then_some(()));
    let path = site.0.directory().join("broker.toml");
    let config = fs::read_to_string(&path).unwrap();
    let changed = config.replace(r#"["/desired", "/reported/mode"]"#, r#"["/desired/level", "/reported/level"]"#);
    assert_ne!(changed, config);
    fs::write(&path, changed).unwrap();
    site.0.hangup(1, RELOADED);
    site.merge("lamp-1/shadow", &json!({"tags": {"checked": true}}));
    site.wait_for("r", "completed");
    assert_eq!(site.states("r"), "lamp-1 timed-out (no success by its deadline)");
}

#[test]
fn a_device_that_the_creator_may_not_change_does_not_reveal_whether_it_exists() {
    let site = Site::open();
    site.merge("pump-1/shadow", &json!({"desired": {"mode": "on"}}));
    let spec = json!({
        "devices": ["lamp-9", "pump-1", "pump-9"], "patch": {"desired": {"mode": 2}}, "success": "accepted",
    });
    let dry = site.send("lamps", "PUT /v1/rollouts/r?dry_run=true", &spec).json();
    assert_eq!((&dry["forbidden"], &dry["absent"], &dry["devices"]), (&json!(2), &json!(1), &json!(3)), "{dry}");
    assert_eq!(site.create("lamps", "r", &spec).status, 201);
    site.wait_for("r", "completed");
    assert_eq!(site.states("r"), "lamp-9 skipped (no shadow), pump-1 skipped (forbidden), pump-9 skipped (forbidden)");
}

/// A rollout claims the devices that its creator may change, and a refusal names it if its reader may see it.
#[test]
fn nobody_holds_back_rollouts_to_devices_that_it_may_not_change() {
    let site = Site::open();
    for device in ["lamp-1", "pump-1"] {
        site.merge(&format!("{device}/shadow"), &json!({"desired": {"mode": "on"}}));
    }
    let of = |devices: &[&str]| json!({"devices": devices, "patch": {"desired": {"mode": 2}}, "paused": true});
    assert_eq!(site.create("lamps", "listed", &of(&["lamp-1", "pump-1"])).status, 201);
    assert_eq!(site.states("listed"), "lamp-1 queued, pump-1 skipped (forbidden)");
    let all = json!({"query": "*", "patch": {"desired": {"level": 2}}, "laterDevices": true, "paused": true});
    assert_eq!(site.create("lamps", "all", &all).status, 201);
    assert_eq!(site.create("web", "pumps", &of(&["pump-1"])).status, 201);
    let levels = json!({"devices": ["pump-1", "later"], "patch": {"desired": {"level": 3}}, "paused": true});
    assert_eq!(site.create("web", "levels", &levels).status, 201);
    for (listener, names) in [("web", true), ("small", false)] {
        let refused = site.create(listener, "other", &of(&["lamp-1"]));
        assert_eq!(error(&refused), "409 rollout-conflict", "{listener}: {}", refused.text());
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(message.contains("'listed'"), names, "{listener}: {message}");
        assert!(message.contains("'/desired/mode'"), "{listener}: {message}");
    }
}

#[test]
fn an_event_stream_ends_with_the_right_to_it() {
    let site = Site::open();
    let spec = json!({"devices": ["lamp-1"], "patch": {"desired": {"mode": 1}}, "paused": true});
    assert_eq!(as_user(&site, "alice", "PUT /v1/rollouts/r\nIf-None-Match: *", &spec).status, 201);
    let mut client = site.client("users");
    client.write(&format!("GET /v1/rollouts/r/events HTTP/1.1\n{}", authorization("bob")), b"");
    assert_eq!(client.head().status, 200);
    let mut text = String::new();
    while !text.contains("event: progress") {
        text.push_str(std::str::from_utf8(&client.chunk().expect("an event")).unwrap());
    }
    let file = site.0.directory().join("broker.toml");
    let config = fs::read_to_string(&file).unwrap();
    assert!(config.contains(r#"["alice", "bob"]"#), "{config}");
    fs::write(&file, config.replace(r#"["alice", "bob"]"#, r#"["alice"]"#)).unwrap();
    site.0.hangup(1, RELOADED);
    eventually("the end of the stream", || client.chunk().is_none().then_some(()));
    assert_eq!(error(&as_user(&site, "bob", "GET /v1/rollouts/r", &Value::Null)), "404 not-found");
}

#[test]
fn a_rollout_is_seen_and_commanded_by_its_creator_and_operators() {
    let site = Site::open();
    let spec = json!({"devices": ["lamp-1"], "patch": {"desired": {"mode": 1}}, "paused": true});
    assert_eq!(site.create("lamps", "r", &spec).status, 201);
    for head in
        ["GET /v1/rollouts/r", "GET /v1/rollouts/r/devices", "POST /v1/rollouts/r/pause", "DELETE /v1/rollouts/r"]
    {
        assert_eq!(error(&site.send("viewer", head, &Value::Null)), "404 not-found", "{head}");
    }
    let listed = |listener: &str| site.send(listener, "GET /v1/rollouts", &Value::Null).json()["rollouts"].clone();
    assert_eq!(listed("viewer"), json!([]));
    assert_eq!(listed("lamps")[0]["id"], "r");
    assert_eq!(listed("web")[0]["id"], "r");
    assert_eq!(site.send("lamps", "POST /v1/rollouts/r/cancel", &Value::Null).status, 200);
    // Others are only refused the id.
    assert_eq!(error(&site.create("web", "r", &spec)), "409 rollout-exists");
}

#[test]
fn a_revoked_login_stops_its_rollout_and_another_operator_rolls_it_back() {
    let site = Site::open();
    site.write_many(30, |n| (format!("d{n:02}/shadow"), json!({"desired": {"v": 1}})));
    let spec = json!({"query": "device:d*", "patch": {"desired": {"v": 2}}, "success": "accepted", "rate": 5});
    let created = as_user(&site, "alice", "PUT /v1/rollouts/r\nIf-None-Match: *", &spec);
    assert_eq!((created.status, &created.json()["createdBy"]), (201, &json!("alice")), "{}", created.text());
    eventually("a device", || (site.rollout("r")["counts"]["converged"].as_u64() > Some(2)).then_some(()));
    passwd(site.0.directory(), &["remove", "alice"], "");
    site.0.hangup(1, RELOADED);
    let rollout = site.wait_for("r", "aborted");
    assert_eq!(rollout["reason"], "the login with which it acted was revoked");
    assert!(rollout["counts"]["queued"].as_u64() > Some(0), "{rollout}");
    let changed = site.journal().iter().filter(|change| change["client"] == "rollout:r").count();
    assert_eq!(as_user(&site, "bob", "POST /v1/rollouts/r/rollback", &Value::Null).status, 200);
    site.wait_for("r", "rolled-back");
    let journal = site.journal();
    let by: Vec<_> =
        journal.iter().filter(|it| it["client"] == "rollout:r").map(|it| it["by"].as_str().unwrap()).collect();
    assert_eq!(by.iter().filter(|by| **by == "alice").count(), changed);
    assert_eq!(by.iter().filter(|by| **by == "bob").count(), changed);
}

#[test]
fn a_rollout_is_kept_in_the_memory_of_its_creator() {
    let site = Site::open();
    let devices = |count: usize| (0..count).map(|n| format!("d{n:03}")).collect::<Vec<_>>();
    let spec = |count: usize, text: &str| json!({"devices": devices(count), "patch": {"desired": {"text": text}}});
    let refused = site.create("small", "many", &spec(900, "x"));
    assert_eq!(error(&refused), "429 too-many-requests", "{}", refused.text());
    // The values that it writes and replaces count as well.
    site.write_many(40, |n| (format!("d{n:03}/shadow"), json!({"desired": {"text": "y".repeat(2_000)}})));
    let mut large = spec(40, &"x".repeat(2_000));
    large["success"] = json!("accepted");
    assert_eq!(site.create("small", "large", &large).status, 201);
    let aborted = site.wait_for("large", "aborted");
    assert_eq!(aborted["reason"], "the memory of its creator is used up");
    assert!(aborted["counts"]["queued"].as_u64() < Some(40), "{aborted}");
    site.command("large", "rollback");
    assert_eq!(site.wait_for("large", "rolled-back")["counts"]["kept"], 0);
    assert_eq!(site.state("d000/shadow")["desired"]["text"], "y".repeat(2_000));
    let huge = json!({"devices": ["d000"], "patch": {"desired": {"text": "z".repeat(60_000)}}});
    assert_eq!(error(&site.create("web", "huge", &huge)), "413 too-large");
}

#[test]
fn a_login_that_is_revoked_while_the_server_is_down_stops_the_rollout() {
    let mut site = Site::open();
    site.merge("d/shadow", &json!({"desired": {"v": 1}}));
    let spec = json!({"query": "device:d*", "patch": {"desired": {"v": 2}}, "paused": true});
    assert_eq!(as_user(&site, "alice", "PUT /v1/rollouts/r\nIf-None-Match: *", &spec).status, 201);
    site.0.stop();
    passwd(site.0.directory(), &["remove", "alice"], "");
    assert!(!fs::read_to_string(site.0.directory().join("users")).unwrap().contains("alice"));
    site.0.restart();
    site.command("r", "resume");
    let rollout = site.wait_for("r", "aborted");
    assert_eq!(rollout["reason"], "the login with which it acted was revoked");
    assert_eq!(site.state("d/shadow")["desired"]["v"], 1);
}
