//! Properties of arbitrary documents and updates, and tables that need several parts of the core.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod changed_after;
mod conflicts;
mod decisions;
mod expectations;
pub(crate) mod json_patch;
mod naive;
mod properties;
mod rejections;

use serde_json::{Map, Value, json};

use crate::shadow::{
    Command, Decision, Delete, Document, DocumentLimits, Pointer, Rejection, Scope, SectionPatch, Sender, SenderLogin,
    Timestamp, Update, Version, decide, pointer::SectionName,
};

/// Returns an update from the JSON of its `state`.
pub(crate) fn update(state: Value) -> Update {
    let Value::Object(mut state) = state else { return clear_all() };
    let mut patch = |key| match state.remove(key) {
        None => SectionPatch::Keep,
        Some(Value::Null) => SectionPatch::Clear,
        Some(Value::Object(members)) => SectionPatch::Merge(members),
        Some(other) => panic!("{key}: {other}"),
    };
    Update { desired: patch("desired"), reported: patch("reported"), tags: patch("tags"), ..Update::default() }
}

fn clear_all() -> Update {
    let (desired, reported, tags) = (SectionPatch::Clear, SectionPatch::Clear, SectionPatch::Clear);
    Update { desired, reported, tags, state_is_null: true, ..Update::default() }
}

/// Returns a sender with all rights.
pub(crate) fn sender(by: &str) -> Sender {
    Sender { by: by.into(), scope: Scope::ALL, login: SenderLogin::default() }
}

/// Decides at a time equal to the version.
pub(crate) fn decided(document: &Document, command: &Command, limits: &DocumentLimits) -> Result<Decision, Rejection> {
    decide(document, command, &sender("tester"), Timestamp(document.version.0 + 1), limits)
}

/// Returns the document after `command`, or an equal one if it changes nothing.
pub(crate) fn after(document: &Document, command: &Command) -> Document {
    match decided(document, command, &DocumentLimits::default()).unwrap() {
        Decision::Changed { document, .. } => document,
        Decision::Unchanged => document.clone(),
    }
}

/// Returns the document after sending each of these states in turn; the text "delete" deletes.
pub(crate) fn written(states: &[Value]) -> Document {
    states.iter().fold(Document::absent(), |document, state| match state {
        Value::String(_) => after(&document, &Command::Delete(Delete::default())),
        state => after(&document, &Command::Update(update(state.clone()))),
    })
}

/// Returns the state as a reader of everything sees it.
pub(crate) fn state(document: &Document) -> Value {
    let present = SectionName::ALL.into_iter().filter(|&name| !document.section(name).members.is_empty());
    Value::Object(present.map(|name| (name.as_str().into(), document.section(name).values().into())).collect())
}

/// Returns a pointer from a text without escapes.
pub(crate) fn pointer(text: &str) -> Pointer {
    let mut keys = text.split('/').skip(1);
    let section = keys.next().unwrap();
    let section = SectionName::ALL.into_iter().find(|name| name.as_str() == section).unwrap();
    Pointer { section, keys: keys.map(Into::into).collect() }
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(members) = value else { panic!("no object: {value}") };
    members
}

/// A state as large and mixed as that of a real device: about 600 bytes, 20 leaves.
pub(crate) fn thermostat() -> Value {
    json!({
        "desired": {
            "target": 21.5, "mode": "heat", "fan": "auto", "schedule": {"enabled": true, "from": "06:30", "to": "22:00"},
            "firmware": {"version": "2.14.0", "url": "https://updates.example.com/thermostat/2.14.0.bin"}, "interval": 60
        },
        "reported": {
            "target": 21.5, "temperature": 20.875, "humidity": 41, "mode": "heat", "fan": "auto", "battery": 87,
            "rssi": -61, "uptime": 864000, "firmware": {"version": "2.13.2", "slot": "a"},
            "schedule": {"enabled": true, "from": "06:30", "to": "22:00"},
            "network": {"ssid": "warehouse-east", "ip": "10.20.30.40", "mac": "aa:bb:cc:dd:ee:ff"}, "errors": []
        }
    })
}

fn is_version(document: &Document, version: u64) -> bool {
    document.version == Version(version)
}
