//! What can go wrong with the store: our machine's fault or the operator's, never a requester's.
//!
//! A requester's fault is a [`Rejection`](crate::shadow::Rejection). A requester who meets one of these is told a fixed
//! sentence; the log has the rest.

use std::{io, path::PathBuf};

use crate::store::{codec::DecodeError, entry::Seq};

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or this one, has the file open.
    #[error("{}: the store is in use by another process; stop that one first", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a later program.
    #[error("{}: the store has format {found}, this program knows formats up to {supported}; use the program that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The highest this program reads.
        supported: u32,
    },
    /// The file is damaged, or no store at all. What is in it was left as it is.
    #[error("{}: not a sound store: {detail}; restore a backup or, if it is not needed, move it away", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// One value in the file is damaged; the others can be read.
    #[error("table {table}, key {key}: {detail}")]
    Record {
        /// The table.
        table: &'static str,
        /// The key, as text.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The operating system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A commit failed earlier and the engine no longer reads from this file.
    #[error("the store stopped after a failed write and what was asked is not in memory; restart the service")]
    Latched,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// A damaged value of `table`.
    pub(super) fn record(table: &'static str, key: impl ToString, detail: &DecodeError) -> Self {
        Self::Record { table, key: key.to_string(), detail: detail.to_string() }
    }

    /// A journal entry that contradicts the others.
    pub(super) fn entry(seq: Seq, detail: impl Into<String>) -> Self {
        Self::Record { table: "journal", key: seq.to_string(), detail: detail.into() }
    }
}
