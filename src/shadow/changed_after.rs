//! Whether a path changed after a version: the question that lets writers of different fields pass each other.
//!
//! A path changed after N when, since, it was set to another value or removed, something below it was, or a thing
//! above it was removed or turned into another kind; a sibling does not count. A scalar or array above the path counts
//! whenever it changed: whoever writes below it replaces it. The answer is never a wrong "no": what was evicted or
//! deleted is below the floor, and below the floor everything has changed.

use crate::shadow::{
    document::{Document, Version},
    pointer::Pointer,
    tree::{self, Members, Node},
};

impl Document {
    /// Whether the value at `path` changed after version `since`; see the module for what counts.
    #[must_use]
    pub fn changed_after(&self, path: &Pointer, since: Version) -> bool {
        since < self.floor
            || self.newest_stamp(path) > since
            || self.tombstones.iter().any(|tombstone| {
                tombstone.removed.version > since && (tombstone.path.is_within(path) || path.is_within(&tombstone.path))
            })
    }

    /// The newest version of the leaves at, below or right above `path`.
    pub(crate) fn newest_stamp(&self, path: &Pointer) -> Version {
        newest_at(&self.section(path.section).members, &path.keys)
    }
}

fn newest_at(members: &Members, keys: &[Box<str>]) -> Version {
    let [key, rest @ ..] = keys else { return tree::newest(members) };
    match members.get(key) {
        None => Version(0),
        Some(Node::Object(inner)) => newest_at(inner, rest),
        // `{}` above the path is an object whose other members do not matter; its removed ones have tombstones.
        Some(Node::Leaf(leaf)) if leaf.value.is_object() && !rest.is_empty() => Version(0),
        Some(Node::Leaf(leaf)) => leaf.changed.version,
    }
}
