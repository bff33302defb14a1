//! Rejections: the service's answer to a request that it did not carry out.

use std::{fmt, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::version::Version;

/// A rejected request: nothing was changed (but see [`Reason::OutcomeUnknown`]).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rejection {
    /// The status code, as in HTTP.
    pub code: u16,
    /// The reason, for programs.
    #[serde(rename = "error", default)]
    pub reason: Reason,
    /// The reason, for people.
    #[serde(default)]
    pub message: String,
    /// The part of the request that is wrong, where the message alone does not say.
    pub detail: Option<String>,
    /// The version that the update required.
    pub expected: Option<Version>,
    /// The current version of the shadow.
    pub version: Option<Version>,
    /// The current etag of the shadow.
    pub etag: Option<String>,
    /// Paths of the update that another client changed since `expected`.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// Expectations of the update that do not hold.
    #[serde(default)]
    pub failed: Vec<Conflict>,
    /// Paths of the update that no other client changed.
    #[serde(default)]
    pub clean: Vec<String>,
    /// True if `conflicts` or `clean` had more entries than the service lists.
    #[serde(default)]
    pub truncated: bool,
    /// Milliseconds to wait before the next request.
    pub retry_after_ms: Option<u64>,
}

/// A path of an update that another client changed, or that is not as the update expects.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Conflict {
    /// A JSON Pointer into the state.
    pub path: String,
    /// The value that the update would have set; `None` removes.
    pub yours: Option<Value>,
    /// The value at the version that the update was based on, if the service still has it.
    pub base: Option<Value>,
    /// The current value; `None` if it was removed.
    pub current: Option<Value>,
    /// True if it was removed.
    #[serde(default)]
    pub removed: bool,
    /// The version that changed it.
    pub version: Option<Version>,
    /// The principal that changed it.
    pub by: Option<String>,
    /// The time of the change, in seconds since the epoch.
    pub timestamp: Option<u64>,
}

/// The reason for a rejection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
#[non_exhaustive]
pub enum Reason {
    /// The shadow has another version, or paths of the update changed since.
    VersionConflict,
    /// An expectation about a path does not hold.
    ExpectationFailed,
    /// The shadow does not exist.
    NotFound,
    /// The client is not authenticated.
    Unauthorized,
    /// The client has no right to do this.
    Forbidden,
    /// A quota is exhausted; see [`Rejection::retry_after`].
    TooManyRequests,
    /// The document would exceed its size limit.
    TooLarge,
    /// The document would have too many values.
    TooManyLeaves,
    /// The document would nest too deep.
    TooDeep,
    /// The idempotency key was used with another request.
    IdempotencyKeyReused,
    /// The service failed; nothing was changed.
    Internal,
    /// The service failed; the update is applied whole or not at all.
    OutcomeUnknown,
    /// The service takes no writes at present.
    Unavailable,
    /// Any other reason, by its name in the protocol.
    Other(String),
}

/// The names of the reasons in the protocol.
const REASONS: [(&str, Reason); 13] = [
    ("version-conflict", Reason::VersionConflict),
    ("expectation-failed", Reason::ExpectationFailed),
    ("not-found", Reason::NotFound),
    ("unauthorized", Reason::Unauthorized),
    ("forbidden", Reason::Forbidden),
    ("too-many-requests", Reason::TooManyRequests),
    ("too-large", Reason::TooLarge),
    ("too-many-leaves", Reason::TooManyLeaves),
    ("too-deep", Reason::TooDeep),
    ("idempotency-key-reused", Reason::IdempotencyKeyReused),
    ("internal", Reason::Internal),
    ("outcome-unknown", Reason::OutcomeUnknown),
    ("unavailable", Reason::Unavailable),
];

/// The way to recover from a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecoveryAction {
    /// Read the shadow, decide again.
    Refresh,
    /// Send the same request later: nothing was tried.
    Later,
    /// Send the same request under the same key, or read the shadow: the outcome is unknown.
    Find,
    /// Nothing helps.
    None,
}

impl Rejection {
    /// Returns the rejection that `reply` is: only rejections have a `code`.
    ///
    /// For replies of [`Client::exchange`](crate::Client::exchange).
    ///
    /// ```
    /// use serde_json::json;
    /// use umbra_client::Rejection;
    ///
    /// let reply = json!({"code": 409, "error": "version-conflict", "message": "Version conflict", "version": 9});
    /// let rejection = Rejection::from_reply(&reply).unwrap();
    /// assert_eq!(rejection.to_string(), "409 version-conflict: Version conflict; current version 9");
    /// assert!(Rejection::from_reply(&json!({"version": 9})).is_none());
    /// ```
    #[must_use]
    pub fn from_reply(reply: &Value) -> Option<Self> {
        let code = u16::try_from(reply.get("code")?.as_u64()?).ok()?;
        Some(Self::deserialize(reply).unwrap_or_else(|_| Self { code, ..Self::default() }))
    }

    /// Returns the time that the service asks to wait before the next request.
    ///
    /// ```
    /// use serde_json::json;
    /// use umbra_client::Rejection;
    ///
    /// let reply = json!({"code": 429, "error": "too-many-requests", "retryAfterMs": 50});
    /// let wait = Rejection::from_reply(&reply).unwrap().retry_after();
    /// assert_eq!(wait, Some(std::time::Duration::from_millis(50)));
    /// ```
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }

    /// Returns true if another client wrote first, or an expectation does not hold.
    ///
    /// ```
    /// use serde_json::json;
    /// use umbra_client::Rejection;
    ///
    /// assert!(Rejection::from_reply(&json!({"code": 409})).unwrap().is_conflict());
    /// ```
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }

    pub(crate) fn recovery(&self) -> RecoveryAction {
        match (self.code, &self.reason) {
            (409, _) => RecoveryAction::Refresh,
            (429 | 503, _) | (500, Reason::Internal) => RecoveryAction::Later,
            (500.., _) => RecoveryAction::Find,
            _ => RecoveryAction::None,
        }
    }
}

impl Reason {
    /// Returns the name of the reason in the protocol; empty if the service gave none.
    ///
    /// ```
    /// assert_eq!(umbra_client::Reason::NotFound.as_str(), "not-found");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => REASONS.iter().find(|(_, reason)| reason == known).map_or("", |(name, _)| name),
        }
    }
}

impl Default for Reason {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl From<String> for Reason {
    fn from(name: String) -> Self {
        let known = REASONS.into_iter().find(|(known, _)| *known == name);
        known.map_or(Self::Other(name), |(_, reason)| reason)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        write!(f, "{} {}: {}", self.code, or_unknown(self.reason.as_str()), or_unknown(&self.message))?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(expected) = self.expected {
            write!(f, "; expected version {expected}")?;
        }
        if let Some(version) = self.version {
            write!(f, "; current version {version}")?;
        }
        for conflict in self.conflicts.iter().chain(&self.failed) {
            write!(f, "; {conflict}")?;
        }
        self.retry_after_ms.map_or(Ok(()), |wait| write!(f, "; try again in {wait} ms"))
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.current {
            Some(current) => write!(f, "{} is {current}", self.path)?,
            None => write!(f, "{} does not exist", self.path)?,
        }
        match self.version {
            Some(version) => write!(f, " since version {version} by {}", self.by.as_deref().unwrap_or("?")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rejection_has_its_recovery() {
        for (code, error, recovery) in [
            (409, "version-conflict", RecoveryAction::Refresh),
            (409, "expectation-failed", RecoveryAction::Refresh),
            (429, "too-many-requests", RecoveryAction::Later),
            (503, "unavailable", RecoveryAction::Later),
            (500, "internal", RecoveryAction::Later),
            (500, "outcome-unknown", RecoveryAction::Find),
            (500, "of a later protocol", RecoveryAction::Find),
            (400, "invalid-json", RecoveryAction::None),
            (403, "forbidden", RecoveryAction::None),
            (413, "too-large", RecoveryAction::None),
            (422, "idempotency-key-reused", RecoveryAction::None),
        ] {
            let rejection = Rejection::from_reply(&json!({"code": code, "error": error})).expect("a rejection");
            assert_eq!((rejection.recovery(), rejection.reason.as_str()), (recovery, error), "{code} {error}");
        }
    }

    #[test]
    fn a_rejection_is_written_on_one_line() {
        for (reply, expected) in [
            (json!({"state": {}, "version": 8}), None),
            (
                json!({"code": 409, "error": "version-conflict", "message": "Version conflict", "expected": 1, "version": 3,
                "conflicts": [
                    {"path": "/desired/a", "yours": 1, "current": "x", "version": 2, "by": "app-1", "timestamp": 5},
                    {"path": "/desired/b", "yours": 1, "removed": true},
                ]}),
                Some(
                    "409 version-conflict: Version conflict; expected version 1; current version 3; \
                     /desired/a is \"x\" since version 2 by app-1; /desired/b does not exist",
                ),
            ),
            (
                json!({"code": 409, "error": "expectation-failed", "message": "Version conflict",
                    "failed": [{"path": "/desired/a", "expected": "value", "current": 2}]}),
                Some("409 expectation-failed: Version conflict; /desired/a is 2"),
            ),
            (
                json!({"code": 400, "error": "invalid-json", "message": "Invalid JSON", "detail": "duplicate key 'a'"}),
                Some("400 invalid-json: Invalid JSON: duplicate key 'a'"),
            ),
            (
                json!({"code": 429, "error": "too-many-requests", "message": "slow", "retryAfterMs": 50}),
                Some("429 too-many-requests: slow; try again in 50 ms"),
            ),
            (json!({"code": 500}), Some("500 ?: ?")),
            (json!({"code": 500, "conflicts": 1}), Some("500 ?: ?")),
        ] {
            let written = Rejection::from_reply(&reply).map(|rejection| rejection.to_string());
            assert_eq!(written.as_deref(), expected, "{reply}");
        }
    }
}
