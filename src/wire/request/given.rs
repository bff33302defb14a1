//! Fields in MQTT 5 user properties.
//!
//! They are added to the fields of the payload before these are checked. So they have the same meaning, are refused by
//! the same requests, and cannot contradict the payload.

use serde_json::{Map, Value};

use crate::{
    shadow::Rejection,
    wire::request::fields::{self, invalid},
};

/// A payload and its user properties.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// The payload.
    pub bytes: &'a [u8],
    /// Names and values in the order received. Names that are no fields are ignored.
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

/// Returns the field of a user property; `None` if it has none.
///
/// # Errors
///
/// The name begins like a condition but is unknown: a typo must not make a conditional write unconditional.
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

/// The user properties and their fields. Names are compared without case, and `_` equals `-`, since some clients write
/// them as identifiers.
const KNOWN: [(&str, &str); 4] = [
    ("if-version", "version"),
    ("if-match", "etag"),
    ("on-conflict", "onConflict"),
    ("idempotency-key", "idempotencyKey"),
];

/// Adds the fields in the user properties `user` to `members`.
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
            Some(present) if is_same(field, present, &value) => {}
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

fn is_same(field: &str, present: &Value, value: &Value) -> bool {
    match field {
        "version" => fields::version(present) == fields::version(value),
        _ => present == value,
    }
}
