//! When two values are the same value.
//!
//! Numbers compare by value, at any depth: `1` equals `1.0`, `0` equals `-0`. It is the equality of the canonical
//! form: equal values have the same RFC 8785 bytes and unequal ones have not, so that an etag never moves without a
//! version and never stays when something changed.

use serde_json::{Map, Value};

use crate::shadow::tree::{Members, Node};

/// Whether `a` and `b` are the same value.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((key, a), (other, b))| key == other && same(a, b))
        }
        _ => a == b,
    }
}

/// Whether a stored node holds the value `value`.
pub(crate) fn holds(node: &Node, value: &Value) -> bool {
    match (node, value) {
        (Node::Leaf(leaf), value) => same(&leaf.value, value),
        (Node::Object(members), Value::Object(other)) => members_hold(members, other),
        (Node::Object(_), _) => false,
    }
}

/// Whether the members of a stored object are those of `other`.
pub(crate) fn members_hold(members: &Members, other: &Map<String, Value>) -> bool {
    // Both maps are ordered by the bytes of their keys.
    members.len() == other.len()
        && members.iter().zip(other).all(|((key, node), (name, value))| **key == **name && holds(node, value))
}
