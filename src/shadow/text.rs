//! Text of values, as queries and indexes compare it: without case, and as numbers.

use std::borrow::Cow;

/// Returns `text` without the difference between upper and lower case.
#[must_use]
pub fn folded(text: &str) -> Cow<'_, str> {
    // A title-case letter is no upper-case one, and has a lower case too.
    let has_lower = |char: char| char.is_ascii_uppercase() || (!char.is_ascii() && !char.to_lowercase().eq([char]));
    match text.chars().any(has_lower) {
        true => Cow::Owned(text.chars().flat_map(char::to_lowercase).collect()),
        false => Cow::Borrowed(text),
    }
}

/// Parses a number as JSON writes it.
#[must_use]
pub fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = digits.starts_with(|char: char| char.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        && !digits.contains(".e")
        && !digits.ends_with('.');
    text.parse().ok().filter(|number: &f64| is_plain && number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_json() {
        for (text, expected) in [
            ("0", Some(0.0)),
            ("-5", Some(-5.0)),
            ("1.50", Some(1.5)),
            ("1e3", Some(1000.0)),
            ("1E-2", Some(0.01)),
            ("007", Some(7.0)),
            ("", None),
            ("-", None),
            ("+1", None),
            (".5", None),
            ("1.", None),
            ("1.e5", None),
            ("1e999", None),
            ("1.4.2", None),
            ("inf", None),
            ("nan", None),
            ("0x10", None),
            ("1_0", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn case_is_folded_character_by_character() {
        for (text, expected) in [("abc", "abc"), ("AbC", "abc"), ("ÄΣ", "äσ"), ("ΣΣ", "σσ"), ("1.4-RC", "1.4-rc")]
        {
            assert_eq!(folded(text), expected);
        }
    }

    /// Patterns are folded character by character. A text with title-case letters and no upper-case ones was not folded, so no pattern
    /// was true for it.
    #[test]
    fn any_text_is_folded_as_its_characters_are() {
        for char in ('\0'..=char::MAX).filter(|char| !char.is_ascii_digit()) {
            assert_eq!(folded(&char.to_string()), char.to_lowercase().collect::<String>(), "{char}");
        }
        assert_eq!(folded("\u{1c5}ep"), "\u{1c6}ep");
    }
}
