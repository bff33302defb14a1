//! The place of a store in the log of a cluster, before the store is opened: a store that cannot go on from there is to be replaced.

use crate::store::{
    replication::{
        applied_position::{AppliedPosition, AppliedRecord},
        record::{LogRecord, NodeId, RecordContent},
    },
    schema::{Checkpoint, JournalPosition},
};

/// The place of a store in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// It has applied the log up to this record.
    After(AppliedRecord),
    /// It has applied no record, or none that is in its file.
    Before(UnappliedStore),
}

/// A store that has applied no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnappliedStore {
    journal: JournalPosition,
    has_rows: bool,
    /// True if it was a member of a cluster before.
    was_member: bool,
}

impl LogPlace {
    pub(in crate::store) fn of(position: Option<&AppliedPosition>, progress: &Checkpoint) -> Self {
        match position.map(AppliedPosition::record).filter(|record| record.number > 0) {
            Some(record) => Self::After(record),
            None => Self::Before(UnappliedStore {
                journal: progress.head,
                has_rows: progress.rows.head != JournalPosition::default(),
                was_member: position.is_some(),
            }),
        }
    }

    /// Returns the number of the last record that the store has applied; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self {
            Self::After(record) => record.number,
            Self::Before(_) => 0,
        }
    }
}

impl UnappliedStore {
    /// Returns true if the store, which is that of `node`, is in the state in which the log began with its record `first`.
    #[must_use]
    pub fn is_where_log_began(&self, node: NodeId, first: &[u8]) -> bool {
        let Ok(LogRecord { content, .. }) = LogRecord::decode(1, first) else { return false };
        let none = JournalPosition::default();
        match content {
            // Rows of a member without a record are its own: they are of the time before its claim.
            RecordContent::Beginning(claim) => {
                self.journal == none && (!self.has_rows || (self.was_member && claim.node == node))
            }
            // Rows are in no journal, so another store without shadows may have other rows.
            RecordContent::Claim(claim, journal) => self.journal == journal && (journal != none || claim.node == node),
            RecordContent::Batch(_) | RecordContent::NodeGone(_) => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::{
        journal::entry::Seq,
        replication::record::{Claim, Epoch, RecordDigest, ShardId, begins_empty},
    };

    /// Returns the place of a store that has applied nothing, and has some changes.
    pub(crate) fn before(changes: u64, has_rows: bool, was_member: bool) -> LogPlace {
        LogPlace::Before(UnappliedStore { journal: journal(changes), has_rows, was_member })
    }

    fn journal(changes: u64) -> JournalPosition {
        JournalPosition { seq: Seq(changes), bytes: changes * 100 }
    }

    fn first(content: RecordContent) -> Vec<u8> {
        let previous = RecordDigest::default();
        LogRecord { shard: ShardId(0), epoch: Epoch(1), number: 1, previous, content }.encode()
    }

    #[test]
    fn a_store_goes_on_only_from_the_log_that_began_in_its_state() {
        let claim = Claim { node: NodeId(1), incarnation: 7 };
        let claimed = |changes| first(RecordContent::Claim(claim, journal(changes)));
        let beginning = first(RecordContent::Beginning(claim));
        assert!(begins_empty(&beginning));
        assert!(!begins_empty(&claimed(0)), "its node may have had rows");
        // the first record, the node, its changes, true if it has rows, true if it was a member, the expected result
        type Row<'a> = (&'a [u8], u64, u64, bool, bool, bool);
        let table: [Row<'_>; 13] = [
            (&beginning, 2, 0, false, false, true),
            (&beginning, 2, 0, false, true, true),
            (&beginning, 1, 0, true, true, true),
            (&beginning, 1, 0, true, false, false),
            (&beginning, 2, 0, true, true, false),
            (&beginning, 2, 5, false, false, false),
            // A node that was alone, and its own log.
            (&claimed(5), 1, 5, true, false, true),
            (&claimed(5), 2, 5, false, false, true),
            (&claimed(5), 1, 6, true, true, false),
            (&claimed(5), 2, 0, false, false, false),
            (&claimed(0), 1, 0, true, false, true),
            (&claimed(0), 2, 0, false, false, false),
            (b"no record", 1, 0, false, false, false),
        ];
        for (number, (first, node, changes, has_rows, was_member, expected)) in table.into_iter().enumerate() {
            let LogPlace::Before(store) = before(changes, has_rows, was_member) else { unreachable!() };
            assert_eq!(store.is_where_log_began(NodeId(node), first), expected, "row {number}");
        }
    }

    #[test]
    fn a_position_before_the_first_record_is_none() {
        let progress = Checkpoint { head: journal(5), ..Checkpoint::default() };
        assert_eq!(LogPlace::of(None, &progress), before(5, false, false));
        assert_eq!(LogPlace::of(Some(&AppliedPosition::default()), &progress), before(5, false, true));
        assert_eq!(LogPlace::of(Some(&AppliedPosition::default()), &progress).number(), 0);
    }
}
