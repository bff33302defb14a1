//! Reads a JSON object more strictly than JSON asks: no duplicate keys, no integers that change when read as a double,
//! nothing nested deeper than allowed.
//!
//! An integer literal is accepted if a double equals it, or if it is the RFC 8785 form of its double: the digits that
//! JavaScript and Go print (`1795874276355000000`). So a client that keeps numbers as doubles can write back what it
//! read. An integer that only a 64-bit reader understands (`9007199254740993`) is refused.
//!
//! The grammar is serde_json's. Where only our own rules are broken, reading goes on to the end of the payload, so that
//! a `clientToken` that follows is still found; what is too deep is skipped without recursion. The first rule broken is
//! what the requester is told.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

use crate::shadow::{Rejection, document::canonical};

/// What was read of a payload.
#[derive(Debug, Default)]
pub(in crate::wire) struct Object {
    /// Its members; all up to the error if the JSON is broken.
    pub(in crate::wire) members: Map<String, Value>,
    /// Why the payload is refused, if it is.
    pub(in crate::wire) refusal: Option<Rejection>,
    /// The key nearest above the first null inside an array.
    pub(in crate::wire) null_in: Option<String>,
}

/// Reads `payload`, which must be one object.
///
/// Each member may hold `levels` levels of objects and arrays. Members that `wanted` refuses are skipped unread.
pub(in crate::wire) fn read_object(payload: &[u8], levels: usize, wanted: fn(&str) -> bool) -> Object {
    let Ok(text) = str::from_utf8(payload) else {
        return Object { refusal: Some(Rejection::NotUtf8), ..Object::default() };
    };
    let mut members = Map::new();
    let mut findings = Findings { levels, ..Findings::default() };
    let mut reader = serde_json::Deserializer::from_str(text);
    let visitor = Top { members: &mut members, findings: &mut findings, wanted };
    let broken = reader.deserialize_any(visitor).and_then(|()| reader.end()).err();
    if findings.refusal.is_none() && findings.beyond_u64 && broken.is_none() {
        findings.refusal = inexact_literal(text, wanted).map(inexact);
    }
    // Text that is no JSON at all is told first: the rest may be an effect of it.
    let refusal = broken.map(|error| Rejection::InvalidJson { detail: error.to_string() }).or(findings.refusal);
    Object { members, refusal, null_in: findings.null_in }
}

/// What was read of a payload that need not be an object.
#[derive(Debug)]
pub(in crate::wire) struct Any {
    /// The value; null if the JSON is broken.
    pub(in crate::wire) value: Value,
    /// Why the payload is refused, if it is.
    pub(in crate::wire) refusal: Option<Rejection>,
}

/// Reads `payload`, one value of at most `levels` levels of objects and arrays.
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

/// At most 64 characters of a key: what a requester sends is not to come back to it at full length.
pub(in crate::wire) fn shown(key: &str) -> String {
    key.chars().take(64).collect()
}

/// What was noticed while reading.
#[derive(Debug, Default)]
struct Findings {
    levels: usize,
    refusal: Option<Rejection>,
    null_in: Option<String>,
    /// An integer, or a float without a fraction, that no 64-bit integer holds: its literal has to be looked at.
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

/// Reads the outermost object.
struct Top<'a> {
    members: &'a mut Map<String, Value>,
    findings: &'a mut Findings,
    wanted: fn(&str) -> bool,
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if !(self.wanted)(&key) {
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

/// Reads one value at any place.
struct Strict<'a> {
    findings: &'a mut Findings,
    /// Levels of objects and arrays that this value may have.
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
        // 2^63: every integer literal below it comes as an integer.
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

/// Whether a double holds `integer`: it has at most 53 significant bits.
fn is_exact(integer: u64) -> bool {
    integer == 0 || 64 - integer.leading_zeros() - integer.trailing_zeros() <= 53
}

/// True if `literal` is the RFC 8785 form of `double`.
fn is_canonical(literal: &str, double: f64) -> bool {
    let mut form = Vec::with_capacity(24);
    canonical::write_value(&mut form, &Value::from(double));
    form == literal.as_bytes()
}

/// Returns the first integer literal that [`is_inexact`] in `text`, which is valid JSON. Of an outermost object only
/// members that `wanted` takes are looked at.
///
/// serde_json reads integers beyond 64 bits as doubles, so only their text tells.
fn inexact_literal(text: &str, wanted: fn(&str) -> bool) -> Option<&str> {
    let (mut rest, mut depth, mut is_read) = (text, 0_usize, true);
    while let Some(start) = rest.find(|c| matches!(c, '"' | '{' | '}' | '[' | ']' | '-' | '0'..='9')) {
        let (_, token) = rest.split_at(start);
        rest = token.get(1..).unwrap_or_default(); // one byte of ASCII
        match token.as_bytes().first() {
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') => depth = depth.saturating_sub(1),
            Some(b'"') => {
                rest = after_string(rest);
                let key = token.strip_suffix(rest).filter(|_| depth == 1 && rest.trim_start().starts_with(':'));
                if let Some(key) = key {
                    is_read = serde_json::from_str::<String>(key).is_ok_and(|key| wanted(&key));
                }
            }
            _ => {
                let number = |c| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
                rest = token.trim_start_matches(number);
                let literal = token.strip_suffix(rest).unwrap_or_default();
                let is_integer = !literal.contains(['.', 'e', 'E']);
                if is_read && is_integer && literal.parse().is_ok_and(|double| is_inexact(literal, double)) {
                    return Some(literal);
                }
            }
        }
    }
    None
}

/// True if `literal` is refused as an integer whose double is `double`.
fn is_inexact(literal: &str, double: f64) -> bool {
    // Rust writes all digits of the integer that a double is.
    format!("{double:.0}") != literal && !is_canonical(literal, double)
}

/// What follows a string whose opening quote is already behind.
fn after_string(mut text: &str) -> &str {
    while let Some((_, token)) = text.find(['"', '\\']).map(|at| text.split_at(at)) {
        match token.strip_prefix('"') {
            Some(after) => return after,
            // An escape takes one more character; the four digits of \u are none that matter.
            None => text = token.get(2..).unwrap_or_default(),
        }
    }
    ""
}
