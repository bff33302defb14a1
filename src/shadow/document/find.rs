//! Path lookup in a document.

use std::sync::Arc;

use serde_json::Value;

use crate::shadow::{
    document::{
        Document, Stamp, equality,
        tree::{self, Leaf, Members, Node},
    },
    pointer::Pointer,
};

/// The target of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PathTarget<'a> {
    /// A section or an object with members.
    Members(&'a Members),
    /// A leaf.
    Leaf(&'a Leaf),
    /// An element of an array, or a value inside one.
    Inside(&'a Value),
}

impl Document {
    /// Returns the target of `path`. A key that meets an array is an index into it (RFC 6901).
    pub(crate) fn find(&self, path: &Pointer) -> Option<PathTarget<'_>> {
        let section = &self.section(path.section).members;
        if section.is_empty() { None } else { find(PathTarget::Members(section), &path.keys) }
    }

    /// Returns the newest stamp at, below or right above `path`, including the stamps of removals there.
    pub(crate) fn newest_change(&self, path: &Pointer) -> Option<&Arc<Stamp>> {
        let (mut members, mut keys) = (&self.section(path.section).members, path.keys.as_slice());
        let leaf_stamp = loop {
            let [key, rest @ ..] = keys else { break newest_of(members) };
            match members.get(key) {
                None => break None,
                Some(Node::Object(inner)) => (members, keys) = (inner, rest),
                Some(Node::Leaf(leaf)) if leaf.value.is_object() && !rest.is_empty() => break None,
                Some(Node::Leaf(leaf)) => break Some(&leaf.changed),
            }
        };
        let removals = self.tombstones.iter();
        let removals = removals.filter(|tombstone| tombstone.path.is_within(path) || path.is_within(&tombstone.path));
        leaf_stamp.into_iter().chain(removals.map(|tombstone| &tombstone.removed)).max_by_key(|stamp| stamp.version)
    }
}

fn find<'a>(at: PathTarget<'a>, keys: &[Box<str>]) -> Option<PathTarget<'a>> {
    let [key, rest @ ..] = keys else { return Some(at) };
    let next = match at {
        PathTarget::Members(members) => match members.get(key)? {
            Node::Leaf(leaf) => PathTarget::Leaf(leaf),
            Node::Object(members) => PathTarget::Members(members),
        },
        PathTarget::Leaf(Leaf { value, .. }) => PathTarget::Inside(part(value, key)?),
        PathTarget::Inside(value) => PathTarget::Inside(part(value, key)?),
    };
    find(next, rest)
}

fn part<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Array(elements) => elements.get(index(key)?),
        Value::Object(members) => members.get(key),
        _ => None,
    }
}

/// Parses an array index: digits without leading zeros (RFC 6901).
pub(in crate::shadow) fn index(key: &str) -> Option<usize> {
    let canonical = key == "0" || !key.starts_with(['0', '+']);
    key.parse().ok().filter(|_| canonical)
}

fn newest_of(members: &Members) -> Option<&Arc<Stamp>> {
    let stamps = members.values().filter_map(|node| match node {
        Node::Leaf(leaf) => Some(&leaf.changed),
        Node::Object(inner) => newest_of(inner),
    });
    stamps.max_by_key(|stamp| stamp.version)
}

impl PathTarget<'_> {
    /// Returns true if the target equals `value`; numbers compare by value.
    pub(crate) fn is(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Members(members), Value::Object(other)) => equality::members_hold(members, other),
            (Self::Members(_), _) => false,
            (Self::Leaf(leaf), value) => equality::same(&leaf.value, value),
            (Self::Inside(found), value) => equality::same(found, value),
        }
    }

    /// Returns a copy of the target as JSON.
    pub(crate) fn to_value(self) -> Value {
        match self {
            Self::Members(members) => Value::Object(tree::values(members)),
            Self::Leaf(leaf) => Value::clone(&leaf.value),
            Self::Inside(value) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use crate::shadow::tests::written;

    #[test]
    fn the_newest_change_is_at_a_path_below_it_or_right_above_it() {
        let document = written(&[
            json!({"reported": {"a": {"b": 1, "c": 1}, "list": [1, 2], "empty": {}}}),
            json!({"reported": {"a": {"c": 2}}}),
            json!({"reported": {"a": {"d": 3}}}),
            json!({"reported": {"a": {"d": null}}}),
        ]);
        for (path, expected) in [
            ("/reported", Some(4)),
            ("/reported/a/b", Some(1)),
            ("/reported/a/c", Some(2)),
            ("/reported/a/d", Some(4)),
            ("/reported/list/0", Some(1)),
            ("/reported/empty", Some(1)),
            ("/reported/empty/x", None),
            ("/reported/other", None),
            ("/desired", None),
        ] {
            let newest = document.newest_change(&path.parse().unwrap());
            assert_eq!(newest.map(|stamp| stamp.version.0), expected, "{path}");
        }
        let without_removals = written(&[json!({"reported": {"a": {"b": 1}}}), json!({"reported": {"a": {"b": 2}}})]);
        let newest = without_removals.newest_change(&"/reported/a".parse().unwrap());
        assert_eq!(newest.map(|stamp| stamp.version.0), Some(2));
    }
}
