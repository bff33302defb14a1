//! Size limits of a shadow, checked on the document that a write would produce.
//!
//! A document may exceed a limit that was lowered after it was written. It stays writable as long as no write increases
//! the excess. A limit refuses a document only if it exceeds the limit *and* the previous size.

use serde_json::Value;

use crate::shadow::{
    command::rejection::{Rejection, SizeLimit},
    document::{
        Document, DocumentLimits,
        change::{Change, Effect},
    },
};

impl DocumentLimits {
    /// Checks `next`, the result of applying `changes` to `current`.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooDeep`], [`Rejection::TooLarge`], [`Rejection::TooManyLeaves`].
    pub(crate) fn check(&self, current: &Document, next: &Document, changes: &[Change]) -> Result<(), Rejection> {
        if changes.iter().any(|change| self.too_deep(change)) {
            return Err(Rejection::TooDeep { max: self.depth_max });
        }
        for (what, size, before, max) in [
            (SizeLimit::State, next.state_bytes(), current.state_bytes(), self.document_bytes_max),
            (SizeLimit::Tags, next.tags.canonical_bytes, current.tags.canonical_bytes, self.tags_bytes_max),
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
        // Neither the section itself nor the last key counts as a level.
        let above = change.path.keys.len();
        let level = |value| (above + depth(value)).saturating_sub(1);
        let before = change.replaced.as_ref().map_or(0, |replaced| level(&replaced.value));
        level(value) > self.depth_max && level(value) > before
    }
}

/// Returns the nesting levels of a value, itself included. A scalar has 0; an array or object has one more than its
/// deepest member.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
