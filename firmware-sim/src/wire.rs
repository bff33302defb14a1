//! The messages of the shadow topics as a client reads them, and the names they are about.
//!
//! Unknown fields are ignored: a client must not break because the service learns to say more. Nothing here talks to
//! a socket; that is [`crate::shadow_client`].

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which device's shadow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceId(Arc<str>);

impl DeviceId {
    /// Takes `id` as it is; the service refuses what is not a device id.
    pub(crate) fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A shadow's version; 0 is "there is none yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Version(pub(crate) u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A request to change a shadow.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Update<'a> {
    /// The sections and what is to change in them.
    pub(crate) state: &'a Value,
    /// The version the shadow must have.
    pub(crate) version: Version,
    /// Finds the reply among those to everybody else.
    pub(crate) client_token: &'a str,
}

/// `update/accepted`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accepted {
    /// The version the shadow has since.
    pub(crate) version: Version,
    /// False for an update that changed no value.
    #[serde(default = "yes")]
    pub(crate) changed: bool,
    /// Echoed from the request.
    pub(crate) client_token: Option<String>,
}

fn yes() -> bool {
    true
}

/// `update/rejected` and `get/rejected`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rejected {
    /// As in HTTP: 409 is a conflict, 429 a quota.
    pub(crate) code: u16,
    /// For people.
    #[serde(default)]
    pub(crate) message: String,
    /// The current version, where the refusal is about versions.
    pub(crate) version: Option<Version>,
    /// How long to keep away.
    pub(crate) retry_after_ms: Option<u64>,
    /// Echoed from the request.
    pub(crate) client_token: Option<String>,
}

/// `update/delta`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Delta {
    /// What `desired` has and `reported` has not, or different.
    #[serde(default)]
    pub(crate) state: Map<String, Value>,
    /// The version it is the difference at.
    pub(crate) version: Version,
}

/// `get/accepted`: a shadow at one version.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    /// `desired`, `reported`, `tags` and the `delta` between the first two, each only where it is not empty.
    #[serde(default)]
    pub(crate) state: Value,
    /// Per leaf: the version it changed at, and who did.
    #[serde(default)]
    pub(crate) metadata: Value,
    /// The version of all of it.
    pub(crate) version: Version,
    /// Echoed from the request.
    pub(crate) client_token: Option<String>,
}

impl Snapshot {
    /// A section as an object, or `None` when it is absent.
    pub(crate) fn section(&self, name: &str) -> Option<&Map<String, Value>> {
        self.state.get(name)?.as_object()
    }
}

/// Whether two JSON values are the same to the service, for which numbers are equal by value (`1` and `1.0`).
pub(crate) fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l == r || l.as_f64() == r.as_f64(),
        (Value::Array(l), Value::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same_value(l, r)),
        (Value::Object(l), Value::Object(r)) => {
            l.len() == r.len() && l.iter().all(|(key, l)| r.get(key).is_some_and(|r| same_value(l, r)))
        }
        _ => left == right,
    }
}

/// What has to be sent in a merge patch so that `old` becomes to agree with `new` in every key that `new` has.
///
/// Keys only in `old` are left alone: they are another writer's.
pub(crate) fn difference(old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Map<String, Value> {
    let changed = |key: &String, value: &Value| -> Option<Value> {
        match (old.and_then(|old| old.get(key)), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = difference(Some(old), new);
                (!inner.is_empty()).then_some(Value::Object(inner))
            }
            (Some(old), new) if same_value(old, new) => None,
            _ => Some(value.clone()),
        }
    };
    new.iter().filter_map(|(key, value)| Some((key.clone(), changed(key, value)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn difference_names_only_what_changed() {
        let rows = [
            ("nothing known", json!({}), json!({"a": 1}), json!({"a": 1})),
            ("nothing changed", json!({"a": 1, "b": {"c": 2}}), json!({"a": 1.0, "b": {"c": 2}}), json!({})),
            (
                "inside an object",
                json!({"b": {"c": 2, "d": 3}}),
                json!({"b": {"c": 2, "d": 4}}),
                json!({"b": {"d": 4}}),
            ),
            ("arrays whole", json!({"a": [1, 2]}), json!({"a": [1, 3]}), json!({"a": [1, 3]})),
            ("another kind", json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            ("others' keys stay", json!({"a": 1, "z": 9}), json!({"a": 2}), json!({"a": 2})),
        ];
        for (label, old, new, expected) in rows {
            let patch = new.as_object().map(|new| difference(old.as_object(), new));
            assert_eq!(patch.map(Value::Object), Some(expected), "{label}");
        }
    }
}
