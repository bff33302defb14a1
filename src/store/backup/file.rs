//! The backup file: the records of one commit in order, with a digest at the end.
//!
//! ```text
//! "UMBRABAK" · format (1 byte: 3 if there are rows of the broker, else 2 if there is a floor, else 1)
//! table (1 byte: 1 meta, 2 journal, 3 state, 4 floors, 5 rows, 6 row log) · key length · key · value length · value
//! …    in the order of tables and keys
//! 0 (1 byte) · number of records (8 bytes) · SHA-256 of all before it (32 bytes)
//! ```
//!
//! Numbers are little-endian, lengths have 4 bytes. Values are framed as in the store ([`crate::store::frame`]). A truncated
//! file has no end record; a changed byte changes the digest. The consistency of the records is checked by
//! [`super::audit`].

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// One record of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Record {
    pub(in crate::store) table: BackupTable,
    /// The key as in the store; a sequence is 8 bytes, little-endian.
    pub(in crate::store) key: Vec<u8>,
    pub(in crate::store) value: Vec<u8>,
}

/// The tables, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum BackupTable {
    Meta = 1,
    Journal = 2,
    State = 3,
    Floors = 4,
    Rows = 5,
    RowLog = 6,
}

/// A reason why a file is not a complete backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file does not begin as a backup.
    #[error("it is not a backup")]
    Foreign,
    /// The file was written by a newer program.
    #[error("it is a backup of format {0}, this program knows format {FORMAT}")]
    Format(u8),
    /// The file ends before its end record.
    #[error("it is cut short: the end of the backup is missing")]
    Cut,
    /// A byte differs from what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The file cannot be read.
    #[error(transparent)]
    Io(io::Error),
}

/// A writer of backups.
pub(in crate::store) struct BackupWriter<W> {
    out: W,
    digest: Sha256,
    records: u64,
}

/// A reader of backups, which verifies the digest at the end.
pub(in crate::store) struct BackupReader<R> {
    from: R,
    digest: Sha256,
    records: u64,
    last: BackupTable,
}

const MAGIC: &[u8; 8] = b"UMBRABAK";
/// The newest format, which has [`BackupTable::Rows`].
const FORMAT: u8 = 3;
const END: u8 = 0;
/// A limit above the length of any key in the store.
const KEY_BYTES_MAX: u32 = 256 << 10;

impl<W: Write> BackupWriter<W> {
    /// Begins a backup in `out` whose last table is `last`. Without newer tables, older programs can read it.
    pub(in crate::store) fn begin(out: W, last: BackupTable) -> io::Result<Self> {
        let mut writer = Self { out, digest: Sha256::new(), records: 0 };
        writer.put(MAGIC)?;
        writer.put(&[match last {
            BackupTable::Meta | BackupTable::Journal | BackupTable::State => 1,
            BackupTable::Floors => 2,
            BackupTable::Rows | BackupTable::RowLog => FORMAT,
        }])?;
        Ok(writer)
    }

    /// Appends a record; tables and keys must be in order.
    pub(in crate::store) fn record(&mut self, table: BackupTable, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.records += 1;
        self.put(&[table as u8])?;
        for part in [key, value] {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            self.put(&length.to_le_bytes())?;
            self.put(part)?;
        }
        Ok(())
    }

    /// Ends the backup and returns `out`, flushed.
    pub(in crate::store) fn finish(mut self) -> io::Result<W> {
        self.put(&[END])?;
        self.put(&self.records.to_le_bytes())?;
        self.out.write_all(&self.digest.finalize())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

impl<R: Read> BackupReader<R> {
    /// Returns true if a file begins as a backup.
    pub(in crate::store) fn is_begun(head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    /// Begins to read a backup.
    pub(in crate::store) fn begin(from: R) -> Result<Self, BackupError> {
        let mut reader = Self { from, digest: Sha256::new(), records: 0, last: BackupTable::Meta };
        match reader.array::<8>() {
            Ok(magic) if magic == *MAGIC => {}
            Ok(_) | Err(BackupError::Cut) => return Err(BackupError::Foreign),
            Err(error) => return Err(error),
        }
        match reader.array()? {
            [1..=FORMAT] => Ok(reader),
            [format] => Err(BackupError::Format(format)),
        }
    }

    /// Returns the next record; `None` at the end, after verifying the digest.
    pub(in crate::store) fn next(&mut self) -> Result<Option<Record>, BackupError> {
        let table = match self.array()? {
            [END] => return self.end().map(|()| None),
            [1] => BackupTable::Meta,
            [2] => BackupTable::Journal,
            [3] => BackupTable::State,
            [4] => BackupTable::Floors,
            [5] => BackupTable::Rows,
            [6] => BackupTable::RowLog,
            _ => return Err(BackupError::Damaged("there is no such table")),
        };
        if table < self.last {
            return Err(BackupError::Damaged("its tables are not in order"));
        }
        self.last = table;
        self.records += 1;
        let key = self.part(KEY_BYTES_MAX)?;
        Ok(Some(Record { table, key, value: self.part(u32::MAX)? }))
    }

    fn end(&mut self) -> Result<(), BackupError> {
        if u64::from_le_bytes(self.array()?) != self.records {
            return Err(BackupError::Damaged("records are missing"));
        }
        let expected = self.digest.clone().finalize();
        if self.array::<32>()? != *expected {
            return Err(BackupError::Damaged("its digest does not match"));
        }
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(BackupError::Damaged("something follows its end")),
            Err(error) => Err(BackupError::Io(error)),
        }
    }

    /// Reads a length and that many bytes. Allocation grows with the bytes present, not with the length claimed.
    fn part(&mut self, most: u32) -> Result<Vec<u8>, BackupError> {
        let length = u32::from_le_bytes(self.array()?);
        if length > most {
            return Err(BackupError::Damaged("a key is too long"));
        }
        let mut part = Vec::new();
        let read = self.from.by_ref().take(length.into()).read_to_end(&mut part).map_err(BackupError::Io)?;
        if read < length as usize {
            return Err(BackupError::Cut);
        }
        self.digest.update(&part);
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::Cut,
            _ => BackupError::Io(error),
        })?;
        self.digest.update(bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn backup() -> Vec<u8> {
        let mut writer = BackupWriter::begin(Vec::new(), BackupTable::State).unwrap();
        writer.record(BackupTable::Meta, b"store", b"one").unwrap();
        writer.record(BackupTable::Journal, &7u64.to_le_bytes(), b"an entry").unwrap();
        writer.record(BackupTable::State, b"d\0", b"").unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Record>, BackupError> {
        let mut reader = BackupReader::begin(bytes)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn records_come_back() {
        let records = read(&backup()).unwrap();
        let keys: Vec<_> = records.iter().map(|record| (record.table, record.key.as_slice())).collect();
        assert_eq!(
            keys,
            [
                (BackupTable::Meta, &b"store"[..]),
                (BackupTable::Journal, &[7, 0, 0, 0, 0, 0, 0, 0]),
                (BackupTable::State, b"d\0")
            ]
        );
        assert_eq!(records[1].value, b"an entry");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let whole = backup();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            let expected = if length < MAGIC.len() { "it is not a backup" } else { "it is cut short" };
            assert!(error.to_string().starts_with(expected), "{length}: {error}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit}");
        }
        let more = [whole.as_slice(), b"x"].concat();
        assert!(matches!(read(&more), Err(BackupError::Damaged(_))));
    }
}
