//! Resolution of a JSON Patch to an equivalent update of the current document.
//!
//! The writer resolves a patch when it decides it, so the document cannot change in between. Any number of patches to
//! one list therefore apply one after another.
//!
//! The patch is applied to the part of the document that its sender may read, as GET returns it. Preconditions are
//! checked before a patch error is reported: a patch for another version is not applied to this one. For a rebase, no
//! path that the patch reads may have changed, nor any member of an object that it sets. So the sender needs the right
//! to read all of these. The check whether a patch error comes from a version conflict uses readable paths only.

use serde_json::{Map, Value};

use crate::shadow::{
    command::{
        Expectation, Expected, OnConflict, Patch, Update,
        rejection::{FailedExpectation, Rejection},
    },
    document::{Document, DocumentLimits, Version, tree},
    patch::{Edit, PatchError, Reason},
    pointer::SectionName,
    rights::{Scope, allowed, paths::Paths},
};

impl Patch {
    /// Returns the update that the patch makes of `current`, for a sender with the rights in `scope`.
    ///
    /// # Errors
    ///
    /// - [`Rejection::Forbidden`]: it writes a path that the sender may not write. Or it is to be rebased, and sets an
    ///   object where the sender may not read. Paths that it reads were checked by [`Scope::admit`].
    /// - [`Rejection::ExpectationFailed`]: a path lacks the value that an operation requires.
    /// - [`Rejection::VersionConflict`]: an operation does not apply, and a precondition does not hold.
    /// - [`Rejection::TooDeep`], [`Rejection::InvalidSection`]: the result cannot be a shadow.
    /// - [`Rejection::TooLarge`]: the operations together move or insert more than a patch may.
    pub fn resolve(&self, current: &Document, scope: &Scope, limits: &DocumentLimits) -> Result<Update, Rejection> {
        let state = self.seen(current, &scope.reads);
        let size_max = SIZE_MAX * (limits.document_bytes_max + limits.tags_bytes_max);
        let applied = self.operations.apply(&state, size_max);
        let Edit { update, seen, objects } = applied.map_err(|error| self.refusal(error, current, &scope.reads))?;
        let (preconditions, keyed) = (self.preconditions.clone(), self.keyed.clone());
        let mut update = Update { preconditions, dry_run: self.dry_run, keyed, ..update };
        scope.check_update(&update)?;
        if let Some(base) = self.base() {
            objects.iter().try_for_each(|path| allowed(&scope.reads, path))?;
            let unchanged = |path| Expectation { path, holds: Expected::Version(base) };
            update.preconditions.expect.extend(seen.into_iter().chain(objects).map(unchanged));
        }
        Ok(update)
    }

    /// Returns the named sections, cut to `reads`, without empty ones.
    fn seen(&self, current: &Document, reads: &Paths) -> Map<String, Value> {
        let named = SectionName::ALL.into_iter().filter(|name| self.operations.names(*name));
        let sections = named.map(|name| (name, reads.members(name, &current.section(name).members)));
        let there = sections.filter(|(_, members)| !members.is_empty());
        there.map(|(name, members)| (name.as_str().to_owned(), Value::Object(tree::values(&members)))).collect()
    }

    /// Returns the version since which no path that the patch touches or reads may have changed. Version 0 is never
    /// rebased.
    fn base(&self) -> Option<Version> {
        let rebases = self.preconditions.on_conflict == OnConflict::Rebase;
        self.preconditions.version.filter(|version| rebases && *version > Version(0))
    }

    fn refusal(&self, error: PatchError, current: &Document, reads: &Paths) -> Rejection {
        let readable = error.paths.iter().filter(|path| reads.has(path));
        let clean = |since| !readable.clone().any(|path| current.changed_after(path, since));
        if let Err(rejection) = self.preconditions.check(current, reads, clean) {
            return rejection;
        }
        let (path, expected) = match &error.reason {
            Reason::Refused(rejection) => return rejection.clone(),
            Reason::Absent(path) => (path, "present"),
            Reason::Different(path) => (path, "value"),
        };
        Rejection::ExpectationFailed {
            version: current.version,
            etag: current.exists().then(|| current.etag_seen(reads)),
            failed: vec![FailedExpectation::at(path, expected, current)],
        }
    }
}

/// Bytes that one patch may insert on its way, as a multiple of the largest shadow.
const SIZE_MAX: usize = 4;
