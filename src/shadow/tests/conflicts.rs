//! Tests of stale versions: accepted rebases and reported conflicts.

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{decided, pointer, properties::command, update, written};
use crate::shadow::{
    Change, Collisions, Command, Decision, Delete, Document, DocumentLimits, OnConflict, Preconditions, Rejection,
    Update, Version,
    command::{
        Expectation, Expected,
        conflicts::{collisions, is_clean},
    },
};

fn rebasing(sent: &Value, replace: bool, seen: u64) -> Update {
    let preconditions =
        Preconditions { version: Some(Version(seen)), on_conflict: OnConflict::Rebase, ..Preconditions::default() };
    Update { preconditions, replace, ..update(sent.clone()) }
}

fn desired(writes: Vec<Value>) -> Vec<Value> {
    writes.into_iter().map(|write| if write.is_string() { write } else { json!({ "desired": write }) }).collect()
}

/// Checks `rows` after `writes` of `desired` (versions 1, 2, …). A row has the `desired` sent, its expected version,
/// and the conflicting paths; without any it is accepted.
fn check(story: &str, writes: Vec<Value>, rows: Vec<(Value, u64, &[&str])>) {
    check_whole(story, writes, rows.into_iter().map(|(sent, seen, paths)| (sent, false, seen, paths)).collect());
}

/// Checks rows that also say `replace`.
fn check_whole(story: &str, writes: Vec<Value>, rows: Vec<(Value, bool, u64, &[&str])>) {
    let document = written(&desired(writes));
    for (sent, replace, seen, expected) in rows {
        let about = format!("{story}: {sent} for version {seen}");
        let command = Command::Update(rebasing(&json!({ "desired": sent }), replace, seen));
        let found = collisions(&command, &document, Version(seen));
        let paths: Vec<_> = found.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
        let expected: Vec<_> = expected.iter().map(|path| format!("/desired{path}")).collect();
        assert_eq!(paths, expected, "{about}");
        match decided(&document, &command, &DocumentLimits::default()) {
            Ok(_) => assert!(expected.is_empty(), "{about}: accepted"),
            Err(Rejection::VersionConflict { .. }) => assert!(!expected.is_empty(), "{about}: refused"),
            Err(other) => panic!("{about}: {other:?}"),
        }
    }
}

#[test]
fn fields_of_others() {
    check(
        "siblings pass, the same field does not",
        vec![json!({"a": 1, "b": {"x": 1, "y": 1}}), json!({"b": {"x": 2}})],
        vec![
            (json!({"a": 2}), 1, &[]),
            (json!({"b": {"y": 2}}), 1, &[]),
            (json!({"b": {"z": 2}}), 1, &[]),
            (json!({"b": {"x": 3}}), 1, &["/b/x"]),
            (json!({"a": 2, "b": {"x": 3, "y": 4}}), 1, &["/b/x"]),
            (json!({"b": null}), 1, &["/b"]),
            (json!({"b": 5}), 1, &["/b"]),
            (json!({}), 1, &[]),
            (json!({"b": {"x": 3}}), 2, &[]),
        ],
    );
    check(
        "both send the same new value: 5 to 6 twice is not 7",
        vec![json!({"n": 5}), json!({"n": 6})],
        vec![(json!({"n": 6}), 1, &["/n"])],
    );
    check(
        "an equal value sent again is no change",
        vec![json!({"n": 5, "m": 1}), json!({"m": 2}), json!({"n": 5.0})],
        vec![(json!({"n": 6}), 1, &[]), (json!({"m": 3}), 1, &["/m"])],
    );
    check(
        "there and back again is a change",
        vec![json!({"n": 5}), json!({"n": 6}), json!({"n": 5})],
        vec![(json!({"n": 7}), 1, &["/n"]), (json!({"n": 7}), 2, &["/n"]), (json!({"n": 7}), 3, &[])],
    );
}

#[test]
fn kinds_that_change() {
    check(
        "an object is replaced by a scalar",
        vec![json!({"a": {"x": 1}, "b": 1}), json!({"a": 5})],
        vec![
            (json!({"a": {"x": 2}}), 1, &["/a/x"]),
            (json!({"a": {"new": 2}}), 1, &["/a/new"]),
            (json!({"a": null}), 1, &["/a"]),
            (json!({"b": 2}), 1, &[]),
        ],
    );
    check(
        "a scalar is replaced by an object",
        vec![json!({"a": 5}), json!({"a": {"x": 1}})],
        vec![(json!({"a": 6}), 1, &["/a"]), (json!({"a": {"y": 1}}), 1, &["/a/y"])],
    );
    check(
        "an array is one value",
        vec![json!({"a": [1, 2], "b": [1]}), json!({"a": [1, 3]})],
        vec![
            (json!({"a": [9, 2]}), 1, &["/a"]),
            (json!({"a": {"0": 9}}), 1, &["/a/0"]),
            (json!({"b": {"0": 9}}), 1, &[]),
        ],
    );
}

#[test]
fn things_that_go() {
    check(
        "a removal against a write at, below and above it",
        vec![json!({"a": {"x": {"deep": 1}, "y": 1}}), json!({"a": {"x": null}})],
        vec![
            (json!({"a": {"x": {"deep": 2}}}), 1, &["/a/x/deep"]),
            (json!({"a": {"x": 2}}), 1, &["/a/x"]),
            (json!({"a": {"x": null}}), 1, &["/a/x"]),
            (json!({"a": null}), 1, &["/a"]),
            (json!({"a": {"y": 2}}), 1, &[]),
        ],
    );
    check(
        "a write against a removal above it",
        vec![json!({"a": {"x": 1, "y": 1}}), json!({"a": {"x": 2}})],
        vec![(json!({"a": null}), 1, &["/a"]), (json!({"a": {"y": null}}), 1, &[])],
    );
    check(
        "a section is cleared, and filled again",
        vec![json!({"a": 1, "b": 1}), Value::Null, json!({"c": 1})],
        vec![
            (json!({"a": 2}), 1, &["/a"]),
            (json!({"new": 2}), 1, &[]),
            (json!({"c": 2}), 1, &["/c"]),
            (json!({"a": 2}), 2, &[]),
        ],
    );
    check(
        "delete and recreate: nothing passes",
        vec![json!({"a": 1}), json!("delete"), json!({"a": 1})],
        vec![(json!({"a": 2}), 1, &["/a"]), (json!({"b": 2}), 1, &["/b"]), (json!({"b": 2}), 2, &[])],
    );
    check(
        "delete",
        vec![json!({"a": 1}), json!("delete")],
        vec![(json!({"b": 2}), 1, &["/b"]), (json!({"b": 2}), 2, &[])],
    );
}

#[test]
fn sections_touched_whole() {
    let writes = || vec![json!({"a": 1, "b": {"x": 1, "y": 1}, "e": {}}), json!({"b": {"x": 2}}), json!({"c": 1})];
    check_whole(
        "a replacement touches all",
        writes(),
        vec![
            (json!({"a": 2}), true, 1, &["/b/x", "/c"]),
            (json!({"b": {"x": 9}}), true, 1, &["/b/x", "/c"]),
            (json!({"b": 9}), true, 1, &["/b", "/c"]),
            (json!({"a": 2}), true, 2, &["/c"]),
            (json!({"a": 2}), true, 3, &[]),
            (Value::Null, false, 1, &["/b/x", "/c"]),
            (Value::Null, false, 3, &[]),
        ],
    );
    check_whole(
        "what was removed meanwhile, and is not sent",
        vec![json!({"a": 1, "b": 1}), json!({"b": null})],
        vec![
            (json!({"a": 2}), true, 1, &["/b"]),
            (json!({"b": 2}), true, 1, &["/b"]),
            (Value::Null, false, 1, &["/b"]),
        ],
    );
    check_whole(
        "an empty object that is new accounts for itself only at the section",
        vec![json!({"a": 1}), json!({"o": {}})],
        vec![(json!({"o": {"x": 1}}), true, 1, &[""]), (json!({"a": 2}), true, 1, &["/o"])],
    );
    check_whole("an empty section, deleted", vec![json!({}), json!("delete")], vec![(Value::Null, false, 1, &[""])]);
}

#[test]
fn evicted_tombstones_are_not_trusted() {
    let limits = DocumentLimits { path_tombstones_max: 2, ..DocumentLimits::default() };
    let mut document = Document::absent();
    for sent in [json!({"a": 1, "b": 1, "c": 1, "d": 1}), json!({"a": null}), json!({"b": null}), json!({"c": null})] {
        let command = Command::Update(update(json!({ "desired": sent })));
        let Decision::Changed { document: next, .. } = decided(&document, &command, &limits).unwrap() else { panic!() };
        document = next;
    }
    assert_eq!(document.floor, Version(2), "the removal of a, at version 2, was evicted");
    for (path, seen, accepted) in [("d", 1, false), ("d", 2, true), ("b", 2, false), ("never", 1, false)] {
        let command = Command::Update(rebasing(&json!({"desired": {path: 2}}), false, seen));
        assert_eq!(decided(&document, &command, &limits).is_ok(), accepted, "{path} for {seen}");
    }
    // A path that counts as changed only since removals are unknown has no known change.
    let command = Command::Update(update(json!({"desired": {"d": 2}})));
    let found = collisions(&command, &document, Version(1));
    assert_eq!(found.conflicts.iter().map(|conflict| conflict.changed.clone()).collect::<Vec<_>>(), [None]);
}

/// Only a stale version can be rebased.
#[test]
fn only_a_stale_version_is_rebased() {
    let document = written(&desired(vec![json!({"a": 1}), json!({"b": 1})]));
    let accepted = |preconditions: Preconditions| {
        let command = Command::Update(Update { preconditions, ..update(json!({"desired": {"c": 1}})) });
        decided(&document, &command, &DocumentLimits::default()).is_ok()
    };
    let rebase = |version: Option<u64>| Preconditions {
        version: version.map(Version),
        on_conflict: OnConflict::Rebase,
        ..Preconditions::default()
    };
    for (version, expected) in [(Some(0), false), (Some(1), true), (Some(2), true), (Some(3), false), (None, true)] {
        assert_eq!(accepted(rebase(version)), expected, "version {version:?}");
    }
    let stale = written(&desired(vec![json!({"a": 1})])).etag.to_string();
    assert!(!accepted(Preconditions { etag: Some(stale.as_str().into()), ..rebase(None) }));
    assert!(!accepted(Preconditions { etag: Some(stale.as_str().into()), ..rebase(Some(1)) }));
    assert!(accepted(Preconditions { etag: Some(document.etag.to_string().as_str().into()), ..rebase(Some(1)) }));
    let path = |path, holds| Expectation { path: pointer(path), holds };
    assert!(!accepted(Preconditions { expect: vec![path("/desired/b", Expected::Absent)], ..rebase(Some(1)) }));
    assert!(accepted(Preconditions { expect: vec![path("/desired/b", Expected::Value(json!(1)))], ..rebase(Some(1)) }));
}

#[test]
fn rebased_from_is_the_earlier_version() {
    let document = written(&desired(vec![json!({"a": 1}), json!({"b": 1})]));
    for (seen, expected) in [(0, None), (1, Some(Version(1))), (2, None)] {
        assert_eq!(rebasing(&json!({}), false, seen).preconditions.rebased_from(&document), expected);
    }
    let plain = Preconditions { version: Some(Version(2)), ..Preconditions::default() };
    assert_eq!(plain.rebased_from(&document), None);
}

/// Returns the conflicts of `sent`, which expects version `seen`, after `writes`, with base values.
fn reported(writes: &[Value], sent: &Value, seen: u64) -> Collisions {
    let command = Command::Update(rebasing(sent, false, seen));
    let mut history: Vec<Vec<Change>> = Vec::new();
    let mut document = Document::absent();
    for state in writes {
        let command = match state {
            Value::String(_) => Command::Delete(Default::default()),
            state => Command::Update(update(state.clone())),
        };
        match decided(&document, &command, &DocumentLimits::default()).unwrap() {
            Decision::Changed { document: next, changes } => {
                document = next;
                history.push(changes);
            }
            Decision::Unchanged => panic!("{state} changes nothing"),
        }
    }
    let mut found = collisions(&command, &document, Version(seen));
    let mut rewind = found.rewind();
    history.iter().skip(seen as usize).rev().for_each(|changes| rewind.undo(changes));
    rewind.arrive();
    found
}

/// The columns: path, yours, base, current, the version of the change.
#[test]
fn conflicts_are_reported() {
    type Row = (&'static str, Value, Option<Value>, Option<Value>, Option<u64>);
    let check = |writes: &[Value], sent: Value, seen: u64, rows: Vec<Row>, clean: &[&str]| {
        let found = reported(writes, &sent, seen);
        let conflicts = found.conflicts.into_iter().map(|conflict| {
            let version = conflict.changed.map(|stamp| stamp.version.0);
            (conflict.path.to_string(), conflict.yours, conflict.base, conflict.current, version)
        });
        let rows = rows
            .into_iter()
            .map(|(path, yours, base, current, version)| (path.to_owned(), yours, base, current, version));
        assert_eq!(conflicts.collect::<Vec<_>>(), rows.collect::<Vec<_>>(), "{sent}");
        assert_eq!(found.clean.iter().map(ToString::to_string).collect::<Vec<_>>(), clean, "{sent}");
        assert!(!found.truncated);
    };
    let first = json!({"desired": {"mode": "heat", "target": 19, "o": {"x": 1, "y": 1}}, "reported": {"t": 1}});
    check(
        &[first.clone(), json!({"desired": {"target": 20}}), json!({"desired": {"target": 23}})],
        json!({"desired": {"target": 21, "mode": "eco"}, "reported": {"t": 2}}),
        1,
        vec![("/desired/target", json!(21), Some(json!(19)), Some(json!(23)), Some(3))],
        &["/desired/mode", "/reported/t"],
    );
    check(
        &[first.clone(), json!({"desired": {"o": {"x": 2}}}), json!({"desired": {"o": null, "new": 1}})],
        json!({"desired": {"o": {"x": 5, "z": 1}, "new": null, "mode": null}}),
        1,
        vec![
            ("/desired/new", Value::Null, None, Some(json!(1)), Some(3)),
            ("/desired/o/x", json!(5), Some(json!(1)), None, Some(3)),
            ("/desired/o/z", json!(1), None, None, Some(3)),
        ],
        &["/desired/mode"],
    );
    check(
        &[first.clone(), json!({"desired": {"o": {"x": 2, "z": 3}}}), json!({"desired": {"o": {"y": null}}})],
        json!({"desired": {"o": 5}}),
        1,
        vec![("/desired/o", json!(5), Some(json!({"x": 1, "y": 1})), Some(json!({"x": 2, "z": 3})), Some(3))],
        &[],
    );
    check(
        &[first.clone(), json!("delete"), json!({"desired": {"target": 1}})],
        json!({"desired": {"target": 21, "mode": "eco"}}),
        1,
        vec![
            ("/desired/mode", json!("eco"), Some(json!("heat")), None, None),
            ("/desired/target", json!(21), Some(json!(19)), Some(json!(1)), Some(3)),
        ],
        &[],
    );
    check(
        &[first.clone(), json!({"desired": null})],
        json!({"desired": null}),
        1,
        vec![
            ("/desired/mode", Value::Null, Some(json!("heat")), None, Some(2)),
            ("/desired/o", Value::Null, Some(json!({"x": 1, "y": 1})), None, Some(2)),
            ("/desired/target", Value::Null, Some(json!(19)), None, Some(2)),
        ],
        &[],
    );
}

/// The columns: command, expected version, conflicts in order, clean paths in order.
#[test]
fn conflicts_of_whole_sections_are_ordered() {
    type Row<'a> = (Command, u64, &'a [&'a str], &'a [&'a str]);
    let check = |writes: &[Value], rows: Vec<Row<'_>>| {
        let document = written(writes);
        for (command, seen, conflicts, clean) in rows {
            let found = collisions(&command, &document, Version(seen));
            let paths: Vec<_> = found.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
            assert_eq!(paths, conflicts, "conflicts of {command:?}");
            let paths: Vec<_> = found.clean.iter().map(ToString::to_string).collect();
            assert_eq!(paths, clean, "clean paths of {command:?}");
        }
    };
    let delete = || Command::Delete(Delete::default());
    let replace = |state: Value| Command::Update(Update { replace: true, ..update(state) });
    // Leaves sent, then leaves that go, then paths removed meanwhile.
    check(
        &[
            json!({"desired": {"a": 1, "b": {"x": 1, "y": 1}, "gone": 1, "kept": 1}, "reported": {"t": 1}}),
            json!({"desired": {"a": 2, "b": {"x": 2}, "gone": null}}),
        ],
        vec![
            (
                delete(),
                1,
                &["/desired/a", "/desired/b/x", "/desired/gone"],
                &["/desired/b/y", "/desired/kept", "/reported/t"],
            ),
            (delete(), 2, &[], &["/desired/a", "/desired/b/x", "/desired/b/y", "/desired/kept", "/reported/t"]),
            (
                replace(json!({"desired": {"z": 1, "b": {"x": 3}}})),
                1,
                &["/desired/b/x", "/desired/a", "/desired/gone"],
                &["/desired/z", "/desired/b/y", "/desired/kept"],
            ),
            (
                replace(json!({"desired": {"gone": 1}})),
                1,
                &["/desired/gone", "/desired/a", "/desired/b/x"],
                &["/desired/b/y", "/desired/kept"],
            ),
            // A null in a replacement is no value.
            (
                replace(json!({"desired": {"a": null, "b": {"x": null, "y": 2}}})),
                1,
                &["/desired/a", "/desired/b/x", "/desired/gone"],
                &["/desired/b/y", "/desired/kept"],
            ),
            (Command::Update(update(json!({"reported": null}))), 1, &[], &["/reported/t"]),
        ],
    );
    // A removed path is another one than those sent beside it.
    check(
        &[json!({"desired": {"a": {"x": 1, "y": 1}, "k": 1}}), json!({"desired": {"a": {"x": null}}})],
        vec![
            (
                replace(json!({"desired": {"a": {"z": 1}}})),
                1,
                &["/desired/a/x"],
                &["/desired/a/z", "/desired/a/y", "/desired/k"],
            ),
            (replace(json!({"desired": {"a": {"x": 1}}})), 1, &["/desired/a/x"], &["/desired/a/y", "/desired/k"]),
            (replace(json!({"desired": {"a": 1}})), 1, &["/desired/a"], &["/desired/k"]),
            (replace(json!({"desired": {"a": {}}})), 1, &["/desired/a"], &["/desired/k"]),
            (replace(json!({"desired": {}})), 1, &["/desired/a/x"], &["/desired/a/y", "/desired/k"]),
        ],
    );
    // A member that is sent again in parts is listed by these.
    check(
        &[json!({"desired": {"a": 1, "k": 1}}), json!({"desired": {"a": null}})],
        vec![(replace(json!({"desired": {"a": {"x": 1}}})), 1, &["/desired/a/x"], &["/desired/k"])],
    );
    // A deletion touches sections with members only.
    check(&[json!({"reported": {"t": 1}}), json!({"reported": {"t": 2}})], vec![(delete(), 1, &["/reported/t"], &[])]);
    check(
        &[json!({"desired": {"a": 1}, "reported": {"t": 1}}), json!({"desired": {"a": null}})],
        vec![(delete(), 1, &[], &["/reported/t"])],
    );
    // A cleared section without members is listed itself.
    check(
        &[json!({"reported": {"t": 1}})],
        vec![(Command::Update(update(json!({"desired": null}))), 1, &[], &["/desired"])],
    );
}

#[test]
fn no_more_than_64_are_listed() {
    let all = |value: u64| {
        let members: serde_json::Map<_, _> = (0..100).map(|n| (format!("k{n:03}"), json!(value))).collect();
        json!({ "desired": members })
    };
    let found = reported(&[all(1), all(2)], &all(3), 1);
    assert_eq!((found.conflicts.len(), found.clean.len(), found.truncated), (64, 0, true));
    let found = reported(&[all(1), json!({"desired": {"other": 1}})], &all(3), 1);
    assert_eq!((found.conflicts.len(), found.clean.len(), found.truncated), (0, 64, true));
    // Either list is filled although the other one is full.
    let mixed = |first: u64, second: u64| {
        let member = |prefix: &'static str, value: u64| move |n: u64| (format!("{prefix}{n:03}"), json!(value));
        let members: serde_json::Map<_, _> =
            (0..100).map(member("a", first)).chain((0..9).map(member("b", second))).collect();
        json!({ "desired": members })
    };
    for (changed, conflicts, clean) in [(mixed(2, 1), 64, 9), (mixed(1, 2), 9, 64)] {
        let found = reported(&[mixed(1, 1), changed], &mixed(3, 3), 1);
        assert_eq!((found.conflicts.len(), found.clean.len(), found.truncated), (conflicts, clean, true));
    }
    let exact = |value: u64| {
        let members: serde_json::Map<_, _> = (0..64).map(|n| (format!("k{n:03}"), json!(value))).collect();
        json!({ "desired": members })
    };
    assert!(!reported(&[exact(1), exact(2)], &exact(3), 1).truncated);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The listed conflicts agree with the decision, and their base and current values with the history.
    #[test]
    fn conflicts_agree_with_the_history(writes in vec(command(), 1..8), sent in command(), seen in 0..8usize) {
        let mut documents = vec![Document::absent()];
        let mut history: Vec<Vec<Change>> = Vec::new();
        for write in &writes {
            let current = documents.last().unwrap();
            if let Ok(Decision::Changed { document, changes }) = decided(current, write, &DocumentLimits::default()) {
                documents.push(document);
                history.push(changes);
            }
        }
        let seen = seen % documents.len();
        let (document, since) = (documents.last().unwrap(), Version(seen as u64));
        let mut found = collisions(&sent, document, since);
        let mut rewind = found.rewind();
        history.iter().skip(seen).rev().for_each(|changes| rewind.undo(changes));
        rewind.arrive();
        let Command::Update(update) = &sent else { return Ok(()) };
        if !found.truncated {
            prop_assert_eq!(found.conflicts.is_empty(), is_clean(update, document, since), "{:?}", found);
        }
        for conflict in &found.conflicts {
            let at = |document: &Document| document.find(&conflict.path).map(|found| found.to_value());
            prop_assert_eq!(&conflict.current, &at(document), "{}", conflict.path);
            prop_assert_eq!(&conflict.base, &at(&documents[seen]), "{} at {}", conflict.path, seen);
            prop_assert!(document.changed_after(&conflict.path, since));
        }
        for path in &found.clean {
            prop_assert!(!document.changed_after(path, since), "{}", path);
        }
        // An update that expects its paths unchanged is refused in exactly the same cases.
        let preconditions =
            Preconditions { version: Some(since), on_conflict: OnConflict::Rebase, ..Preconditions::default() };
        let rebased = Command::Update(Update { preconditions, ..update.clone() });
        if 0 < seen && since < document.version && since >= document.floor {
            let refused = matches!(
                decided(document, &rebased, &DocumentLimits::default()),
                Err(Rejection::VersionConflict { .. })
            );
            prop_assert_eq!(refused, !found.conflicts.is_empty());
        }
    }
}
