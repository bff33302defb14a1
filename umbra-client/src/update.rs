//! One update request.

use serde_json::{Map, Value, json};

use crate::version::Version;

/// One update request.
///
/// ```
/// use serde_json::json;
/// use umbra_client::{Update, Version};
///
/// let update = Update::new(json!({"desired": {"target": 21}}))
///     .version(Version(7))
///     .rebase()
///     .idempotency_key("set-point-42");
/// assert_eq!(update.version, Some(Version(7)));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Update {
    /// The sections and their changes, as a merge patch.
    pub state: Value,
    /// The required version; `None`: any, the last write wins.
    pub version: Option<Version>,
    /// The required etag.
    pub etag: Option<String>,
    /// True to accept a stale version as long as no path of the update changed since.
    pub rebase: bool,
    /// The idempotency key, at most 64 bytes: the same request with the same key is applied once.
    pub idempotency_key: Option<String>,
    /// True to replace each section in place of merging into it.
    pub replace: bool,
    /// True to leave metadata out of the replies.
    pub omit_metadata: bool,
}

impl Update {
    /// Returns an update that merges `state`, an object of sections such as `{"desired": {…}}`.
    #[must_use]
    pub fn new(state: Value) -> Self {
        Self { state, ..Self::default() }
    }

    /// Requires `version`; 0: the shadow must not exist.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// Requires `etag`, quotes included.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = Some(etag.to_owned());
        self
    }

    /// Has the service accept a stale version as long as no path of the update changed since.
    #[must_use]
    pub fn rebase(mut self) -> Self {
        self.rebase = true;
        self
    }

    /// Sets the idempotency key, at most 64 bytes.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency_key = Some(key.to_owned());
        self
    }

    /// Replaces each section in place of merging into it.
    #[must_use]
    pub fn replace(mut self) -> Self {
        self.replace = true;
        self
    }

    /// Leaves metadata out of the replies.
    #[must_use]
    pub fn without_metadata(mut self) -> Self {
        self.omit_metadata = true;
        self
    }

    /// Returns the payload, with only the fields that are set.
    pub(crate) fn body(&self) -> Value {
        let mut body = Map::from_iter([("state".to_owned(), self.state.clone())]);
        let fields = [
            ("version", self.version.map(|version| json!(version))),
            ("etag", self.etag.as_ref().map(|etag| json!(etag))),
            ("onConflict", self.rebase.then(|| json!("rebase"))),
            ("idempotencyKey", self.idempotency_key.as_ref().map(|key| json!(key))),
            ("replace", self.replace.then_some(json!(true))),
            ("metadata", self.omit_metadata.then_some(json!(false))),
        ];
        body.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Value::Object(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_holds_only_the_fields_that_are_set() {
        let plain = Update::new(json!({"desired": {"a": 1}}));
        assert_eq!(plain.body(), json!({"state": {"desired": {"a": 1}}}));
        let all = plain.version(Version(3)).etag("\"3-a\"").rebase().idempotency_key("k").replace().without_metadata();
        let expected = json!({"state": {"desired": {"a": 1}}, "version": 3, "etag": "\"3-a\"", "onConflict": "rebase",
            "idempotencyKey": "k", "replace": true, "metadata": false});
        assert_eq!(all.body(), expected);
    }
}
