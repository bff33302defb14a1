//! Conditions, idempotency keys and dry runs in fields and in user properties.

use serde_json::{Value, json};

use crate::{
    shadow::{DocumentLimits, IdempotencyKey, Keyed, Rejection, Update},
    wire::{Dialect, Payload, parse_delete, parse_get, parse_update},
};

fn properties(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn update(fields: &Value, given: &[(&str, &str)], dialect: Dialect) -> Result<Update, Rejection> {
    let mut payload = json!({"state": {"desired": {"a": 1}}});
    payload.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let (bytes, user) = (payload.to_string(), properties(given));
    let payload = Payload { bytes: bytes.as_bytes(), user: &user };
    parse_update(payload, dialect, &DocumentLimits::default())
        .map(|parsed| parsed.body)
        .map_err(|refused| refused.rejection)
}

#[test]
fn a_user_property_means_its_field() {
    let etag = "\"7-0123456789abcdef0123456789abcdef\"";
    for (fields, given) in [
        (json!({"version": 7}), &[("if-version", "7")][..]),
        (json!({"version": 0}), &[("if-version", "0")]),
        (json!({"etag": etag}), &[("if-match", etag)]),
        (json!({"onConflict": "rebase", "version": 7}), &[("on-conflict", "rebase"), ("if-version", "7")]),
        (json!({"idempotencyKey": "k"}), &[("idempotency-key", "k")]),
        (json!({"idempotencyKey": "k", "version": 7}), &[("if-version", "7"), ("idempotency-key", "k")]),
        (json!({"version": 7}), &[("If-Version", "7"), ("IF_VERSION", "7"), ("if_version", "7")]),
        (json!({"etag": etag}), &[("If-Match", etag), ("if_match", etag)]),
        (json!({"onConflict": "rebase", "version": 7}), &[("ON-CONFLICT", "rebase"), ("if-Version", "7")]),
        (json!({"idempotencyKey": "k"}), &[("Idempotency_Key", "k")]),
        (json!({}), &[("version", "7"), ("other", "x"), ("if", "x"), ("iff-version", "7"), ("x-if-version", "7")]),
    ] {
        for dialect in [Dialect::Native, Dialect::Aws] {
            let beside = update(&json!({}), given, dialect);
            // The AWS dialect has no field `etag`, but reads the user property.
            if dialect == Dialect::Native || !fields.as_object().unwrap().contains_key("etag") {
                assert_eq!(beside, update(&fields, &[], dialect), "{given:?}");
            }
            assert_eq!(beside, update(&fields, given, dialect), "both: {given:?}");
        }
    }
    assert!(update(&json!({}), &[("if-match", etag)], Dialect::Aws).unwrap().preconditions.etag.is_some());
    assert!(update(&json!({"version": 7.0}), &[("if-version", "7"), ("if-version", "7")], Dialect::Native).is_ok());
}

#[test]
fn refuses_invalid_user_properties() {
    let native = |fields, given: &[(&str, &str)]| update(&fields, given, Dialect::Native).unwrap_err();
    let other = |property: &str, field: &str| (property.to_owned(), format!("says something else than '{field}'"));
    let unquoted = |field: &str| (field.to_owned(), "must be an etag with its own quotes, such as \"7-…\"".to_owned());
    for (fields, given, (field, reason)) in [
        (json!({"version": 7}), &[("if-version", "8")][..], other("if-version", "version")),
        (json!({}), &[("if-version", "7"), ("if-version", "8")], other("if-version", "version")),
        (json!({"version": "7"}), &[("if-version", "7")], other("if-version", "version")),
        (json!({"etag": "\"a\""}), &[("if-match", "\"b\"")], other("if-match", "etag")),
        // Such an etag would conflict forever.
        (json!({}), &[("if-match", "7-ab")], unquoted("if-match")),
        (json!({}), &[("if-match", "*")], unquoted("if-match")),
        (json!({"etag": "7-ab"}), &[], unquoted("etag")),
        (json!({"etag": "W/\"7-ab\""}), &[], unquoted("etag")),
        (json!({"etag": "\""}), &[], unquoted("etag")),
        (json!({"onConflict": "reject"}), &[("on-conflict", "rebase")], other("on-conflict", "onConflict")),
        (json!({"idempotencyKey": "a"}), &[("idempotency-key", "b")], other("idempotency-key", "idempotencyKey")),
        (json!({}), &[("if-version", "-1")], ("if-version".into(), "must be an integer from 0 on".into())),
        (json!({}), &[("if-version", "+1")], ("if-version".into(), "must be an integer from 0 on".into())),
        (json!({}), &[("if-version", "")], ("if-version".into(), "must be an integer from 0 on".into())),
        (
            json!({}),
            &[("if-version", "99999999999999999999")],
            ("if-version".into(), "must be an integer from 0 on".into()),
        ),
        (json!({}), &[("If-Versoin", "7")], ("If-Versoin".into(), "unknown; did you mean 'if-version'?".into())),
        (json!({}), &[("if_mtach", "x")], ("if_mtach".into(), "unknown; did you mean 'if-match'?".into())),
        (json!({}), &[("if-version ", "7")], ("if-version ".into(), "unknown; did you mean 'if-version'?".into())),
        (
            json!({}),
            &[("IF-unmodified-since", "x")],
            (
                "IF-unmodified-since".into(),
                "unknown; known are if-version, if-match, on-conflict, idempotency-key".into(),
            ),
        ),
        (json!({"version": 7}), &[("IF_Version", "8")], other("IF_Version", "version")),
        (json!({}), &[("on-conflict", "merge")], ("onConflict".into(), "must be 'reject' or 'rebase'".into())),
        (json!({}), &[("idempotency-key", "")], ("idempotencyKey".into(), "must be a string of 1 to 64 bytes".into())),
    ] {
        assert_eq!(native(fields, given), Rejection::InvalidField { field, reason }, "{given:?}");
    }
    let long = "k".repeat(65);
    for key in [json!(7), json!(null), json!(""), json!(long)] {
        assert_eq!(native(json!({"idempotencyKey": key}), &[]).error(), "invalid-field");
    }
    assert_eq!(native(json!({"dryRun": "yes"}), &[]).error(), "invalid-field");
    let many: Vec<_> = (0..65).map(|_| json!({"path": "/desired/a", "absent": true})).collect();
    assert_eq!(native(json!({"expect": many}), &[]).message_of("expect"), "more than 64 entries");
    for value in [json!(null), json!([1, null]), json!({"a": {"b": null}})] {
        let expect = json!({"expect": [{"path": "/desired/a", "value": value}]});
        let reason = native(expect, &[]).message_of("expect");
        assert!(reason.starts_with("entry 0: 'value' holds null") && reason.contains("'absent'"), "{reason}");
    }
    // A get has none of these fields, a deletion only some.
    let beside = |given: &[(&str, &str)]| properties(given);
    let user = beside(&[("if-version", "7")]);
    assert!(parse_get(Payload { bytes: b"", user: &user }, Dialect::Native).is_err());
    assert!(parse_get(Payload { bytes: b"", user: &user }, Dialect::Aws).is_ok());
    for dialect in [Dialect::Native, Dialect::Aws] {
        let user = beside(&[("If_Nothing", "7")]);
        let payload = |bytes| Payload { bytes, user: &user };
        parse_update(payload(br#"{"state":{}}"#), dialect, &DocumentLimits::default()).unwrap_err();
        parse_get(payload(b""), dialect).unwrap_err();
        parse_delete(payload(b""), dialect).unwrap_err();
    }
    let deletion = parse_delete(Payload { bytes: b"", user: &user }, Dialect::Native).unwrap();
    assert_eq!(deletion.body.preconditions.version.map(|version| version.0), Some(7));
    let user = beside(&[("on-conflict", "rebase")]);
    assert!(parse_delete(Payload { bytes: b"", user: &user }, Dialect::Native).is_err());
}

impl Rejection {
    fn message_of(&self, name: &str) -> String {
        match self {
            Self::InvalidField { field, reason } if field == name => reason.clone(),
            other => panic!("{other:?}"),
        }
    }
}

/// Two requests with one key have the same digest exactly if they have the same content.
#[test]
fn requests_with_other_content_have_another_digest() {
    let keyed = |fields: Value, given: &[(&str, &str)]| update(&fields, given, Dialect::Native).unwrap();
    let digest = |update: &Update| update.keyed.as_ref().unwrap().digest;
    let first =
        keyed(json!({"idempotencyKey": "k", "version": 7, "state": {"desired": {"a": 1, "b": {"c": [1]}}}}), &[]);
    for same in [
        json!({"version": 7.0, "state": {"desired": {"b": {"c": [1.0]}, "a": 1e0}}, "clientToken": "t"}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "dryRun": true, "version": 7, "onConflict": "reject"}),
    ] {
        assert_eq!(digest(&keyed(same.clone(), &[("idempotency-key", "k")])), digest(&first), "{same}");
    }
    let others = [
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 8}),
        json!({"state": {"reported": {"a": 1, "b": {"c": [1]}}}, "version": 7}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [2]}}}, "version": 7}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "onConflict": "rebase"}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "etag": "\"x\""}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "replace": true}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}, "tags": {}}, "version": 7}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "expect": [{"path": "/desired/a", "absent": true}]}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "expect": [{"path": "/desired/a", "version": 1}]}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "expect": [{"path": "/desired/a", "value": "1"}]}),
        json!({"state": {"desired": {"a": 1, "b": {"c": [1]}}}, "version": 7, "expect": [{"path": "/desired/a", "value": 1}]}),
        json!({"state": null}),
        json!({"state": {"desired": null, "reported": null, "tags": null}}),
    ];
    let mut digests = vec![digest(&first)];
    for other in others {
        let found = digest(&keyed(other.clone(), &[("idempotency-key", "k")]));
        assert!(!digests.contains(&found), "{other}");
        digests.push(found);
    }
    // Stores contain digests, so another algorithm would refuse the replay of stored requests.
    assert_eq!(u128::from_be_bytes(digest(&first)), 0x052c_c9f5_3929_1a8a_7d89_5ab7_c5f1_8720);
    let deletion = |payload: &[u8]| parse_delete(payload, Dialect::Native).unwrap().body.keyed.unwrap();
    let plain = deletion(br#"{"idempotencyKey":"k"}"#);
    assert_eq!(plain, Keyed { key: IdempotencyKey::new("k").unwrap(), digest: plain.digest });
    assert_ne!(plain.digest, deletion(br#"{"idempotencyKey":"k","version":7}"#).digest);
    assert!(!digests.contains(&plain.digest));
}
