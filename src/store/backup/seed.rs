//! A store that is made of a backup while another node streams it.
//!
//! It is made beside its final path, as by a restore. It must be complete, consistent, and a copy that can go on from the log;
//! otherwise nothing is left of it. Then it takes its place. A store that was there is kept under another name.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
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

/// The ending of a store that is being made.
const SEED: &str = ".seed";

/// Makes the store of `options` of the backup in `from`, if `accept` does not refuse the last record of the log that it has applied. Blocks.
///
/// # Errors
///
/// [`SeedError`]. Nothing is left behind, except that a former store may be kept under its new name already.
pub fn seed(
    from: impl Read,
    options: &StoreOptions,
    accept: impl FnOnce(&AppliedRecord) -> Result<(), String>,
) -> Result<Seeded, SeedError> {
    let made = StoreOptions { path: options.beside(SEED), ..options.clone() };
    let of_path = |error| StoreError::Io { path: options.path.clone(), error };
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
    })?;
    let (Some(report), Some(applied)) = (report, applied) else {
        return Err(of_path(io::ErrorKind::AlreadyExists.into()).into());
    };
    let former = put_in_place(&made, options).map_err(of_path)?;
    Ok(Seeded { shadows: report.shadows, applied, former })
}

/// Puts the store `made` in the place of that of `options`. Returns the new path of the former one.
fn put_in_place(made: &StoreOptions, options: &StoreOptions) -> io::Result<Option<PathBuf>> {
    let former = set_aside(options)?;
    // Unlike a rename, a link never replaces a file that appeared in the meantime.
    fs::hard_link(&made.path, &options.path)?;
    fs::remove_file(&made.path)?;
    sync_directory(&options.path)?;
    Ok(former)
}

/// Gives the store of `options`, if there is one, the first free name with a number.
fn set_aside(options: &StoreOptions) -> io::Result<Option<PathBuf>> {
    for number in 1_u64.. {
        let aside = options.beside(&format!(".old-{number}"));
        match fs::hard_link(&options.path, &aside) {
            Ok(()) => return fs::remove_file(&options.path).map(|()| Some(aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
