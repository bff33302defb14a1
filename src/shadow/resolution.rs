//! A patch becomes an update: the one that does to the current document what the patch says.
//!
//! That happens when its turn comes, so nothing changes between what it was applied to and what it is decided against,
//! and any number of patches of one list all fit, one after another.
//!
//! It is applied to the part of the document that its sender may read, as GET shows it. What the sender demands of the
//! document is told before a misfit: a patch for another version does not become one for this version. If it is to be
//! rebased, what it looks at must not have changed either, and neither what it gives an object, whatever is in there.
//! So its sender has to be allowed to read all of that; and whether a misfit is one of another version is told by what
//! may be read alone.

use serde_json::{Map, Value};

use crate::shadow::{
    command::{Expectation, Expected, OnConflict, Patch, Update},
    document::{Document, DocumentLimits, Version},
    json_patch::{Edit, Misfit, Reason},
    paths::Paths,
    pointer::SectionName,
    rejection::{FailedExpectation, Rejection},
    scope::{Scope, allowed},
    tree,
};

impl Patch {
    /// The update that it comes to on `current`, for a sender who may do what `scope` says.
    ///
    /// # Errors
    ///
    /// - [`Rejection::Forbidden`]: it would write what its sender may not, or is to be rebased and gives an object to
    ///   what that one may not read. What it looks at was checked before ([`Scope::admit`]).
    /// - [`Rejection::ExpectationFailed`]: there is not at a path what it takes to be there.
    /// - [`Rejection::VersionConflict`]: it does not fit, and a precondition does not hold.
    /// - [`Rejection::TooDeep`], [`Rejection::InvalidSection`]: it would make what no shadow can be.
    /// - [`Rejection::TooLarge`]: it puts more there, on the way, than a patch may.
    pub fn resolve(&self, current: &Document, scope: &Scope, limits: &DocumentLimits) -> Result<Update, Rejection> {
        let state = self.seen(current, &scope.reads);
        let size_max = SIZE_MAX * (limits.document_bytes_max + limits.tags_bytes_max);
        let applied = self.operations.apply(&state, size_max);
        let Edit { update, seen, objects } = applied.map_err(|misfit| self.refusal(misfit, current, &scope.reads))?;
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

    /// The sections that it names, as far as there is something that `reads` have.
    fn seen(&self, current: &Document, reads: &Paths) -> Map<String, Value> {
        let named = SectionName::ALL.into_iter().filter(|name| self.operations.names(*name));
        let sections = named.map(|name| (name, reads.members(name, &current.section(name).members)));
        let there = sections.filter(|(_, members)| !members.is_empty());
        there.map(|(name, members)| (name.as_str().to_owned(), Value::Object(tree::values(&members)))).collect()
    }

    /// The version since which nothing that it touches or looks at may have changed. Version 0 is never rebased.
    fn base(&self) -> Option<Version> {
        let rebases = self.preconditions.on_conflict == OnConflict::Rebase;
        self.preconditions.version.filter(|version| rebases && *version > Version(0))
    }

    fn refusal(&self, misfit: Misfit, current: &Document, reads: &Paths) -> Rejection {
        let told = misfit.paths.iter().filter(|path| reads.has(path));
        let clean = |since| !told.clone().any(|path| current.changed_after(path, since));
        if let Err(rejection) = self.preconditions.check(current, reads, clean) {
            return rejection;
        }
        let (path, expected) = match &misfit.reason {
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

/// How often all that a shadow may hold may be put there by one patch, which may take it away again.
const SIZE_MAX: usize = 4;
