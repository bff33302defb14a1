//! The part of an index that the writer, searches and reports share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{observability::metrics::Counter, shadow::index::IndexedPaths, store::health::IndexHealth};

/// The part of an index that the writer, searches and reports share.
#[derive(Default)]
pub(in crate::store) struct IndexStatus {
    /// The declared paths.
    pub(in crate::store) paths: Arc<IndexedPaths>,
    /// The number of the table that has the entries of all records, and sound pages; 0 for none. Only the writer changes it.
    usable: AtomicU64,
    /// The number of the last table that a search found to be damaged.
    damaged: AtomicU64,
    /// The number of the table on which the storage engine works; 0 for none.
    at_work: AtomicU64,
    health: Mutex<IndexHealth>,
    /// Searches that were answered by the index, and those for which it did not help.
    pub(in crate::store) used: Counter,
    pub(in crate::store) unused: Counter,
}

impl IndexStatus {
    pub(in crate::store) fn new(paths: Arc<IndexedPaths>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// Returns true if a search may read the table with this number.
    pub(in crate::store) fn is_usable(&self, table: u64) -> bool {
        table > 0 && table == self.usable.load(Ordering::Acquire) && !self.is_damaged(table)
    }

    /// Returns true if searches may read some table.
    pub(in crate::store) fn is_any_usable(&self) -> bool {
        self.is_usable(self.usable.load(Ordering::Acquire))
    }

    /// Sets the table that searches may read, 0 for none, and the state for reports.
    pub(in crate::store) fn set(&self, usable: u64, health: IndexHealth) {
        self.usable.store(usable, Ordering::Release);
        *self.health.lock() = health;
    }

    /// Keeps searches from the table, before the file is opened again.
    pub(in crate::store) fn close(&self) {
        self.usable.store(0, Ordering::Release);
    }

    /// Keeps searches from the table with this number, which one of them found to be damaged.
    pub(in crate::store) fn set_damaged(&self, table: u64) {
        self.damaged.store(table, Ordering::Release);
    }

    /// Returns true if a search found that the table with this number is damaged.
    pub(in crate::store) fn is_damaged(&self, table: u64) -> bool {
        table == self.damaged.load(Ordering::Acquire)
    }

    /// Says that the storage engine works on the table with this number.
    pub(in crate::store) fn begin_work(&self, table: u64) {
        self.at_work.store(table, Ordering::Relaxed);
    }

    /// Says that it has come back, if not with success.
    pub(in crate::store) fn end_work(&self) {
        self.at_work.store(0, Ordering::Relaxed);
    }

    /// Returns the number of the table from which the storage engine did not come back, which is forgotten; 0 for none.
    pub(in crate::store) fn interrupted(&self) -> u64 {
        self.at_work.swap(0, Ordering::Relaxed)
    }

    /// Returns the state for reports.
    pub(in crate::store) fn health(&self) -> IndexHealth {
        let mut health = *self.health.lock();
        (health.used, health.unused) = (self.used.get(), self.unused.get());
        health
    }
}
