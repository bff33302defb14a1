//! How much memory a payload takes once it is read.
//!
//! A few bytes of JSON become a node of some hundred bytes, so that what waits is counted by what it takes, and is
//! counted before it is read.

use crate::wire::Payload;

/// About the memory that a request takes whose payload this is, and not much less than that, whatever the JSON is like.
#[must_use]
pub fn weight<'a>(payload: impl Into<Payload<'a>>) -> usize {
    let Payload { bytes, user } = payload.into();
    let beside: usize = user.iter().map(|(property, text)| property.len() + text.len()).sum();
    beside + bytes.iter().map(|byte| weight_of(*byte)).sum::<usize>()
}

/// What a byte adds: itself, and what serde_json allocates for what it begins. In a text it begins nothing, and is
/// counted all the same.
fn weight_of(byte: u8) -> usize {
    match byte {
        // The first node of a tree of members, which has room for eleven.
        b'{' => 720,
        // Room for four elements.
        b'[' => 128,
        // A place in an array or a tree, both of which are at least half full.
        b',' => 128,
        // An allocation for each text.
        b'"' => 16,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What the standard library allocates for a value: a B-tree has nodes of eleven members, at least five of them
    /// taken but in the root, with a pointer for each child.
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
    fn nothing_takes_much_more_than_it_weighs() {
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
    fn what_comes_beside_weighs_too() {
        let user = [("if-match".to_owned(), "x".repeat(100))];
        assert_eq!(weight(Payload { bytes: b"{}", user: &user }), 720 + 1 + 108);
    }
}
