//! The store: decides commands and makes the accepted ones durable.
//!
//! One thread writes ([`writer`]), in group commits without a timer. The journal append in such a commit makes an
//! update durable. Decoded documents live in a bounded [`state::cache`]. The state table on disk follows behind: the dirty set
//! ([`state::dirty_set`]) is flushed step by step, and a start replays the rest of the journal ([`journal::recovery`]). Reads
//! ([`reader`]) never wait for the writer. [`crate::shadow`] decides what a command does. `docs/format.md` describes
//! the file, and `docs/decisions/0002-the-journal-is-the-commit.md` gives the reasons.
//!
//! *Invariant:* an outcome is reported only after the commit that contains it, and everything it was decided against,
//! is on disk.
//!
//! The broker's sessions and messages are rows ([`rows`]), written in the same commits.
//!
//! *Invariant:* a shadow under a damaged page is neither absent nor written ([`pages`]).
//!
//! *Invariant:* after a failed commit or read nothing is committed until the file was opened again ([`healing`]).
//!
//! *Invariant:* callers can apply commands, read documents and history, and follow the journal. No other module knows
//! that the store is one file or that it uses redb.

mod background;
mod backup;
mod batch;
mod changes;
mod codec;
mod commit;
mod database;
mod disk;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod healing;
mod health;
mod index;
mod journal;
mod log_inquiry;
mod opening;
mod options;
mod pages;
mod purging;
mod reader;
mod replication;
mod rows;
mod scan;
mod schema;
mod searching;
mod shadow_counts;
mod slot;
mod state;
mod store_clock;
mod unsynced;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use crate::store::backup::audit::Report;
pub use crate::store::backup::copy::{CopyError, applied_record, back_up, check, check_backup, log_place, restore};
pub use crate::store::backup::file::BackupError;
pub use crate::store::backup::readable::{Lost, back_up_readable};
pub use crate::store::backup::seed::{SeedError, SeedTarget, Seeded};
pub use crate::store::journal::device_changes::{CHANGES_MAX, DeviceChanges};
pub use crate::store::journal::entry::{JournalEntry, Seq};
pub use crate::store::journal::lineage::Lineage;
pub use crate::store::state::part::PartDecoder;
pub use crate::store::state::record::StoredShadow;
pub use batch::{Applied, Envelope, Outcome, QueuedCommand};
pub use disk::DiskLow;
pub use error::StoreError;
pub use handle::{BROADCAST_BYTES_MAX, BroadcastPermit, Permit, Store, broadcast_memory};
pub use health::{Health, IndexHealth, IndexReadiness, Pages, State};
pub use index::lookup::{DeviceLookup, IndexedDevices, Proposed, ValueGroup};
pub use log_inquiry::{LogAnswer, LogInquiry, LogServer, LogServerSettings, LogStatus};
pub use opening::{open, open_member};
pub use options::{COMMAND_OVERHEAD_BYTES, StoreOptions};
pub use purging::PurgedTombstones;
pub use reader::{History, HistoryEnd, HistoryReader, JournalPage, Listed};
pub use replication::{
    applied_position::AppliedRecord,
    log_place::{LogPlace, UnappliedStore},
    member::{
        Broadcast, BroadcastKind, BroadcastRows, Difference, Link, LogEvent, MemberHealth, MemberOptions, OtherNode,
    },
    openings::SessionClient,
    record::{NodeId, begins_empty},
    replica::{Action as LogAction, Appended},
    seed_message::{SeedMessage, SeedOffer},
    status::{NodeProfile, SeedingStatus},
};
pub use rows::{
    edit::{RowEdit, RowKey},
    sent::OnDurable,
};
pub use scan::{DeviceSpan, ScannedShadows};
pub use shadow_counts::ShadowCounts;
pub use store_clock::Moment;
pub use writer::{CommitReport, QueueReservation};
