//! The one place where a command meets a document.

use std::sync::Arc;

use crate::shadow::{
    change::Change,
    command::Command,
    document::{Document, DocumentLimits, Timestamp},
    rejection::Rejection,
};

/// What a command does to the document it was decided against.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The shadow is at a new version. `changes` may be empty: an update over the AWS dialect takes a version even
    /// when it changes no value.
    Changed {
        /// The next document.
        document: Document,
        /// What makes it of the former one.
        changes: Vec<Change>,
    },
    /// Accepted, and nothing changes.
    Unchanged,
}

/// Decides `command` of principal `by` at `now` against `current` ([`Document::absent`] if there never was one).
///
/// # Errors
///
/// The [`Rejection`]; nothing is applied in part.
pub fn decide(
    current: &Document,
    command: &Command,
    by: &Arc<str>,
    now: Timestamp,
    limits: &DocumentLimits,
) -> Result<Decision, Rejection> {
    let _ = (current, command, by, now, limits);
    unimplemented!()
}
