//! Where, and since which version, something is no more: the upkeep of a document's path tombstones.
//!
//! Leaves carry the version of their last change; what a leaf cannot tell is that something is gone. So a tombstone
//! lies at each path where a thing was removed, or where a scalar or array became an object (below an object the leaf
//! is not looked at any more). An object that turns into a leaf needs none: that leaf's own stamp is newer than all
//! there was. `{}` is an object: it takes and loses members without turning into another kind, and losing the last
//! one buries that member, not the object, so that a writer of its sibling does not collide.
//!
//! A newer stamp or tombstone at or above a path says all that an older tombstone there could, which is then dropped.
//! *Invariant:* no information is lost but by eviction, and the floor is raised to the version of what was evicted.

use std::sync::Arc;

use serde_json::Value;

use crate::shadow::{
    change::{Change, Effect},
    document::{Stamp, Tombstone, Version},
    pointer::Pointer,
};

/// Notes what `changes` make of the tombstones, which are cloned only when they make something of them.
pub(crate) fn note(tombstones: &mut Arc<Vec<Tombstone>>, changes: &[Change], stamp: &Arc<Stamp>) {
    // Changes of one command do not lie below one another, so none drops what another one buries.
    let mut buried = Vec::new();
    for change in changes {
        let mut bury = |path: Pointer| {
            drop_within(tombstones, &path);
            buried.push(Tombstone { path, removed: stamp.clone() });
        };
        let former = change.replaced.as_ref().map(|replaced| &replaced.value);
        match (&change.effect, former) {
            (Effect::Touch, _) => {}
            // Emptying a section is removing its members.
            (Effect::Remove, Some(Value::Object(members))) if change.path.keys.is_empty() => {
                members.keys().for_each(|key| bury(change.path.member(key)));
            }
            (Effect::Remove, _) => bury(change.path.clone()),
            (Effect::Set(Value::Object(next)), Some(Value::Object(members))) => {
                let gone = members.keys().filter(|key| !next.contains_key(key.as_str()));
                gone.for_each(|key| bury(change.path.member(key)));
            }
            (Effect::Set(Value::Object(_)), Some(_)) => bury(change.path.clone()),
            // A new object says nothing of what was below its path before.
            (Effect::Set(Value::Object(_)), None) => {}
            (Effect::Set(_), _) => drop_within(tombstones, &change.path),
        }
    }
    if !buried.is_empty() {
        Arc::make_mut(tombstones).append(&mut buried);
    }
}

/// Evicts the oldest until `max` are left, and returns the version below which comparisons are not to be trusted now.
pub(crate) fn evict(tombstones: &mut Arc<Vec<Tombstone>>, max: usize) -> Version {
    let excess = tombstones.len().saturating_sub(max);
    if excess == 0 {
        return Version(0);
    }
    // Against this version itself nothing is lost: the evicted say "changed after N" only for smaller N.
    let evicted = Arc::make_mut(tombstones).drain(..excess);
    evicted.map(|tombstone| tombstone.removed.version).max().unwrap_or_default()
}

fn drop_within(tombstones: &mut Arc<Vec<Tombstone>>, path: &Pointer) {
    if tombstones.iter().any(|tombstone| tombstone.path.is_within(path)) {
        Arc::make_mut(tombstones).retain(|tombstone| !tombstone.path.is_within(path));
    }
}
