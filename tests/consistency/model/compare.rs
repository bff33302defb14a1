//! The comparison of the messages of the server with the expected ones.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::reference::{Request, Shadow, plain, pointer, to_pointer};

/// Compares a message, but for what is compared elsewhere or not defined.
pub(crate) fn compare(what: &str, expected: &Value, got: &Value) {
    let mut got = plain(got);
    for field in ["conflicts", "clean", "truncated", "failed", "detail"] {
        got.as_object_mut().unwrap().remove(field);
    }
    assert!(plain(expected) == got, "{what}\nexpected {expected}\n     got {got}");
}

/// Returns true if the metadata `reply` of a replay is that of the first reply. Later changes may be left out, and a time may
/// be that of a later heartbeat.
pub(crate) fn remembers(first: &Value, listed: &Value) -> bool {
    match (first, listed) {
        (Value::Object(first), Value::Object(listed)) => listed.iter().all(|(key, listed)| {
            first.get(key).is_some_and(|first| (key == "timestamp" && listed.is_u64()) || remembers(first, listed))
        }),
        (Value::Array(first), Value::Array(listed)) => {
            first.len() == listed.len() && first.iter().zip(listed).all(|(first, listed)| remembers(first, listed))
        }
        _ => first == listed,
    }
}

/// Checks that the failed expectations are listed in order, with the current values.
pub(crate) fn failed(shadow: &Shadow, request: &Request, reply: &Value) {
    let expectations = request.body["expect"].as_array().unwrap().iter();
    let expected: Vec<Value> = expectations
        .filter(|expectation| !shadow.holds(expectation))
        .map(|expectation| {
            let kind = ["version", "value", "absent"].into_iter().find(|kind| expectation.get(kind).is_some());
            let path = pointer(expectation["path"].as_str().unwrap());
            let mut failed = json!({"path": to_pointer(&path), "expected": kind});
            if let Some(there) = shadow.present(&path) {
                failed["current"] = there.clone();
            }
            failed
        })
        .collect();
    let listed = reply["failed"].as_array().unwrap_or_else(|| panic!("no `failed` in {reply}")).iter();
    let listed: Vec<Value> = listed
        .map(|failed| {
            let mut failed = plain(failed);
            failed
                .as_object_mut()
                .unwrap()
                .retain(|field, _| ["path", "expected", "current"].contains(&field.as_str()));
            failed
        })
        .collect();
    assert_eq!(expected, listed, "what failed in {reply}");
}

/// Returns true if `timestamp` is about now.
pub(crate) fn is_now(timestamp: u64) -> bool {
    (seconds() - 2..=seconds() + 1).contains(&timestamp)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
