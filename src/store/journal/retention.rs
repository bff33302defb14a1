//! Retention: removal of the oldest journal entries.
//!
//! Each commit removes some entries while the journal exceeds its size or age limit. [`crate::store::store_clock`] knows
//! their age. Entries after the checkpoint are never removed, since a start needs them. A store without writes removes
//! nothing.

use redb::Table;

use crate::store::{database::AbortCause, journal::entry::Seq, options::StoreOptions, schema::Checkpoint};

/// Entries removed per commit in addition to twice the number added, so that a lowered limit is reached in time.
const EXTRA_STEPS: usize = 64;

/// The bound of a removal.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum TrimLimit {
    /// Entries above the limits of the options, in a commit that adds `added`. Those up to `too_old` exceed that of the age.
    Sizes { too_old: Seq, added: usize },
    /// All entries up to this one: a replica removes what the decider has.
    UpTo(Seq),
}

/// The removal of old entries.
pub(in crate::store) struct Retention {
    bytes_max: u64,
}

impl Retention {
    pub(in crate::store) fn new(options: &StoreOptions) -> Self {
        Self { bytes_max: options.journal_bytes_max }
    }

    /// Removes old entries within `limit`, and updates `progress`.
    pub(in crate::store) fn trim(
        &self,
        journal: &mut Table<'_, u64, &'static [u8]>,
        progress: &mut Checkpoint,
        limit: TrimLimit,
    ) -> Result<(), AbortCause> {
        let steps = match limit {
            TrimLimit::Sizes { added, .. } => EXTRA_STEPS + 2 * added,
            TrimLimit::UpTo(_) => usize::MAX,
        };
        for _ in 0..steps {
            let first = Seq(progress.removed.seq.0 + 1);
            let is_kept = match limit {
                TrimLimit::Sizes { too_old, .. } => progress.journal_bytes() <= self.bytes_max && first > too_old,
                TrimLimit::UpTo(last) => first > last,
            };
            if first > progress.checkpoint.seq || is_kept {
                break;
            }
            let bytes = journal.remove(first.0)?.map_or(0, |value| value.value().len());
            progress.removed = progress.removed.next(bytes);
        }
        Ok(())
    }
}
