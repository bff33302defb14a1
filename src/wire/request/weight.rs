//! The estimate of a parsed payload's memory, made before it is parsed.
//!
//! A few bytes of JSON become a tree node of some hundred bytes, so the queue counts the parsed size.

use crate::wire::Payload;

/// Returns the approximate memory of the parsed `payload`. It is not much lower than the real size for any JSON.
#[must_use]
pub fn weight<'a>(payload: impl Into<Payload<'a>>) -> usize {
    let Payload { bytes, user } = payload.into();
    let properties: usize = user.iter().map(|(property, text)| property.len() + text.len()).sum();
    properties + bytes.iter().map(|byte| weight_of(*byte)).sum::<usize>()
}

/// Returns the memory for one byte: itself, and the allocation of serde_json for the value that it begins. A byte
/// within a string begins none but counts the same.
fn weight_of(byte: u8) -> usize {
    match byte {
        // The first node of a tree of members, with space for eleven.
        b'{' => 720,
        // Space for four elements.
        b'[' => 128,
        // One slot of an array or a tree node, which are at least half full.
        b',' => 128,
        // One allocation for each string.
        b'"' => 16,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns the allocations of the standard library for a value. A B-tree node has eleven slots, at least five of them
    /// in use except in the root, and a pointer for each child.
    fn allocated(value: &Value) -> usize {
        match value {
            Value::Array(elements) => {
                elements.capacity() * size_of::<Value>() + elements.iter().map(allocated).sum::<usize>()
            }
            Value::Object(members) => {
                let nodes = members.len().div_ceil(5);
                let within: usize = members.iter().map(|(key, member)| key.capacity() + allocated(member)).sum();
                nodes * (11 * (size_of::<String>() + size_of::<Value>()) + 12 * size_of::<usize>()) + within
            }
            Value::String(text) => text.capacity(),
            _ => 0,
        }
    }

    #[test]
    fn parsed_values_take_at_most_their_weight() {
        let wide: serde_json::Map<_, _> = (0..1000).map(|n| (n.to_string(), n.into())).collect();
        let shapes = [
            json!([]),
            json!({}),
            json!("a text that is longer than its quotes"),
            json!(vec![json!({}); 1000]),
            json!(vec![0; 1000]),
            json!(vec![json!([0]); 1000]),
            json!(vec![json!({"": {"": {"": {"": 0}}}}); 1000]),
            json!(vec![json!([[[[]]]]); 1000]),
            json!(vec![""; 1000]),
            json!({"state": {"reported": {"temperature": 21.5, "humidity": 40}}, "clientToken": "a"}),
            wide.into(),
        ];
        for shape in shapes {
            let text = shape.to_string();
            let read: Value = serde_json::from_str(&text).expect("this is JSON");
            let (weight, allocated) = (weight(text.as_bytes()), allocated(&read));
            assert!(weight >= allocated, "{text:.40} weighs {weight} and takes {allocated}");
        }
    }

    #[test]
    fn user_properties_count() {
        let user = [("if-match".to_owned(), "x".repeat(100))];
        assert_eq!(weight(Payload { bytes: b"{}", user: &user }), 720 + 1 + 108);
    }
}
