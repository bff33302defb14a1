//! Flags, suggestions and limits of the fields of requests, and the operations of a JSON Patch.

use serde_json::{Value, json};

use crate::{
    shadow::{
        ClientToken, Command, DocumentLimits, JsonPatch, Patch, Pointer, Rejection,
        patch::{LEVELS_MAX, OPERATIONS_MAX, PatchOperation},
        pointer::SectionName,
    },
    wire::{
        Dialect, json_patch, parse_delete, parse_get, parse_operations, parse_rollout, parse_state, parse_update,
        request::fields::unknown,
    },
};

fn limits(depth_max: usize) -> DocumentLimits {
    DocumentLimits { depth_max, ..DocumentLimits::default() }
}

#[test]
fn flags_are_read() {
    let parse = |payload: &[u8]| parse_update(payload, Dialect::Native, &limits(8)).unwrap();
    let plain = parse(br#"{"state": {}}"#);
    assert!(!plain.body.dry_run && !plain.body.replace && plain.metadata && !plain.body.bumps);
    let dry = parse(br#"{"state": {}, "dryRun": true, "metadata": false}"#);
    assert!(dry.body.dry_run && !dry.body.replace && !dry.metadata);
    let replace = parse(br#"{"state": {}, "replace": true, "metadata": true}"#);
    assert!(!replace.body.dry_run && replace.body.replace && replace.metadata);
    let aws = parse_update(br#"{"state": {}}"#, Dialect::Aws, &limits(8)).unwrap();
    assert!(aws.body.bumps, "every update takes a version");
    assert!(!parse_get(br#"{"metadata": false}"#, Dialect::Native).unwrap().metadata);
}

/// The levels of a payload above a section do not count.
#[test]
fn depth_is_limited_below_a_section() {
    let nested = |levels: usize| (0..levels).fold("1".to_owned(), |inner, _| format!("[{inner}]"));
    for depth in [0, 1, 3] {
        let limits = limits(depth);
        for (levels, expected) in [(depth, Ok(())), (depth + 1, Err(Rejection::TooDeep { max: depth }))] {
            let section = format!(r#"{{"desired": {{"a": {}}}}}"#, nested(levels));
            let update = format!(r#"{{"state": {section}}}"#);
            let parsed = parse_update(update.as_bytes(), Dialect::Native, &limits);
            assert_eq!(parsed.map(drop).map_err(|refused| refused.rejection), expected, "{update}");
            assert_eq!(parse_state(section.as_bytes(), &limits).map(drop), expected, "{section}");
            let rollout = format!(r#"{{"patch": {section}}}"#);
            assert_eq!(parse_rollout(rollout.as_bytes(), &limits).map(drop), expected, "{rollout}");
            let patch = format!(r#"[{{"op": "add", "path": "/desired", "value": {{"a": {}}}}}]"#, nested(levels));
            assert_eq!(parse_operations(patch.as_bytes(), &limits).map(drop), expected, "{patch}");
        }
    }
}

#[test]
fn an_unknown_field_suggests_a_near_one() {
    for (field, known, expected) in [
        ("vresion", &["state", "version"][..], "unknown; did you mean 'version'?"),
        ("VERSION", &["state", "version"], "unknown; did you mean 'version'?"),
        ("abcdefg", &["abcd"], "unknown; did you mean 'abcd'?"),
        ("abcdefgh", &["abcd"], "unknown; known are abcd"),
        ("ab", &["xy", "uvwxyz"], "unknown; known are xy, uvwxyz"),
        ("abc", &["ayz"], "unknown; did you mean 'ayz'?"),
        ("abc", &["xyz"], "unknown; known are xyz"),
    ] {
        assert_eq!(unknown(field, known), expected, "{field}");
    }
}

#[test]
fn a_request_has_at_most_64_expectations() {
    for (count, fits) in [(64, true), (65, false)] {
        let expect = vec![json!({"path": "/desired/a", "absent": true}); count];
        let payload = json!({"state": {}, "expect": expect}).to_string();
        let parsed = parse_update(payload.as_bytes(), Dialect::Native, &limits(8));
        assert_eq!(parsed.map(|parsed| parsed.body.preconditions.expect.len()).ok(), fits.then_some(count));
    }
}

#[test]
fn a_token_has_at_most_64_bytes() {
    for (length, fits) in [(0, true), (64, true), (65, false)] {
        let text = "t".repeat(length);
        assert_eq!(ClientToken::new(&text).map(|token| token.as_str().to_owned()), fits.then_some(text));
    }
}

#[test]
fn the_aws_dialect_reads_no_condition_of_a_deletion() {
    let payload = br#"{"version": 7, "clientToken": "t"}"#;
    assert_eq!(parse_delete(payload, Dialect::Aws).unwrap().body, Default::default());
    let native = parse_delete(br#"{"version": 7, "idempotencyKey": "k"}"#, Dialect::Native).unwrap().body;
    assert_eq!(native.preconditions.version.map(|version| version.0), Some(7));
    assert_eq!(native.keyed.map(|keyed| keyed.key.as_str().to_owned()).as_deref(), Some("k"));
}

#[test]
fn the_operations_of_a_patch_are_parsed() {
    let path = |text: &str| text.parse::<Pointer>().unwrap();
    let (a, b) = (|| path("/desired/a"), || path("/reported/b"));
    for (operation, expected) in [
        (json!({"op": "add", "path": "/desired/a", "value": [1]}), PatchOperation::Add(a(), json!([1]))),
        (
            json!({"op": "add", "path": "/tags", "value": {}}),
            PatchOperation::Add(Pointer::section(SectionName::Tags), json!({})),
        ),
        (json!({"op": "replace", "path": "/desired/a", "value": 1}), PatchOperation::Replace(a(), json!(1))),
        (json!({"op": "test", "path": "/desired/a", "value": null}), PatchOperation::Test(a(), Value::Null)),
        (json!({"op": "remove", "path": "/desired/a"}), PatchOperation::Remove(a())),
        (
            json!({"op": "move", "from": "/reported/b", "path": "/desired/a"}),
            PatchOperation::Move { from: b(), to: a() },
        ),
        (
            json!({"op": "move", "from": "/desired/a", "path": "/desired/a"}),
            PatchOperation::Move { from: a(), to: a() },
        ),
        (
            json!({"op": "copy", "from": "/reported/b", "path": "/desired/a"}),
            PatchOperation::Copy { from: b(), to: a() },
        ),
        (
            json!({"op": "copy", "from": "/desired/a", "path": "/desired/a/b"}),
            PatchOperation::Copy { from: a(), to: path("/desired/a/b") },
        ),
    ] {
        let expected = JsonPatch::new(vec![expected]).unwrap();
        let command = Command::Patch(Patch { operations: expected.clone(), ..Patch::default() });
        assert_eq!(json_patch(json!([operation])), Ok(expected), "{operation}");
        assert!(command.update().is_some_and(|update| !update.dry_run));
    }
}

#[test]
fn a_patch_at_fault_is_refused_with_the_reason() {
    let reason = |operation: Value| match json_patch(json!([operation])) {
        Err(Rejection::InvalidField { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    for (operation, expected) in [
        (json!(1), "must be an object"),
        (json!({"op": 1}), "'op' must be a string"),
        (json!({"op": "remove"}), "'path' must be a string"),
        (json!({"op": "add", "path": "/desired/a"}), "'add' needs a 'value'"),
        (json!({"op": "copy", "path": "/desired/a"}), "'from' must be a string"),
        (json!({"op": "move", "from": "/desired/a", "path": "/desired/a/b"}), "a value cannot be moved into itself"),
        (json!({"op": "swap", "path": "/desired/a"}), "'swap' is none of add, remove, replace, move, copy and test"),
        (
            json!({"op": "remove", "path": "a"}),
            "'path' is 'a', not a JSON Pointer that begins with /desired, /reported or /tags",
        ),
    ] {
        assert_eq!(reason(operation), expected);
    }
    let keys = |count: usize| json!({"op": "remove", "path": format!("/desired{}", "/k".repeat(count))});
    assert!(json_patch(json!([keys(LEVELS_MAX)])).is_ok());
    assert_eq!(reason(keys(LEVELS_MAX + 1)), "'path' has more than 72 keys");
    let many = |count: usize| json_patch(vec![keys(1); count].into());
    assert!(many(OPERATIONS_MAX).is_ok() && many(OPERATIONS_MAX + 1).is_err());
    assert!(
        JsonPatch::new(vec![PatchOperation::Remove(Pointer::section(SectionName::Tags)); OPERATIONS_MAX]).is_some()
    );
    assert!(
        JsonPatch::new(vec![PatchOperation::Remove(Pointer::section(SectionName::Tags)); OPERATIONS_MAX + 1]).is_none()
    );
    // No shadow holds a null, and a section is an object.
    for (path, value, key) in [
        ("/desired/a", json!(null), "a"),
        ("/desired/a", json!({"b": [1, null]}), "b"),
        ("/desired/a", json!([{"c": null}]), "c"),
        ("/desired", json!({"d": [[null]]}), "d"),
    ] {
        for op in ["add", "replace"] {
            let refused = json_patch(json!([{"op": op, "path": path, "value": value}]));
            assert_eq!(refused, Err(Rejection::InvalidNode { key: key.into() }), "{op} {value}");
        }
    }
    let refused = json_patch(json!([{"op": "add", "path": "/tags", "value": 1}]));
    assert_eq!(refused, Err(Rejection::InvalidSection(Some(SectionName::Tags))));
}

/// A fault that is found first is not forgotten because of a number that needs another look.
#[test]
fn a_large_number_hides_no_other_fault() {
    let detail = |refused: Option<Rejection>| refused.and_then(|rejection| rejection.detail()).unwrap_or_default();
    for number in ["1e30", "1"] {
        let section = format!(r#"{{"desired": {{"a": 1, "a": {number}}}}}"#);
        assert_eq!(detail(parse_state(section.as_bytes(), &limits(8)).err()), "duplicate key 'a'");
        let patch = format!(r#"[{{"op": "add", "path": "/desired/b", "value": {{"a": 1, "a": {number}}}}}]"#);
        assert_eq!(detail(parse_operations(patch.as_bytes(), &limits(8)).err()), "duplicate key 'a'");
        for payload in [format!(r#"{{"desired": {{"a": {number}}}"#), format!(r#"{{"desired": {{"a": {number}}}}} x"#)]
        {
            let refused = detail(parse_state(payload.as_bytes(), &limits(8)).err());
            assert!(refused.contains("at line 1"), "{refused}");
            let refused = detail(parse_operations(payload.as_bytes(), &limits(8)).err());
            assert!(refused.contains("at line 1"), "{refused}");
        }
    }
    assert!(detail(parse_state(b"[]", &limits(8)).err()).contains("expected an object"));
}
