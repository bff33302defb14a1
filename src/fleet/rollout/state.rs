//! The states of a rollout, the commands of an operator, and the work of its driver with the outcomes.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::rollout::device::DeviceEntry,
    shadow::{Timestamp, Version},
};

/// The state of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Updates are sent.
    Running,
    /// No further update is sent; those sent are awaited.
    Paused,
    /// All waves are done.
    Completed,
    /// Too many devices failed, or its login was revoked.
    Aborted,
    /// An operator ended it.
    Cancelled,
    /// Former values are being restored.
    RollingBack,
    /// Former values were restored.
    RolledBack,
}

/// A command of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Sends no further update.
    Pause,
    /// Goes on after a pause.
    Resume,
    /// Ends the rollout.
    Cancel,
    /// Restores the former values.
    RollBack,
}

/// The present time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time for which the server ran, in milliseconds. It stands still while it is down.
    pub running_ms: u64,
    /// The date.
    pub date: Timestamp,
}

/// Something for the driver to do. Devices are named by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Sends the update to a device. The outcome is reported to [`Rollout::on_update`](crate::fleet::Rollout::on_update).
    Update(usize),
    /// Restores the former values of a device. The outcome is reported to [`Rollout::on_restore`](crate::fleet::Rollout::on_restore).
    Restore(usize),
    /// Finds out which of these devices have succeeded. Reported to [`Rollout::on_checked`](crate::fleet::Rollout::on_checked).
    Check(Vec<usize>),
    /// Finds the devices that match by now. Reported to [`Rollout::on_later`](crate::fleet::Rollout::on_later).
    FindLater,
}

/// The outcome of an update.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateOutcome {
    /// It was accepted.
    Written {
        /// The entry of the device, after [`Rollout::sent_entry`](crate::fleet::Rollout::sent_entry).
        entry: Box<DeviceEntry>,
        /// True if the row that was committed with it is that of the entry.
        is_exact: bool,
    },
    /// An expectation does not hold.
    Conflict(Arc<str>),
    /// There was nothing to do.
    Skipped(Arc<str>),
    /// It was refused.
    Failed(Arc<str>),
    /// It was not sent, since the rollout was stopped meanwhile.
    NotSent,
}

/// The outcome of restoring former values.
#[derive(Clone, Debug, PartialEq)]
pub enum RestoreOutcome {
    /// They are restored, by this version.
    Restored(Version),
    /// They are not.
    Kept(Arc<str>),
}

/// The parts that changed since they were taken last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// True if state, reason or wave changed.
    pub head: bool,
    /// The number of devices before some were added; `None` if none were.
    pub added_after: Option<usize>,
    /// The indexes of devices whose entry changed.
    pub devices: BTreeSet<usize>,
}

/// A command that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPossible(pub State);

/// The part of a rollout beside its devices that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The state.
    pub state: State,
    /// The reason of the state.
    pub reason: Option<Arc<str>>,
    /// The number of the present wave, from 0.
    pub wave: usize,
    /// The number of devices at the creation, of which the waves are parts.
    pub planned: usize,
    /// The number of commands that it was given.
    pub commands: u64,
    /// The number of rollbacks among them, each of which acts with a login of its own.
    pub rollbacks: u64,
}

impl State {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Paused,
        Self::Completed,
        Self::Aborted,
        Self::Cancelled,
        Self::RollingBack,
        Self::RolledBack,
    ];

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
        }
    }

    /// Returns true if nothing happens any more without a command.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Aborted | Self::Cancelled | Self::RolledBack)
    }
}
