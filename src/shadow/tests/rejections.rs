//! The code, error, message and detail of every rejection.

use serde_json::json;

use super::written;
use crate::shadow::{
    DeviceId, Rejection, ShadowKey, ShadowName, SizeLimit, Version, command::rejection::FailedExpectation,
    pointer::SectionName,
};

fn key() -> ShadowKey {
    ShadowKey::named(DeviceId::new("dev-1").unwrap(), ShadowName::new("cfg").unwrap())
}

fn conflict() -> Rejection {
    let etag = Some(written(&[json!({})]).etag);
    Rejection::VersionConflict { expected: None, version: Version(2), etag, collisions: None }
}

fn failed() -> Rejection {
    let etag = Some(written(&[json!({})]).etag);
    Rejection::ExpectationFailed { version: Version(2), etag, failed: Vec::<FailedExpectation>::new() }
}

#[test]
fn every_rejection_has_a_code_an_error_and_a_message() {
    let json = || Rejection::InvalidJson { detail: "at line 1".into() };
    let section = Rejection::InvalidSection;
    let field = |field: &str| Rejection::InvalidField { field: field.into(), reason: "must be 1".into() };
    let node = |key: &str| Rejection::InvalidNode { key: key.into() };
    let forbidden = |what: &str| Rejection::Forbidden { what: what.into() };
    let large = |what| Rejection::TooLarge { what, size: 9, max: 8 };
    let quota = Rejection::TooManyRequests { quota: "5 a second".into(), retry_after_ms: None };
    let keys = "the keys of the state are desired, reported and tags, and no array holds null";
    let size = "Json document too large.  Size is 9, max allowed: 8";
    let state = "'desired' and 'reported' together, in bytes of canonical JSON";
    let record = "the change as a record of the cluster's log, in bytes; change less at once";
    let patch = "what the patch puts and moves up to operation 3, in bytes and eight for each value";
    let paths = "the paths of all changed values together, in bytes of their keys; change less at once";
    for (rejection, code, error, message, detail) in [
        (json(), 400, "invalid-json", "Invalid JSON", Some("at line 1")),
        (Rejection::InvalidJson { detail: String::new() }, 400, "invalid-json", "Invalid JSON", None),
        (Rejection::MissingState, 400, "missing-state", "Missing required node: state", None),
        (section(None), 400, "invalid-section", "State node must be an object", None),
        (section(Some(SectionName::Desired)), 400, "invalid-section", "Desired node must be an object", None),
        (section(Some(SectionName::Reported)), 400, "invalid-section", "Reported node must be an object", None),
        (section(Some(SectionName::Tags)), 400, "invalid-section", "Tags node must be an object", None),
        (node(""), 400, "invalid-node", "State contains an invalid node", Some(keys)),
        (node("x"), 400, "invalid-node", "State contains an invalid node: 'x'", Some(keys)),
        (
            node("delta"),
            400,
            "invalid-node",
            "State contains an invalid node: 'delta'",
            Some("'delta' is computed from desired and reported: leave it out of what is written"),
        ),
        (
            Rejection::InvalidVersion,
            400,
            "invalid-version",
            "Invalid version",
            Some("'version' must be an integer from 0 on"),
        ),
        (
            Rejection::InvalidClientToken,
            400,
            "invalid-client-token",
            "Invalid clientToken",
            Some("'clientToken' must be a string of at most 64 bytes"),
        ),
        (
            Rejection::TooDeep { max: 8 },
            400,
            "too-deep",
            "JSON contains too many levels of nesting; maximum is 8",
            None,
        ),
        (field(""), 400, "invalid-field", "Invalid field", None),
        (field("f"), 400, "invalid-field", "Invalid field 'f': must be 1", None),
        (Rejection::Unauthorized, 401, "unauthorized", "Unauthorized", None),
        (forbidden(""), 403, "forbidden", "Forbidden", None),
        (forbidden("/tags"), 403, "forbidden", "Forbidden: /tags", None),
        (Rejection::NotFound, 404, "not-found", "No shadow exists with name: 'dev-1~cfg'", None),
        (conflict(), 409, "version-conflict", "Version conflict", None),
        (failed(), 409, "expectation-failed", "Version conflict", Some("an expectation does not hold")),
        (large(SizeLimit::State), 413, "too-large", size, Some(state)),
        (large(SizeLimit::Tags), 413, "too-large", size, Some("'tags', in bytes of canonical JSON")),
        (large(SizeLimit::Body), 413, "too-large", size, Some("the body of the request, in bytes")),
        (large(SizeLimit::Record), 413, "too-large", size, Some(record)),
        (large(SizeLimit::Paths), 413, "too-large", size, Some(paths)),
        (large(SizeLimit::Patch { operation: 3 }), 413, "too-large", size, Some(patch)),
        (
            Rejection::TooManyLeaves { count: 9, max: 8 },
            413,
            "too-many-leaves",
            size,
            Some("counted in leaves, array elements included"),
        ),
        (
            Rejection::TooManyPaths { count: 9, max: 8 },
            413,
            "too-many-leaves",
            size,
            Some("counted in paths that the update names, removals included"),
        ),
        (Rejection::NotUtf8, 415, "not-utf8", "Unsupported documented encoding; supported encoding is UTF-8", None),
        (
            Rejection::IdempotencyKeyReused,
            422,
            "idempotency-key-reused",
            "Idempotency key was used with another request",
            None,
        ),
        (quota, 429, "too-many-requests", "Too many requests: 5 a second", None),
        (Rejection::Internal, 500, "internal", "Internal service failure", None),
        (Rejection::OutcomeUnknown, 500, "outcome-unknown", "The outcome is unknown: ask again later", None),
        (Rejection::Unavailable("the disk".into()), 503, "unavailable", "Unavailable: the disk", None),
    ] {
        let shown = (rejection.code(), rejection.error(), rejection.message(&key()), rejection.detail());
        assert_eq!(shown, (code, error, message.to_owned(), detail.map(str::to_owned)), "{rejection:?}");
    }
}

#[test]
fn names_of_the_payload_and_etags_are_withheld() {
    for (rejection, withheld) in [
        (Rejection::InvalidJson { detail: "x".into() }, Rejection::InvalidJson { detail: String::new() }),
        (Rejection::InvalidNode { key: "x".into() }, Rejection::InvalidNode { key: String::new() }),
        (
            Rejection::InvalidField { field: "x".into(), reason: "y".into() },
            Rejection::InvalidField { field: String::new(), reason: String::new() },
        ),
        (Rejection::NotFound, Rejection::NotFound),
    ] {
        assert_eq!(rejection.without_names(), withheld);
    }
    for rejection in [conflict(), failed()] {
        let (Rejection::VersionConflict { etag, .. } | Rejection::ExpectationFailed { etag, .. }) =
            rejection.without_etag()
        else {
            panic!("another rejection")
        };
        assert_eq!(etag, None);
    }
    assert_eq!(Rejection::NotFound.without_etag(), Rejection::NotFound);
}
