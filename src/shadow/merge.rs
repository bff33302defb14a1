//! What an update changes: RFC 7396 merge, or whole replacement, of one section, told as the smallest set of changes.
//!
//! Nothing is applied here. The rules of [`Change`] hold: members of objects that stay objects are told one by one, all
//! else whole. So an object that loses its last member is told as set to `{}`, one that was `{}` and gains a member is
//! told whole, and a section that comes or goes is told as that section. An equal value is no
//! change, unless the update touches what it sends again.

use serde_json::{Map, Value};

use crate::shadow::{
    change::{Change, Effect, Replaced},
    command::{SectionPatch, Update},
    equality,
    pointer::{Pointer, SectionName},
    tree::{self, Members, Node},
};

/// Appends what `update` changes in its section `name`, which holds `current`.
pub(crate) fn changes_of_section(name: SectionName, current: &Members, update: &Update, changes: &mut Vec<Change>) {
    let mut diff = Diff { section: name, keys: Vec::new(), touches: update.touches, changes };
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

/// A walk down one section: where it is, and what it found.
struct Diff<'a> {
    section: SectionName,
    keys: Vec<&'a str>,
    /// Whether an equal value is told as touched.
    touches: bool,
    changes: &'a mut Vec<Change>,
}

impl<'a> Diff<'a> {
    /// The section, which was empty, is now `next`.
    fn appear(&mut self, next: Map<String, Value>) {
        if !next.is_empty() {
            self.tell(None, Effect::Set(Value::Object(next)));
        }
    }

    /// The section is emptied.
    fn clear(&mut self, current: &Members) {
        if !current.is_empty() {
            self.tell(Some(replaced_object(current)), Effect::Remove);
        }
    }

    /// Merges `patch` into an object that has members.
    fn merge(&mut self, current: &Members, patch: &'a Map<String, Value>) {
        let told = self.changes.len();
        let mut members = current.len();
        for (key, value) in patch {
            self.keys.push(key);
            match (current.get(key.as_str()), value) {
                (None, Value::Null) => {}
                (Some(node), Value::Null) => {
                    members -= 1;
                    self.tell(Some(replaced(node)), Effect::Remove);
                }
                (None, value) => {
                    members += 1;
                    self.tell(None, Effect::Set(cleaned(value)));
                }
                (Some(Node::Object(inner)), Value::Object(patch)) => self.merge(inner, patch),
                (Some(node), Value::Object(_)) => self.set(node, &cleaned(value)),
                (Some(node), value) => self.set(node, value),
            }
            self.keys.pop();
        }
        if members == 0 {
            // All that was told is the removal of every member: it is told whole.
            self.changes.truncate(told);
            let emptied = if self.keys.is_empty() { Effect::Remove } else { Effect::Set(Value::Object(Map::new())) };
            self.tell(Some(replaced_object(current)), emptied);
        }
    }

    /// Turns an object that has members into `next`, which has some too.
    fn replace(&mut self, current: &'a Members, next: &'a Map<String, Value>) {
        for (key, node) in current {
            if !next.contains_key(&**key) {
                self.keys.push(key);
                self.tell(Some(replaced(node)), Effect::Remove);
                self.keys.pop();
            }
        }
        for (key, value) in next {
            self.keys.push(key);
            match (current.get(key.as_str()), value) {
                (Some(Node::Object(inner)), Value::Object(next)) if !next.is_empty() => self.replace(inner, next),
                (Some(node), value) => self.set(node, value),
                (None, value) => self.tell(None, Effect::Set(value.clone())),
            }
            self.keys.pop();
        }
    }

    /// Tells that `node` becomes `value`, if that is another value.
    fn set(&mut self, node: &Node, value: &Value) {
        if !equality::holds(node, value) {
            self.tell(Some(replaced(node)), Effect::Set(value.clone()));
        } else if self.touches {
            self.tell(Some(replaced(node)), Effect::Touch);
        }
    }

    fn tell(&mut self, replaced: Option<Replaced>, effect: Effect) {
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

/// RFC 7396 drops nulls of objects that are new; arrays are taken as they are.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(without_nulls(members)),
        other => other.clone(),
    }
}

fn without_nulls(members: &Map<String, Value>) -> Map<String, Value> {
    let kept = members.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(key, value)| (key.clone(), cleaned(value))).collect()
}

/// What removes a whole section, for a deletion.
pub(crate) fn clearing(name: SectionName, current: &Members, changes: &mut Vec<Change>) {
    Diff { section: name, keys: Vec::new(), touches: false, changes }.clear(current);
}
