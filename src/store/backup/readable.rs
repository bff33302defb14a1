//! A backup of the readable part of a damaged store: the shadows and floors in sound pages.
//!
//! It has no journal, since the changes of lost shadows would be in it. The changes that the state table lacks are applied
//! first. So a store that is restored from it is sound, and goes on with the sequences of its origin. Where the journal names
//! a lost shadow, the floor of its device is raised to the version of that shadow.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Write},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use crate::store::{
    backup::{
        copy::CopyError,
        file::{BackupTable, BackupWriter},
    },
    codec::DecodeError,
    database::{AbortCause, Database},
    error::StoreError,
    journal::{
        entry::{JournalEntry, Seq},
        lineage::{LINEAGES_KEY, Lineages},
        recovery,
    },
    options::StoreOptions,
    pages::{
        check::{CheckedTable, PageCheck},
        verifier,
    },
    rows::{
        edit::RowKey,
        tables::{self, ROWS},
    },
    schema::{
        self, AGES_KEY, CREATED_KEY, Checkpoint, Created, FLOORS_TABLE, JOURNAL_TABLE, PROGRESS_KEY, RowsCheckpoint,
        STATE_TABLE,
    },
    state::{
        cache::DocumentCache,
        floor::{self, DeviceFloor, FLOORS},
        record::{self, RecordEncoder, STATE, StoredShadow},
    },
    store_clock::AgeRecord,
};

/// Everything that a backup of the readable part lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The shadows in damaged pages that the journal names.
    pub shadows: BTreeSet<String>,
    /// The damaged ranges and records, each as a sentence.
    pub parts: Vec<String>,
}

impl Lost {
    /// Returns true if nothing is lost, so that the backup is an ordinary one.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.shadows.is_empty() && self.parts.is_empty()
    }
}

/// The parts of a backup that do not come from the state table.
#[derive(Default)]
struct Readable {
    /// The documents that the state table lacks, by its keys.
    newest: BTreeMap<Vec<u8>, StoredShadow>,
    floors: BTreeMap<String, DeviceFloor>,
    /// The rows of the broker, all or none.
    rows: Vec<(RowKey, Bytes)>,
    /// The running time of the store, by which idempotency keys expire.
    ages: Option<AgeRecord>,
    lost: Lost,
}

/// Keys per read.
const PAGE_KEYS: usize = 1000;

/// Writes a backup of the readable part of the store of `options`, which must not be open, to `out`. If nothing is damaged, it
/// is an ordinary backup.
///
/// # Errors
///
/// [`CopyError::Store`]: the store is missing, in use, or without a readable list of tables. [`CopyError::Write`]: `out` fails.
pub fn back_up_readable(options: &StoreOptions, mut out: impl Write) -> Result<Lost, CopyError> {
    let database = Database::open_existing(options)?;
    if database.verify().is_ok() {
        database.back_up(&mut out)?;
        return Ok(Lost::default());
    }
    write_readable(&database, options.document.path_tombstones_max, out)
}

/// Writes a backup of the readable part of `database`.
pub(in crate::store) fn write_readable(
    database: &Database,
    tombstones_max: usize,
    out: impl Write,
) -> Result<Lost, CopyError> {
    let progress = database.progress()?;
    let mut readable = Readable::default();
    readable.lost.parts.extend(database.pages().into_iter().flat_map(|pages| damage(pages)));
    readable.read_end(database, &progress, tombstones_max);
    readable.read_floors(database)?;
    readable.read_rows(database, &progress);
    match database.ages() {
        Ok(ages) => readable.ages = ages,
        Err(error) => readable.lost.parts.push(format!("the running time, by which idempotency keys expire: {error}")),
    }
    if let Some(pages) = database.pages() {
        readable.name_lost(database, pages)?;
    }
    readable.write(database, &progress, out)?;
    Ok(readable.lost)
}

/// Returns a sentence for each damaged page.
fn damage(pages: &PageCheck) -> impl Iterator<Item = String> {
    pages.damaged().map(|(table, range)| {
        let (above, up_to) = verifier::text(table, range);
        format!("{}: a page is damaged, with the keys after {above} up to {up_to}", table.name())
    })
}

impl Readable {
    fn read_floors(&mut self, database: &Database) -> Result<(), CopyError> {
        if database.read(|transaction| Ok(floor::table(transaction)?.is_none()))? {
            return Ok(());
        }
        each_sound(database, CheckedTable::Floors, |key, value| {
            match (DeviceFloor::decode(key, value), str::from_utf8(key)) {
                (Ok(floor), Ok(device)) => _ = self.floors.insert(device.to_owned(), floor),
                (Err(error), _) => self.lose(FLOORS, key, &error),
                (Ok(_), Err(_)) => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    fn read_rows(&mut self, database: &Database, progress: &Checkpoint) {
        let is_sound = database.pages().is_none_or(|pages| pages.is_rows_sound());
        let mut rows = Vec::new();
        let mut keep = |key: &[u8], value| rows.push((key.into(), value));
        let read = match is_sound {
            true => {
                tables::recover(database, &progress.rows, 0).and_then(|dirty| tables::each(database, &dirty, &mut keep))
            }
            false => Err(StoreError::record(ROWS, "*", &DecodeError::Invalid("a page"))),
        };
        match read {
            Ok(()) => self.rows = rows,
            Err(error) => self.lost.parts.push(format!("all sessions and messages of the broker: {error}")),
        }
    }

    /// Replays the changes that the state table lacks.
    fn read_end(&mut self, database: &Database, progress: &Checkpoint, tombstones_max: usize) {
        let cache = DocumentCache::new(usize::MAX, Arc::clone(&database.dictionaries));
        match recovery::recover(database, progress, tombstones_max, &cache) {
            Ok(recovered) => {
                let dirty = recovered.dirty.into_keys().filter_map(|key| Some((cache.get(&key).ok()?, key)));
                self.newest = dirty.map(|(stored, key)| (schema::state_key(&key), stored)).collect();
            }
            Err(error) => {
                let checkpoint = progress.checkpoint.seq;
                self.lost.parts.push(format!("the changes after entry {checkpoint}, which cannot be read: {error}"));
            }
        }
    }

    /// Finds lost shadows in the readable part of the journal, and raises the floors of their devices.
    fn name_lost(&mut self, database: &Database, pages: &PageCheck) -> Result<(), StoreError> {
        let mut lost = HashMap::new();
        each_entry(database, pages, |entry| {
            let key = schema::state_key(&entry.key);
            if !self.newest.contains_key(&key) && pages.key(CheckedTable::State, &key).is_err() {
                lost.insert(entry.key, DeviceFloor { version: entry.version, last_entry: entry.seq });
            }
        })?;
        for (key, floor) in lost {
            self.floors.entry(key.device.as_str().to_owned()).or_default().raise(floor);
            self.lost.shadows.insert(key.to_string());
        }
        Ok(())
    }

    fn lose(&mut self, table: &'static str, key: &[u8], error: &DecodeError) {
        self.lost.parts.push(StoreError::record(table, key.escape_ascii(), error).to_string());
    }

    fn write(&mut self, database: &Database, progress: &Checkpoint, out: impl Write) -> Result<(), CopyError> {
        let mut writer = self.begin(progress, out).map_err(CopyError::Write)?;
        let (mut encoder, dictionaries) = (RecordEncoder::default(), &*database.dictionaries);
        let mut newest = std::mem::take(&mut self.newest).into_iter().peekable();
        each_sound(database, CheckedTable::State, |key, value| {
            while let Some((fresh, stored)) = newest.next_if(|(fresh, _)| fresh.as_slice() < key) {
                writer.record(BackupTable::State, &fresh, encoder.encode(&fresh, &stored, None))?;
            }
            if let Some((key, stored)) = newest.next_if(|(fresh, _)| fresh.as_slice() == key) {
                return writer.record(BackupTable::State, &key, encoder.encode(&key, &stored, None));
            }
            let decompressed = record::decompressed(key, value, dictionaries);
            let plain = decompressed.map(|plain| plain.map_or(Cow::Borrowed(value), Cow::Owned));
            match plain.and_then(|plain| record::decode(key, &plain, dictionaries).map(|_| plain)) {
                Ok(plain) => writer.record(BackupTable::State, key, &plain),
                Err(error) => {
                    self.lose(STATE, key, &error);
                    Ok(())
                }
            }
        })?;
        let rest = |writer: &mut BackupWriter<_>| {
            for (key, stored) in newest {
                writer.record(BackupTable::State, &key, encoder.encode(&key, &stored, None))?;
            }
            for (device, floor) in &self.floors {
                writer.record(BackupTable::Floors, device.as_bytes(), &floor.encode(device.as_bytes()))?;
            }
            for (key, value) in &self.rows {
                writer.record(BackupTable::Rows, key, &tables::framed(key, value))?;
            }
            Ok(())
        };
        rest(&mut writer).and_then(|()| writer.finish().map(drop)).map_err(CopyError::Write)
    }

    /// Begins the backup with the facts about the store, whose journal is empty.
    fn begin<W: Write>(&self, progress: &Checkpoint, out: W) -> io::Result<BackupWriter<W>> {
        let head = progress.head;
        // The rows are complete, so their log is empty.
        let count = self.rows.len() as u64;
        let bytes = self.rows.iter().map(|(key, value)| (key.len() + tables::framed(key, value).len()) as u64).sum();
        let rows = RowsCheckpoint { checkpoint: progress.rows.head, rows: count, bytes, ..progress.rows };
        let floors = self.floors.len() as u64;
        let progress = Checkpoint { head, checkpoint: head, removed: head, floors, rows, dictionaries: 0, index: 0 };
        let last = match (progress.rows.head.seq > Seq(0), self.floors.is_empty()) {
            (true, _) => BackupTable::RowLog,
            (false, false) => BackupTable::Floors,
            (false, true) => BackupTable::State,
        };
        let mut writer = BackupWriter::begin(out, last)?;
        if let Some(ages) = &self.ages {
            writer.record(BackupTable::Meta, AGES_KEY.as_bytes(), &ages.encode())?;
        }
        // Nobody who has seen the lost part can go on.
        writer.record(BackupTable::Meta, LINEAGES_KEY.as_bytes(), &Lineages::anew(head.seq).encode())?;
        writer.record(BackupTable::Meta, PROGRESS_KEY.as_bytes(), &progress.encode())?;
        writer.record(BackupTable::Meta, CREATED_KEY.as_bytes(), &Created::now().encode())?;
        Ok(writer)
    }
}

/// Calls `each` for the records of `table`, whose keys are sorted by bytes, in sound pages, until it fails.
fn each_sound(
    database: &Database,
    table: CheckedTable,
    mut each: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> Result<(), CopyError> {
    let mut after = Vec::new();
    while let Some(span) = database.check_scan(table, after, PAGE_KEYS, true)? {
        let (mut last, mut written) = (None, Ok(()));
        let mut take = |key: &[u8], value: &[u8]| {
            // The end of the span may be in the damaged page, whose keys may be in any order.
            if key <= last.as_ref().unwrap_or(&span.after).as_slice() {
                return false;
            }
            last = Some(key.to_vec());
            written = each(key, value);
            written.is_ok()
        };
        // The key itself may lead to a damaged page that ends with it. This is the next key.
        let begin = [span.after.as_slice(), &[0]].concat();
        let (begin, end) = (begin.as_slice(), span.end.as_deref());
        database.read(|transaction| match table {
            CheckedTable::Floors => {
                let text = |key| str::from_utf8(key).unwrap_or_default();
                let end = end.map_or(Bound::Unbounded, |end| Bound::Included(text(end)));
                let floors = transaction.open_table(FLOORS_TABLE)?;
                let mut items = floors.range::<&str>((Bound::Included(text(begin)), end))?.take(PAGE_KEYS);
                while let Some((key, value)) = items.next().transpose()?
                    && take(key.value().as_bytes(), value.value())
                {}
                Ok(())
            }
            _ => {
                let end = end.map_or(Bound::Unbounded, Bound::Included);
                let state = transaction.open_table(STATE_TABLE)?;
                let mut items = state.range::<&[u8]>((Bound::Included(begin), end))?.take(PAGE_KEYS);
                while let Some((key, value)) = items.next().transpose()?
                    && take(key.value(), value.value())
                {}
                Ok(())
            }
        })?;
        written.map_err(CopyError::Write)?;
        match (last, span.end) {
            (None, None) => break,
            (last, end) => after = last.or(end).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Calls `each` for the entries in sound pages.
fn each_entry(database: &Database, pages: &PageCheck, mut each: impl FnMut(JournalEntry)) -> Result<(), StoreError> {
    let number = |key: &[u8]| key.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let mut next = Some(0);
    let damaged = pages.damaged().filter(|(table, _)| *table == CheckedTable::Journal);
    let mut gaps = Vec::new();
    for (_, range) in damaged {
        let above = range.above.as_deref().and_then(number);
        gaps.extend(next.zip(above).filter(|(next, above)| next <= above));
        next = range.up_to.as_deref().and_then(number).map(|up_to| up_to + 1);
    }
    gaps.extend(next.map(|next| (next, u64::MAX)));
    for (from, to) in gaps {
        database.read(|transaction| {
            for item in transaction.open_table(JOURNAL_TABLE)?.range(from..=to)? {
                let (seq, value) = item?;
                if let Ok(entry) = JournalEntry::decode(Seq(seq.value()), value.value()) {
                    each(entry);
                }
            }
            Ok::<_, AbortCause>(())
        })?;
    }
    Ok(())
}
