//! Text in queries: the order of strings, and the characters with a meaning.

use std::{cmp::Ordering, fmt};

pub(in crate::fleet) use crate::shadow::text::{folded, number};

/// Characters that end a word or are kept for syntax. A backslash or quotes make them literal.
pub(super) const RESERVED: [char; 18] =
    ['(', ')', '[', ']', '{', '}', '"', '\'', '<', '>', '=', '!', '&', '|', '^', '~', '\\', '`'];

/// Returns the shortest text of a number: `1` for 1.0.
pub(in crate::fleet) fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        _ => number.to_string(),
    }
}

/// Compares folded texts; runs of digits compare as numbers, so `1.10` is after `1.9`.
pub(in crate::fleet) fn compared(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (digits, other_digits) = (digits(left), digits(right));
        if digits.is_empty() || other_digits.is_empty() {
            let (mut chars, mut other_chars) = (left.chars(), right.chars());
            match (chars.next(), other_chars.next()) {
                // Texts that differ in leading zeros only.
                (None, None) => return a.cmp(b),
                (char, other) if char != other => return char.cmp(&other),
                _ => (left, right) = (chars.as_str(), other_chars.as_str()),
            }
        } else {
            let (value, other) = (digits.trim_start_matches('0'), other_digits.trim_start_matches('0'));
            match value.len().cmp(&other.len()).then_with(|| value.cmp(other)) {
                Ordering::Equal => {}
                order => return order,
            }
            left = left.get(digits.len()..).unwrap_or_default();
            right = right.get(other_digits.len()..).unwrap_or_default();
        }
    }
}

/// Returns the ASCII digits at the beginning of `text`.
fn digits(text: &str) -> &str {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Writes `text` in quotes.
pub(super) fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Writes `text` as a part of a word, with a backslash before each character that has a meaning.
pub(super) fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for char in text.chars() {
        if char.is_whitespace() || RESERVED.contains(&char) || matches!(char, '.' | ',' | ':' | '*' | '?' | '-' | '+') {
            f.write_str("\\")?;
        }
        write!(f, "{char}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_compare_by_the_numbers_in_them() {
        let ordered = [
            "", "-1", "1", "1.2", "1.9.9", "1.10", "1.10.0", "2", "10", "a", "a01", "a1", "a2b", "a10", "abcd", "abce",
        ];
        for (index, one) in ordered.iter().enumerate() {
            for (other_index, other) in ordered.iter().enumerate() {
                assert_eq!(compared(one, other), index.cmp(&other_index), "{one} {other}");
            }
        }
    }
}
