//! What was at the paths of conflicts before the changes that they conflict with.
//!
//! The changes are undone one by one, newest first, at those paths alone: a change at or above a path has its former
//! value in what it replaced, one below it is put back into the value. The journal is walked by who has it.

use serde_json::Value;

use crate::shadow::{
    change::Change,
    collisions::{Collisions, Conflict},
    pointer::Pointer,
};

/// A walk back from the document the conflicts were found in.
#[derive(Debug)]
pub struct Rewind<'a> {
    conflicts: &'a mut [Conflict],
    /// What was at the path of each conflict, as far back as the walk is.
    values: Vec<Option<Value>>,
}

impl Collisions {
    /// Starts at the document the conflicts were found in.
    pub fn rewind(&mut self) -> Rewind<'_> {
        let values = self.conflicts.iter().map(|conflict| conflict.current.clone()).collect();
        Rewind { conflicts: &mut self.conflicts, values }
    }
}

impl Rewind<'_> {
    /// Goes back over one more version, which `changes` made.
    pub fn undo(&mut self, changes: &[Change]) {
        for change in changes {
            for (conflict, value) in self.conflicts.iter().zip(&mut self.values) {
                undo(change, &conflict.path, value);
            }
        }
    }

    /// Has arrived at the expected version: what is here now is the base.
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
