//! The log as one reader has read it: the check that each record continues the one before, and the newest claim.
//!
//! Every record must name the digest of the record before it, so a log that was changed, or lost its end and went on
//! differently, is noticed by whoever had read it before. A record whose epoch is below the newest claim before it is
//! *void*: its decider did not respect the claim, and it changes nothing for any reader.

use crate::store::{
    codec::DecodeError,
    journal::lineage::Lineage,
    replication::{
        batch_record::BatchRecord,
        record::{self, Claim, Epoch, LogPosition, LogRecord, NodeId, RecordContent, RecordDigest, ShardId},
    },
    schema::JournalPosition,
};

/// The position of a reader, and the claim that holds there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Chain {
    pub(in crate::store) shard: ShardId,
    /// The last record read.
    pub(in crate::store) position: LogPosition,
    /// The epoch of the newest claim.
    pub(in crate::store) epoch: Epoch,
    /// The newest claim; the default before the first.
    pub(in crate::store) claim: Claim,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) enum ReadRecord {
    /// A claim, in the state whose journal ends there.
    Claim(JournalPosition),
    Batch(Box<BatchRecord>),
    NodeGone(NodeId),
    /// The record changes nothing.
    Void,
}

/// A reason why a reader cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum ChainError {
    /// The record is damaged or of another program.
    #[error("record {number} of the log cannot be read: {error}")]
    Unreadable {
        /// The number of the record.
        number: u64,
        /// The error in it.
        error: DecodeError,
    },
    /// The record does not continue what this reader has read.
    #[error("record {number} of the log does not continue the one before it that this node has applied")]
    Forked {
        /// The number of the record.
        number: u64,
    },
    /// The record belongs to another shard, or to an epoch that nobody claimed.
    #[error("record {number} of the log has a wrong shard or epoch")]
    Misplaced {
        /// The number of the record.
        number: u64,
    },
}

impl Chain {
    /// Returns the lineage of the entries that are decided by the newest claim.
    pub(in crate::store) fn lineage(&self) -> Lineage {
        let numbers = [self.epoch.0, self.claim.node.0, self.claim.incarnation].map(u64::to_le_bytes);
        let [a, b, c, d, ..] = RecordDigest::of(numbers.as_flattened()).0;
        Lineage(u32::from_le_bytes([a, b, c, d]))
    }

    /// Returns the encoded record that would follow, with `content` in `epoch`.
    pub(in crate::store) fn encode_next(&self, epoch: Epoch, content: &RecordContent) -> Vec<u8> {
        let LogPosition { number, digest } = self.position;
        record::encode((self.shard, epoch, number + 1), digest, content)
    }

    /// Returns the record that would follow, with `content` in `epoch`.
    #[cfg(test)]
    pub(in crate::store) fn next(&self, epoch: Epoch, content: RecordContent) -> LogRecord {
        let LogPosition { number, digest } = self.position;
        LogRecord { shard: self.shard, epoch, number: number + 1, previous: digest, content }
    }

    /// Reads the next record. After an error the reader is where it was.
    pub(in crate::store) fn read(&mut self, framed: &[u8]) -> Result<ReadRecord, ChainError> {
        let number = self.position.number + 1;
        let record = LogRecord::decode(number, framed).map_err(|error| ChainError::Unreadable { number, error })?;
        let LogRecord { shard, epoch, previous, content, .. } = record;
        let is_void = if content.is_claim() { epoch <= self.epoch } else { epoch < self.epoch };
        if shard != self.shard || (!is_void && epoch > self.epoch && !content.is_claim()) {
            return Err(ChainError::Misplaced { number });
        }
        if previous != self.position.digest {
            return Err(ChainError::Forked { number });
        }
        if is_void {
            self.position = self.position.next(framed);
            return Ok(ReadRecord::Void);
        }
        Ok(self.go_on(epoch, content, framed))
    }

    /// Goes on by `framed`, the next record with this content: as [`Chain::read`] does, for the node that encoded it here.
    pub(in crate::store) fn go_on(&mut self, epoch: Epoch, content: RecordContent, framed: &[u8]) -> ReadRecord {
        self.position = self.position.next(framed);
        self.epoch = epoch;
        match content {
            RecordContent::Claim(claim, journal) => {
                self.claim = claim;
                ReadRecord::Claim(journal)
            }
            RecordContent::Beginning(claim) => {
                self.claim = claim;
                ReadRecord::Claim(JournalPosition::default())
            }
            RecordContent::Batch(batch) => ReadRecord::Batch(batch),
            RecordContent::NodeGone(node) => ReadRecord::NodeGone(node),
        }
    }
}
