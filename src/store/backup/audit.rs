//! The consistency check of a store: checksums, the chain of the journal, and the state table against the journal.
//!
//! The records arrive in one pass, `meta`, `journal`, `state`, then `floors`, from an open store or from a backup. For
//! each shadow in the journal, its newest entry is kept in memory (about 200 bytes a shadow). Only entries that the
//! state table may lack are kept whole: these are replayed as by a start.
//!
//! An inconsistency is recorded and the pass continues, so that one run finds all of them. After [`FINDINGS_MAX`] they
//! are only counted.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use crate::{
    shadow::{DeviceId, Document, Etag, ShadowKey, Version},
    store::{
        backup::file::{BackupTable, Record},
        codec::DecodeError,
        error::StoreError,
        journal::{
            entry::{JOURNAL, JournalEntry, Seq},
            lineage::{LINEAGES_KEY, Lineages},
            unapplied,
        },
        reader,
        replication::applied_position::{APPLIED_KEY, AppliedPosition},
        rows::{
            edit,
            tables::{self, ROW_LOG, ROWS},
        },
        schema::{self, CREATED_KEY, Checkpoint, Created, FILE_FORMAT, META, PROGRESS_KEY, RowsCheckpoint},
        state::{
            dictionary::Dictionaries,
            floor::{DeviceFloor, FLOORS},
            record::{self, STATE, StoredShadow},
        },
    },
};

/// The result of a consistency check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of shadows, including deleted ones.
    pub shadows: u64,
    /// The number of journal entries.
    pub entries: u64,
    /// The newest entry.
    pub head: Seq,
    /// The first [`FINDINGS_MAX`] inconsistencies.
    pub findings: Vec<String>,
    /// The number of further inconsistencies.
    pub findings_more: u64,
}

/// A running consistency check.
#[derive(Default)]
pub(in crate::store) struct Audit {
    created: bool,
    progress: Option<Checkpoint>,
    /// The last entry seen, and the bytes of all entries so far.
    at: Seq,
    bytes: u64,
    journal_ended: bool,
    chains: HashMap<ShadowKey, Chain>,
    /// The first entries of shadows that begin above version 1, which need a floor of their device.
    raised: Vec<(Seq, DeviceId, Version)>,
    floors: HashMap<DeviceId, Version>,
    /// The rows of the broker, and the last record of their log.
    rows: u64,
    rows_at: u64,
    tombstones_max: usize,
    report: Report,
}

/// The entries of one shadow.
struct Chain {
    newest: EntryCheck,
    /// The newest entry that the state table must include.
    settled: Option<EntryCheck>,
    /// The entries after it.
    open: Vec<JournalEntry>,
    /// True if the state table has the shadow.
    stored: bool,
}

/// The result of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct EntryCheck {
    seq: Seq,
    version: Version,
    etag: Etag,
}

/// Most inconsistencies listed.
const FINDINGS_MAX: usize = 20;

impl Report {
    /// Returns true if no inconsistency was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, finding: String) {
        match self.findings.len() < FINDINGS_MAX {
            true => self.findings.push(finding),
            false => self.findings_more += 1,
        }
    }
}

impl Audit {
    /// Returns a check of a store with the limit `tombstones_max` of path tombstones.
    pub(in crate::store) fn new(tombstones_max: usize) -> Self {
        Self { tombstones_max, ..Self::default() }
    }

    /// Checks the next record.
    pub(in crate::store) fn record(&mut self, Record { table, key, value }: &Record) {
        let taken = match table {
            BackupTable::Meta => self.meta(key, value),
            BackupTable::Journal => self.entry(key, value),
            BackupTable::State => {
                self.end_journal();
                self.state(key, value)
            }
            BackupTable::Floors => {
                self.end_journal();
                self.floor(key, value)
            }
            BackupTable::Rows => {
                self.rows += 1;
                tables::value(key, value).map(drop)
            }
            BackupTable::RowLog => self.row_edits(key, value),
        };
        if let Err(error) = taken {
            self.report.add(error.to_string());
        }
    }

    /// Returns the report.
    pub(in crate::store) fn finish(mut self) -> Report {
        self.end_journal();
        if !self.created {
            self.report.add(format!("{META}/{CREATED_KEY} is missing"));
        }
        self.check_floors();
        self.check_rows();
        for (key, chain) in std::mem::take(&mut self.chains) {
            if chain.stored {
                continue;
            }
            self.report.shadows += 1;
            let made = match chain.settled {
                Some(EntryCheck { seq, .. }) => Err(lost(&key, seq)),
                None => {
                    let floor = self.floors.get(&key.device).copied().unwrap_or(Version(0));
                    self.replay(StoredShadow::absent_at(floor), &chain)
                }
            };
            if let Err(error) = made {
                self.report.add(error.to_string());
            }
        }
        self.report
    }

    /// Checks the record at `key` of the row log.
    fn row_edits(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let broken = |error: DecodeError| StoreError::record(ROW_LOG, key.escape_ascii(), &error);
        let seq = key.try_into().map(u64::from_le_bytes).map_err(|_| broken(DecodeError::Invalid("the key")))?;
        if self.rows_at != 0 && seq != self.rows_at + 1 {
            self.report.add(format!("{ROW_LOG}/{} is missing", self.rows_at + 1));
        }
        self.rows_at = seq;
        edit::decode(seq, value).map(drop).map_err(broken)
    }

    /// Compares the numbers of rows and of their log with the recorded ones.
    fn check_rows(&mut self) {
        let Some(RowsCheckpoint { head, checkpoint, rows, .. }) = self.progress.map(|progress| progress.rows) else {
            return;
        };
        if self.rows != rows {
            self.report.add(format!("{ROWS}: {} rows are there, and {rows} should be", self.rows));
        }
        if self.rows_at != head.seq.0 && (self.rows_at != 0 || checkpoint.seq != head.seq) {
            self.report.add(format!("{ROW_LOG}: it ends at {}, and should at {}", self.rows_at, head.seq.0));
        }
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let name = String::from_utf8_lossy(key);
        let broken = |error: DecodeError| StoreError::record(META, &name, &error);
        if key == PROGRESS_KEY.as_bytes() {
            let progress = Checkpoint::decode(value).map_err(broken)?;
            (self.at, self.report.head) = (progress.removed.seq, progress.head.seq);
            self.progress = Some(progress);
        } else if key == CREATED_KEY.as_bytes() {
            let created = Created::decode(value).map_err(broken)?;
            let found = u32::try_from(created.format).unwrap_or(u32::MAX);
            if created.format != FILE_FORMAT {
                return Err(broken(DecodeError::Format { found, supported: FILE_FORMAT as u32 }));
            }
            self.created = true;
        } else if key == APPLIED_KEY.as_bytes() {
            AppliedPosition::decode(value).map_err(broken)?;
        } else if key == LINEAGES_KEY.as_bytes() {
            Lineages::decode(value).map_err(broken)?;
        }
        Ok(())
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let seq = sequence(key)?;
        let expected = Seq(self.at.0 + 1);
        self.at = seq;
        self.bytes += value.len() as u64;
        self.report.entries += 1;
        if seq != expected {
            self.report.add(StoreError::entry(expected, "it is missing").to_string());
        }
        let entry = reader::entry(seq, value)?;
        let point = EntryCheck { seq, version: entry.version, etag: entry.etag };
        let progress = self.progress.unwrap_or_default();
        let (key, previous) = (entry.key.clone(), entry.previous);
        let follows = match self.chains.get(&key) {
            Some(chain) => previous == chain.newest.seq && entry.version.0 == chain.newest.version.0 + 1,
            None if previous == Seq(0) => {
                if entry.version > Version(1) {
                    self.raised.push((seq, key.device.clone(), Version(entry.version.0 - 1)));
                }
                entry.version > Version(0)
            }
            None => previous <= progress.removed.seq && entry.version > Version(1),
        };
        let chain = match self.chains.entry(key) {
            hash_map::Entry::Occupied(chain) => chain.into_mut(),
            hash_map::Entry::Vacant(place) => {
                place.insert(Chain { newest: point, settled: None, open: Vec::new(), stored: false })
            }
        };
        chain.newest = point;
        match seq <= progress.checkpoint.seq {
            true => chain.settled = Some(point),
            false => chain.open.push(entry),
        }
        match follows {
            true => Ok(()),
            false => Err(StoreError::entry(seq, format!("it does not follow entry {previous} of its shadow"))),
        }
    }

    /// Checks the end of the journal, after the last entry.
    fn end_journal(&mut self) {
        if std::mem::replace(&mut self.journal_ended, true) {
            return;
        }
        let Some(progress) = self.progress else {
            return self.report.add(format!("{META}/{PROGRESS_KEY} is missing"));
        };
        let (head, bytes) = (progress.head.seq, progress.journal_bytes());
        if self.at != head {
            let detail = format!("the journal should end here and ends at {}", self.at);
            self.report.add(StoreError::entry(head, detail).to_string());
        } else if self.bytes != bytes {
            self.report.add(format!("the journal has {} bytes and should have {bytes}", self.bytes));
        }
    }

    fn state(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.report.shadows += 1;
        let broken = |error: DecodeError| StoreError::record(STATE, key.escape_ascii(), &error);
        let shadow = schema::shadow_key(key).map_err(broken)?;
        let chain = self.chains.get_mut(&shadow);
        let chain = chain.map(|chain| {
            chain.stored = true;
            Chain { open: std::mem::take(&mut chain.open), ..*chain }
        });
        let stored = record::decode(key, value, &Dictionaries::default()).map_err(broken)?;
        let wrong = |detail: String| StoreError::Record { table: STATE, key: shadow.to_string(), detail };
        let Document { version, etag, ref desired, ref reported, .. } = *stored.document;
        if etag != Etag::of(version, &desired.members, &reported.members) {
            return Err(wrong("its etag is not that of what it holds".to_owned()));
        }
        let last = stored.last_entry;
        let Some(chain) = chain else {
            let removed = self.progress.unwrap_or_default().removed.seq;
            return match last <= removed {
                true => Ok(()),
                false => Err(wrong(format!("entry {last}, which it says it is of, is none of its own"))),
            };
        };
        if let Some(settled) = chain.settled.filter(|settled| last < settled.seq) {
            return Err(lost(&shadow, settled.seq));
        }
        let made = EntryCheck { seq: last, version, etag };
        let open =
            chain.open.iter().map(|entry| EntryCheck { seq: entry.seq, version: entry.version, etag: entry.etag });
        let removed = self.progress.unwrap_or_default().removed.seq;
        let old = chain.settled.is_none() && last <= removed;
        if !old && !chain.settled.into_iter().chain(open).any(|point| point == made) {
            return Err(wrong(format!("it is not what entry {last}, which it says it is of, made")));
        }
        self.replay(stored, &chain)
    }

    fn floor(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let broken = |error: DecodeError| StoreError::record(FLOORS, key.escape_ascii(), &error);
        let floor = DeviceFloor::decode(key, value).map_err(broken)?;
        let device = str::from_utf8(key).ok().and_then(|name| DeviceId::new(name).ok());
        let device = device.ok_or_else(|| broken(DecodeError::Invalid("a device id")))?;
        if floor.last_entry > self.progress.unwrap_or_default().removed.seq {
            let detail = format!("entry {}, which it says was removed, is in the journal", floor.last_entry);
            return Err(StoreError::Record { table: FLOORS, key: device.as_str().to_owned(), detail });
        }
        self.floors.insert(device, floor.version);
        Ok(())
    }

    /// Checks the number of floors, and the shadows that begin above version 1.
    fn check_floors(&mut self) {
        let (expected, found) = (self.progress.unwrap_or_default().floors, self.floors.len() as u64);
        if found != expected {
            self.report.add(format!("there are {found} sound floors and should be {expected}"));
        }
        for (seq, device, floor) in std::mem::take(&mut self.raised) {
            if self.floors.get(&device).is_none_or(|found| *found < floor) {
                let detail = format!("it begins after version {} and its device has no such floor", floor.0);
                self.report.add(StoreError::entry(seq, detail).to_string());
            }
        }
    }

    /// Applies the entries newer than `stored`, as a start would.
    fn replay(&self, mut stored: StoredShadow, chain: &Chain) -> Result<(), StoreError> {
        let last = stored.last_entry;
        for entry in chain.open.iter().filter(|entry| entry.seq > last) {
            let before = unapplied::before(&stored, entry)?;
            stored.document = Arc::new(unapplied::next(&before, entry, self.tombstones_max)?);
            stored.last_entry = entry.seq;
        }
        Ok(())
    }
}

fn lost(key: &ShadowKey, seq: Seq) -> StoreError {
    StoreError::Record { table: STATE, key: key.to_string(), detail: format!("it lacks the change of entry {seq}") }
}

fn sequence(key: &[u8]) -> Result<Seq, StoreError> {
    let bytes = <[u8; 8]>::try_from(key);
    let invalid = |_| StoreError::record(JOURNAL, key.escape_ascii(), &DecodeError::Invalid("a sequence"));
    Ok(Seq(u64::from_le_bytes(bytes.map_err(invalid)?)))
}
