//! Queries: any text is one or has an error at a column of it; the text of a query parses to the same query; and on some
//! devices, a query and its negation have opposite answers. The first line is the query, the second a list of fields.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use umbrad::{
    fleet::{Device, Field, Presence, Query, QueryError, Shadow},
    shadow::{
        Command, Decision, DeviceId, Document, DocumentLimits, Scope, SectionPatch, Sender, SenderLogin, ShadowName,
        Timestamp, Update, decide, document::delta,
    },
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (query, fields) = text.split_once('\n').unwrap_or((text, ""));
    match query.parse::<Query>() {
        Ok(parsed) => {
            let written = parsed.to_string();
            // The text has more parentheses and quotes than what was written, and may be beyond the limit.
            if written.len() <= query.len().max(LENGTH_SURE) {
                assert_eq!(written.parse::<Query>().as_ref(), Ok(&parsed), "{written}");
            }
            is_negated(query, &parsed);
        }
        Err(error) => is_inside(query, &error),
    }
    match Field::list(fields) {
        Ok(list) => DEVICES.iter().for_each(|device| list.iter().for_each(|(_, field)| _ = field.value(device))),
        Err(error) => is_inside(fields, &error),
    }
});

/// Bytes of a query whose text is within the limit.
const LENGTH_SURE: usize = 2048;

/// The time at which the queries ask.
const NOW: Timestamp = Timestamp(2_000_000_000);

fn is_negated(text: &str, query: &Query) {
    let Ok(negated) = format!("NOT ({text})").parse::<Query>() else { return };
    for device in DEVICES.iter() {
        assert_ne!(query.matches(device, NOW), negated.matches(device, NOW), "{text} on {}", device.id.as_str());
    }
}

fn is_inside(text: &str, error: &QueryError) {
    assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}");
    assert!(!error.reason.is_empty() && error.reason.len() < 1024, "{error}");
}

/// A device with many kinds of values, one with a named shadow, and one with none.
static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
    let id = |text| DeviceId::new(text).expect("a device id");
    let presence = Some(Presence { connected: false, seen: Some(Timestamp(1_999_999_000)) });
    let classic = shadow(
        None,
        json!({
            "a": [1, "B", {"a": "x"}, [], [true]], "b": {"a": 1.5, "b": {}}, "c": "1.10.2", "d": true, "e": -7,
        }),
    );
    let named = shadow(Some(ShadowName::new("n").expect("a name")), json!({"a": "Text \u{130} \u{3a3}", "b": ""}));
    let with = |text, shadows: Vec<Shadow>| {
        let updated = shadows.first().map(|_| Timestamp(1_999_990_000));
        Device { presence, shadow_count: shadows.len(), drift: true, updated, shadows, ..Device::new(id(text)) }
    };
    vec![with("a", vec![classic]), with("B:1", vec![named]), Device::new(id("c"))]
});

fn shadow(name: Option<ShadowName>, state: serde_json::Value) -> Shadow {
    let members = state.as_object().cloned().expect("an object");
    let update = Update {
        reported: SectionPatch::Merge(members.clone()),
        desired: SectionPatch::Merge(members),
        ..Update::default()
    };
    let sender = Sender { by: "fuzz".into(), scope: Scope::ALL, login: SenderLogin::default() };
    let command = Command::Update(update);
    match decide(&Document::absent(), &command, &sender, Timestamp(1_999_990_000), &DocumentLimits::default()) {
        Ok(Decision::Changed { document, .. }) => {
            let delta = delta::delta(&document).unwrap_or_default();
            Shadow { name, document: Arc::new(document), delta }
        }
        other => panic!("not written: {other:?}"),
    }
}
