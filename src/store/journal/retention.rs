//! Retention: removal of the oldest journal entries.
//!
//! Each commit removes some entries while the journal exceeds its size or age limit. Entries after the checkpoint are
//! never removed, since a start needs them. A store without writes removes nothing.

use redb::{ReadableTable, Table};

use crate::{
    shadow::Timestamp,
    store::{
        database::AbortCause,
        journal::entry::{JournalEntry, Seq},
        options::StoreOptions,
        schema::Checkpoint,
    },
};

/// Entries removed per commit in addition to twice the number added, so that a lowered limit is reached in time.
const EXTRA_STEPS: usize = 64;

/// The removal of old entries.
pub(in crate::store) struct Retention {
    bytes_max: u64,
    age_max_seconds: u64,
    /// The time of the oldest entry, once it is known.
    oldest: Option<(Seq, Timestamp)>,
}

impl Retention {
    pub(in crate::store) fn new(options: &StoreOptions) -> Self {
        Self { bytes_max: options.journal_bytes_max, age_max_seconds: options.journal_age_max.as_secs(), oldest: None }
    }

    /// Removes old entries in a commit that adds `added`, and updates `progress`.
    pub(in crate::store) fn trim(
        &mut self,
        journal: &mut Table<'_, u64, &'static [u8]>,
        progress: &mut Checkpoint,
        now: Timestamp,
        added: usize,
    ) -> Result<(), AbortCause> {
        for _ in 0..EXTRA_STEPS + 2 * added {
            let first = Seq(progress.removed.seq.0 + 1);
            if first > progress.checkpoint.seq {
                break;
            }
            let too_many = progress.journal_bytes() > self.bytes_max;
            if !too_many && now.0.saturating_sub(self.timestamp(journal, first)?.0) <= self.age_max_seconds {
                break;
            }
            let bytes = journal.remove(first.0)?.map_or(0, |value| value.value().len());
            progress.removed = progress.removed.next(bytes);
        }
        Ok(())
    }

    fn timestamp(&mut self, journal: &Table<'_, u64, &'static [u8]>, seq: Seq) -> Result<Timestamp, AbortCause> {
        if let Some((known, timestamp)) = self.oldest
            && known == seq
        {
            return Ok(timestamp);
        }
        let value = journal.get(seq.0)?;
        // An unreadable entry has no use, so it counts as old.
        let timestamp =
            value.and_then(|value| JournalEntry::decode_timestamp(seq, value.value()).ok()).unwrap_or(Timestamp(0));
        self.oldest = Some((seq, timestamp));
        Ok(timestamp)
    }
}
