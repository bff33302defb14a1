//! One accepted change, as stored in the journal.
//!
//! The entries of one shadow form a linked list from the newest back ([`JournalEntry::previous`]). The sequence is the order
//! in which the changes of all shadows were decided. An entry holds the change itself (author, time, paths, old values)
//! and never the whole document, which is in `record`.

use std::{fmt, sync::Arc};

use crate::{
    shadow::{
        Change, Effect, Etag, FirstOutcome, Keyed, Rejection, Remembered, RememberedKey, ShadowKey, Timestamp, Version,
        document::change::Replaced,
        name::{DeviceId, ShadowName},
    },
    store::{
        codec::{DecodeError, Decoder, put_len, put_pointer, put_str, put_u64, put_value},
        frame,
        state::remembered::{self, EntryKey},
    },
};

/// The name of the table, part of each checksum.
pub(in crate::store) const JOURNAL: &str = "journal";

const DELETED: u8 = 1;
const NAMED: u8 = 2;
const KNOWN_FLAGS: u8 = DELETED | NAMED;

const SET: u8 = 1;
const REPLACED: u8 = 2;
const TOUCHED: u8 = 4;

/// A position in the journal: 1 for the first change of the store, then one more for each. 0 is before all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An accepted change of one shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// The position in the journal.
    pub seq: Seq,
    /// The shadow.
    pub key: ShadowKey,
    /// True if the change deleted the shadow.
    pub deleted: bool,
    /// The resulting version.
    pub version: Version,
    /// The etag of that version.
    pub etag: Etag,
    /// The time of the decision.
    pub timestamp: Timestamp,
    /// The principal that sent the command.
    pub principal: Arc<str>,
    /// The client id of the sender; empty if none.
    pub client: Arc<str>,
    /// The changed paths. Empty if a version was taken without a change of value.
    pub changes: Vec<Change>,
    /// The previous entry of the same shadow; 0 for its first.
    pub previous: Seq,
    /// The bytes of the entry in the journal.
    pub bytes: usize,
    /// The idempotency key of the command.
    pub(in crate::store) remembered: Option<EntryKey>,
}

/// An [`JournalEntry`] to be written, borrowed from the decision.
pub(in crate::store) struct NewJournalEntry<'a> {
    pub(in crate::store) seq: Seq,
    pub(in crate::store) key: &'a ShadowKey,
    pub(in crate::store) deleted: bool,
    pub(in crate::store) version: Version,
    pub(in crate::store) etag: Etag,
    pub(in crate::store) timestamp: Timestamp,
    pub(in crate::store) principal: &'a str,
    pub(in crate::store) client: &'a str,
    pub(in crate::store) changes: &'a [Change],
    pub(in crate::store) previous: Seq,
    pub(in crate::store) remembered: Option<&'a EntryKey>,
}

impl NewJournalEntry<'_> {
    /// Returns the framed and checksummed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        frame::begin(&mut out);
        // Retention decodes no further than this.
        put_u64(&mut out, self.timestamp.0);
        out.push((u8::from(self.deleted) * DELETED) | (u8::from(self.key.name.is_some()) * NAMED));
        put_str(&mut out, self.key.device.as_str());
        if let Some(name) = &self.key.name {
            put_str(&mut out, name.as_str());
        }
        put_u64(&mut out, self.version.0);
        put_u64(&mut out, self.etag.version.0);
        out.extend_from_slice(&self.etag.digest);
        put_str(&mut out, self.principal);
        put_str(&mut out, self.client);
        put_u64(&mut out, self.previous.0);
        put_len(&mut out, self.changes.len());
        self.changes.iter().for_each(|change| put_change(&mut out, change));
        if let Some(key) = self.remembered {
            remembered::put_key(&mut out, key);
        }
        frame::finish(&mut out, JOURNAL, &self.seq.0.to_le_bytes());
        out
    }
}

/// The part of an entry before its changes.
pub(in crate::store) struct EntryHead<'a> {
    pub(in crate::store) key: ShadowKey,
    pub(in crate::store) deleted: bool,
    pub(in crate::store) version: Version,
    pub(in crate::store) previous: Seq,
    etag: Etag,
    timestamp: Timestamp,
    principal: &'a str,
    client: &'a str,
}

impl<'a> EntryHead<'a> {
    /// Decodes the head of the framed value found at `seq`, whose checksum is that of the whole value.
    pub(in crate::store) fn decode(seq: Seq, framed: &'a [u8]) -> Result<Self, DecodeError> {
        Self::of(&mut frame::open(framed, JOURNAL, &seq.0.to_le_bytes())?)
    }

    fn of(payload: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let timestamp = Timestamp(payload.u64()?);
        let flags = payload.u8()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(DecodeError::Invalid("a flag"));
        }
        let device = DeviceId::new(payload.str()?).map_err(|_| DecodeError::Invalid("a device id"))?;
        let name = match flags & NAMED {
            0 => None,
            _ => Some(ShadowName::new(payload.str()?).map_err(|_| DecodeError::Invalid("a shadow name"))?),
        };
        Ok(Self {
            key: ShadowKey { device, name },
            deleted: flags & DELETED != 0,
            version: Version(payload.u64()?),
            etag: Etag { version: Version(payload.u64()?), digest: payload.array()? },
            timestamp,
            principal: payload.str()?,
            client: payload.str()?,
            previous: Seq(payload.u64()?),
        })
    }
}

impl JournalEntry {
    /// Decodes the framed value found at `seq`.
    pub(in crate::store) fn decode(seq: Seq, framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, JOURNAL, &seq.0.to_le_bytes())?;
        let head = EntryHead::of(&mut payload)?;
        let mut entry = Self {
            seq,
            key: head.key,
            deleted: head.deleted,
            version: head.version,
            etag: head.etag,
            timestamp: head.timestamp,
            principal: head.principal.into(),
            client: head.client.into(),
            previous: head.previous,
            bytes: framed.len(),
            changes: payload.list(change)?,
            remembered: None,
        };
        frame::extensions(payload, |tag, mut extension| match tag {
            remembered::TAG_WITHOUT_ANSWER | remembered::TAG => {
                entry.remembered = Some(remembered::key(tag, &mut extension)?);
                extension.finish().map(|()| true)
            }
            _ => Ok(false),
        })?;
        Ok(entry)
    }

    /// Returns the stored keys of the shadow after this entry; `former` are those before it.
    pub(in crate::store) fn remember(&self, former: &Remembered, decided: Timestamp) -> Result<Remembered, Rejection> {
        let Some(EntryKey { keyed, rebased_from, answer }) = self.remembered.clone() else {
            return Ok(former.clone());
        };
        let Keyed { key, digest } = keyed;
        let Self { version, timestamp, .. } = *self;
        let first = FirstOutcome {
            digest,
            version,
            timestamp,
            etag: answer.as_ref().map_or(self.etag, |answer| Etag { version, digest: answer.etag_digest }),
            etag_is_own: answer.is_some(),
            changed: true,
            created: answer.is_some_and(|answer| answer.created),
            rebased_from,
        };
        former.with(RememberedKey { by: Arc::clone(&self.principal), key, decided, first })
    }
}

/// Returns the key in the state table of the shadow that the framed value at `seq` changed.
pub(in crate::store) fn state_key_of(seq: Seq, framed: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut payload = frame::open(framed, JOURNAL, &seq.0.to_le_bytes())?;
    let _timestamp = payload.u64()?;
    let flags = payload.u8()?;
    let device = payload.str()?;
    let name = if flags & NAMED == 0 { "" } else { payload.str()? };
    Ok([device.as_bytes(), &[0], name.as_bytes()].concat())
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    let effect = match change.effect {
        Effect::Set(_) => SET,
        Effect::Remove => 0,
        Effect::Touch => TOUCHED,
    };
    out.push(effect | (u8::from(change.replaced.is_some()) * REPLACED));
    put_pointer(out, &change.path);
    if let Effect::Set(value) = &change.effect {
        put_value(out, value);
    }
    if let Some(replaced) = &change.replaced {
        put_value(out, &replaced.value);
        put_u64(out, replaced.version.0);
    }
}

fn change(payload: &mut Decoder<'_>) -> Result<Change, DecodeError> {
    let flags = payload.u8()?;
    let path = payload.pointer()?;
    let effect = match flags & !REPLACED {
        0 => Effect::Remove,
        SET => Effect::Set(payload.value()?),
        TOUCHED => Effect::Touch,
        _ => return Err(DecodeError::Invalid("a change")),
    };
    let replaced = match flags & REPLACED {
        0 => None,
        _ => Some(Replaced { value: payload.value()?, version: Version(payload.u64()?) }),
    };
    Ok(Change { path, replaced, effect })
}
