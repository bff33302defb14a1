//! The changes that an update makes to one section, by RFC 7396 merge or by replacement.
//!
//! This module computes the smallest set of changes and applies nothing. It follows the rules of [`Change`]: members of
//! objects that stay objects are separate changes, all other values are one change each. An object that loses its last
//! member is set to `{}`. An object that was `{}` and gains members is set as one value. A section that appears or
//! disappears is one change at the section. Equal values are no change, unless the update refreshes times.

use serde_json::{Map, Value};

use crate::shadow::{
    command::{SectionPatch, Update},
    document::{
        change::{Change, Effect, Replaced},
        equality,
        tree::{self, Members, Node},
    },
    pointer::{Pointer, SectionName},
};

/// Appends the changes that `update` makes to the section `name`, which holds `current`.
pub(crate) fn changes_of_section(name: SectionName, current: &Members, update: &Update, changes: &mut Vec<Change>) {
    let mut diff = Diff { section: name, keys: Vec::new(), bumps: update.bumps, changes };
    match update.section(name) {
        SectionPatch::Keep => {}
        SectionPatch::Clear => diff.clear(current),
        SectionPatch::Merge(patch) if current.is_empty() => diff.appear(without_nulls(patch)),
        SectionPatch::Merge(patch) if update.replace => match without_nulls(patch) {
            next if next.is_empty() => diff.clear(current),
            next => diff.replace(current, &next),
        },
        SectionPatch::Merge(patch) => diff.merge(current, patch),
    }
}

/// A walk through one section that collects changes.
struct Diff<'a> {
    section: SectionName,
    keys: Vec<&'a str>,
    /// True to record an equal value as touched.
    bumps: bool,
    changes: &'a mut Vec<Change>,
}

impl<'a> Diff<'a> {
    /// Records that the section, which was empty, becomes `next`.
    fn appear(&mut self, next: Map<String, Value>) {
        if !next.is_empty() {
            self.record(None, Effect::Set(Value::Object(next)));
        }
    }

    /// Records that the section is cleared.
    fn clear(&mut self, current: &Members) {
        if !current.is_empty() {
            self.record(Some(replaced_object(current)), Effect::Remove);
        }
    }

    /// Merges `patch` into an object that has members.
    fn merge(&mut self, current: &Members, patch: &'a Map<String, Value>) {
        let recorded = self.changes.len();
        let mut members = current.len();
        for (key, value) in patch {
            self.keys.push(key);
            match (current.get(key.as_str()), value) {
                (None, Value::Null) => {}
                (Some(node), Value::Null) => {
                    members -= 1;
                    self.record(Some(replaced(node)), Effect::Remove);
                }
                (None, value) => {
                    members += 1;
                    self.record(None, Effect::Set(cleaned(value)));
                }
                (Some(Node::Object(inner)), Value::Object(patch)) => self.merge(inner, patch),
                (Some(node), Value::Object(_)) => self.set(node, &cleaned(value)),
                (Some(node), value) => self.set(node, value),
            }
            self.keys.pop();
        }
        if members == 0 {
            // Every recorded change removes a member: record one change of the whole object instead.
            self.changes.truncate(recorded);
            let emptied = if self.keys.is_empty() { Effect::Remove } else { Effect::Set(Value::Object(Map::new())) };
            self.record(Some(replaced_object(current)), emptied);
        }
    }

    /// Replaces an object that has members by `next`, which has members too.
    fn replace(&mut self, current: &'a Members, next: &'a Map<String, Value>) {
        for (key, node) in current {
            if !next.contains_key(&**key) {
                self.keys.push(key);
                self.record(Some(replaced(node)), Effect::Remove);
                self.keys.pop();
            }
        }
        for (key, value) in next {
            self.keys.push(key);
            match (current.get(key.as_str()), value) {
                (Some(Node::Object(inner)), Value::Object(next)) if !next.is_empty() => self.replace(inner, next),
                (Some(node), value) => self.set(node, value),
                (None, value) => self.record(None, Effect::Set(value.clone())),
            }
            self.keys.pop();
        }
    }

    /// Records that `node` becomes `value`, unless they are equal.
    fn set(&mut self, node: &Node, value: &Value) {
        if !equality::holds(node, value) {
            self.record(Some(replaced(node)), Effect::Set(value.clone()));
        } else if self.bumps {
            self.record(Some(replaced(node)), Effect::Touch);
        }
    }

    fn record(&mut self, replaced: Option<Replaced>, effect: Effect) {
        let keys = self.keys.iter().map(|&key| key.into()).collect();
        self.changes.push(Change { path: Pointer { section: self.section, keys }, replaced, effect });
    }
}

fn replaced(node: &Node) -> Replaced {
    Replaced { value: node.to_value(), version: node.newest() }
}

fn replaced_object(members: &Members) -> Replaced {
    Replaced { value: Value::Object(tree::values(members)), version: tree::newest(members) }
}

/// Returns `value` without the nulls of objects, as RFC 7396 requires for new objects; arrays are unchanged.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(without_nulls(members)),
        other => other.clone(),
    }
}

/// Returns `members` without nulls, as [`cleaned`].
pub(crate) fn without_nulls(members: &Map<String, Value>) -> Map<String, Value> {
    let kept = members.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(key, value)| (key.clone(), cleaned(value))).collect()
}

/// Appends the change that removes a whole section, for a deletion.
pub(crate) fn clearing(name: SectionName, current: &Members, changes: &mut Vec<Change>) {
    Diff { section: name, keys: Vec::new(), bumps: false, changes }.clear(current);
}
