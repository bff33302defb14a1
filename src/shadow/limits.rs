//! How large a shadow may become, checked on the document that a write would make.
//!
//! A document may be above a limit that was lowered after it was written. It stays writable as long as a write does
//! not take it further up: a limit refuses only what exceeds it *and* exceeds what was there before.

use serde_json::Value;

use crate::shadow::{
    change::{Change, Effect},
    document::{Document, DocumentLimits},
    rejection::{Measured, Rejection},
};

impl DocumentLimits {
    /// Checks `next`, which `changes` would make of `current`.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooDeep`], [`Rejection::TooLarge`], [`Rejection::TooManyLeaves`].
    pub(crate) fn check(&self, current: &Document, next: &Document, changes: &[Change]) -> Result<(), Rejection> {
        if changes.iter().any(|change| self.too_deep(change)) {
            return Err(Rejection::TooDeep { max: self.depth_max });
        }
        for (what, size, before, max) in [
            (Measured::State, next.state_bytes(), current.state_bytes(), self.document_bytes_max),
            (Measured::Tags, next.tags.canonical_bytes, current.tags.canonical_bytes, self.tags_bytes_max),
        ] {
            if size > max && size > before {
                return Err(Rejection::TooLarge { what, size, max });
            }
        }
        let (count, max) = (next.leaves(), self.leaves_max);
        if count > max && count > current.leaves() {
            return Err(Rejection::TooManyLeaves { count, max });
        }
        Ok(())
    }

    fn too_deep(&self, change: &Change) -> bool {
        let Effect::Set(value) = &change.effect else { return false };
        // The section itself is no level, and neither is the last key.
        let above = change.path.keys.len();
        let level = |value| (above + depth(value)).saturating_sub(1);
        let before = change.replaced.as_ref().map_or(0, |replaced| level(&replaced.value));
        level(value) > self.depth_max && level(value) > before
    }
}

/// Levels of a value, itself included: a scalar 0, an array or object one more than the deepest thing in it.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
