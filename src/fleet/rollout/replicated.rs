//! A rollout of a cluster. It changes by the records of the log alone, at every node alike.
//!
//! Its driver asks for work as on a single node, and what comes of it is reported through the log. The row of a device is in the
//! record of its update. Whether an update still may be made is decided where it gets its place in the log
//! ([`Rollout::permits`]), by the same rules, whoever sends it and however late.
//!
//! *Invariant:* what the log makes of the head, the devices and the waves depends on these alone, never on the work that is under
//! way, which only the driver knows.

use std::sync::Arc;

use super::{DeviceEntry, DeviceState, Moment, Rollout, State, Work, WrittenPath, spec};
use crate::shadow::{DeviceId, Version};

impl Rollout {
    /// Returns the rollout as one of a cluster.
    #[must_use]
    pub fn replicated(mut self) -> Self {
        self.is_replicated = true;
        self.settle();
        self
    }

    /// Returns true if it changes by the log of a cluster.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.is_replicated
    }

    /// Returns true if it may be removed: it has ended, and no work can change a device any more.
    #[must_use]
    pub fn is_removable(&self) -> bool {
        self.state().is_final() && (self.is_replicated || !self.is_under_way())
    }

    /// Forgets the work that was begun before, by this driver or another.
    pub fn begin_again(&mut self) {
        self.next = 0;
        self.again.clear();
        self.under_way.clear();
        self.checking_since_ms = None;
        self.rested_us = 0;
        self.is_finding = false;
        self.await_sent();
    }

    /// Notes that a piece of work has ended, and that the log has what came of it.
    pub fn on_done(&mut self, work: &Work) {
        match work {
            Work::Update(index) | Work::Restore(index) => {
                if self.under_way.remove(index) {
                    self.look_again(*index);
                }
            }
            // It ended when its result was taken; another may be under way.
            Work::Check(_) => {}
            Work::FindLater => self.is_finding = false,
        }
    }

    /// Returns true if an update that turns the device into `entry` may be accepted now.
    #[must_use]
    pub fn permits(&self, index: usize, entry: &DeviceEntry) -> bool {
        let Some(former) = self.devices.get(index).map(|device| device.state) else { return false };
        match (self.head.state, entry.state) {
            (State::Running, DeviceState::Sent | DeviceState::Converged) => {
                former == DeviceState::Queued && index < self.reached()
            }
            (State::RollingBack, DeviceState::RolledBack) => former.is_written(),
            _ => false,
        }
    }

    /// Takes the entry of a device as an accepted update has made it.
    pub fn on_accepted(&mut self, index: usize, entry: DeviceEntry) {
        self.on_written(index, entry, false);
        self.settle();
    }

    /// Takes the end of a device that was not changed.
    pub fn on_ended(&mut self, index: usize, state: DeviceState, reason: Arc<str>, now: Moment) {
        let Some(former) = self.devices.get(index).map(|device| device.state) else { return };
        let is_possible = match state {
            DeviceState::Conflict | DeviceState::Skipped | DeviceState::Failed => {
                former == DeviceState::Queued && matches!(self.head.state, State::Running | State::Paused)
            }
            DeviceState::Kept => former.is_written() && self.head.state == State::RollingBack,
            _ => false,
        };
        if is_possible {
            self.set(index, state, Some(reason), now);
            self.settle();
        }
    }

    /// Takes what an update has really made, which was rebased over changes of others.
    pub fn on_corrected(&mut self, index: usize, version: Version, written: Option<Arc<[WrittenPath]>>) {
        let is_changed =
            |device: &&mut DeviceEntry| device.state.is_written() || device.state == DeviceState::RolledBack;
        let Some(device) = self.devices.get_mut(index).filter(is_changed) else { return };
        self.memory = self.memory.saturating_sub(device.memory());
        device.version = Some(version);
        if device.state.is_written() {
            device.written = written.or(device.written.take());
        }
        self.memory += device.memory();
        self.edits.devices.insert(index);
    }

    /// Takes the result of a check, as [`Rollout::found`] returned it.
    pub fn on_found(&mut self, converged: &[usize], overdue: &[usize], now: Moment) {
        self.conclude(converged, overdue, now);
    }

    /// Takes devices that match by now, behind the first `from`. None at all complete the rollout.
    pub fn on_joined(&mut self, from: usize, mut new: Vec<DeviceId>) {
        let is_last_wave = self.head.wave + 1 >= self.waves.len();
        if from != self.devices.len() || self.head.state != State::Running || !self.spec.later || !is_last_wave {
            return;
        }
        new.truncate(spec::DEVICES_MAX.saturating_sub(self.devices.len()));
        match new.is_empty() {
            true if self.wants_later() => self.end(State::Completed, None),
            true => {}
            false => self.add(new),
        }
    }

    /// Has it be the turn of a device again, whose update was not sent or that is to be restored.
    pub(super) fn look_again(&mut self, index: usize) {
        let is_left = match self.head.state {
            State::RollingBack => true,
            _ => self.devices.get(index).is_some_and(|device| device.state == DeviceState::Queued),
        };
        if is_left && index < self.next {
            self.again.insert(index);
        }
    }

    /// Returns true if all former values are restored, as far as that is possible.
    pub(super) fn is_restored(&self) -> bool {
        match self.is_replicated {
            true => self.counts.written() == 0,
            false => self.under_way.is_empty() && !self.has_next(),
        }
    }
}
