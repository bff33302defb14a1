//! The entries of an index.
//!
//! | | |
//! |---|---|
//! | key | the number of the path (two bytes), for `….*` the keys below it, a term, the key of the shadow in the state table |
//! | value | flags, and the values that have the term, in the order of the document |
//!
//! A key below a path ends with the bytes 0 and 1, and the last one with two zero bytes more; a zero byte in it is followed by
//! 0xFF. If they are more than [`BELOW_BYTES_MAX`], the bytes 0 and 2 and a hash of them are in their place.
//!
//! An entry of a shadow repeats its key and the keys below a path, so many values with long keys would be written many times.
//! A shadow with more than [`SHADOW_BYTES_MAX`] at a path has one entry instead, without a term, which stands for any
//! value: after the number of the path the bytes 0 and 3.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    shadow::{
        Document,
        index::{IndexedPath, term},
    },
    store::{
        codec::{DecodeError, Decoder, put_value},
        index::state::KeptPath,
    },
};

/// The flag of the first entry of a shadow at a path.
const FIRST: u8 = 1;
/// The flag of an entry that lacks its values, since they are long.
const LONG: u8 = 2;

/// Most bytes of the values in an entry.
const VALUES_BYTES_MAX: usize = 256;

/// Most bytes of the keys below a path in a key.
const BELOW_BYTES_MAX: usize = 128;
/// Bytes of a hash.
const HASH_BYTES: usize = 16;
/// Most bytes of the entries of a shadow at a path.
const SHADOW_BYTES_MAX: usize = 16 << 10;

/// The bytes after a zero byte: at the end of a key, of all keys, before their hash, and in place of all values.
const END_OF_KEY: u8 = 1;
const END_OF_KEYS: u8 = 0;
const HASHED: u8 = 2;
const ANY_VALUE: u8 = 3;

/// The entries of a shadow.
pub(in crate::store) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The value of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct EntryValue<'a> {
    /// True for the first entry of a shadow at a path.
    pub(in crate::store) is_first: bool,
    /// The encoded values; `None` if they are too long.
    pub(in crate::store) values: Option<&'a [u8]>,
}

/// Returns the beginning of the keys of the path with this number, with `below` for one that has all paths below.
pub(in crate::store) fn prefix<'a>(
    number: u16,
    path: &IndexedPath,
    below: impl IntoIterator<Item = &'a str>,
) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    if path.is_below() {
        let begin = out.len();
        for key in below {
            for byte in key.bytes() {
                out.push(byte);
                if byte == 0 {
                    out.push(0xFF);
                }
            }
            out.extend_from_slice(&[0, END_OF_KEY]);
        }
        let keys = out.get(begin..).unwrap_or_default();
        if keys.len() > BELOW_BYTES_MAX {
            let hash = Sha256::digest(keys);
            out.truncate(begin);
            out.extend_from_slice(&[0, HASHED]);
            out.extend(hash.into_iter().take(HASH_BYTES));
        } else {
            out.extend_from_slice(&[0, END_OF_KEYS]);
        }
    }
    out
}

/// Returns true if keys with this beginning may be of several paths below, since only the hash of theirs is known.
pub(in crate::store) fn is_hashed(prefix: &[u8]) -> bool {
    prefix.get(2..4) == Some(&[0, HASHED])
}

/// Returns the beginning of the keys of the entries that stand for any value at the path with this number.
pub(in crate::store) fn any_value(number: u16) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[0, ANY_VALUE]].concat()
}

/// Returns the keys above all keys of the path with this number.
pub(in crate::store) fn end_of_path(number: u16) -> Vec<u8> {
    // The numbers are far from their end.
    number.saturating_add(1).to_be_bytes().to_vec()
}

/// Adds the entries of `document`, whose key in the state table is `name`, at a path of its shadow.
pub(in crate::store) fn add(entries: &mut Entries, kept: &KeptPath, document: &Document, name: &[u8]) {
    let mut paths: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    kept.path.each_value(document, &mut |below, value| {
        let terms = paths.entry(prefix(kept.number, &kept.path, below.iter().copied())).or_default();
        let mut found = Vec::new();
        term::put(&mut found, value);
        put_value(terms.entry(found).or_default(), value);
        let mut second = Vec::new();
        if term::put_second(&mut second, value) {
            terms.entry(second).or_default();
        }
    });
    let (mut found, mut bytes) = (Entries::new(), 0);
    for (prefix, terms) in paths {
        let mut is_first = true;
        for (term, values) in terms {
            let is_long = values.len() > VALUES_BYTES_MAX;
            let mut value = vec![(u8::from(is_first) * FIRST) | (u8::from(is_long) * LONG)];
            if !is_long {
                value.extend_from_slice(&values);
            }
            let key = [prefix.as_slice(), &term, name].concat();
            bytes += key.len() + value.len();
            found.insert(key, value);
            is_first = false;
        }
    }
    if bytes > SHADOW_BYTES_MAX {
        found = Entries::from([([any_value(kept.number).as_slice(), name].concat(), vec![FIRST | LONG])]);
    }
    entries.append(&mut found);
}

impl<'a> EntryValue<'a> {
    /// Decodes the value of an entry.
    pub(in crate::store) fn decode(value: &'a [u8]) -> Result<Self, DecodeError> {
        let (flags, values) = value.split_first().ok_or(DecodeError::Truncated)?;
        if flags & !(FIRST | LONG) != 0 {
            return Err(DecodeError::Invalid("a flag"));
        }
        Ok(Self { is_first: flags & FIRST != 0, values: (flags & LONG == 0).then_some(values) })
    }
}

/// Decodes the values of an entry.
pub(in crate::store) fn values(bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let (mut decoder, mut values) = (Decoder::new(bytes), Vec::new());
    while !decoder.is_empty() {
        values.push(decoder.value()?);
    }
    Ok(values)
}

/// Returns the term, and the key of the shadow in the state table, from the end of a key.
pub(in crate::store) fn split(end: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    term::length(end).and_then(|length| end.split_at_checked(length)).ok_or(DecodeError::Invalid("a term"))
}

/// Returns the device of a key of the state table.
pub(in crate::store) fn device(name: &[u8]) -> Result<&str, DecodeError> {
    let end = name.iter().position(|byte| *byte == 0).ok_or(DecodeError::Invalid("a shadow's key"))?;
    str::from_utf8(name.get(..end).unwrap_or_default()).map_err(|_| DecodeError::Invalid("a shadow's key"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::shadow::tests::written;

    #[test]
    fn entries_have_the_values_of_a_document() {
        let long = "x".repeat(300);
        let document = written(&[json!({
            "reported": {"a": ["B", "b", 7, "7", [true]], "long": long},
            "tags": {"region": "West", "site": {"floor": 3}, "k\0": 1},
        })]);
        let found = |path: &str| {
            let kept = KeptPath { number: 5, path: path.parse().unwrap() };
            let mut entries = Entries::new();
            add(&mut entries, &kept, &document, b"d\0");
            let described = entries.iter().map(|(key, value)| {
                assert!(key.starts_with(&[0, 5]) && key.as_slice() < end_of_path(5).as_slice());
                let value = EntryValue::decode(value).unwrap();
                let values = value.values.map(|bytes| Value::from(values(bytes).unwrap()).to_string());
                (value.is_first, values)
            });
            described.map(|(is_first, values)| format!("{is_first} {values:?}")).collect::<Vec<_>>()
        };
        let of = |all: &[(bool, &str)]| {
            all.iter().map(|(is_first, values)| format!("{is_first} {:?}", Some(values))).collect::<Vec<_>>()
        };
        // True, the number, the texts `7` and `b`, and the number of the text.
        let expected =
            of(&[(true, "[true]"), (false, "[7]"), (false, "[\"7\"]"), (false, "[\"B\",\"b\"]"), (false, "[]")]);
        assert_eq!(found("reported.a"), expected);
        assert_eq!(found("reported.long"), ["true None"]);
        assert_eq!(found("reported.none"), [""; 0]);
        // Each path below has a first entry.
        assert_eq!(found("tags.*"), of(&[(true, "[1]"), (true, "[\"West\"]"), (true, "[3]")]));
    }

    /// However many values a document has below a path, its entries are bounded.
    #[test]
    fn many_values_have_one_entry() {
        let key = "k".repeat(100);
        for (count, expected) in [(10, 10), (30, 30), (500, 1)] {
            let members: serde_json::Map<_, _> = (0..count).map(|n| (format!("m{n:03}"), json!(n))).collect();
            let document = written(&[json!({"tags": {key.clone(): members}})]);
            let kept = KeptPath { number: 7, path: "tags.*".parse().unwrap() };
            let mut entries = Entries::new();
            add(&mut entries, &kept, &document, b"d\0");
            assert_eq!(entries.len(), expected);
            assert!(entries.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() <= SHADOW_BYTES_MAX);
            assert_eq!(entries.contains_key([any_value(7).as_slice(), b"d\0"].concat().as_slice()), count == 500);
            let range = any_value(7)..end_of_path(7);
            assert!(entries.keys().all(|key| range.contains(key)));
        }
    }

    #[test]
    fn a_key_has_its_path_term_and_shadow() {
        let document = written(&[json!({"tags": {"a": {"b": "X1"}, "c\0": false}})]);
        let kept = KeptPath { number: 300, path: "tags.*".parse().unwrap() };
        let mut entries = Entries::new();
        add(&mut entries, &kept, &document, b"lamp-1\0cfg");
        for below in [&["a", "b"][..], &["c\0"]] {
            let prefix = prefix(300, &kept.path, below.iter().copied());
            let (key, _) = entries.iter().find(|(key, _)| key.starts_with(&prefix)).unwrap();
            let (_, name) = split(key.strip_prefix(prefix.as_slice()).unwrap()).unwrap();
            assert_eq!((name, device(name)), (&b"lamp-1\0cfg"[..], Ok("lamp-1")));
        }
        let long = "k".repeat(BELOW_BYTES_MAX);
        let prefixes = [&[long.as_str()][..], &[&long, "x"], &["x", &long]];
        let prefixes = prefixes.map(|below| prefix(300, &kept.path, below.iter().copied()));
        assert!(prefixes.iter().all(|prefix| is_hashed(prefix) && prefix.len() == 4 + HASH_BYTES));
        assert!(prefixes.iter().collect::<std::collections::BTreeSet<_>>().len() == 3);
        assert!(!is_hashed(&prefix(300, &kept.path, ["k"])));
        assert!(split(&[]).is_err() && split(&[9, 9]).is_err() && device(b"no end").is_err());
    }
}
