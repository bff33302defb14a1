//! The conditions that a requester may set on the current document.
//!
//! `version` and `etag` are checked first, then `expect`. Only a stale `version` can be rebased
//! ([`OnConflict::Rebase`]); version 0, an etag and an expectation cannot. A version below the floor cannot be rebased
//! either, because the changes since are unknown.

use crate::shadow::{
    command::{
        EtagCondition, Expectation, Expected, OnConflict, Preconditions,
        rejection::{FailedExpectation, Rejection},
    },
    document::{Document, Version, etag::Etag},
    rights::paths::Paths,
};

impl From<&str> for EtagCondition {
    fn from(text: &str) -> Self {
        text.parse::<Etag>().map_or_else(|_| Self::Other(text.to_owned()), Self::Tag)
    }
}

impl EtagCondition {
    /// Returns true if `etag`, the etag of `current`, satisfies this condition. A shadow that does not exist has no
    /// etag.
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
    /// Checks the conditions against `current`, whose etag covers the paths in `reads`. `is_clean` returns true if no
    /// path that the command touches changed after a version.
    ///
    /// A deleted shadow satisfies the `version` of its tombstone, so a client can recreate it and be sure that no other
    /// client did. It also satisfies `version` 0, and no `etag`. A shadow that was never written satisfies only
    /// `version` 0.
    ///
    /// # Errors
    ///
    /// - [`Rejection::VersionConflict`] with the current version and etag.
    /// - [`Rejection::ExpectationFailed`] with the expectations that do not hold.
    pub(in crate::shadow) fn check(
        &self,
        current: &Document,
        reads: &Paths,
        is_clean: impl FnOnce(Version) -> bool,
    ) -> Result<(), Rejection> {
        let version_holds = match self.version {
            None => true,
            Some(Version(0)) => !current.exists(),
            Some(expected) => expected == current.version || self.can_rebase(expected, current) && is_clean(expected),
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

    /// Returns the earlier version that a command was rebased from; `before` is the document it was decided against.
    #[must_use]
    pub fn rebased_from(&self, before: &Document) -> Option<Version> {
        self.version.filter(|&version| self.can_rebase(version, before))
    }

    fn can_rebase(&self, expected: Version, current: &Document) -> bool {
        self.on_conflict == OnConflict::Rebase
            && expected > Version(0)
            && expected < current.version
            && expected >= current.floor
    }

    /// Returns the version that the requester has seen: the version in its etag, else the one it names.
    fn seen(&self) -> Option<Version> {
        match (&self.etag, self.version) {
            (Some(EtagCondition::Tag(tag)), _) => Some(tag.version),
            (_, version) => version,
        }
    }

    fn check_expectations(&self, current: &Document, reads: &Paths) -> Result<(), Rejection> {
        let failed = self.expect.iter().filter(|expectation| !expectation.is_met(current));
        let report = |(number, expectation)| FailedExpectation::of(expectation, current, number < VALUES_REPORTED_MAX);
        let failed: Vec<_> = failed.enumerate().map(report).collect();
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

/// Most failed expectations reported with the current value, since all may name the same large value.
const VALUES_REPORTED_MAX: usize = 8;

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
