//! Why a request was refused, with the code, error and message the wire contract gives each reason.

use crate::shadow::{document::Version, etag::Etag};

/// A refusal: nothing was changed (but see [`Rejection::OutcomeUnknown`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// 409: `version` or `etag` is not the current one.
    VersionConflict {
        /// The version the requester expected, if it named one.
        expected: Option<Version>,
        /// The current version; 0 if there was never a write.
        version: Version,
        /// The current etag; `None` if the shadow does not exist now.
        etag: Option<Etag>,
    },
    /// 500: the commit failed; applied whole or not at all.
    OutcomeUnknown,
    /// 503: the store takes no writes; says what to wait for.
    Unavailable(String),
    /// 500: something of ours failed before anything was tried.
    Internal,
}
