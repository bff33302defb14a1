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
        rollout::{Control, DeviceEntry, DeviceState, Moment, NotPossible, State, spec::DEVICES_MAX},
    },
    http::rollouts::{
        FORBIDDEN, Refused, Rollouts, Slot,
        event::{self, Event, Message},
        log::{Answer, RolloutLog},
        overlap::Compared,
        registry::{Registry, Staged},
        restoring::{login_of, restored},
        rows::{self, HeadRow},
    },
    shadow::Version,
    store::RowEdit,
};

/// Most rollouts that are being created at a time.
const STAGED_MAX: usize = 100;

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
        let (request, is_of_driver) = (message.request, message.event.is_of_driver());
        let mut registry = self.registry.lock();
        let (answer, rows) = match is_of_driver && message.driver != registry.driver {
            true => (Answer::Void, Vec::new()),
            false => log.applied(&mut registry, message),
        };
        drop(registry);
        if let Some(waiting) = log.waiting.lock().remove(&request) {
            let _nobody_waits_any_more = waiting.send(answer);
        }
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
        let is_fenced = undecided.iter().any(|bytes| event::is_fence_of(bytes, slot.number));
        !is_fenced && slot.read(|rollout, _| rollout.permits(index, &entry))
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
            Event::Part { from, ids, forbidden } => stage(registry, number, (from, ids, &forbidden), moment),
            Event::Created { head, count, compared } => self.create(registry, (number, *head, count), &compared),
            Event::Withdrawn => {
                let staged = registry.staged.remove(&number).unwrap_or_default();
                (Answer::Done, staged.removals(number))
            }
            Event::Driver(driver) => {
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

    fn set_clock(&self, registry: &Registry, moment: Moment) -> Applied {
        *self.time.lock() = (moment.running_ms, Instant::now());
        (Answer::Done, vec![rows::put_driver(moment.running_ms, registry.driver)])
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
                if !staged.ids.is_empty() {
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
        match event {
            Event::Removed if slot.is_removable() => {
                registry.remove(slot);
                (Answer::Done, slot.take_rows())
            }
            Event::Removed => refused_by(slot.state()),
            Event::Controlled(control) => self.control(slot, control, moment),
            Event::RolledBack { login, compared } => {
                match registry.may_roll_back(slot, login.principal(), compared.as_ref()) {
                    Ok(true) => {
                        let login = login_of(*login, &self.authority);
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
            Event::Stopped { reason, is_rolling_back } => edit(&mut |rollout| {
                if is_rolling_back == (rollout.state() == State::RollingBack) {
                    rollout.stop(&reason);
                }
            }),
            Event::Part { .. } | Event::Created { .. } | Event::Withdrawn | Event::Driver(_) | Event::Clock => {
                unreachable!("they are about no rollout that is there")
            }
        }
    }

    fn control(&self, slot: &Slot, control: Control, moment: Moment) -> Applied {
        let (controlled, rows) = slot.apply(&self.quotas, moment.date, |rollout| rollout.control(control));
        (controlled.map_or_else(|state| Answer::Refused(Refused::State(state)), |()| Answer::Done), rows)
    }
}

fn refused_by(state: State) -> Applied {
    (Answer::Refused(Refused::State(NotPossible(state))), Vec::new())
}

/// Keeps devices of a rollout that is about to be created.
fn stage(
    registry: &mut Registry,
    number: u64,
    (from, text, forbidden): (usize, String, &[usize]),
    moment: Moment,
) -> Applied {
    let refused = |refused| (Answer::Refused(refused), Vec::new());
    if registry.numbered(number).is_some() {
        return refused(Refused::Internal);
    }
    if registry.staged.len() >= STAGED_MAX && !registry.staged.contains_key(&number) {
        return refused(Refused::TooMany(format!("{STAGED_MAX} are being created, the most at a time")));
    }
    let Some(ids) = rows::ids_of(&text) else { return refused(Refused::Internal) };
    let follows = registry.staged.get(&number).map_or(0, |staged| staged.ids.len()) == from;
    if !follows || ids.is_empty() || from + ids.len() > DEVICES_MAX {
        return refused(Refused::Internal);
    }
    let staged: &mut Staged = registry.staged.entry(number).or_default();
    let mut edits = vec![rows::put_id_text(number, from, text)];
    for index in forbidden {
        let Some(id) = index.checked_sub(from).and_then(|at| ids.get(at)) else { continue };
        let (state, reason) = (DeviceState::Skipped, Some(FORBIDDEN.into()));
        let entry = DeviceEntry { state, reason, updated: Some(moment.date), ..DeviceEntry::queued(id.clone()) };
        staged.records.push((*index, entry.record().into()));
        edits.push(rows::put_device(number, *index, &entry));
    }
    staged.ids.extend(ids);
    staged.id_rows.push(from);
    (Answer::Done, edits)
}
