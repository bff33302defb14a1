//! How the store is doing, for readiness and metrics.

use crate::store::{disk::DiskLow, entry::Seq};

/// Whether the store takes commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It does.
    #[default]
    Writable,
    /// It refuses them until the disk has room.
    DiskLow(DiskLow),
    /// A commit failed: it refuses them until a restart. Says why.
    Latched(String),
    /// It was closed.
    Closed,
}

/// The store as of its last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes commands.
    pub state: State,
    /// The newest entry.
    pub head: Seq,
    /// Every entry up to this one is in the state table.
    pub checkpoint: Seq,
    /// The oldest entry that is kept; one above `head` if none is.
    pub oldest: Seq,
    /// Entries a start would apply again.
    pub lag_entries: u64,
    /// Bytes of these.
    pub lag_bytes: u64,
    /// Bytes of all entries that are kept.
    pub journal_bytes: u64,
    /// Documents that are newer than the state table.
    pub backlog_documents: usize,
    /// Documents in memory.
    pub cached_documents: usize,
    /// About how many bytes they take.
    pub cached_bytes: usize,
    /// Bytes of the file; 0 if it does not tell.
    pub file_bytes: u64,
    /// Free bytes of its disk, as of the last second; `None`: it does not tell.
    pub free_disk: Option<u64>,
    /// Entries that this start applied again.
    pub recovered_entries: u64,
}
