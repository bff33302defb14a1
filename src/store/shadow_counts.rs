//! The numbers of shadows and of tombstones.
//!
//! The file does not hold them: a number in it would be wrong after a program that does not know it has written. The check of
//! the pages, which visits every record at each start, counts the records as well ([`PageCheck::records`]). What the start
//! replays and what is committed afterwards is added. So the numbers are exact once the check has ended, and unknown before;
//! records in damaged pages are not counted.

use std::sync::Arc;

use crate::store::{database::Database, error::StoreError, pages::check::PageCheck};

/// The numbers of shadows of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Shadows that exist.
    pub live: u64,
    /// Tombstones of deleted shadows.
    pub deleted: u64,
}

/// A change of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CountChange {
    live: i64,
    deleted: i64,
}

/// The counter of an open store.
pub(super) struct ShadowCounter {
    base: CountBase,
    /// The change since the commit with which the file was opened.
    change: CountChange,
}

/// The numbers as of the commit with which the file was opened.
enum CountBase {
    /// Numbers from the check of its pages, once it has ended.
    Checked(Arc<PageCheck>),
    /// Numbers of a file in memory.
    Known(ShadowCounts),
}

impl ShadowCounts {
    /// Counts a record.
    pub(super) fn add(&mut self, deleted: bool) {
        let number = if deleted { &mut self.deleted } else { &mut self.live };
        *number += 1;
    }

    fn changed_by(self, change: CountChange) -> Self {
        Self {
            live: self.live.saturating_add_signed(change.live),
            deleted: self.deleted.saturating_add_signed(change.deleted),
        }
    }
}

impl CountChange {
    /// Counts a record that was written. `before` is true if it was a tombstone, and `None` if there was no record.
    pub(super) fn written(&mut self, before: Option<bool>, deleted: bool) {
        if let Some(before) = before {
            *self.of(before) -= 1;
        }
        *self.of(deleted) += 1;
    }

    /// Counts tombstones that were removed.
    pub(super) fn purged(&mut self, tombstones: usize) {
        self.deleted -= signed(tombstones as u64);
    }

    fn of(&mut self, deleted: bool) -> &mut i64 {
        if deleted { &mut self.deleted } else { &mut self.live }
    }

    /// Returns the change that undoes this one.
    pub(super) fn undone(self) -> Self {
        Self { live: -self.live, deleted: -self.deleted }
    }

    /// Adds another change.
    pub(super) fn add(&mut self, other: Self) {
        self.live += other.live;
        self.deleted += other.deleted;
    }
}

impl ShadowCounter {
    /// Returns the counter of `database`, whose recovery changed the numbers by `recovered`.
    pub(super) fn open(database: &Database, recovered: CountChange) -> Result<Self, StoreError> {
        let base = match database.pages() {
            Some(pages) => CountBase::Checked(Arc::clone(pages)),
            None => CountBase::Known(database.count_records()?),
        };
        Ok(Self { base, change: recovered })
    }

    /// Counts the changes of a commit.
    pub(super) fn add(&mut self, change: CountChange) {
        self.change.add(change);
    }

    /// Returns the numbers; `None` before the check of the pages has ended.
    pub(super) fn counts(&self) -> Option<ShadowCounts> {
        let base = match &self.base {
            CountBase::Checked(pages) => pages.records()?,
            CountBase::Known(counts) => *counts,
        };
        Some(base.changed_by(self.change))
    }

    /// Continues with the reopened `database`, whose recovery changed the numbers by `recovered`. `landed` are the changes
    /// of the failed commit, if they are on the disk, or undoes those of commits that are not, and `fresh` is the number of shadows without a record.
    pub(super) fn reopen(
        &mut self,
        database: &Database,
        recovered: CountChange,
        landed: CountChange,
        fresh: usize,
    ) -> Result<(), StoreError> {
        match (&self.base, database.pages()) {
            (CountBase::Checked(checked), Some(pages)) if Arc::ptr_eq(checked, pages) => {
                let records = signed(database.records()?.saturating_add(fresh as u64));
                let live = self.change.live + landed.live;
                // A commit may have failed that only removed tombstones, and has no entry that shows whether it landed.
                self.change = CountChange { live, deleted: records - signed(pages.state_records()) - live };
            }
            _ => *self = Self::open(database, recovered)?,
        }
        Ok(())
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
