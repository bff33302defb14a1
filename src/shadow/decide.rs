//! The one place where a command meets a document.
//!
//! In this order, and the first that fails is told: what its sender may do, what the request says of the current
//! document (its preconditions), then what the result may be (limits). That a request is well formed was settled before
//! it became a command. A patch is decided as the update that it comes to here ([`Patch::resolve`]).
//!
//! [`Patch::resolve`]: crate::shadow::command::Patch::resolve

use std::sync::Arc;

use crate::shadow::{
    change::Change,
    collisions,
    command::{Command, Delete, Update},
    document::{Document, DocumentLimits, Stamp, Timestamp, Version},
    idempotency::FirstOutcome,
    merge,
    pointer::SectionName,
    rejection::Rejection,
    scope::{Scope, Sender},
};

/// What a command does to the document it was decided against.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The shadow is at a new version. `changes` may be empty: an update that leaves an absent shadow empty makes it
    /// exist, and one over the AWS dialect takes a version even when it changes no value.
    Changed {
        /// The next document.
        document: Document,
        /// What makes it of the former one.
        changes: Vec<Change>,
    },
    /// Accepted, and nothing changes.
    Unchanged,
}

/// How an accepted command came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It was done.
    Done,
    /// It was only asked what would become of it.
    DryRun,
    /// It had been done before, and was told this.
    Again(FirstOutcome),
}

/// Decides `command` of `sender` at `now` against `current` ([`Document::absent`] if there never was one).
///
/// An update of a shadow that does not exist makes it exist, at the next version, even when all its sections stay
/// empty: who was told "accepted" finds it. On one that exists, an update that changes no value is
/// [`Decision::Unchanged`], unless it is one that touches.
///
/// # Errors
///
/// The [`Rejection`]; nothing is applied in part.
///
/// - [`Rejection::Forbidden`]: it would take something away that its sender may not write. What it names was checked
///   before ([`Scope::admit`]).
/// - [`Rejection::NotFound`]: there is nothing to delete.
/// - [`Rejection::VersionConflict`], [`Rejection::ExpectationFailed`]: a precondition does not hold, or a patch does
///   not fit.
/// - [`Rejection::TooDeep`], [`Rejection::TooLarge`], [`Rejection::TooManyLeaves`]: the result would be beyond
///   `limits`, and beyond what is there now.
pub fn decide(
    current: &Document,
    command: &Command,
    sender: &Sender,
    now: Timestamp,
    limits: &DocumentLimits,
) -> Result<Decision, Rejection> {
    let stamp = || Arc::new(Stamp { version: Version(current.version.0 + 1), timestamp: now, by: sender.by.clone() });
    match command {
        Command::Update(update) => decide_update(current, update, &sender.scope, stamp, limits),
        Command::Delete(delete) => decide_delete(current, delete, &sender.scope, stamp, limits),
        Command::Patch(patch) => {
            decide_update(current, &patch.resolve(current, &sender.scope, limits)?, &sender.scope, stamp, limits)
        }
    }
}

fn decide_update(
    current: &Document,
    update: &Update,
    scope: &Scope,
    stamp: impl FnOnce() -> Arc<Stamp>,
    limits: &DocumentLimits,
) -> Result<Decision, Rejection> {
    if let Some(path) = scope.spoils(update, current) {
        return Err(Rejection::Forbidden { what: path.to_string() });
    }
    update.preconditions.check(current, &scope.reads, |since| collisions::is_clean(update, current, since))?;
    let mut changes = Vec::new();
    for name in SectionName::ALL {
        let members = &current.section(name).members;
        merge::changes_of_section(name, members, update, &mut changes);
    }
    if changes.is_empty() && current.exists() && !update.touches {
        return Ok(Decision::Unchanged);
    }
    let document = current.apply(&changes, &stamp(), false, limits.path_tombstones_max);
    limits.check(current, &document, &changes)?;
    Ok(Decision::Changed { document, changes })
}

fn decide_delete(
    current: &Document,
    delete: &Delete,
    scope: &Scope,
    stamp: impl FnOnce() -> Arc<Stamp>,
    limits: &DocumentLimits,
) -> Result<Decision, Rejection> {
    if !current.exists() {
        return Err(Rejection::NotFound);
    }
    // A deletion touches everything, so it is never rebased.
    delete.preconditions.check(current, &scope.reads, |_| false)?;
    let mut changes = Vec::new();
    for name in SectionName::ALL {
        merge::clearing(name, &current.section(name).members, &mut changes);
    }
    let document = current.apply(&changes, &stamp(), true, limits.path_tombstones_max);
    Ok(Decision::Changed { document, changes })
}
