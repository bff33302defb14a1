//! The store: decides commands, makes the accepted ones durable, remembers them.
//!
//! One thread writes ([`writer`]), in group commits without a timer; the journal append in such a commit is the
//! durability promise. Documents live decoded in a bounded [`cache`]; the state table on disk is carried along behind
//! ([`backlog`]), and a start applies the rest of the journal again ([`recovery`]). Reads ([`reader`]) never wait for
//! the writer. What a command means is decided by [`crate::shadow`]; what the file looks like is said in
//! `docs/format.md`; why it is so, in `docs/decisions/0002-the-journal-is-the-commit.md`.
//!
//! *Invariant:* an outcome is told after the commit that contains it, and everything it was decided against, is on the
//! disk. *Invariant:* all that one may do with shadows is apply, read, read history and follow the journal; that this
//! is one file and redb is known to nobody above.

mod audit;
mod backlog;
mod backup;
mod batch;
mod cache;
mod codec;
mod commit;
mod copy;
mod database;
mod disk;
mod entry;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod health;
mod names;
mod options;
mod reader;
mod record;
mod recovery;
mod remembered;
mod retention;
mod schema;
mod seal;
mod writer;

#[cfg(test)]
mod tests;

pub use audit::Report;
pub use backup::BackupError;
pub use batch::{Applied, Job, Outcome};
pub use copy::{CopyError, back_up, check, check_backup, restore};
pub use disk::DiskLow;
pub use entry::{Entry, Seq};
pub use error::StoreError;
pub use handle::{Permit, Store, open};
pub use health::{Health, State};
pub use options::{COMMAND_OVERHEAD_BYTES, StoreOptions};
pub use reader::{History, HistoryEnd, Listed, Page, Past};
pub use record::Held;
pub use writer::Room;
