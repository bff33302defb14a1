//! Maintenance of the path tombstones of a document.
//!
//! A leaf carries the version of its last change, but no leaf can show that a value was removed. So a tombstone marks
//! each path whose value was removed. It also marks each path where a scalar or array became an object, because lookups
//! below an object do not see the former leaf. An object that becomes a leaf needs none: the stamp of that leaf is
//! newer than all its former members. `{}` is an object: gaining and losing members does not change its kind. When it
//! loses the last member, the tombstone marks that member, not the object, so that a writer of a sibling does not
//! conflict.
//!
//! A newer stamp or tombstone at or above a path covers every older tombstone there, which is then dropped.
//! *Invariant:* only eviction loses information, and it raises the floor to the newest version evicted.

use std::sync::Arc;

use serde_json::Value;

use crate::shadow::{
    document::{
        Stamp, Tombstone, Version,
        change::{Change, Effect},
    },
    pointer::Pointer,
};

/// Records `changes` in the tombstones. They are cloned only if they change.
pub(crate) fn note(tombstones: &mut Arc<Vec<Tombstone>>, changes: &[Change], stamp: &Arc<Stamp>) {
    // No change of a command lies below another, so none drops a tombstone added by another.
    let mut added = Vec::new();
    for change in changes {
        let mut add = |path: Pointer| {
            drop_within(tombstones, &path);
            added.push(Tombstone { path, removed: stamp.clone() });
        };
        let former = change.replaced.as_ref().map(|replaced| &replaced.value);
        match (&change.effect, former) {
            (Effect::Touch, _) => {}
            // Clearing a section removes each of its members.
            (Effect::Remove, Some(Value::Object(members))) if change.path.keys.is_empty() => {
                members.keys().for_each(|key| add(change.path.member(key)));
            }
            (Effect::Remove, _) => add(change.path.clone()),
            (Effect::Set(Value::Object(next)), Some(Value::Object(members))) => {
                let gone = members.keys().filter(|key| !next.contains_key(key.as_str()));
                gone.for_each(|key| add(change.path.member(key)));
            }
            (Effect::Set(Value::Object(_)), Some(_)) => add(change.path.clone()),
            // A new object does not cover older tombstones below its path.
            (Effect::Set(Value::Object(_)), None) => {}
            (Effect::Set(_), _) => drop_within(tombstones, &change.path),
        }
    }
    if !added.is_empty() {
        Arc::make_mut(tombstones).append(&mut added);
    }
}

/// Most bytes of the keys of a document's tombstones, so that they have 128 each on average. It is a constant, since all nodes of
/// a cluster must evict the same ones.
pub(crate) const KEY_BYTES_MAX: usize = 32 << 10;

/// Evicts the oldest tombstones until `max` are left, with at most [`KEY_BYTES_MAX`]. Returns the new floor, or version 0 if none
/// was evicted.
pub(crate) fn evict(tombstones: &mut Arc<Vec<Tombstone>>, max: usize) -> Version {
    let mut bytes: usize = tombstones.iter().map(|tombstone| tombstone.path.key_bytes()).sum();
    let too_many = tombstones.len().saturating_sub(max);
    let mut excess = 0;
    for tombstone in tombstones.iter() {
        if excess >= too_many && bytes <= KEY_BYTES_MAX {
            break;
        }
        bytes -= tombstone.path.key_bytes();
        excess += 1;
    }
    if excess == 0 {
        return Version(0);
    }
    // Comparing against the evicted version itself stays exact: its tombstones matter only for older versions.
    let evicted = Arc::make_mut(tombstones).drain(..excess);
    evicted.map(|tombstone| tombstone.removed.version).max().unwrap_or_default()
}

fn drop_within(tombstones: &mut Arc<Vec<Tombstone>>, path: &Pointer) {
    if tombstones.iter().any(|tombstone| tombstone.path.is_within(path)) {
        Arc::make_mut(tombstones).retain(|tombstone| !tombstone.path.is_within(path));
    }
}
