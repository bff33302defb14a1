//! A rollout in waves over simulated devices of which some never converge, with a kill in the second wave: it aborts where it
//! should, no device is changed before its wave, and a roll back restores exactly what was written.
//!
//! `UMBRA_ROLLOUT_DEVICES` sets another number of devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    fleet::Fleet,
    harness::{
        eventually,
        program::{ended, umbrad},
        server::store_path,
    },
    site::Site,
};

const ID: &str = "fw-2.0";

fn device(n: usize) -> String {
    format!("pump-{n:05}")
}

/// Three in a hundred.
fn is_stuck(device: &str) -> bool {
    device.strip_prefix("pump-").and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n % 33 == 5)
}

/// The desired state before the rollout, which differs from device to device.
fn before(n: usize) -> Value {
    match n % 4 {
        0 => json!({"firmware": "1.4", "mode": n}),
        1 => json!({"firmware": {"version": "1.5", "channel": "beta"}}),
        2 => json!({"mode": "eco"}),
        _ => json!({"firmware": "1.3", "ring": 1}),
    }
}

#[test]
fn a_rollout_stops_where_it_should_and_is_rolled_back_exactly() {
    let count = std::env::var("UMBRA_ROLLOUT_DEVICES").map_or(300, |text| text.parse().unwrap());
    let mut site = Site::open();
    site.write_many(count, |n| (format!("{}/shadow", device(n)), json!({"desired": before(n)})));
    let fleet = Fleet::start(&site.0, is_stuck);
    let failures = count / 100;
    let spec = json!({
        "query": "device:pump-*",
        "patch": {"desired": {"firmware": "2.0", "ring": null}, "tags": {"rollout": ID}},
        "waves": ["10%", "50%", "100%"],
        "abort": {"failures": failures},
        // Those that are not stuck converge in it, also over the kill.
        "deadlineSeconds": 20.max(count / 50),
    });
    let created = site.create("web", ID, &spec);
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.json()["devices"], count);

    // A kill in the second wave, while some of its devices have converged and some have not.
    let reached = [count.div_ceil(10), count.div_ceil(2)];
    eventually("the second wave", || {
        let rollout = site.rollout(ID);
        let written: u64 = ["sent", "converged"].iter().map(|name| rollout["counts"][name].as_u64().unwrap()).sum();
        (rollout["wave"] == 1 && written as usize > reached[0] + 5).then_some(())
    });
    site.0.kill();
    fleet.end();
    site.0.restart();
    let rollout = site.rollout(ID);
    assert_eq!((&rollout["wave"], &rollout["state"]), (&json!(1), &json!("running")), "{rollout}");
    let fleet = Fleet::start(&site.0, is_stuck);

    let aborted = site.wait_for(ID, "aborted");
    assert_eq!(aborted["reason"], format!("{} devices failed, more than {failures}", failures + 1));
    assert_eq!((&aborted["wave"], &aborted["counts"]["timedOut"]), (&json!(1), &json!(failures + 1)), "{aborted}");
    let states: Vec<_> = site.devices(ID).iter().map(|it| it["state"].as_str().unwrap().to_owned()).collect();
    assert!(states[reached[1]..].iter().all(|state| state == "queued"), "none beyond the wave");
    assert!(states[..reached[0]].iter().all(|state| state != "queued"), "all of the first wave");
    check_waves(&site.journal(), &reached);

    // Others go on with some devices, before all is rolled back.
    let changed: BTreeSet<usize> = [0, 1, 2, 3].into();
    for n in &changed {
        let field = if *n < 2 { json!({"firmware": "3.0"}) } else { json!({"note": "by another"}) };
        site.merge(&format!("{}/shadow", device(*n)), &json!({"desired": field}));
    }
    let rolling_back = site.command(ID, "rollback")["state"].clone();
    assert!(rolling_back == "rolling-back" || rolling_back == "rolled-back", "{rolling_back}");
    // It goes on after a kill as well, and restores no device twice.
    site.0.kill();
    fleet.end();
    site.0.restart();
    let fleet = Fleet::start(&site.0, is_stuck);
    let rolled_back = site.wait_for(ID, "rolled-back");
    assert_eq!(
        (&rolled_back["counts"]["kept"], &rolled_back["counts"]["sent"]),
        (&json!(2), &json!(0)),
        "{rolled_back}"
    );
    for n in 0..count {
        let mut expected = before(n);
        match n {
            0 | 1 => {
                expected["firmware"] = json!("3.0");
                expected.as_object_mut().unwrap().remove("ring");
            }
            2 | 3 => expected["note"] = json!("by another"),
            _ => {}
        }
        let state = site.state(&format!("{}/shadow", device(n)));
        assert_eq!(state["desired"], expected, "{n}");
        assert_eq!(state.get("tags"), (n < 2).then(|| json!({"rollout": ID})).as_ref(), "{n}");
    }
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for change in site.journal().iter().filter(|change| change["client"] == format!("rollout:{ID}")) {
        *writes.entry(change["device"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(writes.values().all(|count| *count <= 2), "an update and its restoration: {writes:?}");
    fleet.end();
}

/// Fails if a device was changed twice, or before all devices of the waves before its own had converged or timed out.
fn check_waves(journal: &[Value], reached: &[usize]) {
    let mut changed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut converged: BTreeSet<&str> = BTreeSet::new();
    for change in journal {
        let device = change["device"].as_str().unwrap();
        let Some(index) = device.strip_prefix("pump-").and_then(|n| n.parse::<usize>().ok()) else { continue };
        if change["client"] == format!("rollout:{ID}") {
            *changed.entry(device).or_default() += 1;
            assert!(index < reached[1], "{device} is beyond the second wave");
            if index >= reached[0] {
                let first = (0..reached[0]).map(self::device);
                let open: Vec<_> = first.filter(|it| !is_stuck(it) && !converged.contains(it.as_str())).collect();
                assert!(open.is_empty(), "{device} was changed before {open:?} had converged");
            }
        } else if change["changes"].to_string().contains("/reported") && changed.contains_key(device) {
            converged.insert(device);
        }
    }
    let twice: Vec<_> = changed.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "changed twice: {twice:?}");
    assert!(changed.len() > reached[0], "{} were changed", changed.len());
}

#[test]
fn a_restored_backup_goes_on_with_its_rollouts() {
    let site = Site::open();
    site.write_many(8, |n| (format!("{}/shadow", device(n)), json!({"desired": {"firmware": "1"}})));
    let spec = json!({
        "query": "device:pump-*", "patch": {"desired": {"firmware": "2.0"}}, "waves": [3, "100%"], "success": "accepted",
        "rate": 1,
    });
    assert_eq!(site.create("web", ID, &spec).status, 201);
    eventually("the first device", || (site.rollout(ID)["counts"]["converged"].as_u64() > Some(0)).then_some(()));
    site.command(ID, "pause");
    let url = format!("http://{}", site.0.address_of("web"));
    let run = |arguments: &[&str]| assert_eq!(ended(umbrad(arguments).output().unwrap()).0, 0, "{arguments:?}");
    let restored = tempfile::tempdir().unwrap();
    let (copy, path) = (restored.path().join("copy"), store_path(restored.path()));
    run(&["backup", "--to", copy.to_str().unwrap(), "--url", &url]);
    run(&["restore", copy.to_str().unwrap(), "--store", path.to_str().unwrap()]);
    drop(site);
    let site = Site::within(restored);
    assert_eq!(site.rollout(ID)["state"], "paused");
    site.command(ID, "resume");
    assert_eq!(site.wait_for(ID, "completed")["counts"]["converged"], 8);
    site.command(ID, "rollback");
    assert_eq!(site.wait_for(ID, "rolled-back")["counts"]["rolledBack"], 8);
    for n in 0..8 {
        assert_eq!(site.state(&format!("{}/shadow", device(n)))["desired"]["firmware"], "1", "{n}");
    }
}

/// Updates that waited for the rate of their creator, or for a turn to read, were made after the answer to a pause.
#[test]
fn no_update_follows_a_pause() {
    let site = Site::open();
    site.write_many(16, |n| (format!("{}/shadow", device(n)), json!({"desired": {"firmware": "1"}})));
    let spec = json!({
        "devices": (0..16).map(device).collect::<Vec<_>>(), "patch": {"desired": {"firmware": "2.0"}}, "success": "accepted",
        "rate": 1000,
    });
    let created = site.create("slow", ID, &spec);
    assert_eq!(created.status, 201, "{}", created.text());
    let updated = || {
        let of_rollout = |change: &&Value| change["client"] == format!("rollout:{ID}");
        site.journal().iter().filter(of_rollout).count()
    };
    eventually("the first device", || (updated() > 0).then_some(()));
    assert_eq!(site.command(ID, "pause")["state"], "paused");
    let before = updated();
    assert!(before < 16, "too fast for this test");
    // Each update waits for less time than that.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(updated(), before);
    site.command(ID, "resume");
    assert_eq!(site.wait_for(ID, "completed")["counts"]["converged"], 16);
}

#[test]
fn a_paused_rollout_stays_so_over_a_restart() {
    let mut site = Site::open();
    site.write_many(20, |n| (format!("{}/shadow", device(n)), json!({"desired": {"firmware": "1"}})));
    let spec = json!({
        "query": "device:pump-*",
        "patch": {"desired": {"firmware": "2.0"}},
        "waves": [5, "100%"],
        "success": "accepted",
        "rate": 2,
    });
    assert_eq!(site.create("web", ID, &spec).status, 201);
    eventually("the first device", || (site.rollout(ID)["counts"]["converged"].as_u64() > Some(0)).then_some(()));
    assert_eq!(site.command(ID, "pause")["state"], "paused");
    let done = eventually("the updates under way", || {
        let before = site.rollout(ID)["counts"]["converged"].clone();
        thread::sleep(Duration::from_millis(600));
        (site.rollout(ID)["counts"]["converged"] == before).then_some(before)
    });
    site.0.stop();
    site.0.restart();
    let rollout = site.rollout(ID);
    assert_eq!((&rollout["state"], &rollout["counts"]["converged"]), (&json!("paused"), &done), "{rollout}");
    assert_eq!(site.command(ID, "resume")["state"], "running");
    let completed = site.wait_for(ID, "completed");
    assert_eq!((&completed["counts"]["converged"], &completed["wave"]), (&json!(20), &json!(1)), "{completed}");
}
