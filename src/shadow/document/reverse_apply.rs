//! Lookup of the base values of conflicts: the values before the conflicting changes.
//!
//! The changes are reversed one by one, newest first, at the conflicting paths only. A change at or above a path
//! restores the value it replaced; a change below is reverted inside the value. The caller walks the journal.

use serde_json::Value;

use crate::shadow::{
    command::conflicts::{Collisions, Conflict},
    document::change::Change,
    pointer::Pointer,
};

/// A walk back over versions, beginning at the document in which the conflicts were found.
#[derive(Debug)]
pub struct ReverseApply<'a> {
    conflicts: &'a mut [Conflict],
    /// The value at the path of each conflict, at the version reached so far.
    values: Vec<Option<Value>>,
}

impl Collisions {
    /// Begins at the document in which the conflicts were found.
    pub fn rewind(&mut self) -> ReverseApply<'_> {
        let values = self.conflicts.iter().map(|conflict| conflict.current.clone()).collect();
        ReverseApply { conflicts: &mut self.conflicts, values }
    }
}

impl ReverseApply<'_> {
    /// Goes back over one more version, made by `changes`.
    pub fn undo(&mut self, changes: &[Change]) {
        for change in changes {
            for (conflict, value) in self.conflicts.iter().zip(&mut self.values) {
                undo(change, &conflict.path, value);
            }
        }
    }

    /// Ends the walk at the expected version and stores the values reached as the bases.
    pub fn arrive(self) {
        for (conflict, value) in self.conflicts.iter_mut().zip(self.values) {
            conflict.base = value;
        }
    }
}

fn undo(change: &Change, path: &Pointer, value: &mut Option<Value>) {
    let former = change.replaced.as_ref().map(|replaced| &replaced.value);
    if path.is_within(&change.path) {
        let below = path.keys.iter().skip(change.path.keys.len());
        *value = below.fold(former, |at, key| at.and_then(|at| at.as_object()?.get(&**key))).cloned();
    } else if change.path.is_within(path)
        && let Some(value) = value
    {
        put(value, change.path.keys.get(path.keys.len()..).unwrap_or_default(), former);
    }
}

fn put(at: &mut Value, keys: &[Box<str>], former: Option<&Value>) {
    let Some(members) = at.as_object_mut() else { return };
    match (keys, former) {
        ([], _) => {}
        ([key], Some(former)) => _ = members.insert((**key).into(), former.clone()),
        ([key], None) => _ = members.remove(&**key),
        ([key, rest @ ..], _) => {
            if let Some(inner) = members.get_mut(&**key) {
                put(inner, rest, former);
            }
        }
    }
}
