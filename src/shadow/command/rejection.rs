//! The reasons for refusing a request, with the `code`, `error` and `message` that the wire contract defines for each.
//!
//! Messages that AWS also has are AWS's own texts, since its clients compare them. Further information, such as the
//! offending key, is in `detail`, which only the native dialect sends.

use std::{fmt, sync::Arc};

use serde_json::Value;

use crate::shadow::{
    command::{Expectation, Expected, conflicts::Collisions},
    document::{Document, Stamp, Version, etag::Etag},
    name::ShadowKey,
    pointer::{Pointer, SectionName},
};

/// The subject of a size limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeLimit {
    /// `desired` and `reported` together.
    State,
    /// `tags`.
    Tags,
    /// The body of an HTTP request.
    Body,
    /// The change as a record of a cluster's log, with its conditions and what is stored with it.
    Record,
    /// The paths of all changes of an update.
    Paths,
    /// The values that a JSON Patch inserts and moves, up to this operation.
    Patch {
        /// The number of the operation, from 0.
        operation: usize,
    },
}

impl fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("'desired' and 'reported' together, in bytes of canonical JSON"),
            Self::Tags => f.write_str("'tags', in bytes of canonical JSON"),
            Self::Body => f.write_str("the body of the request, in bytes"),
            Self::Record => f.write_str("the change as a record of the cluster's log, in bytes; change less at once"),
            Self::Paths => {
                f.write_str("the paths of all changed values together, in bytes of their keys; change less at once")
            }
            Self::Patch { operation } => {
                write!(
                    f,
                    "what the patch puts and moves up to operation {operation}, in bytes and eight for each value"
                )
            }
        }
    }
}

/// A refusal. The request changed nothing, except possibly for [`Rejection::OutcomeUnknown`].
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// 400: invalid JSON: a syntax error, trailing bytes, a duplicate key, a number that is not finite, or an integer
    /// that a double cannot hold.
    InvalidJson {
        /// The error and its position; empty if the sender may not see it.
        detail: String,
    },
    /// 400: an update without `state`.
    MissingState,
    /// 400: `state` or one of its sections is neither an object nor null.
    InvalidSection(Option<SectionName>),
    /// 400: a key of `state` that is not a section, or a null inside an array.
    InvalidNode {
        /// The key, or for a null the nearest key above it; empty if the sender may not see it.
        key: String,
    },
    /// 400: `version` is not an integer from 0 on.
    InvalidVersion,
    /// 400: `clientToken` is not a string, or is longer than 64 bytes.
    InvalidClientToken,
    /// 400: objects or arrays nest too deep.
    TooDeep {
        /// Most levels below a section.
        max: usize,
    },
    /// 400: a field of a native request that is unknown, not supported or of the wrong type.
    InvalidField {
        /// The name of the field; empty if the sender may not see it.
        field: String,
        /// The error, worded to follow the name of the field.
        reason: String,
    },
    /// 401: authentication required.
    Unauthorized,
    /// 403: authenticated but not allowed.
    Forbidden {
        /// The path or topic refused; empty if the sender may not see it.
        what: String,
    },
    /// 404: the shadow does not exist or was deleted.
    NotFound,
    /// 409: `version` or `etag` is not the current one.
    VersionConflict {
        /// The version that the requester expected, if it named one.
        expected: Option<Version>,
        /// The current version; 0 if the shadow was never written.
        version: Version,
        /// The current etag; `None` if the shadow does not exist.
        etag: Option<Etag>,
        /// The conflicting paths. They are looked up later, when the reply is rendered.
        collisions: Option<Box<Collisions>>,
    },
    /// 409: an expectation about a path does not hold.
    ExpectationFailed {
        /// The current version.
        version: Version,
        /// The current etag; `None` if the shadow does not exist.
        etag: Option<Etag>,
        /// The expectations that do not hold, in the order of the request.
        failed: Vec<FailedExpectation>,
    },
    /// 413: a size limit is exceeded, or would be.
    TooLarge {
        /// The subject of the limit.
        what: SizeLimit,
        /// The actual bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// 413: the shadow would have too many leaves.
    TooManyLeaves {
        /// The number of leaves.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// 413: the update names too many paths.
    TooManyPaths {
        /// The number of leaves and removals.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// 415: the payload is not UTF-8.
    NotUtf8,
    /// 422: the idempotency key was used with a different request.
    IdempotencyKeyReused,
    /// 429: a quota is exhausted.
    TooManyRequests {
        /// The quota, in words.
        quota: String,
        /// The time to wait before a retry, in milliseconds; `None` if waiting does not help.
        retry_after_ms: Option<u64>,
    },
    /// 500: an internal error; nothing was tried.
    Internal,
    /// 500: the commit failed; the command was applied whole or not at all.
    OutcomeUnknown,
    /// 503: nothing was tried; the text names the condition to wait for.
    Unavailable(String),
}

/// An expectation that does not hold, with the current value.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedExpectation {
    /// The path.
    pub path: Pointer,
    /// The kind of the expectation: the name of its field.
    pub expected: &'static str,
    /// The current value; `None` if the path is empty or the value is withheld.
    pub current: Option<Value>,
    /// The last change of the path, if it is still known.
    pub changed: Option<Arc<Stamp>>,
}

impl FailedExpectation {
    /// Returns the report of `expectation`, which does not hold for `current`; with the current value if `with_value`.
    pub(in crate::shadow) fn of(expectation: &Expectation, current: &Document, with_value: bool) -> Self {
        let path = expectation.path.clone();
        let expected = match expectation.holds {
            Expected::Version(_) => "version",
            Expected::Value(_) => "value",
            Expected::Absent => "absent",
        };
        let there = current.find(&path).filter(|_| with_value).map(|found| found.to_value());
        Self { expected, current: there, changed: current.newest_change(&path).cloned(), path }
    }

    /// Returns the report that `path` of `current` does not hold what was expected.
    pub(in crate::shadow) fn at(path: &Pointer, expected: &'static str, current: &Document) -> Self {
        let there = current.find(path).map(|found| found.to_value());
        Self { path: path.clone(), expected, current: there, changed: current.newest_change(path).cloned() }
    }
}

impl Rejection {
    /// Returns the `code` of the envelope, which is also the HTTP status on the AWS paths.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::InvalidJson { .. }
            | Self::MissingState
            | Self::InvalidSection(_)
            | Self::InvalidNode { .. }
            | Self::InvalidVersion
            | Self::InvalidClientToken
            | Self::TooDeep { .. }
            | Self::InvalidField { .. } => 400,
            Self::Unauthorized => 401,
            Self::Forbidden { .. } => 403,
            Self::NotFound => 404,
            Self::VersionConflict { .. } | Self::ExpectationFailed { .. } => 409,
            Self::TooLarge { .. } | Self::TooManyLeaves { .. } | Self::TooManyPaths { .. } => 413,
            Self::NotUtf8 => 415,
            Self::IdempotencyKeyReused => 422,
            Self::TooManyRequests { .. } => 429,
            Self::Internal | Self::OutcomeUnknown => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// Returns the `error` of the envelope: a fixed word for each reason, for programs.
    #[must_use]
    pub fn error(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } => "invalid-json",
            Self::MissingState => "missing-state",
            Self::InvalidSection(_) => "invalid-section",
            Self::InvalidNode { .. } => "invalid-node",
            Self::InvalidVersion => "invalid-version",
            Self::InvalidClientToken => "invalid-client-token",
            Self::TooDeep { .. } => "too-deep",
            Self::InvalidField { .. } => "invalid-field",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound => "not-found",
            Self::VersionConflict { .. } => "version-conflict",
            Self::ExpectationFailed { .. } => "expectation-failed",
            Self::TooLarge { .. } => "too-large",
            Self::TooManyLeaves { .. } | Self::TooManyPaths { .. } => "too-many-leaves",
            Self::NotUtf8 => "not-utf8",
            Self::IdempotencyKeyReused => "idempotency-key-reused",
            Self::TooManyRequests { .. } => "too-many-requests",
            Self::Internal => "internal",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Returns the `message` of the envelope: a sentence for people, about a request to `shadow`.
    #[must_use]
    pub fn message(&self, shadow: &ShadowKey) -> String {
        match self {
            Self::InvalidJson { .. } => "Invalid JSON".into(),
            Self::MissingState => "Missing required node: state".into(),
            Self::InvalidSection(None) => "State node must be an object".into(),
            Self::InvalidSection(Some(SectionName::Desired)) => "Desired node must be an object".into(),
            Self::InvalidSection(Some(SectionName::Reported)) => "Reported node must be an object".into(),
            Self::InvalidSection(Some(SectionName::Tags)) => "Tags node must be an object".into(),
            Self::InvalidNode { key } if key.is_empty() => "State contains an invalid node".into(),
            Self::InvalidNode { key } => format!("State contains an invalid node: '{key}'"),
            Self::InvalidVersion => "Invalid version".into(),
            Self::InvalidClientToken => "Invalid clientToken".into(),
            Self::TooDeep { max } => format!("JSON contains too many levels of nesting; maximum is {max}"),
            Self::InvalidField { field, .. } if field.is_empty() => "Invalid field".into(),
            Self::InvalidField { field, reason } => format!("Invalid field '{field}': {reason}"),
            Self::Unauthorized => "Unauthorized".into(),
            Self::Forbidden { what } if what.is_empty() => "Forbidden".into(),
            Self::Forbidden { what } => format!("Forbidden: {what}"),
            Self::NotFound => format!("No shadow exists with name: '{shadow}'"),
            Self::VersionConflict { .. } | Self::ExpectationFailed { .. } => "Version conflict".into(),
            // Two spaces, as in the AWS text.
            Self::TooLarge { size, max, .. }
            | Self::TooManyLeaves { count: size, max }
            | Self::TooManyPaths { count: size, max } => {
                format!("Json document too large.  Size is {size}, max allowed: {max}")
            }
            Self::NotUtf8 => "Unsupported documented encoding; supported encoding is UTF-8".into(),
            Self::IdempotencyKeyReused => "Idempotency key was used with another request".into(),
            Self::TooManyRequests { quota, .. } => format!("Too many requests: {quota}"),
            Self::Internal => "Internal service failure".into(),
            Self::OutcomeUnknown => "The outcome is unknown: ask again later".into(),
            Self::Unavailable(waiting_for) => format!("Unavailable: {waiting_for}"),
        }
    }

    /// Returns the rejection without the current etag.
    #[must_use]
    pub fn without_etag(mut self) -> Self {
        if let Self::VersionConflict { etag, .. } | Self::ExpectationFailed { etag, .. } = &mut self {
            *etag = None;
        }
        self
    }

    /// Returns the rejection without names and values of the payload, which some readers may not see.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        match &mut self {
            Self::InvalidJson { detail: text } | Self::InvalidNode { key: text } => text.clear(),
            Self::InvalidField { field, reason } => {
                field.clear();
                reason.clear();
            }
            _ => {}
        }
        self
    }

    /// Returns the information that the AWS message text lacks.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::InvalidJson { detail } => Some(detail.clone()).filter(|detail| !detail.is_empty()),
            Self::InvalidNode { key } if key == "delta" => {
                Some("'delta' is computed from desired and reported: leave it out of what is written".into())
            }
            Self::InvalidNode { .. } => {
                Some("the keys of the state are desired, reported and tags, and no array holds null".into())
            }
            Self::InvalidVersion => Some("'version' must be an integer from 0 on".into()),
            Self::InvalidClientToken => Some("'clientToken' must be a string of at most 64 bytes".into()),
            Self::ExpectationFailed { .. } => Some("an expectation does not hold".into()),
            Self::TooLarge { what, .. } => Some(what.to_string()),
            Self::TooManyLeaves { .. } => Some("counted in leaves, array elements included".into()),
            Self::TooManyPaths { .. } => Some("counted in paths that the update names, removals included".into()),
            _ => None,
        }
    }
}
