//! Rollouts: a change of many shadows, in waves that go on by the success of the devices.
//!
//! A [`Rollout`] is a state machine without I/O and clock. Its driver asks for [`Work`], does it, and reports the outcome
//! with the time; an operator's commands and changes of devices come in between. It collects which parts of it changed
//! ([`Rollout::take_edits`]), for the rows of the store.
//!
//! - A device is *open* until it has succeeded, failed or was skipped. A wave is done when none of its devices is open.
//! - The row of a device whose update is accepted is committed together with the update: the driver asks for it ahead
//!   ([`Rollout::sent_entry`]). So after a crash, the row says exactly whether the device was changed.
//! - A rollout aborts as soon as more devices have failed than its limits allow, in the middle of a wave as well.
//!
//! *Invariant:* no device beyond the present wave is sent an update, and no device two at a time. A device that was
//! written is written again only to restore its former values.
//!
//! *Not here:* the set of devices (a scan), the conditions on a device (rights, documents), and the clock, whose time is
//! that for which the server ran.

mod checks;
mod control;
pub mod convergence;
pub mod device;
mod replicated;
pub mod spec;
pub mod state;
#[cfg(test)]
mod tests;
pub mod written;

use std::{
    collections::{BTreeSet, HashSet},
    mem,
    sync::Arc,
};

pub use self::{
    device::{Counts, DeviceEntry, DeviceState},
    spec::{Spec, SpecError},
    state::{Control, Edits, Head, Moment, NotPossible, RestoreOutcome, State, UpdateOutcome, Work},
    written::WrittenPath,
};
use crate::{
    fleet::rollout::spec::Success,
    shadow::{DeviceId, Version},
};

/// A rollout.
#[derive(Debug)]
pub struct Rollout {
    spec: Arc<Spec>,
    head: Head,
    devices: Vec<DeviceEntry>,
    /// The devices that each wave reaches in all.
    waves: Vec<usize>,
    counts: Counts,
    /// Open devices of the waves up to the present one.
    open: usize,
    /// The first device that was not looked at for an update, or to be restored.
    next: usize,
    /// Devices before `next` that are to be looked at again.
    again: BTreeSet<usize>,
    /// Devices whose update or restoration was handed out.
    under_way: HashSet<usize>,
    /// Sent devices to be checked.
    unchecked: BTreeSet<usize>,
    /// The running time at which the check under way began; `None` if there is none.
    checking_since_ms: Option<u64>,
    /// The deadlines of sent devices that are not over.
    due: BTreeSet<(u64, usize)>,
    /// The running time before which the rate allows no further update, in microseconds.
    rested_us: u64,
    /// True while devices that match by now are searched for.
    is_finding: bool,
    /// The approximate memory of the entries beside [`ENTRY_BYTES`].
    memory: usize,
    edits: Edits,
    /// True for one of a cluster, which changes by the log alone ([`replicated`]).
    is_replicated: bool,
}

/// Most devices that are checked at once.
const CHECKED_AT_ONCE: usize = 200;
/// The time by which updates may be behind their rate and still catch up, in microseconds.
const BEHIND_US: u64 = 100_000;
/// The approximate memory of a device beside its id, its reason and what was written.
const ENTRY_BYTES: usize = 160;

impl Rollout {
    /// Returns a rollout to `devices` that has not begun.
    #[must_use]
    pub fn new(spec: Arc<Spec>, devices: Vec<DeviceId>) -> Self {
        let state = if spec.paused { State::Paused } else { State::Running };
        let devices: Vec<_> = devices.into_iter().map(DeviceEntry::queued).collect();
        let head = Head { state, reason: None, wave: 0, planned: devices.len(), commands: 0, rollbacks: 0 };
        let mut rollout = Self::restored(spec, head, devices);
        rollout.edits.head = true;
        rollout.edits.added_after = Some(0);
        rollout.settle();
        rollout
    }

    /// Returns a rollout from the store. All sent devices are checked, since they may have changed meanwhile.
    #[must_use]
    pub fn restored(spec: Arc<Spec>, head: Head, devices: Vec<DeviceEntry>) -> Self {
        let mut waves = spec.wave_sizes(head.planned);
        spec::stretch(&mut waves, devices.len());
        let mut rollout = Self {
            waves,
            spec,
            head,
            counts: Counts::default(),
            open: 0,
            next: 0,
            again: BTreeSet::new(),
            under_way: HashSet::new(),
            unchecked: BTreeSet::new(),
            checking_since_ms: None,
            due: BTreeSet::new(),
            rested_us: 0,
            is_finding: false,
            memory: devices.iter().map(|device| device.id.as_str().len() + device.memory()).sum(),
            edits: Edits::default(),
            is_replicated: false,
            devices,
        };
        rollout.devices.iter().for_each(|device| rollout.counts.add(device.state));
        rollout.await_sent();
        rollout.open = rollout.open_before(rollout.reached());
        rollout
    }

    /// Returns the description.
    #[must_use]
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Returns state, reason and wave.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the state.
    #[must_use]
    pub fn state(&self) -> State {
        self.head.state
    }

    /// Returns the devices in the order of the waves.
    #[must_use]
    pub fn devices(&self) -> &[DeviceEntry] {
        &self.devices
    }

    /// Returns the devices that each wave reaches in all.
    #[must_use]
    pub fn waves(&self) -> &[usize] {
        &self.waves
    }

    /// Returns the number of the wave of a device.
    #[must_use]
    pub fn wave_of(&self, index: usize) -> usize {
        self.waves.iter().position(|size| index < *size).unwrap_or_default()
    }

    /// Returns the number of devices in each state.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the number of rollbacks so far, each of which acts with a login of its own.
    #[must_use]
    pub fn rollbacks(&self) -> u64 {
        self.head.rollbacks
    }

    /// Returns true if an update or restoration was handed out and not reported yet.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Returns the approximate memory of the devices.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory + ENTRY_BYTES * self.devices.len()
    }

    /// Returns the work to begin at `now`; at most `max` updates and restorations are under way at a time, and one check.
    pub fn work(&mut self, now: Moment, max: usize) -> Vec<Work> {
        self.tick(now);
        let mut work = Vec::new();
        while self.under_way.len() < max {
            let Some(next) = self.next_device(now) else { break };
            self.under_way.insert(next);
            work.push(if self.head.state == State::Running { Work::Update(next) } else { Work::Restore(next) });
        }
        if !self.is_replicated {
            self.settle();
        }
        // Changes meanwhile collect for the next check.
        if self.checking_since_ms.is_none() && !self.unchecked.is_empty() {
            let last = self.unchecked.iter().nth(CHECKED_AT_ONCE).copied();
            let rest = last.map_or_else(BTreeSet::new, |last| self.unchecked.split_off(&last));
            let checked = mem::replace(&mut self.unchecked, rest);
            self.checking_since_ms = Some(now.running_ms);
            work.push(Work::Check(checked.into_iter().collect()));
        }
        if self.wants_later() && !self.is_finding {
            self.is_finding = true;
            work.push(Work::FindLater);
        }
        work
    }

    /// Returns the running time at which [`Rollout::work`] is to be called again, although nothing was reported.
    #[must_use]
    pub fn wakes_ms(&self, now: Moment) -> Option<u64> {
        let due = self.due.first().map(|(due, _)| *due);
        let rests = self.head.state == State::Running && self.has_next() && self.rested_us > now.running_ms * 1000;
        due.into_iter().chain(rests.then_some(self.rested_us.div_ceil(1000))).min()
    }

    /// Returns true if an update that was handed out is still to be sent.
    #[must_use]
    pub fn wants_update(&self, index: usize) -> bool {
        let is_queued = |device: &DeviceEntry| device.state == DeviceState::Queued;
        self.head.state == State::Running && self.devices.get(index).is_some_and(is_queued)
    }

    /// Returns true if a restoration that was handed out is still to be made.
    #[must_use]
    pub fn wants_restoration(&self, index: usize) -> bool {
        let is_written = |device: &DeviceEntry| device.state.is_written();
        self.head.state == State::RollingBack && self.devices.get(index).is_some_and(is_written)
    }

    /// Returns true if changes of sent devices matter.
    #[must_use]
    pub fn awaits_success(&self) -> bool {
        matches!(self.head.state, State::Running | State::Paused) && self.spec.success != Success::Accepted
    }

    /// Returns the entry of a device once its update is accepted as `version`, for the row that is committed with it.
    #[must_use]
    pub fn sent_entry(
        &self,
        index: usize,
        now: Moment,
        version: Version,
        written: Vec<WrittenPath>,
    ) -> Option<DeviceEntry> {
        let at_once = self.spec.success == Success::Accepted;
        let state = if at_once { DeviceState::Converged } else { DeviceState::Sent };
        let due_ms = (!at_once).then(|| now.running_ms.saturating_add(self.spec.deadline_ms));
        Some(DeviceEntry {
            id: self.devices.get(index)?.id.clone(),
            state,
            version: Some(version),
            updated: Some(now.date),
            due_ms,
            reason: None,
            written: Some(written.into()),
        })
    }

    /// Skips queued devices for `reason`.
    pub fn skip(&mut self, indexes: impl IntoIterator<Item = usize>, reason: &Arc<str>, now: Moment) {
        for index in indexes {
            let is_queued = self.devices.get(index).is_some_and(|device| device.state == DeviceState::Queued);
            if is_queued && !self.under_way.contains(&index) {
                self.set(index, DeviceState::Skipped, Some(reason.clone()), now);
            }
        }
        self.settle();
    }

    /// Takes the outcome of an update.
    pub fn on_update(&mut self, index: usize, now: Moment, outcome: UpdateOutcome) {
        if !self.under_way.remove(&index) {
            return;
        }
        match outcome {
            UpdateOutcome::Written { entry, is_exact } => self.on_written(index, *entry, is_exact),
            UpdateOutcome::Conflict(reason) => self.set(index, DeviceState::Conflict, Some(reason), now),
            UpdateOutcome::Skipped(reason) => self.set(index, DeviceState::Skipped, Some(reason), now),
            UpdateOutcome::Failed(reason) => self.set(index, DeviceState::Failed, Some(reason), now),
            UpdateOutcome::NotSent => {}
        }
        self.look_again(index);
        self.settle();
    }

    fn on_written(&mut self, index: usize, mut entry: DeviceEntry, is_exact: bool) {
        let previous = index.checked_sub(1).and_then(|before| self.devices.get(before)?.written.clone());
        if previous.is_some() && previous == entry.written {
            // Most devices had the same values.
            entry.written = previous;
        }
        if !is_exact {
            self.edits.devices.insert(index);
        }
        let (state, due_ms, awaits) = (entry.state, entry.due_ms, !self.head.state.is_final());
        let Some(device) = self.devices.get_mut(index) else { return };
        self.memory = (self.memory + entry.memory()).saturating_sub(device.memory());
        let former = mem::replace(device, entry).state;
        self.count(index, former, state);
        if state == DeviceState::Sent && awaits {
            self.due.extend(due_ms.map(|due| (due, index)));
            self.unchecked.insert(index);
        }
    }

    /// Takes the outcome of restoring a device; `None` if it was not tried.
    pub fn on_restore(&mut self, index: usize, now: Moment, outcome: Option<RestoreOutcome>) {
        if !self.under_way.remove(&index) {
            return;
        }
        match outcome {
            None => _ = self.again.insert(index),
            Some(RestoreOutcome::Restored(version)) => {
                self.set(index, DeviceState::RolledBack, None, now);
                if let Some(device) = self.devices.get_mut(index) {
                    device.version = Some(version);
                }
            }
            Some(RestoreOutcome::Kept(reason)) => self.set(index, DeviceState::Kept, Some(reason), now),
        }
        self.settle();
    }

    /// Notes a change of a device, which may have succeeded by it. Returns false if it is not awaited any more.
    pub fn on_change(&mut self, index: usize) -> bool {
        let is_awaited = self.is_awaited(index);
        if is_awaited {
            self.unchecked.insert(index);
        }
        is_awaited
    }

    fn is_awaited(&self, index: usize) -> bool {
        let is_sent = self.devices.get(index).is_some_and(|device| device.state == DeviceState::Sent);
        is_sent && self.awaits_success()
    }

    /// Notes a possible change of all devices whose success is awaited.
    pub fn on_any_change(&mut self) {
        let sent: Vec<_> = self.due.iter().map(|(_, index)| *index).collect();
        for index in sent {
            self.on_change(index);
        }
    }

    /// Returns true if it runs, and devices are to be changed or have not succeeded yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state() == State::Running && self.counts.of(DeviceState::Queued) + self.counts.of(DeviceState::Sent) > 0
    }

    /// Takes the devices that match by now and are not in the rollout, after a search; only this adds devices. `None`: it failed, and is
    /// repeated.
    pub fn on_later(&mut self, found: Option<Vec<DeviceId>>) {
        self.is_finding = false;
        let Some(mut new) = found else { return };
        if !self.wants_later() {
            return;
        }
        new.truncate(spec::DEVICES_MAX.saturating_sub(self.devices.len()));
        if new.is_empty() {
            self.end(State::Completed, None);
            return;
        }
        self.add(new);
    }

    fn add(&mut self, new: Vec<DeviceId>) {
        self.edits.added_after.get_or_insert(self.devices.len());
        self.open += new.len();
        for device in new {
            self.counts.add(DeviceState::Queued);
            self.memory += device.as_str().len();
            self.devices.push(DeviceEntry::queued(device));
        }
        spec::stretch(&mut self.waves, self.devices.len());
        self.edits.head = true;
    }

    /// Removes and returns what changed.
    pub fn take_edits(&mut self) -> Edits {
        mem::take(&mut self.edits)
    }

    /// Has the sent devices checked whose deadline is over, since they may have succeeded right before.
    fn tick(&mut self, now: Moment) {
        while let Some((due, index)) = self.due.first().copied().filter(|(due, _)| *due <= now.running_ms) {
            self.due.remove(&(due, index));
            self.on_change(index);
        }
    }

    /// Returns the next device to update or restore.
    fn next_device(&mut self, now: Moment) -> Option<usize> {
        let is_running = self.head.state == State::Running;
        let may_begin = is_running || self.head.state == State::RollingBack;
        if !may_begin || (is_running && self.rested_us > now.running_ms * 1000) {
            return None;
        }
        while let Some(index) = self.again.first().copied().or_else(|| self.has_next().then_some(self.next)) {
            if !self.again.remove(&index) {
                self.next += 1;
            }
            let state = self.devices.get(index).map(|device| device.state);
            let is_wanted = if is_running { DeviceState::Queued == state? } else { state?.is_written() };
            if is_wanted && !self.under_way.contains(&index) {
                if let Some(rate) = self.spec.rate.filter(|_| is_running) {
                    let earliest = (now.running_ms * 1000).saturating_sub(BEHIND_US);
                    self.rested_us = self.rested_us.max(earliest) + 1_000_000 / u64::from(rate.get());
                }
                return Some(index);
            }
        }
        None
    }

    /// Returns true if there may be a device to update or restore.
    fn has_next(&self) -> bool {
        let end = if self.head.state == State::RollingBack { self.devices.len() } else { self.reached() };
        !self.again.is_empty() || self.next < end
    }

    /// Returns the number of devices that the waves up to the present one reach.
    fn reached(&self) -> usize {
        self.waves.get(self.head.wave).copied().unwrap_or_default()
    }

    fn open_before(&self, end: usize) -> usize {
        self.devices.iter().take(end).filter(|device| device.state.is_open()).count()
    }

    /// Returns true if the last wave is done, and devices that match by now are included.
    fn wants_later(&self) -> bool {
        self.head.state == State::Running
            && self.spec.later
            && self.open == 0
            && self.head.wave + 1 >= self.waves.len()
            && self.devices.len() < spec::DEVICES_MAX
    }

    /// Moves on as far as the devices allow: aborts, begins the next wave, or completes.
    fn settle(&mut self) {
        if matches!(self.head.state, State::Running | State::Paused)
            && let Some(reason) = self.spec.abort.reason(self.counts.failures(), self.reached())
        {
            return self.end(State::Aborted, Some(reason.into()));
        }
        match self.head.state {
            State::RollingBack if self.is_restored() => self.end(State::RolledBack, None),
            State::Running => {
                while self.open == 0 && self.head.wave + 1 < self.waves.len() {
                    let reached = self.reached();
                    self.head.wave += 1;
                    self.edits.head = true;
                    self.open = self.open_before(self.reached()) - self.open_before(reached);
                }
                if self.open == 0 && !self.wants_later() {
                    self.end(State::Completed, None);
                }
            }
            _ => {}
        }
    }

    /// Sets the state of a device, and counts it.
    fn set(&mut self, index: usize, state: DeviceState, reason: Option<Arc<str>>, now: Moment) {
        let Some(device) = self.devices.get_mut(index) else { return };
        self.memory = self.memory.saturating_sub(device.memory());
        let former = mem::replace(&mut device.state, state);
        device.updated = Some(now.date);
        device.reason = reason;
        if !state.is_open() && !state.is_written() {
            device.written = None;
        }
        self.memory += device.memory();
        if let Some(due) = device.due_ms.take() {
            self.due.remove(&(due, index));
        }
        self.unchecked.remove(&index);
        self.edits.devices.insert(index);
        self.count(index, former, state);
    }

    fn count(&mut self, index: usize, former: DeviceState, state: DeviceState) {
        self.counts.remove(former);
        self.counts.add(state);
        if index < self.reached() {
            self.open = (self.open + usize::from(state.is_open())).saturating_sub(usize::from(former.is_open()));
        }
    }

    fn set_state(&mut self, state: State, reason: Option<Arc<str>>) {
        self.head.state = state;
        self.head.reason = reason;
        self.edits.head = true;
    }

    /// Sets a state in which no success is awaited.
    fn end(&mut self, state: State, reason: Option<Arc<str>>) {
        self.set_state(state, reason);
        self.due.clear();
        self.unchecked.clear();
    }
}
