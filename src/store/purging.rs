//! The purge of tombstones that an operator asks for, of any shadow and in any number.
//!
//! It follows the rules of the purge that makes room for a name ([`super::state::purge`]): a tombstone is removed only once
//! nothing else depends on it, and the floor of its device keeps the version. Each order is one commit, between two batches
//! of commands; in a cluster it is a request, whose record names the tombstones ([`super::replication::member`]).

use tokio::sync::oneshot;

use crate::{
    shadow::{Rejection, ShadowKey},
    store::{
        changes::Changes,
        error::StoreError,
        pages::check::CheckedTable,
        reader,
        state::{floor::DeviceFloor, purge::Purges},
        store_clock::Now,
        writer::Writer,
    },
};

/// An order to purge tombstones.
pub(super) struct PurgeOrder {
    pub(super) keys: Vec<ShadowKey>,
    /// True to purge nothing.
    pub(super) dry_run: bool,
    pub(super) answer: oneshot::Sender<Result<PurgedTombstones, Rejection>>,
}

impl PurgeOrder {
    pub(super) fn answer(self, purged: Result<PurgedTombstones, Rejection>) {
        // An error means that nobody waits for the answer any more.
        let _ = self.answer.send(purged);
    }
}

/// The result of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedTombstones {
    /// Tombstones that were removed, or would be.
    pub purged: usize,
    /// Tombstones that are kept: their changes are in the journal, or one of their idempotency keys has not expired.
    pub kept: usize,
}

/// The reasons not to remove a record.
enum Obstacle {
    /// It is no tombstone, or there is none.
    NoTombstone,
    Kept,
}

impl<C> Writer<C> {
    /// Carries out `order` on a single node, and answers it.
    pub(super) fn purge(&mut self, order: PurgeOrder) {
        let purged = self.purged(&order.keys, order.dry_run);
        self.report();
        order.answer(purged);
    }

    fn purged(&mut self, keys: &[ShadowKey], dry_run: bool) -> Result<PurgedTombstones, Rejection> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let now = self.clock.now();
        let (purges, done) = self.purgeable(keys, now)?;
        if dry_run || purges.is_empty() {
            return Ok(done);
        }
        let changes = self.purging(purges, done, now);
        self.commit_without_flush(changes)?;
        Ok(done)
    }

    /// Returns the changes that purge `purges`.
    pub(super) fn purging(&mut self, purges: Purges, done: PurgedTombstones, now: Now) -> Changes {
        purges.keys().for_each(|device| self.names.forget(device));
        let mut changes = self.no_changes_at(now);
        changes.counts.purged(done.purged);
        changes.record.purged = purges;
        changes
    }

    /// Returns those of `keys` that are tombstones which can be purged, and their number.
    pub(super) fn purgeable(&self, keys: &[ShadowKey], now: Now) -> Result<(Purges, PurgedTombstones), Rejection> {
        // A removal may merge pages, and must not merge damaged ones.
        if [CheckedTable::State, CheckedTable::Floors].iter().any(|table| !self.shared.database.is_sound(*table)) {
            let detail =
                "the pages of the store are not verified yet, or some are damaged; nothing is removed until then";
            return Err(Rejection::Unavailable(detail.to_owned()));
        }
        let mut purges = Purges::new();
        let mut done = PurgedTombstones::default();
        for key in keys {
            match self.removable(key, now) {
                Ok(floor) => {
                    let purge = purges.entry(key.device.clone()).or_default();
                    if purge.keys.insert(key.clone()) {
                        purge.floor.raise(floor);
                        done.purged += 1;
                    }
                }
                Err(Obstacle::Kept) => done.kept += 1,
                Err(Obstacle::NoTombstone) => {}
            }
        }
        Ok((purges, done))
    }

    /// Returns the floor that the tombstone of `key` leaves, if it can be removed.
    fn removable(&self, key: &ShadowKey, now: Now) -> Result<DeviceFloor, Obstacle> {
        if self.dirty_set.contains(key) {
            // Its entries are in the journal.
            let deleted = self.shared.newest(key).is_ok_and(|stored| stored.document.deleted);
            return Err(if deleted { Obstacle::Kept } else { Obstacle::NoTombstone });
        }
        let loaded = self.shared.database.get().and_then(|database| reader::load(&database, key));
        let stored = match loaded {
            Ok(Ok(stored)) if stored.document.deleted => stored,
            Ok(_) => return Err(Obstacle::NoTombstone),
            Err(error) => {
                log_unreadable(key, &error);
                return Err(Obstacle::Kept);
            }
        };
        let is_remembered = stored.remembered.expires_at().is_some_and(|expiry| expiry > now.running);
        if stored.last_entry > self.progress.removed.seq || is_remembered {
            return Err(Obstacle::Kept);
        }
        Ok(DeviceFloor { version: stored.document.version, last_entry: stored.last_entry })
    }
}

fn log_unreadable(key: &ShadowKey, error: &StoreError) {
    tracing::error!(%key, %error, "a tombstone cannot be read, and is kept");
}
