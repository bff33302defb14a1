//! The decision on a command.
//!
//! The checks run in this order, and the first failure is returned: the rights of the sender, the number of paths, the
//! preconditions, the limits on the result. The syntax was checked when the command was parsed. A patch is first resolved to an update
//! ([`Patch::resolve`]).
//!
//! [`Patch::resolve`]: crate::shadow::command::Patch::resolve

use std::sync::Arc;

use crate::shadow::{
    command::{Command, Delete, Update, conflicts, idempotency::FirstOutcome, rejection::Rejection},
    document::{Document, DocumentLimits, Stamp, Timestamp, Version, change::Change, merge},
    pointer::SectionName,
    rights::{Scope, Sender},
};

/// The effect of an accepted command on the document.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The shadow has a new version. `changes` is empty if an update makes an absent shadow exist without members. It
    /// may also be empty in the AWS dialect, where every update takes a version.
    Changed {
        /// The next document.
        document: Document,
        /// The changes that lead from the former document to `document`.
        changes: Vec<Change>,
    },
    /// The command is accepted and changes nothing.
    Unchanged,
}

/// The disposition of an accepted command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The command was applied.
    Applied,
    /// The command was a dry run and was not applied.
    DryRun,
    /// The command had been applied before, with this outcome.
    Replayed(FirstOutcome),
}

/// Decides `command` of `sender` at `now` against `current`, which is [`Document::absent`] for a shadow never written.
///
/// An update of a shadow that does not exist creates it at the next version, even if all its sections stay empty. So
/// every requester that received "accepted" finds the shadow. An update of an existing shadow that changes no value is
/// [`Decision::Unchanged`], unless the update refreshes times.
///
/// # Errors
///
/// The [`Rejection`]; nothing is applied in part.
///
/// - [`Rejection::Forbidden`]: it would remove a value that its sender may not write. The paths it names were checked
///   by [`Scope::admit`].
/// - [`Rejection::NotFound`]: the shadow to delete does not exist.
/// - [`Rejection::VersionConflict`], [`Rejection::ExpectationFailed`]: a precondition does not hold, or a patch
///   operation does not apply.
/// - [`Rejection::TooManyPaths`]: it names more paths than an update can need.
/// - [`Rejection::TooDeep`], [`Rejection::TooLarge`], [`Rejection::TooManyLeaves`]: the result exceeds `limits` and the
///   size of the current document.
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
    if let Some(path) = scope.overwrites(update, current) {
        return Err(Rejection::Forbidden { what: path.to_string() });
    }
    // The preconditions compare each path.
    let named = limits.check_paths(current, update)?;
    update.preconditions.check(current, &scope.reads, |since| conflicts::is_clean(update, current, since))?;
    limits.check_update(current, update, named)?;
    let mut changes = Vec::new();
    for name in SectionName::ALL {
        let members = &current.section(name).members;
        merge::changes_of_section(name, members, update, &mut changes);
    }
    if changes.is_empty() && current.exists() && !update.bumps {
        return Ok(Decision::Unchanged);
    }
    limits.check_changes(current, &changes)?;
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
    // A deletion touches every path, so it is never rebased.
    delete.preconditions.check(current, &scope.reads, |_| false)?;
    let mut changes = Vec::new();
    for name in SectionName::ALL {
        merge::clearing(name, &current.section(name).members, &mut changes);
    }
    let document = current.apply(&changes, &stamp(), true, limits.path_tombstones_max);
    Ok(Decision::Changed { document, changes })
}
