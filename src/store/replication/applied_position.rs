//! The position in the log up to which a store has applied it, written with every commit of a replica.
//!
//! A single node has none, and writes none. With it are two facts that records have and the tables do not: how far the
//! decider's retention has gone, and how the entries after the checkpoint were decided. A start
//! replays them in the same way, so that it makes the same documents as the decider.

use std::collections::VecDeque;

use crate::{
    shadow::Timestamp,
    store::{
        codec::{DecodeError, put_len, put_u64},
        frame,
        journal::{entry::Seq, retention::TrimLimit},
        replication::{
            batch_record::BatchRecord,
            chain::Chain,
            record::{Claim, Epoch, LogPosition, NodeId, RecordDigest, ShardId},
        },
        schema::{Checkpoint, META},
    },
};

/// The key of the position in the table `meta`.
pub(in crate::store) const APPLIED_KEY: &str = "log";

/// The position of a store in the log; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct AppliedPosition {
    /// The node whose file this is: a copy of it may start another node.
    pub(in crate::store) node: NodeId,
    /// The log as this store has read it.
    pub(in crate::store) chain: Chain,
    /// The last entry that the decider's retention has removed.
    pub(in crate::store) removed: Seq,
    /// The first entries of batches, and how they were decided; only where it differs from the one before. Oldest first.
    decided: VecDeque<(Seq, DecidedBy)>,
    /// The last record when this was written to the file.
    written: u64,
    /// True if it is to be written with the next record: another node may be seeded from the file.
    is_wanted: bool,
}

/// A record of the log that a store has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedRecord {
    /// Its number.
    pub number: u64,
    digest: RecordDigest,
}

impl AppliedRecord {
    /// Returns true if `record`, which the log has at this number, is the one that was applied.
    #[must_use]
    pub fn is(&self, record: &[u8]) -> bool {
        self.digest == RecordDigest::of(record)
    }
}

/// The parts of a decision that the journal does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct DecidedBy {
    /// The running time.
    pub(in crate::store) running: Timestamp,
    /// Most path tombstones of a document.
    pub(in crate::store) path_tombstones_max: usize,
}

/// Records without changes after which the position is written all the same: a start reads them again.
const UNWRITTEN_MAX: u64 = 256;
/// As many while another node asks for the store. It may ask often.
const UNWRITTEN_FOR_SEEDS_MAX: u64 = 4;

impl AppliedPosition {
    /// Returns the last record that is applied.
    pub(in crate::store) fn record(&self) -> AppliedRecord {
        let LogPosition { number, digest } = self.chain.position;
        AppliedRecord { number, digest }
    }

    /// Notes that `batch` is applied.
    pub(in crate::store) fn add(&mut self, batch: &BatchRecord) {
        self.removed = self.removed.max(batch.removed);
        let by = DecidedBy { running: batch.now.running, path_tombstones_max: batch.path_tombstones_max };
        if let Some((first, _)) = batch.entries.first()
            && self.decided.back().is_none_or(|(_, former)| *former != by)
        {
            self.decided.push_back((*first, by));
        }
    }

    /// Notes that the position is in the file.
    pub(in crate::store) fn written(&mut self) {
        (self.written, self.is_wanted) = (self.chain.position.number, false);
    }

    /// Has the position written with the next record, unless the one in the file is nearly as new.
    pub(in crate::store) fn want(&mut self) {
        let unwritten = self.chain.position.number - self.written;
        self.is_wanted |= self.written == 0 || unwritten >= UNWRITTEN_FOR_SEEDS_MAX;
    }

    /// Returns true if the position is to be written although nothing else is.
    pub(in crate::store) fn is_due(&self) -> bool {
        self.is_wanted || self.chain.position.number - self.written >= UNWRITTEN_MAX
    }

    /// Returns how the entry at `seq` was decided, if it is after the checkpoint.
    pub(in crate::store) fn decided(&self, seq: Seq) -> Option<DecidedBy> {
        let before = self.decided.partition_point(|(first, _)| *first <= seq);
        self.decided.get(before.checked_sub(1)?).map(|(_, by)| *by)
    }

    /// Returns the bound of retention in a commit, after which the store is at `progress`.
    pub(in crate::store) fn trim_limit(&mut self, progress: &Checkpoint) -> TrimLimit {
        let is_flushed = |(first, _): &(Seq, DecidedBy)| first.0 <= progress.checkpoint.seq.0 + 1;
        while self.decided.get(1).is_some_and(is_flushed) {
            self.decided.pop_front();
        }
        TrimLimit::UpTo(self.removed)
    }

    /// Returns the framed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let Chain { shard, position, epoch, claim } = self.chain;
        let mut out = Vec::new();
        frame::begin(&mut out);
        for number in [self.node.0, shard.0, position.number, epoch.0, claim.node.0, claim.incarnation, self.removed.0]
        {
            put_u64(&mut out, number);
        }
        out.extend_from_slice(&position.digest.0);
        put_len(&mut out, self.decided.len());
        for (first, by) in &self.decided {
            put_u64(&mut out, first.0);
            put_u64(&mut out, by.running.0);
            put_len(&mut out, by.path_tombstones_max);
        }
        frame::finish(&mut out, META, APPLIED_KEY.as_bytes());
        out
    }

    /// Decodes the framed value.
    pub(in crate::store) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, META, APPLIED_KEY.as_bytes())?;
        let node = NodeId(payload.u64()?);
        let (shard, number, epoch) = (ShardId(payload.u64()?), payload.u64()?, Epoch(payload.u64()?));
        let claim = Claim { node: NodeId(payload.u64()?), incarnation: payload.u64()? };
        let removed = Seq(payload.u64()?);
        let position = LogPosition { number, digest: RecordDigest(payload.array()?) };
        let decided = (0..payload.count()?)
            .map(|_| {
                let (first, running) = (Seq(payload.u64()?), Timestamp(payload.u64()?));
                Ok((first, DecidedBy { running, path_tombstones_max: payload.size()? }))
            })
            .collect::<Result<_, DecodeError>>()?;
        frame::no_extensions(payload)?;
        Ok(Self {
            node,
            chain: Chain { shard, position, epoch, claim },
            removed,
            decided,
            written: number,
            is_wanted: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each question of a node without a store made all others commit.
    #[test]
    fn many_questions_make_few_commits() {
        let mut position = AppliedPosition::default();
        let mut commits = 0;
        for number in 1..=40 {
            position.want();
            position.want();
            position.chain.position.number = number;
            if position.is_due() {
                position.written();
                commits += 1;
            }
            assert!(number - position.written <= UNWRITTEN_FOR_SEEDS_MAX, "{number}");
        }
        assert_eq!(commits, 8, "the first, and every fifth");
        // Nobody asks.
        (41..200).for_each(|number| {
            position.chain.position.number = number;
            assert!(!position.is_due());
        });
    }
}
