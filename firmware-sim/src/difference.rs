//! What a device sends of its state: only what changed.

use serde_json::{Map, Value};
use umbra_client::same_value;

/// What has to be sent in a merge patch so that `old` becomes to agree with `new` in every key that `new` has.
///
/// Keys only in `old` are left alone: they are another writer's.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn difference_names_only_what_changed() {
        let rows = [
            ("nothing known", json!({}), json!({"a": 1}), json!({"a": 1})),
            ("nothing changed", json!({"a": 1, "b": {"c": 2}}), json!({"a": 1.0, "b": {"c": 2}}), json!({})),
            (
                "inside an object",
                json!({"b": {"c": 2, "d": 3}}),
                json!({"b": {"c": 2, "d": 4}}),
                json!({"b": {"d": 4}}),
            ),
            ("arrays whole", json!({"a": [1, 2]}), json!({"a": [1, 3]}), json!({"a": [1, 3]})),
            ("another kind", json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            ("others' keys stay", json!({"a": 1, "z": 9}), json!({"a": 2}), json!({"a": 2})),
        ];
        for (label, old, new, expected) in rows {
            let patch = new.as_object().map(|new| difference(old.as_object(), new));
            assert_eq!(patch.map(Value::Object), Some(expected), "{label}");
        }
    }
}
