//! Conditions on single paths.

use serde_json::json;

use super::{after, decided, is_version, pointer, update, written};
use crate::shadow::{
    Command, DocumentLimits, Preconditions, Rejection, Update, Version,
    command::{Expectation, Expected},
};

#[test]
fn expectations_are_checked_by_path() {
    let document = written(&[
        json!({"desired": {"mode": "heat", "o": {"x": 1}, "list": [{"a": 1}, 2]}}),
        json!({"desired": {"o": {"x": 2}}}),
        json!({"desired": {"gone": 1}}),
        json!({"desired": {"gone": null}}),
    ]);
    let value = Expected::Value;
    let version = |version| Expected::Version(Version(version));
    for (path, expected, holds) in [
        ("/desired/mode", version(1), true),
        ("/desired/mode", version(0), false),
        ("/desired/o/x", version(1), false),
        ("/desired/o/x", version(2), true),
        ("/desired/o", version(1), false),
        ("/desired", version(3), false),
        ("/desired", version(4), true),
        ("/desired/gone", version(3), false),
        ("/desired/never", version(0), true),
        ("/desired/list/0", version(1), true),
        ("/desired/mode", value(json!("heat")), true),
        ("/desired/mode", value(json!("eco")), false),
        ("/desired/o", value(json!({"x": 2.0})), true),
        ("/desired/o", value(json!({"x": 2, "y": 1})), false),
        ("/desired/list", value(json!([{"a": 1}, 2.0])), true),
        ("/desired/list/0/a", value(json!(1)), true),
        ("/desired/list/1", value(json!(2)), true),
        ("/desired/list/01", value(json!(2)), false),
        ("/desired/list/2", Expected::Absent, true),
        ("/desired/list/1", Expected::Absent, false),
        ("/desired/gone", Expected::Absent, true),
        ("/desired/gone/below", Expected::Absent, true),
        ("/desired/mode", Expected::Absent, false),
        ("/reported", Expected::Absent, true),
        ("/desired", Expected::Absent, false),
        ("/reported", value(json!({})), false),
    ] {
        let about = format!("{path} {expected:?}");
        let always = Expectation { path: pointer("/desired/mode"), holds: value(json!("heat")) };
        let expect = vec![always, Expectation { path: pointer(path), holds: expected }];
        let preconditions = Preconditions { expect, ..Preconditions::default() };
        let command = Command::Update(Update { preconditions, ..update(json!({"desired": {"w": 1}})) });
        match decided(&document, &command, &DocumentLimits::default()) {
            Ok(_) => assert!(holds, "{about}"),
            Err(Rejection::ExpectationFailed { version, failed, .. }) => {
                assert!(!holds, "{about}");
                assert_eq!(version, Version(4));
                assert_eq!(failed.iter().map(|failed| failed.path.to_string()).collect::<Vec<_>>(), [path], "{about}");
            }
            Err(other) => panic!("{about}: {other:?}"),
        }
    }
    assert!(is_version(&after(&document, &Command::Update(update(json!({"desired": {"w": 1}})))), 5));
}

/// All may name one large value, so only some are reported with it.
#[test]
fn eight_failed_expectations_have_the_current_value() {
    let document = written(&[json!({"desired": {"a": 1}})]);
    let expectation = Expectation { path: pointer("/desired/a"), holds: Expected::Absent };
    let preconditions = Preconditions { expect: vec![expectation; 10], ..Preconditions::default() };
    let command = Command::Update(Update { preconditions, ..Update::default() });
    let Err(Rejection::ExpectationFailed { failed, .. }) = decided(&document, &command, &DocumentLimits::default())
    else {
        panic!("accepted")
    };
    assert_eq!(failed.len(), 10);
    assert_eq!(failed.iter().filter(|failed| failed.current.is_some()).count(), 8);
    assert!(failed.iter().take(8).all(|failed| failed.current == Some(json!(1))));
}
