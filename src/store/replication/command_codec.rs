//! The encoding of commands: as they are sent to the node that decides, and as records of the log hold them.

use crate::{
    observability::request_id::RequestId,
    shadow::{
        ClientToken, Command, Delete, DeviceId, Etag, IdempotencyKey, JsonPatch, Keyed, OnConflict, Patch, Paths,
        Preconditions, Scope, SectionPatch, Sender, SenderLogin, ShadowKey, Update, Version,
        command::{EtagCondition, Expectation, Expected},
        name::ShadowName,
        patch::PatchOperation,
    },
    store::{
        batch::Envelope,
        codec::{DecodeError, Decoder, put_len, put_pointer, put_str, put_u64, put_value},
        rows::edit::RowEdit,
    },
};

const UPDATE: u8 = 1;
const DELETE: u8 = 2;
const PATCH: u8 = 3;

const STATE_IS_NULL: u8 = 1;
const REPLACE: u8 = 2;
const BUMPS: u8 = 4;
const DRY_RUN: u8 = 8;

/// Appends `envelope`, without its login, the row of its node and the request id in the log.
pub(in crate::store) fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    let Envelope { key, command, author, client, is_of_session, client_token, may_create, id: _, row: _, shared_row } =
        envelope;
    put_key(out, key);
    put_str(out, &author.by);
    put_paths(out, &author.scope.reads);
    put_paths(out, &author.scope.writes);
    put_str(out, client);
    out.push(u8::from(*is_of_session));
    out.push(u8::from(*may_create));
    put_token(out, client_token.as_ref());
    put_command(out, command);
    put_row(out, shared_row.as_ref());
}

/// Appends the edit of a row, if there is one.
pub(in crate::store) fn put_row(out: &mut Vec<u8>, row: Option<&RowEdit>) {
    put_option(out, row, |out, row| row.put(out));
}

/// Decodes the edit of a row, if there is one.
pub(in crate::store) fn row(payload: &mut Decoder<'_>) -> Result<Option<RowEdit>, DecodeError> {
    option(payload, RowEdit::decode)
}

/// Decodes an envelope, whose login is never revoked.
pub(in crate::store) fn envelope(payload: &mut Decoder<'_>) -> Result<Envelope, DecodeError> {
    let key = key(payload)?;
    let by = payload.str()?.into();
    let scope = Scope { reads: paths(payload)?, writes: paths(payload)? };
    let author = Sender { by, scope, login: SenderLogin::default() };
    let (client, is_of_session, may_create) = (payload.str()?.into(), is_set(payload)?, is_set(payload)?);
    let (client_token, command, shared_row) = (token(payload)?, command(payload)?, row(payload)?);
    let id = RequestId::next();
    Ok(Envelope { key, command, author, id, client, is_of_session, client_token, may_create, row: None, shared_row })
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &ShadowKey) {
    put_str(out, key.device.as_str());
    put_str(out, name_of(key));
}

pub(super) fn key(payload: &mut Decoder<'_>) -> Result<ShadowKey, DecodeError> {
    let device = device(payload)?;
    key_of(device, payload)
}

/// Returns the name of a shadow; empty for the classic one.
pub(super) fn name_of(key: &ShadowKey) -> &str {
    key.name.as_ref().map_or("", ShadowName::as_str)
}

pub(super) fn device(payload: &mut Decoder<'_>) -> Result<DeviceId, DecodeError> {
    DeviceId::new(payload.str()?).map_err(|_| DecodeError::Invalid("a device id"))
}

/// Decodes the name of a shadow of `device`.
pub(super) fn key_of(device: DeviceId, payload: &mut Decoder<'_>) -> Result<ShadowKey, DecodeError> {
    match payload.str()? {
        "" => Ok(ShadowKey::classic(device)),
        name => {
            let name = ShadowName::new(name).map_err(|_| DecodeError::Invalid("a shadow name"))?;
            Ok(ShadowKey::named(device, name))
        }
    }
}

fn put_paths(out: &mut Vec<u8>, paths: &Paths) {
    let pointers = paths.pointers();
    put_len(out, pointers.len());
    pointers.iter().for_each(|pointer| put_pointer(out, pointer));
}

fn paths(payload: &mut Decoder<'_>) -> Result<Paths, DecodeError> {
    let pointers = payload.list(Decoder::pointer)?;
    Ok(pointers.iter().collect())
}

/// Appends an optional value: a byte that says if there is one, and the value.
fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn option<'a, T>(
    payload: &mut Decoder<'a>,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if is_set(payload)? { read(payload).map(Some) } else { Ok(None) }
}

fn is_set(payload: &mut Decoder<'_>) -> Result<bool, DecodeError> {
    match payload.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("a flag")),
    }
}

pub(super) fn put_token(out: &mut Vec<u8>, token: Option<&ClientToken>) {
    put_option(out, token, |out, token| put_str(out, token.as_str()));
}

pub(super) fn token(payload: &mut Decoder<'_>) -> Result<Option<ClientToken>, DecodeError> {
    option(payload, |payload| ClientToken::new(payload.str()?).ok_or(DecodeError::Invalid("a client token")))
}

/// Appends `command`.
pub(super) fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Update(update) => {
            out.push(UPDATE);
            let Update { state_is_null, replace, bumps, dry_run, preconditions, keyed, .. } = update;
            let flags = [(state_is_null, STATE_IS_NULL), (replace, REPLACE), (bumps, BUMPS), (dry_run, DRY_RUN)];
            out.push(flags.into_iter().filter(|(is, _)| **is).map(|(_, flag)| flag).sum());
            for patch in [&update.desired, &update.reported, &update.tags] {
                put_section(out, patch);
            }
            put_conditions(out, preconditions, keyed.as_ref());
        }
        Command::Delete(Delete { preconditions, keyed }) => {
            out.push(DELETE);
            put_conditions(out, preconditions, keyed.as_ref());
        }
        Command::Patch(Patch { operations, preconditions, dry_run, keyed }) => {
            out.push(PATCH);
            out.push(u8::from(*dry_run));
            put_len(out, operations.operations().len());
            operations.operations().iter().for_each(|operation| put_operation(out, operation));
            put_conditions(out, preconditions, keyed.as_ref());
        }
    }
}

/// Decodes a command.
pub(super) fn command(payload: &mut Decoder<'_>) -> Result<Command, DecodeError> {
    Ok(match payload.u8()? {
        UPDATE => {
            let flags = payload.u8()?;
            if flags & !(STATE_IS_NULL | REPLACE | BUMPS | DRY_RUN) != 0 {
                return Err(DecodeError::Invalid("a flag"));
            }
            let has = |flag| flags & flag != 0;
            let (desired, reported, tags) = (section(payload)?, section(payload)?, section(payload)?);
            let (preconditions, keyed) = conditions(payload)?;
            let (state_is_null, replace) = (has(STATE_IS_NULL), has(REPLACE));
            let (bumps, dry_run) = (has(BUMPS), has(DRY_RUN));
            let update =
                Update { desired, reported, tags, state_is_null, preconditions, replace, bumps, dry_run, keyed };
            Command::Update(update)
        }
        DELETE => {
            let (preconditions, keyed) = conditions(payload)?;
            Command::Delete(Delete { preconditions, keyed })
        }
        PATCH => {
            let dry_run = is_set(payload)?;
            let operations = payload.list(operation)?;
            let operations = JsonPatch::new(operations).ok_or(DecodeError::Invalid("the number of operations"))?;
            let (preconditions, keyed) = conditions(payload)?;
            Command::Patch(Patch { operations, preconditions, dry_run, keyed })
        }
        _ => return Err(DecodeError::Invalid("the kind of a command")),
    })
}

fn put_section(out: &mut Vec<u8>, patch: &SectionPatch) {
    match patch {
        SectionPatch::Keep => out.push(0),
        SectionPatch::Clear => out.push(1),
        SectionPatch::Merge(members) => {
            out.push(2);
            put_len(out, members.len());
            for (key, value) in members {
                put_str(out, key);
                put_value(out, value);
            }
        }
    }
}

fn section(payload: &mut Decoder<'_>) -> Result<SectionPatch, DecodeError> {
    Ok(match payload.u8()? {
        0 => SectionPatch::Keep,
        1 => SectionPatch::Clear,
        2 => {
            let member = |payload: &mut Decoder<'_>| Ok((payload.str()?.to_owned(), payload.value()?));
            SectionPatch::Merge((0..payload.count()?).map(|_| member(payload)).collect::<Result<_, DecodeError>>()?)
        }
        _ => return Err(DecodeError::Invalid("the edit of a section")),
    })
}

fn put_operation(out: &mut Vec<u8>, operation: &PatchOperation) {
    let (kind, path, value, other) = match operation {
        PatchOperation::Add(path, value) => (0, path, Some(value), None),
        PatchOperation::Remove(path) => (1, path, None, None),
        PatchOperation::Replace(path, value) => (2, path, Some(value), None),
        PatchOperation::Move { from, to } => (3, from, None, Some(to)),
        PatchOperation::Copy { from, to } => (4, from, None, Some(to)),
        PatchOperation::Test(path, value) => (5, path, Some(value), None),
    };
    out.push(kind);
    put_pointer(out, path);
    value.into_iter().for_each(|value| put_value(out, value));
    other.into_iter().for_each(|other| put_pointer(out, other));
}

fn operation(payload: &mut Decoder<'_>) -> Result<PatchOperation, DecodeError> {
    let (kind, path) = (payload.u8()?, payload.pointer()?);
    Ok(match kind {
        0 => PatchOperation::Add(path, payload.value()?),
        1 => PatchOperation::Remove(path),
        2 => PatchOperation::Replace(path, payload.value()?),
        3 => PatchOperation::Move { from: path, to: payload.pointer()? },
        4 => PatchOperation::Copy { from: path, to: payload.pointer()? },
        5 => PatchOperation::Test(path, payload.value()?),
        _ => return Err(DecodeError::Invalid("the kind of an operation")),
    })
}

fn put_conditions(out: &mut Vec<u8>, preconditions: &Preconditions, keyed: Option<&Keyed>) {
    let Preconditions { version, etag, none_of, on_conflict, expect } = preconditions;
    put_option(out, version.as_ref(), |out, version| put_u64(out, version.0));
    put_option(out, etag.as_ref(), put_etag_condition);
    put_len(out, none_of.len());
    none_of.iter().for_each(|etag| put_etag(out, etag));
    out.push(u8::from(*on_conflict == OnConflict::Rebase));
    put_len(out, expect.len());
    for Expectation { path, holds } in expect {
        put_pointer(out, path);
        match holds {
            Expected::Version(version) => {
                out.push(0);
                put_u64(out, version.0);
            }
            Expected::Value(value) => {
                out.push(1);
                put_value(out, value);
            }
            Expected::Absent => out.push(2),
        }
    }
    put_option(out, keyed, |out, Keyed { key, digest }| {
        put_str(out, key.as_str());
        out.extend_from_slice(digest);
    });
}

fn conditions(payload: &mut Decoder<'_>) -> Result<(Preconditions, Option<Keyed>), DecodeError> {
    let version = option(payload, |payload| payload.u64().map(Version))?;
    let etag = option(payload, |payload| etag_condition(payload, true))?;
    let none_of = payload.list(etag_of)?;
    let on_conflict = if is_set(payload)? { OnConflict::Rebase } else { OnConflict::Reject };
    let expectation = |payload: &mut Decoder<'_>| {
        let path = payload.pointer()?;
        let holds = match payload.u8()? {
            0 => Expected::Version(Version(payload.u64()?)),
            1 => Expected::Value(payload.value()?),
            2 => Expected::Absent,
            _ => return Err(DecodeError::Invalid("the kind of an expectation")),
        };
        Ok(Expectation { path, holds })
    };
    let expect = payload.list(expectation)?;
    let keyed = option(payload, |payload| {
        let key = IdempotencyKey::new(payload.str()?).ok_or(DecodeError::Invalid("an idempotency key"))?;
        Ok(Keyed { key, digest: payload.array()? })
    })?;
    Ok((Preconditions { version, etag, none_of, on_conflict, expect }, keyed))
}

fn put_etag_condition(out: &mut Vec<u8>, condition: &EtagCondition) {
    match condition {
        EtagCondition::Tag(etag) => {
            out.push(0);
            put_etag(out, etag);
        }
        EtagCondition::Other(text) => {
            out.push(1);
            put_str(out, text);
        }
        EtagCondition::Any => out.push(2),
        EtagCondition::OneOf(conditions) => {
            out.push(3);
            put_len(out, conditions.len());
            conditions.iter().for_each(|condition| put_etag_condition(out, condition));
        }
    }
}

/// Decodes a condition; a list is no member of a list.
fn etag_condition(payload: &mut Decoder<'_>, may_be_list: bool) -> Result<EtagCondition, DecodeError> {
    Ok(match payload.u8()? {
        0 => EtagCondition::Tag(etag_of(payload)?),
        1 => EtagCondition::Other(payload.str()?.to_owned()),
        2 => EtagCondition::Any,
        3 if may_be_list => {
            let conditions = (0..payload.count()?).map(|_| etag_condition(payload, false));
            EtagCondition::OneOf(conditions.collect::<Result<_, _>>()?)
        }
        _ => return Err(DecodeError::Invalid("the kind of an etag condition")),
    })
}

fn put_etag(out: &mut Vec<u8>, Etag { version, digest }: &Etag) {
    put_u64(out, version.0);
    out.extend_from_slice(digest);
}

fn etag_of(payload: &mut Decoder<'_>) -> Result<Etag, DecodeError> {
    Ok(Etag { version: Version(payload.u64()?), digest: payload.array()? })
}

#[cfg(test)]
mod tests;
