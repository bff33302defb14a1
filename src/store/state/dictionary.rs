//! Dictionaries: what the records of many shadows have in common, without which each record is stored.
//!
//! The devices of a fleet have the same members, and often the same values. A record that is compressed (LZ4) with a
//! dictionary of these takes a fraction of its bytes in the file and in the cache. The writer makes the first dictionary
//! when many documents wait for their flush, and another when the documents no longer resemble it. A record names its
//! dictionary. A dictionary is never changed or removed, so every record can be read for as long as it is stored.
//!
//! A dictionary has only sequences that several of the sampled records have, so nothing that one device alone has stays in
//! it when the device is deleted. The file has it twice, in two tables, since many records depend on it. Backups have
//! records without compression.
//!
//! *Invariant:* a record refers only to a dictionary that is on disk: it is used after the commit that wrote it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use crate::store::{
    codec::{DecodeError, put_len, put_u64},
    database::{AbortCause, Database},
    error::StoreError,
    frame,
};

/// A dictionary and its number in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Dictionary {
    number: u64,
    bytes: Vec<u8>,
    /// The CRC-32 of the bytes, by which records name it: so none is read with another dictionary.
    checksum: u32,
    /// The compressed size of the sampled records, in percent.
    percent: u64,
}

/// The dictionaries of a file.
#[derive(Debug, Default)]
pub(in crate::store) struct Dictionaries {
    known: [OnceLock<Dictionary>; DICTIONARIES_MAX],
    /// The copies that were read from the file.
    copies: AtomicU64,
    /// True if a copy cannot be read. Nothing more is written into these tables then.
    is_damaged: AtomicBool,
}

/// The decision of the writer to make dictionaries.
#[derive(Debug, Default)]
pub(in crate::store) struct DictionaryTrainer {
    /// Documents flushed since the last sample.
    flushed: u64,
    /// Documents to flush before the next sample; more after each sample.
    interval: u64,
    /// The dictionary to write with the next commit.
    pub(in crate::store) next: Option<Dictionary>,
}

/// The name of the table, part of each checksum.
const DICTIONARIES: &str = "dictionaries";
/// The name of the table with the second copies, part of each checksum.
const COPIES: &str = "dictionary_copies";

const TABLES: [(&str, TableDefinition<'_, u64, &[u8]>); 2] =
    [(DICTIONARIES, TableDefinition::new(DICTIONARIES)), (COPIES, TableDefinition::new(COPIES))];

/// Most dictionaries of a file.
const DICTIONARIES_MAX: usize = 16;

/// Most bytes of a dictionary. Each compression reads it, so it is no longer than the records of a few kinds of devices.
const DICTIONARY_BYTES_MAX: usize = 4096;

/// Most records from which a dictionary is made.
pub(in crate::store) const SAMPLES: usize = 64;

/// Fewest records that must have a sequence for it to be in a dictionary, and their fewest share of the samples.
const RECORDS_MIN: usize = 4;
const SAMPLES_PER_RECORD_MIN: usize = 16;

/// Bytes of the sequences that are counted. A match of LZ4 has at least four.
const SEQUENCE_BYTES: usize = 6;

/// Most bytes of a record that are sampled: the writer compares all sequences of all samples.
pub(in crate::store) const SAMPLE_BYTES_MAX: usize = 2048;

/// Fewest and most documents flushed between two samples.
const FLUSHED_PER_SAMPLE: u64 = 100_000;
const INTERVAL_MAX: u64 = 64 * FLUSHED_PER_SAMPLE;

/// The least improvement for which another dictionary is made, in percent of the uncompressed size.
const IMPROVEMENT_MIN: u64 = 10;

/// The compression ratio that LZ4 cannot exceed.
const RATIO_MAX: usize = 255;

impl Dictionary {
    fn new(number: u64, bytes: Vec<u8>, percent: u64) -> Self {
        let checksum = crc32fast::hash(&bytes);
        Self { number, bytes, checksum, percent }
    }

    /// Returns the dictionary of `records`, which has this number; `None` if they have little in common.
    fn of(number: u64, records: &[Vec<u8>]) -> Option<Self> {
        let mut dictionary = Self::new(number, common_sequences(records), 100);
        dictionary.percent = dictionary.percent_of(records);
        (!dictionary.bytes.is_empty() && dictionary.percent <= 100 - IMPROVEMENT_MIN).then_some(dictionary)
    }

    /// Returns a dictionary for the fuzz targets.
    #[cfg(feature = "fuzzing")]
    pub(in crate::store) fn of_samples() -> Self {
        Self::new(0, b"\x0btemperature\x00\x05\x06humidity\x00\x03\x04mode\x00\x06heat".to_vec(), 50)
    }

    /// Returns the name of the dictionary in records.
    pub(in crate::store) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Returns the number of dictionaries that a file has with this one.
    pub(in crate::store) fn count(&self) -> u64 {
        self.number + 1
    }

    /// Returns the compressed size of `records` in percent.
    fn percent_of(&self, records: &[Vec<u8>]) -> u64 {
        let mut packed = Vec::new();
        let (mut before, mut after) = (0, 0);
        for record in records {
            before += record.len();
            after += if self.compress(record, &mut packed) { packed.len() } else { record.len() };
        }
        (100 * after as u64).div_ceil(before.max(1) as u64)
    }

    /// Replaces `packed` by the compressed `record`. Returns false if that is not shorter.
    pub(in crate::store) fn compress(&self, record: &[u8], packed: &mut Vec<u8>) -> bool {
        packed.resize(lz4_flex::block::get_maximum_output_size(record.len()), 0);
        match lz4_flex::block::compress_into_with_dict(record, packed, &self.bytes) {
            Ok(length) => packed.truncate(length),
            Err(_) => return false,
        }
        packed.len() < record.len()
    }

    /// Returns the record of `length` bytes whose compressed form is `packed`.
    pub(in crate::store) fn decompress(&self, packed: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
        let mut record = Vec::new();
        self.decompress_into(packed, length, &mut record)?;
        Ok(record)
    }

    /// Replaces `record` by the record of `length` bytes whose compressed form is `packed`.
    pub(in crate::store) fn decompress_into(
        &self,
        packed: &[u8],
        length: usize,
        record: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        if length > packed.len().saturating_mul(RATIO_MAX).saturating_add(RATIO_MAX) {
            return Err(DecodeError::Invalid("the length of a compressed record"));
        }
        // Written over below, so what it has is kept.
        record.resize(length, 0);
        match lz4_flex::block::decompress_into_with_dict(packed, record, &self.bytes) {
            Ok(found) if found == length => Ok(()),
            _ => Err(DecodeError::Invalid("a compressed record")),
        }
    }

    /// Returns the framed value for the table `table`.
    fn encode(&self, table: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 16);
        frame::begin(&mut out);
        put_u64(&mut out, self.percent);
        put_len(&mut out, self.bytes.len());
        out.extend_from_slice(&self.bytes);
        frame::finish(&mut out, table, &self.number.to_le_bytes());
        out
    }

    /// Decodes the framed value found under `number` of the table `table`.
    fn decode(table: &str, number: u64, framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, table, &number.to_le_bytes())?;
        let percent = payload.u64()?;
        let length = payload.count()?;
        let bytes = payload.bytes(length)?.to_vec();
        frame::no_extensions(payload)?;
        Ok(Self::new(number, bytes, percent))
    }

    /// Writes both copies.
    pub(in crate::store) fn write(&self, transaction: &WriteTransaction) -> Result<(), AbortCause> {
        for (name, table) in TABLES {
            transaction.open_table(table)?.insert(self.number, self.encode(name).as_slice())?;
        }
        Ok(())
    }
}

impl Dictionaries {
    /// Returns the dictionary that records name by `checksum`.
    pub(in crate::store) fn get(&self, checksum: u32) -> Result<&Dictionary, DecodeError> {
        let mut known = self.known.iter().filter_map(OnceLock::get);
        known.find(|known| known.checksum == checksum).ok_or(DecodeError::Invalid("the name of its dictionary"))
    }

    /// Returns the dictionary with which new records are compressed.
    pub(in crate::store) fn newest(&self) -> Option<&Dictionary> {
        self.known.iter().rev().find_map(OnceLock::get)
    }

    /// Returns the compressed size of a record of `bytes`, approximately.
    pub(in crate::store) fn approximate(&self, bytes: usize) -> usize {
        self.newest().map_or(bytes, |dictionary| bytes * usize::try_from(dictionary.percent).unwrap_or(100) / 100)
    }

    /// Adds a dictionary that is on disk.
    pub(in crate::store) fn add(&self, dictionary: Dictionary) {
        if let Some(slot) = usize::try_from(dictionary.number).ok().and_then(|number| self.known.get(number)) {
            let _known_already = slot.set(dictionary);
        }
    }

    /// Adds the dictionaries of `table`, which has the first or second copies. A damaged one is logged and left out.
    fn read(
        &self,
        transaction: &ReadTransaction,
        (name, table): (&'static str, TableDefinition<'_, u64, &'static [u8]>),
    ) -> Result<(), AbortCause> {
        let table = match transaction.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        for item in table.iter()? {
            let (number, framed) = item?;
            match Dictionary::decode(name, number.value(), framed.value()) {
                Ok(dictionary) => {
                    self.copies.fetch_add(1, Ordering::Relaxed);
                    self.add(dictionary);
                }
                Err(error) => {
                    let error = StoreError::record(name, number.value(), &error);
                    tracing::error!(%error, "a copy of a dictionary is damaged; restore a backup before the other is, too");
                    self.is_damaged.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Checks that all `count` dictionaries of the file at `path` were read.
    pub(in crate::store) fn require(&self, count: u64, path: &Path) -> Result<(), StoreError> {
        // A table of which a page is damaged may seem to have fewer.
        let is_short = self.copies.load(Ordering::Relaxed) < 2 * count;
        if is_short && !self.is_damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "a copy of a dictionary cannot be read; restore a backup before the other cannot be read, too"
            );
        }
        let known = self.known.iter().take(usize::try_from(count).unwrap_or(usize::MAX));
        match known.filter(|slot| slot.get().is_some()).count() as u64 {
            found if found == count => Ok(()),
            // Otherwise the shadows that need it would seem damaged, and their changes would leave the journal.
            found => Err(StoreError::Corrupt {
                path: path.to_owned(),
                detail: format!(
                    "both copies of {} of {count} dictionaries cannot be read",
                    count.saturating_sub(found)
                ),
            }),
        }
    }

    /// Adds the dictionaries of `others`.
    pub(in crate::store) fn add_all(&self, others: &Self) {
        self.is_damaged.fetch_or(others.is_damaged.load(Ordering::Relaxed), Ordering::Relaxed);
        others.known.iter().filter_map(OnceLock::get).for_each(|dictionary| self.add(dictionary.clone()));
    }

    /// Reads the dictionaries of `database`. A copy that cannot be read is logged.
    pub(in crate::store) fn load(&self, database: &Database) {
        for table in TABLES {
            if let Err(error) = database.read(|transaction| self.read(transaction, table)) {
                tracing::error!(%error, "the table {} cannot be read", table.0);
                self.is_damaged.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl DictionaryTrainer {
    /// Counts the `flushed` documents of a commit. Returns true if a sample of the `dirty` documents is due, which are at
    /// least `dirty_min`.
    pub(in crate::store) fn is_due(&mut self, flushed: usize, dirty: usize, dirty_min: usize) -> bool {
        self.flushed += flushed as u64;
        dirty >= dirty_min && self.next.is_none() && self.flushed >= self.interval
    }

    /// Proposes a dictionary of `records` if they do not resemble the newest one. The file has `count` dictionaries.
    pub(in crate::store) fn sample(&mut self, known: &Dictionaries, count: u64, records: &[Vec<u8>]) {
        (self.flushed, self.interval) = (0, (2 * self.interval).clamp(FLUSHED_PER_SAMPLE, INTERVAL_MAX));
        let newest = known.newest();
        let percent = newest.map_or(100, |newest| newest.percent_of(records));
        let expected = newest.map_or(100, |newest| newest.percent + IMPROVEMENT_MIN);
        if percent >= expected && count < DICTIONARIES_MAX as u64 && !known.is_damaged.load(Ordering::Relaxed) {
            let next = Dictionary::of(count, records);
            self.next =
                next.filter(|next| next.percent + IMPROVEMENT_MIN <= percent && known.get(next.checksum).is_err());
        }
    }
}

/// Returns the sequences that several of `records` have, in the order of their first record.
fn common_sequences(records: &[Vec<u8>]) -> Vec<u8> {
    let mut counts: HashMap<&[u8], usize> = HashMap::new();
    for record in records {
        let sequences: HashSet<_> = record.windows(SEQUENCE_BYTES).collect();
        sequences.into_iter().for_each(|sequence| *counts.entry(sequence).or_default() += 1);
    }
    let records_min = RECORDS_MIN.max(records.len() / SAMPLES_PER_RECORD_MIN);
    let mut common: HashSet<_> =
        counts.into_iter().filter(|(_, count)| *count >= records_min).map(|(sequence, _)| sequence).collect();
    let mut dictionary = Vec::new();
    for record in records {
        let mut run = None;
        for (at, sequence) in record.windows(SEQUENCE_BYTES).enumerate() {
            match (common.remove(sequence), run) {
                (true, None) => run = Some(at),
                (false, Some(begin)) => {
                    dictionary.extend_from_slice(record.get(begin..at + SEQUENCE_BYTES - 1).unwrap_or_default());
                    run = None;
                }
                _ => {}
            }
        }
        dictionary.extend_from_slice(run.and_then(|begin| record.get(begin..)).unwrap_or_default());
        if dictionary.len() >= DICTIONARY_BYTES_MAX {
            dictionary.truncate(DICTIONARY_BYTES_MAX);
            break;
        }
    }
    dictionary
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn records(count: usize) -> Vec<Vec<u8>> {
        let record = |n: usize| {
            let unique = format!("serial-{:016x}", (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            format!("[model:thermostat-2;firmware:1.4.2;{unique};features:window-open,child-lock,boost;n:{n}]")
        };
        (0..count).map(|n| record(n).into_bytes()).collect()
    }

    #[test]
    fn records_come_back_and_are_shorter() {
        let records = records(40);
        let dictionary = Dictionary::of(0, &records).unwrap();
        assert!(dictionary.percent < 60, "{} %", dictionary.percent);
        let mut compressed = Vec::new();
        for record in &records {
            assert!(dictionary.compress(record, &mut compressed));
            assert_eq!(dictionary.decompress(&compressed, record.len()).as_ref(), Ok(record));
            for length in [0, record.len() - 1, record.len() + 1, usize::MAX] {
                assert!(dictionary.decompress(&compressed, length).is_err(), "{length}");
            }
            for length in 0..compressed.len() {
                assert!(dictionary.decompress(compressed.get(..length).unwrap(), record.len()).is_err());
            }
        }
    }

    #[test]
    fn a_dictionary_has_nothing_that_only_few_records_have() {
        let mut records = records(40);
        records.iter_mut().take(RECORDS_MIN - 1).for_each(|record| record.extend_from_slice(b";owner:somebody"));
        let text = String::from_utf8(Dictionary::of(0, &records).unwrap().bytes).unwrap();
        assert!(text.contains("firmware:1.4.2") && text.contains("child-lock"), "{text}");
        assert!(!text.contains("somebody"), "{text}");
        for record in &records {
            let unique = String::from_utf8_lossy(record).split(';').nth(2).unwrap().replace("serial-", "");
            assert!(!text.contains(&unique), "{unique} is in {text}");
        }
    }

    #[test]
    fn records_without_common_parts_have_no_dictionary() {
        let digits = |n: u64| (0..40).map(move |digit| (n.wrapping_mul(digit * 977 + 1) >> 3) as u8).collect();
        let records: Vec<Vec<u8>> = (0..40).map(|n| digits(n * 0x9E37_79B9 + 12_345)).collect();
        assert_eq!(Dictionary::of(0, &records), None);
        assert_eq!(Dictionary::of(0, &[]), None);
    }

    #[test]
    fn a_dictionary_is_no_longer_than_its_limit() {
        let long: Vec<u8> = (0..1_500u32).flat_map(|n| n.to_le_bytes()).collect();
        let dictionary = Dictionary::of(0, &[long.clone(), long.clone(), long.clone(), long]).unwrap();
        assert_eq!(dictionary.bytes.len(), DICTIONARY_BYTES_MAX);
    }

    /// Another dictionary is made when the documents have changed, and only then.
    #[test]
    fn a_dictionary_is_replaced_when_the_records_no_longer_resemble_it() {
        let known = Dictionaries::default();
        let mut trainer = DictionaryTrainer::default();
        assert!(!trainer.is_due(10, 9, 10) && trainer.is_due(10, 10, 10));
        trainer.sample(&known, 0, &records(40));
        known.add(trainer.next.take().unwrap());
        assert!(!trainer.is_due(10, 10, 10) && trainer.is_due(usize::try_from(FLUSHED_PER_SAMPLE).unwrap(), 10, 10));
        trainer.sample(&known, 1, &records(64));
        assert_eq!(trainer.next, None);
        let other = |n: usize| format!("<pump><state>running</state><pressure>{n}</pressure></pump>").into_bytes();
        let others: Vec<_> = (0..64).map(other).collect();
        trainer.sample(&known, DICTIONARIES_MAX as u64, &others);
        assert_eq!(trainer.next, None, "the file has all it can have");
        trainer.sample(&known, 1, &others);
        let next = trainer.next.take().unwrap();
        assert_eq!((next.count(), known.newest().map(Dictionary::count)), (2, Some(1)));
    }

    #[test]
    fn each_copy_is_bound_to_its_table_and_number() {
        let dictionary = Dictionary::of(3, &records(40)).unwrap();
        let framed = dictionary.encode(DICTIONARIES);
        assert_eq!(Dictionary::decode(DICTIONARIES, 3, &framed).as_ref(), Ok(&dictionary));
        assert_eq!(Dictionary::decode(COPIES, 3, &framed), Err(DecodeError::Checksum));
        assert_eq!(Dictionary::decode(DICTIONARIES, 2, &framed), Err(DecodeError::Checksum));
    }
}
