//! What the service says about shadows: documents, deltas, changes, and acceptances.
//!
//! Unknown fields are ignored: a client must not break because the service learns to say more. What it says about
//! refusals is in [`crate::rejection`].

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A shadow's version; 0 is "there is none yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shadow at one version. The default is a shadow that does not exist: empty, at version 0.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Document {
    /// `desired`, `reported`, `tags` and the `delta` between the first two, each only where it is not empty.
    #[serde(default)]
    pub state: Map<String, Value>,
    /// For each leaf of the state: when it last changed, at which version, and who did it.
    #[serde(default)]
    pub metadata: Value,
    /// The version of all of it.
    pub version: Version,
    /// Seconds since the epoch at which the service said this.
    #[serde(default)]
    pub timestamp: u64,
    /// The strong validator of `desired` and `reported` at this version, quotes included.
    pub etag: Option<String>,
}

impl Document {
    /// Whether there was a shadow.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.version > Version(0)
    }

    /// What the device should be.
    #[must_use]
    pub fn desired(&self) -> Option<&Map<String, Value>> {
        self.section("desired")
    }

    /// What the device is.
    #[must_use]
    pub fn reported(&self) -> Option<&Map<String, Value>> {
        self.section("reported")
    }

    /// What the back end notes about the device.
    #[must_use]
    pub fn tags(&self) -> Option<&Map<String, Value>> {
        self.section("tags")
    }

    /// What `desired` has and `reported` has not, or different.
    #[must_use]
    pub fn delta(&self) -> Option<&Map<String, Value>> {
        self.section("delta")
    }

    /// A section as an object, or `None` where it is absent.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Map<String, Value>> {
        self.state.get(name)?.as_object()
    }

    /// The value at a JSON Pointer into the state, such as `/desired/target`.
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let (section, rest) = pointer.strip_prefix('/')?.split_once('/').map_or_else(
            || (pointer.get(1..).unwrap_or_default(), String::new()),
            |(section, rest)| (section, format!("/{rest}")),
        );
        self.state.get(section)?.pointer(&rest)
    }
}

/// An update was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The version of the shadow since.
    pub version: Version,
    /// False for an update that changed no value, which leaves the version alone.
    #[serde(default = "yes")]
    pub changed: bool,
    /// The stale version it was made against, where the service carried it over later changes.
    pub rebased_from: Option<Version>,
    /// Whether this is the answer to an earlier try that got through after all.
    #[serde(default)]
    pub replayed: bool,
    /// The validator of the shadow since.
    pub etag: Option<String>,
}

fn yes() -> bool {
    true
}

/// What a device has to make up for at one version.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Delta {
    /// What `desired` has and `reported` has not, or different: all of it, not only what changed last.
    #[serde(default)]
    pub state: Map<String, Value>,
    /// The version it is the difference at.
    pub version: Version,
}

/// A shadow before and after a change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Change {
    /// Before; `None` if the change created the shadow.
    pub previous: Option<Document>,
    /// After.
    pub current: Document,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_reach_into_every_section() {
        let document: Document = serde_json::from_value(json!({
            "state": {"desired": {"a": {"b/c": 1}, "list": [5]}}, "version": 3, "news": "of a later protocol",
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
    fn an_acceptance_without_details_is_a_change() {
        let accepted: Accepted = serde_json::from_value(json!({"version": 4})).expect("an acceptance");
        assert_eq!(accepted, Accepted { version: Version(4), changed: true, ..Accepted::default() });
    }
}
