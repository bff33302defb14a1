//! Tests of commands against documents: one row per rule.

use serde_json::{Value, json};

use super::{after, decided, pointer, sender, state, thermostat, update, written};
use crate::shadow::{
    Command, Decision, Delete, Document, DocumentLimits, Effect, Etag, OnConflict, Preconditions, Rejection, SizeLimit,
    Stamp, Timestamp, Update, Version, command::EtagCondition, decide, document::tree::Node,
};

fn command(state: &Value, replace: bool) -> Command {
    Command::Update(Update { replace, ..update(state.clone()) })
}

/// Checks that `sent` to `before` makes `changes` (a path and its new value) and leaves the state `after`.
#[track_caller]
fn check(before: Value, sent: Value, changes: &[(&str, Option<Value>)], after: Value) {
    check_with(before, sent, false, changes, after);
}

#[track_caller]
fn check_with(before: Value, sent: Value, replace: bool, changes: &[(&str, Option<Value>)], after: Value) {
    let document = written(&[before]);
    let (next, changed) = match decided(&document, &command(&sent, replace), &DocumentLimits::default()).unwrap() {
        Decision::Changed { document, changes } => (document, changes),
        Decision::Unchanged => (document, vec![]),
    };
    let changed = changed.into_iter().map(|change| match change.effect {
        Effect::Set(value) => (change.path.to_string(), Some(value)),
        Effect::Remove => (change.path.to_string(), None),
        Effect::Touch => (format!("touch {}", change.path), None),
    });
    let expected: Vec<_> = changes.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect();
    assert_eq!(changed.collect::<Vec<_>>(), expected, "{sent}");
    // Compared as text: `1` must not become `1.0`.
    assert_eq!(state(&next).to_string(), after.to_string(), "{sent}");
    assert_eq!(next.version, Version(if changes.is_empty() { 1 } else { 2 }));
}

#[test]
fn sections_merge() {
    let before = || json!({"desired": {"a": {"x": 1, "y": [1, 2]}, "b": "t", "e": {}}});
    let desired = |members: Value| json!({ "desired": members });
    check(before(), desired(json!({"b": "u"})), &[("/desired/b", Some(json!("u")))], {
        desired(json!({"a": {"x": 1, "y": [1, 2]}, "b": "u", "e": {}}))
    });
    check(before(), desired(json!({"a": {"x": null}})), &[("/desired/a/x", None)], {
        desired(json!({"a": {"y": [1, 2]}, "b": "t", "e": {}}))
    });
    check(before(), desired(json!({"a": {"x": null, "y": null}})), &[("/desired/a", Some(json!({})))], {
        desired(json!({"a": {}, "b": "t", "e": {}}))
    });
    check(before(), desired(json!({"a": {"y": [1]}})), &[("/desired/a/y", Some(json!([1])))], {
        desired(json!({"a": {"x": 1, "y": [1]}, "b": "t", "e": {}}))
    });
    check(before(), desired(json!({"a": 1})), &[("/desired/a", Some(json!(1)))], {
        desired(json!({"a": 1, "b": "t", "e": {}}))
    });
    check(before(), desired(json!({"a": {}})), &[], before());
    check(before(), desired(json!({"b": {}})), &[("/desired/b", Some(json!({})))], {
        desired(json!({"a": {"x": 1, "y": [1, 2]}, "b": {}, "e": {}}))
    });
    check(before(), desired(json!({"e": {"f": 1, "g": null}})), &[("/desired/e", Some(json!({"f": 1})))], {
        desired(json!({"a": {"x": 1, "y": [1, 2]}, "b": "t", "e": {"f": 1}}))
    });
    check(before(), desired(json!({"e": {"g": null}})), &[], before());
    check(before(), desired(json!({"n": {"o": {"p": null}}})), &[("/desired/n", Some(json!({"o": {}})))], {
        desired(json!({"a": {"x": 1, "y": [1, 2]}, "b": "t", "e": {}, "n": {"o": {}}}))
    });
    check(before(), desired(json!({"a": null, "b": null, "e": null, "z": null})), &[("/desired", None)], json!({}));
    check(before(), desired(json!(null)), &[("/desired", None)], json!({}));
    check(before(), json!(null), &[("/desired", None)], json!({}));
    check(before(), json!({"reported": {"a": {"n": null}}}), &[("/reported", Some(json!({"a": {}})))], {
        json!({"desired": {"a": {"x": 1, "y": [1, 2]}, "b": "t", "e": {}}, "reported": {"a": {}}})
    });
    check(before(), json!({"reported": {"a": null}, "tags": {}}), &[], before());
}

#[test]
fn sections_are_replaced() {
    let before = || json!({"desired": {"a": {"x": 1, "y": 2}, "b": 1}, "reported": {"r": 1}});
    check_with(
        before(),
        json!({"desired": {"a": {"x": 1.0}}}),
        true,
        &[("/desired/b", None), ("/desired/a/y", None)],
        json!({"desired": {"a": {"x": 1}}, "reported": {"r": 1}}),
    );
    check_with(
        before(),
        json!({"desired": {"a": {}, "b": null}}),
        true,
        &[("/desired/b", None), ("/desired/a", Some(json!({})))],
        json!({"desired": {"a": {}}, "reported": {"r": 1}}),
    );
    check_with(before(), json!({"desired": {}}), true, &[("/desired", None)], json!({"reported": {"r": 1}}));
    check_with(before(), json!({"desired": null}), true, &[("/desired", None)], json!({"reported": {"r": 1}}));
    check_with(before(), before(), true, &[], before());
}

#[test]
fn equal_values_are_no_change_and_keep_their_spelling() {
    for (stored, sent) in [
        (json!(1), json!(1.0)),
        (json!(1.0), json!(1)),
        (json!(0), json!(-0.0)),
        (json!([1, {"a": 2.0}]), json!([1.0, {"a": 2}])),
        (json!(1u64 << 60), json!(2f64.powi(60))),
        (json!({"a": {}}), json!({"a": {}})),
    ] {
        let stored = json!({"reported": {"v": stored}});
        check(stored.clone(), json!({"reported": {"v": sent}}), &[], stored);
    }
    for (stored, sent) in [
        (json!(1), json!("1")),
        (json!(1), json!(true)),
        (json!([1, 2]), json!([2, 1])),
        (json!([]), json!({})),
        (json!(0.1), json!(0.100_000_000_000_000_02)),
    ] {
        let (before, after) = (json!({"reported": {"v": stored}}), json!({"reported": {"v": sent}}));
        check(before, after.clone(), &[("/reported/v", Some(sent))], after);
    }
}

#[test]
fn an_update_that_changes_no_value_leaves_all_as_it_is() {
    let document = written(&[thermostat()]);
    for sent in [thermostat(), json!({}), json!({"tags": null}), json!({"desired": {"unknown": null}})] {
        assert_eq!(decided(&document, &command(&sent, false), &DocumentLimits::default()), Ok(Decision::Unchanged));
    }
}

/// A requester that received "accepted" finds a shadow, even an empty one; `version` 0 has created it.
#[test]
fn an_empty_update_makes_an_absent_shadow_exist() {
    let deleted = written(&[json!({"desired": {"a": 1}}), json!("delete")]);
    for (absent, version) in [(Document::absent(), 1), (deleted, 3)] {
        for sent in [json!({}), json!(null), json!({"desired": {}}), json!({"desired": {"a": null}})] {
            let next = after(&absent, &command(&sent, false));
            assert!(next.exists() && next.version == Version(version) && next.leaves() == 0, "{sent}");
            assert_eq!(decided(&next, &command(&sent, false), &DocumentLimits::default()), Ok(Decision::Unchanged));
        }
    }
}

#[test]
fn stamps_move_with_values() {
    let document = written(&[
        json!({"reported": {"a": 1, "b": {"x": 1, "y": 1}}}),
        json!({"reported": {"a": 1, "b": {"x": 2}, "c": {"d": {"e": 1}, "f": []}}}),
    ]);
    let version = |key: &str| document.reported.members.get(key).expect("there").newest().0;
    assert_eq!((version("a"), version("b"), version("c")), (1, 2, 2));
    let Some(Node::Object(b)) = document.reported.members.get("b") else { panic!("no object") };
    assert_eq!(["x", "y"].map(|key| b.get(key).map(Node::newest)), [Some(Version(2)), Some(Version(1))]);
    let Some(Node::Leaf(a)) = document.reported.members.get("a") else { panic!("no leaf") };
    assert_eq!((a.changed.timestamp.0, &*a.changed.by), (1, "tester"));
}

#[test]
fn preconditions_are_checked() {
    let current = written(&[json!({"desired": {"a": 1}}), json!({"desired": {"a": 2}})]);
    let deleted = after(&current, &Command::Delete(Delete::default()));
    let tag = |document: &Document| Some(EtagCondition::from(document.etag.to_string().as_str()));
    let weak = || Some(EtagCondition::from(format!("W/{}", current.etag).as_str()));
    let one_of = |tags: [Option<EtagCondition>; 2]| Some(EtagCondition::OneOf(tags.into_iter().flatten().collect()));
    for (label, document, version, etag, holds) in [
        ("nothing asked", &current, None, None, true),
        ("its version", &current, Some(2), None, true),
        ("an older version", &current, Some(1), None, false),
        ("a later version", &current, Some(3), None, false),
        ("must not exist, and does", &current, Some(0), None, false),
        ("its etag", &current, None, tag(&current), true),
        ("both", &current, Some(2), tag(&current), true),
        ("its etag, an older version", &current, Some(1), tag(&current), false),
        ("another etag", &current, Some(2), tag(&deleted), false),
        ("a weak etag", &current, None, weak(), false),
        ("one of two", &current, None, one_of([weak(), tag(&current)]), true),
        ("none of two", &current, None, one_of([weak(), tag(&deleted)]), false),
        ("whichever", &current, None, Some(EtagCondition::Any), true),
        ("deleted, nothing asked", &deleted, None, None, true),
        ("deleted, the tombstone's version", &deleted, Some(3), None, true),
        ("deleted, the version before", &deleted, Some(2), None, false),
        ("deleted, must not exist", &deleted, Some(0), None, true),
        ("deleted, the tombstone's etag", &deleted, None, tag(&deleted), false),
        ("deleted, one of two", &deleted, None, one_of([tag(&deleted), tag(&current)]), false),
        ("deleted, whichever", &deleted, None, Some(EtagCondition::Any), false),
        ("never written, whichever", &Document::absent(), None, Some(EtagCondition::Any), false),
        ("deleted, the etag before", &deleted, None, tag(&current), false),
        ("never written, must not exist", &Document::absent(), Some(0), None, true),
        ("never written, some version", &Document::absent(), Some(1), None, false),
        ("never written, the etag of nothing", &Document::absent(), None, tag(&Document::absent()), false),
    ] {
        let version = version.map(Version);
        let seen = match &etag {
            Some(EtagCondition::Tag(tag)) if version.is_none_or(|seen| seen == document.version) => Some(tag.version),
            _ => version,
        };
        let preconditions = Preconditions { version, etag, ..Preconditions::default() };
        let update = Update { preconditions: preconditions.clone(), ..update(json!({"desired": {"a": 3}})) };
        let decision = decided(document, &Command::Update(update), &DocumentLimits::default());
        let etag = document.exists().then_some(document.etag);
        let conflict = Rejection::VersionConflict { expected: seen, version: document.version, etag, collisions: None };
        match decision {
            Ok(Decision::Changed { document: next, .. }) => {
                assert!(holds, "{label}");
                assert_eq!(next.version.0, document.version.0 + 1, "{label}");
            }
            Ok(Decision::Unchanged) => panic!("{label}: no change"),
            Err(rejection) => assert_eq!((rejection, false), (conflict.clone(), holds), "{label}"),
        }
        let delete =
            decided(document, &Command::Delete(Delete { preconditions, keyed: None }), &DocumentLimits::default());
        match delete {
            Ok(decision) => assert!(holds && document.exists() && decision != Decision::Unchanged, "{label}"),
            Err(Rejection::NotFound) => assert!(!document.exists(), "{label}"),
            Err(rejection) => assert_eq!((rejection, holds), (conflict, false), "{label}"),
        }
    }
}

/// `If-None-Match` of a write: the current etag must be none of these.
#[test]
fn a_tag_may_be_excluded() {
    let current = written(&[json!({"desired": {"a": 1}}), json!({"desired": {"a": 2}})]);
    let deleted = after(&current, &Command::Delete(Delete::default()));
    for (label, document, none_of, holds) in [
        ("this one", &current, vec![deleted.etag, current.etag], false),
        ("another", &current, vec![deleted.etag], true),
        ("what is deleted has no tag", &deleted, vec![deleted.etag], true),
    ] {
        let preconditions = Preconditions { none_of, ..Preconditions::default() };
        let update = Update { preconditions, ..update(json!({"desired": {"a": 3}})) };
        let decision = decided(document, &Command::Update(update), &DocumentLimits::default());
        assert_eq!(decision.is_ok(), holds, "{label}: {decision:?}");
    }
}

#[test]
fn a_stale_update_is_a_version_conflict_before_too_large() {
    let current = written(&[json!({"desired": {"a": 1}}), json!({"desired": {"a": 2}})]);
    let mut stale = update(json!({"desired": {"a": "x".repeat(9000)}}));
    assert!(matches!(
        decided(&current, &Command::Update(stale.clone()), &DocumentLimits::default()),
        Err(Rejection::TooLarge { .. })
    ));
    stale.preconditions.version = Some(Version(1));
    assert!(matches!(
        decided(&current, &Command::Update(stale), &DocumentLimits::default()),
        Err(Rejection::VersionConflict { .. })
    ));
}

#[test]
fn a_deletion_empties_the_shadow_and_keeps_its_version() {
    let document = written(&[json!({"desired": {"a": 1}, "tags": {"t": 1}}), json!({"desired": {"a": null}})]);
    let Ok(Decision::Changed { document: deleted, changes }) =
        decided(&document, &Command::Delete(Delete::default()), &DocumentLimits::default())
    else {
        panic!("not deleted")
    };
    assert_eq!(changes.iter().map(|change| change.path.to_string()).collect::<Vec<_>>(), ["/tags"]);
    assert_eq!((deleted.version, deleted.floor, deleted.exists()), (Version(3), Version(3), false));
    assert_eq!((state(&deleted), deleted.tombstones.len(), deleted.leaves()), (json!({}), 0, 0));
    assert_eq!(after(&deleted, &command(&json!({"desired": {"a": 1}}), false)).version, Version(4));
}

/// A leaf of a former version has a stamp without time and author.
#[test]
fn a_forgotten_stamp_has_only_a_version() {
    let forgotten = Stamp::forgotten(Version(7));
    assert_eq!((forgotten.version, forgotten.timestamp, &*forgotten.by), (Version(7), Timestamp(0), ""));
    for (timestamp, by, is_forgotten) in [(0, "", true), (5, "", false), (0, "x", false), (5, "x", false)] {
        let stamp = Stamp { version: Version(7), timestamp: Timestamp(timestamp), by: by.into() };
        assert_eq!(stamp.is_forgotten(), is_forgotten, "{timestamp} {by:?}");
    }
}

/// The versions of a name that was purged go on above the floor of its device.
#[test]
fn a_purged_shadow_is_a_tombstone_at_the_floor() {
    let purged = Document::absent_at(Version(7));
    assert_eq!((purged.version, purged.floor, purged.etag.version), (Version(7), Version(7), Version(7)));
    assert!(purged.deleted && !purged.exists() && purged.sections().next().is_none());
    assert_eq!(after(&purged, &command(&json!({"desired": {"a": 1}}), false)).version, Version(8));
    assert_eq!(Document::absent_at(Version(0)), Document::absent());
    assert!(!Document::absent().deleted);
}

#[test]
fn limits_apply_to_the_result() {
    let limits = DocumentLimits {
        document_bytes_max: 40,
        tags_bytes_max: 10,
        leaves_max: 6,
        depth_max: 2,
        path_tombstones_max: 4,
    };
    let size = |size, max| {
        let what = if max == 40 { SizeLimit::State } else { SizeLimit::Tags };
        Err(Rejection::TooLarge { what, size, max })
    };
    let leaves = |count| Err(Rejection::TooManyLeaves { count, max: 6 });
    let deep = Err(Rejection::TooDeep { max: 2 });
    let small = || json!({"desired": {"a": 1}});
    for (before, sent, expected) in [
        // {"s":"…"} is 8 bytes plus its text; an absent section has none.
        (json!({}), json!({"desired": {"s": "x".repeat(32)}}), Ok(())),
        (json!({}), json!({"desired": {"s": "x".repeat(33)}}), size(41, 40)),
        (json!({}), json!({"desired": {"s": "x".repeat(12)}, "reported": {"s": "x".repeat(13)}}), size(41, 40)),
        (json!({}), json!({"tags": {"t": 1234}}), Ok(())),
        (json!({}), json!({"tags": {"t": 12345}}), size(11, 10)),
        (json!({}), json!({"tags": {"t": 12340.0}}), size(11, 10)),
        // Canonical bytes: 1e3 is 1000.
        (json!({}), json!({"tags": {"t": 1e3}}), Ok(())),
        (small(), json!({"desired": {"s": "x".repeat(26), "a": 1}}), Ok(())),
        (small(), json!({"desired": {"s": "x".repeat(27), "a": 2}}), size(41, 40)),
        (json!({}), json!({"desired": {"a": [1, [2, 3], []], "b": {}, "c": 1}}), Ok(())),
        (json!({}), json!({"desired": {"a": [1, [2, 3], []], "b": {}}, "reported": {"c": 1, "d": 1}}), leaves(7)),
        (json!({}), json!({"desired": {"a": {"b": {"c": 1}}}}), Ok(())),
        (json!({}), json!({"desired": {"a": {"b": {"c": []}}}}), deep.clone()),
        (json!({}), json!({"desired": {"a": {"b": {"c": {}}}}}), deep.clone()),
        (json!({"desired": {"a": {"b": {"c": 1}}}}), json!({"desired": {"a": {"b": {"c": [1]}}}}), deep),
    ] {
        let result = decided(&written(&[before]), &command(&sent, false), &limits).map(drop);
        assert_eq!(result, expected, "{sent}");
    }
}

/// An update with very many leaves took the writer tenths of a second before it was refused.
#[test]
fn an_update_is_refused_before_it_is_merged_if_its_leaves_are_too_many() {
    let limits = DocumentLimits { leaves_max: 6, ..DocumentLimits::default() };
    let members = |count, value: Value| (0..count).map(|n: u32| (n.to_string(), value.clone())).collect::<Value>();
    for (sent, expected) in [
        (json!({"tags": members(7, json!({"x": null}))}), Err(Rejection::TooManyLeaves { count: 7, max: 6 })),
        (json!({"tags": members(3, json!([1, {"x": null}, {}]))}), Err(Rejection::TooManyLeaves { count: 9, max: 6 })),
        (json!({"desired": members(4, json!(1)), "reported": members(2, json!({"a": {"b": null}}))}), Ok(())),
        (json!({"desired": members(12, Value::Null)}), Ok(())),
        (json!({"desired": members(12, Value::Null), "tags": null}), Ok(())),
        (
            json!({"desired": members(2_000, json!(1))}),
            Err(Rejection::TooLarge { what: SizeLimit::State, size: 16_891, max: 8192 }),
        ),
    ] {
        let document = Document::absent();
        let Command::Update(update) = command(&sent, false) else { panic!("an update") };
        let named = limits.check_paths(&document, &update);
        assert_eq!(named.and_then(|named| limits.check_update(&document, &update, named)), expected);
        assert_eq!(decided(&document, &command(&sent, false), &limits).map(drop), expected);
    }
}

/// An update of 95,000 nulls below a long path was compared path by path with the removed paths of its shadow, for half a second
/// of the writer, since a null counted as no leaf and the number was checked after the version.
#[test]
fn an_update_is_refused_before_it_is_compared_if_it_names_too_many_paths() {
    let limits = DocumentLimits { leaves_max: 6, ..DocumentLimits::default() };
    let members = |count, value: Value| (0..count).map(|n: u32| (n.to_string(), value.clone())).collect::<Value>();
    let below = |members: Value| json!({"desired": {"a": {"b": members}}});
    let document = written(&[below(members(3, json!(1))), below(members(3, Value::Null))]);
    let rebase =
        Preconditions { version: Some(Version(1)), on_conflict: OnConflict::Rebase, ..Preconditions::default() };
    let refused = |count| Err(Rejection::TooManyPaths { count, max: 12 });
    // Nulls, the values of arrays and empty objects; 3 of each first twelve were removed since version 1.
    for (sent, expected) in [
        (below(members(13, Value::Null)), refused(13)),
        (below(members(100_000, Value::Null)), refused(100_000)),
        (json!({"desired": members(10, Value::Null), "reported": members(3, json!({"x": null}))}), refused(13)),
        (json!({"desired": {"c": members(12, Value::Null)}}), Ok(())),
        (json!({"desired": {"c": members(6, Value::Null), "d": members(4, json!({}))}}), Ok(())),
    ] {
        for replace in [false, true] {
            let sent = Update { preconditions: rebase.clone(), replace, ..update(sent.clone()) };
            let found = decided(&document, &Command::Update(sent), &limits).map(drop);
            match expected {
                Ok(()) if replace => assert!(matches!(found, Err(Rejection::VersionConflict { .. })), "{found:?}"),
                _ => assert_eq!(found, expected),
            }
        }
    }
    // All of a document above a lowered limit can be replaced.
    let document = written(&[json!({"desired": members(10, json!(1))})]);
    for (count, expected) in [(20, Ok(())), (21, Err(Rejection::TooManyPaths { count: 21, max: 20 }))] {
        let found = decided(&document, &command(&json!({"desired": members(count, Value::Null)}), false), &limits);
        assert_eq!(found.map(drop), expected);
    }
}

/// Each change is journaled with all keys of its path, so an update of 8 KB with 585 values below keys of 4 KB made an entry of
/// 2.4 MB, and a hundred of them a commit of seconds.
#[test]
fn the_paths_of_one_update_are_bounded() {
    let limits = DocumentLimits::default();
    let members = |count, value: Value| (0..count).map(|n: u32| (n.to_string(), value.clone())).collect::<Value>();
    let below = |members: Value| json!({"desired": {"k".repeat(4_000): members}});
    let document = written(&[below(members(400, json!(1)))]);
    let command = |sent: &Value| command(sent, false);
    // 10 values have one digit, 55 two: 65 paths have 260,120 bytes of the 262,144 allowed.
    assert!(decided(&document, &command(&below(members(65, json!(2)))), &limits).is_ok());
    for value in [json!(2), Value::Null] {
        let refused = decided(&document, &command(&below(members(66, value))), &limits).map(drop);
        assert_eq!(refused, Err(Rejection::TooLarge { what: SizeLimit::Paths, size: 264_122, max: 262_144 }));
    }
    // Objects that are removed or set whole are one change each.
    for sent in [json!({"desired": null}), json!({"desired": {"k".repeat(4_000): null}})] {
        assert!(decided(&document, &command(&sent), &limits).is_ok());
    }
    // A document above a lowered limit can be changed as much as before.
    let lower = DocumentLimits { document_bytes_max: 64, tags_bytes_max: 64, ..limits };
    let max = 16 * document.state_bytes();
    let refused = decided(&document, &command(&below(members(66, json!(2)))), &lower).map(drop);
    assert_eq!(refused, Err(Rejection::TooLarge { what: SizeLimit::Paths, size: 264_122, max }));
    assert!(decided(&document, &command(&below(members(16, json!(2)))), &lower).is_ok());
}

/// A limit that was lowered later only prevents growth.
#[test]
fn a_document_above_a_lowered_limit_may_change_but_not_grow() {
    let document = written(&[json!({"reported": {"list": [1, 2, 3], "deep": {"a": {"b": 1}}, "temperature": 21}})]);
    let limits = DocumentLimits {
        document_bytes_max: 8,
        tags_bytes_max: 8,
        leaves_max: 2,
        depth_max: 0,
        path_tombstones_max: 4,
    };
    for (sent, accepted) in [
        (json!({"temperature": 22}), true),
        (json!({"temperature": 122}), false),
        (json!({"temperature": null}), true),
        (json!({"list": [1, 22]}), true),
        (json!({"list": [1, 2, 3, 4]}), false),
        (json!({"list": null, "more": [1]}), false),
        (json!({"deep": {"a": {"b": 2}}}), true),
        (json!({"deep": {"a": {"c": 2}}, "list": null}), false),
        (json!({"deep": {"a": {"b": []}}, "list": null}), false),
        (json!({"deep": 1}), true),
    ] {
        let result = decided(&document, &command(&json!({"reported": sent}), false), &limits);
        assert_eq!(result.is_ok(), accepted, "{sent}: {result:?}");
    }
}

#[test]
fn etags_round_trip() {
    let text = "\"7-00000000000000000123456789abcdef\"";
    let tag: Etag = text.parse().unwrap();
    assert_eq!((tag.version, tag.to_string().as_str()), (Version(7), text));
    for other in [
        "",
        "\"",
        "7-00000000000000000123456789abcdef",
        "W/\"7-00000000000000000123456789abcdef\"",
        "\"7-00000000000000000123456789ABCDEF\"",
        "\"7-0123456789abcdef\"",
        "\"07-00000000000000000123456789abcdef\"",
        "\"+7-00000000000000000123456789abcdef\"",
        "\"7-+0000000000000000123456789abcdef\"",
        "\"7-000000000000000000123456789abcdef\"",
        "\"99999999999999999999-00000000000000000123456789abcdef\"",
    ] {
        assert!(other.parse::<Etag>().is_err(), "{other}");
    }
    // The SHA-256 of {"desired":{},"reported":{}}, which a client can compute.
    let empty = Etag::of(Version(1), &Default::default(), &Default::default());
    assert_eq!(empty.to_string(), "\"1-329286cb875134b46e686909ab4219f4\"");
}

#[test]
fn the_etag_is_that_of_the_canonical_state() {
    let sent = json!({"desired": {"b": 1.0, "a": {"z": 1e2, "y": [0.5]}}, "reported": {"\u{1f600}": 1, "\u{fb33}": 2}});
    let document = written(&[sent]);
    let other = written(&[
        json!({"reported": {"\u{fb33}": 2.0, "\u{1f600}": 1}, "desired": {"a": {"y": [5e-1], "z": 100}, "b": 1}}),
    ]);
    assert_eq!(document.etag, other.etag);
    let canonical =
        "{\"desired\":{\"a\":{\"y\":[0.5],\"z\":100},\"b\":1},\"reported\":{\"\u{1f600}\":1,\"\u{fb33}\":2}}";
    assert_eq!(document.etag.digest, <sha2::Sha256 as sha2::Digest>::digest(canonical)[..16]);
    let tagged = after(&document, &command(&json!({"tags": {"x": 1}}), false));
    assert_eq!((tagged.etag.digest, tagged.etag.version), (document.etag.digest, Version(2)));
}

/// In the AWS dialect, an update takes a version even if it changes nothing. An equal value sent again refreshes the
/// time of its leaf, but not its version, so that a heartbeat causes no conflict.
#[test]
fn an_equal_value_sent_again_is_refreshed() {
    let before = json!({"desired": {"a": 1, "b": {"c": [1], "d": {}, "e": 2}}, "reported": {"a": 1}});
    let document = written(std::slice::from_ref(&before));
    // the state sent, the changed paths
    for (sent, touched) in [
        (json!({}), &[][..]),
        (json!({"desired": {}}), &[]),
        (json!({"desired": {"b": {}}, "reported": {"x": null}}), &[]),
        (json!({"desired": {"a": 1.0}}), &["/desired/a"]),
        (json!({"desired": {"b": {"c": [1], "d": {}}}}), &["/desired/b/c", "/desired/b/d"]),
    ] {
        let command = Command::Update(Update { bumps: true, ..update(sent.clone()) });
        let Ok(Decision::Changed { document: next, changes }) =
            decide(&document, &command, &sender("heartbeat"), Timestamp(100), &DocumentLimits::default())
        else {
            panic!("{sent} changed nothing")
        };
        assert!(changes.iter().all(|change| change.effect == Effect::Touch), "{changes:?}");
        assert_eq!(changes.iter().map(|change| change.path.to_string()).collect::<Vec<_>>(), touched, "{sent}");
        assert_eq!((next.version, state(&next)), (Version(2), before.clone()), "{sent}");
        for path in ["/desired/a", "/desired/b/c", "/desired/b/d", "/desired/b/e", "/reported/a"] {
            let stamp = stamp_at(&next, path);
            let time = if touched.contains(&path) { 100 } else { 1 };
            let expected = (Version(1), Timestamp(time), "tester");
            assert_eq!((stamp.version, stamp.timestamp, &*stamp.by), expected, "{path} after {sent}");
            assert!(!next.changed_after(&pointer(path), Version(1)), "{path} after {sent}");
        }
        if let [first, .., last] = touched {
            let stamp = |path: &str| next.newest_change(&pointer(path)).unwrap();
            assert!(std::sync::Arc::ptr_eq(stamp(first), stamp(last)), "leaves that shared a stamp share one");
        }
    }
}

fn stamp_at(document: &Document, path: &str) -> Stamp {
    let path = pointer(path);
    let node = path.keys.iter().fold(None, |node: Option<&Node>, key| match node {
        None => document.section(path.section).members.get(key),
        Some(Node::Object(members)) => members.get(key),
        Some(Node::Leaf(_)) => None,
    });
    let Some(Node::Leaf(leaf)) = node else { panic!("no leaf at {path}") };
    Stamp::clone(&leaf.changed)
}
