//! Tests of parsed payloads and of refusals.

use proptest::prelude::*;
use serde_json::json;

use crate::{
    shadow::{
        ClientToken, DeviceId, DocumentLimits, Etag, OnConflict, Preconditions, Rejection, SectionPatch, ShadowKey,
        Update, Version, command::EtagCondition, tests::update,
    },
    wire::{Dialect, Refused, parse_delete, parse_get, parse_rollout, parse_update},
};

fn native(payload: &[u8]) -> Result<Update, Refused> {
    parse_update(payload, Dialect::Native, &DocumentLimits::default()).map(|parsed| parsed.body)
}

fn message(rejection: &Rejection) -> String {
    rejection.message(&ShadowKey::classic(DeviceId::new("dev").unwrap()))
}

/// Checks that the native dialect refuses `payload` with this code, error and message, and a detail with `detail`.
fn refused(payload: &[u8], code: u16, error: &str, text: &str, detail: &str) {
    let shown = String::from_utf8_lossy(&payload[..payload.len().min(80)]).into_owned();
    let rejection = native(payload).expect_err(&shown).rejection;
    assert_eq!((rejection.code(), rejection.error(), message(&rejection).as_str()), (code, error, text), "{shown}");
    assert!(rejection.detail().unwrap_or_default().contains(detail), "{shown}: {:?}", rejection.detail());
}

#[test]
fn refuses_invalid_json() {
    for (payload, detail) in [
        (&b""[..], "line 1"),
        (b"   ", "line 1"),
        (b"nonsense", "line 1 column"),
        (b"[]", "expected an object"),
        (b"\"state\"", "expected an object"),
        (b"{\"state\":{}", "line 1 column 11"),
        (b"{\"state\":{}} x", "trailing characters at line 1 column 14"),
        (b"{\"state\":{}}{}", "trailing characters"),
        (b"{\"state\":{},}", "line 1"),
        (b"{\"state\":{\"desired\":{\"a\":01}}}", "invalid number"),
        (b"{\"state\":{\"desired\":{\"a\":NaN}}}", "line 1"),
        (b"{\"state\":{\"desired\":{\"a\":1e999}}}", "number out of range"),
        (b"{\"state\":{\"desired\":{\"a\":-1e999}}}", "number out of range"),
        (b"{\"state\":{},\"state\":{}}", "duplicate key 'state'"),
        (b"{\"state\":{\"desired\":{},\"desired\":{}}}", "duplicate key 'desired'"),
        (b"{\"state\":{\"desired\":{\"a\":{\"k\":1,\"\\u006b\":2}}}}", "duplicate key 'k'"),
        (b"{\"state\":{\"desired\":{\"a\":[{\"k\":1,\"k\":1}]}}}", "duplicate key 'k'"),
        (b"{\"state\":{\"desired\":{\"a\":\"\\ud800\"}}}", "line 1"),
        (b"{\"state\":{\"desired\":{\"a\":\"\\ud800\\u0041\"}}}", "line 1"),
        (b"{\"state\":{\"desired\":{\"a\":\"\n\"}}}", "control character"),
        (b"\xef\xbb\xbf{\"state\":{}}", "line 1"),
    ] {
        refused(payload, 400, "invalid-json", "Invalid JSON", detail);
    }
    let text = "Unsupported documented encoding; supported encoding is UTF-8";
    for payload in [&b"{\"state\":{\"desired\":{\"a\":\"\xff\"}}}"[..], b"\xc3\x28", b"\xed\xa0\x80"] {
        refused(payload, 415, "not-utf8", text, "");
    }
}

#[test]
fn refuses_deep_nesting_without_recursion() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!(
            r#"{{"state":{{"desired":{{"a":{}{}}}}},"clientToken":"t"}}"#,
            open.repeat(levels),
            close.repeat(levels)
        )
    };
    let objects = |levels: usize| nested(r#"{"k":"#, "}", levels).replace(":}", ":1}");
    native(nested("[", "]", 8).as_bytes()).unwrap();
    native(objects(8).as_bytes()).unwrap();
    for payload in [nested("[", "]", 9), objects(9), nested("[", "]", 50_000), objects(20_000)] {
        let refused = native(payload.as_bytes()).unwrap_err();
        assert_eq!(refused.rejection, Rejection::TooDeep { max: 8 });
        assert_eq!(refused.client_token, ClientToken::new("t"), "what follows is still read");
    }
    for open in ["[", r#"{"state":"#, r#"{"state":["#, r#"{"state":{"desired":{"a":["#, r#"{"x":["#] {
        native(open.repeat(20_000).as_bytes()).unwrap_err();
    }
}

#[test]
fn checks_each_node_of_state() {
    let long = format!(r#"{{"state":{{"{}":{{}}}}}}"#, "x".repeat(70_000));
    let cut = format!("State contains an invalid node: '{}'", "x".repeat(64));
    for (payload, error, text) in [
        ("{}", "missing-state", "Missing required node: state"),
        (r#"{"version":1}"#, "missing-state", "Missing required node: state"),
        (r#"{"state":5}"#, "invalid-section", "State node must be an object"),
        (r#"{"state":[null]}"#, "invalid-section", "State node must be an object"),
        (r#"{"state":{"desired":[null]}}"#, "invalid-section", "Desired node must be an object"),
        (r#"{"state":{"reported":"x"}}"#, "invalid-section", "Reported node must be an object"),
        (r#"{"state":{"tags":false}}"#, "invalid-section", "Tags node must be an object"),
        (r#"{"state":{"delta":{}}}"#, "invalid-node", "State contains an invalid node: 'delta'"),
        (r#"{"state":{"desired":{"a":[1,null]}}}"#, "invalid-node", "State contains an invalid node: 'a'"),
        (r#"{"state":{"desired":{"a":[[null]]}}}"#, "invalid-node", "State contains an invalid node: 'a'"),
        (r#"{"state":{"desired":{"a":[{"b":null}]}}}"#, "invalid-node", "State contains an invalid node: 'b'"),
        (&long, "invalid-node", &cut),
    ] {
        let detail = match error {
            "invalid-node" if payload.contains("delta") => "leave it out",
            "invalid-node" => "no array holds null",
            _ => "",
        };
        refused(payload.as_bytes(), 400, error, text, detail);
    }
}

#[test]
fn checks_the_fields_of_the_native_dialect() {
    let token = format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "x".repeat(65));
    for (payload, error, text) in [
        (r#"{"state":{},"version":-1}"#, "invalid-version", "Invalid version"),
        (r#"{"state":{},"version":1.5}"#, "invalid-version", "Invalid version"),
        (r#"{"state":{},"version":"1"}"#, "invalid-version", "Invalid version"),
        (r#"{"state":{},"version":null}"#, "invalid-version", "Invalid version"),
        (r#"{"state":{},"version":1e300}"#, "invalid-version", "Invalid version"),
        (r#"{"state":{},"clientToken":7}"#, "invalid-client-token", "Invalid clientToken"),
        (&token, "invalid-client-token", "Invalid clientToken"),
        (r#"{"state":{},"etag":7}"#, "invalid-field", "Invalid field 'etag': must be a string"),
        (
            r#"{"state":{},"onConflict":"merge"}"#,
            "invalid-field",
            "Invalid field 'onConflict': must be 'reject' or 'rebase'",
        ),
        (
            r#"{"state":{},"onConflict":null}"#,
            "invalid-field",
            "Invalid field 'onConflict': must be 'reject' or 'rebase'",
        ),
        (r#"{"state":{},"expect":{}}"#, "invalid-field", "Invalid field 'expect': must be an array"),
        (r#"{"state":{},"expect":[5]}"#, "invalid-field", "Invalid field 'expect': entry 0: must be an object"),
        (
            r#"{"state":{},"expect":[{"path":"/desired","absent":true},{"absent":true}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 1: 'path' must be a string",
        ),
        (
            r#"{"state":{},"expect":[{"path":"/desired/~2","absent":true}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 0: '/desired/~2' is not a JSON Pointer that begins with /desired, /reported or /tags",
        ),
        (
            r#"{"state":{},"expect":[{"path":"/desired"}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 0: must have one of 'version', 'value' and 'absent'",
        ),
        (
            r#"{"state":{},"expect":[{"path":"/desired","version":1,"value":2}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 0: must have one of 'version', 'value' and 'absent'",
        ),
        (
            r#"{"state":{},"expect":[{"path":"/desired","version":-1}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 0: 'version' must be an integer from 0 on",
        ),
        (
            r#"{"state":{},"expect":[{"path":"/desired","absent":false}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 0: 'absent' must be true",
        ),
        (
            r#"{"state":{},"expect":[{"path":"/desired","verion":1}]}"#,
            "invalid-field",
            "Invalid field 'expect': entry 0: 'verion' is none of 'version', 'value' and 'absent'",
        ),
        (r#"{"state":{},"replace":1}"#, "invalid-field", "Invalid field 'replace': must be true or false"),
        (r#"{"state":{},"Version":1}"#, "invalid-field", "Invalid field 'Version': unknown; did you mean 'version'?"),
        (r#"{"state":{},"vresion":1}"#, "invalid-field", "Invalid field 'vresion': unknown; did you mean 'version'?"),
        (
            r#"{"state":{},"ifVersionIs":1}"#,
            "invalid-field",
            "Invalid field 'ifVersionIs': unknown; known are state, version, etag, onConflict, expect, replace, dryRun, idempotencyKey, clientToken, metadata",
        ),
    ] {
        let detail = match error {
            "invalid-version" => "'version' must be an integer from 0 on",
            "invalid-client-token" => "'clientToken' must be a string of at most 64 bytes",
            _ => "",
        };
        refused(payload.as_bytes(), 400, error, text, detail);
    }
}

#[test]
fn parses_updates() {
    let etag = "\"7-0123456789abcdef0123456789abcdef\"";
    let digest = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes();
    let tag = Etag { version: Version(7), digest };
    let with = |preconditions| Update { preconditions, ..update(json!({"desired": {"a": 1}})) };
    for (fields, expected) in [
        (json!({}), with(Preconditions::default())),
        (json!({"version": 0}), with(Preconditions { version: Some(Version(0)), ..Preconditions::default() })),
        (json!({"version": 7.0}), with(Preconditions { version: Some(Version(7)), ..Preconditions::default() })),
        (
            json!({"etag": etag}),
            with(Preconditions { etag: Some(EtagCondition::Tag(tag)), ..Preconditions::default() }),
        ),
        (
            json!({"etag": "\"7\""}),
            with(Preconditions { etag: Some(EtagCondition::Other("\"7\"".into())), ..Preconditions::default() }),
        ),
        (json!({"replace": true}), Update { replace: true, ..with(Preconditions::default()) }),
        (json!({"replace": false, "clientToken": "t"}), with(Preconditions::default())),
    ] {
        let mut payload = json!({"state": {"desired": {"a": 1}}});
        payload.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        assert_eq!(native(payload.to_string().as_bytes()).unwrap(), expected, "{payload}");
    }
    assert_eq!(native(br#"{"state":null}"#).unwrap(), update(json!(null)));
    assert_eq!(native(br#"{"state":{}}"#).unwrap(), Update::default());
    let cleared = native(br#"{"state":{"tags":null,"reported":{"a":null}}}"#).unwrap();
    assert_eq!(cleared, update(json!({"tags": null, "reported": {"a": null}})));
}

#[test]
fn parses_rollouts() {
    let limits = DocumentLimits { depth_max: 2, ..DocumentLimits::default() };
    let parse = |payload: &str| parse_rollout(payload.as_bytes(), &limits);
    let (members, parsed) = parse(
        r#"{"patch": {"desired": {"a": {"b": 1}}, "tags": {"t": null}}, "expect": [{"path": "/desired/a", "absent": true}], "waves": [1]}"#,
    )
    .unwrap();
    assert_eq!(members["waves"], json!([1]));
    assert_eq!(parsed.preconditions.expect.len(), 1);
    assert_eq!(
        Update { preconditions: Default::default(), ..parsed },
        update(json!({"desired": {"a": {"b": 1}}, "tags": {"t": null}}))
    );
    for (payload, error) in [
        ("{", "invalid-json"),
        ("{}", "invalid-field"),
        (r#"{"patch": null}"#, "invalid-field"),
        (r#"{"patch": {"delta": {}}}"#, "invalid-node"),
        (r#"{"patch": {"desired": 1}}"#, "invalid-section"),
        (r#"{"patch": {"desired": {"a": [null]}}}"#, "invalid-node"),
        (r#"{"patch": {}, "expect": 1}"#, "invalid-field"),
    ] {
        assert_eq!(parse(payload).unwrap_err().error(), error, "{payload}");
    }
    let deep = r#"{"patch": {"desired": {"a": {"b": {"c": {}}}}}}"#;
    assert_eq!(parse(deep).unwrap_err(), Rejection::TooDeep { max: 2 });
}

#[test]
fn a_refusal_carries_the_client_token_if_readable() {
    for (payload, token) in [
        (r#"{"clientToken":"t","state":5}"#, Some("t")),
        (r#"{"state":5,"clientToken":"t"}"#, Some("t")),
        (r#"{"state":{"desired":{"a":1,"a":2}},"clientToken":"t"}"#, Some("t")),
        (r#"{"clientToken":"t","state":{"#, Some("t")),
        (r#"{"clientToken":"t","state":{}} x"#, Some("t")),
        (r#"{"state":{,"clientToken":"t"}"#, None),
        (r#"{"state":5,"clientToken":5}"#, None),
    ] {
        let refused = native(payload.as_bytes()).unwrap_err();
        assert_eq!(refused.client_token.as_ref().map(ClientToken::as_str), token, "{payload}");
    }
}

#[test]
fn the_aws_dialect_ignores_unknown_fields() {
    let aws = |payload: &str| parse_update(payload.as_bytes(), Dialect::Aws, &DocumentLimits::default());
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let payload =
        format!(r#"{{"state":{{"desired":{{"a":1}}}},"etag":5,"replace":"x","enableVersioning":{deep},"x":1,"x":2}}"#);
    assert_eq!(aws(&payload).unwrap().body, Update { bumps: true, ..update(json!({"desired": {"a": 1}})) });
    assert_eq!(aws(r#"{"state":{"tags":{}}}"#).unwrap_err().rejection, Rejection::InvalidNode { key: "tags".into() });
    assert_eq!(aws(r#"{"state":null}"#).unwrap().body.tags, SectionPatch::Keep);
    assert_eq!(
        aws(r#"{"state":{},"onConflict":"rebase"}"#).unwrap().body.preconditions.on_conflict,
        OnConflict::Rebase
    );
}

#[test]
fn gets_and_deletes_may_be_empty() {
    for payload in ["", "\n", "{}", r#"{"clientToken":"t"}"#] {
        let token = payload.contains('t').then(|| ClientToken::new("t").unwrap());
        for dialect in [Dialect::Native, Dialect::Aws] {
            assert_eq!(parse_get(payload.as_bytes(), dialect).unwrap().client_token, token);
            assert_eq!(parse_delete(payload.as_bytes(), dialect).unwrap().client_token, token);
        }
    }
    let payload = br#"{"version":7,"clientToken":"t"}"#;
    assert_eq!(parse_delete(payload, Dialect::Native).unwrap().body.preconditions.version, Some(Version(7)));
    assert_eq!(parse_delete(payload, Dialect::Aws).unwrap().body.preconditions, Preconditions::default());
    assert_eq!(parse_get(payload, Dialect::Native).unwrap_err().rejection.error(), "invalid-field");
    parse_get(payload, Dialect::Aws).unwrap();
    assert_eq!(parse_delete(b"{\"ver\":1}", Dialect::Native).unwrap_err().rejection.error(), "invalid-field");
    assert_eq!(parse_get(b"x", Dialect::Aws).unwrap_err().rejection.error(), "invalid-json");
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = native(&payload);
        let _ = parse_get(payload.as_slice(), Dialect::Aws);
    }

    #[test]
    fn anything_like_an_update_is_parsed_or_refused(payload in r#"(\{|\}|\[|\]|,|:|"state"|"desired"|"a"|null|1e9|-7|"\\u00e9"|[0-9]{25}| ){0,24}"#) {
        let (strict, lenient) = (native(payload.as_bytes()), serde_json::from_str::<serde_json::Value>(&payload));
        prop_assert!(strict.is_err() || lenient.is_ok());
    }
}
