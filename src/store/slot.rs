//! The place of the open file, which is empty while the store is reopened after a failed commit or read.
//!
//! A file can be open only once. Each call holds the file it began with, so the old one is closed when the last of them
//! ends ([`DatabaseSlot::release`]), and only then can the file be opened again. Calls in between fail with
//! [`StoreError::Reopening`].

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::{Mutex, RwLock};
use redb::{Durability, ReadTransaction, WriteTransaction};

use crate::store::{
    backup::copy::CopyError,
    database::{AbortCause, CommitFailure, Database, OnFailure},
    error::StoreError,
    pages::check::{CheckedTable, PageCheck},
};

/// The open file, or none.
pub(super) struct DatabaseSlot {
    path: PathBuf,
    current: RwLock<Option<Arc<Database>>>,
    /// The check of the pages of the file, also while it is not open.
    pages: Mutex<Option<Arc<PageCheck>>>,
    on_failure: OnceLock<OnFailure>,
}

impl DatabaseSlot {
    pub(super) fn new(database: Database, path: PathBuf) -> Self {
        let pages = Mutex::new(database.pages().cloned());
        Self { path, current: RwLock::new(Some(Arc::new(database))), pages, on_failure: OnceLock::new() }
    }

    /// Calls `on_failure` once the open file, or one that is opened later, must be opened again: a read or a write has failed.
    pub(super) fn notify(&self, on_failure: OnFailure) {
        self.current.read().iter().for_each(|database| database.notify(Arc::clone(&on_failure)));
        let is_first = self.on_failure.set(on_failure).is_ok();
        debug_assert!(is_first, "a store has one writer");
    }

    /// Returns the error for which the open file must be opened again, if there was one.
    pub(super) fn failure(&self) -> Option<String> {
        self.current.read().as_ref()?.failure().map(str::to_owned)
    }

    /// Removes the file for new calls. It is closed once the result can no longer be upgraded.
    pub(super) fn release(&self) -> Option<Weak<Database>> {
        let database = self.current.write().take()?;
        database.retire();
        Some(Arc::downgrade(&database))
    }

    /// Opens the slot with the reopened file.
    pub(super) fn set(&self, database: Database) {
        *self.pages.lock() = database.pages().cloned();
        self.on_failure.get().into_iter().for_each(|on_failure| database.notify(Arc::clone(on_failure)));
        *self.current.write() = Some(Arc::new(database));
    }

    /// Returns the open file.
    pub(super) fn get(&self) -> Result<Arc<Database>, StoreError> {
        self.current.read().clone().ok_or(StoreError::Reopening)
    }

    /// Returns the check of the pages of the file; `None` for a file in memory.
    pub(super) fn pages(&self) -> Option<Arc<PageCheck>> {
        self.pages.lock().clone()
    }

    /// Returns true once all pages of `table` are known to be sound.
    pub(super) fn is_sound(&self, table: CheckedTable) -> bool {
        self.pages.lock().as_ref().is_none_or(|pages| pages.is_sound(table))
    }

    /// As [`Database::read`].
    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&ReadTransaction) -> Result<T, AbortCause>,
    ) -> Result<T, StoreError> {
        self.get()?.read(body)
    }

    /// As [`Database::commit_with`].
    pub(super) fn commit_with<T>(
        &self,
        durability: Durability,
        fill: impl FnOnce(&WriteTransaction) -> Result<T, AbortCause>,
    ) -> Result<T, CommitFailure> {
        self.get().map_err(CommitFailure::NotTried)?.commit_with(durability, fill)
    }

    /// As [`Database::back_up`].
    pub(super) fn back_up(&self, out: impl Write) -> Result<(), CopyError> {
        self.get()?.back_up(out)
    }

    /// Returns the bytes of the file; 0 if unknown.
    pub(super) fn file_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}
