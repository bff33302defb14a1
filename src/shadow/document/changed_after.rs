//! The check for changes of a path since a version, by which writers of different fields do not conflict.
//!
//! A path changed after version N if its own value, or a value below it, was set or removed since. It also changed if a
//! value above it was removed or changed its kind; a sibling does not count. A scalar or array above the path always
//! counts, because a write below would replace it. The check never wrongly returns false: evicted and deleted paths lie
//! below the floor, where every path counts as changed.

use crate::shadow::{
    document::{
        Document, Version,
        tree::{self, Members, Node},
    },
    pointer::Pointer,
};

impl Document {
    /// Returns true if the value at `path` changed after version `since`; see the module for the rules.
    #[must_use]
    pub fn changed_after(&self, path: &Pointer, since: Version) -> bool {
        since < self.floor
            || self.newest_stamp(path) > since
            || self.tombstones.iter().any(|tombstone| {
                tombstone.removed.version > since && (tombstone.path.is_within(path) || path.is_within(&tombstone.path))
            })
    }

    /// Returns the newest version of the leaves at, below or right above `path`.
    pub(crate) fn newest_stamp(&self, path: &Pointer) -> Version {
        newest_at(&self.section(path.section).members, &path.keys)
    }
}

fn newest_at(members: &Members, keys: &[Box<str>]) -> Version {
    let [key, rest @ ..] = keys else { return tree::newest(members) };
    match members.get(key) {
        None => Version(0),
        Some(Node::Object(inner)) => newest_at(inner, rest),
        // `{}` above the path is an object whose other members do not count; removed members have tombstones.
        Some(Node::Leaf(leaf)) if leaf.value.is_object() && !rest.is_empty() => Version(0),
        Some(Node::Leaf(leaf)) => leaf.changed.version,
    }
}
