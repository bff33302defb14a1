//! Tests of when a path counts as changed: one row per situation.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{decided, is_version, pointer, update, written};
use crate::shadow::{Command, Decision, Document, DocumentLimits, Version};

/// Checks whether `path` changed after `since`. Each of `writes` (version 1, 2, …) is `desired`, null to clear it, or
/// "delete".
fn check(story: &str, writes: Vec<Value>, rows: &[(&str, u64, bool)]) {
    let as_state = |write: Value| if write.is_string() { write } else { json!({"desired": write}) };
    let document = written(&writes.into_iter().map(as_state).collect::<Vec<_>>());
    for &(path, since, expected) in rows {
        let path = format!("/desired{path}");
        assert_eq!(document.changed_after(&pointer(&path), Version(since)), expected, "{story}: {path} after {since}");
    }
}

#[test]
fn a_value_set() {
    check(
        "a sibling's change does not count, a member's does",
        vec![json!({"a": {"x": 1, "y": 1}, "b": 1}), json!({"a": {"x": 2}})],
        &[("/a/x", 1, true), ("/a", 1, true), ("", 1, true), ("/a/y", 1, false), ("/b", 1, false), ("/a/x", 2, false)],
    );
    check(
        "the same value again after another one",
        vec![json!({"a": 1}), json!({"a": 2}), json!({"a": 1})],
        &[("/a", 1, true), ("/a", 2, true), ("/a", 3, false)],
    );
    check(
        "a new key",
        vec![json!({"a": 1}), json!({"b": {"c": 1}})],
        &[("/b/c", 1, true), ("/b/d", 1, false), ("/a", 1, false)],
    );
    check(
        "an array is one value: its elements change with it",
        vec![json!({"a": [1, 2]}), json!({"a": [1, 3]})],
        &[("/a/0", 1, true), ("/a", 1, true), ("/a/0", 2, false)],
    );
    check("a scalar above", vec![json!({"a": 1}), json!({"a": 2})], &[("/a/x", 1, true), ("/a/x", 2, false)]);
}

#[test]
fn a_value_removed() {
    check(
        "a removal",
        vec![json!({"a": {"x": 1, "y": 1}}), json!({"a": {"x": null}})],
        &[("/a/x", 1, true), ("/a", 1, true), ("/a/x/deep", 1, true), ("/a/y", 1, false), ("/a/x", 2, false)],
    );
    check(
        "a removal above",
        vec![json!({"a": {"x": 1}, "b": 1}), json!({"a": null})],
        &[("/a/x", 1, true), ("/a/never", 1, true), ("/b", 1, false)],
    );
    check(
        "removed and set again: the removal is still seen from before it",
        vec![json!({"a": {"x": 1}, "b": 1}), json!({"a": null}), json!({"a": {"y": 1}})],
        &[("/a/x", 1, true), ("/a/x", 2, false), ("/a/y", 2, true), ("/a", 2, true), ("/a", 3, false)],
    );
    check(
        "an object that loses its last member is still an object",
        vec![json!({"a": {"x": 1}}), json!({"a": {"x": null}})],
        &[("/a/x", 1, true), ("/a", 1, true), ("/a/y", 1, false), ("/a/x/deep", 1, true)],
    );
    check(
        "an empty object gains a member",
        vec![json!({"a": {}}), json!({"a": {"x": 1}})],
        &[("/a/x", 1, true), ("/a", 1, true), ("/a/y", 1, false)],
    );
    check(
        "a section cleared is its members removed",
        vec![json!({"a": {"x": 1}}), json!(null)],
        &[("/a/x", 1, true), ("/a", 1, true), ("", 1, true), ("/b", 1, false)],
    );
}

#[test]
fn a_value_of_another_kind() {
    check(
        "an object becomes a scalar",
        vec![json!({"a": {"x": 1}, "b": 1}), json!({"a": 5})],
        &[("/a/x", 1, true), ("/a/never", 1, true), ("/a", 1, true), ("/b", 1, false), ("/a/x", 2, false)],
    );
    check(
        "a scalar becomes an object: whatever is below it has another thing above it now",
        vec![json!({"a": 5}), json!({"a": {"x": 1}})],
        &[("/a/y", 1, true), ("/a/x", 1, true), ("/a", 1, true), ("/a/y", 2, false)],
    );
    check(
        "a scalar becomes an empty object, which then fills",
        vec![json!({"a": 5}), json!({"a": {}}), json!({"a": {"x": 1}})],
        &[("/a/y", 1, true), ("/a/y", 2, false), ("/a/x", 2, true)],
    );
    check(
        "an object, a scalar, an object again",
        vec![json!({"a": {"x": 1}}), json!({"a": 5}), json!({"a": {"x": 1}})],
        &[("/a/x", 1, true), ("/a/x", 2, true), ("/a/y", 2, true), ("/a/y", 3, false)],
    );
}

#[test]
fn a_shadow_deleted() {
    check(
        "deleted: everything changed, whether it was there or not",
        vec![json!({"a": 1}), json!("delete")],
        &[("/a", 1, true), ("/never", 1, true), ("/a", 2, false)],
    );
    check(
        "and recreated",
        vec![json!({"a": 1}), json!("delete"), json!({"a": 1})],
        &[("/b", 1, true), ("/b", 2, false), ("/a", 2, true), ("/a", 3, false)],
    );
}

#[test]
fn replacing_a_section_changes_only_what_is_different() {
    let document = written(&[json!({"desired": {"a": 1, "b": 1, "c": {"x": 1, "y": 1}}})]);
    let mut replace = update(json!({"desired": {"a": 1, "c": {"x": 1.0, "z": 1}}}));
    replace.replace = true;
    let Decision::Changed { document, changes } =
        decided(&document, &Command::Update(replace), &DocumentLimits::default()).unwrap()
    else {
        panic!("no change");
    };
    let paths: Vec<String> = changes.iter().map(|change| change.path.to_string()).collect();
    assert_eq!(paths, ["/desired/b", "/desired/c/y", "/desired/c/z"]);
    for (path, expected) in [("a", false), ("b", true), ("c/x", false), ("c/y", true), ("c/z", true), ("c", true)] {
        let path = pointer(&format!("/desired/{path}"));
        assert_eq!(document.changed_after(&path, Version(1)), expected, "{path}");
    }
}

#[test]
fn evicting_tombstones_raises_the_floor_to_the_newest_evicted() {
    let limits = DocumentLimits { path_tombstones_max: 2, ..DocumentLimits::default() };
    let mut document = written(&[json!({"desired": {"a": 1, "b": 1, "c": 1, "d": 1}})]);
    let remove = |document: &Document, key: &str| {
        let command = Command::Update(update(json!({"desired": {key: null}})));
        match decided(document, &command, &limits).unwrap() {
            Decision::Changed { document, .. } => document,
            Decision::Unchanged => panic!("no change"),
        }
    };
    for key in ["a", "b"] {
        document = remove(&document, key);
    }
    assert!(is_version(&document, 3) && document.floor == Version(0));
    assert!(!document.changed_after(&pointer("/desired/d"), Version(1)));
    document = remove(&document, "c");
    assert_eq!((document.floor, document.tombstones.len()), (Version(2), 2));
    // From version 1 on no change is known any more, from 2 on every change is.
    for (path, since, expected) in [("d", 1, true), ("d", 2, false), ("a", 2, false), ("b", 2, true), ("c", 3, true)] {
        let path = pointer(&format!("/desired/{path}"));
        assert_eq!(document.changed_after(&path, Version(since)), expected, "{path} after {since}");
    }
}

/// Tombstones were bounded by their number alone. With keys of 8,000 bytes they made a record of 2 MB for a document of a few
/// bytes, and a principal could fill the memory with a hundred such shadows, which the cache counted as 33 KB each.
#[test]
fn the_keys_of_all_tombstones_are_bounded() {
    let limits = DocumentLimits::default();
    let key = |number: u64| format!("{number:02}{}", "x".repeat(7_998));
    let write = |document: &Document, sent: Value| match decided(
        document,
        &Command::Update(update(json!({"desired": sent}))),
        &limits,
    )
    .unwrap()
    {
        Decision::Changed { document, .. } => document,
        Decision::Unchanged => panic!("no change"),
    };
    let mut document = written(&[json!({"desired": {"here": 1}})]);
    for number in 0..10 {
        document = write(&document, json!({key(number): 1}));
        document = write(&document, json!({key(number): null}));
        // The number-th removal is at version 2 * number + 3.
        let evicted = (number + 1).checked_sub(5).map_or(Version(0), |evicted| Version(2 * evicted + 3));
        assert_eq!((document.tombstones.len() as u64, document.floor), ((number + 1).min(4), evicted), "{number}");
    }
    // A set that was kept before there was a limit loses its oldest at the next change.
    let old: Vec<_> = (0..10).flat_map(|_| document.tombstones.iter().cloned()).collect();
    let document = Document { tombstones: Arc::new(old), ..document };
    let next = write(&document, json!({"here": 2}));
    assert_eq!((next.tombstones.len(), next.floor), (4, document.version));
    // One update that removes more than is kept: everything counts as changed before its own version, and nothing after it.
    let long = "a".repeat(7_000);
    let document =
        written(&[json!({"desired": {&long: {"b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "stays": 1}, "here": 1}})]);
    let next = write(&document, json!({&long: {"b": null, "c": null, "d": null, "e": null, "f": null}}));
    assert_eq!((next.tombstones.len(), next.floor), (4, Version(2)));
    for (since, expected) in [(1, true), (2, false)] {
        assert_eq!(next.changed_after(&pointer("/desired/here"), Version(since)), expected, "{since}");
    }
}

#[test]
fn a_newer_value_or_removal_covers_older_tombstones() {
    for (writes, expected) in [
        (vec![json!({"a": 1}), json!({"a": null})], "/desired/a"),
        (vec![json!({"a": 1, "b": 1}), json!({"a": null}), json!({"a": 2})], ""),
        // A section that appears again has no leaf that covers them.
        (vec![json!({"a": 1}), json!({"a": null}), json!({"a": 2})], "/desired/a"),
        (vec![json!({"a": {"x": 1, "y": 1}}), json!({"a": {"x": null}}), json!({"a": 5})], ""),
        (vec![json!({"a": {"x": 1, "y": 1}}), json!({"a": {"x": null}}), json!({"a": null})], "/desired/a"),
        (vec![json!({"a": 1, "b": 1}), json!({"a": null}), json!({"b": 2})], "/desired/a"),
    ] {
        let states: Vec<_> = writes.into_iter().map(|desired| json!({ "desired": desired })).collect();
        let document = written(&states);
        let paths: Vec<_> = document.tombstones.iter().map(|tombstone| tombstone.path.to_string()).collect();
        assert_eq!(paths.join(" "), expected, "{states:?}");
    }
}
