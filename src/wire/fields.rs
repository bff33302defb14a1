//! The fields of requests, and what each of them may hold.

use serde_json::{Map, Value};

use crate::{
    shadow::{Preconditions, Rejection, SectionPatch, Version, command::EtagCondition},
    wire::{client_token::ClientToken, dialect::Dialect, strict::shown},
};

/// What a request may say at its top level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Update,
    Get,
    Delete,
}

/// Parts of the contract that are not built yet: refused by name, since ignoring one would turn a conditional write
/// into a blind one.
const NOT_SUPPORTED: [&str; 4] = ["onConflict", "expect", "idempotencyKey", "dryRun"];

impl Request {
    fn known(self, dialect: Dialect) -> &'static [&'static str] {
        match (self, dialect) {
            (Self::Update, Dialect::Native) => &["state", "version", "etag", "replace", "clientToken"],
            (Self::Update, Dialect::Aws) => &["state", "version", "clientToken"],
            (Self::Delete, Dialect::Native) => &["version", "etag", "clientToken"],
            (Self::Delete, Dialect::Aws) | (Self::Get, _) => &["clientToken"],
        }
    }

    /// Whether the AWS dialect looks at `field` at all, in any request.
    pub(super) fn aws_reads(field: &str) -> bool {
        matches!(field, "state" | "version" | "clientToken" | "onConflict" | "expect" | "idempotencyKey")
    }

    /// Refuses the first field that is not one of this request's.
    pub(super) fn check_names(self, dialect: Dialect, members: &Map<String, Value>) -> Result<(), Rejection> {
        let known = self.known(dialect);
        let Some(field) = members.keys().find(|field| !known.contains(&field.as_str())) else { return Ok(()) };
        let field = field.as_str();
        let unsupported = self == Self::Update && NOT_SUPPORTED.contains(&field);
        match dialect {
            _ if unsupported => Err(invalid(field, "not supported by this version of the service")),
            Dialect::Aws => Ok(()),
            Dialect::Native => Err(invalid(field, &unknown(field, known))),
        }
    }
}

fn unknown(field: &str, known: &[&str]) -> String {
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

fn invalid(field: &str, reason: &str) -> Rejection {
    Rejection::InvalidField { field: shown(field), reason: reason.to_owned() }
}

/// `clientToken`.
pub(super) fn client_token(members: &Map<String, Value>) -> Result<Option<ClientToken>, Rejection> {
    let Some(value) = members.get("clientToken") else { return Ok(None) };
    value.as_str().and_then(ClientToken::new).map(Some).ok_or(Rejection::InvalidClientToken)
}

/// `version` and `etag`.
pub(super) fn preconditions(members: &Map<String, Value>) -> Result<Preconditions, Rejection> {
    let version = members.get("version").map(|value| version(value).ok_or(Rejection::InvalidVersion)).transpose()?;
    let etag = match members.get("etag") {
        None => None,
        Some(Value::String(text)) => Some(EtagCondition::from(text.as_str())),
        Some(_) => return Err(invalid("etag", "must be a string")),
    };
    Ok(Preconditions { version, etag })
}

/// An integer from 0 on; `7.0` is one.
fn version(value: &Value) -> Option<Version> {
    let whole = |double: &f64| (0.0..=9_007_199_254_740_992.0).contains(double) && double.fract() == 0.0;
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|double| double as u64)).map(Version)
}

/// `replace`.
pub(super) fn replace(members: &Map<String, Value>) -> Result<bool, Rejection> {
    match members.get("replace") {
        None => Ok(false),
        Some(Value::Bool(replace)) => Ok(*replace),
        Some(_) => Err(invalid("replace", "must be true or false")),
    }
}

/// What `state` says of a section.
pub(super) fn section(value: Option<Value>) -> Result<SectionPatch, ()> {
    match value {
        None => Ok(SectionPatch::Keep),
        Some(Value::Null) => Ok(SectionPatch::Clear),
        Some(Value::Object(members)) => Ok(SectionPatch::Merge(members)),
        Some(_) => Err(()),
    }
}
