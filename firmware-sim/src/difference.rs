//! The part of a device's state that changed.

use serde_json::{Map, Value};
use umbra_client::same_value;

/// Returns the merge patch that makes `old` agree with `new` in every key of `new`.
///
/// Keys only in `old` are kept: they are another writer's.
pub(crate) fn difference(old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Map<String, Value> {
    let changed = |key: &String, value: &Value| -> Option<Value> {
        match (old.and_then(|old| old.get(key)), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = difference(Some(old), new);
                (!inner.is_empty()).then_some(Value::Object(inner))
            }
            (Some(old), new) if same_value(old, new) => None,
            _ => Some(value.clone()),
        }
    };
    new.iter().filter_map(|(key, value)| Some((key.clone(), changed(key, value)?))).collect()
}

/// Merges `patch`, which removes nothing, into `target`.
pub(crate) fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch),
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_difference_holds_only_changed_keys() {
        let rows = [
            ("no state yet", json!({}), json!({"a": 1}), json!({"a": 1})),
            ("nothing changed", json!({"a": 1, "b": {"c": 2}}), json!({"a": 1.0, "b": {"c": 2}}), json!({})),
            (
                "inside an object",
                json!({"b": {"c": 2, "d": 3}}),
                json!({"b": {"c": 2, "d": 4}}),
                json!({"b": {"d": 4}}),
            ),
            ("arrays whole", json!({"a": [1, 2]}), json!({"a": [1, 3]}), json!({"a": [1, 3]})),
            ("another kind", json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            ("keys of others are kept", json!({"a": 1, "z": 9}), json!({"a": 2}), json!({"a": 2})),
        ];
        for (label, old, new, expected) in rows {
            let patch = new.as_object().map(|new| difference(old.as_object(), new));
            assert_eq!(patch.clone().map(Value::Object), Some(expected), "{label}");
            // Merged into the old state, it makes up the difference.
            let mut merged = old.as_object().cloned().unwrap_or_default();
            merge(&mut merged, &patch.unwrap_or_default());
            assert!(difference(Some(&merged), new.as_object().unwrap_or(&Map::new())).is_empty(), "{label}");
        }
    }
}
