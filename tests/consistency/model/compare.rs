//! How what a server said is compared with what it should have said.

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

/// Whether `told` of a replay is metadata that was told first. What has changed since may be left out, and a time may
/// be that of a later heartbeat.
pub(crate) fn remembers(first: &Value, told: &Value) -> bool {
    match (first, told) {
        (Value::Object(first), Value::Object(told)) => told.iter().all(|(key, told)| {
            first.get(key).is_some_and(|first| (key == "timestamp" && told.is_u64()) || remembers(first, told))
        }),
        (Value::Array(first), Value::Array(told)) => {
            first.len() == told.len() && first.iter().zip(told).all(|(first, told)| remembers(first, told))
        }
        _ => first == told,
    }
}

/// The expectations that do not hold are told, in order, with what is there.
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
    let told = reply["failed"].as_array().unwrap_or_else(|| panic!("no `failed` in {reply}")).iter();
    let told: Vec<Value> = told
        .map(|failed| {
            let mut failed = plain(failed);
            failed
                .as_object_mut()
                .unwrap()
                .retain(|field, _| ["path", "expected", "current"].contains(&field.as_str()));
            failed
        })
        .collect();
    assert_eq!(expected, told, "what failed in {reply}");
}

/// Whether a time is about now.
pub(crate) fn is_now(timestamp: u64) -> bool {
    (seconds() - 2..=seconds() + 1).contains(&timestamp)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
