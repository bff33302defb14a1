//! Metadata in the native dialect: the state with `{"timestamp","version","by"}` in place of each leaf.

use std::{ops::Range, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    shadow::{
        Stamp, Version,
        document::tree::{Members, Node},
    },
    wire::write::Object,
};

/// A writer of metadata for one message.
///
/// Leaves set by one update share its stamp and mostly lie side by side, so the last stamp is written once and then
/// copied. A writer belongs to one buffer, from which no stamp may be removed.
#[derive(Debug)]
pub(in crate::wire) struct Metadata<'a> {
    last: Option<(&'a Arc<Stamp>, Range<usize>)>,
    /// The newest version for which [`Metadata::sent`] writes metadata.
    until: Version,
}

impl Default for Metadata<'_> {
    fn default() -> Self {
        Self::until(Version(u64::MAX))
    }
}

impl<'a> Metadata<'a> {
    /// Returns a writer for leaves whose last change is at most version `until`.
    pub(in crate::wire) fn until(until: Version) -> Self {
        Self { last: None, until }
    }

    /// Writes the metadata of an object in a section.
    pub(in crate::wire) fn members(&mut self, out: &mut Vec<u8>, members: &'a Members) {
        let mut object = Object::open(out);
        for (key, node) in members {
            match node {
                Node::Leaf(leaf) => self.stamp(object.key(key), &leaf.changed),
                Node::Object(inner) => self.members(object.key(key), inner),
            }
        }
        object.close();
    }

    /// Writes the metadata that the values of `patch` have in `members` now; removed values have none. Returns false if
    /// it wrote nothing.
    pub(in crate::wire) fn sent(
        &mut self,
        out: &mut Vec<u8>,
        patch: &Map<String, Value>,
        members: &'a Members,
    ) -> bool {
        let mut object = Object::open(out);
        for (key, value) in patch {
            object.member_if(key, |out| match (value, members.get(key.as_str())) {
                // Removed by a null.
                (_, None) => false,
                (_, Some(Node::Leaf(leaf))) if leaf.changed.version > self.until => false,
                (_, Some(Node::Leaf(leaf))) => {
                    self.stamp(out, &leaf.changed);
                    true
                }
                (Value::Object(patch), Some(Node::Object(inner))) => self.sent(out, patch, inner),
                (_, Some(Node::Object(_))) => false,
            });
        }
        object.close_unless_empty()
    }

    fn stamp(&mut self, out: &mut Vec<u8>, changed: &'a Arc<Stamp>) {
        match &self.last {
            Some((last, range)) if Arc::ptr_eq(last, changed) => out.extend_from_within(range.clone()),
            _ => {
                let start = out.len();
                write_stamp(out, changed);
                self.last = Some((changed, start..out.len()));
            }
        }
    }
}

fn write_stamp(out: &mut Vec<u8>, changed: &Stamp) {
    let mut object = Object::open(out);
    if !changed.is_forgotten() {
        object.member("timestamp", &changed.timestamp.0);
    }
    object.member("version", &changed.version.0);
    if !changed.is_forgotten() {
        object.text("by", &changed.by);
    }
    object.close();
}
