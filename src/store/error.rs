//! Errors of the store, caused by the machine or the operator, never by a requester.
//!
//! Errors of a requester are [`Rejection`](crate::shadow::Rejection)s. The requester receives a fixed message for a
//! store error; the log has the details.

use std::{io, path::PathBuf};

use crate::{
    shadow::Rejection,
    store::{codec::DecodeError, journal::entry::Seq},
};

/// A reason why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is open in this or another process.
    #[error("{}: the store is in use by another process; stop that one first", path.display())]
    Locked {
        /// The path of the file.
        path: PathBuf,
    },
    /// There is no file, and none may be created.
    #[error("{}: there is no store, and store.create = false; mount its disk, restore a backup, or set store.create = true for a new one", path.display())]
    Missing {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file has a newer format.
    #[error("{}: the store has format {found}, this program knows formats up to {supported}; use the program that wrote it", path.display())]
    Format {
        /// The path of the file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest supported format.
        supported: u32,
    },
    /// The file is damaged or no store. It was not changed.
    #[error("{}: not a sound store: {detail}; restore a backup or, if it is not needed, move it away", path.display())]
    Corrupt {
        /// The path of the file.
        path: PathBuf,
        /// The damage found.
        detail: String,
    },
    /// One value in the file is damaged; the others are readable.
    #[error("table {table}, key {key}: {detail}")]
    Record {
        /// The table.
        table: &'static str,
        /// The key, as text.
        key: String,
        /// The error in the value.
        detail: String,
    },
    /// The operating system reported an error.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The file is the copy of a node of a cluster, and was to be opened for a single node.
    #[error("{}: the store belongs to a node of a cluster; start it with its [cluster] section", path.display())]
    OfCluster {
        /// The path of the file.
        path: PathBuf,
    },
    /// A commit or a read failed, and the file is not open again yet.
    #[error("the store is being reopened after an error of its disk, and the data is not in memory")]
    Reopening,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Returns the error for a damaged value of `table`.
    pub(super) fn record(table: &'static str, key: impl ToString, detail: &DecodeError) -> Self {
        Self::Record { table, key: key.to_string(), detail: detail.to_string() }
    }

    /// Returns the error for a journal entry that contradicts others.
    pub(super) fn entry(seq: Seq, detail: impl Into<String>) -> Self {
        Self::Record { table: "journal", key: seq.to_string(), detail: detail.into() }
    }

    /// Returns the rejection of a request that met this error: after one of the disk, the store is opened again.
    pub(crate) fn rejection(&self) -> Rejection {
        match self {
            Self::Io { .. } | Self::Reopening => reopening(),
            _ => Rejection::Internal,
        }
    }
}

/// Returns the rejection of requests that need the file while it is not open.
pub(super) fn reopening() -> Rejection {
    Rejection::Unavailable("the store is being reopened after an error of its disk; try again in a moment".to_owned())
}
