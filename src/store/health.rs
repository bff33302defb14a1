//! The health of the store, for readiness and metrics.

use crate::store::{
    disk::DiskLow, journal::entry::Seq, replication::member::MemberHealth, shadow_counts::ShadowCounts,
};

/// The state of the store with respect to commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Commands are accepted.
    #[default]
    Writable,
    /// Commands are refused until the disk has space.
    DiskLow(DiskLow),
    /// A commit failed; commands are refused until the store was reopened. Holds the reason.
    Failed(String),
    /// The store was closed.
    Closed,
}

/// The state of the pages of the file, as of its opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Not all were verified yet; those that are needed are verified first.
    #[default]
    Unverified,
    /// All are sound.
    Sound,
    /// This many are damaged. The shadows and changes in them are out of service, the others are not.
    Damaged(usize),
}

/// The state of the index of searches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexReadiness {
    /// No path is declared.
    #[default]
    Undeclared,
    /// The pages of the table are being verified; searches read all shadows.
    Verifying,
    /// Some paths are not complete; searches use the others.
    Building,
    /// All declared paths are complete.
    Complete,
    /// The table was found damaged again and again, and no other one is built before the next start.
    Damaged,
}

/// The state of the index of searches, and its use since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexHealth {
    /// The state.
    pub readiness: IndexReadiness,
    /// The tables that were given up, since they were damaged or could not be written.
    pub given_up: u64,
    /// The searches for which the index had the devices or values.
    pub used: u64,
    /// The searches of a declared path for which it had not.
    pub unused: u64,
}

/// The health of the store as of its last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The state with respect to commands.
    pub state: State,
    /// The newest entry.
    pub head: Seq,
    /// The newest entry up to which all changes are in the state table.
    pub checkpoint: Seq,
    /// The oldest entry kept; one above `head` if none is.
    pub oldest: Seq,
    /// The number of entries that a start would replay.
    pub lag_entries: u64,
    /// The bytes of these entries.
    pub lag_bytes: u64,
    /// The bytes of all entries kept.
    pub journal_bytes: u64,
    /// The number of documents in the dirty set.
    pub backlog_documents: usize,
    /// The number of rows of the broker in their table.
    pub rows: u64,
    /// The bytes of these rows.
    pub row_bytes: u64,
    /// The bytes of the edits of rows that are not in the table yet.
    pub row_log_bytes: u64,
    /// The number of documents in memory.
    pub cached_documents: usize,
    /// The approximate bytes of these documents.
    pub cached_bytes: usize,
    /// The state of the pages of the file.
    pub pages: Pages,
    /// The state of the index of searches.
    pub index: IndexHealth,
    /// The numbers of shadows and tombstones; `None` until they are known.
    pub shadows: Option<ShadowCounts>,
    /// The bytes of the file; 0 if unknown.
    pub file_bytes: u64,
    /// The free bytes of its disk as of the last probe; `None` if unknown.
    pub free_disk: Option<u64>,
    /// The number of entries replayed by this start.
    pub recovered_entries: u64,
    /// The part in a cluster; `None` for a single node.
    pub member: Option<MemberHealth>,
}
