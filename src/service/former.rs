//! A shadow as it was at a former version: the changes since are undone, newest first.

use std::sync::Arc;

use crate::{
    shadow::{Change, Document, Former, ShadowKey, Version},
    store::{Held, Past, StoreError},
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
pub(super) fn at(past: &Past, key: &ShadowKey, held: &Held, version: Version) -> Result<AtVersion, StoreError> {
    let current = &held.document;
    match version {
        _ if version > current.version => return Ok(AtVersion::Later(current.version)),
        _ if version == current.version => return Ok(AtVersion::Found(current.clone())),
        _ => {}
    }
    let mut document = Document::clone(current);
    // The changes that made `document`, undone once it is known what was there before.
    let mut made_by: Option<Vec<Change>> = None;
    // The entry of the version itself tells what is known of it.
    let above = Version(version.0.saturating_sub(1));
    let arrived = past.walk(key, held, above, STEPS_MAX, |entry| {
        if let Some(changes) = made_by.take() {
            let former = Former { version: entry.version, timestamp: entry.timestamp, deleted: entry.deleted };
            document = document.undo(&changes, former);
        }
        made_by = Some(entry.changes.clone());
    })?;
    if arrived && document.version == version { Ok(AtVersion::Found(Arc::new(document))) } else { Ok(AtVersion::Gone) }
}
