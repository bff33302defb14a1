//! The encoding of idempotency keys, as an extension of records and of entries.
//!
//! Each has two tags. Older programs wrote [`TAG_WITHOUT_ANSWER`], which lacks the etag as it was sent to a reader of
//! part of the shadow, and whether the request created the shadow. Both tags are read; only [`TAG`] is written.
//!
//! An entry holds its own key; the rest of the outcome is in the entry itself. A record holds all stored keys of its
//! shadow. A no-op with a key has no entry, so its record is written in the same commit.

use std::sync::Arc;

use crate::{
    shadow::{Etag, FirstOutcome, IdempotencyKey, Keyed, Remembered, RememberedKey, Timestamp, Version},
    store::{
        codec::{DecodeError, Decoder, put_len, put_str, put_u64},
        frame,
    },
};

/// The tag of either extension in files of older programs.
pub(in crate::store) const TAG_WITHOUT_ANSWER: u64 = 1;

/// The tag of either extension.
pub(in crate::store) const TAG: u64 = 2;

const CHANGED: u8 = 1;
const CREATED: u8 = 2;
/// The etag is the requester's own; without it, that of a reader of everything.
const OWN_ETAG: u8 = 4;
const KNOWN_FLAGS: u8 = CHANGED | CREATED | OWN_ETAG;

/// The idempotency key of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct EntryKey {
    pub(in crate::store) keyed: Keyed,
    pub(in crate::store) rebased_from: Option<Version>,
    /// `None` in entries of older programs.
    pub(in crate::store) answer: Option<FirstAnswer>,
}

/// The part of the first answer that the rest of an entry does not have.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct FirstAnswer {
    /// Digest of the etag as the requester was sent it.
    pub(in crate::store) etag_digest: [u8; 16],
    /// True if the request created the shadow.
    pub(in crate::store) created: bool,
}

/// Appends the extension of an entry.
pub(in crate::store) fn put_key(out: &mut Vec<u8>, key: &EntryKey) {
    let tag = if key.answer.is_some() { TAG } else { TAG_WITHOUT_ANSWER };
    frame::put_extension(out, tag, |out| {
        put_str(out, key.keyed.key.as_str());
        out.extend_from_slice(&key.keyed.digest);
        put_rebased(out, key.rebased_from);
        if let Some(FirstAnswer { etag_digest, created }) = &key.answer {
            out.push(u8::from(*created) * CREATED);
            out.extend_from_slice(etag_digest);
        }
    });
}

/// Decodes the extension of an entry, which has `tag`.
pub(in crate::store) fn key(tag: u64, payload: &mut Decoder<'_>) -> Result<EntryKey, DecodeError> {
    let keyed = Keyed { key: text(payload)?, digest: payload.array()? };
    let rebased_from = rebased(payload)?;
    let answer = match tag {
        TAG_WITHOUT_ANSWER => None,
        _ => {
            let created = flags(payload)? & CREATED != 0;
            Some(FirstAnswer { created, etag_digest: payload.array()? })
        }
    };
    Ok(EntryKey { keyed, rebased_from, answer })
}

fn flags(payload: &mut Decoder<'_>) -> Result<u8, DecodeError> {
    Some(payload.u8()?).filter(|flags| flags & !KNOWN_FLAGS == 0).ok_or(DecodeError::Invalid("a flag"))
}

/// Appends the extension of a record, unless it is empty.
pub(in crate::store) fn put_all(out: &mut Vec<u8>, remembered: &Remembered) {
    if !remembered.keys().is_empty() {
        frame::put_extension(out, TAG, |out| put_list(out, remembered));
    }
}

/// Appends the content of the extension of a record.
pub(in crate::store) fn put_list(out: &mut Vec<u8>, remembered: &Remembered) {
    let keys = remembered.keys();
    let mut principals: Vec<&Arc<str>> = keys.iter().map(|known| &known.by).collect();
    principals.sort();
    principals.dedup();
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
        let flags = [(first.changed, CHANGED), (first.created, CREATED), (first.etag_is_own, OWN_ETAG)];
        out.push(flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum());
        put_rebased(out, first.rebased_from);
    }
}

/// Decodes the content of the extension of a record.
pub(in crate::store) fn all(payload: &mut Decoder<'_>) -> Result<Remembered, DecodeError> {
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
    let flags = flags(payload)?;
    let first = FirstOutcome {
        digest,
        version,
        timestamp,
        etag,
        etag_is_own: flags & OWN_ETAG != 0,
        changed: flags & CHANGED != 0,
        created: flags & CREATED != 0,
        rebased_from: rebased(payload)?,
    };
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
