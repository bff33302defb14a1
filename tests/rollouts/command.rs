//! `umbrad rollout` and `umbrad bulk`.

use serde_json::{Value, json};

use crate::{
    fleet::Fleet,
    harness::program::{ended, umbrad},
    site::Site,
};

/// Runs a command; its exit code, output and messages.
fn run(site: &Site, arguments: &[&str]) -> (i32, String, String) {
    let url = format!("http://{}", site.0.address_of("web"));
    ended(umbrad(&[arguments, &["--url", &url]].concat()).output().unwrap())
}

#[test]
fn a_rollout_is_created_watched_listed_and_rolled_back() {
    let site = Site::open();
    site.write_many(12, |n| (format!("d{n:02}/shadow"), json!({"desired": {"fw": "1"}, "tags": {"region": "west"}})));
    let fleet = Fleet::start(&site.0, |device| device == "d03");
    let create = [
        &["rollout", "create", "fw-2", "--query", "tags.region:west", "--patch", r#"{"desired": {"fw": "2"}}"#][..],
        &["--waves", "2,50%,100%", "--deadline", "2s", "--abort-failures", "3", "--expect", r#"/desired/fw="1""#],
    ]
    .concat();
    let (code, out, err) = run(&site, &[&create[..], &["--dry-run"]].concat());
    let dry: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code} {out} {err}"));
    assert_eq!((&dry["wouldChange"], &dry["waves"]), (&json!(12), &json!([2, 6, 12])), "{dry}");
    let (code, out, err) = run(&site, &[&create[..], &["--watch"]].concat());
    assert_eq!(code, 0, "{out} {err}");
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["state"], &last["counts"]["converged"]), (&json!("completed"), &json!(11)), "{out}");
    let shown: Value = serde_json::from_str(&run(&site, &["rollout", "show", "fw-2"]).1).unwrap();
    assert_eq!(shown, site.rollout("fw-2"));
    for (arguments, code, expected) in [
        (&["rollout", "list"][..], 0, "fw-2 completed wave 3/3 converged 11/12 failed 1\n"),
        (&["rollout", "list", "--state", "running"], 0, ""),
        (
            &["rollout", "devices", "fw-2", "--state", "timed-out"],
            0,
            "d03 timed-out wave 2: no success by its deadline\n",
        ),
        (&["rollout", "devices", "fw-2", "--limit", "1"], 0, "d00 converged wave 1\n"),
        (&["rollout", "pause", "fw-2"], 3, "The rollout is completed, which does not allow it"),
        (&["rollout", "show", "other"], 3, "There is no rollout 'other'"),
        (&["rollout", "create", "x", "--query", "(", "--patch", "{}"], 3, "patch"),
        (&["rollout", "create", "x", "--query", "*", "--patch", "{"], 2, "EOF"),
        (&["rollout", "create", "x", "--patch", "{}"], 2, "--query"),
    ] {
        let (ended_with, out, err) = run(&site, arguments);
        assert_eq!(ended_with, code, "{arguments:?}: {out} {err}");
        match code {
            0 => assert_eq!(out, expected, "{arguments:?}: {err}"),
            _ => assert!(err.contains(expected), "{arguments:?}: {err}"),
        }
    }
    assert_eq!(run(&site, &["rollout", "rollback", "fw-2"]).0, 0);
    let (code, out, err) = run(&site, &["rollout", "watch", "fw-2"]);
    assert_eq!(code, 0, "{out} {err}");
    assert!(out.lines().last().unwrap().contains("rolled-back"), "{out}");
    assert_eq!(site.state("d03/shadow")["desired"]["fw"], "1");
    assert_eq!(run(&site, &["rollout", "delete", "fw-2"]).0, 0);
    assert_eq!(run(&site, &["rollout", "list"]).1, "");
    fleet.end();
}

#[test]
fn a_rollout_that_is_aborted_is_a_failure() {
    let site = Site::open();
    site.write_many(3, |n| (format!("d{n}/shadow"), json!({"desired": {"fw": "9"}})));
    let arguments = [
        &["rollout", "create", "r", "--devices", "d0,d1,d2", "--patch", r#"{"desired": {"fw": "2"}}"#][..],
        &["--waves", "1,100%", "--expect", r#"/desired/fw="1""#, "--abort-percent", "50", "--watch"],
    ];
    let (code, _, err) = run(&site, &arguments.concat());
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("the rollout is aborted: 1 of 1 devices failed, more than 50 %"), "{err}");
}

#[test]
fn a_bulk_change_is_made_and_shown() {
    let site = Site::open();
    site.write_many(3, |n| (format!("d{n}/shadow"), json!({"desired": {"fw": "1"}})));
    let change = ["bulk", "--query", "device:d*", "--patch", r#"{"tags": {"night": true}}"#, "--idempotency-key", "k1"];
    let (code, out, err) = run(&site, &[&change[..], &["--dry-run"]].concat());
    assert!(code == 0 && out.contains("\"wouldChange\":3"), "{out} {err}");
    for _ in 0..2 {
        let (code, out, err) = run(&site, &change);
        assert_eq!(code, 0, "{out} {err}");
        let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!((&last["state"], &last["counts"]["converged"]), (&json!("completed"), &json!(3)), "{out}");
    }
    assert_eq!(site.state("d1/shadow")["tags"], json!({"night": true}));
}
