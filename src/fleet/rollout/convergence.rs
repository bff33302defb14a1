//! The convergence of a device on the paths that a rollout changed.

use serde_json::Value;

use crate::shadow::{
    Document, Pointer, SectionPatch, Update,
    document::tree::{Members, Node},
    pointer::SectionName,
};

/// Returns true if `document` has at `path` of `desired` what `patch` sets there. A device may have removed it once it
/// reported it: then the reported value counts.
#[must_use]
pub fn has_value(document: &Document, patch: &Update, path: &Pointer) -> bool {
    let SectionPatch::Merge(members) = patch.section(path.section) else { return false };
    let mut keys = path.keys.iter();
    let first = keys.next().and_then(|key| members.get(&**key));
    let found = document.find(path);
    match keys.fold(first, |value, key| value?.get(&**key)) {
        None => false,
        Some(Value::Null) => found.is_none(),
        // It sets nothing inside an object that is there.
        Some(Value::Object(_)) => true,
        Some(value) => {
            let reported = Pointer { section: SectionName::Reported, keys: path.keys.clone() };
            found.or_else(|| document.find(&reported)).is_some_and(|found| found.is(value))
        }
    }
}

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
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::shadow::{
        Command, Decision, DocumentLimits, Scope, Sender, SenderLogin, Stamp, Timestamp, Version, decide,
    };

    #[test]
    fn another_value_is_no_success() {
        for (patch, desired, reported, expected) in [
            (json!({"a": 1}), json!({"a": 1}), json!({}), true),
            (json!({"a": 1}), json!({"a": 1.0, "b": 2}), json!({}), true),
            (json!({"a": 1}), json!({"a": 2}), json!({"a": 1}), false),
            (json!({"a": 1}), json!({"b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"b": 2}), json!({"a": 3}), false),
            (json!({"a": 1}), json!({"b": 2}), json!({"c": 3}), false),
            (json!({"a": null}), json!({"b": 2}), json!({"a": 1}), true),
            (json!({"a": null}), json!({"a": 2}), json!({"a": 2}), false),
            (json!({"a": {"x": [1, 2]}}), json!({"a": {"x": [1, 2], "y": 3}}), json!({}), true),
            (json!({"a": {"x": [1, 2]}}), json!({"a": {"x": [1]}}), json!({}), false),
            (json!({"a": {}}), json!({"a": {"y": 3}}), json!({}), true),
        ] {
            let merge = |value: &Value| match value {
                Value::Object(members) => SectionPatch::Merge(members.clone()),
                _ => SectionPatch::Keep,
            };
            let update = Update { desired: merge(&desired), reported: merge(&reported), ..Update::default() };
            let author = Sender { by: "a".into(), scope: Scope::ALL, login: SenderLogin::default() };
            let (command, limits) = (Command::Update(update), DocumentLimits::default());
            let decision = decide(&Document::absent(), &command, &author, Timestamp(1), &limits).unwrap();
            let Decision::Changed { document, .. } = decision else { panic!("it has members") };
            let patch = Update { desired: merge(&patch), ..Update::default() };
            let found = patch.touched_paths().iter().all(|path| has_value(&document, &patch, path));
            assert_eq!(found, expected, "{:?} of {desired} {reported}", patch.desired);
        }
    }

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
