//! A record of the replicated log, and its encoding.
//!
//! ```text
//! frame of the store's values, with a checksum that covers the number
//! └ format of records · shard · epoch · number · digest of the record before (32 bytes) · kind · content
//! ```
//!
//! Integers are LEB128, as in the store's values. A node refuses a format, a kind or trailing bytes that it does not know:
//! it leaves the cluster rather than apply a record in part.

use sha2::{Digest as _, Sha256};

use crate::store::{
    codec::{DecodeError, Decoder, put_u64},
    frame,
    journal::entry::Seq,
    replication::batch_record::BatchRecord,
    schema::JournalPosition,
};

/// The format of records that this program writes, and the only one it reads.
const RECORD_FORMAT: u64 = 1;

/// The name of the log, part of each checksum.
pub(in crate::store) const LOG: &str = "log";

const CLAIM: u8 = 1;
const BATCH: u8 = 2;
const NODE_GONE: u8 = 3;
const BEGINNING: u8 = 4;

/// The term of one decider: 0 before the first claim, then one more for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Epoch(pub(in crate::store) u64);

/// The number of a node, from the configuration of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// The number of a part of the devices that has a log and a decider of its own. There is one, 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct ShardId(pub(in crate::store) u64);

/// The SHA-256 of an encoded record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct RecordDigest(pub(in crate::store) [u8; 32]);

/// The place of a record: its number, from 1, and its digest. The default is the place before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct LogPosition {
    pub(in crate::store) number: u64,
    pub(in crate::store) digest: RecordDigest,
}

/// A record with its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct LogRecord {
    pub(in crate::store) shard: ShardId,
    /// The epoch of the decider; that of the claim itself.
    pub(in crate::store) epoch: Epoch,
    pub(in crate::store) number: u64,
    /// The digest of the record before.
    pub(in crate::store) previous: RecordDigest,
    pub(in crate::store) content: RecordContent,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) enum RecordContent {
    /// The node decides from here on, in the state whose journal ends there.
    Claim(Claim, JournalPosition),
    /// The first claim of a log, by a node whose store has neither shadows nor rows: the log alone makes the store of any node.
    Beginning(Claim),
    /// The changes of one batch.
    Batch(Box<BatchRecord>),
    /// The node is gone, with its clients.
    NodeGone(NodeId),
}

/// A claim of an epoch, and the start of a node that makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::store) struct Claim {
    pub(in crate::store) node: NodeId,
    /// A random number of each start of the node, so that two of its processes never make the same record.
    pub(in crate::store) incarnation: u64,
}

impl RecordDigest {
    /// Returns the digest of an encoded record.
    pub(in crate::store) fn of(record: &[u8]) -> Self {
        Self(Sha256::digest(record).into())
    }
}

impl LogPosition {
    /// Returns the place of `record`, the one after this.
    pub(in crate::store) fn next(self, record: &[u8]) -> Self {
        Self { number: self.number + 1, digest: RecordDigest::of(record) }
    }
}

/// Returns the encoded record `number`, which follows the one with the digest `previous`.
pub(in crate::store) fn encode(
    (shard, epoch, number): (ShardId, Epoch, u64),
    previous: RecordDigest,
    content: &RecordContent,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    frame::begin(&mut out);
    put_head(&mut out, (shard, epoch, number), previous);
    match content {
        RecordContent::Claim(claim, journal) => {
            out.push(CLAIM);
            claim.put(&mut out);
            put_u64(&mut out, journal.seq.0);
            put_u64(&mut out, journal.bytes);
        }
        RecordContent::Beginning(claim) => {
            out.push(BEGINNING);
            claim.put(&mut out);
        }
        RecordContent::Batch(batch) => {
            out.push(BATCH);
            batch.put(&mut out);
        }
        RecordContent::NodeGone(node) => {
            out.push(NODE_GONE);
            put_u64(&mut out, node.0);
        }
    }
    frame::finish(&mut out, LOG, &number.to_le_bytes());
    out
}

/// Appends what precedes the content of a record.
pub(in crate::store) fn put_head(
    out: &mut Vec<u8>,
    (shard, epoch, number): (ShardId, Epoch, u64),
    previous: RecordDigest,
) {
    for value in [RECORD_FORMAT, shard.0, epoch.0, number] {
        put_u64(out, value);
    }
    out.extend_from_slice(&previous.0);
}

impl LogRecord {
    /// Returns the encoded record.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        encode((self.shard, self.epoch, self.number), self.previous, &self.content)
    }

    /// Decodes the record found at `number`.
    pub(in crate::store) fn decode(number: u64, framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, LOG, &number.to_le_bytes())?;
        let format = payload.u64()?;
        if format != RECORD_FORMAT {
            return Err(DecodeError::of_format(format, RECORD_FORMAT));
        }
        let (shard, epoch) = (ShardId(payload.u64()?), Epoch(payload.u64()?));
        if payload.u64()? != number {
            return Err(DecodeError::Invalid("the number of the record"));
        }
        let previous = RecordDigest(payload.array()?);
        let content = content(&mut payload)?;
        payload.finish()?;
        Ok(Self { shard, epoch, number, previous, content })
    }
}

/// Returns true if `record` is the first of a log that began with an empty store, so that the log alone makes the store of a node.
#[must_use]
pub fn begins_empty(record: &[u8]) -> bool {
    matches!(LogRecord::decode(1, record).map(|record| record.content), Ok(RecordContent::Beginning(_)))
}

impl RecordContent {
    /// Returns true if the node decides from this record on.
    pub(in crate::store) fn is_claim(&self) -> bool {
        matches!(self, Self::Claim(..) | Self::Beginning(_))
    }
}

impl Claim {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.node.0);
        put_u64(out, self.incarnation);
    }

    fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { node: NodeId(payload.u64()?), incarnation: payload.u64()? })
    }
}

fn content(payload: &mut Decoder<'_>) -> Result<RecordContent, DecodeError> {
    match payload.u8()? {
        CLAIM => {
            let claim = Claim::decode(payload)?;
            let journal = JournalPosition { seq: Seq(payload.u64()?), bytes: payload.u64()? };
            Ok(RecordContent::Claim(claim, journal))
        }
        BATCH => Ok(RecordContent::Batch(Box::new(BatchRecord::decode(payload)?))),
        NODE_GONE => Ok(RecordContent::NodeGone(NodeId(payload.u64()?))),
        BEGINNING => Ok(RecordContent::Beginning(Claim::decode(payload)?)),
        _ => Err(DecodeError::Invalid("the kind of the record")),
    }
}

#[cfg(test)]
mod tests;
