//! The delta: every path where `desired` has a value that `reported` lacks or has different.
//!
//! Objects are compared member by member. Scalars, arrays and empty objects are compared whole, numbers by value. Paths
//! that are only in `reported` are not part of it. The delta is always the full difference, whatever the last update
//! touched.

use crate::shadow::document::{
    Document, equality,
    tree::{Leaf, Members, Node},
};

/// Returns the members of `desired` that differ, with their stamps; `None` if nothing differs.
#[must_use]
pub fn delta(document: &Document) -> Option<Members> {
    let difference = difference(&document.desired.members, &document.reported.members);
    (!difference.is_empty()).then_some(difference)
}

/// Returns true if there is a difference; cheaper than [`delta`].
#[must_use]
pub fn has_delta(document: &Document) -> bool {
    differ(&document.desired.members, &document.reported.members)
}

fn difference(desired: &Members, reported: &Members) -> Members {
    let differing = desired.iter().filter_map(|(key, node)| {
        let part = match (node, reported.get(key)) {
            (Node::Object(desired), Some(Node::Object(reported))) => {
                let inner = difference(desired, reported);
                (!inner.is_empty()).then_some(Node::Object(inner))
            }
            (Node::Leaf(leaf), Some(other)) if satisfied(leaf, other) => None,
            (node, _) => Some(node.clone()),
        };
        Some((key.clone(), part?))
    });
    differing.collect()
}

fn differ(desired: &Members, reported: &Members) -> bool {
    desired.iter().any(|(key, node)| match (node, reported.get(key)) {
        (Node::Object(desired), Some(Node::Object(reported))) => differ(desired, reported),
        (Node::Leaf(leaf), Some(other)) => !satisfied(leaf, other),
        _ => true,
    })
}

/// Returns true if `reported` satisfies a desired leaf. An object with members satisfies `{}`, since its members are
/// only in `reported`.
fn satisfied(desired: &Leaf, reported: &Node) -> bool {
    match reported {
        Node::Object(_) => desired.value.is_object(),
        Node::Leaf(leaf) => equality::same(&desired.value, &leaf.value),
    }
}
