//! The encoding of idempotency keys, as an extension of records and of entries.
//!
//! An entry holds its own key; the rest of the outcome is in the entry itself. A record holds all stored keys of its
//! shadow. A no-op with a key has no entry, so its record is written in the same commit.

use std::sync::Arc;

use crate::{
    shadow::{Etag, FirstOutcome, IdempotencyKey, Keyed, Remembered, RememberedKey, Timestamp, Version},
    store::{
        codec::{DecodeError, Decoder, put_len, put_str, put_u64},
        seal,
    },
};

/// The tag of both extensions.
pub(super) const TAG: u64 = 1;

const CHANGED: u8 = 1;

/// The idempotency key of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EntryKey {
    pub(super) keyed: Keyed,
    pub(super) rebased_from: Option<Version>,
}

/// Appends the extension of an entry.
pub(super) fn put_key(out: &mut Vec<u8>, key: &EntryKey) {
    seal::put_extension(out, TAG, |out| {
        put_str(out, key.keyed.key.as_str());
        out.extend_from_slice(&key.keyed.digest);
        put_rebased(out, key.rebased_from);
    });
}

/// Decodes the extension of an entry.
pub(super) fn key(payload: &mut Decoder<'_>) -> Result<EntryKey, DecodeError> {
    let keyed = Keyed { key: text(payload)?, digest: payload.array()? };
    Ok(EntryKey { keyed, rebased_from: rebased(payload)? })
}

/// Appends the extension of a record, unless it is empty.
pub(super) fn put_all(out: &mut Vec<u8>, remembered: &Remembered) {
    let keys = remembered.keys();
    if keys.is_empty() {
        return;
    }
    let mut principals: Vec<&Arc<str>> = keys.iter().map(|known| &known.by).collect();
    principals.sort();
    principals.dedup();
    seal::put_extension(out, TAG, |out| {
        put_len(out, principals.len());
        principals.iter().for_each(|by| put_str(out, by));
        put_len(out, keys.len());
        for known in keys {
            let RememberedKey { by, key, decided, first } = &**known;
            put_len(out, principals.binary_search(&by).unwrap_or_default());
            put_str(out, key.as_str());
            put_u64(out, decided.0);
            out.extend_from_slice(&first.digest);
            put_u64(out, first.version.0);
            put_u64(out, first.timestamp.0);
            out.extend_from_slice(&first.etag.digest);
            out.push(u8::from(first.changed) * CHANGED);
            put_rebased(out, first.rebased_from);
        }
    });
}

/// Decodes the extension of a record.
pub(super) fn all(payload: &mut Decoder<'_>) -> Result<Remembered, DecodeError> {
    let principals: Vec<Arc<str>> =
        (0..payload.count()?).map(|_| payload.str().map(Arc::from)).collect::<Result<_, _>>()?;
    let keys = (0..payload.count()?).map(|_| known(payload, &principals)).collect::<Result<_, _>>()?;
    Ok(Remembered::of(keys))
}

fn known(payload: &mut Decoder<'_>, principals: &[Arc<str>]) -> Result<RememberedKey, DecodeError> {
    let by = principals.get(payload.size()?).cloned().ok_or(DecodeError::Invalid("a principal"))?;
    let (key, decided) = (text(payload)?, Timestamp(payload.u64()?));
    let digest = payload.array()?;
    let (version, timestamp) = (Version(payload.u64()?), Timestamp(payload.u64()?));
    let etag = Etag { version, digest: payload.array()? };
    let changed = match payload.u8()? {
        0 => false,
        CHANGED => true,
        _ => return Err(DecodeError::Invalid("a flag")),
    };
    let first = FirstOutcome { digest, version, timestamp, etag, changed, rebased_from: rebased(payload)? };
    Ok(RememberedKey { by, key, decided, first })
}

fn text(payload: &mut Decoder<'_>) -> Result<IdempotencyKey, DecodeError> {
    IdempotencyKey::new(payload.str()?).ok_or(DecodeError::Invalid("an idempotency key"))
}

/// Appends the version, or 0, from which no command can be rebased.
fn put_rebased(out: &mut Vec<u8>, rebased_from: Option<Version>) {
    put_u64(out, rebased_from.map_or(0, |version| version.0));
}

fn rebased(payload: &mut Decoder<'_>) -> Result<Option<Version>, DecodeError> {
    Ok(Some(Version(payload.u64()?)).filter(|version| *version > Version(0)))
}
