//! The tree of one section: its values and a stamp at every leaf.
//!
//! A document has few members in an object, and is read, copied and freed far more often than it gains a member. So an
//! object is one allocation with little spare room, which has the keys of up to 15 bytes in it (decision 0018). The versions of a
//! document share the objects and arrays that did not change (decision 0026).

use std::{iter, mem, ops::Deref, slice, sync::Arc};

use ecow::{EcoString, EcoVec};
use serde_json::{Map, Value};

use crate::shadow::document::{Stamp, Version};

/// The key of a member.
pub type Key = EcoString;

/// The members of an object, in the byte order of their keys. A clone shares them until one of both is changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    sorted: EcoVec<(Key, Node)>,
}

/// A value in a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A scalar, an array (compared and replaced whole) or an empty object.
    Leaf(Leaf),
    /// An object with at least one member.
    Object(Members),
}

/// A leaf with the stamp of the change that gave it its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// The value: never a non-empty object, never null.
    pub value: LeafValue,
    /// The last change of the value.
    pub changed: Arc<Stamp>,
}

/// The value of a leaf. Clones share an array, which is only replaced whole.
#[derive(Clone, Debug)]
pub enum LeafValue {
    /// No array, or an empty one.
    Own(Value),
    /// An array.
    Shared(Arc<Value>),
}

impl From<Value> for LeafValue {
    fn from(value: Value) -> Self {
        match &value {
            Value::Array(elements) if !elements.is_empty() => Self::Shared(Arc::new(value)),
            _ => Self::Own(value),
        }
    }
}

impl Deref for LeafValue {
    type Target = Value;

    fn deref(&self) -> &Value {
        match self {
            Self::Own(value) => value,
            Self::Shared(value) => value,
        }
    }
}

impl PartialEq for LeafValue {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Members {
    /// Returns no members.
    #[must_use]
    pub const fn new() -> Self {
        Self { sorted: EcoVec::new() }
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Returns true if there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Returns the member `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let at = self.position(key).ok()?;
        self.sorted.get(at).map(|(_, node)| node)
    }

    /// Returns the member `key`.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let at = self.position(key).ok()?;
        self.sorted.make_mut().get_mut(at).map(|(_, node)| node)
    }

    /// Makes `node` the member `key`.
    pub fn insert(&mut self, key: &str, node: Node) {
        match self.position(key) {
            Ok(at) => {
                if let Some((_, there)) = self.sorted.make_mut().get_mut(at) {
                    *there = node;
                }
            }
            Err(at) => self.sorted.insert(at, (key.into(), node)),
        }
    }

    /// Removes the member `key`.
    pub fn remove(&mut self, key: &str) {
        if let Ok(at) = self.position(key) {
            self.sorted.remove(at);
        }
    }

    /// Returns the keys and members in order.
    pub fn iter(&self) -> Iter<'_> {
        self.sorted.iter().map(|(key, node)| (key, node))
    }

    /// Returns the members in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &Node> {
        self.sorted.iter().map(|(_, node)| node)
    }

    /// Returns the index of `key`, or the one at which it would be.
    fn position(&self, key: &str) -> Result<usize, usize> {
        self.sorted.binary_search_by(|(other, _)| (**other).cmp(key))
    }
}

/// An iterator over members.
pub type Iter<'a> = iter::Map<slice::Iter<'a, (Key, Node)>, fn(&'a (Key, Node)) -> (&'a Key, &'a Node)>;

impl<'a> IntoIterator for &'a Members {
    type Item = (&'a Key, &'a Node);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Keeps the last of equal keys.
impl From<Vec<(Key, Node)>> for Members {
    fn from(mut members: Vec<(Key, Node)>) -> Self {
        // They nearly always come in order.
        if !members.is_sorted_by(|(key, _), (next, _)| key < next) {
            members.sort_by(|(key, _), (next, _)| key.cmp(next));
            members.dedup_by(|later, kept| {
                let is_same = later.0 == kept.0;
                if is_same {
                    mem::swap(later, kept);
                }
                is_same
            });
        }
        Self { sorted: members.into() }
    }
}

impl FromIterator<(Key, Node)> for Members {
    fn from_iter<I: IntoIterator<Item = (Key, Node)>>(members: I) -> Self {
        Vec::from_iter(members).into()
    }
}

impl Node {
    /// Returns `value` with every leaf stamped `changed`.
    #[must_use]
    pub fn new(value: &Value, changed: &Arc<Stamp>) -> Self {
        match value {
            Value::Object(members) if !members.is_empty() => Self::Object(stamped(members, changed)),
            _ => Self::Leaf(Leaf { value: value.clone().into(), changed: changed.clone() }),
        }
    }

    /// Returns the value without its stamps.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Leaf(leaf) => Value::clone(&leaf.value),
            Self::Object(members) => Value::Object(values(members)),
        }
    }

    /// Returns the version at which a leaf of the node last changed.
    #[must_use]
    pub fn newest(&self) -> Version {
        match self {
            Self::Leaf(leaf) => leaf.changed.version,
            Self::Object(members) => newest(members),
        }
    }
}

/// Returns the members of an object with every leaf stamped `changed`.
#[must_use]
pub fn stamped(members: &Map<String, Value>, changed: &Arc<Stamp>) -> Members {
    members.iter().map(|(key, value)| (key.as_str().into(), Node::new(value, changed))).collect()
}

/// Returns the values of an object without their stamps.
#[must_use]
pub fn values(members: &Members) -> Map<String, Value> {
    members.iter().map(|(key, node)| (key.to_string(), node.to_value())).collect()
}

/// Returns the version at which a leaf of the object last changed; 0 for an empty object.
#[must_use]
pub fn newest(members: &Members) -> Version {
    members.values().map(Node::newest).max().unwrap_or_default()
}

/// Returns the number of leaves of an object; each array element counts.
#[must_use]
pub fn leaves(members: &Members) -> usize {
    let of = |node: &Node| match node {
        Node::Leaf(leaf) => leaves_of_value(&leaf.value),
        Node::Object(members) => leaves(members),
    };
    members.values().map(of).sum()
}

/// Counts an empty array or object as one leaf, any other one as the sum of its parts.
pub(crate) fn leaves_of_value(value: &Value) -> usize {
    match value {
        Value::Array(elements) if !elements.is_empty() => elements.iter().map(leaves_of_value).sum(),
        Value::Object(members) if !members.is_empty() => members.values().map(leaves_of_value).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leaf(value: i64) -> Node {
        Node::new(&Value::from(value), &Arc::new(Stamp::forgotten(Version(1))))
    }

    #[test]
    fn members_are_a_map_in_the_order_of_keys() {
        let keys = ["b", "", "ä", "a longer key than the ones that need no allocation", "B", "b"];
        let (mut members, mut map) = (Members::new(), Map::new());
        for (key, value) in keys.into_iter().zip(0..) {
            members.insert(key, leaf(value));
            map.insert(key.into(), value.into());
            assert_eq!(values(&members), map, "after the insertion of {key:?}");
        }
        let collected: Members = keys.into_iter().zip(0..).map(|(key, value)| (key.into(), leaf(value))).collect();
        assert_eq!(collected, members, "of equal keys, the last one is kept");
        for (given, kept) in [
            (&["a", "a"][..], &[("a", 1)][..]),
            (&["a", "a", "b"], &[("a", 1), ("b", 2)]),
            (&["b", "a"], &[("a", 1), ("b", 0)]),
        ] {
            let members: Members = given.iter().zip(0..).map(|(key, value)| ((*key).into(), leaf(value))).collect();
            let found: Vec<_> = members.iter().map(|(key, node)| (key.as_str(), node.to_value())).collect();
            let kept: Vec<_> = kept.iter().map(|(key, value)| (*key, Value::from(*value))).collect();
            assert_eq!(found, kept, "{given:?}");
        }
        assert!(members.get("b").is_some() && members.get("c").is_none());
        for key in keys {
            members.remove(key);
            map.remove(key);
            assert_eq!(values(&members), map, "after the removal of {key:?}");
        }
        assert!(members.is_empty());
    }

    #[test]
    fn leaves_are_equal_if_their_values_are() {
        for (one, other) in [(json!(1), json!(2)), (json!([1]), json!([2])), (json!([]), json!([1]))] {
            assert_eq!(LeafValue::from(one.clone()), LeafValue::from(one.clone()));
            assert_ne!(LeafValue::from(one), LeafValue::from(other));
        }
    }

    #[test]
    fn elements_and_members_of_arrays_are_leaves() {
        for (value, expected) in [
            (json!(1), 1),
            (json!([]), 1),
            (json!([1, [2, 3]]), 3),
            (json!([{"a": 1, "b": 2}]), 2),
            (json!([{}, {"a": {}}]), 2),
            (json!({"a": [1, 2], "b": {"c": {}}}), 3),
        ] {
            let stamp = Arc::new(Stamp::forgotten(Version(1)));
            assert_eq!(leaves(&Members::from(vec![("k".into(), Node::new(&value, &stamp))])), expected, "{value}");
        }
    }

    /// The next version of a document costs what it changes. It changes none of those before.
    #[test]
    fn a_clone_shares_what_is_not_changed() {
        let object = |value: Value| match Node::new(&value, &Arc::new(Stamp::forgotten(Version(1)))) {
            Node::Object(members) => members,
            Node::Leaf(_) => Members::new(),
        };
        let before = object(json!({"kept": {"n": 1}, "changed": {"n": 1, "list": [1, 2]}}));
        let mut after = before.clone();
        if let Some(Node::Object(changed)) = after.get_mut("changed") {
            changed.insert("n", leaf(2));
        }
        assert_eq!(Value::Object(values(&before)), json!({"kept": {"n": 1}, "changed": {"n": 1, "list": [1, 2]}}));
        assert_eq!(Value::Object(values(&after)), json!({"kept": {"n": 1}, "changed": {"n": 2, "list": [1, 2]}}));
        let place = |members: &Members, key: &str| match members.get(key) {
            Some(Node::Object(members)) => Some(members.sorted.as_ptr()),
            _ => None,
        };
        assert!(place(&before, "kept").is_some());
        assert_eq!(place(&after, "kept"), place(&before, "kept"));
        assert_ne!(place(&after, "changed"), place(&before, "changed"));
        let list = |members: &Members| match members.get("changed") {
            Some(Node::Object(members)) => match members.get("list") {
                Some(Node::Leaf(Leaf { value: LeafValue::Shared(list), .. })) => Some(Arc::clone(list)),
                _ => None,
            },
            _ => None,
        };
        assert!(list(&before).zip(list(&after)).is_some_and(|(one, other)| Arc::ptr_eq(&one, &other)));
    }
}
