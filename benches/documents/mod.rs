//! Documents and updates for the benchmarks.

use serde_json::{Value, json};
use umbrad::shadow::{
    Command, Decision, Document, DocumentLimits, Rejection, Scope, SectionPatch, Sender, SenderLogin, Timestamp,
    Update, decide,
};

/// Returns the state of a thermostat: about 600 bytes, 20 leaves.
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

/// Returns an update that merges the sections in `state`.
pub(crate) fn update(mut state: Value) -> Update {
    let mut patch = |section: &str| match state.get_mut(section).map(Value::take) {
        Some(Value::Object(members)) => SectionPatch::Merge(members),
        _ => SectionPatch::Keep,
    };
    Update { desired: patch("desired"), reported: patch("reported"), tags: patch("tags"), ..Update::default() }
}

/// Decides a command of a sender with all rights, one second after the previous change.
pub(crate) fn decided(document: &Document, command: &Command, limits: &DocumentLimits) -> Result<Decision, Rejection> {
    let sender = Sender { by: "tester".into(), scope: Scope::ALL, login: SenderLogin::default() };
    decide(document, command, &sender, Timestamp(document.version.0 + 1), limits)
}

/// Returns the document after `update`.
pub(crate) fn after(document: &Document, update: Update) -> Document {
    match decided(document, &Command::Update(update), &DocumentLimits::default()).expect("the update is accepted") {
        Decision::Changed { document, .. } => document,
        Decision::Unchanged => document.clone(),
    }
}

/// Returns a new document with `state`.
pub(crate) fn created(state: Value) -> Document {
    after(&Document::absent(), update(state))
}
