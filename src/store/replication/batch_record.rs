//! The record of one batch: everything that it changes in the store, and nothing else.
//!
//! Journal entries and edits of rows are in it as they are stored, with their sequences. The rest are changes that the
//! journal does not have: the idempotency keys of commands that changed nothing, the tombstones that are purged, and how
//! far retention has removed entries.
//!
//! The requests that were decided are in it too, in order: their nodes answer them from the log. With a change is the command
//! as it was sent, of which each node makes the events.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    shadow::{ClientToken, Command, DeviceId, Remembered, RememberedKey, ShadowKey, Timestamp, Version},
    store::{
        codec::{DecodeError, Decoder, put_len, put_str, put_u64},
        journal::entry::Seq,
        purging::PurgedTombstones,
        replication::{
            command_codec::{self, device, key, key_of, name_of, put_key},
            record::{Claim, NodeId},
            requests::RequestNumber,
        },
        rows::edit::RowEdit,
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
    /// The requests that were decided, in order. A single node notes none.
    pub(in crate::store) requests: Vec<DecidedRequest>,
}

/// A request that was decided.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct DecidedRequest {
    pub(in crate::store) request: RequestNumber,
    pub(in crate::store) decision: RequestDecision,
}

/// The decision on a request.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) enum RequestDecision {
    /// The command made the next journal entry of the record.
    Changed(Box<SentCommand>),
    /// The command is accepted, and made no entry but the next keyed no-op of the record.
    Remembered,
    /// The command is accepted and changes nothing in the store.
    Unchanged,
    /// The request is no command: every node receives these bytes.
    Broadcast(Bytes),
    /// The request is the only one of its record, which names the tombstones unless it was a dry run.
    Purged(PurgedTombstones),
    Refused,
    /// The command was not looked at: its client has opened a session at another node since, or its row is not permitted any more.
    Stale,
}

/// A command as it was sent, without the parts that its journal entry has.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct SentCommand {
    pub(in crate::store) command: Command,
    pub(in crate::store) client_token: Option<ClientToken>,
    /// The edit of a row that all nodes commit with it.
    pub(in crate::store) row: Option<RowEdit>,
}

const CHANGED: u8 = 1;
const UNCHANGED: u8 = 2;
const REFUSED: u8 = 3;
const REMEMBERED: u8 = 4;
const BROADCAST: u8 = 5;
const STALE: u8 = 6;
const PURGED: u8 = 7;

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
        put_requests(out, &self.requests);
    }

    /// Decodes the record.
    pub(in crate::store) fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            now: Now { date: Timestamp(payload.u64()?), running: Timestamp(payload.u64()?) },
            removed: Seq(payload.u64()?),
            path_tombstones_max: payload.size()?,
            entries: framed(payload)?.into_iter().map(|(seq, framed)| (Seq(seq), framed)).collect(),
            no_ops: payload.list(no_op)?,
            purged: (0..payload.count()?).map(|_| purge(payload)).collect::<Result<BTreeMap<_, _>, _>>()?,
            rows: framed(payload)?,
            requests: requests(payload)?,
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

/// Appends requests: each names its node by its place among those that the record names before it.
fn put_requests(out: &mut Vec<u8>, requests: &[DecidedRequest]) {
    let mut origins: Vec<Claim> = Vec::new();
    put_len(out, requests.len());
    for DecidedRequest { request: RequestNumber { origin, number }, decision } in requests {
        let known = origins.iter().position(|known| known == origin);
        put_len(out, known.unwrap_or(origins.len()));
        if known.is_none() {
            put_u64(out, origin.node.0);
            put_u64(out, origin.incarnation);
            origins.push(*origin);
        }
        put_u64(out, *number);
        match decision {
            RequestDecision::Changed(sent) => {
                out.push(CHANGED);
                command_codec::put_token(out, sent.client_token.as_ref());
                command_codec::put_command(out, &sent.command);
                command_codec::put_row(out, sent.row.as_ref());
            }
            RequestDecision::Remembered => out.push(REMEMBERED),
            RequestDecision::Unchanged => out.push(UNCHANGED),
            RequestDecision::Broadcast(bytes) => {
                out.push(BROADCAST);
                put_len(out, bytes.len());
                out.extend_from_slice(bytes);
            }
            RequestDecision::Purged(PurgedTombstones { purged, kept }) => {
                out.push(PURGED);
                put_len(out, *purged);
                put_len(out, *kept);
            }
            RequestDecision::Refused => out.push(REFUSED),
            RequestDecision::Stale => out.push(STALE),
        }
    }
}

fn requests(payload: &mut Decoder<'_>) -> Result<Vec<DecidedRequest>, DecodeError> {
    let mut origins: Vec<Claim> = Vec::new();
    let request = |payload: &mut Decoder<'_>| {
        let place = payload.size()?;
        if place == origins.len() {
            origins.push(Claim { node: NodeId(payload.u64()?), incarnation: payload.u64()? });
        }
        let origin = *origins.get(place).ok_or(DecodeError::Invalid("a node"))?;
        let request = RequestNumber { origin, number: payload.u64()? };
        let decision = match payload.u8()? {
            CHANGED => {
                let client_token = command_codec::token(payload)?;
                let (command, row) = (command_codec::command(payload)?, command_codec::row(payload)?);
                RequestDecision::Changed(Box::new(SentCommand { command, client_token, row }))
            }
            REMEMBERED => RequestDecision::Remembered,
            UNCHANGED => RequestDecision::Unchanged,
            BROADCAST => {
                let length = payload.count()?;
                RequestDecision::Broadcast(Bytes::copy_from_slice(payload.bytes(length)?))
            }
            PURGED => RequestDecision::Purged(PurgedTombstones { purged: payload.size()?, kept: payload.size()? }),
            REFUSED => RequestDecision::Refused,
            STALE => RequestDecision::Stale,
            _ => return Err(DecodeError::Invalid("a decision")),
        };
        Ok(DecidedRequest { request, decision })
    };
    payload.list(request)
}

fn no_op(payload: &mut Decoder<'_>) -> Result<KeyedNoOp, DecodeError> {
    let (key, after) = (key(payload)?, Seq(payload.u64()?));
    match remembered::all(payload)?.keys() {
        [remembered] => Ok(KeyedNoOp { key, after, remembered: Arc::clone(remembered) }),
        _ => Err(DecodeError::Invalid("the number of idempotency keys")),
    }
}

fn purge(payload: &mut Decoder<'_>) -> Result<(DeviceId, Purge), DecodeError> {
    let device = device(payload)?;
    let floor = DeviceFloor { version: Version(payload.u64()?), last_entry: Seq(payload.u64()?) };
    let keys = (0..payload.count()?).map(|_| key_of(device.clone(), payload)).collect::<Result<_, _>>()?;
    Ok((device, Purge { keys, floor }))
}
