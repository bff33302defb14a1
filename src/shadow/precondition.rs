//! What a requester may demand of the current document before its command is applied.
//!
//! `version` and `etag` are checked first, then `expect`. Only a stale `version` can be forgiven
//! ([`OnConflict::Rebase`]), never version 0, an etag or an expectation; and no version below the floor, where it is
//! not known what changed.

use crate::shadow::{
    command::{EtagCondition, Expectation, Expected, OnConflict, Preconditions},
    document::{Document, Version},
    etag::Etag,
    paths::Paths,
    rejection::{FailedExpectation, Rejection},
};

impl From<&str> for EtagCondition {
    fn from(text: &str) -> Self {
        text.parse::<Etag>().map_or_else(|_| Self::Other(text.to_owned()), Self::Tag)
    }
}

impl EtagCondition {
    /// Whether `etag`, that of the current document, is what it asks for; one that does not exist has none.
    fn holds(&self, current: &Document, etag: &Etag) -> bool {
        current.exists()
            && match self {
                Self::Tag(tag) => tag == etag,
                Self::Other(_) => false,
                Self::OneOf(tags) => tags.iter().any(|tag| tag.holds(current, etag)),
                Self::Any => true,
            }
    }
}

impl Preconditions {
    /// Checks them against the current document, which the requester sees as `reads` say; `is_clean` tells whether no
    /// path that the command touches changed after a version.
    ///
    /// A deleted shadow satisfies its tombstone's `version` (that is how one recreates it and knows that nobody else
    /// did) and `version` 0, and no `etag`. Version 0 of a shadow never written is satisfied by 0 alone.
    ///
    /// # Errors
    ///
    /// - [`Rejection::VersionConflict`] with what is current.
    /// - [`Rejection::ExpectationFailed`] with what was expected in vain.
    pub(super) fn check(
        &self,
        current: &Document,
        reads: &Paths,
        is_clean: impl FnOnce(Version) -> bool,
    ) -> Result<(), Rejection> {
        let version_holds = match self.version {
            None => true,
            Some(Version(0)) => !current.exists(),
            Some(expected) => expected == current.version || self.forgives(expected, current) && is_clean(expected),
        };
        if !version_holds {
            return Err(conflict(current, reads, self.version));
        }
        let etag = current.etag_seen(reads);
        let etag_holds = self.etag.as_ref().is_none_or(|condition| condition.holds(current, &etag));
        let excluded = current.exists() && self.none_of.contains(&etag);
        if !etag_holds || excluded {
            return Err(conflict(current, reads, self.seen()));
        }
        self.check_expectations(current, reads)
    }

    /// The earlier version that a command was accepted under, `before` being what it was decided against.
    #[must_use]
    pub fn rebased_from(&self, before: &Document) -> Option<Version> {
        self.version.filter(|&version| version != before.version && self.forgives(version, before))
    }

    fn forgives(&self, expected: Version, current: &Document) -> bool {
        self.on_conflict == OnConflict::Rebase
            && expected > Version(0)
            && expected < current.version
            && expected >= current.floor
    }

    /// The version of the document that the requester has: the one it names, else the one in its etag.
    fn seen(&self) -> Option<Version> {
        match (&self.etag, self.version) {
            (Some(EtagCondition::Tag(tag)), _) => Some(tag.version),
            (_, version) => version,
        }
    }

    fn check_expectations(&self, current: &Document, reads: &Paths) -> Result<(), Rejection> {
        let failed = self.expect.iter().filter(|expectation| !expectation.is_met(current));
        let told = |(number, expectation)| FailedExpectation::of(expectation, current, number < VALUES_TOLD_MAX);
        let failed: Vec<_> = failed.enumerate().map(told).collect();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Rejection::ExpectationFailed {
                version: current.version,
                etag: current.exists().then(|| current.etag_seen(reads)),
                failed,
            }),
        }
    }
}

/// Failed expectations of which the value that is there is told: they may all be of the same large one.
const VALUES_TOLD_MAX: usize = 8;

impl Expectation {
    fn is_met(&self, current: &Document) -> bool {
        match &self.holds {
            Expected::Version(version) => !current.changed_after(&self.path, *version),
            Expected::Value(value) => current.find(&self.path).is_some_and(|found| found.is(value)),
            Expected::Absent => current.find(&self.path).is_none(),
        }
    }
}

fn conflict(current: &Document, reads: &Paths, expected: Option<Version>) -> Rejection {
    Rejection::VersionConflict {
        expected,
        version: current.version,
        etag: current.exists().then(|| current.etag_seen(reads)),
        collisions: None,
    }
}
