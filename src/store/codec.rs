//! The encoding of values: integers, strings, JSON values, pointers.
//!
//! Integers are LEB128, strings are length-prefixed UTF-8, a JSON value is a tag byte and its parts. A number keeps its
//! kind (unsigned, negative, double) and all its bits, so that decoding yields the same etag. The decoder accepts
//! arbitrary bytes: it never panics, never allocates more than the length of its input, and never nests deeper than
//! [`DEPTH_MAX`]. The fields of records are defined in `record` and `entry`, version and checksum in `frame`.

use serde_json::{Map, Number, Value};

use crate::shadow::pointer::{Pointer, SectionName};

/// Most levels of JSON in a record; far above the limit of a document.
const DEPTH_MAX: usize = 128;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const UNSIGNED: u8 = 3;
const NEGATIVE: u8 = 4;
const DOUBLE: u8 = 5;
const STRING: u8 = 6;
const ARRAY: u8 = 7;
const OBJECT: u8 = 8;

/// A decoding error. The caller adds table and key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// The input ends inside the value.
    #[error("it ends too early")]
    Truncated,
    /// The input continues after the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// The field cannot have this value.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// The checksum does not match.
    #[error("its checksum does not match")]
    Checksum,
    /// The value was written by a newer program.
    #[error("format {found}, this program knows {supported}")]
    Format { found: u32, supported: u32 },
}

impl DecodeError {
    /// Returns the error for a value of a format that is not the `supported` one.
    pub(super) fn of_format(found: u64, supported: u64) -> Self {
        let number = |format| u32::try_from(format).unwrap_or(u32::MAX);
        Self::Format { found: number(found), supported: number(supported) }
    }
}

/// Appends `number` in LEB128.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time is the encoding")]
pub(super) fn put_u64(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a length or count.
pub(super) fn put_len(out: &mut Vec<u8>, length: usize) {
    put_u64(out, length as u64);
}

/// Appends a string.
pub(super) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a JSON value.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Number(number) => put_number(out, number),
        Value::String(text) => {
            out.push(STRING);
            put_str(out, text);
        }
        Value::Array(items) => {
            out.push(ARRAY);
            put_len(out, items.len());
            items.iter().for_each(|item| put_value(out, item));
        }
        Value::Object(members) => {
            out.push(OBJECT);
            put_len(out, members.len());
            for (key, member) in members {
                put_str(out, key);
                put_value(out, member);
            }
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: &Number) {
    if let Some(unsigned) = number.as_u64() {
        out.push(UNSIGNED);
        put_u64(out, unsigned);
    } else if let Some(negative) = number.as_i64() {
        out.push(NEGATIVE);
        put_u64(out, negative.unsigned_abs());
    } else {
        out.push(DOUBLE);
        // A number is one of the three kinds, since serde_json parses without `arbitrary_precision`.
        out.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
    }
}

/// Appends a pointer.
pub(super) fn put_pointer(out: &mut Vec<u8>, pointer: &Pointer) {
    out.push(match pointer.section {
        SectionName::Desired => 0,
        SectionName::Reported => 1,
        SectionName::Tags => 2,
    });
    put_len(out, pointer.keys.len());
    pointer.keys.iter().for_each(|key| put_str(out, key));
}

/// A decoder of the output of the functions above.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that the value ends here.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Returns the number of bytes left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DecodeError::Invalid("an integer"))
    }

    /// Returns a count of items of at least one byte each; at most the number of bytes left.
    pub(super) fn count(&mut self) -> Result<usize, DecodeError> {
        match usize::try_from(self.u64()?) {
            Ok(count) if count <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Truncated),
        }
    }

    /// Returns a list: a count, and as many items.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count()?;
        // The count may be wrong: more room is made as the items come.
        let mut items = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Returns a number that does not count items of this value.
    pub(super) fn size(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.u64()?).map_err(|_| DecodeError::Invalid("a size"))
    }

    pub(super) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.count()?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| DecodeError::Invalid("a string"))
    }

    pub(super) fn value(&mut self) -> Result<Value, DecodeError> {
        self.value_below(DEPTH_MAX)
    }

    /// Passes over a string.
    pub(super) fn skip_str(&mut self) -> Result<(), DecodeError> {
        let length = self.count()?;
        self.bytes(length).map(drop)
    }

    /// Passes over a JSON value.
    pub(super) fn skip_value(&mut self) -> Result<(), DecodeError> {
        self.skip_value_below(DEPTH_MAX)
    }

    fn skip_value_below(&mut self, depth: usize) -> Result<(), DecodeError> {
        let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("the nesting of a value"))?;
        match self.u8()? {
            NULL | FALSE | TRUE => Ok(()),
            UNSIGNED | NEGATIVE => self.u64().map(drop),
            DOUBLE => self.array::<8>().map(drop),
            STRING => self.skip_str(),
            ARRAY => (0..self.count()?).try_for_each(|_| self.skip_value_below(depth)),
            OBJECT => (0..self.count()?).try_for_each(|_| {
                self.skip_str()?;
                self.skip_value_below(depth)
            }),
            _ => Err(DecodeError::Invalid("the kind of a value")),
        }
    }

    fn value_below(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("the nesting of a value"))?;
        Ok(match self.u8()? {
            NULL => Value::Null,
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            UNSIGNED => self.u64()?.into(),
            NEGATIVE => 0i64.checked_sub_unsigned(self.u64()?).ok_or(DecodeError::Invalid("an integer"))?.into(),
            DOUBLE => Number::from_f64(f64::from_le_bytes(self.array()?))
                .map(Value::Number)
                .ok_or(DecodeError::Invalid("a number"))?,
            STRING => self.str()?.into(),
            ARRAY => self.list(|decoder| decoder.value_below(depth))?.into(),
            OBJECT => (0..self.count()?)
                .map(|_| Ok((self.str()?.to_owned(), self.value_below(depth)?)))
                .collect::<Result<Map<_, _>, _>>()?
                .into(),
            _ => return Err(DecodeError::Invalid("the kind of a value")),
        })
    }

    pub(super) fn pointer(&mut self) -> Result<Pointer, DecodeError> {
        let section = match self.u8()? {
            0 => SectionName::Desired,
            1 => SectionName::Reported,
            2 => SectionName::Tags,
            _ => return Err(DecodeError::Invalid("a section")),
        };
        Ok(Pointer { section, keys: self.list(|decoder| decoder.str().map(Box::from))? })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn values_come_back_with_all_their_bits() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "1.0",
            "-0.0",
            "1e308",
            "5e-324",
            "0.1",
            "2.2250738585072011e-308",
            r#""é\u0000\ud83d\ude00""#,
            "[]",
            "{}",
            r#"[[],{},[1,"a",{"b":[null]}]]"#,
            r#"{"":{"a~/b":1},"z":[1.5]}"#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let mut bytes = Vec::new();
            put_value(&mut bytes, &value);
            let mut decoder = Decoder::new(&bytes);
            let back = decoder.value().unwrap();
            assert_eq!(back.to_string(), value.to_string(), "{text}");
            assert_eq!(back, value, "{text}");
            decoder.finish().unwrap();
            let mut decoder = Decoder::new(&bytes);
            decoder.skip_value().unwrap();
            decoder.finish().unwrap();
            for length in 0..bytes.len() {
                assert!(Decoder::new(bytes.get(..length).unwrap()).value().is_err(), "{text} cut to {length}");
            }
        }
    }

    #[test]
    fn integers_have_one_largest_value() {
        for number in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_u64(&mut bytes, number);
            assert_eq!(Decoder::new(&bytes).u64(), Ok(number));
        }
        for bytes in [&[0xFF; 10][..], &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], &[0x80; 11]] {
            assert_eq!(Decoder::new(bytes).u64(), Err(DecodeError::Invalid("an integer")));
        }
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let nested = [ARRAY, 1].repeat(100_000);
        assert!(matches!(Decoder::new(&nested).value(), Err(DecodeError::Invalid(_))));
        assert!(matches!(Decoder::new(&nested).skip_value(), Err(DecodeError::Invalid(_))));
        let huge_count = [ARRAY, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
        assert_eq!(Decoder::new(&huge_count).value(), Err(DecodeError::Truncated));
        let mut infinite = vec![DOUBLE];
        infinite.extend_from_slice(&f64::INFINITY.to_le_bytes());
        assert_eq!(Decoder::new(&infinite).value(), Err(DecodeError::Invalid("a number")));
    }
}
