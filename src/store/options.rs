//! The options of the store.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::shadow::{DocumentLimits, index::IndexedPaths};

/// The options for opening a store. [`StoreOptions::new`] has the defaults of the shipped configuration.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The path of the file. Its directory must exist.
    pub path: PathBuf,
    /// True to create a missing file.
    pub create: bool,
    /// Bytes of the page cache of redb.
    pub page_cache_bytes: usize,
    /// Approximate bytes of the cache of documents. Dirty documents have at most three quarters of it, unless a commit has
    /// more.
    pub document_cache_bytes: usize,
    /// True to let redb check the file before it is opened: one damaged page, and the whole file is refused.
    pub verify_on_open: bool,
    /// The bytes of a file up to which all pages are verified before the store is open. Those of a larger file are
    /// verified in the background, and before they are needed.
    pub verify_first_bytes_max: u64,
    /// Most commands decided in one commit.
    pub batch_commands_max: usize,
    /// Most bytes of queued commands whose outcome is not reported; each counts [`COMMAND_OVERHEAD_BYTES`] in addition.
    pub queue_bytes_max: usize,
    /// The size of the journal above which the oldest entries are removed, in bytes.
    pub journal_bytes_max: u64,
    /// The age above which the oldest entries are removed, as part of later commits. Only time while a store is open
    /// counts.
    pub journal_age_max: Duration,
    /// Most journal entries not yet in the state table, hence most that a start has to replay.
    pub lag_entries_max: u64,
    /// Most bytes of such entries. One batch may exceed both limits by its own size.
    pub lag_bytes_max: u64,
    /// Most bytes of edits of the broker's rows that are not yet in their table, hence most that a start has to replay.
    pub row_lag_bytes_max: u64,
    /// Fewest documents flushed with each commit, while any are dirty.
    pub flush_documents_min: usize,
    /// Documents flushed per commit while the writer is idle.
    pub flush_documents_idle: usize,
    /// The time without an accepted command after which the writer is idle. A document that changes all the time is so
    /// flushed once for many changes.
    pub flush_idle_after: Duration,
    /// Fewest dirty documents of which a dictionary is made, with which records are compressed.
    pub dictionary_documents_min: usize,
    /// The free bytes on the disk below which commands are refused.
    pub free_disk_min: u64,
    /// Most named shadows of a device, including deleted ones whose tombstone is stored.
    pub shadow_names_max: usize,
    /// The limits of one document.
    pub document: DocumentLimits,
    /// The paths with an index.
    pub indexed: Arc<IndexedPaths>,
    /// The disk in memory that takes the place of the file.
    #[cfg(test)]
    pub(crate) disk: Option<crate::store::tests::SimDisk>,
}

/// The bytes that a command counts in addition to its content, against [`StoreOptions::queue_bytes_max`].
pub const COMMAND_OVERHEAD_BYTES: usize = 1024;

impl StoreOptions {
    /// Returns the path of a file beside the store, with `ending` after its name.
    pub(super) fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        self.path.with_file_name(name)
    }

    /// Returns the defaults for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const MIB: usize = 1 << 20;
        Self {
            path: path.into(),
            create: true,
            page_cache_bytes: 170 * MIB,
            document_cache_bytes: 341 * MIB,
            verify_on_open: false,
            verify_first_bytes_max: 64 << 20,
            batch_commands_max: 1024,
            queue_bytes_max: 64 * MIB,
            journal_bytes_max: 4 << 30,
            journal_age_max: Duration::from_secs(7 * 24 * 3600),
            lag_entries_max: 600_000,
            lag_bytes_max: 192 << 20,
            row_lag_bytes_max: 16 << 20,
            flush_documents_min: 1,
            flush_documents_idle: 256,
            flush_idle_after: Duration::from_millis(100),
            dictionary_documents_min: 1000,
            free_disk_min: 256 << 20,
            shadow_names_max: 100,
            document: DocumentLimits::default(),
            indexed: Arc::default(),
            #[cfg(test)]
            disk: None,
        }
    }
}
