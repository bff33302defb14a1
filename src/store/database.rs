//! The redb file: opening, creation, reads and commits. Errors of redb are converted here.
//!
//! An existing file is never initialized again. Only a missing file is created, under another name until it is
//! complete, so a crash in between leaves no partial store.
//!
//! redb checks page checksums only on request (`verify_on_open`), and then refuses the whole file for one damaged page. So
//! [`super::pages`] verifies them, and callers ask [`Database::check_key`] and others before they read. Where a damaged page
//! is read nevertheless, redb may panic. Every call therefore goes through [`guarded`], which turns a panic into
//! [`StoreError::Corrupt`]. The panic hook still logs the message.

mod failure;

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    Builder, Durability, ReadTransaction, ReadableDatabase, ReadableTableMetadata, WriteTransaction,
    backends::FileBackend,
};

pub(super) use self::failure::{AbortCause, CommitFailure, OnFailure};
use self::failure::{DiskFailure, guarded};
use crate::store::{
    error::StoreError,
    journal::lineage::{LINEAGES_KEY, Lineages},
    options::StoreOptions,
    pages::check::{self, CheckedTable, Obstacle, PageCheck},
    replication::applied_position::{APPLIED_KEY, AppliedPosition},
    schema::{
        AGES_KEY, CREATED_KEY, Checkpoint, Created, FILE_FORMAT, JOURNAL_TABLE, META, META_TABLE, PROGRESS_KEY,
        STATE_TABLE,
    },
    shadow_counts::ShadowCounts,
    state::{dictionary::Dictionaries, record},
    store_clock::AgeRecord,
};

/// An open file with all tables in it.
pub(super) struct Database {
    /// The check of the pages; `None` for a file in memory, and while a file is made.
    pages: Option<Arc<PageCheck>>,
    /// `None` only while it is closed.
    redb: Option<redb::Database>,
    pub(super) path: PathBuf,
    /// True once the store is to be opened again: long reads end.
    retired: AtomicBool,
    failure: DiskFailure,
    /// The dictionaries of the records.
    pub(super) dictionaries: Arc<Dictionaries>,
}

/// A part of a table without damaged pages.
pub(super) struct SoundSpan {
    /// The key that it begins after; empty for the beginning.
    pub(super) after: Vec<u8>,
    /// The last key before a damaged page; `None` for the end of the table.
    pub(super) end: Option<Vec<u8>>,
}

impl Database {
    /// Opens the file of `options`, or creates it if there is none.
    pub(super) fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        #[cfg(test)]
        if let Some(disk) = &options.disk {
            return Self::open_backend(options, disk.clone());
        }
        let path = &options.path;
        match fs::metadata(path) {
            Ok(found) if found.len() == 0 => {
                let detail = "the file is empty".to_owned();
                Err(StoreError::Corrupt { path: path.clone(), detail })
            }
            Ok(_) => Self::open_checked(options),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !options.create => {
                Err(StoreError::Missing { path: path.clone() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(path = %path.display(), "no store found, creating a new one");
                Self::make(options, |database| database.initialize())?;
                Self::open_checked(options)
            }
            Err(error) => Err(StoreError::Io { path: path.clone(), error }),
        }
    }

    /// Opens the file of `options`, which must exist.
    pub(super) fn open_existing(options: &StoreOptions) -> Result<Self, StoreError> {
        let path = &options.path;
        match fs::metadata(path) {
            Ok(_) => Self::open(options),
            Err(error) => Err(StoreError::Io { path: path.clone(), error }),
        }
    }

    /// Opens or creates a store in `backend`; the path of `options` only appears in messages.
    #[cfg(test)]
    pub(super) fn open_backend(options: &StoreOptions, backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        let is_new = backend.len().is_ok_and(|length| length == 0);
        let redb = guarded(&options.path, || Ok(builder(options).create_with_backend(backend)?))?;
        let database = Self::of(redb, options);
        if is_new {
            database.initialize()?;
        }
        database.check_format()?;
        database.dictionaries.load(&database);
        Ok(database)
    }

    /// Opens the file of `options` again, which is the one that was open before. [`Database::follow`] checks its pages.
    pub(super) fn reopen(options: &StoreOptions) -> Result<Self, StoreError> {
        #[cfg(test)]
        if let Some(disk) = &options.disk {
            return Self::open_backend(options, disk.clone());
        }
        // A missing file must not be created.
        fs::metadata(&options.path).map_err(|error| StoreError::Io { path: options.path.clone(), error })?;
        Self::open_file(options)
    }

    fn of(redb: redb::Database, options: &StoreOptions) -> Self {
        Self {
            pages: None,
            redb: Some(redb),
            path: options.path.clone(),
            retired: AtomicBool::new(false),
            failure: DiskFailure::default(),
            dictionaries: Arc::default(),
        }
    }

    fn redb(&self) -> Result<&redb::Database, StoreError> {
        self.redb.as_ref().ok_or(StoreError::Closed)
    }

    /// Calls `on_failure` once redb does not use the file any more.
    pub(super) fn notify(&self, on_failure: OnFailure) {
        self.failure.notify(on_failure);
    }

    /// Returns the error after which redb does not use the file any more, if there was one.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.first()
    }

    /// Ends long reads, so that the file can be closed.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.pages.iter().for_each(|pages| pages.release());
    }

    /// True once [`Database::retire`] was called.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Opens the file, and begins the check of its pages. A small file is verified whole.
    fn open_checked(options: &StoreOptions) -> Result<Self, StoreError> {
        if let Some(detail) = check::stale(&options.path) {
            return Err(StoreError::Corrupt { path: options.path.clone(), detail: detail.to_owned() });
        }
        let mut database = Self::open_file(options)?;
        let pages = database.begin_check()?;
        if pages.length() <= options.verify_first_bytes_max {
            pages.walk(|_| false);
        }
        database.pages = Some(Arc::new(pages));
        Ok(database)
    }

    fn begin_check(&self) -> Result<PageCheck, StoreError> {
        let snapshot = self.failure.guarded(&self.path, || Ok(self.redb()?.begin_read()?))?;
        let pages = PageCheck::begin(&self.path, snapshot, self.progress()?.checkpoint.seq)?;
        pages.map_err(|detail| StoreError::Corrupt { path: self.path.clone(), detail: detail.to_owned() })
    }

    /// Checks the pages of this reopened file, unless `former` did so to the end. Its result stays true, since damaged
    /// pages are not written.
    pub(super) fn follow(&mut self, former: Option<Arc<PageCheck>>) -> Result<(), StoreError> {
        self.pages = match former {
            Some(former) if !former.is_finished() => Some(Arc::new(self.begin_check()?)),
            former => former,
        };
        Ok(())
    }

    /// Shares the dictionaries `known`, with which the records in memory were compressed, and adds those of this file.
    pub(super) fn share_dictionaries(&mut self, known: &Arc<Dictionaries>) {
        known.add_all(&self.dictionaries);
        self.dictionaries = Arc::clone(known);
    }

    /// Returns the check of the pages.
    pub(super) fn pages(&self) -> Option<&Arc<PageCheck>> {
        self.pages.as_ref()
    }

    /// Checks the pages that lead to `key`.
    pub(super) fn check_key(&self, table: CheckedTable, key: &[u8]) -> Result<(), StoreError> {
        self.pages.as_ref().map_or(Ok(()), |pages| pages.key(table, key)).map_err(|obstacle| obstacle.of(table, key))
    }

    /// Checks the pages with the keys from `from` to `to`.
    pub(super) fn check_range(&self, table: CheckedTable, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let checked = self.pages.as_ref().map_or(Ok(()), |pages| pages.range(table, from, to));
        checked.map_err(|obstacle| obstacle.of(table, from))
    }

    /// Checks the pages with the next `limit` keys after `after`, or after the damaged pages that follow it if `skip_damaged`.
    /// Returns `None` if all others are damaged.
    pub(super) fn check_scan(
        &self,
        table: CheckedTable,
        mut after: Vec<u8>,
        limit: usize,
        skip_damaged: bool,
    ) -> Result<Option<SoundSpan>, StoreError> {
        let Some(pages) = &self.pages else { return Ok(Some(SoundSpan { after, end: None })) };
        loop {
            match pages.scan(table, &after, limit) {
                Ok(end) => return Ok(Some(SoundSpan { after, end })),
                Err(Obstacle::Damaged(range)) if skip_damaged => match range.up_to {
                    Some(up_to) => after = up_to,
                    None => return Ok(None),
                },
                Err(obstacle) => return Err(obstacle.of(table, &after)),
            }
        }
    }

    /// Checks that the store can be written: redb's own tables are sound, and so is the end of the journal.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        let corrupt = |detail: &str| StoreError::Corrupt { path: self.path.clone(), detail: detail.to_owned() };
        if self.pages.as_ref().is_some_and(|pages| !pages.is_system_sound()) {
            return Err(corrupt("a page with the list of free pages is damaged, so nothing can be written safely"));
        }
        if self.pages.as_ref().is_some_and(|pages| !pages.is_rows_sound()) {
            return Err(corrupt(
                "a page with sessions or messages of the broker is damaged, and some of them may be lost",
            ));
        }
        let end = self.check_key(CheckedTable::Journal, &u64::MAX.to_le_bytes());
        end.map_err(|_| corrupt("a page at the end of the journal is damaged, so nothing can be written safely"))
    }

    /// Verifies all pages.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        let Some(pages) = &self.pages else { return Ok(()) };
        pages.walk(|_| self.is_retired());
        match pages.damaged().count() {
            _ if !pages.is_finished() => Err(StoreError::Reopening),
            0 if !pages.is_rows_sound() => {
                let detail = "a page with sessions or messages of the broker is damaged".to_owned();
                Err(StoreError::Corrupt { path: self.path.clone(), detail })
            }
            0 => Ok(()),
            damaged => {
                let detail = format!("{damaged} pages are damaged, and with them an unknown number of records");
                Err(StoreError::Corrupt { path: self.path.clone(), detail })
            }
        }
    }

    /// Returns the number of records in the state table.
    pub(super) fn records(&self) -> Result<u64, StoreError> {
        self.read(|transaction| Ok(transaction.open_table(STATE_TABLE)?.len()?))
    }

    /// Counts the records of a small file.
    pub(super) fn count_records(&self) -> Result<ShadowCounts, StoreError> {
        self.read(|transaction| {
            let mut counts = ShadowCounts::default();
            for item in transaction.open_table(STATE_TABLE)?.range::<&[u8]>(..)? {
                counts.add(record::may_be_deleted(item?.1.value()));
            }
            Ok(counts)
        })
    }

    fn open_file(options: &StoreOptions) -> Result<Self, StoreError> {
        let redb = guarded(&options.path, || Ok(builder(options).open(&options.path)?))?;
        let database = Self::of(redb, options);
        database.check_format()?;
        database.dictionaries.load(&database);
        Ok(database)
    }

    /// Creates a store, filled by `fill`, beside its final path and links it there. Returns false if another process
    /// was faster.
    pub(super) fn make<E: From<StoreError>>(
        options: &StoreOptions,
        fill: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<bool, E> {
        let new = options.beside(".new");
        let of_path = |error| StoreError::Io { path: options.path.clone(), error };
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of_path(error).into()),
            _ => {}
        }
        // It holds every shadow and the name of everybody: for its owner alone.
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
        let file = file.map_err(of_path)?;
        let redb = guarded(&options.path, || Ok(builder(options).create_with_backend(FileBackend::new(file)?)?))?;
        let made = Self::of(redb, options);
        let filled = fill(&made);
        drop(made);
        // Unlike a rename, a link never replaces a file that appeared in the meantime.
        let linked = filled.and_then(|()| match fs::hard_link(&new, &options.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(of_path(error).into()),
        });
        fs::remove_file(&new).map_err(of_path)?;
        let linked = linked?;
        sync_directory(&options.path).map_err(of_path)?;
        Ok(linked)
    }

    fn initialize(&self) -> Result<(), StoreError> {
        let created = self.commit(|transaction| {
            let mut meta = transaction.open_table(META_TABLE)?;
            meta.insert(CREATED_KEY, Created::now().encode().as_slice())?;
            meta.insert(PROGRESS_KEY, Checkpoint::default().encode().as_slice())?;
            transaction.open_table(STATE_TABLE)?;
            transaction.open_table(JOURNAL_TABLE)?;
            Ok(())
        });
        created.map_err(CommitFailure::into_error)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let created = self.meta(CREATED_KEY, Created::decode)?;
        match u32::try_from(created.format) {
            Ok(format) if u64::from(format) == FILE_FORMAT => Ok(()),
            format => Err(StoreError::Format {
                path: self.path.clone(),
                found: format.unwrap_or(u32::MAX),
                supported: FILE_FORMAT as u32,
            }),
        }
    }

    /// Returns the positions of journal and state table.
    pub(super) fn progress(&self) -> Result<Checkpoint, StoreError> {
        self.meta(PROGRESS_KEY, Checkpoint::decode)
    }

    /// Returns the ages of entries; `None` if no commit wrote them yet.
    pub(super) fn ages(&self) -> Result<Option<AgeRecord>, StoreError> {
        self.meta_if_known(AGES_KEY, AgeRecord::decode)
    }

    /// Returns the position in the log of other nodes' batches; `None` if the store never followed one.
    pub(super) fn applied_position(&self) -> Result<Option<AppliedPosition>, StoreError> {
        self.meta_if_known(APPLIED_KEY, AppliedPosition::decode)
    }

    /// Returns the lineages of the entries; those of no entry if no commit wrote any.
    pub(super) fn lineages(&self) -> Result<Lineages, StoreError> {
        Ok(self.meta_if_known(LINEAGES_KEY, Lineages::decode)?.unwrap_or_default())
    }

    fn meta_if_known<T>(
        &self,
        key: &'static str,
        decode: impl FnOnce(&[u8]) -> Result<T, crate::store::codec::DecodeError>,
    ) -> Result<Option<T>, StoreError> {
        let known = self.read(|transaction| Ok(transaction.open_table(META_TABLE)?.get(key)?.is_some()))?;
        known.then(|| self.meta(key, decode)).transpose()
    }

    fn meta<T>(
        &self,
        key: &'static str,
        decode: impl FnOnce(&[u8]) -> Result<T, crate::store::codec::DecodeError>,
    ) -> Result<T, StoreError> {
        use crate::store::codec::DecodeError;
        let corrupt = |detail: String| StoreError::Corrupt { path: self.path.clone(), detail };
        self.read(|transaction| {
            let table = match transaction.open_table(META_TABLE) {
                Err(redb::TableError::TableDoesNotExist(_)) => {
                    return Err(corrupt("it is a redb file, but not one of this program".to_owned()).into());
                }
                table => table?,
            };
            let value = table.get(key)?.ok_or_else(|| corrupt(format!("{META}/{key} is missing")))?;
            Ok(decode(value.value()).map_err(|error| match error {
                DecodeError::Format { found, supported } => {
                    StoreError::Format { path: self.path.clone(), found, supported }
                }
                error => corrupt(format!("{META}/{key}: {error}")),
            })?)
        })
    }

    /// Reads in a snapshot of the newest commit.
    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&ReadTransaction) -> Result<T, AbortCause>,
    ) -> Result<T, StoreError> {
        self.failure.guarded(&self.path, || body(&self.redb()?.begin_read()?))
    }

    /// Commits the writes of `fill`; on return they are on disk.
    pub(super) fn commit<T>(
        &self,
        fill: impl FnOnce(&WriteTransaction) -> Result<T, AbortCause>,
    ) -> Result<T, CommitFailure> {
        self.commit_with(Durability::Immediate, fill)
    }

    /// Commits the writes of `fill`. Without [`Durability::Immediate`] they are on disk with a later commit.
    pub(super) fn commit_with<T>(
        &self,
        durability: Durability,
        fill: impl FnOnce(&WriteTransaction) -> Result<T, AbortCause>,
    ) -> Result<T, CommitFailure> {
        let filled = self.failure.guarded(&self.path, || {
            let mut transaction = self.redb()?.begin_write()?;
            transaction.set_durability(durability)?;
            transaction.set_two_phase_commit(true);
            // Costs up to a tenth of the throughput; without it a large file takes seconds to open after a crash.
            transaction.set_quick_repair(true);
            let value = fill(&transaction)?;
            Ok((transaction, value))
        });
        let (transaction, value) = filled.map_err(CommitFailure::NotTried)?;
        self.failure.guarded(&self.path, || Ok(transaction.commit()?)).map_err(CommitFailure::Unknown)?;
        Ok(value)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Whoever still has the check would otherwise keep the file open.
        self.pages.iter().for_each(|pages| pages.release());
        let redb = self.redb.take();
        // It writes the list of free pages, which does not fit a damaged file.
        let closed = self.failure.guarded(&self.path, || {
            drop(redb);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!(%error, "the store was not closed cleanly");
        }
    }
}

impl Obstacle {
    fn of(self, table: CheckedTable, key: &[u8]) -> StoreError {
        match self {
            Self::Closing => StoreError::Reopening,
            Self::Damaged(_) => StoreError::Record {
                table: table.name(),
                key: key.escape_ascii().to_string(),
                detail: "a page that leads to it is damaged".to_owned(),
            },
        }
    }
}

fn builder(options: &StoreOptions) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.page_cache_bytes);
    builder.set_check_integrity_on_open(options.verify_on_open);
    let path = options.path.clone();
    builder.set_repair_callback(move |session| {
        tracing::warn!(path = %path.display(), done = session.progress(), "repairing a store that was not closed");
    });
    builder
}

/// Syncs the directory, which makes the new name durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(directory)?.sync_all()
}
