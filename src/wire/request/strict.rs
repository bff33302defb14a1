//! A JSON reader that is stricter than JSON: it refuses duplicate keys, integers that change when read as a double, and
//! nesting beyond a limit.
//!
//! An integer literal is accepted if a double equals it, or if it is the RFC 8785 form of its double: the digits that
//! JavaScript and Go print (`1795874276355000000`). So a client that keeps numbers as doubles can write back what it
//! read. An integer that only a 64-bit reader understands (`9007199254740993`) is refused.
//!
//! The grammar is that of serde_json. If only our own rules are broken, reading continues to the end of the payload, to
//! find a `clientToken` that follows. Values that nest too deep are skipped without recursion. The first broken rule is
//! reported.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

use crate::shadow::{Rejection, document::canonical, excerpt};

/// The object read from a payload.
#[derive(Debug, Default)]
pub(in crate::wire) struct Object {
    /// Its members; if the JSON is invalid, those before the error.
    pub(in crate::wire) members: Map<String, Value>,
    /// The reason for refusing the payload, if any.
    pub(in crate::wire) refusal: Option<Rejection>,
    /// The key nearest above the first null inside an array.
    pub(in crate::wire) null_in: Option<String>,
}

/// Reads `payload`, which must be one object.
///
/// Each member may have `levels` levels of objects and arrays. Members for which `is_read` returns false are skipped.
pub(in crate::wire) fn read_object(payload: &[u8], levels: usize, is_read: fn(&str) -> bool) -> Object {
    let Ok(text) = str::from_utf8(payload) else {
        return Object { refusal: Some(Rejection::NotUtf8), ..Object::default() };
    };
    let mut members = Map::new();
    let mut findings = Findings { levels, ..Findings::default() };
    let mut reader = serde_json::Deserializer::from_str(text);
    let visitor = Top { members: &mut members, findings: &mut findings, is_read };
    let broken = reader.deserialize_any(visitor).and_then(|()| reader.end()).err();
    if findings.refusal.is_none() && findings.beyond_u64 && broken.is_none() {
        findings.refusal = inexact_literal(text, is_read).map(inexact);
    }
    // Invalid JSON is reported first, since the other faults may be an effect of it.
    let refusal = broken.map(|error| Rejection::InvalidJson { detail: error.to_string() }).or(findings.refusal);
    Object { members, refusal, null_in: findings.null_in }
}

/// The value read from a payload that need not be an object.
#[derive(Debug)]
pub(in crate::wire) struct Any {
    /// The value; null if the JSON is invalid.
    pub(in crate::wire) value: Value,
    /// The reason for refusing the payload, if any.
    pub(in crate::wire) refusal: Option<Rejection>,
}

/// Reads `payload`, one value with at most `levels` levels of objects and arrays.
pub(in crate::wire) fn read_value(payload: &[u8], levels: usize) -> Any {
    let Ok(text) = str::from_utf8(payload) else {
        return Any { value: Value::Null, refusal: Some(Rejection::NotUtf8) };
    };
    let mut findings = Findings { levels, ..Findings::default() };
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = Strict { findings: &mut findings, levels, key: "", in_array: false };
    let read = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    if findings.refusal.is_none() && findings.beyond_u64 && read.is_ok() {
        findings.refusal = inexact_literal(text, |_| true).map(inexact);
    }
    match read {
        Ok(value) => Any { value, refusal: findings.refusal },
        Err(error) => {
            let refusal = Some(Rejection::InvalidJson { detail: error.to_string() });
            Any { value: Value::Null, refusal }
        }
    }
}

/// Returns at most 64 characters of a text of the requester, for a rejection.
pub(in crate::wire) fn shown(key: &str) -> String {
    excerpt(key, 64).to_owned()
}

/// The faults found while reading.
#[derive(Debug, Default)]
struct Findings {
    levels: usize,
    refusal: Option<Rejection>,
    null_in: Option<String>,
    /// True if a number is beyond every 64-bit integer. If it is an integer literal, its text must be checked.
    beyond_u64: bool,
}

impl Findings {
    fn refuse(&mut self, rejection: impl FnOnce() -> Rejection) {
        if self.refusal.is_none() {
            self.refusal = Some(rejection());
        }
    }
}

fn duplicate(key: &str) -> Rejection {
    Rejection::InvalidJson { detail: format!("duplicate key '{}'", shown(key)) }
}

fn inexact(literal: impl fmt::Display) -> Rejection {
    let literal = format!("{:.64}", literal.to_string());
    Rejection::InvalidJson { detail: format!("integer {literal} is neither a double nor the RFC 8785 form of one") }
}

/// The visitor of the outermost object.
struct Top<'a> {
    members: &'a mut Map<String, Value>,
    findings: &'a mut Findings,
    is_read: fn(&str) -> bool,
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if !(self.is_read)(&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let levels = self.findings.levels;
            let seed = Strict { findings: self.findings, levels, key: &key, in_array: false };
            let value = map.next_value_seed(seed)?;
            keep(self.members, key, value, self.findings);
        }
        Ok(())
    }
}

/// The visitor of a value at any depth.
struct Strict<'a> {
    findings: &'a mut Findings,
    /// The levels of objects and arrays allowed in this value.
    levels: usize,
    /// The nearest key above.
    key: &'a str,
    in_array: bool,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        if self.in_array {
            self.findings.null_in.get_or_insert_with(|| shown(self.key));
        }
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        if !is_exact(value) && !is_canonical(&value.to_string(), value as f64) {
            self.findings.refuse(|| inexact(value));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        if !is_exact(value.unsigned_abs()) && !is_canonical(&value.to_string(), value as f64) {
            self.findings.refuse(|| inexact(value));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        // 2^63: serde_json passes every integer literal below it as an integer.
        self.findings.beyond_u64 |= value.abs() >= 9_223_372_036_854_775_808.0;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let Some(levels) = self.levels.checked_sub(1) else {
            self.findings.refuse(|| Rejection::TooDeep { max: 0 });
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut elements = Vec::new();
        loop {
            let seed = Strict { findings: self.findings, levels, key: self.key, in_array: true };
            match seq.next_element_seed(seed)? {
                Some(element) => elements.push(element),
                None => return Ok(Value::Array(elements)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some(levels) = self.levels.checked_sub(1) else {
            self.findings.refuse(|| Rejection::TooDeep { max: 0 });
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let seed = Strict { findings: self.findings, levels, key: &key, in_array: self.in_array };
            let value = map.next_value_seed(seed)?;
            keep(&mut members, key, value, self.findings);
        }
        Ok(Value::Object(members))
    }
}

fn keep(members: &mut Map<String, Value>, key: String, value: Value, findings: &mut Findings) {
    match members.entry(key) {
        Entry::Occupied(first) => findings.refuse(|| duplicate(first.key())),
        Entry::Vacant(place) => _ = place.insert(value),
    }
}

/// Returns true if a double can hold `integer`, which needs at most 53 significant bits.
fn is_exact(integer: u64) -> bool {
    integer == 0 || 64 - integer.leading_zeros() - integer.trailing_zeros() <= 53
}

/// Returns true if `literal` is the RFC 8785 form of `double`.
fn is_canonical(literal: &str, double: f64) -> bool {
    let mut form = Vec::with_capacity(24);
    canonical::write_value(&mut form, &Value::from(double));
    form == literal.as_bytes()
}

/// Returns the first integer literal in `text` that [`is_inexact`]. `text` is valid JSON; of an outermost object, only
/// the members for which `is_read` returns true are checked.
///
/// serde_json reads integers beyond 64 bits as doubles, so only their text shows that they are integers.
fn inexact_literal(text: &str, is_read: fn(&str) -> bool) -> Option<&str> {
    let (mut rest, mut depth, mut is_member_read) = (text, 0_usize, true);
    while let Some(start) = rest.find(|c| matches!(c, '"' | '{' | '}' | '[' | ']' | '-' | '0'..='9')) {
        let (_, token) = rest.split_at(start);
        rest = token.get(1..).unwrap_or_default(); // one byte of ASCII
        match token.as_bytes().first() {
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') => depth = depth.saturating_sub(1),
            Some(b'"') => {
                rest = after_string(rest);
                if depth == 1 && rest.trim_start().starts_with(':') {
                    let key = before(token, rest);
                    is_member_read = serde_json::from_str::<String>(key).is_ok_and(|key| is_read(&key));
                }
            }
            _ => {
                let number = |c| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
                rest = token.trim_start_matches(number);
                let literal = before(token, rest);
                let is_integer = !literal.contains(['.', 'e', 'E']);
                if is_member_read && is_integer && literal.parse().is_ok_and(|double| is_inexact(literal, double)) {
                    return Some(literal);
                }
            }
        }
    }
    None
}

/// Returns the part of `text` before `rest`, which is its end.
fn before<'t>(text: &'t str, rest: &str) -> &'t str {
    // By their lengths: a comparison for each token would take the square of the text's length.
    text.get(..text.len() - rest.len()).unwrap_or_default()
}

/// Returns true if the integer `literal` is refused; `double` is the nearest double.
fn is_inexact(literal: &str, double: f64) -> bool {
    // Rust writes all digits of a double without a fraction.
    format!("{double:.0}") != literal && !is_canonical(literal, double)
}

/// Returns the text after a string whose opening quote has been read.
fn after_string(mut text: &str) -> &str {
    while let Some((_, token)) = text.find(['"', '\\']).map(|at| text.split_at(at)) {
        match token.strip_prefix('"') {
            Some(after) => return after,
            // An escape takes one more character; the four digits of \u need no special case.
            None => text = token.get(2..).unwrap_or_default(),
        }
    }
    ""
}
