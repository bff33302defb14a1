//! What the service says when it refuses a request, and what a client can make of it.

use std::{fmt, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::document::Version;

/// A refusal: nothing was changed (but see [`Reason::OutcomeUnknown`]).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// As in HTTP.
    pub code: u16,
    /// Why, for programs.
    #[serde(rename = "error", default)]
    pub reason: Reason,
    /// Why, for people.
    #[serde(default)]
    pub message: String,
    /// The version the update required.
    pub expected: Option<Version>,
    /// The version the shadow has.
    pub version: Option<Version>,
    /// The validator the shadow has.
    pub etag: Option<String>,
    /// Paths of the update that somebody else changed since `expected`.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// Paths of the update that nobody else changed.
    #[serde(default)]
    pub clean: Vec<String>,
    /// Whether `conflicts` or `clean` had more entries than the service lists.
    #[serde(default)]
    pub truncated: bool,
    /// How long to keep away, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

/// One path that an update touched and that somebody else changed since the version the update was made against.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Conflict {
    /// A JSON Pointer into the state.
    pub path: String,
    /// What the update would have set; `None` removes.
    pub yours: Option<Value>,
    /// What was there at the version the update was made against, where the service still knows.
    pub base: Option<Value>,
    /// What is there now; `None` where it was removed.
    pub current: Option<Value>,
    /// Whether it was removed.
    #[serde(default)]
    pub removed: bool,
    /// The version that changed it.
    pub version: Option<Version>,
    /// Who changed it.
    pub by: Option<String>,
    /// When, in seconds since the epoch.
    pub timestamp: Option<u64>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The shadow has another version, or the paths changed since.
    VersionConflict,
    /// An expectation about a path does not hold.
    ExpectationFailed,
    /// There is no such shadow.
    NotFound,
    /// The service does not know who asks.
    Unauthorized,
    /// Whoever asks may not.
    Forbidden,
    /// A quota; see [`Rejection::retry_after`].
    TooManyRequests,
    /// The document would become too large.
    TooLarge,
    /// The document would have too many values.
    TooManyLeaves,
    /// The document would nest too deep.
    TooDeep,
    /// The key was used with another request before.
    IdempotencyKeyReused,
    /// The service failed, and changed nothing.
    Internal,
    /// The service failed, and does not know whether the update is in.
    OutcomeUnknown,
    /// The service takes no writes now.
    Unavailable,
    /// Anything else; [`Rejection::message`] tells.
    #[default]
    #[serde(other)]
    Other,
}

/// What may help after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecoveryAction {
    /// Another version is there: look at it, decide anew.
    Refresh,
    /// Nothing was tried: the same again, later.
    Later,
    /// Perhaps it was done: only the same key, or looking, tells.
    Find,
    /// Nothing.
    None,
}

impl Rejection {
    /// How long the service wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }

    /// Whether somebody else was faster.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }

    pub(crate) fn remedy(&self) -> RecoveryAction {
        match (self.code, &self.reason) {
            (409, _) => RecoveryAction::Refresh,
            (429 | 503, _) | (500, Reason::Internal) => RecoveryAction::Later,
            (500.., _) => RecoveryAction::Find,
            _ => RecoveryAction::None,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message)?;
        if let (Some(expected), Some(version)) = (self.expected, self.version) {
            write!(f, ", expected version {expected}, current version {version}")?;
        }
        for conflict in &self.conflicts {
            write!(f, ", {conflict}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(f, "{} is {} now", self.path, shown(&self.current))?;
        if let Some(by) = &self.by {
            write!(f, " by {by}")?;
        }
        write!(f, " (you: {})", shown(&self.yours))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_refusal_has_a_remedy_or_none() {
        for (code, error, remedy) in [
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
            let rejection: Rejection = serde_json::from_value(json!({"code": code, "error": error})).expect("read");
            assert_eq!(rejection.remedy(), remedy, "{code} {error}");
        }
    }

    #[test]
    fn a_conflict_says_what_collided() {
        let rejection: Rejection = serde_json::from_value(json!({
            "code": 409, "error": "version-conflict", "message": "Version conflict", "timestamp": 1, "expected": 7,
            "version": 9, "etag": "\"9-ab\"", "clean": ["/desired/mode"],
            "conflicts": [
                {"path": "/desired/target", "yours": 21, "base": 19, "current": 23, "version": 9, "by": "app-1"},
                {"path": "/desired/lamp", "yours": 1, "removed": true, "version": 8, "by": "app-2"},
            ],
        }))
        .expect("a rejection");
        assert_eq!(rejection.reason, Reason::VersionConflict);
        assert_eq!(
            rejection.to_string(),
            "409 Version conflict, expected version 7, current version 9, \
             /desired/target is 23 now by app-1 (you: 21), /desired/lamp is nothing now by app-2 (you: 1)"
        );
    }
}
