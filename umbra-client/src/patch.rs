//! The merge patch between two documents.

use serde_json::{Map, Value};

use crate::equality::same_value;

/// Returns the merge patch (RFC 7396) that turns `from` into `to`; `None` if they are equal.
///
/// Keys that `to` lacks are removed with `null`. A `null` that is a value cannot be expressed: the service removes the
/// key.
///
/// ```
/// use serde_json::json;
/// use umbra_client::patch;
///
/// let patch = patch::between(&json!({"a": 1, "b": 2}), &json!({"b": 3}));
/// assert_eq!(patch, Some(json!({"a": null, "b": 3})));
/// ```
#[must_use]
pub fn between(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        _ if same_value(from, to) => None,
        (Value::Object(from), Value::Object(to)) => Some(Value::Object(between_objects(from, to))),
        _ => Some(to.clone()),
    }
}

fn between_objects(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let removed = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = to.iter().filter_map(|(key, to)| {
        let patch = match from.get(key) {
            Some(from) => between(from, to)?,
            None => to.clone(),
        };
        Some((key.clone(), patch))
    });
    removed.chain(changed).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// Applies a merge patch by RFC 7396 section 2.
    pub(crate) fn apply(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let Some(target) = target.as_object_mut() else { return };
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                apply(target.entry(key).or_insert(Value::Null), value);
            }
        }
    }

    #[test]
    fn a_patch_holds_only_changed_keys() {
        for (label, from, to, expected) in [
            ("the same", json!({"a": 1, "b": {"c": 2}}), json!({"a": 1.0, "b": {"c": 2}}), None),
            ("added", json!({}), json!({"a": {"b": 1}}), Some(json!({"a": {"b": 1}}))),
            ("removed", json!({"a": 1, "b": 2}), json!({"b": 2}), Some(json!({"a": null}))),
            ("inside", json!({"b": {"c": 2, "d": 3}}), json!({"b": {"c": 2, "d": 4}}), Some(json!({"b": {"d": 4}}))),
            ("arrays whole", json!({"a": [1, 2]}), json!({"a": [1, 3]}), Some(json!({"a": [1, 3]}))),
            ("another kind", json!({"a": 1}), json!({"a": {"b": 1}}), Some(json!({"a": {"b": 1}}))),
            ("emptied", json!({"a": {"b": 1}}), json!({"a": {}}), Some(json!({"a": {"b": null}}))),
        ] {
            let patch = between(&from, &to);
            assert_eq!(patch, expected, "{label}");
            let mut patched = from;
            patch.iter().for_each(|patch| apply(&mut patched, patch));
            assert!(same_value(&patched, &to), "{label}: {patched}");
        }
    }
}
