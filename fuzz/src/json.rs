//! JSON as the contract reads it: RFC 8259, and what `docs/protocol.md` refuses beyond that. And JSON spelled
//! otherwise.

use serde_json::{Map, Number, Value};

/// The result of parsing a text as JSON.
#[derive(Debug)]
pub enum Json {
    /// Against the grammar.
    Broken,
    /// A value, of which `oddities` may be refused.
    Read {
        /// The value; of duplicate keys the first counts.
        value: Value,
        /// Properties that RFC 8259 leaves open.
        oddities: Oddities,
    },
}

/// Properties that the grammar allows and the contract does not.
#[derive(Debug, Default)]
pub struct Oddities {
    /// A key that an object has twice.
    pub duplicate: bool,
    /// An integer literal that neither equals its double nor is the RFC 8785 form of it.
    pub inexact: bool,
    /// A number that is no double, or half a surrogate pair: there is no value for either.
    pub no_value: bool,
}

/// Reads a whole text.
#[must_use]
pub fn read(text: &str) -> Json {
    let mut reader = Reader { rest: text.as_bytes(), oddities: Oddities::default() };
    match reader.value().filter(|_| reader.token().is_none()) {
        Some(value) => Json::Read { value, oddities: reader.oddities },
        None => Json::Broken,
    }
}

/// Levels of objects and arrays.
#[must_use]
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Returns true if an array holds a null, itself or in anything in it.
#[must_use]
pub fn has_null_in_array(value: &Value, in_array: bool) -> bool {
    match value {
        Value::Null => in_array,
        Value::Array(elements) => elements.iter().any(|element| has_null_in_array(element, true)),
        Value::Object(members) => members.values().any(|member| has_null_in_array(member, in_array)),
        _ => false,
    }
}

/// The same value in other words: members the other way around, space between all, text escaped, numbers with an
/// exponent.
#[must_use]
pub fn respelled(value: &Value) -> String {
    match value {
        Value::Number(number) => respelled_number(number),
        Value::String(text) => respelled_text(text),
        Value::Array(elements) => {
            format!("[\n{}\t]", elements.iter().map(respelled).collect::<Vec<_>>().join(" , "))
        }
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{} : {}", respelled_text(key), respelled(value));
            format!("{{\r{} }}", members.iter().rev().map(member).collect::<Vec<_>>().join(" ,\n"))
        }
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

fn respelled_number(number: &Number) -> String {
    match number.as_f64() {
        Some(double) if number.is_f64() => format!("{double:e}"),
        _ => format!("{number}.000E+0"),
    }
}

fn respelled_text(text: &str) -> String {
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("\"{escaped}\"")
}

struct Reader<'a> {
    rest: &'a [u8],
    oddities: Oddities,
}

impl Reader<'_> {
    /// The next byte that is no space, which is left there.
    fn token(&mut self) -> Option<u8> {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.rest.first().copied()
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn word(&mut self, word: &str, value: Value) -> Option<Value> {
        self.rest = self.rest.strip_prefix(word.as_bytes())?;
        Some(value)
    }

    fn value(&mut self) -> Option<Value> {
        match self.token()? {
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'"' => self.text().map(Value::String),
            b'[' => self.array(),
            b'{' => self.object(),
            _ => self.number(),
        }
    }

    fn array(&mut self) -> Option<Value> {
        self.byte();
        let mut elements = Vec::new();
        if self.token()? == b']' {
            self.byte();
            return Some(Value::Array(elements));
        }
        loop {
            elements.push(self.value()?);
            match (self.token()?, self.byte()) {
                (b',', _) => {}
                (b']', _) => return Some(Value::Array(elements)),
                _ => return None,
            }
        }
    }

    fn object(&mut self) -> Option<Value> {
        self.byte();
        let mut members = Map::new();
        if self.token()? == b'}' {
            self.byte();
            return Some(Value::Object(members));
        }
        loop {
            let key = if self.token()? == b'"' { self.text()? } else { return None };
            if self.token()? != b':' {
                return None;
            }
            self.byte();
            let value = self.value()?;
            self.oddities.duplicate |= members.contains_key(&key);
            members.entry(key).or_insert(value);
            match (self.token()?, self.byte()) {
                (b',', _) => {}
                (b'}', _) => return Some(Value::Object(members)),
                _ => return None,
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        self.byte();
        // UTF-16, as escapes have it.
        let mut units = Vec::new();
        loop {
            let plain = self.rest.iter().take_while(|byte| **byte >= 0x20 && !b"\"\\".contains(byte)).count();
            let (text, rest) = self.rest.split_at(plain);
            units.extend(std::str::from_utf8(text).expect("cut between ASCII characters").encode_utf16());
            self.rest = rest;
            match self.byte()? {
                b'"' => break,
                b'\\' => units.push(self.escape()?),
                _ => return None,
            }
        }
        let text = String::from_utf16(&units);
        self.oddities.no_value |= text.is_err();
        Some(text.unwrap_or_default())
    }

    fn escape(&mut self) -> Option<u16> {
        Some(match self.byte()? {
            byte @ (b'"' | b'\\' | b'/') => byte.into(),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = [self.byte()?, self.byte()?, self.byte()?, self.byte()?];
                digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)? as u16))?
            }
            _ => return None,
        })
    }

    fn number(&mut self) -> Option<Value> {
        let start = self.rest;
        if self.rest.first() == Some(&b'-') {
            self.byte();
        }
        if let [b'0', _, ..] = self.digits()? {
            return None;
        }
        let mut integer = true;
        if self.rest.first() == Some(&b'.') {
            integer = false;
            self.byte();
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.rest.first() {
            integer = false;
            self.byte();
            if let Some(b'+' | b'-') = self.rest.first() {
                self.byte();
            }
            self.digits()?;
        }
        let literal = &start[..start.len() - self.rest.len()];
        let literal = std::str::from_utf8(literal).expect("ASCII");
        self.oddities.inexact |= integer && !is_exact(literal.trim_start_matches('-')) && !is_canonical(literal);
        Some(self.number_of(literal, integer))
    }

    fn number_of(&mut self, literal: &str, integer: bool) -> Value {
        let unsigned = literal.parse::<u64>().ok().filter(|_| integer).map(Number::from);
        let signed = || literal.parse::<i64>().ok().filter(|number| integer && *number != 0).map(Number::from);
        let double = || Number::from_f64(literal.parse().expect("a literal is a number"));
        let number = unsigned.or_else(signed).or_else(double);
        self.oddities.no_value |= number.is_none();
        number.map_or(Value::Null, Value::Number)
    }

    fn digits(&mut self) -> Option<&[u8]> {
        let (digits, rest) = self.rest.split_at(self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
        self.rest = rest;
        (!digits.is_empty()).then_some(digits)
    }
}

/// True if an integer is what RFC 8785 prints for the double nearest to it.
fn is_canonical(literal: &str) -> bool {
    let double: f64 = literal.parse().expect("a literal is a number");
    double.is_finite() && serde_json_canonicalizer::to_vec(&double).is_ok_and(|form| form == literal.as_bytes())
}

/// Returns true if a double holds the integer: it has at most 53 bits between its first and its last 1, and 1,024 in
/// all.
fn is_exact(digits: &str) -> bool {
    let mut words: Vec<u32> = Vec::new();
    for digit in digits.bytes() {
        let mut carry = u64::from(digit - b'0');
        for word in &mut words {
            let product = u64::from(*word) * 10 + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        words.extend((carry > 0).then_some(carry as u32));
    }
    let bit = |at: &usize| words[at / 32] >> (at % 32) & 1 == 1;
    let ones: Vec<usize> = (0..words.len() * 32).filter(bit).collect();
    ones.last().is_none_or(|last| *last < 1024 && last - ones[0] < 53)
}
