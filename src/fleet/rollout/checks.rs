//! The results of checks: the devices that have succeeded, and those that have failed by their deadline.

use std::collections::HashSet;

use super::{DeviceEntry, DeviceState, Moment, Rollout};

impl Rollout {
    /// Takes the result of a check: the devices that were checked, and those of them that have succeeded; `None` if they
    /// could not be read, and are to be checked again. A device has failed if the check began after its deadline.
    pub fn on_checked(&mut self, checked: &[usize], succeeded: Option<&HashSet<usize>>, now: Moment) {
        let (converged, overdue) = self.found(checked, succeeded);
        self.conclude(&converged, &overdue, now);
    }

    /// Returns the devices of a check that have succeeded, and those that have failed by it.
    pub fn found(&mut self, checked: &[usize], succeeded: Option<&HashSet<usize>>) -> (Vec<usize>, Vec<usize>) {
        let began_ms = self.checking_since_ms.take().unwrap_or_default();
        let Some(succeeded) = succeeded else {
            checked.iter().for_each(|index| _ = self.on_change(*index));
            return Default::default();
        };
        let (converged, mut others): (Vec<_>, Vec<_>) = checked.iter().partition(|index| succeeded.contains(index));
        let is_overdue = |device: &DeviceEntry| device.due_ms.is_some_and(|due| due <= began_ms);
        others.retain(|index| self.devices.get(*index).is_some_and(is_overdue));
        (converged, others)
    }

    pub(super) fn conclude(&mut self, converged: &[usize], overdue: &[usize], now: Moment) {
        for index in converged {
            if self.is_awaited(*index) {
                self.set(*index, DeviceState::Converged, None, now);
            }
        }
        for index in overdue {
            // One that is above the limit of failures ends the rollout, and the others are not awaited any more.
            if self.is_awaited(*index) {
                self.set(*index, DeviceState::TimedOut, Some("no success by its deadline".into()), now);
                self.settle();
            }
        }
        self.settle();
    }

    /// Has all sent devices checked, since they may have changed meanwhile.
    pub(super) fn await_sent(&mut self) {
        self.unchecked.clear();
        self.due.clear();
        if self.head.state.is_final() {
            return;
        }
        for (index, device) in self.devices.iter().enumerate().filter(|(_, device)| device.state == DeviceState::Sent) {
            self.unchecked.insert(index);
            self.due.extend(device.due_ms.map(|due| (due, index)));
        }
    }
}
