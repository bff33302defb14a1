//! The events of the log, applied to the rollouts of a node of a cluster.
//!
//! The writer of the store calls this for each record, at every node in the same order, and commits the edits with the record. So all nodes
//! have the same rollouts, in memory and on disk, as of a record.
//!
//! *Invariant:* what an event makes depends on the rollouts and the events before alone, never on the time, the node, or the work that is
//! under way.

use std::{mem, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    fleet::{
        Rollout,
        rollout::{
            Control, DeviceEntry, DeviceState, Moment, NotPossible, State,
            spec::{Abort, DEVICES_MAX},
        },
    },
    rollouts::{
        FORBIDDEN, Refused, Rollouts, Slot,
        event::{self, Event, Message},
        log::{Answer, RolloutLog},
        overlap::Compared,
        registry::Registry,
        restoring::restored,
        rows::{self, HeadRow, Staged, StagedRow},
        slot::Login,
    },
    shadow::Version,
    store::RowEdit,
};

/// The time after which nothing is done any more for what a client asks for, in milliseconds. It was answered long before that it is not
/// confirmed.
const LATE_MS: u64 = 30_000;

/// An answer, with the edits that are committed with the record.
type Applied = (Answer, Vec<RowEdit>);

impl Rollouts {
    /// Applies a broadcast. Returns the edits that it makes.
    pub(super) fn apply(&self, bytes: &Bytes) -> Vec<RowEdit> {
        let Some(log) = &self.log else { return Vec::new() };
        let Some(message) = Message::decode(bytes) else {
            tracing::error!("an event of a rollout cannot be read; it is of a later version");
            return Vec::new();
        };
        let (request, senders) = (message.request, log.senders_of(&message.event));
        let mut registry = self.registry.lock();
        let is_late = registry.clock_ms > message.moment.running_ms.saturating_add(LATE_MS);
        let (answer, rows) = if message.event.is_of_driver() && message.driver != registry.driver {
            (Answer::Void, Vec::new())
        } else if is_late && message.event.is_of_client() {
            (Answer::Refused(Refused::Unconfirmed), Vec::new())
        } else {
            log.applied(&mut registry, message)
        };
        drop(registry);
        let _is_of_another_node = senders.answer(request, answer);
        self.wake();
        rows
    }

    /// Applies the row of a device that an accepted update has. Returns the edits that it makes.
    pub(super) fn apply_row(&self, edit: RowEdit) -> Vec<RowEdit> {
        let (Some(log), Some((slot, index, entry))) = (&self.log, self.device_of(&edit)) else { return Vec::new() };
        let date = entry.updated.unwrap_or_default();
        let ((), rows) = slot.apply(&log.quotas, date, |rollout| rollout.on_accepted(index, entry));
        self.wake();
        rows
    }

    /// Returns true if an update with this row of a device may be accepted now, behind the broadcasts `undecided`.
    pub(super) fn permits(&self, edit: &RowEdit, undecided: &[Bytes]) -> bool {
        let Some((slot, index, entry)) = self.device_of(edit) else { return false };
        let has_limits = slot.read(|rollout, _| rollout.spec().abort != Abort::default());
        let precludes = |bytes: &Bytes| event::precludes(bytes, slot.number, index, has_limits);
        !undecided.iter().any(precludes) && slot.read(|rollout, _| rollout.permits(index, &entry))
    }

    /// Returns the rollout, the index and the entry of the device of which `edit` sets the row.
    fn device_of(&self, edit: &RowEdit) -> Option<(Arc<Slot>, usize, DeviceEntry)> {
        let (RowEdit::Put(key, value) | RowEdit::Insert(key, value)) = edit else { return None };
        let (number, index) = rows::device_of(key)?;
        let slot = self.registry.lock().numbered(number)?.clone();
        let id = slot.read(|rollout, _| Some(rollout.devices().get(index)?.id.clone()))?;
        let entry = DeviceEntry::read(id, value)?;
        Some((slot, index, entry))
    }
}

impl RolloutLog {
    fn applied(&self, registry: &mut Registry, message: Message) -> Applied {
        let Message { number, moment, event, .. } = message;
        match event {
            Event::Part { by, from, ids, forbidden } => {
                self.stage(registry, (number, by), (from, ids, &forbidden), moment)
            }
            Event::Created { head, count, compared } => self.create(registry, (number, *head, count), &compared),
            Event::Withdrawn => {
                let staged = registry.staged.remove(&number).unwrap_or_default();
                (Answer::Done, staged.removals(number))
            }
            Event::Driver { replaces, .. } if replaces != registry.driver => (Answer::Void, Vec::new()),
            Event::Driver { number: driver, .. } => {
                registry.driver = driver;
                self.set_clock(registry, moment)
            }
            Event::Clock => self.set_clock(registry, moment),
            event => match registry.numbered(number).cloned() {
                Some(slot) => self.applied_to(registry, &slot, event, moment),
                // It has ended and was removed meanwhile.
                None => (Answer::Refused(Refused::Removed), Vec::new()),
            },
        }
    }

    fn set_clock(&self, registry: &mut Registry, moment: Moment) -> Applied {
        // A node that takes over may not have had the last record of it.
        registry.clock_ms = registry.clock_ms.max(moment.running_ms);
        *self.time.lock() = (registry.clock_ms, Instant::now());
        let mut rows = registry.withdraw_staged();
        rows.push(rows::put_driver(registry.clock_ms, registry.driver));
        (Answer::Done, rows)
    }

    fn create(
        &self,
        registry: &mut Registry,
        (number, head, count): (u64, HeadRow, usize),
        compared: &Compared,
    ) -> Applied {
        let staged = registry.staged.remove(&number).unwrap_or_default();
        let removals = staged.removals(number);
        let refused = |refused| (Answer::Refused(refused), removals.clone());
        let displaced = match registry.place(&head.id, &head.created_by, compared) {
            Ok(Some(displaced)) => displaced,
            Ok(None) => {
                if staged.row.is_some() {
                    registry.staged.insert(number, staged);
                }
                return (Answer::Lacking, Vec::new());
            }
            Err(reason) => return refused(reason),
        };
        if staged.ids.len() != count || registry.numbered(number).is_some() {
            // It took so long that its devices were withdrawn.
            return refused(Refused::Unconfirmed);
        }
        let Some(slot) = restored((number, head, staged), &self.quotas, &self.authority, true) else {
            return refused(Refused::Internal);
        };
        let slot = Arc::new(slot);
        let mut rows = Vec::new();
        if let Some(displaced) = displaced {
            registry.remove(&displaced);
            rows = displaced.take_rows();
        }
        rows.push(slot.head_edit());
        registry.add(&slot);
        (Answer::Done, rows)
    }

    fn applied_to(&self, registry: &mut Registry, slot: &Arc<Slot>, event: Event, moment: Moment) -> Applied {
        let edit = |change: &mut dyn FnMut(&mut Rollout)| {
            let ((), rows) = slot.apply(&self.quotas, moment.date, |rollout| change(rollout));
            (Answer::Done, rows)
        };
        if event.commands().is_some_and(|known| known != slot.commands()) {
            return (Answer::Lacking, Vec::new());
        }
        match event {
            Event::Removed { .. } if slot.is_removable() => {
                registry.remove(slot);
                (Answer::Done, slot.take_rows())
            }
            Event::Removed { .. } => refused_by(slot.state()),
            Event::Controlled { control, .. } => self.control(slot, control, moment),
            Event::RolledBack { login, compared, .. } => {
                match registry.may_roll_back(slot, login.principal(), compared.as_ref()) {
                    Ok(true) => {
                        let login = Login::restored(*login, &self.authority);
                        let (begun, rows) = slot.apply_roll_back(&self.quotas, moment.date, login);
                        (begun.map_or_else(|state| Answer::Refused(Refused::State(state)), |()| Answer::Done), rows)
                    }
                    Ok(false) => (Answer::Lacking, Vec::new()),
                    Err(refused) => (Answer::Refused(refused), Vec::new()),
                }
            }
            Event::Ended { index, state, mut reason } => {
                edit(&mut |rollout| rollout.on_ended(index, state, mem::take(&mut reason), moment))
            }
            Event::Corrected { index, version, mut written } => {
                edit(&mut |rollout| rollout.on_corrected(index, Version(version), written.take()))
            }
            Event::Checked { converged, overdue } => {
                edit(&mut |rollout| rollout.on_found(&converged, &overdue, moment))
            }
            Event::Joined { from, ids, compared } => match (registry.lacking(&compared).is_empty(), rows::ids_of(&ids))
            {
                (true, Some(mut ids)) => edit(&mut |rollout| rollout.on_joined(from, mem::take(&mut ids))),
                (false, _) => (Answer::Lacking, Vec::new()),
                (true, None) => (Answer::Refused(Refused::Internal), Vec::new()),
            },
            Event::Stopped { reason, rollbacks } => edit(&mut |rollout| {
                if rollout.rollbacks() == rollbacks {
                    rollout.stop(&reason);
                }
            }),
            Event::Part { .. } | Event::Created { .. } | Event::Withdrawn | Event::Driver { .. } | Event::Clock => {
                unreachable!("they are about no rollout that is there")
            }
        }
    }

    fn control(&self, slot: &Slot, control: Control, moment: Moment) -> Applied {
        let (controlled, rows) = slot.apply(&self.quotas, moment.date, |rollout| rollout.control(control));
        (controlled.map_or_else(|state| Answer::Refused(Refused::State(state)), |()| Answer::Done), rows)
    }

    /// Keeps devices of a rollout that the principal `by` is about to create.
    fn stage(
        &self,
        registry: &mut Registry,
        (number, by): (u64, Arc<str>),
        (from, text, forbidden): (usize, String, &[usize]),
        moment: Moment,
    ) -> Applied {
        let refused = |refused| (Answer::Refused(refused), Vec::new());
        let Some(ids) = rows::ids_of(&text) else { return refused(Refused::Internal) };
        if registry.numbered(number).is_some() || ids.is_empty() || from.saturating_add(ids.len()) > DEVICES_MAX {
            return refused(Refused::Internal);
        }
        let mut edits = Vec::new();
        if !registry.staged.contains_key(&number) {
            if from > 0 {
                // It took so long that those before were withdrawn.
                return refused(Refused::Unconfirmed);
            }
            if let Err(reason) = registry.check_staged(&by) {
                return refused(reason);
            }
            let row = StagedRow { staged_by: by, begun_ms: registry.clock_ms };
            edits.push(rows::put_staged(number, &row));
            registry.staged.insert(number, Staged { row: Some(row), ..Staged::default() });
        }
        let Some(staged) = registry.staged.get_mut(&number).filter(|staged| staged.ids.len() == from) else {
            return refused(Refused::Internal);
        };
        edits.push(rows::put_id_text(number, from, text));
        for index in forbidden {
            let Some(id) = index.checked_sub(from).and_then(|at| ids.get(at)) else { continue };
            let (state, reason) = (DeviceState::Skipped, Some(FORBIDDEN.into()));
            let entry = DeviceEntry { state, reason, updated: Some(moment.date), ..DeviceEntry::queued(id.clone()) };
            staged.records.push((*index, entry.record().into()));
            edits.push(rows::put_device(number, *index, &entry));
        }
        staged.ids.extend(ids);
        staged.id_rows.push(from);
        staged.charge(from, &self.quotas);
        (Answer::Done, edits)
    }
}

fn refused_by(state: State) -> Applied {
    (Answer::Refused(Refused::State(NotPossible(state))), Vec::new())
}
