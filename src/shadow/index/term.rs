//! Terms: bytes that stand for a value in an index, in the order of queries.
//!
//! The first byte is the kind. A number follows in eight bytes that sort as it does. A text follows without case, with each run
//! of digits after its length, so that bytes sort as texts with numbers do: `1.9` before `1.10`. It is cut to [`TEXT_BYTES`]
//! bytes, and ends with two zero bytes; a zero byte in it is followed by 0xFF.
//!
//! Cutting keeps the order but for equality. A range of terms therefore includes what its bounds may have been cut from.
//!
//! A text that is a number has a second term, by which it is found among numbers.

use std::ops::Bound;

use serde_json::Value;

use crate::shadow::text::{folded, number};

/// Bytes of a text that count.
const TEXT_BYTES: usize = 64;

const NULL: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const NUMBER: u8 = 4;
const TEXT: u8 = 5;
/// The kind of the second term of a text.
const NUMBER_OF_TEXT: u8 = 6;

/// The first byte of the first terms.
pub const FIRST: u8 = NULL;

/// The byte of a run of digits, whose length follows. It sorts as a digit does among other characters.
const RUN: u8 = b'0';
/// The length of runs that have so many digits or more. The text is cut there.
const RUN_MAX: usize = 0xFE;
/// The longest run that continues the digits at the end of a beginning and is searched by itself.
const RUN_SEARCHED_MAX: usize = 24;

/// The terms from one on up to another one, and those that begin with that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TermRange {
    /// The first bytes.
    pub from: Vec<u8>,
    /// The beginning of the last terms.
    pub through: Vec<u8>,
}

/// Appends the term of a value that is no array or object.
pub fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => out.push(NULL),
        Value::Bool(flag) => out.push(if *flag { TRUE } else { FALSE }),
        Value::Number(number) => put_number(out, NUMBER, number.as_f64().unwrap_or_default()),
        Value::String(text) => {
            out.push(TEXT);
            put_escaped(out, &natural(&folded(text)));
            out.extend_from_slice(&[0, 0]);
        }
    }
}

/// Appends the second term of a value. Returns false if it has none.
pub fn put_second(out: &mut Vec<u8>, value: &Value) -> bool {
    match value.as_str().and_then(number) {
        Some(number) => {
            put_number(out, NUMBER_OF_TEXT, number);
            true
        }
        None => false,
    }
}

/// Returns true for a term that only finds a value that has another term.
#[must_use]
pub fn is_second(term: &[u8]) -> bool {
    term.first() == Some(&NUMBER_OF_TEXT)
}

/// Returns the length of the term at the beginning of `bytes`; `None` if there is none.
#[must_use]
pub fn length(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        NULL | FALSE | TRUE => Some(1),
        NUMBER | NUMBER_OF_TEXT => Some(9).filter(|length| *length <= bytes.len()),
        TEXT => {
            let mut at = 1;
            loop {
                match (bytes.get(at)?, bytes.get(at + 1)) {
                    (0, Some(0)) => return Some(at + 2),
                    (0, _) => at += 2,
                    _ => at += 1,
                }
            }
        }
        _ => None,
    }
}

/// Appends a number in bytes that sort as numbers do.
fn put_number(out: &mut Vec<u8>, kind: u8, number: f64) {
    // There is one zero.
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.push(kind);
    out.extend_from_slice(&ordered.to_be_bytes());
}

/// Returns folded text in bytes that sort as texts do.
fn natural(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(TEXT_BYTES + 4);
    put_natural(&mut out, text);
    out
}

/// Appends folded text in bytes that sort as texts do. Returns false if it was cut, so that nothing follows.
fn put_natural(out: &mut Vec<u8>, text: &str) -> bool {
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        if out.len() >= TEXT_BYTES {
            out.truncate(TEXT_BYTES);
            return false;
        }
        if char.is_ascii_digit() {
            let end = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            let digits = digits.trim_start_matches('0');
            out.push(RUN);
            if digits.len() >= RUN_MAX {
                out.push(RUN_MAX as u8);
                out.truncate(TEXT_BYTES);
                return false;
            }
            out.push(digits.len() as u8);
            out.extend_from_slice(digits.as_bytes());
            rest = after;
        } else {
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            rest = rest.get(char.len_utf8()..).unwrap_or_default();
        }
    }
    let is_whole = out.len() <= TEXT_BYTES;
    out.truncate(TEXT_BYTES);
    is_whole
}

fn put_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xFF);
        }
    }
}

impl TermRange {
    /// Returns the term of a folded text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let mut term = vec![TEXT];
        put_escaped(&mut term, &natural(text));
        term.extend_from_slice(&[0, 0]);
        Self { from: term.clone(), through: term }
    }

    /// Returns the term of a number.
    #[must_use]
    pub fn number(number: f64) -> Self {
        let term = Self::number_bound(NUMBER, number);
        Self { from: term.clone(), through: term }
    }

    /// Returns the term of a boolean.
    #[must_use]
    pub fn flag(flag: bool) -> Self {
        let term = vec![if flag { TRUE } else { FALSE }];
        Self { from: term.clone(), through: term }
    }

    /// Returns true if the range has one term.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.from == self.through && length(&self.from) == Some(self.from.len())
    }

    /// Returns the terms of all numbers.
    #[must_use]
    pub fn all_numbers() -> Self {
        Self { from: vec![NUMBER], through: end_of_numbers(NUMBER) }
    }

    /// Returns the terms of numbers within these bounds, and of texts that are such a number.
    #[must_use]
    pub fn numbers(lower: Bound<f64>, upper: Bound<f64>) -> Vec<Self> {
        let of_kind = |kind| Self {
            from: bound(lower).map_or(vec![kind], |lower| Self::number_bound(kind, lower)),
            through: bound(upper).map_or(end_of_numbers(kind), |upper| Self::number_bound(kind, upper)),
        };
        vec![of_kind(NUMBER), of_kind(NUMBER_OF_TEXT)]
    }

    /// Returns the terms of texts within these bounds, which are folded.
    #[must_use]
    pub fn texts(lower: Bound<&str>, upper: Bound<&str>) -> Self {
        Self { from: text_bound(bound(lower)), through: text_bound(bound(upper)) }
    }

    /// Returns the terms of texts that begin with a digit within these bounds; `None` if there are none.
    #[must_use]
    pub fn texts_of_digits(lower: Bound<&str>, upper: Bound<&str>) -> Option<Self> {
        let (digits, range) = (vec![TEXT, RUN], Self::texts(lower, upper));
        let through = if bound(upper).is_none() { digits.clone() } else { range.through };
        Some(Self { from: range.from.max(digits.clone()), through }).filter(|range| range.through >= digits)
    }

    /// Returns the terms of texts that begin with the folded text `beginning`.
    #[must_use]
    pub fn texts_beginning(beginning: &str) -> Vec<Self> {
        let before = beginning.trim_end_matches(|char: char| char.is_ascii_digit());
        let digits = beginning.get(before.len()..).unwrap_or_default();
        let mut begun = Vec::new();
        let is_whole = put_natural(&mut begun, before);
        let with = |end: &[u8]| {
            let bytes = [begun.as_slice(), end].concat();
            let mut term = vec![TEXT];
            put_escaped(&mut term, bytes.get(..TEXT_BYTES).unwrap_or(&bytes));
            term
        };
        let all = |from: Vec<u8>, through: Vec<u8>| Self { from, through };
        match digits.as_bytes() {
            // Nothing follows in the terms of texts that are cut before the digits.
            _ if !is_whole => vec![all(with(&[]), with(&[]))],
            [] => vec![all(with(&[]), with(&[]))],
            // The number may have further digits, or fewer without its zeros.
            [b'0', ..] => vec![all(with(&[RUN]), with(&[RUN]))],
            _ if digits.len() > RUN_SEARCHED_MAX => vec![all(with(&[RUN]), with(&[RUN]))],
            bytes => {
                let run = |length: usize| with(&[&[RUN, length as u8], bytes].concat());
                let mut ranges: Vec<_> =
                    (bytes.len()..=RUN_SEARCHED_MAX).map(|length| all(run(length), run(length))).collect();
                ranges.push(all(with(&[RUN, RUN_SEARCHED_MAX as u8 + 1]), with(&[RUN])));
                ranges
            }
        }
    }

    fn number_bound(kind: u8, number: f64) -> Vec<u8> {
        let mut term = Vec::with_capacity(9);
        put_number(&mut term, kind, number);
        term
    }
}

/// Returns the bytes above all numbers of a kind but for the last ones, which begin with them.
fn end_of_numbers(kind: u8) -> Vec<u8> {
    vec![kind, 0xFF]
}

fn bound<T>(bound: Bound<T>) -> Option<T> {
    match bound {
        Bound::Unbounded => None,
        Bound::Included(value) | Bound::Excluded(value) => Some(value),
    }
}

fn text_bound(text: Option<&str>) -> Vec<u8> {
    let mut term = vec![TEXT];
    text.into_iter().for_each(|text| put_escaped(&mut term, &natural(text)));
    term
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn term(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    impl TermRange {
        fn has(&self, term: &[u8]) -> bool {
            term >= self.from.as_slice() && *term < *[self.through.as_slice(), &[0xFF]].concat()
        }
    }

    #[test]
    fn terms_sort_as_values_do() {
        let ordered = [
            json!(null),
            json!(false),
            json!(true),
            json!(-1e300),
            json!(-2),
            json!(-0.5),
            json!(0),
            json!(1e-300),
            json!(1),
            json!(u64::MAX),
            json!(""),
            json!("\0"),
            json!("-1"),
            json!("1"),
            json!("1.2"),
            json!("1.9.9"),
            json!("1.10"),
            json!("1.10.0"),
            json!("2"),
            json!("10"),
            json!("a"),
            json!("a\0b"),
            json!("a1"),
            json!("a2b"),
            json!("A10"),
            json!("b"),
            json!("é"),
        ];
        for pair in ordered.windows(2) {
            let [one, other] = pair else { continue };
            assert!(term(one) < term(other), "{one} {other}");
        }
        for (one, other) in [(json!("Ab"), json!("aB")), (json!(-0.0), json!(0)), (json!("007"), json!("7"))] {
            assert_eq!(term(&one), term(&other), "{one} {other}");
        }
        for value in &ordered {
            let bytes = term(value);
            for after in [&b"device\0"[..], b"\0", b""] {
                assert_eq!(length(&[bytes.as_slice(), after].concat()), Some(bytes.len()), "{value}");
            }
            assert!((0..bytes.len()).all(|cut| length(bytes.get(..cut).unwrap_or_default()).is_none()), "{value}");
        }
        let long = |end: &str| term(&json!(format!("{}{end}", "x".repeat(TEXT_BYTES))));
        assert_eq!(long("a"), long("b"));
        let digits = |count: usize| term(&json!("7".repeat(count)));
        assert!(digits(40) < digits(41) && digits(70) < digits(71) && digits(253) < digits(254));
        assert_eq!(digits(254), digits(300));
    }

    #[test]
    fn digits_at_the_end_of_a_beginning_may_go_on() {
        for (digits, ranges) in [(0, 1), (1, 25), (23, 3), (24, 2), (25, 1)] {
            let found = TermRange::texts_beginning(&format!("a{}", "7".repeat(digits)));
            assert_eq!(found.len(), ranges, "{digits} digits");
        }
        assert_eq!(TermRange::texts_beginning("a07").len(), 1);
        let ranges = TermRange::texts_beginning(&"7".repeat(20));
        for (digit, count, is_within) in [("7", 20, true), ("7", 24, true), ("8", 24, false), ("7", 19, false)] {
            let term = term(&json!(digit.repeat(count)));
            assert_eq!(ranges.iter().any(|range| range.has(&term)), is_within, "{digit} {count}");
        }
    }

    #[test]
    fn a_text_that_is_a_number_has_a_second_term() {
        for (value, number) in [
            (json!("5"), Some(5.0)),
            (json!("-1.5"), Some(-1.5)),
            (json!("5x"), None),
            (json!(5), None),
            (json!(true), None),
        ] {
            let mut second = Vec::new();
            assert_eq!(put_second(&mut second, &value), number.is_some(), "{value}");
            assert_eq!(is_second(&second), number.is_some(), "{value}");
            assert_eq!(length(&second), number.map(|_| 9), "{value}");
            assert!(!is_second(&term(&value)), "{value}");
            let is_found = number.is_none_or(|number| {
                let ranges = TermRange::numbers(Bound::Included(number), Bound::Included(number));
                ranges.iter().any(|range| range.has(&second))
            });
            assert!(is_found, "{value}");
        }
        assert_eq!((length(&[]), length(&[9])), (None, None));
        let text = TermRange::text("ab");
        assert!(text.has(&term(&json!("Ab"))) && !text.has(&term(&json!("abc"))) && !text.has(&term(&json!("a"))));
        let [no, yes] = [false, true].map(TermRange::flag);
        assert!(no.has(&term(&json!(false))) && !no.has(&term(&json!(true))));
        assert!(yes.has(&term(&json!(true))) && !yes.has(&term(&json!(false))));
        assert!(!TermRange::all_numbers().has(&term(&json!("5"))) && !TermRange::number(5.0).has(&term(&json!(6))));
    }

    #[test]
    fn ranges_have_all_that_is_within_them() {
        let texts = |texts: &str| texts.split(' ').map(|text| json!(text)).collect::<Vec<_>>();
        let check = |ranges: &[TermRange], value: &Value| ranges.iter().any(|range| range.has(&term(value)));
        for (beginning, inside, outside) in [
            ("1.4", "1.4 1.4.2 1.42 1.4-rc 1.4999", "1.5 1 1. 2.4"),
            ("1.", "1. 1.4 1.x", "1 11. 2."),
            ("a", "a aB A1", "b 1a"),
            ("a07", "a07 a071 a07.1", "b07 aa"),
            ("", "1 a", "\u{7f}"),
        ] {
            let ranges = TermRange::texts_beginning(beginning);
            assert!(texts(inside).iter().all(|text| check(&ranges, text)), "{beginning}");
            if !beginning.is_empty() {
                assert!(!texts(outside).iter().any(|text| check(&ranges, text)), "{beginning}: {outside}");
            }
        }
        let below = [TermRange::texts(Bound::Unbounded, Bound::Excluded("1.10"))];
        assert!(check(&below, &json!("1.9.9")) && check(&below, &json!("")) && !check(&below, &json!("1.11")));
        let digits =
            TermRange::texts_of_digits(Bound::Included("1.5"), Bound::Unbounded).into_iter().collect::<Vec<_>>();
        assert!(check(&digits, &json!("1.10.2")) && check(&digits, &json!("20-b")));
        assert!(!check(&digits, &json!("1.4")) && !check(&digits, &json!("a")));
        assert_eq!(TermRange::texts_of_digits(Bound::Unbounded, Bound::Excluded("-5")), None);
        let (huge, run) = ([json!(1e308), json!(f64::MAX), json!(-f64::MAX), json!(-1e308)], "7".repeat(300));
        let open = [
            TermRange::numbers(Bound::Unbounded, Bound::Unbounded),
            TermRange::numbers(Bound::Included(f64::MIN), Bound::Unbounded),
            vec![TermRange::all_numbers()],
        ];
        assert!(open.iter().all(|ranges| huge.iter().all(|number| check(ranges, number))));
        assert!(check(&TermRange::numbers(Bound::Included(1e307), Bound::Unbounded), &json!(1e308)));
        for (beginning, text) in [
            (format!("a{run}"), format!("a{run}8")),
            (format!("a{run}b"), format!("a{run}b")),
            (format!("a{run}b1"), format!("a{run}b12")),
            (format!("a{run}-{run}"), format!("a{run}-{run}")),
            ("x".repeat(70), format!("{}1", "x".repeat(70))),
            (format!("{}17", "x".repeat(70)), format!("{}171", "x".repeat(70))),
            (format!("{}17", "x".repeat(63)), format!("{}171", "x".repeat(63))),
        ] {
            assert!(check(&TermRange::texts_beginning(&beginning), &json!(text)), "{beginning}");
        }
        let numbers = TermRange::numbers(Bound::Included(-1.0), Bound::Excluded(2.0));
        assert!(check(&numbers, &json!(-1)) && check(&numbers, &json!(1.5)) && !check(&numbers, &json!(2.5)));
        assert!(check(&[TermRange::number(5.0)], &json!(5)) && check(&[TermRange::flag(true)], &json!(true)));
    }
}
