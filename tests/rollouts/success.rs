//! The conditions under which a device has succeeded or failed.

use serde_json::json;

use crate::{
    fleet::Fleet,
    harness::{client::Client, eventually, wire::V5},
    site::Site,
};

#[test]
fn each_device_has_its_outcome_and_reason() {
    let site = Site::open();
    for (device, state) in [
        ("converges", json!({"desired": {"mode": "on"}})),
        ("reported-before", json!({"desired": {"mode": "on"}, "reported": {"mode": "eco"}})),
        ("set-before", json!({"desired": {"mode": "eco"}})),
        ("other", json!({"desired": {"mode": "off"}})),
        ("stuck", json!({"desired": {"mode": "on"}})),
        ("too-large", json!({"desired": {"mode": "on", "text": "x".repeat(8_000)}})),
    ] {
        site.merge(&format!("{device}/shadow"), &state);
    }
    let fleet = Fleet::start(&site.0, |device| device == "stuck");
    let devices = ["converges", "reported-before", "set-before", "other", "absent", "stuck", "too-large"];
    let spec = json!({
        "devices": devices,
        "patch": {"desired": {"mode": "eco", "label": "y".repeat(200)}},
        "expect": [{"path": "/desired/mode", "value": "on"}],
        "deadlineSeconds": 3,
    });
    let dry = site.send("web", "PUT /v1/rollouts/r?dry_run=true", &spec);
    assert_eq!(dry.status, 200, "{}", dry.text());
    assert_eq!(
        dry.json(),
        json!({
            "dryRun": true, "devices": 7, "sample": devices, "wouldChange": 3, "unchanged": 0, "conflicts": 2,
            "forbidden": 0, "refused": 1, "absent": 1, "waves": [7],
        })
    );
    assert_eq!(site.send("web", "GET /v1/rollouts/r", &json!(null)).status, 404, "nothing is stored");
    assert_eq!(site.create("web", "r", &spec).status, 201);
    site.wait_for("r", "completed");
    assert_eq!(
        site.states("r"),
        "converges converged, reported-before converged, set-before conflict (not as expected: '/desired/mode'), \
         other conflict (not as expected: '/desired/mode'), absent skipped (no shadow), \
         stuck timed-out (no success by its deadline), \
         too-large failed (Json document too large.  Size is 8235, max allowed: 8192)"
    );
    fleet.end();
}

#[test]
fn nothing_to_change_is_skipped() {
    let site = Site::open();
    site.merge("a/shadow", &json!({"desired": {"mode": "eco"}}));
    let spec = json!({"devices": ["a"], "patch": {"desired": {"mode": "eco", "gone": null}}});
    site.create("web", "r", &spec);
    site.wait_for("r", "completed");
    assert_eq!(site.states("r"), "a skipped (nothing to change)");
    assert_eq!(site.send("web", "GET /v1/devices/a/shadow", &json!(null)).json()["version"], 1);
}

/// Only the touched paths count, and a part of a delta elsewhere does not.
#[test]
fn convergence_is_of_the_touched_paths() {
    let site = Site::open();
    site.merge("a/shadow", &json!({"desired": {"mode": "on", "other": 1}}));
    let spec = json!({"devices": ["a"], "patch": {"desired": {"mode": "eco"}, "tags": {"x": 1}}});
    site.create("web", "r", &spec);
    eventually("the update", || (site.states("r") == "a sent").then_some(()));
    site.merge("a/shadow", &json!({"reported": {"other": 1}}));
    site.merge("a/shadow", &json!({"reported": {"mode": "off"}}));
    assert_eq!(site.rollout("r")["state"], "running");
    site.merge("a/shadow", &json!({"reported": {"mode": "eco"}}));
    site.wait_for("r", "completed");
    assert_eq!(site.states("r"), "a converged");
}

#[test]
fn a_query_may_be_the_success_also_about_presence_and_other_shadows() {
    let site = Site::open();
    for device in ["a", "b"] {
        site.merge(&format!("{device}/shadow"), &json!({"desired": {"v": 1}}));
    }
    let spec = json!({
        "query": "desired.v:1",
        "patch": {"desired": {"v": 2}},
        "success": "query: shadow.name.health.reported.ok:true AND connected:true",
        "waves": [1, "100%"],
    });
    site.create("web", "r", &spec);
    eventually("the update", || (site.states("r") == "a sent, b queued").then_some(()));
    // A client with all rights counts as a device once it requests the device's shadow.
    let mut a = Client::connect(&site.0, V5, "a");
    a.publish("shadow/a/get", "", 1);
    site.merge("a/shadows/health", &json!({"reported": {"ok": false}}));
    site.merge("a/shadows/health", &json!({"reported": {"ok": true}}));
    eventually("the second wave", || (site.states("r") == "a converged, b sent").then_some(()));
    site.merge("b/shadows/health", &json!({"reported": {"ok": true}}));
    assert_eq!(site.rollout("r")["state"], "running");
    let mut b = Client::connect(&site.0, V5, "b");
    b.publish("shadow/b/get", "", 1);
    site.wait_for("r", "completed");
}

#[test]
fn later_devices_join_the_last_wave() {
    let site = Site::open();
    site.write_many(3, |n| (format!("d{n}/shadow"), json!({"desired": {"v": 1}, "tags": {"site": "west"}})));
    let spec = json!({
        "query": "tags.site:west", "patch": {"desired": {"v": 2}}, "waves": [1, "100%"], "laterDevices": true,
    });
    site.create("web", "r", &spec);
    eventually("the first wave", || (site.rollout("r")["counts"]["sent"] == 1).then_some(()));
    site.merge("e/shadow", &json!({"desired": {"v": 1}, "tags": {"site": "west"}}));
    site.merge("f/shadow", &json!({"desired": {"v": 1}, "tags": {"site": "east"}}));
    let fleet = Fleet::start(&site.0, |_| false);
    let rollout = site.wait_for("r", "completed");
    assert_eq!((&rollout["devices"], &rollout["counts"]["converged"]), (&json!(4), &json!(4)), "{rollout}");
    assert_eq!(site.states("r"), "d0 converged, d1 converged, d2 converged, e converged");
    assert_eq!(site.state("f/shadow")["desired"]["v"], 1);
    fleet.end();
}

#[test]
fn later_devices_that_another_rollout_changes_do_not_join() {
    let site = Site::open();
    let west = json!({"desired": {"v": 1}, "tags": {"site": "west"}});
    site.merge("d/shadow", &west);
    let spec = json!({"query": "tags.site:west", "patch": {"desired": {"v": 2}}, "laterDevices": true});
    assert_eq!(site.create("web", "r", &spec).status, 201);
    let other = json!({"devices": ["e"], "patch": {"desired": {"v": 3}}, "paused": true});
    assert_eq!(site.create("web", "other", &other).status, 201, "e has not joined yet");
    site.merge("e/shadow", &west);
    site.merge("f/shadow", &west);
    let fleet = Fleet::start(&site.0, |_| false);
    eventually("the update", || (site.rollout("r")["counts"]["queued"] == 0).then_some(()));
    site.merge("d/shadow", &json!({"reported": {"v": 2}}));
    site.wait_for("r", "completed");
    assert_eq!(site.states("r"), "d converged, f converged");
    assert_eq!(site.state("e/shadow")["desired"]["v"], 1);
    fleet.end();
}

/// The former values that are restored are those right before the update, whoever writes at the same time.
#[test]
fn writers_at_the_same_time_lose_nothing() {
    let site = Site::open();
    let count = 60;
    site.write_many(count, |n| (format!("d{n:02}/shadow"), json!({"desired": {"v": 0, "w": 0}})));
    let spec = json!({"query": "device:d*", "patch": {"desired": {"v": "new"}}, "success": "accepted", "rate": 60});
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=4 {
                for n in 0..count {
                    site.merge(&format!("d{n:02}/shadow"), &json!({"desired": {"w": round}}));
                }
            }
        });
        site.create("web", "r", &spec);
        site.wait_for("r", "completed");
    });
    for n in 0..count {
        assert_eq!(site.state(&format!("d{n:02}/shadow"))["desired"], json!({"v": "new", "w": 4}), "{n}");
    }
    site.command("r", "rollback");
    assert_eq!(site.wait_for("r", "rolled-back")["counts"]["rolledBack"], count);
    for n in 0..count {
        assert_eq!(site.state(&format!("d{n:02}/shadow"))["desired"], json!({"v": 0, "w": 4}), "{n}");
    }
}
