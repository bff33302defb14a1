//! The exact bytes of every reply and event.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{key, only};
use crate::{
    shadow::{
        ClientToken, Command, Decision, Delete, Document, DocumentLimits, PreviousVersion, Projection, Rejection,
        Timestamp, Version, decide,
        pointer::SectionName,
        tests::{sender, update, written},
    },
    wire::native,
};

/// Returns a shadow written by `tester` whose times equal its versions.
fn shadow() -> Document {
    written(&[
        json!({"desired": {"mode": "eco", "fan": {"speed": 2}, "list": [1, {"a": 2.50}]}, "reported": {"mode": "eco"}}),
        json!({"desired": {"fan": {"speed": 3}, "empty": {}}, "tags": {"site": "é\"/"}}),
    ])
}

fn token() -> ClientToken {
    ClientToken::new("t-1").unwrap()
}

fn check(bytes: &Bytes, expected: &str) {
    // The expected text is wrapped; the message is one line.
    let expected: String = expected.lines().map(str::trim_start).collect();
    let expected = expected.replace("ETAG2", &serde_json::to_string(&shadow().etag.to_string()).unwrap());
    assert_eq!(str::from_utf8(bytes).unwrap(), expected);
    serde_json::from_slice::<Value>(bytes).unwrap();
}

#[test]
fn get_accepted() {
    check(
        &native::get_accepted(&shadow(), &Projection::ALL, Some(&token())),
        r#"{"state":{"desired":{"empty":{},"fan":{"speed":3},"list":[1,{"a":2.5}],"mode":"eco"},"reported":{"mode":"eco"},
        "tags":{"site":"é\"/"},"delta":{"empty":{},"fan":{"speed":3},"list":[1,{"a":2.5}]}},
        "metadata":{"desired":{"empty":{"timestamp":2,"version":2,"by":"tester"},
        "fan":{"speed":{"timestamp":2,"version":2,"by":"tester"}},"list":{"timestamp":1,"version":1,"by":"tester"},
        "mode":{"timestamp":1,"version":1,"by":"tester"}},"reported":{"mode":{"timestamp":1,"version":1,"by":"tester"}},
        "tags":{"site":{"timestamp":2,"version":2,"by":"tester"}}},
        "version":2,"timestamp":2,"etag":ETAG2,"clientToken":"t-1"}"#,
    );
}

#[test]
fn update_accepted() {
    let sent = update(
        json!({"desired": {"fan": {"speed": 3, "gone": null}, "mode": null, "none": {"x": null}}, "tags": null}),
    );
    let after = written(&[json!({"desired": {"fan": {"speed": 3}, "none": {"y": 1}}})]);
    let etag = after.etag.to_string();
    let accepted = native::update_accepted(&sent, true, &after, &Projection::ALL, None);
    check(
        &accepted,
        &r#"{"state":{"desired":{"fan":{"gone":null,"speed":3},"mode":null,"none":{"x":null}},"tags":null},
        "metadata":{"desired":{"fan":{"speed":{"timestamp":1,"version":1,"by":"tester"}}}},
        "version":1,"timestamp":1,"etag":ETAG,"changed":true}"#
            .replace("ETAG", &serde_json::to_string(&etag).unwrap()),
    );
    check(
        &native::update_accepted(&update(json!(null)), false, &shadow(), &Projection::ALL, Some(&token())),
        r#"{"state":null,"metadata":{},"version":2,"timestamp":2,"etag":ETAG2,"changed":false,"clientToken":"t-1"}"#,
    );
}

#[test]
fn update_delta() {
    check(
        &native::update_delta(&shadow(), &Projection::STATE, Some(&token())).unwrap(),
        r#"{"state":{"empty":{},"fan":{"speed":3},"list":[1,{"a":2.5}]},
        "metadata":{"empty":{"timestamp":2,"version":2,"by":"tester"},"fan":{"speed":{"timestamp":2,"version":2,"by":"tester"}},
        "list":{"timestamp":1,"version":1,"by":"tester"}},"version":2,"timestamp":2,"clientToken":"t-1"}"#,
    );
    let converged = written(&[json!({"desired": {"a": 1}, "reported": {"a": 1.0, "b": 2}})]);
    assert_eq!(native::update_delta(&converged, &Projection::ALL, None), None);
}

/// Small devices get the version and the difference, and nothing at all once there is none.
#[test]
fn lean_delta() {
    let converged = written(&[json!({"desired": {"a": 1}, "reported": {"a": 1}})]);
    let differs = written(&[json!({"desired": {"a": 1}, "reported": {"a": 1}}), json!({"desired": {"a": 2, "b": {}}})]);
    let same = written(&[json!({"desired": {"a": 2, "b": {}}}), json!({"reported": {"c": 1}})]);
    let expected = r#"{"version":2,"state":{"a":2,"b":{}}}"#;
    check(&native::lean_delta(&differs, &Projection::STATE), expected);
    assert_eq!(native::lean_delta(&converged, &Projection::STATE), Bytes::new());
    assert_eq!(native::lean_delta(&differs, &only(SectionName::Desired)), Bytes::new());
    for (before, after, changed) in [
        (&converged, &differs, Some(expected)),
        (&differs, &converged, Some("")),
        (&differs, &same, None),
        (&Document::absent(), &converged, None),
    ] {
        let event = native::changed_lean_delta(before, after, &Projection::STATE);
        assert_eq!(event.as_deref().map(|bytes| str::from_utf8(bytes).unwrap()), changed);
    }
    let deleted = written(&[json!({"desired": {"a": 1}}), json!("delete")]);
    assert_eq!(native::lean_delta(&deleted, &Projection::STATE), Bytes::new());
}

#[test]
fn update_documents() {
    let first = written(&[json!({"reported": {"a": 1}})]);
    let second = written(&[json!({"reported": {"a": 1}}), json!({"desired": {"b": [true]}})]);
    check(
        &native::update_documents(&Document::absent(), &first, &Projection::ALL, None),
        r#"{"previous":null,"current":{"state":{"reported":{"a":1}},
        "metadata":{"reported":{"a":{"timestamp":1,"version":1,"by":"tester"}}},"version":1},"timestamp":1}"#,
    );
    check(
        &native::update_documents(&first, &second, &Projection::ALL, Some(&token())),
        r#"{"previous":{"state":{"reported":{"a":1}},
        "metadata":{"reported":{"a":{"timestamp":1,"version":1,"by":"tester"}}},"version":1},
        "current":{"state":{"desired":{"b":[true]},"reported":{"a":1}},
        "metadata":{"desired":{"b":{"timestamp":2,"version":2,"by":"tester"}},
        "reported":{"a":{"timestamp":1,"version":1,"by":"tester"}}},"version":2},"timestamp":2,"clientToken":"t-1"}"#,
    );
}

/// The journal has enough for `documents`. A leaf restored from it has only its version.
#[test]
fn update_documents_of_an_undone_change() {
    let command = Command::Update(update(json!({"reported": {"a": 2, "b": null}})));
    let before = written(&[json!({"reported": {"a": 1, "b": {"c": 1}, "d": 1}})]);
    let limits = DocumentLimits::default();
    let decision = decide(&before, &command, &sender("tester"), Timestamp(2), &limits).unwrap();
    let Decision::Changed { document, changes } = decision else { panic!("no change") };
    let former = PreviousVersion { version: Version(1), timestamp: Timestamp(1), deleted: false };
    check(
        &native::update_documents(&document.undo(&changes, former), &document, &Projection::ALL, None),
        r#"{"previous":{"state":{"reported":{"a":1,"b":{"c":1},"d":1}},
        "metadata":{"reported":{"a":{"version":1},"b":{"c":{"version":1}},"d":{"timestamp":1,"version":1,"by":"tester"}}},
        "version":1},"current":{"state":{"reported":{"a":2,"d":1}},
        "metadata":{"reported":{"a":{"timestamp":2,"version":2,"by":"tester"},"d":{"timestamp":1,"version":1,"by":"tester"}}},
        "version":2},"timestamp":2}"#,
    );
}

#[test]
fn delete_accepted() {
    let tombstone = written(&[json!({"desired": {"a": 1}}), json!("delete")]);
    check(&native::delete_accepted(&tombstone, Some(&token())), r#"{"version":2,"timestamp":2,"clientToken":"t-1"}"#);
}

#[test]
fn rejected() {
    let etag = Some(shadow().etag);
    let conflict = |expected: Option<u64>, etag| Rejection::VersionConflict {
        expected: expected.map(Version),
        version: Version(2),
        etag,
        collisions: None,
    };
    let render =
        |rejection: &Rejection, name| native::rejected(rejection, &key(name), Timestamp(9), &Projection::ALL, None);
    check(
        &native::rejected(&conflict(Some(1), etag), &key(None), Timestamp(9), &Projection::ALL, Some(&token())),
        r#"{"code":409,"error":"version-conflict","message":"Version conflict","timestamp":9,"clientToken":"t-1",
        "expected":1,"version":2,"etag":ETAG2}"#,
    );
    for (rejection, expected) in [
        (
            conflict(None, None),
            r#""code":409,"error":"version-conflict","message":"Version conflict","timestamp":9,"version":2"#,
        ),
        (
            Rejection::ExpectationFailed { version: Version(2), etag, failed: Vec::new() },
            r#""code":409,"error":"expectation-failed","message":"Version conflict","detail":"an expectation does not hold","timestamp":9,"version":2,"etag":ETAG2,"failed":[]"#,
        ),
        (
            Rejection::InvalidJson { detail: "x".into() },
            r#""code":400,"error":"invalid-json","message":"Invalid JSON","detail":"x","timestamp":9"#,
        ),
        (
            Rejection::NotFound,
            r#""code":404,"error":"not-found","message":"No shadow exists with name: 'dev-1'","timestamp":9"#,
        ),
        (
            Rejection::TooLarge { what: crate::shadow::SizeLimit::State, size: 9000, max: 8192 },
            r#""code":413,"error":"too-large","message":"Json document too large.  Size is 9000, max allowed: 8192","detail":"'desired' and 'reported' together, in bytes of canonical JSON","timestamp":9"#,
        ),
        (
            Rejection::TooManyRequests { quota: "20 updates a second".into(), retry_after_ms: Some(40) },
            r#""code":429,"error":"too-many-requests","message":"Too many requests: 20 updates a second","timestamp":9,"retryAfterMs":40"#,
        ),
        (Rejection::Unauthorized, r#""code":401,"error":"unauthorized","message":"Unauthorized","timestamp":9"#),
        (
            Rejection::Forbidden { what: "/tags".into() },
            r#""code":403,"error":"forbidden","message":"Forbidden: /tags","timestamp":9"#,
        ),
        (Rejection::Internal, r#""code":500,"error":"internal","message":"Internal service failure","timestamp":9"#),
    ] {
        check(&render(&rejection, None), &format!("{{{expected}}}"));
    }
    let named: Value = serde_json::from_slice(&render(&Rejection::NotFound, Some("cfg"))).unwrap();
    assert_eq!(named["message"], "No shadow exists with name: 'dev-1~cfg'");
}

/// Invisible values appear nowhere, and an invisible change still has its version.
#[test]
fn renders_only_the_visible_part() {
    let document = shadow();
    let sent = update(json!({"desired": {"mode": "eco"}, "tags": {"site": "secret"}}));
    let reported = &only(SectionName::Reported);
    for (projection, tags, desired) in
        [(&Projection::ALL, true, true), (&Projection::STATE, false, true), (reported, false, false)]
    {
        let messages = [
            native::get_accepted(&document, projection, None),
            native::update_documents(&document, &document, projection, None),
            native::update_accepted(&sent, true, &document, projection, None),
        ];
        for message in messages {
            let text = str::from_utf8(&message).unwrap();
            assert_eq!((text.contains("tags"), text.contains("site")), (tags, tags), "{text}");
            assert_eq!(text.contains("desired"), desired, "{text}");
        }
        assert_eq!(native::update_delta(&document, projection, None).is_some(), desired);
    }
    let get: Value = serde_json::from_slice(&native::get_accepted(&document, &Projection::NONE, None)).unwrap();
    assert_eq!((&get["state"], &get["metadata"], &get["version"]), (&json!({}), &json!({}), &json!(2)));
}

/// A tombstone before a change counts as no document.
#[test]
fn a_deleted_shadow_counts_as_absent_before() {
    let deleted = written(&[json!({"desired": {"a": 1}}), json!("delete")]);
    let command = Command::Delete(Delete::default());
    let refused = decide(&deleted, &command, &sender("x"), Timestamp(3), &DocumentLimits::default());
    assert_eq!(refused, Err(Rejection::NotFound));
    let again = written(&[json!({"desired": {"a": 1}}), json!("delete"), json!({"desired": {"a": 1}})]);
    let documents: Value =
        serde_json::from_slice(&native::update_documents(&deleted, &again, &Projection::ALL, None)).unwrap();
    assert_eq!((&documents["previous"], &documents["current"]["version"]), (&Value::Null, &json!(3)));
}
