//! The messages of the service about shadows: documents, deltas, changes and accepted updates.
//!
//! Unknown fields are ignored, so that a later service may add some. Rejections are in [`crate::rejection`].

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{error::Error, version::Version};

/// A shadow at one version. The default is a shadow that does not exist: empty, at version 0.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Document {
    /// `desired`, `reported`, `tags` and the `delta` between the first two, each only if it is not empty.
    #[serde(default)]
    pub state: Map<String, Value>,
    /// For each leaf of the state: the time, version and principal of its last change.
    #[serde(default)]
    pub metadata: Value,
    /// The version of the shadow.
    pub version: Version,
    /// The time at which the service sent this, in seconds since the epoch.
    #[serde(default)]
    pub timestamp: u64,
    /// The strong validator of `desired` and `reported` at this version, quotes included.
    pub etag: Option<String>,
}

impl Document {
    /// Returns true if the shadow exists.
    ///
    /// ```
    /// assert!(!umbra_client::Document::default().exists());
    /// ```
    #[must_use]
    pub fn exists(&self) -> bool {
        self.version > Version(0)
    }

    /// Returns the state that the device should have.
    ///
    /// ```
    /// # let document: umbra_client::Document = serde_json::from_value(serde_json::json!({
    /// #     "version": 3, "state": {"desired": {"power": "on"}}})).unwrap();
    /// assert_eq!(document.desired().unwrap()["power"], "on");
    /// assert!(document.reported().is_none());
    /// ```
    #[must_use]
    pub fn desired(&self) -> Option<&Map<String, Value>> {
        self.section("desired")
    }

    /// Returns the state that the device has.
    #[must_use]
    pub fn reported(&self) -> Option<&Map<String, Value>> {
        self.section("reported")
    }

    /// Returns the back end's notes about the device.
    #[must_use]
    pub fn tags(&self) -> Option<&Map<String, Value>> {
        self.section("tags")
    }

    /// Returns the values of `desired` that `reported` lacks or has different.
    #[must_use]
    pub fn delta(&self) -> Option<&Map<String, Value>> {
        self.section("delta")
    }

    /// Returns the section `name` as an object; `None` if it is absent.
    ///
    /// ```
    /// # let document: umbra_client::Document = serde_json::from_value(serde_json::json!({
    /// #     "version": 3, "state": {"desired": {"power": "on"}}})).unwrap();
    /// assert_eq!(document.section("desired"), document.desired());
    /// ```
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Map<String, Value>> {
        self.state.get(name)?.as_object()
    }

    /// Returns the value at a JSON Pointer into the state.
    ///
    /// ```
    /// # let document: umbra_client::Document = serde_json::from_value(serde_json::json!({
    /// #     "version": 3, "state": {"desired": {"target": 21}}})).unwrap();
    /// assert_eq!(document.pointer("/desired/target").and_then(|value| value.as_u64()), Some(21));
    /// ```
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let (section, rest) = pointer.strip_prefix('/')?.split_once('/').map_or_else(
            || (pointer.get(1..).unwrap_or_default(), String::new()),
            |(section, rest)| (section, format!("/{rest}")),
        );
        self.state.get(section)?.pointer(&rest)
    }

    /// Returns the state as a `T`, which is read from an object with the sections.
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`]: the state does not have the shape of `T`.
    ///
    /// ```
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Lamp {
    ///     desired: LampState,
    /// }
    ///
    /// #[derive(Deserialize)]
    /// struct LampState {
    ///     power: String,
    /// }
    ///
    /// # let document: umbra_client::Document = serde_json::from_value(serde_json::json!({
    /// #     "version": 3, "state": {"desired": {"power": "on"}}})).unwrap();
    /// let lamp: Lamp = document.state_as()?;
    /// assert_eq!(lamp.desired.power, "on");
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    pub fn state_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(Value::Object(self.state.clone())).map_err(Error::unreadable)
    }
}

/// The reply to an accepted update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Accepted {
    /// The version of the shadow after the update.
    pub version: Version,
    /// False if the update changed no value, which leaves the version as it is.
    #[serde(default = "yes")]
    pub changed: bool,
    /// The stale version that the update was based on, if the service rebased it.
    pub rebased_from: Option<Version>,
    /// True if this is the reply to an earlier try with the same idempotency key.
    #[serde(default)]
    pub replayed: bool,
    /// The etag of the shadow after the update.
    pub etag: Option<String>,
}

fn yes() -> bool {
    true
}

/// The outcome that an update would have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct DryRun {
    /// The reply that the update would get.
    #[serde(flatten)]
    pub accepted: Accepted,
    /// The document that would result.
    pub document: Document,
}

/// The difference between the desired and the reported state at one version.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Delta {
    /// The values of `desired` that `reported` lacks or has different: all of them, not only the last change.
    #[serde(default)]
    pub state: Map<String, Value>,
    /// The version of the shadow.
    pub version: Version,
}

/// A shadow before and after a change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The document before; `None` if the change created the shadow.
    pub previous: Option<Document>,
    /// The document after.
    pub current: Document,
}

/// The presence of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Presence {
    /// True while the device is connected.
    pub connected: bool,
    /// The time of the connection while it lasts, else of the last packet, in seconds since the epoch.
    pub last_seen: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_resolve_in_every_section() {
        let document: Document = serde_json::from_value(json!({
            "state": {"desired": {"a": {"b/c": 1}, "list": [5]}}, "version": 3, "added": "by a later protocol",
        }))
        .expect("a document");
        for (pointer, expected) in [
            ("/desired/a/b~1c", Some(json!(1))),
            ("/desired/list/0", Some(json!(5))),
            ("/desired/a", Some(json!({"b/c": 1}))),
            ("/desired", Some(json!({"a": {"b/c": 1}, "list": [5]}))),
            ("/reported", None),
            ("/desired/x", None),
            ("", None),
            ("desired", None),
        ] {
            assert_eq!(document.pointer(pointer), expected.as_ref(), "{pointer}");
        }
    }

    #[test]
    fn an_accepted_update_without_details_changed_the_shadow() {
        let accepted: Accepted = serde_json::from_value(json!({"version": 4})).expect("an accepted update");
        assert_eq!(accepted, Accepted { version: Version(4), changed: true, ..Accepted::default() });
    }
}
