//! Failures inside calls of redb: their conversion, and whether redb still uses the file.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, OnceLock},
};

use crate::store::error::StoreError;

/// A failed commit.
pub(in crate::store) enum CommitFailure {
    /// Failed before redb started the commit: nothing is on disk, now or later.
    NotTried(StoreError),
    /// Failed in the commit: it may be on disk whole, or not at all.
    Unknown(StoreError),
}

/// An error inside a transaction, without the path of the file.
pub(in crate::store) enum AbortCause {
    Redb(Box<redb::Error>),
    Store(StoreError),
}

/// The end of the use of a file. After one failed read or write, redb refuses all others, until the file was opened again.
#[derive(Default)]
pub(super) struct DiskFailure {
    /// The first error.
    first: OnceLock<String>,
    /// Called at the first error.
    on_failure: OnceLock<OnFailure>,
}

/// A function that is called when redb stops using a file.
pub(in crate::store) type OnFailure = Arc<dyn Fn() + Send + Sync>;

impl DiskFailure {
    /// Calls `on_failure` at the first error.
    pub(super) fn notify(&self, on_failure: OnFailure) {
        let is_first = self.on_failure.set(on_failure).is_ok();
        debug_assert!(is_first, "a file has one writer");
    }

    /// Returns the first error, if there was one.
    pub(super) fn first(&self) -> Option<&str> {
        self.first.get().map(String::as_str)
    }

    /// Runs `body`, as [`guarded`] does, and notes an error after which redb does not use the file any more.
    pub(super) fn guarded<T>(
        &self,
        path: &Path,
        body: impl FnOnce() -> Result<T, AbortCause>,
    ) -> Result<T, StoreError> {
        guarded(path, || body().inspect_err(|cause| self.note(cause)))
    }

    fn note(&self, cause: &AbortCause) {
        let AbortCause::Redb(error) = cause else { return };
        if matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
            && self.first.set(error.to_string()).is_ok()
            && let Some(on_failure) = self.on_failure.get()
        {
            on_failure();
        }
    }
}

impl CommitFailure {
    /// Returns the error.
    pub(in crate::store) fn into_error(self) -> StoreError {
        match self {
            Self::NotTried(error) | Self::Unknown(error) => error,
        }
    }
}

/// Runs `body`, which calls redb, and adds `path` to its errors.
pub(super) fn guarded<T>(path: &Path, body: impl FnOnce() -> Result<T, AbortCause>) -> Result<T, StoreError> {
    // A panic can leave only parts of redb half done: its transaction, which is dropped, and its caches, which it marks
    // as failed by poisoned locks.
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        let detail = format!("the storage engine stopped on it: {text}");
        Err(AbortCause::Store(StoreError::Corrupt { path: path.to_owned(), detail }))
    });
    result.map_err(|failure| failure.into_error(path))
}

impl AbortCause {
    /// Returns a text for a fault of what a table has, or this cause if it is one of the disk or of the file as a whole.
    pub(in crate::store) fn fault_of_content(self) -> Result<String, Self> {
        match self {
            Self::Redb(error) => match *error {
                redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed => Err(Self::Redb(error)),
                fault => Ok(fault.to_string()),
            },
            Self::Store(error @ (StoreError::Io { .. } | StoreError::Reopening | StoreError::Closed)) => {
                Err(Self::Store(error))
            }
            Self::Store(fault) => Ok(fault.to_string()),
        }
    }

    fn into_error(self, path: &Path) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Redb(error) => *error,
        };
        let path = path.to_owned();
        match error {
            redb::Error::DatabaseAlreadyOpen => StoreError::Locked { path },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => StoreError::Reopening,
            // redb reports a missing header, or a file that ends inside a page, by these kinds.
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                StoreError::Corrupt { path, detail: error.to_string() }
            }
            redb::Error::Io(error) => StoreError::Io { path, error },
            error => StoreError::Corrupt { path, detail: error.to_string() },
        }
    }
}

impl From<StoreError> for AbortCause {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

macro_rules! failure_from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for AbortCause {
            fn from(error: redb::$error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        })*
    };
}

failure_from_redb!(CommitError, DatabaseError, SetDurabilityError, StorageError, TableError, TransactionError);
