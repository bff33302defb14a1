//! The registry: all rollouts by their ids, and how many there may be.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    fleet::rollout::NotPossible,
    rollouts::{
        Refused, Slot,
        overlap::Compared,
        rows::{Staged, StagedRow},
    },
    store::RowEdit,
};

/// Most rollouts that are kept, of all principals and of one.
const KEPT_MAX: usize = 1_000;
const KEPT_BY_ONE_MAX: usize = 100;
/// Most rollouts that have not ended, of all principals and of one.
const ACTIVE_MAX: usize = 100;
const ACTIVE_BY_ONE_MAX: usize = 16;
/// Most rollouts that are being created in a cluster at a time, and the longest time for it.
const STAGED_MAX: usize = 100;
const STAGED_MS_MAX: u64 = 600_000;

#[derive(Default)]
pub(super) struct Registry {
    by_id: BTreeMap<Arc<str>, Arc<Slot>>,
    by_number: HashMap<u64, Arc<Slot>>,
    last_number: u64,
    /// The devices of rollouts that are being created in a cluster.
    pub(super) staged: BTreeMap<u64, Staged>,
    /// The driver of a cluster's rollouts, by the random number that it has chosen; 0 for none.
    pub(super) driver: u64,
    /// The time for which a cluster has run, as its log has it.
    pub(super) clock_ms: u64,
}

impl Registry {
    /// Returns an empty registry whose next rollout has a number above `last_number`.
    pub(super) fn after(last_number: u64) -> Self {
        Self { last_number, ..Self::default() }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<Slot>> {
        self.by_id.get(id)
    }

    pub(super) fn numbered(&self, number: u64) -> Option<&Arc<Slot>> {
        self.by_number.get(&number)
    }

    /// Returns all rollouts in the order of their ids.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.by_id.values()
    }

    /// Returns the number of the next rollout of a single node.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Adds a rollout.
    pub(super) fn add(&mut self, slot: &Arc<Slot>) {
        self.by_id.insert(slot.id.clone(), slot.clone());
        self.by_number.insert(slot.number, slot.clone());
    }

    /// Removes a rollout, unless that was done before.
    pub(super) fn remove(&mut self, slot: &Arc<Slot>) {
        if self.has(slot) {
            self.by_id.remove(&slot.id);
            self.by_number.remove(&slot.number);
        }
    }

    /// Returns the place for a rollout `id` of the principal `by`, unless it is still to be compared with others (`None`): the rollout
    /// that is to be removed for it, if there must be one.
    pub(super) fn place(
        &self,
        id: &Arc<str>,
        by: &Arc<str>,
        compared: &Compared,
    ) -> Result<Option<Option<Arc<Slot>>>, Refused> {
        if !self.lacking(compared).is_empty() {
            return Ok(None);
        }
        self.room(id, by).map(Some)
    }

    /// Returns true if the former values of `slot` may be restored on behalf of the principal `by`, and false if it has ended and is still
    /// to be compared with others.
    pub(super) fn may_roll_back(
        &self,
        slot: &Arc<Slot>,
        by: &Arc<str>,
        compared: Option<&Compared>,
    ) -> Result<bool, Refused> {
        if !self.has(slot) {
            return Err(Refused::State(NotPossible(slot.state())));
        }
        if !slot.state().is_final() {
            return Ok(true);
        }
        self.check_active(by)?;
        Ok(compared.is_some_and(|compared| self.lacking(compared).is_empty()))
    }

    /// Returns true if `slot` was not removed.
    fn has(&self, slot: &Arc<Slot>) -> bool {
        self.by_id.get(&slot.id).is_some_and(|found| Arc::ptr_eq(found, slot))
    }

    /// Returns the rollouts with which a rollout is still to be compared.
    pub(super) fn lacking(&self, compared: &Compared) -> Vec<Arc<Slot>> {
        self.by_id.values().filter(|other| compared.lacks(other)).cloned().collect()
    }

    /// Checks that the principal `name` may have another rollout, with this id. At the limit, returns its oldest bulk change that has
    /// ended, which is to be removed for it.
    pub(super) fn room(&self, id: &Arc<str>, name: &Arc<str>) -> Result<Option<Arc<Slot>>, Refused> {
        if self.by_id.contains_key(id) {
            return Err(Refused::Exists(id.clone()));
        }
        self.check_active(name)?;
        let own = self.by_id.values().filter(|slot| slot.created_by == *name);
        let (count, oldest) = own.fold((0, None::<&Arc<Slot>>), |(count, oldest), slot| {
            let is_older = |oldest: &Arc<Slot>| slot.number < oldest.number;
            let is_candidate = slot.is_bulk && slot.is_removable() && oldest.is_none_or(is_older);
            (count + 1, if is_candidate { Some(slot) } else { oldest })
        });
        if count < KEPT_BY_ONE_MAX && self.by_id.len() < KEPT_MAX {
            return Ok(None);
        }
        match oldest {
            Some(oldest) => Ok(Some(oldest.clone())),
            None if count >= KEPT_BY_ONE_MAX => Err(Refused::TooMany(format!(
                "'{name}' has {count}, the most that are kept; delete some that have ended"
            ))),
            None => Err(Refused::TooMany(format!("the server keeps {KEPT_MAX}; delete some that have ended"))),
        }
    }

    /// Removes the rollouts that are being created for too long: their creator has gone away, or its node. Returns the removals of
    /// their rows.
    pub(super) fn withdraw_staged(&mut self) -> Vec<RowEdit> {
        let is_over = |row: &StagedRow| self.clock_ms > row.begun_ms.saturating_add(STAGED_MS_MAX);
        let over = self.staged.extract_if(.., |_, staged| staged.row.as_ref().is_none_or(is_over));
        over.flat_map(|(number, staged)| staged.removals(number)).collect()
    }

    /// Checks that the principal `name` may begin to create another rollout in a cluster.
    pub(super) fn check_staged(&self, name: &Arc<str>) -> Result<(), Refused> {
        self.check_active(name)?;
        let is_active = |slot: &&Arc<Slot>| slot.created_by == *name && !slot.state().is_final();
        let own = self.by_id.values().filter(is_active).count();
        let own = own + self.staged.values().filter(|staged| staged.is_of(name)).count();
        if own >= ACTIVE_BY_ONE_MAX {
            let text = format!("{own} of '{name}' have not ended or are being created, the most at a time");
            return Err(Refused::TooMany(text));
        }
        match self.staged.len() >= STAGED_MAX {
            true => Err(Refused::TooMany(format!("{STAGED_MAX} are being created, the most at a time"))),
            false => Ok(()),
        }
    }

    /// Checks that the principal `name` may have another rollout that has not ended.
    fn check_active(&self, name: &Arc<str>) -> Result<(), Refused> {
        let active = self.by_id.values().filter(|slot| !slot.state().is_final());
        let (all, own) = active.fold((0, 0), |(all, own), slot| (all + 1, own + usize::from(slot.created_by == *name)));
        if own >= ACTIVE_BY_ONE_MAX {
            return Err(Refused::TooMany(format!("{own} of '{name}' have not ended, the most at a time")));
        }
        match all >= ACTIVE_MAX {
            true => Err(Refused::TooMany(format!("{all} have not ended, the most at a time"))),
            false => Ok(()),
        }
    }
}
