//! `umbrad backup`, `umbrad restore` and `umbrad check`.
//!
//! A backup is taken from the running server, or from a store that no server has open. It gets its name only once it is
//! complete on the disk and was checked, so every file with the name of a backup is one.

use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use umbra_client::Error;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    free_space::{self, LeavesSpace},
    output::{absolute, complain, print},
    part::Part,
    serve::Source,
};
use crate::{
    config::{self, Arguments},
    server::store_options,
    store::{self, BackupError, CopyError, Lost, Report, StoreError, StoreOptions},
};

/// Take a backup of the running server, which continues, or of a store that no server has open. It has every update
/// that was accepted before it began.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// File for the backup. An existing file is replaced once the new one is complete and sound; one with damaged records stays
    /// beside it, with the ending ".part".
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    server: ContextArgs,
    /// Store file to back up instead of a running server.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["ConnectOptions", "context"])]
    store: Option<PathBuf>,
    /// Back up what can be read of a damaged store, without its history. A store restored from it is sound and lacks the
    /// shadows in damaged pages, which are listed. Keep a copy of the damaged file.
    #[arg(long, requires = "store")]
    readable_part: bool,
    /// Space to leave free on the disk of the backup, such as "1 GiB"; the backup is given up before. Not applied if
    /// --store names a store on another disk. A server refuses updates below its store.free_disk_min.
    #[arg(long, value_name = "SIZE", default_value = "320 MiB", value_parser = size)]
    keep_free: u64,
}

/// Restore a store from a backup, where no store exists yet.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup file.
    file: PathBuf,
    /// File for the store; without it, the path in the configuration.
    #[arg(long, value_name = "PATH")]
    store: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// Check a backup, or a store that no server has open: every page and value, the chain of the journal, and every shadow
/// against the journal.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The store or backup file.
    file: PathBuf,
}

/// A complete backup.
struct Taken {
    report: Report,
    lost: Lost,
    /// The path at which it is.
    path: PathBuf,
}

impl Backup {
    pub(super) async fn run(self) -> Exit {
        match self.take().await {
            Ok(Taken { report, lost, path }) => {
                let damaged = match path == self.to {
                    true => "the store is damaged, and so is its backup",
                    false => "the store is damaged, and so is its backup, which does not replace the former one",
                };
                let printed = print_report(&report, Some(&path), damaged);
                if lost.is_nothing() { printed } else { print_lost(&lost) }
            }
            Err(failure) => {
                let text = match &failure {
                    BackupFailure::Write(_) => format!("{}: {failure}", self.to.display()),
                    failure => failure.to_string(),
                };
                complain(&text, failure.exit())
            }
        }
    }

    async fn take(&self) -> Result<Taken, BackupFailure> {
        // It holds every shadow and the name of everybody: for its owner alone.
        let part = Part::begin(&self.to).map_err(BackupFailure::Write)?;
        let taken = self.fill(&part).await;
        if taken.is_err() {
            part.discard(); // an incomplete file is no backup
        }
        taken
    }

    async fn fill(&self, part: &Part) -> Result<Taken, BackupFailure> {
        let keep_free = if self.is_on_another_disk(part) { 0 } else { self.keep_free };
        let out = BufWriter::new(part.file());
        let mut out = LeavesSpace::new(out, keep_free, || free_space::of(part.file()));
        let mut lost = Lost::default();
        match &self.store {
            None => self.download(&mut out).await?,
            Some(store) if self.readable_part => lost = store::back_up_readable(&StoreOptions::new(store), &mut out)?,
            Some(store) => store::back_up(&StoreOptions::new(store), &mut out)?,
        }
        let written =
            out.into_inner().into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all());
        written.map_err(BackupFailure::Write)?;
        let report = store::check_backup(&StoreOptions::new(part.path()))?;
        if !report.is_sound() && self.to.exists() {
            return Ok(Taken { report, lost, path: part.path().to_owned() });
        }
        part.keep(&self.to).map_err(BackupFailure::Write)?;
        Ok(Taken { report, lost, path: self.to.clone() })
    }

    /// Returns true if the backup cannot take the space of the store.
    fn is_on_another_disk(&self, part: &Part) -> bool {
        let store = self.store.as_ref().and_then(|store| fs::metadata(store).ok());
        matches!((store, part.file().metadata()), (Some(store), Ok(part)) if store.dev() != part.dev())
    }

    async fn download(&self, out: &mut impl Write) -> Result<(), BackupFailure> {
        let options = self.server.resolve().map_err(BackupFailure::Client)?;
        let http = options.http_client().map_err(|error| BackupFailure::Client(error.into()))?;
        let failed = |error: Error| BackupFailure::Client(CommandFailure::http(&error));
        let mut backup = http.backup().await.map_err(failed)?;
        while let Some(part) = backup.chunk().await.map_err(failed)? {
            out.write_all(&part).map_err(BackupFailure::Write)?;
        }
        Ok(())
    }
}

impl Restore {
    pub(super) fn run(self) -> Exit {
        let (config, _) = match self.source.load(&Arguments::default()) {
            Ok(loaded) => loaded,
            Err(error) => return complain(&error, Exit::Usage),
        };
        let mut options = store_options(&config.store, &config.limits);
        options.path = self.store.unwrap_or(options.path);
        match store::restore(&self.file, &options) {
            Ok(report) => print_report(
                &report,
                Some(&options.path),
                "the backup has damaged records, and so has the restored store",
            ),
            Err(error) => {
                let failure = BackupFailure::from(error);
                complain(&failure, failure.exit())
            }
        }
    }
}

impl Check {
    pub(super) fn run(self) -> Exit {
        match store::check(&StoreOptions::new(&self.file)) {
            Ok(report) => print_report(&report, None, "damaged"),
            Err(error) => {
                let failure = BackupFailure::from(error);
                complain(&failure, failure.exit())
            }
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
    config::parse_size(text).ok_or_else(|| "must be a size such as \"256 MiB\"".to_owned())
}

/// A failure of `backup`, `restore` or `check`.
#[derive(Debug, thiserror::Error)]
enum BackupFailure {
    /// The connection options, or the request to the server.
    #[error(transparent)]
    Client(CommandFailure),
    /// The file that is written.
    #[error("cannot write: {0}")]
    Write(io::Error),
    /// The store or backup.
    #[error(transparent)]
    Store(CopyError),
}

impl BackupFailure {
    /// Returns the exit code.
    fn exit(&self) -> Exit {
        match self {
            Self::Client(failure) => failure.exit,
            Self::Write(_)
            | Self::Store(
                CopyError::Store(StoreError::Io { .. })
                | CopyError::Backup { error: BackupError::Io(_), .. }
                | CopyError::Exists(_),
            ) => Exit::Failed,
            Self::Store(_) => Exit::Store,
        }
    }
}

impl From<CopyError> for BackupFailure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Write(error) => Self::Write(error),
            error => Self::Store(error),
        }
    }
}

/// Lists what a backup lacks.
fn print_lost(lost: &Lost) -> Exit {
    for part in &lost.parts {
        complain(&format!("lost: {part}"), Exit::Partial);
    }
    for shadow in &lost.shadows {
        complain(&format!("lost: shadow {shadow}"), Exit::Partial);
    }
    complain(&"the backup has the readable part of the store; what is lost is listed above", Exit::Partial)
}

/// Prints the report, and the absolute path of the file that was `written`. `damaged` is the message if there are
/// findings.
fn print_report(report: &Report, written: Option<&Path>, damaged: &str) -> Exit {
    let Report { shadows, entries, head, findings, findings_more } = report;
    let mut found = json!({ "shadows": shadows, "entries": entries, "head": head.0 });
    if let (Some(written), Some(found)) = (written, found.as_object_mut()) {
        found.insert("file".to_owned(), absolute(written).into());
    }
    if findings.is_empty() {
        return print(&found);
    }
    for finding in findings {
        complain(finding, Exit::Store);
    }
    if *findings_more > 0 {
        complain(&format!("and {findings_more} more"), Exit::Store);
    }
    complain(&damaged, Exit::Store)
}
