//! The tables of the file and their keys, as described in `docs/format.md`.
//!
//! | table | key | value (framed) |
//! |---|---|---|
//! | `meta` | `store` | [`Created`]: the format of the whole file |
//! | `meta` | `progress` | [`Checkpoint`]: the positions of journal and state table |
//! | `meta` | `ages` | the running time and the ages of entries, `store_clock`; missing until a commit |
//! | `meta` | `lineages` | the lineages of the entries, [`crate::store::journal::lineage`]; missing until an entry has one |
//! | `state` | device, NUL, shadow name | a document, `record` |
//! | `journal` | sequence | a change, `entry` |
//! | `dictionaries`, `dictionary_copies` | number | a dictionary of records, twice; the tables exist once there is one |
//! | `meta` | `index` | the paths of the index and how far they are built, [`crate::store::index`]; missing without one |
//! | `index.`number | path, term, shadow | the values of the shadow at the path, `entry` |
//! | `floors` | device | the floor of its versions, `floor`; the table exists once a name was purged |
//! | `rows`, `row_log` | | the state of the broker, [`crate::store::rows`] |
//!
//! *Invariant:* keys of `state` sort as [`ShadowKey`] does. NUL is below every byte of a name, so the shadows of a
//! device are adjacent, the classic one first.

use redb::TableDefinition;

use crate::{
    shadow::{
        ShadowKey,
        name::{DeviceId, ShadowName},
    },
    store::{
        codec::{DecodeError, Decoder, put_str, put_u64},
        frame,
        journal::entry::Seq,
    },
};

/// The table of facts about the file.
pub(super) const META_TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new(META);
/// The table of documents, complete up to the checkpoint.
pub(super) const STATE_TABLE: TableDefinition<'_, &[u8], &[u8]> =
    TableDefinition::new(crate::store::state::record::STATE);
/// The table of changes, back to the limit of retention.
pub(super) const JOURNAL_TABLE: TableDefinition<'_, u64, &[u8]> =
    TableDefinition::new(crate::store::journal::entry::JOURNAL);

/// The table of version floors of devices; missing until a name was purged.
pub(super) const FLOORS_TABLE: TableDefinition<'_, &str, &[u8]> =
    TableDefinition::new(crate::store::state::floor::FLOORS);

/// The name of the table, part of each checksum.
pub(super) const META: &str = "meta";
/// The key of [`Created`].
pub(super) const CREATED_KEY: &str = "store";
/// The key of [`crate::store::store_clock::AgeRecord`].
pub(super) const AGES_KEY: &str = "ages";
/// The key of [`Checkpoint`].
pub(super) const PROGRESS_KEY: &str = "progress";

/// The format of the whole file: its tables and the meaning of their keys.
pub(super) const FILE_FORMAT: u64 = 1;

/// The record of the creation, written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Created {
    /// The [`FILE_FORMAT`] of the creating program.
    pub(super) format: u64,
    /// The version of the creating program.
    pub(super) by: String,
}

/// A position in the journal, with the bytes of all entries up to it since the store was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct JournalPosition {
    pub(super) seq: Seq,
    pub(super) bytes: u64,
}

/// The positions of journal and state table; written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The newest entry.
    pub(super) head: JournalPosition,
    /// The checkpoint: every entry up to it is in the state table.
    pub(super) checkpoint: JournalPosition,
    /// The last entry removed by retention.
    pub(super) removed: JournalPosition,
    /// The number of records in the table of floors.
    pub(super) floors: u64,
    /// The positions of the rows of the broker.
    pub(super) rows: RowsCheckpoint,
    /// The number of dictionaries with which records are compressed.
    pub(super) dictionaries: u64,
    /// The number of the table of the index; 0 for none.
    pub(super) index: u64,
}

/// The positions of row log and table of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RowsCheckpoint {
    /// The newest record of the log.
    pub(super) head: JournalPosition,
    /// Every record up to this one is in the table.
    pub(super) checkpoint: JournalPosition,
    /// The number of rows in the table.
    pub(super) rows: u64,
    /// The bytes of these rows.
    pub(super) bytes: u64,
}

/// The tag of the extension of [`Checkpoint`] with the number of floors. Programs that do not know floors refuse it.
const FLOORS_TAG: u64 = 1;
/// The tag of the extension with [`RowsCheckpoint`]. Programs that do not know rows refuse it.
const ROWS_TAG: u64 = 2;
/// The tag of the extension with the number of dictionaries. Programs that do not know them refuse it.
const DICTIONARIES_TAG: u64 = 3;
/// The tag of the extension with the number of the table of the index. Programs that do not know indexes refuse it, since
/// they would not keep it.
const INDEX_TAG: u64 = 4;

impl JournalPosition {
    /// Returns the position after one more entry of `bytes`.
    pub(super) fn next(self, bytes: usize) -> Self {
        Self { seq: Seq(self.seq.0 + 1), bytes: self.bytes + bytes as u64 }
    }
}

impl Checkpoint {
    /// Returns the entries and bytes that a start would have to replay.
    pub(super) fn lag(&self) -> (u64, u64) {
        (self.head.seq.0.saturating_sub(self.checkpoint.seq.0), self.head.bytes.saturating_sub(self.checkpoint.bytes))
    }

    /// Returns true if nothing was ever written: neither shadows nor rows.
    pub(super) fn is_empty(&self) -> bool {
        self.head == JournalPosition::default() && self.rows.head == JournalPosition::default()
    }

    /// Returns the bytes of the entries kept.
    pub(super) fn journal_bytes(&self) -> u64 {
        self.head.bytes.saturating_sub(self.removed.bytes)
    }

    /// Returns the framed value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        frame::begin(&mut out);
        for mark in [self.head, self.checkpoint, self.removed] {
            put_u64(&mut out, mark.seq.0);
            put_u64(&mut out, mark.bytes);
        }
        if self.floors > 0 {
            frame::put_extension(&mut out, FLOORS_TAG, |out| put_u64(out, self.floors));
        }
        if self.rows.head.seq > Seq(0) {
            frame::put_extension(&mut out, ROWS_TAG, |out| self.rows.put_into(out));
        }
        if self.dictionaries > 0 {
            frame::put_extension(&mut out, DICTIONARIES_TAG, |out| put_u64(out, self.dictionaries));
        }
        if self.index > 0 {
            frame::put_extension(&mut out, INDEX_TAG, |out| put_u64(out, self.index));
        }
        frame::finish(&mut out, META, PROGRESS_KEY.as_bytes());
        out
    }

    /// Decodes the framed value.
    pub(super) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, META, PROGRESS_KEY.as_bytes())?;
        let mut mark = || Ok(JournalPosition { seq: Seq(payload.u64()?), bytes: payload.u64()? });
        let mut progress = Self { head: mark()?, checkpoint: mark()?, removed: mark()?, ..Self::default() };
        frame::extensions(payload, |tag, mut extension| match tag {
            FLOORS_TAG => {
                progress.floors = extension.u64()?;
                extension.finish().map(|()| true)
            }
            ROWS_TAG => {
                progress.rows = RowsCheckpoint::decode(extension)?;
                Ok(true)
            }
            DICTIONARIES_TAG => {
                progress.dictionaries = extension.u64()?;
                extension.finish().map(|()| true)
            }
            INDEX_TAG => {
                progress.index = extension.u64()?;
                extension.finish().map(|()| true)
            }
            _ => Ok(false),
        })?;
        if progress.removed.seq <= progress.checkpoint.seq && progress.checkpoint.seq <= progress.head.seq {
            Ok(progress)
        } else {
            Err(DecodeError::Invalid("the order of head, checkpoint and removed"))
        }
    }
}

impl RowsCheckpoint {
    /// Returns the records and bytes of the log that a start would have to replay.
    pub(super) fn lag(&self) -> (u64, u64) {
        (self.head.seq.0.saturating_sub(self.checkpoint.seq.0), self.head.bytes.saturating_sub(self.checkpoint.bytes))
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        for mark in [self.head, self.checkpoint] {
            put_u64(out, mark.seq.0);
            put_u64(out, mark.bytes);
        }
        put_u64(out, self.rows);
        put_u64(out, self.bytes);
    }

    fn decode(mut payload: Decoder<'_>) -> Result<Self, DecodeError> {
        let mut mark = || Ok(JournalPosition { seq: Seq(payload.u64()?), bytes: payload.u64()? });
        let (head, checkpoint) = (mark()?, mark()?);
        let rows = Self { head, checkpoint, rows: payload.u64()?, bytes: payload.u64()? };
        payload.finish()?;
        // Without a record there are no rows, and this extension is not written.
        if rows.head.seq == Seq(0) {
            Err(DecodeError::Invalid("the head of the rows"))
        } else if rows.checkpoint.seq > rows.head.seq {
            Err(DecodeError::Invalid("the order of head and checkpoint of the rows"))
        } else {
            Ok(rows)
        }
    }
}

impl Created {
    /// Returns the record of this program.
    pub(super) fn now() -> Self {
        Self { format: FILE_FORMAT, by: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Returns the framed value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::begin(&mut out);
        put_u64(&mut out, self.format);
        put_str(&mut out, &self.by);
        frame::finish(&mut out, META, CREATED_KEY.as_bytes());
        out
    }

    /// Decodes the framed value; a later format may continue after the known fields.
    pub(super) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, META, CREATED_KEY.as_bytes())?;
        let created = Self { format: payload.u64()?, by: payload.str()?.to_owned() };
        if created.format == FILE_FORMAT {
            payload.finish()?;
        }
        Ok(created)
    }
}

/// Returns the key of a shadow in `state`.
pub(super) fn state_key(key: &ShadowKey) -> Vec<u8> {
    let (device, name) = (key.device.as_str(), key.name.as_ref().map_or("", ShadowName::as_str));
    [device.as_bytes(), &[0], name.as_bytes()].concat()
}

/// Parses a key of `state`.
pub(super) fn shadow_key(bytes: &[u8]) -> Result<ShadowKey, DecodeError> {
    let invalid = || DecodeError::Invalid("a shadow's key");
    let text = std::str::from_utf8(bytes).map_err(|_| invalid())?;
    let (device, name) = text.split_once('\0').ok_or_else(invalid)?;
    let device = DeviceId::new(device).map_err(|_| invalid())?;
    match name {
        "" => Ok(ShadowKey::classic(device)),
        name => Ok(ShadowKey::named(device, ShadowName::new(name).map_err(|_| invalid())?)),
    }
}

/// Returns the range of keys of `device`'s named shadows.
pub(super) fn named_range(device: &DeviceId) -> std::ops::Range<Vec<u8>> {
    // The first byte of a name is above 0 and below 0xFF, and names are not empty.
    let prefix = [device.as_str().as_bytes(), &[0]].concat();
    [prefix.as_slice(), &[1]].concat()..[prefix.as_slice(), &[0xFF]].concat()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn key(device: &str, name: &str) -> ShadowKey {
        let device = DeviceId::new(device).unwrap();
        if name.is_empty() {
            ShadowKey::classic(device)
        } else {
            ShadowKey::named(device, ShadowName::new(name).unwrap())
        }
    }

    #[test]
    fn keys_sort_as_shadows_do_and_come_back() {
        let mut keys: Vec<_> =
            [("a", ""), ("a", "$x"), ("a", "b"), ("a", "zz"), ("a-", ""), ("a-", "a"), ("a:b", ""), ("b", "")]
                .map(|(device, name)| key(device, name))
                .into();
        keys.sort();
        let stored: Vec<_> = keys.iter().map(state_key).collect();
        assert!(stored.is_sorted());
        let back: Vec<_> = stored.iter().map(|bytes| shadow_key(bytes).unwrap()).collect();
        assert_eq!(back, keys);
        let range = named_range(&DeviceId::new("a").unwrap());
        let named: Vec<_> = keys.iter().filter(|key| range.contains(&state_key(key))).collect();
        assert_eq!(named, [&key("a", "$x"), &key("a", "b"), &key("a", "zz")]);
    }

    #[test]
    fn progress_comes_back_and_must_be_in_order() {
        let mark = |seq| JournalPosition { seq: Seq(seq), bytes: seq * 100 };
        let sound = Checkpoint { head: mark(9), checkpoint: mark(7), removed: mark(2), ..Checkpoint::default() };
        let rows = RowsCheckpoint { head: mark(5), checkpoint: mark(5), rows: 3, bytes: 900 };
        for progress in [sound, Checkpoint { floors: 300, ..sound }, Checkpoint { floors: 1, rows, index: 7, ..sound }]
        {
            assert_eq!(Checkpoint::decode(&progress.encode()), Ok(progress));
        }
        let rows = RowsCheckpoint { checkpoint: mark(6), ..rows };
        let late = Checkpoint { checkpoint: mark(10), ..sound };
        for wrong in [late, Checkpoint { removed: mark(8), ..sound }, Checkpoint { rows, ..sound }] {
            assert!(Checkpoint::decode(&wrong.encode()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rows_without_a_record_are_refused() {
        let mut payload = Vec::new();
        RowsCheckpoint { rows: 64, ..RowsCheckpoint::default() }.put_into(&mut payload);
        assert_eq!(RowsCheckpoint::decode(Decoder::new(&payload)), Err(DecodeError::Invalid("the head of the rows")));
    }
}
