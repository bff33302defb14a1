//! Parsing of requests: from a payload to a typed command, or to a rejection.
//!
//! The first fault in this order is reported: invalid UTF-8; invalid JSON; depth; `clientToken`; an unknown field; the
//! other fields; `state`, its sections, its nodes. A rejection carries the client token whenever it could be read.

pub(super) mod fields;
pub(super) mod given;
pub(super) mod json_patch;
pub(super) mod rollout;
pub(super) mod strict;
pub(super) mod weight;
use serde_json::{Map, Value};

use crate::{
    shadow::{ClientToken, Delete, DocumentLimits, Keyed, Rejection, SectionPatch, Update, pointer::SectionName},
    wire::{
        Dialect,
        request::{
            fields::Request,
            given::Payload,
            strict::{Object, shown},
        },
    },
};

/// A parsed request.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    /// The content.
    pub body: T,
    /// The token to echo in replies.
    pub client_token: Option<ClientToken>,
    /// False if the requester receives no metadata.
    pub metadata: bool,
}

/// A request that cannot be parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The reason.
    pub rejection: Rejection,
    /// The token to echo, if it could be read.
    pub client_token: Option<ClientToken>,
}

/// Parses the payload of an update.
///
/// # Errors
///
/// A rejection of code 400 or 415. Depth is limited here, size on the resulting document.
pub fn parse_update<'a>(
    payload: impl Into<Payload<'a>>,
    dialect: Dialect,
    limits: &DocumentLimits,
) -> Result<Parsed<Update>, Refused> {
    let payload = payload.into();
    // `state` and its section are two levels more than PROTOCOL counts.
    let object = read(payload.bytes, dialect, limits.depth_max + 2);
    parse(object, payload.user, limits.depth_max, |mut members, null_in| {
        Request::Update.check_names(dialect, &members)?;
        let preconditions = fields::preconditions(&members)?;
        let flag = |field| fields::flag(&members, field).map(Option::unwrap_or_default);
        let (replace, dry_run) = (flag("replace")?, flag("dryRun")?);
        let key = fields::idempotency_key(&members)?;
        let state = members.remove("state").ok_or(Rejection::MissingState)?;
        // In the AWS dialect every update takes a version. PROTOCOL section 3.
        let bumps = dialect == Dialect::Aws;
        let update = Update { preconditions, replace, dry_run, bumps, ..patches(state, dialect)? };
        match null_in {
            Some(key) => Err(Rejection::InvalidNode { key }),
            None => Ok(Update { keyed: key.map(|key| Keyed::update(key, &update)), ..update }),
        }
    })
}

/// Parses `state` alone, from an HTTP body whose other fields are headers. The update has no conditions.
///
/// # Errors
///
/// A rejection of code 400 or 415.
pub fn parse_state(payload: &[u8], limits: &DocumentLimits) -> Result<Update, Rejection> {
    if payload.trim_ascii() == b"null" {
        return patches(Value::Null, Dialect::Native);
    }
    // The section is one level more than PROTOCOL counts.
    let Object { members, refusal, null_in } = strict::read_object(payload, limits.depth_max + 1, |_| true);
    match refusal {
        Some(Rejection::TooDeep { .. }) => return Err(Rejection::TooDeep { max: limits.depth_max }),
        Some(rejection) => return Err(rejection),
        None => {}
    }
    let update = patches(Value::Object(members), Dialect::Native)?;
    null_in.map_or(Ok(update), |key| Err(Rejection::InvalidNode { key }))
}

/// Parses the payload of a get, which may be empty.
///
/// # Errors
///
/// A rejection of code 400 or 415.
pub fn parse_get<'a>(payload: impl Into<Payload<'a>>, dialect: Dialect) -> Result<Parsed<()>, Refused> {
    let Payload { bytes, user } = payload.into();
    parse(read_optional(bytes, dialect), user, LEVELS, |members, _| Request::Get.check_names(dialect, &members))
}

/// Parses the payload of a deletion, which may be empty. The AWS dialect ignores all fields but the token.
///
/// # Errors
///
/// A rejection of code 400 or 415.
pub fn parse_delete<'a>(payload: impl Into<Payload<'a>>, dialect: Dialect) -> Result<Parsed<Delete>, Refused> {
    let Payload { bytes, user } = payload.into();
    parse(read_optional(bytes, dialect), user, LEVELS, |members, _| {
        Request::Delete.check_names(dialect, &members)?;
        if dialect == Dialect::Aws {
            return Ok(Delete::default());
        }
        let delete = Delete { preconditions: fields::preconditions(&members)?, keyed: None };
        let key = fields::idempotency_key(&members)?;
        Ok(Delete { keyed: key.map(|key| Keyed::delete(key, &delete)), ..delete })
    })
}

/// The levels allowed in the fields of a get or delete, none of which needs any.
const LEVELS: usize = 4;

fn read(payload: &[u8], dialect: Dialect, levels: usize) -> Object {
    let is_read = match dialect {
        Dialect::Native => |_: &str| true,
        Dialect::Aws => Request::aws_reads,
    };
    strict::read_object(payload, levels, is_read)
}

fn read_optional(payload: &[u8], dialect: Dialect) -> Object {
    if payload.trim_ascii().is_empty() { Object::default() } else { read(payload, dialect, LEVELS) }
}

fn parse<T>(
    object: Object,
    user: &[(String, String)],
    depth_max: usize,
    body: impl FnOnce(Map<String, Value>, Option<String>) -> Result<T, Rejection>,
) -> Result<Parsed<T>, Refused> {
    let Object { mut members, refusal, null_in } = object;
    let token = fields::client_token(&members);
    let client_token = token.as_ref().ok().cloned().flatten();
    let body = match (refusal, token) {
        (Some(Rejection::TooDeep { .. }), _) => Err(Rejection::TooDeep { max: depth_max }),
        (Some(rejection), _) | (None, Err(rejection)) => Err(rejection),
        (None, Ok(_)) => given::add(&mut members, user).and_then(|()| {
            let metadata = fields::flag(&members, "metadata"); // the AWS dialect does not read it
            Ok((body(members, null_in)?, metadata?.unwrap_or(true)))
        }),
    };
    match body {
        Ok((body, metadata)) => Ok(Parsed { body, client_token, metadata }),
        Err(rejection) => Err(Refused { rejection, client_token }),
    }
}

/// Returns the edits of the sections in `state`.
fn patches(state: Value, dialect: Dialect) -> Result<Update, Rejection> {
    let mut state = match state {
        Value::Null => return Ok(clear_all(dialect)),
        Value::Object(state) => state,
        _ => return Err(Rejection::InvalidSection(None)),
    };
    let mut take = |name: SectionName| {
        let patch = fields::section(state.remove(name.as_str()));
        patch.map_err(|()| Rejection::InvalidSection(Some(name)))
    };
    let (desired, reported) = (take(SectionName::Desired)?, take(SectionName::Reported)?);
    let tags = if dialect == Dialect::Native { take(SectionName::Tags)? } else { SectionPatch::Keep };
    match state.keys().next() {
        Some(key) => Err(Rejection::InvalidNode { key: shown(key) }),
        None => Ok(Update { desired, reported, tags, ..Update::default() }),
    }
}

/// Returns the update of `"state": null`. The AWS dialect has no tags, so it clears none.
fn clear_all(dialect: Dialect) -> Update {
    let tags = if dialect == Dialect::Native { SectionPatch::Clear } else { SectionPatch::Keep };
    let (desired, reported) = (SectionPatch::Clear, SectionPatch::Clear);
    Update { desired, reported, tags, state_is_null: true, ..Update::default() }
}
