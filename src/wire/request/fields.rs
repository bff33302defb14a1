//! The fields of requests and their values.

use serde_json::{Map, Value};

use crate::{
    shadow::{
        ClientToken, IdempotencyKey, OnConflict, Preconditions, Rejection, SectionPatch, Version,
        command::{EtagCondition, Expectation, Expected},
        pointer::NotAPointer,
    },
    wire::{Dialect, request::strict::shown},
};

/// The operation of a request, which determines its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum Request {
    Update,
    Get,
    Delete,
}

/// Most expectations in one request.
const EXPECTATIONS_MAX: usize = 64;

impl Request {
    fn known(self, dialect: Dialect) -> &'static [&'static str] {
        match (self, dialect) {
            (Self::Update, Dialect::Native) => &[
                "state",
                "version",
                "etag",
                "onConflict",
                "expect",
                "replace",
                "dryRun",
                "idempotencyKey",
                "clientToken",
                "metadata",
            ],
            (Self::Update, Dialect::Aws) => {
                &["state", "version", "onConflict", "expect", "idempotencyKey", "clientToken"]
            }
            (Self::Delete, Dialect::Native) => &["version", "etag", "idempotencyKey", "clientToken", "metadata"],
            (Self::Get, Dialect::Native) => &["clientToken", "metadata"],
            (Self::Delete | Self::Get, Dialect::Aws) => &["clientToken"],
        }
    }

    /// Returns true if the AWS dialect reads `field` in any request.
    pub(in crate::wire) fn aws_reads(field: &str) -> bool {
        matches!(field, "state" | "version" | "clientToken" | "onConflict" | "expect" | "idempotencyKey")
    }

    /// Refuses the first unknown field.
    pub(in crate::wire) fn check_names(self, dialect: Dialect, members: &Map<String, Value>) -> Result<(), Rejection> {
        let known = self.known(dialect);
        let Some(field) = members.keys().find(|field| !known.contains(&field.as_str())) else { return Ok(()) };
        match dialect {
            Dialect::Aws => Ok(()),
            Dialect::Native => Err(invalid(field, &unknown(field, known))),
        }
    }
}

/// Returns the reason for refusing `field`, which is none of `known`, with the nearest of them.
pub(in crate::wire) fn unknown(field: &str, known: &[&str]) -> String {
    let field = shown(field);
    let nearest =
        known.iter().map(|name| (strsim::damerau_levenshtein(&field.to_lowercase(), &name.to_lowercase()), name));
    match nearest.min() {
        Some((distance, name)) if distance <= 3 && distance < field.chars().count() => {
            format!("unknown; did you mean '{name}'?")
        }
        _ => format!("unknown; known are {}", known.join(", ")),
    }
}

pub(in crate::wire) fn invalid(field: &str, reason: &str) -> Rejection {
    Rejection::InvalidField { field: shown(field), reason: reason.to_owned() }
}

/// Returns `clientToken`.
pub(in crate::wire) fn client_token(members: &Map<String, Value>) -> Result<Option<ClientToken>, Rejection> {
    let Some(value) = members.get("clientToken") else { return Ok(None) };
    value.as_str().and_then(ClientToken::new).map(Some).ok_or(Rejection::InvalidClientToken)
}

/// Returns the conditions in `version`, `etag`, `onConflict` and `expect`.
pub(in crate::wire) fn preconditions(members: &Map<String, Value>) -> Result<Preconditions, Rejection> {
    let version = members.get("version").map(|value| version(value).ok_or(Rejection::InvalidVersion)).transpose()?;
    let etag = match members.get("etag") {
        None => None,
        Some(Value::String(text)) => Some(quoted("etag", text).map(EtagCondition::from)?),
        Some(_) => return Err(invalid("etag", "must be a string")),
    };
    let on_conflict = match members.get("onConflict").map(Value::as_str) {
        None | Some(Some("reject")) => OnConflict::Reject,
        Some(Some("rebase")) => OnConflict::Rebase,
        Some(_) => return Err(invalid("onConflict", "must be 'reject' or 'rebase'")),
    };
    Ok(Preconditions { version, etag, none_of: Vec::new(), on_conflict, expect: expectations(members)? })
}

/// Returns `text` if it is in quotes, as every etag is. Without them it could never equal the current etag.
pub(in crate::wire) fn quoted<'a>(field: &str, text: &'a str) -> Result<&'a str, Rejection> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map(|_| text).ok_or_else(|| invalid(field, "must be an etag with its own quotes, such as \"7-…\""))
}

/// Returns the conditions in `expect`.
pub(in crate::wire) fn expectations(members: &Map<String, Value>) -> Result<Vec<Expectation>, Rejection> {
    let entries = match members.get("expect") {
        None => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(invalid("expect", "must be an array")),
    };
    if entries.len() > EXPECTATIONS_MAX {
        return Err(invalid("expect", &format!("more than {EXPECTATIONS_MAX} entries")));
    }
    let read =
        |(index, entry)| expectation(entry).map_err(|reason| invalid("expect", &format!("entry {index}: {reason}")));
    entries.iter().enumerate().map(read).collect()
}

fn expectation(entry: &Value) -> Result<Expectation, String> {
    let entry = entry.as_object().ok_or("must be an object")?;
    let path = entry.get("path").and_then(Value::as_str).ok_or("'path' must be a string")?;
    let path = path.parse().map_err(|error: NotAPointer| format!("'{}' is {error}", shown(path)))?;
    let mut others = entry.iter().filter(|(field, _)| *field != "path");
    let (Some((field, value)), None) = (others.next(), others.next()) else {
        return Err("must have one of 'version', 'value' and 'absent'".to_owned());
    };
    let holds = match (field.as_str(), value) {
        ("version", value) => Expected::Version(version(value).ok_or("'version' must be an integer from 0 on")?),
        ("value", value) if holds_null(value) => {
            return Err(
                "'value' holds null, which no shadow does; for a path that is not there, use 'absent'".to_owned()
            );
        }
        ("value", value) => Expected::Value(value.clone()),
        ("absent", Value::Bool(true)) => Expected::Absent,
        ("absent", _) => return Err("'absent' must be true".to_owned()),
        (field, _) => return Err(format!("'{}' is none of 'version', 'value' and 'absent'", shown(field))),
    };
    Ok(Expectation { path, holds })
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.iter().any(holds_null),
        Value::Object(members) => members.values().any(holds_null),
        _ => false,
    }
}

/// Returns the integer in `value`, from 0 on; `7.0` is one.
pub(in crate::wire) fn version(value: &Value) -> Option<Version> {
    let whole = |double: &f64| (0.0..=9_007_199_254_740_992.0).contains(double) && double.fract() == 0.0;
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|double| double as u64)).map(Version)
}

/// Returns `replace`, `dryRun` or `metadata`; `None` if it is missing.
pub(in crate::wire) fn flag(members: &Map<String, Value>, field: &str) -> Result<Option<bool>, Rejection> {
    match members.get(field) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(invalid(field, "must be true or false")),
    }
}

/// Returns `idempotencyKey`.
pub(in crate::wire) fn idempotency_key(members: &Map<String, Value>) -> Result<Option<IdempotencyKey>, Rejection> {
    let Some(value) = members.get("idempotencyKey") else { return Ok(None) };
    let key = value.as_str().and_then(IdempotencyKey::new).map(Some);
    key.ok_or_else(|| invalid("idempotencyKey", "must be a string of 1 to 64 bytes"))
}

/// Returns the edit of a section in `state`.
pub(in crate::wire) fn section(value: Option<Value>) -> Result<SectionPatch, ()> {
    match value {
        None => Ok(SectionPatch::Keep),
        Some(Value::Null) => Ok(SectionPatch::Clear),
        Some(Value::Object(members)) => Ok(SectionPatch::Merge(members)),
        Some(_) => Err(()),
    }
}
