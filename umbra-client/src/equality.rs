//! Equality of JSON values as the service defines it.

use serde_json::Value;

/// Returns true if two JSON values are equal to the service, which compares numbers by value.
///
/// ```
/// use serde_json::json;
///
/// assert!(umbra_client::same_value(&json!({"a": 1}), &json!({"a": 1.0})));
/// ```
#[must_use]
pub fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l == r || l.as_f64() == r.as_f64(),
        (Value::Array(l), Value::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same_value(l, r)),
        (Value::Object(l), Value::Object(r)) => {
            l.len() == r.len() && l.iter().all(|(key, l)| r.get(key).is_some_and(|r| same_value(l, r)))
        }
        _ => left == right,
    }
}

/// Returns true if both values are absent, or both are present and equal.
pub(crate) fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => same_value(left, right),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_compare_by_value_and_keys_in_any_order() {
        for (left, right, expected) in [
            (json!(1), json!(1.0), true),
            (json!([1, {"a": 2}]), json!([1.0, {"a": 2.0}]), true),
            (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), true),
            (json!([1, 2]), json!([2, 1]), false),
            (json!(1), json!("1"), false),
            (json!(null), json!(false), false),
            (json!({"a": 1}), json!({"a": 1, "b": 1}), false),
            (json!({}), json!([]), false),
        ] {
            assert_eq!(same_value(&left, &right), expected, "{left} {right}");
            assert_eq!(same_value(&right, &left), expected, "{right} {left}");
        }
    }
}
