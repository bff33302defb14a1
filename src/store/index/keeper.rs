//! The writer's part of an index: which table it has, and whether searches may read it.
//!
//! A table is used once its pages are verified, which happens in the background ([`crate::store::pages`]). Until then it is
//! neither read nor written: a shadow whose record is flushed meanwhile is kept here with the record before
//! ([`super::waiting`]), and its entries are changed afterwards.
//!
//! An index is never a reason to refuse data. If its table is damaged or cannot be written, it is given up: the same commit
//! names another table, which is built anew. The former one is touched again after a start that found its pages to be
//! sound, to be emptied in steps and removed.

use std::sync::Arc;

use redb::{TableHandle, WriteTransaction};

#[cfg(test)]
use crate::store::database::AbortCause;
use crate::store::{
    database::Database,
    error::StoreError,
    health::{IndexHealth, IndexReadiness},
    index::{
        self,
        state::{INDEX_KEY, IndexState, TERMS},
        status::IndexStatus,
        waiting::WaitingShadows,
        writing::{IndexChange, IndexCommit},
    },
    pages::check::{CheckedTable, PageCheck},
    schema::META_TABLE,
    slot::DatabaseSlot,
    state::{dictionary::Dictionaries, part::PartDecoder},
};

/// Tables that are given up before no other one is built until the next start.
const GIVEN_UP_MAX: u64 = 3;

/// The index of a store, as its writer keeps it.
pub(in crate::store) struct IndexKeeper {
    status: Arc<IndexStatus>,
    /// The state in the file, but for `is_saved`.
    pub(super) state: IndexState,
    /// False if the state is not in the file.
    pub(super) is_saved: bool,
    /// The numbers of other tables, which are to be emptied and removed.
    pub(super) old_tables: Vec<u64>,
    /// True if the pages of the table are sound.
    pub(super) is_verified: bool,
    pub(super) waiting: WaitingShadows,
    /// The highest number of a table so far.
    newest: u64,
    /// The tables given up since the start.
    given_up: u64,
    decoder: PartDecoder,
    #[cfg(test)]
    pub(in crate::store) of_test: OfTest,
}

/// The faults that tests make.
#[cfg(test)]
#[derive(Default)]
pub(in crate::store) struct OfTest {
    /// The fault of the next change of an entry.
    pub(in crate::store) fault: Option<Box<dyn FnOnce() -> AbortCause + Send>>,
    /// True while the pages are not verified.
    pub(in crate::store) is_unverified: bool,
}

impl IndexKeeper {
    /// Returns the index of `database`, in which the paths of `status` are declared now. One that cannot be used is built anew.
    pub(in crate::store) fn open(database: &Database, status: Arc<IndexStatus>) -> Result<Self, StoreError> {
        let (found, mut tables) = database.read(|transaction| {
            let meta = transaction.open_table(META_TABLE)?;
            let record = meta.get(INDEX_KEY)?.map(|value| IndexState::decode(value.value()));
            let mut tables = Vec::new();
            for table in transaction.list_tables()? {
                tables.extend(index::generation_of(table.name()));
            }
            Ok((record, tables))
        })?;
        let expected = database.progress()?.index;
        let newest = tables.iter().copied().max().unwrap_or_default().max(expected);
        let (mut given_up, interrupted) = (status.health().given_up, status.interrupted());
        let known = match found {
            Some(Ok(state)) if state.generation == interrupted => {
                let table = interrupted;
                tracing::error!(table, "the storage engine stopped on the index of searches; it is built anew");
                given_up += 1;
                None
            }
            None if expected == 0 => Some(IndexState::default()),
            Some(Ok(state)) if state.terms != TERMS => {
                tracing::info!(
                    table = expected,
                    "the index of searches has terms of another version; it is built anew"
                );
                None
            }
            Some(Ok(state)) if state.generation == expected && !state.is_behind => Some(state),
            Some(Ok(state)) if state.is_behind => {
                tracing::warn!(table = expected, "the index of searches lacks changes; it is built anew");
                None
            }
            found => {
                let detail = found.and_then(Result::err).map_or_else(String::new, |error| error.to_string());
                tracing::error!(
                    table = expected,
                    detail,
                    "the record of the index of searches is damaged; it is built anew"
                );
                None
            }
        };
        let state = match &known {
            _ if status.paths.is_empty() || given_up >= GIVEN_UP_MAX => IndexState::default(),
            Some(known) if known.generation > 0 => known.clone().declared(&status.paths, newest),
            _ => IndexState::empty(newest + 1, &status.paths),
        };
        tables.retain(|table| *table != state.generation);
        if let Some(building) = &state.building {
            let paths = building.paths.iter().map(|kept| kept.path.to_string()).collect::<Vec<_>>().join(", ");
            tracing::info!(paths, after = building.cursor, "building the index of searches in the background");
        }
        let mut keeper = Self {
            is_saved: known.as_ref() == Some(&state),
            // A table that does not exist yet needs no check.
            is_verified: state.generation != expected,
            newest: newest.max(state.generation),
            status,
            state,
            old_tables: tables,
            waiting: WaitingShadows::default(),
            given_up,
            decoder: PartDecoder::default(),
            #[cfg(test)]
            of_test: OfTest::default(),
        };
        keeper.look(database.pages().map(Arc::as_ref));
        Ok(keeper)
    }

    /// Looks at what is known of the pages by now, and at what searches have found.
    pub(in crate::store) fn look(&mut self, pages: Option<&PageCheck>) {
        // What was not in the file when it was opened has no damaged page.
        let sound = |table: u64| pages.map_or(Some(true), |pages| pages.index_is_sound(table));
        #[cfg(test)]
        let is_unverified = self.of_test.is_unverified;
        #[cfg(test)]
        let sound = |table: u64| if is_unverified { None } else { sound(table) };
        if self.state.generation > 0 && !self.is_verified {
            match sound(self.state.generation) {
                None => {}
                Some(true) => self.is_verified = true,
                Some(false) => self.give_up("a page of it is damaged"),
            }
        }
        if self.state.generation > 0 && self.status.is_damaged(self.state.generation) {
            self.give_up("a search found that an entry is damaged");
        }
        self.old_tables.retain(|table| {
            let is_damaged = sound(*table) == Some(false);
            if is_damaged {
                tracing::warn!(
                    table,
                    "a former index is damaged and stays in the file until it is restored from a backup"
                );
            }
            !is_damaged
        });
        self.report();
    }

    /// Gives the table up, and begins another one, unless that happened too often.
    pub(super) fn give_up(&mut self, reason: &str) {
        let table = self.state.generation;
        self.given_up += 1;
        (self.state, self.newest) = self.next_table(self.given_up);
        (self.is_saved, self.is_verified) = (false, true);
        self.waiting.clear();
        match self.state.generation {
            0 => tracing::error!(table, reason, "the index of searches is given up until the next start"),
            _ => tracing::error!(table, reason, "the index of searches is given up; it is built anew"),
        }
        self.report();
    }

    /// Returns the state after `given_up` tables were given up, and the highest number of a table.
    fn next_table(&self, given_up: u64) -> (IndexState, u64) {
        if given_up >= GIVEN_UP_MAX {
            return (IndexState::default(), self.newest);
        }
        let next = self.newest + 1;
        (IndexState::empty(next, &self.status.paths), next)
    }

    /// Sets the table that searches may read, and the state for reports.
    fn report(&self) {
        let is_complete = self.is_verified && self.waiting.is_empty();
        let readiness = match self.state.generation {
            _ if self.status.paths.is_empty() => IndexReadiness::Undeclared,
            0 => IndexReadiness::Damaged,
            _ if !is_complete => IndexReadiness::Verifying,
            _ if self.state.building.is_some() || !self.is_saved => IndexReadiness::Building,
            _ => IndexReadiness::Complete,
        };
        // A table that no commit has named yet has nothing to read.
        let usable = if is_complete { self.state.generation } else { 0 };
        self.status.set(usable, IndexHealth { readiness, given_up: self.given_up, ..IndexHealth::default() });
    }

    /// Returns true if there is something to write for the index alone.
    pub(in crate::store) fn has_work(&mut self, database: &DatabaseSlot) -> bool {
        let pages = database.pages();
        self.look(pages.as_deref());
        let is_sound = |table: &u64| pages.as_ref().is_none_or(|pages| pages.index_is_sound(*table) == Some(true));
        let is_building = self.state.building.is_some() && database.is_sound(CheckedTable::State);
        let has_entries = is_building || !self.waiting.is_empty() || !self.state.removing.is_empty();
        !self.is_saved || (self.is_verified && has_entries) || self.old_tables.iter().any(is_sound)
    }

    /// Returns true if there will be something to write once more pages are verified.
    pub(in crate::store) fn is_waiting(&self, database: &DatabaseSlot) -> bool {
        let is_unverified = self.state.generation > 0 && !self.is_verified;
        let needs_pages = is_unverified || self.state.building.is_some() || !self.old_tables.is_empty();
        needs_pages && database.pages().is_some_and(|pages| !pages.is_finished())
    }

    /// Makes the pages unverified, as those of a large file are when it is opened.
    #[cfg(test)]
    pub(in crate::store) fn hold(&mut self) {
        (self.is_verified, self.of_test.is_unverified) = (self.state.generation == 0 || !self.is_saved, true);
        self.report();
    }

    /// Returns the number of the table.
    #[cfg(test)]
    pub(in crate::store) fn generation(&self) -> u64 {
        self.state.generation
    }

    /// Begins a commit of the index. Nothing is written before it is needed.
    pub(in crate::store) fn begin<'k, 't>(
        &'k mut self,
        transaction: &'t WriteTransaction,
        database: &'k DatabaseSlot,
        dictionaries: &'k Dictionaries,
    ) -> IndexCommit<'k, 't> {
        let given_up = self.next_table(self.given_up + 1).0;
        IndexCommit {
            transaction,
            status: &self.status,
            table: None,
            next: self.state.clone(),
            former: &self.state,
            is_saved: self.is_saved,
            is_verified: self.is_verified,
            old_tables: &self.old_tables,
            waiting: &self.waiting,
            decoder: &mut self.decoder,
            dictionaries,
            database,
            given_up,
            change: IndexChange::default(),
            written: 0,
            #[cfg(test)]
            of_test: &mut self.of_test,
        }
    }

    /// Takes the change that was committed.
    pub(in crate::store) fn committed(&mut self, change: IndexChange) {
        let IndexChange { next, added, done, removed_table, fault } = change;
        if let Some(fault) = fault {
            // The commit has the same state.
            self.give_up(&fault);
            self.is_saved = true;
            return self.report();
        }
        if self.state.building.is_some() && next.building.is_none() {
            tracing::info!(devices = next.devices, "the index of searches is complete");
        }
        (self.state, self.is_saved) = (next, true);
        self.old_tables.retain(|table| Some(*table) != removed_table);
        self.waiting.add(added);
        self.waiting.remove(&done);
        if self.waiting.is_too_large() {
            return self.give_up("too much was written before its pages were verified");
        }
        self.report();
    }
}
