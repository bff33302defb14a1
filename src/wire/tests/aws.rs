//! Messages in the dialect of AWS IoT Device Shadow.

use serde_json::{Value, json};

use super::{json_of, key};
use crate::{
    shadow::{
        ClientToken, Command, Decision, Document, DocumentLimits, PreviousVersion, Projection, Rejection, Timestamp,
        Update, Version,
        tests::{decided, update, written},
    },
    wire::aws,
};

fn shadow() -> Document {
    written(&[
        json!({"desired": {"mode": "eco", "fan": {"speed": 2}, "list": [1, {"a": [2]}]}, "reported": {"mode": "eco"}}),
        json!({"desired": {"fan": {"speed": 3}}, "tags": {"site": "a"}}),
    ])
}

fn token() -> ClientToken {
    ClientToken::new("t-1").unwrap()
}

fn at(time: u64) -> Value {
    json!({ "timestamp": time })
}

#[test]
fn metadata_mirrors_every_scalar() {
    let shown = json_of(&aws::get_accepted(&shadow(), &Projection::ALL.without_tags(), Timestamp(9), Some(&token())));
    assert_eq!(
        shown,
        json!({
            "state": {
                "desired": {"fan": {"speed": 3}, "list": [1, {"a": [2]}], "mode": "eco"}, "reported": {"mode": "eco"},
                "delta": {"fan": {"speed": 3}, "list": [1, {"a": [2]}]},
            },
            "metadata": {
                "desired": {"fan": {"speed": at(2)}, "list": [at(1), {"a": [at(1)]}], "mode": at(1)},
                "reported": {"mode": at(1)},
            },
            "version": 2, "timestamp": 9, "clientToken": "t-1",
        })
    );
}

#[test]
fn a_delta_has_the_metadata_of_its_values() {
    let shown = json_of(&aws::update_delta(&shadow(), &Projection::STATE, Some(&token())).unwrap());
    assert_eq!(
        shown,
        json!({
            "version": 2, "timestamp": 2, "state": {"fan": {"speed": 3}, "list": [1, {"a": [2]}]},
            "metadata": {"fan": {"speed": at(2)}, "list": [at(1), {"a": [at(1)]}]}, "clientToken": "t-1",
        })
    );
    let converged = written(&[json!({"desired": {"a": 1}, "reported": {"a": 1}})]);
    assert_eq!(aws::update_delta(&converged, &Projection::STATE, None), None);
}

#[test]
fn accepted_has_the_times_of_all_values_sent() {
    let after = written(&[
        json!({"desired": {"old": 1, "zone": {"t": 1}}, "reported": {"r": 1}}),
        json!({"desired": {"new": {"a": [1]}, "zone": {"u": 2}}}),
    ]);
    let sent = update(json!({
        "desired": {"old": 1, "new": {"a": [1]}, "zone": {"t": 1, "u": 2, "none": null}, "gone": null, "whole": {"x": 1}},
        "reported": null,
    }));
    let shown = json_of(&aws::update_accepted(&sent, &after, &Projection::STATE, Some(&token())));
    assert_eq!(
        shown,
        json!({
            "state": {
                "desired": {"old": 1, "new": {"a": [1]}, "zone": {"t": 1, "u": 2, "none": null}, "gone": null, "whole": {"x": 1}},
                "reported": null,
            },
            "metadata": {
                "desired": {
                    "old": at(1), "new": {"a": [at(2)]}, "zone": {"t": at(1), "u": at(2), "none": at(2)}, "gone": at(2),
                    "whole": {"x": at(2)},
                },
                "reported": at(2),
            },
            "version": 2, "timestamp": 2, "clientToken": "t-1",
        })
    );
    let cleared = Update { state_is_null: true, ..update(json!(null)) };
    let shown = json_of(&aws::update_accepted(&cleared, &after, &Projection::ALL, None));
    assert_eq!(shown, json!({"state": null, "metadata": at(2), "version": 2, "timestamp": 2}));
}

/// A document restored from the journal does not know the times of its leaves; they have that of the document.
#[test]
fn documents_have_both_sides() {
    let before = written(&[json!({"reported": {"a": 1, "d": 1}})]);
    let command = Command::Update(update(json!({"reported": {"a": 2}})));
    let decision = decided(&before, &command, &DocumentLimits::default()).unwrap();
    let Decision::Changed { document: after, changes } = decision else { panic!("no change") };
    let former = PreviousVersion { version: Version(1), timestamp: Timestamp(7), deleted: false };
    let shown =
        json_of(&aws::update_documents(&after.undo(&changes, former), &after, &Projection::STATE, Some(&token())));
    assert_eq!(
        shown,
        json!({
            "previous": {"state": {"reported": {"a": 1, "d": 1}}, "metadata": {"reported": {"a": at(7), "d": at(1)}}, "version": 1},
            "current": {"state": {"reported": {"a": 2, "d": 1}}, "metadata": {"reported": {"a": at(2), "d": at(1)}}, "version": 2},
            "timestamp": 2, "clientToken": "t-1",
        })
    );
    let first = json_of(&aws::update_documents(&Document::absent(), &before, &Projection::STATE, None));
    assert_eq!(first["previous"], Value::Null);
}

#[test]
fn a_refusal_has_a_code_and_a_message() {
    let key = key(None);
    let shown = json_of(&aws::rejected(&Rejection::NotFound, &key, Timestamp(9), Some(&token())));
    let message = "No shadow exists with name: 'dev-1'";
    assert_eq!(shown, json!({"code": 404, "message": message, "timestamp": 9, "clientToken": "t-1"}));
    // The path is not in AWS's message.
    let forbidden = Rejection::Forbidden { what: "/desired/secret".into() };
    let shown = json_of(&aws::rejected(&forbidden, &key, Timestamp(9), None));
    assert_eq!((&shown["code"], shown["message"].as_str().unwrap().contains("secret")), (&json!(403), false));
    assert_eq!(json_of(&aws::refused(404, "no", Timestamp(9))), json!({"code": 404, "message": "no", "timestamp": 9}));
}
