//! The answer of a query for one device.

use serde_json::Value;

use crate::{
    fleet::{
        device::{Device, Shadow},
        query::{
            Expression, Predicate, Query,
            field::{Field, ShadowField},
            value_test::ValueTest,
        },
    },
    shadow::{
        Timestamp,
        document::tree::{Members, Node},
    },
};

impl Query {
    /// Returns true if the query is true for `device` at `now`.
    #[must_use]
    pub fn matches(&self, device: &Device, now: Timestamp) -> bool {
        self.0.matches(device, now)
    }
}

impl Expression {
    fn matches(&self, device: &Device, now: Timestamp) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(device, now)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(device, now)),
            Self::Not(part) => !part.matches(device, now),
            Self::Is(predicate) => predicate.matches(device, now),
        }
    }
}

impl Predicate {
    fn matches(&self, device: &Device, now: Timestamp) -> bool {
        let Self { field, test } = self;
        let age = |then: Timestamp| test.passes_age(now.0.saturating_sub(then.0));
        match field {
            Field::Shadow(name, field) => {
                device.shadow(name.as_ref()).is_some_and(|shadow| shadow_matches(shadow, field, test, now))
            }
            Field::Updated => device.updated.is_some_and(age),
            Field::Seen => device.presence.is_some_and(|presence| match presence.connected {
                true => test.passes_age(0),
                false => presence.seen.is_some_and(age),
            }),
            Field::Device | Field::Connected | Field::ConnectivityTimestamp | Field::Drift => {
                field.value(device).is_some_and(|value| test.passes(&value))
            }
        }
    }
}

fn shadow_matches(shadow: &Shadow, field: &ShadowField, test: &ValueTest, now: Timestamp) -> bool {
    match field {
        ShadowField::Itself => *test == ValueTest::Exists,
        ShadowField::HasDelta => test.passes(&Value::Bool(!shadow.delta.is_empty())),
        ShadowField::Version => test.passes(&Value::from(shadow.document.version.0)),
        ShadowField::Updated => test.passes_age(now.0.saturating_sub(shadow.document.timestamp.0)),
        ShadowField::Value(part, keys) => {
            let members = part.members(shadow);
            !members.is_empty() && members_pass(members, keys, test)
        }
    }
}

/// Returns true if the value at `keys` below an object passes. An object itself only exists.
fn members_pass(members: &Members, keys: &[Box<str>], test: &ValueTest) -> bool {
    let [key, rest @ ..] = keys else { return *test == ValueTest::Exists };
    match members.get(key) {
        None => false,
        Some(Node::Object(members)) => members_pass(members, rest, test),
        Some(Node::Leaf(leaf)) => value_passes(&leaf.value, rest, test),
    }
}

/// Returns true if the value at `keys` below `value` passes. The path goes on in each element of an array.
fn value_passes(value: &Value, keys: &[Box<str>], test: &ValueTest) -> bool {
    let [key, rest @ ..] = keys else { return test.passes(value) };
    match value {
        Value::Object(members) => members.get(&**key).is_some_and(|value| value_passes(value, rest, test)),
        Value::Array(elements) => elements.iter().any(|element| value_passes(element, keys, test)),
        _ => false,
    }
}
