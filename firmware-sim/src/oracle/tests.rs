//! Each kind of violation is found, and nothing else is.

use serde_json::json;

use super::*;

fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("a device id")
}

/// One accepted update: (writer, required version, version assigned, changed, state).
type Row = (&'static str, u64, u64, bool, Value);

fn judged(replies: &[Row], version: u64, state: Value, metadata: Value) -> Vec<String> {
    let device = id("t1");
    let mut oracle = Oracle::default();
    for (writer, expected, version, changed, state) in replies {
        oracle.accepted(
            &device,
            AcceptedUpdate {
                writer: id(writer),
                key: None,
                replayed: false,
                expected: Some(Version(*expected)),
                version: Version(*version),
                changed: *changed,
                rebased: false,
                state: state.clone(),
            },
        );
    }
    let Value::Object(state) = state else { unreachable!("a state is an object") };
    let found = json!({"state": state, "metadata": metadata, "version": version});
    let found = serde_json::from_value(found).expect("a document");
    let finals = BTreeMap::from([(device, Ok(found))]);
    oracle.judge(&finals, |_| &["target", "mode"]).iter().map(Violation::to_string).collect()
}

/// Checks that exactly the violations with the given beginnings are found.
fn check(label: &str, replies: &[Row], version: u64, state: Value, metadata: Value, expected: &[&str]) {
    let found = judged(replies, version, state, metadata);
    assert_eq!(found.len(), expected.len(), "{label}: {found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{label}: {found}");
    }
}

fn reported(value: Value) -> Value {
    json!({"reported": value})
}

#[test]
fn kept_writes_are_no_violation() {
    let one = ("t1", 0, 1, true, reported(json!({"a": 1, "b": 1})));
    let two = ("t1", 1, 2, true, reported(json!({"a": 2})));
    let removal = ("t1", 2, 3, true, reported(json!({"b": null})));
    let end = reported(json!({"a": 2.0}));
    check("in order", &[one.clone(), two.clone(), removal.clone()], 3, end.clone(), json!({}), &[]);
    check("in any order", &[removal, two.clone(), one.clone()], 3, end, json!({}), &[]);
    let noop = ("t2", 2, 2, false, reported(json!({"a": 2})));
    check("a no-op keeps the version", &[one, two, noop], 2, reported(json!({"a": 2, "b": 1})), json!({}), &[]);
}

#[test]
fn a_lost_update_is_found() {
    let one = ("t1", 0, 1, true, reported(json!({"a": 1, "b": {"c": 1}})));
    let two = ("app", 1, 2, true, json!({"desired": {"x": 1}}));
    let all = [one.clone(), two.clone()];
    let lost = "lost update: t1 version 1 /reported/b/c: t1";
    let kept = json!({"reported": {"a": 1, "b": {"c": 1}}, "desired": {"x": 1}});
    check("kept", &all, 2, kept, json!({}), &[]);
    let gone = json!({"reported": {"a": 1}, "desired": {"x": 1}});
    check("gone", &all, 2, gone, json!({}), &[lost]);
    let other = json!({"reported": {"a": 1, "b": {"c": 7}}, "desired": {"x": 1}});
    check("another value", &all, 2, other, json!({}), &[lost]);
    let removed = ("t1", 2, 3, true, reported(json!({"a": null})));
    let back = json!({"reported": {"a": 1, "b": {"c": 1}}, "desired": {"x": 1}});
    check("a removal undone", &[one, two, removed], 3, back, json!({}), &["lost update: t1 version 3 /reported/a"]);
}

#[test]
fn a_later_write_above_or_below_supersedes() {
    let below = ("t1", 0, 1, true, reported(json!({"b": {"c": 1}})));
    let above = ("t1", 1, 2, true, reported(json!({"b": 5})));
    let end = reported(json!({"b": 5}));
    check("turned into a scalar", &[below.clone(), above.clone()], 2, end, json!({}), &[]);
    let into_object = ("t1", 2, 3, true, reported(json!({"b": {"d": 1}})));
    let end = reported(json!({"b": {"d": 1}}));
    check("and into an object", &[below.clone(), above, into_object], 3, end, json!({}), &[]);
    let cleared = ("t1", 1, 2, true, json!({"reported": null}));
    check("section cleared", &[below, cleared], 2, json!({}), json!({}), &[]);
}

#[test]
fn updates_of_others_explain_a_missing_write_only_where_possible() {
    let one = ("t1", 0, 1, true, reported(json!({"a": 1})));
    let other = reported(json!({"a": 7}));
    let lost = "lost update: t1 version 1 /reported/a";
    let leaf = |version: u64| json!({"reported": {"a": {"version": version, "timestamp": 1}}});
    check("an unknown version", std::slice::from_ref(&one), 2, other.clone(), json!({}), &[]);
    check("the leaf has it", std::slice::from_ref(&one), 2, other.clone(), leaf(2), &[]);
    check("no later version at all", std::slice::from_ref(&one), 1, other.clone(), json!({}), &[lost]);
    check("the leaf was not touched since", std::slice::from_ref(&one), 2, other.clone(), leaf(1), &[lost]);
    let two = ("t1", 1, 2, true, reported(json!({"z": 1})));
    let other = reported(json!({"a": 7, "z": 1}));
    check("all versions are ours", &[one.clone(), two.clone()], 2, other.clone(), json!({}), &[lost]);
    check("the leaf names one of ours", &[one.clone(), two.clone()], 3, other.clone(), leaf(2), &[lost]);
    check("the leaf names another's", &[one, two], 3, other, leaf(3), &[]);
}

#[test]
fn versions_are_assigned_once_and_follow_the_required_version() {
    let one = ("t1", 4, 5, true, reported(json!({"a": 1})));
    let twice = ("app", 4, 5, true, json!({"desired": {"x": 1}}));
    let end = json!({"reported": {"a": 1}, "desired": {"x": 1}});
    check("twice", &[one.clone(), twice], 5, end.clone(), json!({}), &["version assigned twice: t1 version 5"]);
    let stale = ("app", 3, 6, true, json!({"desired": {"x": 1}}));
    check("stale", &[one.clone(), stale], 6, end.clone(), json!({}), &["precondition ignored: t1 version 6"]);
    let moved = ("app", 4, 5, false, json!({"desired": {"x": 1}}));
    check("a no-op that moved", &[one, moved], 5, end, json!({}), &["precondition ignored: t1 version 5"]);
}

#[test]
fn the_final_version_is_not_below_an_assigned_one() {
    let one = ("t1", 4, 5, true, reported(json!({"a": 1})));
    check("behind", &[one], 4, reported(json!({"a": 1})), json!({}), &["final version too low: t1 version 4"]);
}

#[test]
fn owned_fields_converge_and_others_need_not() {
    let end = json!({"desired": {"target": 21, "mode": "eco", "colour": "red"}, "reported": {"target": 21.0}});
    check("mode", &[], 9, end, json!({}), &["not converged: t1 version 9 /desired/mode"]);
    let end = json!({"desired": {"target": 21}, "reported": {"target": 20, "mode": "off"}});
    check("target", &[], 9, end, json!({}), &["not converged: t1 version 9 /desired/target"]);
}

#[test]
fn an_unread_shadow_is_a_violation() {
    let mut oracle = Oracle::default();
    let state = reported(json!({"a": 1}));
    let writer = id("t1");
    let update = AcceptedUpdate {
        writer,
        key: None,
        replayed: false,
        expected: Some(Version(0)),
        version: Version(1),
        changed: true,
        rebased: false,
        state,
    };
    oracle.accepted(&id("t1"), update);
    let finals = BTreeMap::from([(id("t2"), Err("no connection".to_owned()))]);
    let found: Vec<_> = oracle.judge(&finals, |_| &[]).iter().map(Violation::to_string).collect();
    assert_eq!(found, ["not read: t2: no connection", "not read: t1: no device read it"]);
}

/// One accepted update of `reported.a` without a required version: (key, replayed, version, value).
fn keyed(oracle: &mut Oracle, rows: &[(&str, bool, u64, u64)]) {
    for (key, replayed, version, value) in rows {
        oracle.accepted(
            &id("t1"),
            AcceptedUpdate {
                writer: id("t1"),
                key: Some((*key).to_owned()),
                replayed: *replayed,
                expected: None,
                version: Version(*version),
                changed: true,
                rebased: false,
                state: reported(json!({"a": value})),
            },
        );
    }
}

fn judged_at(oracle: &Oracle, version: u64, value: u64) -> Vec<String> {
    let found = json!({"state": {"reported": {"a": value}}, "version": version});
    let finals = BTreeMap::from([(id("t1"), Ok(serde_json::from_value(found).expect("a document")))]);
    oracle.judge(&finals, |_| &[]).iter().map(Violation::to_string).collect()
}

#[test]
fn each_keyed_update_is_applied_once() {
    let all: [(&str, &[_], u64, &[&str]); 6] = [
        ("the same reply again", &[("k1", false, 1, 1), ("k1", false, 1, 1), ("k2", false, 2, 2)], 2, &[]),
        ("replayed", &[("k1", false, 1, 1), ("k1", true, 1, 1), ("k2", false, 2, 2), ("k2", true, 2, 2)], 2, &[]),
        ("only the replay came", &[("k1", true, 1, 1), ("k2", false, 2, 2)], 2, &[]),
        (
            "applied twice",
            &[("k1", false, 1, 1), ("k1", false, 2, 1), ("k2", false, 3, 2)],
            3,
            &["applied twice: t1 version 2 under the key k1 of t1, after version 1"],
        ),
        (
            "replayed with another version",
            &[("k1", false, 1, 1), ("k1", true, 2, 1), ("k2", false, 3, 2)],
            3,
            &["applied twice: t1 version 2 under the key k1 of t1, after version 1"],
        ),
        ("a lost one", &[("k1", false, 1, 1), ("k2", false, 2, 3)], 2, &["lost update: t1 version 2 /reported/a"]),
    ];
    for (label, rows, version, expected) in all {
        let mut oracle = Oracle::new(true);
        keyed(&mut oracle, rows);
        let found = judged_at(&oracle, version, 2);
        assert_eq!(found.len(), expected.len(), "{label}: {found:?}");
        assert!(found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected)), "{label}: {found:?}");
    }
}

/// A keyed update whose first reply was lost, and that was applied again by the retry, is one version too many.
#[test]
fn every_version_is_accounted_for_if_nobody_else_writes() {
    for (exclusive, unknown, expected) in [(true, 0, 1), (true, 1, 0), (false, 0, 0)] {
        let mut oracle = Oracle::new(exclusive);
        keyed(&mut oracle, &[("k1", false, 1, 1), ("k2", false, 3, 2)]);
        (0..unknown).for_each(|_| oracle.unknown(&id("t1")));
        let found = judged_at(&oracle, 3, 2);
        assert_eq!(found.len(), expected, "{exclusive} {unknown}: {found:?}");
        assert!(found.iter().all(|found| found.starts_with("unaccounted versions: t1 has 1 ")), "{found:?}");
    }
}

#[test]
fn commands_take_effect_once() {
    let mut oracle = Oracle::default();
    for command in ["c1", "c2", "c3"] {
        oracle.command(&id("t1"), command);
    }
    for command in ["c1", "c2", "c1", "of-unknown-outcome"] {
        oracle.effect(&id("t1"), command);
    }
    let expected = ["took effect twice: t1 command c1", "took no effect: t1 command c3, which was accepted"];
    assert_eq!(judged_at(&oracle, 0, 0), expected);
    assert_eq!(oracle.commands(), (3, 4));
}
