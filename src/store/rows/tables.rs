//! The two tables of rows: reading them at the start, and their part of a commit.
//!
//! | table | key | value (framed) |
//! |---|---|---|
//! | `rows` | the key of a row | the value, as of the checkpoint |
//! | `row_log` | sequence | the edits of one commit |
//!
//! Both exist once a row was written. Their pages are verified when the file is opened
//! ([`crate::store::pages::check::PageCheck::begin`]), since they are read as a whole then.

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, WriteTransaction};

use crate::store::{
    codec::DecodeError,
    database::{AbortCause, Database},
    error::StoreError,
    frame,
    rows::{
        dirty_rows::{DirtyRows, FlushedRow},
        edit,
    },
    schema::{JournalPosition, RowsCheckpoint},
};

/// The table of rows, complete up to the checkpoint.
pub(in crate::store) const ROWS_TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(ROWS);
/// The table of edits after the checkpoint.
pub(in crate::store) const ROW_LOG_TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new(ROW_LOG);

/// The name of the table of rows, part of each checksum.
pub(in crate::store) const ROWS: &str = "rows";
/// The name of the table of edits, part of each checksum.
pub(in crate::store) const ROW_LOG: &str = "row_log";

/// Records of the log removed in one commit, at most.
const TRIMMED_MAX: usize = 64;

/// The rows of a commit.
pub(in crate::store) struct RowsCommit<'a> {
    /// The records to append to the log, with their sequences.
    pub(in crate::store) log: &'a [(u64, Vec<u8>)],
    /// The rows to write to the table.
    pub(in crate::store) flushed: Vec<FlushedRow>,
}

impl RowsCommit<'_> {
    /// Writes everything in `transaction`, and counts it in `progress`, which has the new ends of log and table.
    pub(in crate::store) fn write(
        &self,
        transaction: &WriteTransaction,
        progress: &mut RowsCheckpoint,
    ) -> Result<(), AbortCause> {
        // A store without sessions has no such tables.
        if progress.head.seq.0 == 0 {
            return Ok(());
        }
        let mut log = transaction.open_table(ROW_LOG_TABLE)?;
        for (seq, framed) in self.log {
            log.insert(*seq, framed.as_slice())?;
        }
        for _ in 0..TRIMMED_MAX {
            let first = log.first()?.map(|(seq, _)| seq.value());
            match first.filter(|first| *first <= progress.checkpoint.seq.0) {
                Some(first) => drop(log.remove(first)?),
                None => break,
            }
        }
        let mut rows = transaction.open_table(ROWS_TABLE)?;
        for (key, value) in &self.flushed {
            let former = match value {
                Some(value) => {
                    let framed = framed(key, value);
                    progress.rows += 1;
                    progress.bytes += (key.len() + framed.len()) as u64;
                    rows.insert(&**key, framed.as_slice())?
                }
                None => rows.remove(&**key)?,
            };
            if let Some(former) = former {
                progress.rows = progress.rows.saturating_sub(1);
                progress.bytes = progress.bytes.saturating_sub((key.len() + former.value().len()) as u64);
            }
        }
        Ok(())
    }
}

/// Returns the rows with edits after the checkpoint of `progress`, from the log.
pub(in crate::store) fn recover(
    database: &Database,
    progress: &RowsCheckpoint,
    lag_bytes_max: u64,
) -> Result<DirtyRows, StoreError> {
    let mut dirty = DirtyRows::new(lag_bytes_max);
    database.read(|transaction| {
        let Some(log) = existing(transaction.open_table(ROW_LOG_TABLE))? else {
            return match progress.lag().0 {
                0 => Ok(()),
                _ => Err(missing(progress.head).into()),
            };
        };
        let mut expected = progress.checkpoint.seq.0;
        for item in log.range(progress.checkpoint.seq.0 + 1..)? {
            let (seq, framed) = item?;
            expected += 1;
            if seq.value() != expected {
                return Err(
                    StoreError::record(ROW_LOG, expected, &DecodeError::Invalid("its place, which is empty")).into()
                );
            }
            let edits = edit::decode(expected, framed.value())
                .map_err(|error| StoreError::record(ROW_LOG, expected, &error))?;
            edits.into_iter().for_each(|edit| dirty.replay(edit));
        }
        if expected == progress.head.seq.0 { Ok(()) } else { Err(missing(progress.head).into()) }
    })?;
    Ok(dirty)
}

/// Returns true if the file has tables of rows.
pub(in crate::store) fn exist(transaction: &ReadTransaction) -> Result<bool, AbortCause> {
    Ok(existing(transaction.open_table(ROW_LOG_TABLE))?.is_some())
}

/// Returns the numbers of records in the table of rows and in the log.
pub(in crate::store) fn records(transaction: &ReadTransaction) -> Result<(u64, u64), AbortCause> {
    let rows = existing(transaction.open_table(ROWS_TABLE))?.map_or(Ok(0), |rows| rows.len())?;
    Ok((rows, existing(transaction.open_table(ROW_LOG_TABLE))?.map_or(Ok(0), |log| log.len())?))
}

/// Calls `take` with every record of the table of rows (first argument false), then of the log (true), in the order of
/// the keys, until it fails. The key of a record of the log is 8 bytes, little-endian.
pub(in crate::store) fn each_record<E>(
    transaction: &ReadTransaction,
    mut take: impl FnMut(bool, &[u8], &[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, AbortCause> {
    if let Some(rows) = existing(transaction.open_table(ROWS_TABLE))? {
        for item in rows.iter()? {
            let (key, framed) = item?;
            if let Err(error) = take(false, key.value(), framed.value()) {
                return Ok(Err(error));
            }
        }
    }
    if let Some(log) = existing(transaction.open_table(ROW_LOG_TABLE))? {
        for item in log.iter()? {
            let (seq, framed) = item?;
            if let Err(error) = take(true, &seq.value().to_le_bytes(), framed.value()) {
                return Ok(Err(error));
            }
        }
    }
    Ok(Ok(()))
}

/// Returns the framed row of `key`.
pub(in crate::store) fn framed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(value.len() + 8);
    frame::begin(&mut framed);
    framed.extend_from_slice(value);
    frame::finish(&mut framed, ROWS, key);
    framed
}

/// Returns the value in the framed row of `key`.
pub(in crate::store) fn value(key: &[u8], framed: &[u8]) -> Result<Bytes, StoreError> {
    let broken = |error: DecodeError| StoreError::record(ROWS, key.escape_ascii(), &error);
    let payload = frame::open(framed, ROWS, key).map_err(broken)?;
    Ok(Bytes::copy_from_slice(payload.rest()))
}

/// Calls `each` for all rows in the order of their keys: those of the table with the edits of `dirty`.
pub(in crate::store) fn each(
    database: &Database,
    dirty: &DirtyRows,
    mut each: impl FnMut(&[u8], Bytes),
) -> Result<(), StoreError> {
    let mut edited = dirty.sorted().into_iter().peekable();
    let edit = |(key, value): FlushedRow, each: &mut dyn FnMut(&[u8], Bytes)| {
        if let Some(value) = value {
            each(&key, value);
        }
    };
    database.read(|transaction| {
        let Some(rows) = existing(transaction.open_table(ROWS_TABLE))? else { return Ok(()) };
        for item in rows.iter()? {
            let (key, framed) = item?;
            let key = key.value();
            while let Some(before) = edited.next_if(|(edited, _)| **edited < *key) {
                edit(before, &mut each);
            }
            match edited.next_if(|(edited, _)| **edited == *key) {
                Some(same) => edit(same, &mut each),
                None => each(key, value(key, framed.value())?),
            }
        }
        Ok(())
    })?;
    edited.for_each(|row| edit(row, &mut each));
    Ok(())
}

/// Returns the table, or `None` if the file has none.
fn existing<T>(table: Result<T, TableError>) -> Result<Option<T>, AbortCause> {
    match table {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
    }
}

fn missing(head: JournalPosition) -> StoreError {
    StoreError::record(ROW_LOG, head.seq.0, &DecodeError::Invalid("the end of the log"))
}
