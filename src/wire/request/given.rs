//! Fields that came beside the payload, as MQTT 5 user properties.
//!
//! They become fields of the payload before it is looked at, so they mean the same, are refused by the same requests,
//! and cannot say anything else than the payload does.

use serde_json::{Map, Value};

use crate::{
    shadow::Rejection,
    wire::request::fields::{self, invalid},
};

/// A payload, and the user properties it came with.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// The payload.
    pub bytes: &'a [u8],
    /// Names and values, in the order they came; those that are no fields do not matter.
    pub user: &'a [(String, String)],
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, user: &[] }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self { bytes, user: &[] }
    }
}

/// Returns the field that a user property means; `None` if it means none.
///
/// # Errors
///
/// It begins like a condition and is none: a typo must not turn a conditional write into a blind one.
fn field(property: &str) -> Result<Option<&'static str>, Rejection> {
    let name = property.to_ascii_lowercase().replace('_', "-");
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, field)) => Ok(Some(field)),
        None if name.starts_with("if-") => {
            Err(invalid(property, &fields::unknown(&name, &KNOWN.map(|(name, _)| name))))
        }
        None => Ok(None),
    }
}

/// User properties and the fields they mean. Names are compared without case, `_` as `-`: clients write them as
/// identifiers too.
const KNOWN: [(&str, &str); 4] = [
    ("if-version", "version"),
    ("if-match", "etag"),
    ("on-conflict", "onConflict"),
    ("idempotency-key", "idempotencyKey"),
];

/// Adds the fields in `user` to `members`.
pub(in crate::wire) fn add(members: &mut Map<String, Value>, user: &[(String, String)]) -> Result<(), Rejection> {
    for (property, text) in user {
        let Some(field) = field(property)? else { continue };
        let value = match field {
            "version" => version(text).ok_or_else(|| invalid(property, "must be an integer from 0 on"))?,
            "etag" => fields::quoted(property, text)?.into(),
            _ => Value::String(text.clone()),
        };
        match members.get(field) {
            None => _ = members.insert(field.to_owned(), value),
            Some(there) if says_the_same(field, there, &value) => {}
            Some(_) => return Err(invalid(property, &format!("says something else than '{field}'"))),
        }
    }
    Ok(())
}

fn version(text: &str) -> Option<Value> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let value = Value::from(text.parse::<u64>().ok().filter(|_| digits)?);
    fields::version(&value).map(|version| version.0.into())
}

fn says_the_same(field: &str, there: &Value, value: &Value) -> bool {
    match field {
        "version" => fields::version(there) == fields::version(value),
        _ => there == value,
    }
}
