//! The record of one batch: everything that it changes in the store, and nothing else.
//!
//! Journal entries and edits of rows are in it as they are stored, with their sequences. The rest are changes that the
//! journal does not have: the idempotency keys of commands that changed nothing, the tombstones that are purged, and how
//! far retention has removed entries.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    shadow::{DeviceId, Remembered, RememberedKey, ShadowKey, Timestamp, Version, name::ShadowName},
    store::{
        codec::{DecodeError, Decoder, put_len, put_str, put_u64},
        journal::entry::Seq,
        state::{
            floor::DeviceFloor,
            purge::{Purge, Purges},
            remembered,
        },
        store_clock::Now,
    },
};

/// The record of one batch; see the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct BatchRecord {
    /// The time of the decisions.
    pub(in crate::store) now: Now,
    /// The last entry that retention had removed when the batch was decided.
    pub(in crate::store) removed: Seq,
    /// Most path tombstones of a document.
    pub(in crate::store) path_tombstones_max: usize,
    /// The new journal entries, framed and checksummed; their sequences have no gap.
    pub(in crate::store) entries: Vec<(Seq, Vec<u8>)>,
    /// The accepted commands with an idempotency key that changed nothing.
    pub(in crate::store) no_ops: Vec<KeyedNoOp>,
    /// The tombstones to purge before the entries are applied.
    pub(in crate::store) purged: Purges,
    /// The new records of the row log, framed and checksummed; their sequences have no gap.
    pub(in crate::store) rows: Vec<(u64, Vec<u8>)>,
}

/// An idempotency key that a shadow gets without a journal entry.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct KeyedNoOp {
    /// The shadow.
    pub(in crate::store) key: ShadowKey,
    /// The newest entry of the store before the command.
    pub(in crate::store) after: Seq,
    /// The key with its outcome.
    pub(in crate::store) remembered: Arc<RememberedKey>,
}

impl BatchRecord {
    /// Returns true if the record changes nothing.
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.no_ops.is_empty() && self.purged.is_empty() && self.rows.is_empty()
    }

    /// Appends the encoded record.
    pub(in crate::store) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.now.date.0);
        put_u64(out, self.now.running.0);
        put_u64(out, self.removed.0);
        put_len(out, self.path_tombstones_max);
        put_framed(out, self.entries.iter().map(|(seq, framed)| (seq.0, framed)));
        put_len(out, self.no_ops.len());
        for KeyedNoOp { key, after, remembered } in &self.no_ops {
            put_key(out, key);
            put_u64(out, after.0);
            remembered::put_list(out, &Remembered::of(vec![RememberedKey::clone(remembered)]));
        }
        put_len(out, self.purged.len());
        for (device, Purge { keys, floor }) in &self.purged {
            put_str(out, device.as_str());
            put_u64(out, floor.version.0);
            put_u64(out, floor.last_entry.0);
            put_len(out, keys.len());
            keys.iter().for_each(|key| put_str(out, name_of(key)));
        }
        put_framed(out, self.rows.iter().map(|(seq, framed)| (*seq, framed)));
    }

    /// Decodes the record.
    pub(in crate::store) fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            now: Now { date: Timestamp(payload.u64()?), running: Timestamp(payload.u64()?) },
            removed: Seq(payload.u64()?),
            path_tombstones_max: payload.size()?,
            entries: framed(payload)?.into_iter().map(|(seq, framed)| (Seq(seq), framed)).collect(),
            no_ops: (0..payload.count()?).map(|_| no_op(payload)).collect::<Result<_, _>>()?,
            purged: (0..payload.count()?).map(|_| purge(payload)).collect::<Result<BTreeMap<_, _>, _>>()?,
            rows: framed(payload)?,
        })
    }
}

/// Appends values whose sequences have no gap: the first sequence, the number of values, and each with its length.
fn put_framed<'a>(out: &mut Vec<u8>, mut values: impl ExactSizeIterator<Item = (u64, &'a Vec<u8>)>) {
    put_len(out, values.len());
    let Some((first, value)) = values.next() else { return };
    put_u64(out, first);
    for value in [value].into_iter().chain(values.map(|(_, value)| value)) {
        put_len(out, value.len());
        out.extend_from_slice(value);
    }
}

fn framed(payload: &mut Decoder<'_>) -> Result<Vec<(u64, Vec<u8>)>, DecodeError> {
    let count = payload.count()?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let first = payload.u64()?;
    let last = first.checked_add(count as u64).ok_or(DecodeError::Invalid("a sequence"))?;
    (first..last)
        .map(|seq| {
            let length = payload.count()?;
            Ok((seq, payload.bytes(length)?.to_vec()))
        })
        .collect()
}

fn put_key(out: &mut Vec<u8>, key: &ShadowKey) {
    put_str(out, key.device.as_str());
    put_str(out, name_of(key));
}

/// Returns the name of a shadow; empty for the classic one.
fn name_of(key: &ShadowKey) -> &str {
    key.name.as_ref().map_or("", ShadowName::as_str)
}

fn device(payload: &mut Decoder<'_>) -> Result<DeviceId, DecodeError> {
    DeviceId::new(payload.str()?).map_err(|_| DecodeError::Invalid("a device id"))
}

fn key(device: DeviceId, payload: &mut Decoder<'_>) -> Result<ShadowKey, DecodeError> {
    match payload.str()? {
        "" => Ok(ShadowKey::classic(device)),
        name => {
            let name = ShadowName::new(name).map_err(|_| DecodeError::Invalid("a shadow name"))?;
            Ok(ShadowKey::named(device, name))
        }
    }
}

fn no_op(payload: &mut Decoder<'_>) -> Result<KeyedNoOp, DecodeError> {
    let device = device(payload)?;
    let (key, after) = (key(device, payload)?, Seq(payload.u64()?));
    match remembered::all(payload)?.keys() {
        [remembered] => Ok(KeyedNoOp { key, after, remembered: Arc::clone(remembered) }),
        _ => Err(DecodeError::Invalid("the number of idempotency keys")),
    }
}

fn purge(payload: &mut Decoder<'_>) -> Result<(DeviceId, Purge), DecodeError> {
    let device = device(payload)?;
    let floor = DeviceFloor { version: Version(payload.u64()?), last_entry: Seq(payload.u64()?) };
    let keys = (0..payload.count()?).map(|_| key(device.clone(), payload)).collect::<Result<_, _>>()?;
    Ok((device, Purge { keys, floor }))
}
