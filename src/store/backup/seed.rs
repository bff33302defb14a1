//! A store that is made of a backup while another node streams it.
//!
//! It is made beside its final path, as by a restore. It must be complete, consistent, and a copy that can go on from the log;
//! otherwise nothing is left of it. Then it takes its place. A store that was there is replaced only if that is allowed, and is kept
//! under another name. One process at a time makes a store for a path: a stream takes long, so two would meet.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::store::{
    backup::{
        copy::make_of,
        file::{BackupError, BackupReader},
    },
    database::sync_directory,
    error::StoreError,
    options::StoreOptions,
    replication::applied_position::AppliedRecord,
};

/// A store that was made of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The number of shadows, including deleted ones.
    pub shadows: u64,
    /// The last record of the log that it has applied.
    pub applied: AppliedRecord,
    /// The path at which the former store is kept, if there was one.
    pub former: Option<PathBuf>,
}

/// A reason why no store could be made of a stream.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The store cannot be written, at this node.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream ended too early, or is damaged.
    #[error("the stream is no complete backup: {0}")]
    Stream(BackupError),
    /// The records of the backup contradict each other.
    #[error("the backup is inconsistent: {0}")]
    Inconsistent(String),
    /// The store cannot go on from the log.
    #[error("{0}")]
    Refused(String),
}

impl SeedError {
    /// Returns `error` as one of the stream, if a table refused what came.
    fn of_content(error: Self) -> Self {
        match error {
            Self::Store(
                error @ (StoreError::Record { .. } | StoreError::Corrupt { .. } | StoreError::Format { .. }),
            ) => Self::Inconsistent(error.to_string()),
            error => error,
        }
    }
}

/// The ending of a store that is being made.
const SEED: &str = ".seed";
/// The ending of the file that is locked meanwhile.
const LOCK: &str = ".seed.lock";

/// The path for a store that is to be made of a stream. No other process makes one there until this is dropped.
#[derive(Debug)]
pub struct SeedTarget {
    options: StoreOptions,
    replaces: bool,
    lock: PathBuf,
    _locked: File,
}

impl SeedTarget {
    /// Locks the path of `options`. A store that is there may be replaced if `replaces` is set.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`]: another process makes a store there. [`StoreError::Io`]: the file for the lock cannot be made.
    pub fn lock(options: StoreOptions, replaces: bool) -> Result<Self, StoreError> {
        let lock = options.beside(LOCK);
        let of_lock = |error| StoreError::Io { path: options.beside(LOCK), error };
        let opened = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let locked = opened.map_err(of_lock)?;
        match locked.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: options.path }),
            Err(TryLockError::Error(error)) => return Err(of_lock(error)),
        }
        // If its former owner has removed the file meanwhile, a third process may have locked another one.
        let own = locked.metadata().map_err(of_lock)?;
        match fs::metadata(&lock) {
            Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => {
                Ok(Self { options, replaces, lock, _locked: locked })
            }
            _ => Err(StoreError::Locked { path: options.path }),
        }
    }

    /// Makes the store of the backup in `from`, if `accept` does not refuse the last record of the log that it has applied. Blocks.
    ///
    /// # Errors
    ///
    /// [`SeedError`]. Nothing is left behind, except that a former store may have a second name.
    pub fn seed(
        &self,
        from: impl Read,
        accept: impl FnOnce(&AppliedRecord) -> Result<(), String>,
    ) -> Result<Seeded, SeedError> {
        let made = StoreOptions { path: self.options.beside(SEED), ..self.options.clone() };
        let of_path = |error| StoreError::Io { path: self.options.path.clone(), error };
        match fs::remove_file(&made.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of_path(error).into()),
            _ => {}
        }
        let reader = BackupReader::begin(from).map_err(SeedError::Stream)?;
        let mut applied = None;
        let report = make_of(reader, &made, SeedError::Stream, |database, report| {
            if let Some(finding) = report.findings.first() {
                return Err(SeedError::Inconsistent(finding.clone()));
            }
            applied = database.applied_position()?.map(|position| position.record());
            match applied.filter(|applied| applied.number > 0) {
                Some(applied) => accept(&applied).map_err(SeedError::Refused),
                None => Err(SeedError::Refused("it has applied no record of the log".to_owned())),
            }
        });
        let (Some(report), Some(applied)) = (report.map_err(SeedError::of_content)?, applied) else {
            return Err(of_path(io::ErrorKind::AlreadyExists.into()).into());
        };
        let former = self.put_in_place(&made.path).map_err(of_path)?;
        Ok(Seeded { shadows: report.shadows, applied, former })
    }

    /// Puts the store `made` in its place. Returns the new path of the former one.
    fn put_in_place(&self, made: &Path) -> io::Result<Option<PathBuf>> {
        let path = &self.options.path;
        let former = if self.replaces { self.keep_former()? } else { None };
        if former.is_some() {
            // At any moment there is a store: the former one, or this.
            fs::rename(made, path)?;
        } else {
            // Unlike a rename, a link never replaces a file that appeared in the meantime.
            let linked = fs::hard_link(made, path);
            fs::remove_file(made)?;
            linked.map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => io::Error::new(io::ErrorKind::AlreadyExists, APPEARED),
                _ => error,
            })?;
        }
        sync_directory(path)?;
        Ok(former)
    }

    /// Gives the store that is there, if there is one, the first free name with a number beside its own.
    fn keep_former(&self) -> io::Result<Option<PathBuf>> {
        for number in 1_u64.. {
            let kept = self.options.beside(&format!(".old-{number}"));
            match fs::hard_link(&self.options.path, &kept) {
                Ok(()) => return Ok(Some(kept)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

const APPEARED: &str =
    "a file appeared there while the store of another node was received; start the node again to go on with that file";

impl Drop for SeedTarget {
    fn drop(&mut self) {
        // It is still locked. A file that stays does no harm.
        let _ = fs::remove_file(&self.lock);
    }
}
