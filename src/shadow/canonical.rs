//! RFC 8785 canonical JSON, the form that sizes are counted in and that the etag is a digest of.
//!
//! Two values have the same canonical form exactly when they are equal ([`crate::shadow::equality`]). Only what is hot
//! is written here: strings and integers as serde_json writes them, which is what RFC 8785 asks for, and members in the
//! order of their UTF-16 code units. All other numbers go through `serde_json_canonicalizer`, which is also the oracle
//! of the tests: it parses every key again, and took 22 µs for a state of 500 bytes where this takes 2.6 µs.

use serde_json::{Map, Number, Value};

use crate::shadow::tree::{Members, Node};

/// Appends the canonical form of an object.
pub(crate) fn write_members(out: &mut Vec<u8>, members: &Members) {
    write_object(out, members.iter().map(|(key, node)| (&**key, node)), write_node);
}

/// Appends the canonical form of an object without stamps.
pub(crate) fn write_object_value(out: &mut Vec<u8>, members: &Map<String, Value>) {
    write_object(out, members.iter().map(|(key, member)| (key.as_str(), member)), write_value);
}

/// Appends the canonical form of a value.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(elements) => write_array(out, elements),
        Value::Object(members) => write_object_value(out, members),
    }
}

fn write_node(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::Leaf(leaf) => write_value(out, &leaf.value),
        Node::Object(members) => write_members(out, members),
    }
}

fn write_array(out: &mut Vec<u8>, elements: &[Value]) {
    out.push(b'[');
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(out, element);
    }
    out.push(b']');
}

/// Writes members that come in byte order of their keys, which nearly always is the order wanted: that it is not
/// shows when a key is met, and then they are written anew.
fn write_object<'a, T, I>(out: &mut Vec<u8>, members: I, write: fn(&mut Vec<u8>, T))
where
    I: Iterator<Item = (&'a str, T)> + Clone,
{
    let start = out.len();
    if !write_in_order(out, members.clone(), write, sorts_by_bytes) {
        out.truncate(start);
        let mut sorted: Vec<(&str, T)> = members.collect();
        sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        write_in_order(out, sorted.into_iter(), write, |_| true);
    }
}

/// Returns false, and has written only some of them, if `fits` refuses a key.
fn write_in_order<'a, T>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = (&'a str, T)>,
    write: fn(&mut Vec<u8>, T),
    fits: fn(&str) -> bool,
) -> bool {
    out.push(b'{');
    for (index, (key, member)) in members.enumerate() {
        if !fits(key) {
            return false;
        }
        if index > 0 {
            out.push(b',');
        }
        write_string(out, key);
        out.push(b':');
        write(out, member);
    }
    out.push(b'}');
    true
}

/// Whether UTF-8 bytes and UTF-16 code units put `key` in the same place among other such keys. They differ only
/// between U+E000..U+FFFF and what lies above, whose surrogates come before: first bytes from 0xEE on.
fn sorts_by_bytes(key: &str) -> bool {
    key.bytes().all(|byte| byte < 0xEE)
}

/// Appends a string in quotes, escaped as RFC 8785 asks, which is as serde_json does it.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing text to a Vec does not fail");
    }
}

/// RFC 8785 section 3.2.2.3: every number as ECMAScript prints the double nearest to it.
fn write_number(out: &mut Vec<u8>, number: &Number) {
    const EXACT: i64 = 1 << 53;
    let double = number.as_f64().unwrap_or_default();
    // `as` saturates, and what it made of a fraction or of a larger number is not equal to it.
    let integer = double as i64;
    if integer > -EXACT && integer < EXACT && integer as f64 == double {
        serde_json::to_writer(out, &integer).expect("writing an integer to a Vec does not fail");
    } else {
        serde_json_canonicalizer::to_writer(&double, out).expect("a JSON number is finite");
    }
}
