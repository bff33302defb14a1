//! Whole stores: backup of one commit, restore from a backup, and checks of both.
//!
//! A backup is read in one snapshot while the writer continues. It contains every change reported before it began, and
//! nothing of a commit that is not on disk. A restored store is created beside its final path and linked there once it
//! is complete, so a damaged backup leaves nothing behind.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use crate::store::{
    backup::{
        audit::{Audit, Report},
        file::{BackupError, BackupReader, BackupTable, BackupWriter, Record},
    },
    codec::DecodeError,
    database::{AbortCause, CommitFailure, Database},
    error::StoreError,
    index::state::INDEX_KEY,
    journal::entry::JOURNAL,
    options::StoreOptions,
    replication::{applied_position::AppliedRecord, log_place::LogPlace},
    rows::tables::{self, ROW_LOG, ROW_LOG_TABLE, ROWS_TABLE},
    schema::{Checkpoint, FLOORS_TABLE, JOURNAL_TABLE, META, META_TABLE, PROGRESS_KEY, STATE_TABLE},
    state::{
        dictionary::Dictionaries,
        floor::{self, FLOORS},
        record,
    },
};

/// A reason why a store or backup could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// An error of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backup is incomplete or damaged.
    #[error("{}: {error}", path.display())]
    Backup {
        /// The path of the file.
        path: PathBuf,
        /// The error in it.
        error: BackupError,
    },
    /// A file exists at the path of the restored store.
    #[error("{}: there is a file already; a backup is only restored to where none is", .0.display())]
    Exists(PathBuf),
    /// The backup cannot be written.
    #[error("cannot write the backup: {0}")]
    Write(io::Error),
}

/// Bytes of records buffered for one commit of a restore.
const SLICE_BYTES: usize = 8 << 20;

/// The records of a backup, by table: a damaged page may hide some, or lead to others twice.
#[derive(Default)]
pub(in crate::store) struct Tally {
    counts: BTreeMap<BackupTable, u64>,
    /// The last record, with its key in the order of its table.
    last: Option<(BackupTable, Vec<u8>)>,
    /// The first table whose records are not in order.
    unordered: Option<BackupTable>,
}

impl Tally {
    pub(in crate::store) fn add(&mut self, table: BackupTable, key: &[u8]) {
        let mut key = key.to_vec();
        if matches!(table, BackupTable::Journal | BackupTable::RowLog) {
            key.reverse(); // of a number, little-endian
        }
        let place = Some((table, key));
        if place <= self.last && self.unordered.is_none() {
            self.unordered = Some(table);
        }
        self.last = place;
        *self.counts.entry(table).or_default() += 1;
    }

    /// Returns what is wrong with the records, by the number that the root of each table has.
    pub(in crate::store) fn finding(&self, transaction: &ReadTransaction) -> Result<Option<String>, AbortCause> {
        if let Some(table) = self.unordered {
            return Ok(Some(format!("the records of the table {table:?} are not in order: a page is damaged")));
        }
        let (rows, row_log) = tables::records(transaction)?;
        let floors = floor::table(transaction)?;
        for (table, expected) in [
            (BackupTable::Journal, transaction.open_table(JOURNAL_TABLE)?.len()?),
            (BackupTable::State, transaction.open_table(STATE_TABLE)?.len()?),
            (BackupTable::Floors, floors.map_or(Ok(0), |floors| floors.len())?),
            (BackupTable::Rows, rows),
            (BackupTable::RowLog, row_log),
        ] {
            let found = self.counts.get(&table).copied().unwrap_or_default();
            if found != expected {
                let detail = format!(
                    "the table {table:?} has {found} readable records and should have {expected}: a page is damaged"
                );
                return Ok(Some(detail));
            }
        }
        Ok(None)
    }
}

impl Database {
    /// Writes a backup of the newest commit to `out`.
    ///
    /// All pages of the commit with which the file was opened are verified first, unless that was done: a backup of a damaged file
    /// would lack shadows, and a store restored from it would not know them. Pages that were damaged later, or written later,
    /// are not verified. Where one of them leads past records, the backup fails for their number or order.
    pub(in crate::store) fn back_up(&self, out: impl Write) -> Result<(), CopyError> {
        self.verify()?;
        let copied = self.read(|transaction| {
            let last = match floor::table(transaction)? {
                _ if tables::exist(transaction)? => BackupTable::RowLog,
                Some(_) => BackupTable::Floors,
                None => BackupTable::State,
            };
            match BackupWriter::begin(out, last) {
                Err(error) => Ok(Err(error)),
                Ok(mut writer) => {
                    let mut tally = Tally::default();
                    let copied = each(transaction, &self.dictionaries, |table, key, value| match self.is_retired() {
                        true => Err(io::Error::other("the store is being reopened after an error of its disk")),
                        false => {
                            tally.add(table, key);
                            writer.record(table, key, value)
                        }
                    })?;
                    if copied.is_ok()
                        && let Some(detail) = tally.finding(transaction)?
                    {
                        return Err(StoreError::Corrupt { path: self.path.clone(), detail }.into());
                    }
                    Ok(copied.and_then(|()| writer.finish()).map(drop))
                }
            }
        });
        copied?.map_err(CopyError::Write)
    }

    fn audit(&self, tombstones_max: usize) -> Result<Report, StoreError> {
        let mut audit = Audit::new(tombstones_max);
        let Ok(()) = self.read(|transaction| {
            each(transaction, &self.dictionaries, |table, key, value| {
                audit.record(&Record { table, key: key.to_vec(), value: value.to_vec() });
                Ok::<_, Infallible>(())
            })
        })?;
        Ok(audit.finish())
    }

    fn fill(&self, records: &[Record]) -> Result<(), StoreError> {
        let filled = self.commit(|transaction| {
            let mut meta = transaction.open_table(META_TABLE)?;
            let mut journal = transaction.open_table(JOURNAL_TABLE)?;
            let mut state = transaction.open_table(STATE_TABLE)?;
            for Record { table, key, value } in records {
                match table {
                    BackupTable::Meta => {
                        let name = str::from_utf8(key).map_err(|_| wrong_key(META, key))?;
                        drop(meta.insert(name, value.as_slice())?);
                    }
                    BackupTable::Journal => {
                        let seq = key.as_slice().try_into().map_err(|_| wrong_key(JOURNAL, key))?;
                        drop(journal.insert(u64::from_le_bytes(seq), value.as_slice())?);
                    }
                    BackupTable::State => drop(state.insert(key.as_slice(), value.as_slice())?),
                    BackupTable::Floors => {
                        let device = str::from_utf8(key).map_err(|_| wrong_key(FLOORS, key))?;
                        let mut floors = transaction.open_table(FLOORS_TABLE)?;
                        drop(floors.insert(device, value.as_slice())?);
                    }
                    BackupTable::Rows => {
                        let mut rows = transaction.open_table(ROWS_TABLE)?;
                        drop(rows.insert(key.as_slice(), value.as_slice())?);
                    }
                    BackupTable::RowLog => {
                        let seq = key.as_slice().try_into().map_err(|_| wrong_key(ROW_LOG, key))?;
                        let mut log = transaction.open_table(ROW_LOG_TABLE)?;
                        drop(log.insert(u64::from_le_bytes(seq), value.as_slice())?);
                    }
                }
            }
            Ok(())
        });
        filled.map_err(CommitFailure::into_error)
    }
}

/// Writes a backup of the store of `options`, which must not be open, to `out`.
///
/// # Errors
///
/// [`CopyError::Store`]: the store is missing, in use or unreadable. [`CopyError::Write`]: `out` fails.
pub fn back_up(options: &StoreOptions, out: impl Write) -> Result<(), CopyError> {
    Database::open_existing(options)?.back_up(out)
}

/// Restores the backup in `from` to a new store at the path of `options`, and returns a report on it.
///
/// A complete backup that holds damaged records of its origin is restored with them; the report lists them.
///
/// # Errors
///
/// [`CopyError::Exists`], [`CopyError::Backup`], [`CopyError::Store`]; nothing is left behind.
pub fn restore(from: &Path, options: &StoreOptions) -> Result<Report, CopyError> {
    if options.path.exists() {
        return Err(CopyError::Exists(options.path.clone()));
    }
    let wrong = |error| CopyError::Backup { path: from.to_owned(), error };
    let made = make_of(open(from)?, options, wrong, |_, _| Ok(()))?;
    made.ok_or_else(|| CopyError::Exists(options.path.clone()))
}

/// Makes the store of `options` of the backup in `reader`, if `accept` does not refuse it. Returns the report on it; `None` if
/// there is a file at its path.
pub(super) fn make_of<E: From<StoreError>>(
    mut reader: BackupReader<impl Read>,
    options: &StoreOptions,
    wrong: impl Fn(BackupError) -> E,
    accept: impl FnOnce(&Database, &Report) -> Result<(), E>,
) -> Result<Option<Report>, E> {
    let mut report = Report::default();
    let made = Database::make(options, |database| {
        let mut audit = Audit::new(options.document.path_tombstones_max);
        let (mut slice, mut bytes) = (Vec::new(), 0);
        while let Some(record) = reader.next().map_err(&wrong)? {
            audit.record(&record);
            bytes += record.key.len() + record.value.len();
            slice.push(record);
            if bytes >= SLICE_BYTES {
                database.fill(&slice)?;
                (slice, bytes) = (Vec::new(), 0);
            }
        }
        database.fill(&slice)?;
        report = audit.finish();
        accept(database, &report)
    })?;
    Ok(made.then_some(report))
}

/// Checks every page and record of the store at the path of `options`, or of the backup there.
///
/// A store that was not closed is repaired first, as by a start.
///
/// # Errors
///
/// [`CopyError::Store`]: the store is damaged. [`CopyError::Backup`]: the backup is incomplete or damaged.
pub fn check(options: &StoreOptions) -> Result<Report, CopyError> {
    if is_backup(&options.path)? {
        return check_backup(options);
    }
    let options = StoreOptions { verify_on_open: true, ..options.clone() };
    Ok(Database::open_existing(&options)?.audit(options.document.path_tombstones_max)?)
}

/// Returns the last record of its cluster's log that the store of `options` has applied; `None` for that of a single node.
///
/// # Errors
///
/// As [`store::open`](crate::store::open).
pub fn applied_record(options: &StoreOptions) -> Result<Option<AppliedRecord>, StoreError> {
    let position = Database::open_existing(options)?.applied_position()?;
    Ok(position.map(|position| position.record()))
}

/// Returns the place of the store of `options` in the log of its cluster.
///
/// # Errors
///
/// As [`store::open`](crate::store::open).
pub fn log_place(options: &StoreOptions) -> Result<LogPlace, StoreError> {
    let database = Database::open_existing(options)?;
    Ok(LogPlace::of(database.applied_position()?.as_ref(), &database.progress()?))
}

/// Checks a backup as [`check`] does.
///
/// # Errors
///
/// [`CopyError::Backup`].
pub fn check_backup(options: &StoreOptions) -> Result<Report, CopyError> {
    let path = &options.path;
    let mut reader = open(path)?;
    let mut audit = Audit::new(options.document.path_tombstones_max);
    while let Some(record) = reader.next().map_err(|error| CopyError::Backup { path: path.clone(), error })? {
        audit.record(&record);
    }
    Ok(audit.finish())
}

fn is_backup(path: &Path) -> Result<bool, StoreError> {
    let of_path = |error| StoreError::Io { path: path.to_owned(), error };
    let mut head = Vec::new();
    File::open(path).map_err(of_path)?.take(16).read_to_end(&mut head).map_err(of_path)?;
    Ok(BackupReader::<File>::is_begun(&head))
}

fn open(path: &Path) -> Result<BackupReader<BufReader<File>>, CopyError> {
    let wrong = |error| CopyError::Backup { path: path.to_owned(), error };
    let file = File::open(path).map_err(|error| wrong(BackupError::Io(error)))?;
    BackupReader::begin(BufReader::with_capacity(1 << 16, file)).map_err(wrong)
}

/// Returns the error for a record whose key does not fit its table.
fn wrong_key(table: &'static str, key: &[u8]) -> StoreError {
    StoreError::record(table, key.escape_ascii(), &DecodeError::Invalid("the key"))
}

/// Calls `take` with every record, in backup order, until it fails. Documents are not compressed, since a backup has no
/// dictionaries; one whose dictionary is damaged stays as it is. A backup has no index either, which is built anew.
fn each<E>(
    transaction: &ReadTransaction,
    dictionaries: &Dictionaries,
    mut take: impl FnMut(BackupTable, &[u8], &[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, AbortCause> {
    for item in transaction.open_table(META_TABLE)?.iter()? {
        let (key, value) = item?;
        if key.value() == INDEX_KEY {
            continue;
        }
        let plain = (key.value() == PROGRESS_KEY).then(|| without_derived_tables(value.value())).flatten();
        if let Err(error) = take(BackupTable::Meta, key.value().as_bytes(), plain.as_deref().unwrap_or(value.value())) {
            return Ok(Err(error));
        }
    }
    for item in transaction.open_table(JOURNAL_TABLE)?.iter()? {
        let (key, value) = item?;
        if let Err(error) = take(BackupTable::Journal, &key.value().to_le_bytes(), value.value()) {
            return Ok(Err(error));
        }
    }
    for item in transaction.open_table(STATE_TABLE)?.iter()? {
        let (key, value) = item?;
        let plain = record::decompressed(key.value(), value.value(), dictionaries).ok().flatten();
        if let Err(error) = take(BackupTable::State, key.value(), plain.as_deref().unwrap_or(value.value())) {
            return Ok(Err(error));
        }
    }
    if let Some(floors) = floor::table(transaction)? {
        for item in floors.iter()? {
            let (key, value) = item?;
            if let Err(error) = take(BackupTable::Floors, key.value().as_bytes(), value.value()) {
                return Ok(Err(error));
            }
        }
    }
    tables::each_record(transaction, |is_log, key, value| {
        take(if is_log { BackupTable::RowLog } else { BackupTable::Rows }, key, value)
    })
}

/// Returns the positions `progress` of a store without dictionaries and index.
fn without_derived_tables(progress: &[u8]) -> Option<Vec<u8>> {
    Checkpoint::decode(progress).ok().map(|progress| Checkpoint { dictionaries: 0, index: 0, ..progress }.encode())
}
