//! What a requester may demand of the current document before its command is applied.

use crate::shadow::{
    command::{EtagCondition, Preconditions},
    document::{Document, Version},
    etag::Etag,
    rejection::Rejection,
};

impl From<&str> for EtagCondition {
    fn from(text: &str) -> Self {
        text.parse::<Etag>().map_or_else(|_| Self::Other(text.to_owned()), Self::Tag)
    }
}

impl Preconditions {
    /// Checks them against the current document.
    ///
    /// A deleted shadow satisfies its tombstone's `version` (that is how one recreates it and knows that nobody else did)
    /// and `version` 0, and no `etag`. Version 0 of a shadow never written is satisfied by 0 alone.
    ///
    /// # Errors
    ///
    /// [`Rejection::VersionConflict`] with what is current.
    pub fn check(&self, current: &Document) -> Result<(), Rejection> {
        let version_holds = match self.version {
            None => true,
            Some(Version(0)) => !current.exists(),
            Some(expected) => expected == current.version,
        };
        let etag_holds = match &self.etag {
            None => true,
            Some(EtagCondition::Tag(tag)) => current.exists() && *tag == current.etag,
            Some(EtagCondition::Other(_)) => false,
        };
        if version_holds && etag_holds { Ok(()) } else { Err(conflict(current, self.version)) }
    }
}

fn conflict(current: &Document, expected: Option<Version>) -> Rejection {
    Rejection::VersionConflict { expected, version: current.version, etag: current.exists().then_some(current.etag) }
}
