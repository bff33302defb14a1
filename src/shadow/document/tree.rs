//! The tree of one section: its values and a stamp at every leaf.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use crate::shadow::document::{Stamp, Version};

/// The members of an object, by key.
pub type Members = BTreeMap<Box<str>, Node>;

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
    pub value: Value,
    /// The last change of the value.
    pub changed: Arc<Stamp>,
}

impl Node {
    /// Returns `value` with every leaf stamped `changed`.
    #[must_use]
    pub fn new(value: &Value, changed: &Arc<Stamp>) -> Self {
        match value {
            Value::Object(members) if !members.is_empty() => Self::Object(stamped(members, changed)),
            _ => Self::Leaf(Leaf { value: value.clone(), changed: changed.clone() }),
        }
    }

    /// Returns the value without its stamps.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Leaf(leaf) => leaf.value.clone(),
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
fn leaves_of_value(value: &Value) -> usize {
    match value {
        Value::Array(elements) if !elements.is_empty() => elements.iter().map(leaves_of_value).sum(),
        Value::Object(members) if !members.is_empty() => members.values().map(leaves_of_value).sum(),
        _ => 1,
    }
}
