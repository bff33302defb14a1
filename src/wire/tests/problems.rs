//! Refusals over HTTP.

use serde_json::json;

use super::{json_of, key};
use crate::{
    shadow::{Projection, Rejection, Timestamp, Version},
    wire::{Problem, problem, rejection_problem},
};

#[test]
fn a_problem_has_a_type_and_a_title_in_words() {
    let mut refused = Problem { status: 429, error: "too-many-requests", message: "Wait", retry_after_ms: Some(40) };
    let mut shown = json!({
        "type": "urn:umbra:problem:too-many-requests", "title": "Too many requests", "status": 429, "code": 429,
        "error": "too-many-requests", "message": "Wait", "timestamp": 9, "retryAfterMs": 40,
    });
    assert_eq!(json_of(&problem(&refused, Timestamp(9))), shown);
    refused.retry_after_ms = None;
    shown.as_object_mut().unwrap().remove("retryAfterMs");
    assert_eq!(json_of(&problem(&refused, Timestamp(9))), shown);
}

#[test]
fn a_note_is_the_detail_of_a_rejection_without_one() {
    let key = key(None);
    let render = |rejection: &Rejection, note| {
        json_of(&rejection_problem(412, rejection, &key, Timestamp(9), &Projection::ALL, note))
    };
    let conflict =
        Rejection::VersionConflict { expected: Some(Version(1)), version: Version(2), etag: None, collisions: None };
    let shown = json!({
        "type": "urn:umbra:problem:version-conflict", "title": "Version conflict", "status": 412, "detail": "note",
        "code": 409, "error": "version-conflict", "message": "Version conflict", "timestamp": 9, "expected": 1, "version": 2,
    });
    assert_eq!(render(&conflict, Some("note")), shown);
    assert_eq!(render(&conflict, None).get("detail"), None);
    let own = Rejection::InvalidJson { detail: "own".into() };
    assert_eq!(render(&own, Some("note"))["detail"], "own");
}
