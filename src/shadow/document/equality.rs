//! Equality of JSON values.
//!
//! Numbers compare by value at any depth: `1` equals `1.0`, and `0` equals `-0`. Two values are equal exactly if their
//! RFC 8785 bytes are equal. So the etag never changes without a new version, and never stays when a value changed.

use serde_json::{Map, Value};

use crate::shadow::document::tree::{Members, Node};

/// Returns true if `a` and `b` are equal.
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

/// Returns true if a stored node holds `value`.
pub(crate) fn holds(node: &Node, value: &Value) -> bool {
    match (node, value) {
        (Node::Leaf(leaf), value) => same(&leaf.value, value),
        (Node::Object(members), Value::Object(other)) => members_hold(members, other),
        (Node::Object(_), _) => false,
    }
}

/// Returns true if a stored object has the members of `other`.
pub(crate) fn members_hold(members: &Members, other: &Map<String, Value>) -> bool {
    // Both maps are ordered by the bytes of their keys.
    members.len() == other.len()
        && members.iter().zip(other).all(|((key, node), (name, value))| **key == **name && holds(node, value))
}
