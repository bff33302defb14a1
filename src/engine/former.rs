//! A shadow as it was at a former version: the changes since are undone, newest first.

use std::sync::Arc;

use crate::{
    shadow::{Document, PreviousVersion, ShadowKey, Version},
    store::{HistoryReader, JournalEntry, StoreError, StoredShadow},
};

/// Most versions that are gone back.
const STEPS_MAX: usize = 10_000;

/// What was found of a version.
#[derive(Clone, Debug)]
pub enum AtVersion {
    /// The document; a tombstone, if that version was a deletion.
    Found(Arc<Document>),
    /// There is no such version yet; this is the current one.
    Later(Version),
    /// It is not kept any more, or too far back to look for.
    Gone,
}

/// Goes back from `held` to `version`, which is at least 1.
pub(super) fn at(
    past: &HistoryReader,
    key: &ShadowKey,
    held: &StoredShadow,
    version: Version,
) -> Result<AtVersion, StoreError> {
    let current = &held.document;
    match version {
        _ if version > current.version => return Ok(AtVersion::Later(current.version)),
        _ if version == current.version => return Ok(AtVersion::Found(current.clone())),
        _ => {}
    }
    let (mut undoing, mut former) = (current.undoing(), None);
    // The entry of the version itself tells what is known of it.
    let above = Version(version.0.saturating_sub(1));
    let arrived = past.walk(key, held, above, STEPS_MAX, |entry| match entry {
        JournalEntry { version: newer, changes, .. } if *newer > version => undoing.undo(changes),
        JournalEntry { version, timestamp, deleted, .. } => {
            former = Some(PreviousVersion { version: *version, timestamp: *timestamp, deleted: *deleted });
        }
    })?;
    match former.filter(|former| arrived && former.version == version) {
        Some(former) => Ok(AtVersion::Found(Arc::new(undoing.arrive(former)))),
        None => Ok(AtVersion::Gone),
    }
}
