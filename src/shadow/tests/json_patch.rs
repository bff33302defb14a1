//! Tests of JSON Patches against another implementation of RFC 6902, and with concurrent writers.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::shadow::{
    JsonPatch, OnConflict, Patch, Preconditions, SizeLimit,
    command::{EtagCondition, idempotency::IdempotencyKey},
    patch::LEVELS_MAX,
};

/// Parses the operations in `json` as the server parses a request.
pub(crate) fn operations(json: Value) -> JsonPatch {
    crate::wire::json_patch(json).unwrap()
}

fn patch(json: Value, preconditions: Preconditions) -> Command {
    Command::Patch(Patch { operations: operations(json), preconditions, ..Patch::default() })
}

fn rebased(since: &Document) -> Preconditions {
    Preconditions { version: Some(since.version), on_conflict: OnConflict::Rebase, ..Preconditions::default() }
}

/// Returns the state after `command`, or the error word of its rejection.
fn outcome(document: &Document, command: &Command, scope: Scope) -> Result<Value, &'static str> {
    let sender = Sender { scope, ..sender("tester") };
    match decide(document, command, &sender, Timestamp(9), &DocumentLimits::default()) {
        Ok(Decision::Changed { document, .. }) => Ok(state(&document)),
        Ok(Decision::Unchanged) => Ok(state(document)),
        Err(rejection) => Err(rejection.error()),
    }
}

/// Returns the state without empty sections.
fn without_empty_sections(mut state: Value) -> Value {
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
            vec(inner.clone(), 0..3).prop_map(Value::from),
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
        .prop_map(|(desired, reported)| without_empty_sections(json!({"desired": desired, "reported": reported})))
}

fn path() -> impl Strategy<Value = String> {
    let keys = vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just("0"), Just("1"), Just("-")], 0..4);
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

/// Returns the result of the other implementation; `None` if an operation does not apply or a section is no object.
fn expected(state: &Value, patch: &Value) -> Option<Value> {
    let patch: ::json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    let mut state = state.clone();
    // One by one: no section may be anything but an object, not even in between.
    for operation in patch.0 {
        ::json_patch::patch(&mut state, &[operation]).ok()?;
        if !state.as_object()?.values().all(Value::is_object) {
            return None;
        }
    }
    Some(without_empty_sections(state))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn patches_agree_with_the_other_implementation(before in state_of_a_shadow(), operations in vec(operation(), 0..5)) {
        let patched = Value::from(operations);
        let document = written(std::slice::from_ref(&before));
        let found = match crate::wire::json_patch(patched.clone()) {
            // A move into itself is refused by the parser.
            Err(_) => None,
            Ok(operations) => {
                let command = Command::Patch(Patch { operations, ..Patch::default() });
                outcome(&document, &command, Scope::ALL).ok()
            }
        };
        prop_assert_eq!(found, expected(&before, &patched), "{} on {}", patched, before);
    }
}

/// A patch applies to the current document. A rebased patch also requires that no path it touches or reads changed
/// since the expected version.
#[test]
fn patches_apply_to_the_current_document_and_rebase() {
    let read = written(&[json!({"desired": {"a": 1, "list": [1], "o": {"x": 1}}, "reported": {"n": 1}})]);
    let append = json!([{"op": "add", "path": "/desired/list/-", "value": 2}]);
    // the update in between, the patch, the resulting `desired`, true if it can be rebased
    for (label, other, patched, expected, rebases) in [
        (
            "another field",
            json!({"reported": {"n": 2}}),
            json!([{"op": "add", "path": "/desired/a", "value": 2}]),
            Ok(json!({"a": 2, "list": [1], "o": {"x": 1}})),
            true,
        ),
        (
            "the same field",
            json!({"desired": {"a": 3}}),
            json!([{"op": "add", "path": "/desired/a", "value": 2}]),
            Ok(json!({"a": 2, "list": [1], "o": {"x": 1}})),
            false,
        ),
        (
            "to what it was",
            json!({"desired": {"a": 3}}),
            json!([{"op": "add", "path": "/desired/a", "value": 1}]),
            Ok(json!({"a": 1, "list": [1], "o": {"x": 1}})),
            false,
        ),
        (
            "an append after another",
            json!({"desired": {"list": [1, 5]}}),
            append.clone(),
            Ok(json!({"a": 1, "list": [1, 5, 2], "o": {"x": 1}})),
            false,
        ),
        (
            "an append beside another field",
            json!({"desired": {"o": {"y": 5}}}),
            append.clone(),
            Ok(json!({"a": 1, "list": [1, 2], "o": {"x": 1, "y": 5}})),
            true,
        ),
        ("an append to what is no list", json!({"desired": {"list": 1}}), append, Err("expectation-failed"), false),
        (
            "an object over one that grew",
            json!({"desired": {"o": {"y": 5}}}),
            json!([{"op": "add", "path": "/desired/o", "value": {"z": 1}}]),
            Ok(json!({"a": 1, "list": [1], "o": {"z": 1}})),
            false,
        ),
        (
            "a member beside another",
            json!({"desired": {"o": {"y": 5}}}),
            json!([{"op": "add", "path": "/desired/o/z", "value": 1}]),
            Ok(json!({"a": 1, "list": [1], "o": {"x": 1, "y": 5, "z": 1}})),
            true,
        ),
        (
            "a member of what is gone",
            json!({"desired": {"o": null}}),
            json!([{"op": "add", "path": "/desired/o/z", "value": 1}]),
            Err("expectation-failed"),
            false,
        ),
        (
            "a test that does not hold any more",
            json!({"reported": {"n": 2}}),
            json!([{"op": "test", "path": "/reported/n", "value": 1}, {"op": "remove", "path": "/desired/a"}]),
            Err("expectation-failed"),
            false,
        ),
        (
            "a copy of what changed",
            json!({"reported": {"n": 2}}),
            json!([{"op": "copy", "from": "/reported/n", "path": "/desired/a"}]),
            Ok(json!({"a": 2, "list": [1], "o": {"x": 1}})),
            false,
        ),
        (
            "a copy beside what changed",
            json!({"reported": {"m": 2}}),
            json!([{"op": "copy", "from": "/reported/n", "path": "/desired/a"}]),
            Ok(json!({"a": 1, "list": [1], "o": {"x": 1}})),
            true,
        ),
        (
            "the last member of a section",
            json!({"desired": null}),
            json!([{"op": "add", "path": "/desired/b", "value": 1}]),
            Err("expectation-failed"),
            false,
        ),
    ] {
        let current = after(&read, &Command::Update(update(other)));
        let plain = outcome(&current, &patch(patched.clone(), Preconditions::default()), Scope::ALL);
        assert_eq!(plain.map(|state| state["desired"].clone()), expected, "{label}");
        let rebased = outcome(&current, &patch(patched, rebased(&read)), Scope::ALL);
        assert_eq!(rebased.is_ok(), rebases, "{label}: {rebased:?}");
    }
}

/// Conditions on the document as a whole are checked before the operations.
#[test]
fn preconditions_are_checked_before_operations() {
    let read = written(&[json!({"desired": {"a": 1}})]);
    let current = after(&read, &Command::Update(update(json!({"reported": {"n": 1}}))));
    let gone = after(&current, &Command::Delete(Delete::default()));
    let fits = json!([{"op": "add", "path": "/desired/b", "value": 1}]);
    let misfit = json!([{"op": "remove", "path": "/desired/b"}]);
    let create = json!([{"op": "add", "path": "/desired", "value": {"b": 1}}]);
    let version = |version| Preconditions { version: Some(Version(version)), ..Preconditions::default() };
    let etag = |etag| Preconditions { etag: Some(etag), ..Preconditions::default() };
    let none_of = Preconditions { none_of: vec![current.etag], ..Preconditions::default() };
    let from = |version| Preconditions { version: Some(Version(version)), ..rebased(&read) };
    let (conflict, failed) = (Some("version-conflict"), Some("expectation-failed"));
    for (label, document, preconditions, operations, expected) in [
        ("nothing expected", &current, Preconditions::default(), &fits, None),
        ("nothing expected", &current, Preconditions::default(), &misfit, failed),
        ("this version", &current, version(2), &fits, None),
        ("this version", &current, version(2), &misfit, failed),
        ("an earlier version", &current, version(1), &fits, conflict),
        ("an earlier version", &current, version(1), &misfit, conflict),
        ("this tag", &current, etag(EtagCondition::Tag(current.etag)), &misfit, failed),
        ("an earlier tag", &current, etag(EtagCondition::Tag(read.etag)), &fits, conflict),
        ("an earlier tag", &current, etag(EtagCondition::Tag(read.etag)), &misfit, conflict),
        ("not this tag", &current, none_of, &misfit, conflict),
        ("any tag", &current, etag(EtagCondition::Any), &misfit, failed),
        ("any tag, of nothing", &gone, etag(EtagCondition::Any), &create, conflict),
        ("an earlier version, rebased", &current, from(1), &fits, None),
        ("an earlier version, rebased", &current, from(1), &misfit, failed),
        ("a version to come, rebased", &current, from(3), &fits, conflict),
        ("a version to come, rebased", &current, from(3), &misfit, conflict),
        ("before a deletion, rebased", &gone, from(1), &create, conflict),
        ("that there is none", &gone, version(0), &create, None),
        ("that there is none, rebased", &gone, from(0), &create, None),
        ("that there is none", &current, version(0), &misfit, conflict),
        ("nothing expected of nothing", &gone, Preconditions::default(), &create, None),
        ("nothing expected of nothing", &gone, Preconditions::default(), &fits, failed),
        ("nothing expected of nothing", &Document::absent(), Preconditions::default(), &create, None),
    ] {
        let outcome = outcome(document, &patch(operations.clone(), preconditions), Scope::ALL);
        assert_eq!(outcome.err(), expected, "{label}: {operations}");
    }
}

#[test]
fn a_patch_keeps_to_the_rights_of_its_sender() {
    let paths = |texts: &[&str]| texts.iter().map(|text| pointer(text)).collect::<Vec<_>>().iter().collect();
    let scope = Scope {
        reads: paths(&["/desired/zone/t", "/desired/list", "/desired/s", "/reported"]),
        writes: paths(&["/desired/zone/t", "/desired/zone/u", "/desired/list", "/desired/s/b", "/desired/pin"]),
    };
    let document = written(&[json!({
        "desired": {"zone": {"t": 1, "pin": 4}, "list": [{"a": 1}], "s": 1, "pin": {"x": 1}},
        "reported": {"list": [1]}, "tags": {"t": 1},
    })]);
    let refused = |path: &str| Err(format!("Forbidden {path}"));
    // the outcome on arrival, the outcome of the decision
    for (label, operation, admitted, decided) in [
        ("a value", json!({"op": "replace", "path": "/desired/zone/t", "value": 2}), Ok(()), Ok(())),
        ("beside it", json!({"op": "add", "path": "/desired/zone/v", "value": 2}), Ok(()), refused("/desired/zone/v")),
        ("an element", json!({"op": "replace", "path": "/desired/list/0/a", "value": 2}), Ok(()), Ok(())),
        (
            "an element of another's list",
            json!({"op": "add", "path": "/reported/list/-", "value": 2}),
            Ok(()),
            refused("/reported/list"),
        ),
        (
            "a section of which it sees nothing",
            json!({"op": "add", "path": "/tags/t", "value": 2}),
            Ok(()),
            Err("expectation-failed".to_owned()),
        ),
        ("what it cannot read", json!({"op": "add", "path": "/desired/zone/u", "value": 2}), Ok(()), Ok(())),
        (
            "what it cannot read, if it is there",
            json!({"op": "replace", "path": "/desired/pin", "value": 2}),
            refused("/desired/pin"),
            Ok(()),
        ),
        (
            "below what it cannot read",
            json!({"op": "add", "path": "/desired/pin/x", "value": 2}),
            Ok(()),
            Err("expectation-failed".to_owned()),
        ),
        (
            "a test of what it cannot read",
            json!({"op": "test", "path": "/desired/zone", "value": {"t": 1}}),
            refused("/desired/zone"),
            Ok(()),
        ),
        (
            "a move of what it cannot write",
            json!({"op": "move", "from": "/desired/s", "path": "/desired/zone/t"}),
            Ok(()),
            refused("/desired/s"),
        ),
    ] {
        for dry_run in [false, true] {
            let operations = operations(json!([operation]));
            let mut command = Command::Patch(Patch { operations, dry_run, ..Patch::default() });
            let word = |rejection| match rejection {
                Rejection::Forbidden { what } => format!("Forbidden {what}"),
                other => other.error().to_owned(),
            };
            let found = scope.admit(&mut command).map_err(word);
            assert_eq!(found, admitted, "{label}");
            if found.is_err() {
                continue;
            }
            let sender = Sender { scope: scope.clone(), ..sender("x") };
            let found = decide(&document, &command, &sender, Timestamp(9), &DocumentLimits::default());
            // A dry run reveals whether anything changes, so it requires the right to read the paths it touches.
            let decided =
                if dry_run && label == "what it cannot read" { refused("/desired/zone/u") } else { decided.clone() };
            assert_eq!(found.map(|_| ()).map_err(word), decided, "{label}, dry run: {dry_run}");
        }
    }
    let nothing = Scope { writes: Default::default(), ..scope };
    assert!(nothing.admit(&mut patch(json!([]), Preconditions::default())).is_err(), "who may write nothing");
}

/// The reason of a refusal, and whether a patch was rebased, revealed changes of paths that its sender may write but
/// not read.
#[test]
fn a_patch_reveals_nothing_its_sender_cannot_read() {
    let paths = |texts: &[&str]| texts.iter().map(|text| pointer(text)).collect::<Vec<_>>().iter().collect();
    let scope = Scope { reads: paths(&["/desired/zone/t", "/desired/a"]), writes: paths(&["/desired"]) };
    let read = written(&[json!({"desired": {"zone": {"t": 1, "pin": 4}, "a": 1}})]);
    let touched = |state: Value| after(&read, &Command::Update(update(state)));
    let fails = json!({"op": "test", "path": "/desired/a", "value": 9});
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    for (operations, changed, expected) in [
        (json!([add("/desired/zone/pin", json!(1)), fails]), json!({"zone": {"pin": 5}}), "expectation-failed"),
        (json!([add("/desired/zone/pin", json!(1)), fails]), json!({"other": 5}), "expectation-failed"),
        (json!([add("/desired/zone/t", json!(1)), fails]), json!({"zone": {"t": 5}}), "version-conflict"),
        (json!([add("/desired/zone", json!({"t": 1}))]), json!({"zone": {"pin": 5}}), "forbidden"),
        (json!([add("/desired/zone", json!({"t": 1}))]), json!({"other": 5}), "forbidden"),
        (json!([add("/desired/a", json!({"t": 1}))]), json!({"a": 5}), "version-conflict"),
    ] {
        let current = touched(json!({ "desired": changed }));
        let outcome = outcome(&current, &patch(operations.clone(), rebased(&read)), scope.clone());
        assert_eq!(outcome.err(), Some(expected), "{operations} after {changed}");
    }
}

/// A patch of any sender runs on the writer thread.
#[test]
fn the_cost_of_a_patch_is_bounded() {
    let document = written(&[json!({"desired": {"a": {"x": "y"}, "list": []}})]);
    let add = |path: String, value: &Value| json!({"op": "add", "path": path, "value": value});
    let copies = |path: fn(usize) -> String| {
        (0..250).map(|n| json!({"op": "copy", "from": "/desired/a", "path": path(n)})).collect()
    };
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    for (label, operations, expected) in [
        ("copies of copies, wide", copies(|n| format!("/desired/a/{n}")), "too-large"),
        ("copies of copies, deep", copies(|n| format!("/desired/a{}", "/a".repeat(n.min(LEVELS_MAX - 1)))), "too-deep"),
        ("one large value", vec![add("/desired/b".to_owned(), &json!("x".repeat(70_000)))], "too-large"),
        (
            "many values",
            (0..250).map(|_| add("/desired/list/0".to_owned(), &json!(vec![0; 64]))).collect(),
            "too-large",
        ),
        (
            "the same value again",
            (0..250).map(|_| add("/desired/b".to_owned(), &json!(vec![0; 64]))).collect(),
            "too-large",
        ),
        (
            "insertions before a long list",
            [
                vec![add("/desired/list".to_owned(), &json!(vec![0; 4000]))],
                vec![add("/desired/list/0".to_owned(), &json!(1)); 250],
            ]
            .concat(),
            "too-large",
        ),
        ("deep", vec![add("/desired/b".to_owned(), &nested(LEVELS_MAX))], "too-deep"),
        (
            "deep in two steps",
            vec![
                add("/desired/b".to_owned(), &nested(LEVELS_MAX - 1)),
                json!({"op": "move", "from": "/desired/b", "path": "/desired/a/x"}),
            ],
            "too-deep",
        ),
    ] {
        let outcome = outcome(&document, &patch(operations.into(), Preconditions::default()), Scope::ALL);
        assert_eq!(outcome.err(), Some(expected), "{label}");
    }
    let remove = json!({"op": "remove", "path": "/desired/a"});
    assert!(crate::wire::json_patch(vec![remove; 257].into()).is_err());
}

/// Eight for each value, its text, four and the key for each member; one for eight elements that make way.
#[test]
fn the_cost_of_each_operation_is_exact() {
    let document = written(&[json!({"desired": {"list": vec![0; 17], "a": {"x": "y"}}})]);
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let to = |op: &str, from: &str, path: &str| json!({"op": op, "from": from, "path": path});
    for (operation, cost) in [
        (add("/desired/b", json!(1)), 8),
        (add("/desired/b", json!("abc")), 11),
        (add("/desired/b", json!([1, true])), 24),
        (add("/desired/b", json!({"k": 1})), 21),
        (add("/desired/b", json!({"k": {"l": "m"}})), 35),
        (json!({"op": "replace", "path": "/desired/a/x", "value": "abc"}), 11),
        (to("copy", "/desired/a", "/desired/c"), 22),
        (add("/desired/list/9", json!(1)), 9),
        (add("/desired/list/-", json!(1)), 8),
        (json!({"op": "remove", "path": "/desired/list/1"}), 1),
        (json!({"op": "remove", "path": "/desired/list/9"}), 0),
        (to("move", "/desired/list", "/desired/a/l"), 144),
        (to("move", "/desired/list", "/desired/b"), 0),
        (to("move", "/desired/a/x", "/desired/b"), 0),
        (json!({"op": "remove", "path": "/desired/a"}), 0),
    ] {
        for spare in [0, 1] {
            // The work may be four times both limits. An operation before it takes what the limits have too much.
            let max = (cost + 99_usize).next_multiple_of(4);
            let filler = "x".repeat(max + 1 - spare - cost - 8);
            let patch = patch(json!([add("/desired/filler", json!(filler)), operation]), Preconditions::default());
            let limits = DocumentLimits { document_bytes_max: max / 4, tags_bytes_max: 0, ..DocumentLimits::default() };
            let refused = decide(&document, &patch, &sender("x"), Timestamp(9), &limits).err();
            let too_costly =
                Rejection::TooLarge { what: SizeLimit::Patch { operation: usize::from(cost > 0) }, size: max + 1, max };
            assert_eq!(refused == Some(too_costly), spare == 0, "{operation}: {refused:?}");
        }
    }
}

#[test]
fn the_levels_of_a_patch_are_those_of_path_and_value() {
    let document = written(&[json!({"desired": {"a": {"x": 1}}})]);
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let shadow = DocumentLimits::default().depth_max;
    for (path, levels, max) in [
        ("/desired/b", LEVELS_MAX - 1, shadow),
        ("/desired/b", LEVELS_MAX, LEVELS_MAX),
        ("/desired/a/b", LEVELS_MAX - 2, shadow),
        ("/desired/a/b", LEVELS_MAX - 1, LEVELS_MAX),
    ] {
        let operations = json!([{"op": "add", "path": path, "value": nested(levels)}]);
        let command = patch(operations, Preconditions::default());
        let refused = decide(&document, &command, &sender("x"), Timestamp(9), &DocumentLimits::default()).unwrap_err();
        assert_eq!(refused, Rejection::TooDeep { max }, "{path} {levels}");
    }
}

#[test]
fn elements_are_found_by_their_index() {
    let document = written(&[json!({"desired": {"list": [1, 2]}})]);
    let at = |op: &str, index: &str| json!([{"op": op, "path": format!("/desired/list/{index}"), "value": 9}]);
    for (op, index, list) in [
        ("add", "0", Some(json!([9, 1, 2]))),
        ("add", "2", Some(json!([1, 2, 9]))),
        ("add", "3", None),
        ("add", "01", None),
        ("remove", "0", Some(json!([2]))),
        ("remove", "1", Some(json!([1]))),
        ("remove", "2", None),
        ("remove", "-", None),
        ("replace", "1", Some(json!([1, 9]))),
        ("replace", "2", None),
        ("test", "1", None),
    ] {
        let found = outcome(&document, &patch(at(op, index), Preconditions::default()), Scope::ALL);
        assert_eq!(found.ok(), list.map(|list| json!({"desired": {"list": list}})), "{op} {index}");
    }
}

/// A patch that moved a large value down and up occupied the writer for 11 ms, since each step down scanned all of it.
#[test]
fn steps_down_with_a_large_value_are_counted() {
    let document = written(&[json!({"desired": {"list": vec![json!([]); 1000], "a": {"b": 1}}})]);
    let back_and_forth = |there: &'static str, back: &'static str| {
        let moves = (0..250).map(|n| match n % 2 {
            0 => json!({"op": "move", "from": back, "path": there}),
            _ => json!({"op": "move", "from": there, "path": back}),
        });
        patch(moves.collect(), Preconditions::default())
    };
    let sender = sender("x");
    let decided = |command| decide(&document, &command, &sender, Timestamp(9), &DocumentLimits::default()).map(|_| ());
    // Eight steps down are less than 4 * 16 KiB.
    let refused = decided(back_and_forth("/desired/a/list", "/desired/list")).unwrap_err();
    assert_eq!(refused, Rejection::TooLarge { what: SizeLimit::Patch { operation: 16 }, size: 9 * 8008, max: 65_536 });
    let detail = "what the patch puts and moves up to operation 16, in bytes and eight for each value";
    assert_eq!((refused.code(), refused.detail().as_deref()), (413, Some(detail)));
    assert_eq!(decided(back_and_forth("/desired/other", "/desired/list")), Ok(()), "no step down");
}

/// The stored and reported form of a patch is the update it resolved to.
#[test]
fn a_patch_becomes_an_update() {
    let current = written(&[json!({"desired": {"list": [1]}})]);
    let keyed = crate::shadow::Keyed::edits(IdempotencyKey::new("k").unwrap(), &json!([]), &Preconditions::default());
    let operations = operations(json!([{"op": "add", "path": "/desired/list/-", "value": 2}]));
    let patch = Patch { operations, dry_run: true, keyed: Some(keyed.clone()), ..Patch::default() };
    let found = patch.resolve(&current, &Scope::ALL, &DocumentLimits::default()).unwrap();
    let expected = update(json!({"desired": {"list": [1, 2]}}));
    assert_eq!(found, Update { dry_run: true, keyed: Some(keyed), ..expected });
}
