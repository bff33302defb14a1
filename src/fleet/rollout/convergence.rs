//! The convergence of a device on the paths that a rollout changed.

use crate::shadow::{
    Pointer,
    document::tree::{Members, Node},
};

/// Returns true if `delta` has nothing at, above or below the path of `desired`.
#[must_use]
pub fn has_converged(delta: &Members, path: &Pointer) -> bool {
    !meets(delta, &path.keys)
}

fn meets(members: &Members, keys: &[Box<str>]) -> bool {
    let [key, rest @ ..] = keys else { return !members.is_empty() };
    match members.get(key) {
        None => false,
        Some(Node::Leaf(_)) => true,
        Some(Node::Object(inner)) => meets(inner, rest),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::shadow::{Stamp, Version};

    #[test]
    fn only_the_touched_paths_count() {
        let stamp = Arc::new(Stamp::forgotten(Version(1)));
        for (delta, path, expected) in [
            (json!({"b": 1}), "/desired/a", true),
            (json!({"a": 1}), "/desired/a", false),
            (json!({"a": {"x": 1}}), "/desired/a", false),
            (json!({"a": {"x": 1}}), "/desired/a/x", false),
            (json!({"a": {"x": 1}}), "/desired/a/y", true),
            (json!({"a": 1}), "/desired/a/y", false),
        ] {
            let members = |value: &serde_json::Value| match Node::new(value, &stamp) {
                Node::Object(members) => members,
                Node::Leaf(_) => Members::new(),
            };
            assert_eq!(has_converged(&members(&delta), &path.parse().unwrap()), expected, "{delta} {path}");
        }
    }
}
