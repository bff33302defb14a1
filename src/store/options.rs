//! What an operator may choose about the store.

use std::{path::PathBuf, time::Duration};

use crate::shadow::DocumentLimits;

/// How a store is opened. [`StoreOptions::new`] has the defaults, those of the shipped configuration.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The file. Its directory must exist.
    pub path: PathBuf,
    /// Bytes of file pages that redb keeps in memory.
    pub page_cache_bytes: usize,
    /// About how many bytes of decoded documents are kept in memory. Documents that are not carried yet are kept on
    /// top of it; `lag_entries_max` bounds them.
    pub document_cache_bytes: usize,
    /// Opens an unclean file without a full scan, for about 64 KB written per GB of file at each commit.
    pub quick_repair: bool,
    /// Checks every page of the file before opening it, which reads all of it. Damage that the disk or a stray write
    /// did to the structure of the file (not to a value, which has its own checksum) is otherwise found when it is
    /// met.
    pub verify_on_open: bool,
    /// Most commands decided in one commit.
    pub batch_commands_max: usize,
    /// Most memory of commands that are not told yet; each counts [`COMMAND_OVERHEAD_BYTES`] more than what it says.
    pub queue_bytes_max: usize,
    /// Journal bytes above which the oldest entries are removed.
    pub journal_bytes_max: u64,
    /// Age above which the oldest entries are removed, as further commits are made.
    pub journal_age_max: Duration,
    /// Most journal entries that are not yet in the state table, hence most that a start has to apply again.
    pub lag_entries_max: u64,
    /// Most bytes of such entries. One batch may exceed either by its own size.
    pub lag_bytes_max: u64,
    /// Fewest documents carried with each commit, while any are left.
    pub carry_documents_min: usize,
    /// Documents carried per commit while nobody asks for anything.
    pub carry_documents_idle: usize,
    /// Free bytes on the disk below which commands are refused.
    pub free_disk_min: u64,
    /// Named shadows a device may have, deleted ones counted.
    pub shadow_names_max: usize,
    /// The limits of one document.
    pub document: DocumentLimits,
}

/// What a command counts beyond what it says, against [`StoreOptions::queue_bytes_max`].
pub const COMMAND_OVERHEAD_BYTES: usize = 1024;

impl StoreOptions {
    /// The defaults, for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const MIB: usize = 1 << 20;
        Self {
            path: path.into(),
            page_cache_bytes: 128 * MIB,
            document_cache_bytes: 256 * MIB,
            quick_repair: true,
            verify_on_open: false,
            batch_commands_max: 1024,
            queue_bytes_max: 64 * MIB,
            journal_bytes_max: 4 << 30,
            journal_age_max: Duration::from_secs(7 * 24 * 3600),
            lag_entries_max: 100_000,
            lag_bytes_max: 64 << 20,
            carry_documents_min: 8,
            carry_documents_idle: 256,
            free_disk_min: 256 << 20,
            shadow_names_max: 100,
            document: DocumentLimits::default(),
        }
    }
}
