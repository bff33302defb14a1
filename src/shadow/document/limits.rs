//! Size limits of a shadow, checked on the document that a write would produce.
//!
//! A document may exceed a limit that was lowered after it was written. It stays writable as long as no write increases
//! the excess. A limit refuses a document only if it exceeds the limit *and* the previous size.

use serde_json::{Map, Value};

use crate::shadow::{
    command::{
        SectionPatch, Update,
        rejection::{Rejection, SizeLimit},
    },
    document::{
        Document, DocumentLimits, canonical,
        change::{Change, Effect},
        tree,
    },
    pointer::SectionName,
};

/// Most bytes of the paths of one change, as a multiple of the largest document.
const PATHS_PER_BYTE: usize = 16;

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
        self.check_sizes(current, next.state_bytes(), next.tags.canonical_bytes)?;
        let (count, max) = (next.leaves(), self.leaves_max);
        if count > max && count > current.leaves() {
            return Err(Rejection::TooManyLeaves { count, max });
        }
        Ok(())
    }

    /// Checks that `update` names no more paths than an update can need, which removes all of a document and sets all of another.
    /// Each path is compared with what changed and with what there is. An update of too many leaves is refused for them.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooLarge`], [`Rejection::TooManyLeaves`], [`Rejection::TooManyPaths`].
    pub(crate) fn check_paths(&self, current: &Document, update: &Update) -> Result<NamedValues, Rejection> {
        let named = NamedValues::of(update);
        let (count, max) = (named.paths, 2 * self.leaves_max.max(current.leaves()));
        if count <= max {
            return Ok(named);
        }
        self.check_update(current, update, named)?;
        Err(Rejection::TooManyPaths { count, max })
    }

    /// Checks that `update` alone has not more leaves than any document after it may have: a merge of very many would take long.
    /// What it alone exceeds is refused as in [`Self::check`].
    ///
    /// # Errors
    ///
    /// [`Rejection::TooLarge`], [`Rejection::TooManyLeaves`].
    pub(crate) fn check_update(
        &self,
        current: &Document,
        update: &Update,
        named: NamedValues,
    ) -> Result<(), Rejection> {
        let (count, max) = (named.leaves, self.leaves_max);
        if count <= max || count <= current.leaves() {
            return Ok(());
        }
        let (mut state, mut tags) = (0, 0);
        for (name, patch) in merges(update) {
            *(if name == SectionName::Tags { &mut tags } else { &mut state }) += canonical_bytes(patch);
        }
        self.check_sizes(current, state, tags)?;
        Err(Rejection::TooManyLeaves { count, max })
    }

    /// Checks the bytes of the paths of `changes`, each of which is written with all of its keys: objects inside each other with
    /// long keys would make a small update a hundred times as large.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooLarge`].
    pub(crate) fn check_changes(&self, current: &Document, changes: &[Change]) -> Result<(), Rejection> {
        let there = current.state_bytes() + current.tags.canonical_bytes;
        let size = changes.iter().map(|change| change.path.key_bytes()).sum();
        let max = PATHS_PER_BYTE * (self.document_bytes_max + self.tags_bytes_max).max(there);
        if size <= max { Ok(()) } else { Err(Rejection::TooLarge { what: SizeLimit::Paths, size, max }) }
    }

    /// Checks the bytes of the document after `current`.
    fn check_sizes(&self, current: &Document, state: usize, tags: usize) -> Result<(), Rejection> {
        for (what, size, before, max) in [
            (SizeLimit::State, state, current.state_bytes(), self.document_bytes_max),
            (SizeLimit::Tags, tags, current.tags.canonical_bytes, self.tags_bytes_max),
        ] {
            if size > max && size > before {
                return Err(Rejection::TooLarge { what, size, max });
            }
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

/// Returns the members that `update` merges or sets, by section.
fn merges(update: &Update) -> impl Iterator<Item = (SectionName, &Map<String, Value>)> {
    SectionName::ALL.into_iter().filter_map(|name| match update.section(name) {
        SectionPatch::Merge(patch) => Some((name, patch)),
        SectionPatch::Keep | SectionPatch::Clear => None,
    })
}

/// The numbers of what an update names.
#[derive(Clone, Copy, Default)]
pub(crate) struct NamedValues {
    /// The leaves and removals. An array is one here, since it is compared as one value.
    paths: usize,
    /// The fewest leaves that a merge leaves in its place: nulls leave none, and an object one at least.
    leaves: usize,
}

impl NamedValues {
    /// Returns the numbers of `update`.
    pub(crate) fn of(update: &Update) -> Self {
        let mut named = Self::default();
        merges(update).for_each(|(_, patch)| named.add(patch));
        named
    }

    fn add(&mut self, patch: &Map<String, Value>) {
        for value in patch.values() {
            match value {
                Value::Null => self.paths += 1,
                Value::Object(members) => {
                    let Self { paths, leaves } = *self;
                    self.add(members);
                    self.paths = self.paths.max(paths + 1);
                    self.leaves = self.leaves.max(leaves + 1);
                }
                other => {
                    self.paths += 1;
                    self.leaves += tree::leaves_of_value(other);
                }
            }
        }
    }
}

fn canonical_bytes(patch: &Map<String, Value>) -> usize {
    let mut out = Vec::new();
    canonical::write_object_value(&mut out, patch);
    out.len()
}
