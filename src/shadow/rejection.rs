//! Why a request was refused, with the code, error and message the wire contract gives each reason.
//!
//! Messages that AWS has too are AWS's own texts, since its clients compare them. What the text leaves unsaid (which
//! key, where) is in `detail`, which only the native shape shows.

use std::{fmt, sync::Arc};

use serde_json::Value;

use crate::shadow::{
    collisions::Collisions,
    command::{Expectation, Expected},
    document::{Document, Stamp, Version},
    etag::Etag,
    name::ShadowKey,
    pointer::{Pointer, SectionName},
};

/// What may be too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// `desired` and `reported` together.
    State,
    /// `tags`.
    Tags,
    /// The body of a request over HTTP.
    Body,
    /// What the operations of a JSON Patch put and move, up to this one, counted from 0.
    Patch {
        /// Its number.
        operation: usize,
    },
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("'desired' and 'reported' together, in bytes of canonical JSON"),
            Self::Tags => f.write_str("'tags', in bytes of canonical JSON"),
            Self::Body => f.write_str("the body of the request, in bytes"),
            Self::Patch { operation } => {
                write!(
                    f,
                    "what the patch puts and moves up to operation {operation}, in bytes and eight for each value"
                )
            }
        }
    }
}

/// A refusal: nothing was changed (but see [`Rejection::OutcomeUnknown`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// 400: not JSON as the contract reads it: a syntax error, trailing bytes, a duplicate key, a number that is not
    /// finite or an integer that a double cannot hold.
    InvalidJson {
        /// What is wrong and where; empty if it may not be told.
        detail: String,
    },
    /// 400: an update without `state`.
    MissingState,
    /// 400: `state`, or one section of it, is neither an object nor null.
    InvalidSection(Option<SectionName>),
    /// 400: a key in `state` that is no section, or a null inside an array.
    InvalidNode {
        /// The key, for a null the nearest one above it; empty if it may not be told.
        key: String,
    },
    /// 400: `version` is no integer from 0 on.
    InvalidVersion,
    /// 400: `clientToken` is no text, or longer than 64 bytes.
    InvalidClientToken,
    /// 400: objects or arrays nest deeper than allowed.
    TooDeep {
        /// The most levels below a section.
        max: usize,
    },
    /// 400: a field of a native request that is unknown, not supported or of the wrong type.
    InvalidField {
        /// Its name; empty if it may not be told.
        field: String,
        /// What is wrong with it, in words that follow its name.
        reason: String,
    },
    /// 401: nobody that is known.
    Unauthorized,
    /// 403: known, and not allowed.
    Forbidden {
        /// The path or topic refused; empty if it may not be told.
        what: String,
    },
    /// 404: there is no such shadow, or it was deleted.
    NotFound,
    /// 409: `version` or `etag` is not the current one.
    VersionConflict {
        /// The version the requester expected, if it named one.
        expected: Option<Version>,
        /// The current version; 0 if there was never a write.
        version: Version,
        /// The current etag; `None` if the shadow does not exist now.
        etag: Option<Etag>,
        /// Which paths collided, once it has been found out: that is left to who tells of the refusal.
        collisions: Option<Box<Collisions>>,
    },
    /// 409: an expectation about a path does not hold.
    ExpectationFailed {
        /// The current version.
        version: Version,
        /// The current etag; `None` if the shadow does not exist now.
        etag: Option<Etag>,
        /// Each one that does not hold, in the order of the request.
        failed: Vec<FailedExpectation>,
    },
    /// 413: something is, or would be, too large.
    TooLarge {
        /// What.
        what: Measured,
        /// Bytes that it has or would have.
        size: usize,
        /// The most allowed.
        max: usize,
    },
    /// 413: the shadow would have too many leaves.
    TooManyLeaves {
        /// How many it would have.
        count: usize,
        /// The most allowed.
        max: usize,
    },
    /// 415: the payload is not UTF-8.
    NotUtf8,
    /// 422: the idempotency key was used with another request.
    IdempotencyKeyReused,
    /// 429: beyond a quota.
    TooManyRequests {
        /// Which quota, in words.
        quota: String,
        /// When to try again, in milliseconds.
        retry_after_ms: u64,
    },
    /// 500: something of ours failed before anything was tried.
    Internal,
    /// 500: the commit failed; applied whole or not at all.
    OutcomeUnknown,
    /// 503: nothing was tried; says what to wait for.
    Unavailable(String),
}

/// An expectation that does not hold, and what is there instead.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedExpectation {
    /// Where.
    pub path: Pointer,
    /// What kind of expectation it was: the name of its field.
    pub expected: &'static str,
    /// What is there; `None`: nothing, or it is not told.
    pub current: Option<Value>,
    /// By which change, if that is still known.
    pub changed: Option<Arc<Stamp>>,
}

impl FailedExpectation {
    /// `expectation`, which does not hold of `current`; with the value there if that is `told`.
    pub(super) fn of(expectation: &Expectation, current: &Document, told: bool) -> Self {
        let path = expectation.path.clone();
        let expected = match expectation.holds {
            Expected::Version(_) => "version",
            Expected::Value(_) => "value",
            Expected::Absent => "absent",
        };
        let there = current.find(&path).filter(|_| told).map(|found| found.to_value());
        Self { expected, current: there, changed: current.newest_change(&path).cloned(), path }
    }

    /// That there is not at `path` of `current` what was expected there.
    pub(super) fn at(path: &Pointer, expected: &'static str, current: &Document) -> Self {
        let there = current.find(path).map(|found| found.to_value());
        Self { path: path.clone(), expected, current: there, changed: current.newest_change(path).cloned() }
    }
}

impl Rejection {
    /// The `code` of the envelope, which is also the HTTP status on the AWS paths.
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
            Self::TooLarge { .. } | Self::TooManyLeaves { .. } => 413,
            Self::NotUtf8 => 415,
            Self::IdempotencyKeyReused => 422,
            Self::TooManyRequests { .. } => 429,
            Self::Internal | Self::OutcomeUnknown => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// The `error` of the envelope: one word per reason, for programs.
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
            Self::TooManyLeaves { .. } => "too-many-leaves",
            Self::NotUtf8 => "not-utf8",
            Self::IdempotencyKeyReused => "idempotency-key-reused",
            Self::TooManyRequests { .. } => "too-many-requests",
            Self::Internal => "internal",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// The `message` of the envelope: a sentence for people, about a request to `shadow`.
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
            // Two spaces, as AWS writes it.
            Self::TooLarge { size, max, .. } | Self::TooManyLeaves { count: size, max } => {
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

    /// The same without the current etag.
    #[must_use]
    pub fn without_etag(mut self) -> Self {
        if let Self::VersionConflict { etag, .. } | Self::ExpectationFailed { etag, .. } = &mut self {
            *etag = None;
        }
        self
    }

    /// The same without what it says of the payload, in which there may be names and values that not everybody may see.
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

    /// What the message, being AWS's, leaves unsaid.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::InvalidJson { detail } => Some(detail.clone()).filter(|detail| !detail.is_empty()),
            Self::InvalidNode { .. } => {
                Some("the keys of the state are desired, reported and tags, and no array holds null".into())
            }
            Self::InvalidVersion => Some("'version' must be an integer from 0 on".into()),
            Self::InvalidClientToken => Some("'clientToken' must be a string of at most 64 bytes".into()),
            Self::ExpectationFailed { .. } => Some("an expectation does not hold".into()),
            Self::TooLarge { what, .. } => Some(what.to_string()),
            Self::TooManyLeaves { .. } => Some("counted in leaves, array elements included".into()),
            _ => None,
        }
    }
}
