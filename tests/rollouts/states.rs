//! Creating, listing, commanding, following and deleting rollouts, and the refusals.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    harness::eventually,
    site::{Site, error},
};

/// A rollout that waits: paused from the beginning.
fn paused(devices: &[&str], patch: &Value) -> Value {
    json!({"devices": devices, "patch": patch, "paused": true})
}

fn mode(value: &str) -> Value {
    json!({"desired": {"mode": value}})
}

#[test]
fn a_rollout_is_created_once() {
    let site = Site::open();
    let spec = paused(&["a", "b"], &mode("eco"));
    let without = site.send("web", "PUT /v1/rollouts/r", &spec);
    assert_eq!(error(&without), "428 precondition-required");
    let created = site.create("web", "r", &spec);
    assert_eq!(created.status, 201, "{}", created.text());
    let rollout = created.json();
    for (name, expected) in [
        ("id", json!("r")),
        ("state", json!("paused")),
        ("createdBy", json!("anonymous/web")),
        ("spec", spec.clone()),
        ("wave", json!(0)),
        ("waves", json!([{"size": 2, "state": "running"}])),
        ("devices", json!(2)),
    ] {
        assert_eq!(rollout[name], expected, "{name} of {rollout}");
    }
    assert_eq!(rollout["counts"]["queued"], 2);
    let again = site.create("web", "r", &spec);
    assert_eq!((again.status, again.json()), (200, rollout));
    assert_eq!(error(&site.create("web", "r", &paused(&["b", "a"], &mode("eco")))), "409 rollout-exists");
    assert_eq!(error(&site.create("web", "r", &paused(&["a", "b"], &mode("off")))), "409 rollout-exists");
    assert_eq!(error(&site.create("users", "other", &spec)), "401 unauthorized");
}

/// One of the requests creates it, and the others get it.
#[test]
fn the_same_request_many_times_at_once_creates_one() {
    let mut site = Site::open();
    let spec = paused(&["a", "b"], &mode("eco"));
    let mut statuses: Vec<_> = std::thread::scope(|scope| {
        let request = || site.create("web", "r", &spec).status;
        let requests: Vec<_> = (0..8).map(|_| scope.spawn(request)).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    // Whoever was answered finds it after a crash.
    site.0.kill();
    site.0.restart();
    assert_eq!(site.rollout("r")["spec"], spec);
}

#[test]
fn bad_descriptions_are_refused_with_the_reason() {
    let site = Site::open();
    for (body, expected) in [
        (json!({"query": "*", "patch": mode("x"), "wave": []}), "Invalid field 'wave': unknown; known are query"),
        (json!({"query": "bad:(", "patch": mode("x")}), "Invalid field 'query': column"),
        (json!({"query": "*"}), "Invalid field 'patch': is needed"),
        (json!({"query": "*", "patch": {"reported": {"a": 1}}}), "Invalid field 'patch': must not have 'reported'"),
        (json!({"query": "*", "patch": {"other": {}}}), "State contains an invalid node: 'other'"),
        (json!({"query": "*", "patch": mode("x"), "expect": [{"path": "desired"}]}), "'desired' is not a JSON Pointer"),
        (json!({"query": "*", "patch": mode("x"), "waves": [5]}), "must end with \"100%\""),
        (json!({"query": "*", "patch": mode("x"), "deadlineSeconds": 0}), "from 1 to 2592000"),
        (json!({"patch": mode("x")}), "Invalid field 'query': is needed, or 'devices'"),
        (json!({"devices": ["a"], "patch": mode("x"), "laterDevices": true}), "needs 'query'"),
        (json!(7), "Invalid JSON"),
    ] {
        let reply = site.create("web", "r", &body);
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, 400, "{body}: {message}");
        assert!(message.contains(expected), "{body}: {message}");
    }
    let reply = site.create("web", "bad%20id", &json!({"query": "*", "patch": mode("x")}));
    assert_eq!(error(&reply), "400 invalid-parameter");
}

#[test]
fn two_rollouts_do_not_change_the_same_path_of_a_device() {
    let site = Site::open();
    assert_eq!(site.create("web", "one", &paused(&["a", "b"], &mode("eco"))).status, 201);
    for (label, spec, expected) in [
        ("the same path", paused(&["b", "c"], &mode("off")), 409),
        ("a path above", paused(&["a"], &json!({"desired": {"mode": {"x": 1}}})), 409),
        ("other devices", paused(&["c"], &mode("off")), 201),
        ("another path", paused(&["a"], &json!({"desired": {"level": 1}})), 201),
        ("another section", paused(&["a"], &json!({"tags": {"mode": 1}})), 201),
        ("another shadow", json!({"devices": ["a"], "shadow": "cfg", "patch": mode("x"), "paused": true}), 201),
    ] {
        let reply = site.create("web", &label.replace(' ', "-"), &spec);
        assert_eq!(reply.status, expected, "{label}: {}", reply.text());
        if expected == 409 {
            let message = reply.json()["message"].as_str().unwrap().to_owned();
            assert_eq!(error(&reply), "409 rollout-conflict");
            assert!(message.contains("'one'") && message.contains("'/desired/mode"), "{message}");
        }
    }
    assert_eq!(site.command("one", "cancel")["state"], "cancelled");
    assert_eq!(site.create("web", "two", &paused(&["b", "a"], &mode("off"))).status, 201);
    // An ended one that is rolled back changes its paths again.
    let refused = site.send("web", "POST /v1/rollouts/one/rollback", &Value::Null);
    assert_eq!(error(&refused), "409 rollout-conflict");
}

#[test]
fn commands_follow_the_state() {
    let site = Site::open();
    site.merge("a/shadow", &json!({"desired": {"mode": "on"}}));
    site.create("web", "r", &paused(&["a"], &mode("eco")));
    let refused = |command: &str| {
        let reply = site.send("web", &format!("POST /v1/rollouts/r/{command}"), &Value::Null);
        assert_eq!(error(&reply), "409 rollout-state", "{command}");
    };
    refused("pause");
    assert_eq!(error(&site.send("web", "DELETE /v1/rollouts/r", &Value::Null)), "409 rollout-state");
    assert_eq!(site.command("r", "resume")["state"], "running");
    refused("resume");
    assert_eq!(site.command("r", "cancel")["state"], "cancelled");
    for command in ["pause", "resume", "cancel"] {
        refused(command);
    }
    site.command("r", "rollback");
    site.wait_for("r", "rolled-back");
    refused("rollback");
    assert_eq!(site.send("web", "DELETE /v1/rollouts/r", &Value::Null).status, 204);
    assert_eq!(error(&site.send("web", "GET /v1/rollouts/r", &Value::Null)), "404 not-found");
    assert_eq!(site.state("a/shadow")["desired"]["mode"], "on");
}

#[test]
fn a_deleted_rollout_stays_deleted_and_its_id_is_free() {
    let mut site = Site::open();
    site.write_many(600, |n| (format!("d{n:04}/shadow"), json!({"desired": {"mode": "on"}})));
    let spec = json!({"query": "device:d*", "patch": mode("eco"), "success": "accepted"});
    site.create("web", "r", &spec);
    assert_eq!(site.wait_for("r", "completed")["counts"]["converged"], 600);
    assert_eq!(site.send("web", "DELETE /v1/rollouts/r", &Value::Null).status, 204);
    site.0.kill();
    site.0.restart();
    assert_eq!(error(&site.send("web", "GET /v1/rollouts/r", &Value::Null)), "404 not-found");
    assert_eq!(
        site.create("web", "r", &json!({"query": "device:d*", "patch": mode("off"), "paused": true})).status,
        201
    );
    site.0.stop();
    site.0.restart();
    let rollout = site.rollout("r");
    assert_eq!((&rollout["devices"], &rollout["counts"]["queued"]), (&json!(600), &json!(600)), "{rollout}");
    assert!(!site.0.log().contains("cannot be read"), "{}", site.0.log());
}

#[test]
fn lists_have_pages_and_states() {
    let site = Site::open();
    for n in 0..7 {
        let spec = json!({"devices": [format!("x{n}")], "patch": mode("eco"), "paused": n % 2 == 0});
        assert_eq!(site.create("web", &format!("r{n}"), &spec).status, 201);
    }
    (0..7).filter(|n| n % 2 == 1).for_each(|n| drop(site.wait_for(&format!("r{n}"), "completed")));
    let list = |parameters: &str| {
        let (mut found, mut cursor) = (String::new(), String::new());
        loop {
            let page = site.send("web", &format!("GET /v1/rollouts?{parameters}{cursor}"), &Value::Null).json();
            for rollout in page["rollouts"].as_array().unwrap() {
                assert_eq!(rollout["spec"].get("devices"), None, "the devices are left out");
                write!(found, "{} ", rollout["id"].as_str().unwrap()).unwrap();
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found.trim().to_owned(),
            }
        }
    };
    assert_eq!(list("limit=2"), "r0 r1 r2 r3 r4 r5 r6");
    assert_eq!(list("limit=2&state=paused"), "r0 r2 r4 r6");
    assert_eq!(list("state=completed"), "r1 r3 r5");
    let metrics = site.send("web", "GET /metrics", &Value::Null).text();
    for sample in [
        "umbra_rollouts{state=\"paused\"} 4",
        "umbra_rollouts{state=\"completed\"} 3",
        "umbra_rollout_devices{state=\"queued\"} 4",
        "umbra_rollout_devices{state=\"skipped\"} 0",
        // None is running.
        "umbra_rollout_idle_seconds 0",
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{sample}: {metrics}");
    }
    assert_eq!(error(&site.send("web", "GET /v1/rollouts?state=done", &Value::Null)), "400 invalid-parameter");
    let devices = site.send("web", "GET /v1/rollouts/r1/devices?state=skipped", &Value::Null).json();
    assert_eq!(devices["devices"][0]["reason"], "no shadow", "{devices}");
}

/// The time without a change is that of a rollout that waits for its devices, and of no other.
#[test]
fn a_rollout_that_waits_is_idle() {
    let site = Site::open();
    site.merge("a/shadow", &json!({"reported": {"mode": "off"}}));
    let idle = || {
        let page = site.send("web", "GET /metrics", &Value::Null).text();
        let value = page.lines().find_map(|line| line.strip_prefix("umbra_rollout_idle_seconds ")).unwrap();
        value.parse::<u64>().unwrap()
    };
    assert_eq!(site.create("web", "waits", &json!({"devices": ["a"], "patch": mode("eco")})).status, 201);
    eventually("a second without a change", || (idle() > 0).then_some(()));
    site.command("waits", "pause");
    assert_eq!(idle(), 0, "an operator has stopped it");
    site.command("waits", "resume");
    site.merge("a/shadow", &json!({"reported": {"mode": "eco"}}));
    site.wait_for("waits", "completed");
    assert_eq!(idle(), 0);
}

#[test]
fn progress_is_followed_to_the_end() {
    let site = Site::open();
    site.write_many(40, |n| (format!("d{n:02}/shadow"), json!({"desired": {"mode": "on"}})));
    let spec = json!({
        "query": "device:d*", "patch": mode("eco"), "waves": [10, "100%"], "success": "accepted", "rate": 40, "paused": true,
    });
    site.create("web", "r", &spec);
    let mut client = site.client("web");
    client.write("GET /v1/rollouts/r/events HTTP/1.1\nUmbra-Client: web\nAccept: text/event-stream", b"");
    assert_eq!(client.head().status, 200);
    site.command("r", "resume");
    let mut text = String::new();
    while let Some(chunk) = client.chunk() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(events.len() >= 2, "{text}");
    assert!(events.iter().all(|event| event.get("spec").is_none()), "{text}");
    let counts: Vec<_> = events.iter().map(|event| event["counts"]["converged"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    let last = events.last().unwrap();
    assert_eq!((&last["state"], &last["counts"]["converged"]), (&json!("completed"), &json!(40)), "{last}");
}

#[test]
fn one_principal_cannot_have_rollouts_without_end() {
    let site = Site::open();
    let create = |n: usize, paused: bool| {
        let spec = json!({"devices": [format!("x{n}")], "patch": mode("eco"), "paused": paused});
        site.create("web", &format!("r{n}"), &spec)
    };
    let active = (0..20).map(|n| create(n, true)).take_while(|reply| reply.status == 201).count();
    assert_eq!(active, 16);
    let refused = create(16, true);
    assert_eq!(error(&refused), "409 too-many-rollouts");
    assert!(refused.text().contains("16 of 'anonymous/web' have not ended"), "{}", refused.text());
    for n in 0..16 {
        site.command(&format!("r{n}"), "cancel");
    }
    for n in 16..100 {
        assert_eq!(create(n, false).status, 201, "{n}");
        site.wait_for(&format!("r{n}"), "completed");
    }
    let refused = create(100, false);
    assert!(refused.text().contains("has 100, the most that are kept"), "{}", refused.text());
}
