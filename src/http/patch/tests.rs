//! Patches against another implementation of RFC 6902, and through the engine.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::shadow::{Command, Decision, Document, DocumentLimits, OnConflict, Preconditions, tests::decided};

fn written(document: &Document, update: Update) -> Result<Document, Rejection> {
    let command = Command::Update(update);
    Ok(match decided(document, &command, &DocumentLimits::default())? {
        Decision::Changed { document, .. } => document,
        Decision::Unchanged => document.clone(),
    })
}

fn replaced(document: &Document, state: &Value) -> Document {
    let section = |name: &str| match state.get(name) {
        Some(Value::Object(members)) => SectionPatch::Merge(members.clone()),
        _ => SectionPatch::Clear,
    };
    let (desired, reported, tags) = (section("desired"), section("reported"), section("tags"));
    written(document, Update { desired, reported, tags, replace: true, ..Update::default() }).unwrap()
}

/// What GET shows of the sections.
fn state(document: &Document) -> Map<String, Value> {
    crate::wire::state_value(document, &crate::auth::Projection::ALL)
}

/// As the writer of a patch does it.
fn bound(edit: Edit, read: Version) -> Update {
    let expect = edit.looks(read).chain(edit.guards(read)).collect();
    let preconditions =
        Preconditions { version: Some(read), on_conflict: OnConflict::Rebase, expect, ..Preconditions::default() };
    Update { preconditions, ..edit.update }
}

/// Sections without members are not there.
fn shown(mut state: Value) -> Value {
    state.as_object_mut().unwrap().retain(|_, section| section.as_object().is_some_and(|members| !members.is_empty()));
    state
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..3_i64).prop_map(Value::from),
        Just(json!({})),
        Just(json!("s")),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn section_value() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[abc]", value(), 0..4).prop_map(|members| Value::Object(members.into_iter().collect()))
}

fn state_of_a_shadow() -> impl Strategy<Value = Value> {
    (section_value(), section_value())
        .prop_map(|(desired, reported)| shown(json!({"desired": desired, "reported": reported})))
}

fn path() -> impl Strategy<Value = String> {
    let keys =
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just("0"), Just("1"), Just("-")], 0..4);
    (prop_oneof![Just("desired"), Just("reported")], keys)
        .prop_map(|(section, keys)| [vec![""], vec![section], keys].concat().join("/"))
}

fn operation() -> impl Strategy<Value = Value> {
    (0..6, path(), path(), value(), section_value()).prop_map(|(kind, path, from, value, section)| {
        let value = if path.matches('/').count() == 1 { section } else { value };
        match kind {
            0 | 1 => json!({"op": "add", "path": path, "value": value}),
            2 => json!({"op": "remove", "path": path}),
            3 => json!({"op": "replace", "path": path, "value": value}),
            4 => json!({"op": "move", "from": from, "path": path}),
            _ => json!({"op": "copy", "from": from, "path": path}),
        }
    })
}

/// What the other implementation makes of it; `None`: it does not fit, or a section is no object then.
fn expected(state: &Value, patch: &Value) -> Option<Value> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    let mut state = state.clone();
    // One by one: a section that is no object must not come to be even in between.
    for operation in patch.0 {
        json_patch::patch(&mut state, &[operation]).ok()?;
        if !state.as_object()?.values().all(Value::is_object) {
            return None;
        }
    }
    Some(shown(state))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn patches_come_to_what_they_say(before in state_of_a_shadow(), operations in prop::collection::vec(operation(), 0..5)) {
        let patch = Value::from(operations);
        let document = replaced(&Document::absent(), &before);
        let found = match Patch::read(patch.clone()) {
            // A move into itself is refused before anything is looked at.
            Err(_) => None,
            Ok(read) => read.apply(&state(&document), 1 << 20).ok().map(|edit| {
                let update = bound(edit, document.version);
                Value::Object(state(&written(&document, update).unwrap()))
            }),
        };
        prop_assert_eq!(found, expected(&before, &patch), "{} on {}", patch, before);
    }

    /// Whatever another writer did in between: either the patch is refused, or it comes to what it would have come to
    /// on the document that the other left.
    #[test]
    fn patches_do_not_race(
        before in state_of_a_shadow(),
        others in prop::collection::vec(operation(), 1..3),
        operations in prop::collection::vec(operation(), 1..4),
    ) {
        let read = replaced(&Document::absent(), &before);
        let (Ok(patch), Ok(other)) = (Patch::read(operations.clone().into()), Patch::read(others.into())) else { return Ok(()) };
        let Ok(edit) = patch.apply(&state(&read), 1 << 20) else { return Ok(()) };
        let Ok(in_between) = other.apply(&state(&read), 1 << 20) else { return Ok(()) };
        let current = written(&read, in_between.update).unwrap();
        let Ok(after) = written(&current, bound(edit, read.version)) else { return Ok(()) };
        let there = Value::Object(state(&current));
        prop_assert_eq!(Some(Value::Object(state(&after))), expected(&there, &operations.into()), "{} then {}", before, there);
    }
}

/// Writers of other fields are no reason to refuse a patch; that is what `seen` and the rebase are for.
#[test]
fn other_fields_do_not_matter() {
    let read =
        replaced(&Document::absent(), &json!({"desired": {"a": 1, "list": [1], "o": {"x": 1}}, "reported": {"n": 1}}));
    for (patch, other, accepted) in [
        (json!([{"op": "add", "path": "/desired/a", "value": 2}]), json!({"reported": {"n": 2}}), true),
        (json!([{"op": "add", "path": "/desired/a", "value": 2}]), json!({"desired": {"a": 3}}), false),
        (json!([{"op": "add", "path": "/desired/a", "value": 1}]), json!({"desired": {"a": 3}}), false),
        (json!([{"op": "add", "path": "/desired/list/-", "value": 2}]), json!({"desired": {"list": [5]}}), false),
        (json!([{"op": "add", "path": "/desired/list/-", "value": 2}]), json!({"desired": {"o": {"y": 5}}}), true),
        (json!([{"op": "add", "path": "/desired/o", "value": {"z": 1}}]), json!({"desired": {"o": {"y": 5}}}), false),
        (json!([{"op": "add", "path": "/desired/o/z", "value": 1}]), json!({"desired": {"o": {"y": 5}}}), true),
        (json!([{"op": "add", "path": "/desired/o/z", "value": 1}]), json!({"desired": {"o": null}}), false),
        (
            json!([{"op": "test", "path": "/reported/n", "value": 1}, {"op": "remove", "path": "/desired/a"}]),
            json!({"reported": {"n": 2}}),
            false,
        ),
        (json!([{"op": "copy", "from": "/reported/n", "path": "/desired/a"}]), json!({"reported": {"n": 2}}), false),
        (json!([{"op": "copy", "from": "/reported/n", "path": "/desired/a"}]), json!({"reported": {"m": 2}}), true),
    ] {
        let edit = Patch::read(patch.clone()).unwrap().apply(&state(&read), 1 << 20).unwrap();
        let section = |name: &str| {
            other
                .get(name)
                .map_or(SectionPatch::Keep, |section| SectionPatch::Merge(section.as_object().unwrap().clone()))
        };
        let in_between = Update { desired: section("desired"), reported: section("reported"), ..Update::default() };
        let current = written(&read, in_between).unwrap();
        assert_eq!(written(&current, bound(edit, read.version)).is_ok(), accepted, "{patch} after {other}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    for (patch, named) in [
        (json!({}), "patch"),
        (json!([1]), "operation 0"),
        (json!([{"op": "remove", "path": "/desired/a"}, {"op": "remove"}]), "operation 1"),
        (json!([{"op": "remove", "path": "desired"}]), "operation 0"),
        (json!([{"op": "move", "path": "/desired/a"}]), "operation 0"),
        (json!([{"op": "remove", "path": "/desired/~2"}]), "operation 0"),
        (json!([{"path": "/desired/a"}]), "operation 0"),
    ] {
        match Patch::read(patch.clone()) {
            Err(Rejection::InvalidField { field, .. }) => assert_eq!(field, named, "{patch}"),
            other => assert!(other.is_err(), "{patch}: {other:?}"),
        }
    }
}
