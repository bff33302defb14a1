//! The devices of a rollout and their states.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    fleet::rollout::written::WrittenPath,
    shadow::{DeviceId, Timestamp, Version},
};

/// The state of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Its update was not sent yet.
    Queued,
    /// Its update is accepted, and the success awaited.
    Sent,
    /// It has succeeded.
    Converged,
    /// It did not succeed by its deadline.
    TimedOut,
    /// An expectation did not hold.
    Conflict,
    /// It has no such shadow, or there was nothing to change, or the creator may not change it.
    Skipped,
    /// Its update was refused.
    Failed,
    /// Its former values are restored.
    RolledBack,
    /// Its former values are not restored.
    Kept,
}

/// The number of devices in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([usize; DeviceState::ALL.len()]);

/// A device of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceEntry {
    /// Its id.
    pub id: DeviceId,
    /// Its state.
    pub state: DeviceState,
    /// The version that the rollout made last.
    pub version: Option<Version>,
    /// The date of the state; `None` while it is queued.
    pub updated: Option<Timestamp>,
    /// The deadline by the running time, in milliseconds, once its update was sent.
    pub due_ms: Option<u64>,
    /// The reason of the state.
    pub reason: Option<Arc<str>>,
    /// The paths that the rollout wrote.
    pub written: Option<Arc<[WrittenPath]>>,
}

/// A device in the store, which has its id elsewhere. Fields of newer versions are ignored.
#[derive(Serialize, Deserialize)]
struct Record {
    state: DeviceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<Arc<[WrittenPath]>>,
}

impl DeviceState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Sent,
        Self::Converged,
        Self::TimedOut,
        Self::Conflict,
        Self::Skipped,
        Self::Failed,
        Self::RolledBack,
        Self::Kept,
    ];

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Converged => "converged",
            Self::TimedOut => "timed-out",
            Self::Conflict => "conflict",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Kept => "kept",
        }
    }

    /// Returns the name of its count.
    #[must_use]
    pub fn count_name(self) -> &'static str {
        match self {
            Self::TimedOut => "timedOut",
            Self::RolledBack => "rolledBack",
            state => state.name(),
        }
    }

    /// Returns true if the device is not done.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Sent)
    }

    /// Returns true if the rollout changed the device and may restore it.
    #[must_use]
    pub fn is_written(self) -> bool {
        matches!(self, Self::Sent | Self::Converged | Self::TimedOut)
    }

    /// Returns true if the rollout may still change or restore the device, so that no other may change the same paths.
    #[must_use]
    pub fn is_claimed(self) -> bool {
        self.is_open() || self.is_written()
    }
}

impl Counts {
    /// Returns the number of devices in `state`.
    #[must_use]
    pub fn of(&self, state: DeviceState) -> usize {
        self.0.get(state as usize).copied().unwrap_or_default()
    }

    /// Returns the number of devices that have failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        [DeviceState::TimedOut, DeviceState::Conflict, DeviceState::Failed].map(|state| self.of(state)).iter().sum()
    }

    /// Returns the number of devices that the rollout changed and may restore.
    #[must_use]
    pub fn written(&self) -> usize {
        DeviceState::ALL.into_iter().filter(|state| state.is_written()).map(|state| self.of(state)).sum()
    }

    pub(super) fn add(&mut self, state: DeviceState) {
        if let Some(count) = self.0.get_mut(state as usize) {
            *count += 1;
        }
    }

    pub(super) fn remove(&mut self, state: DeviceState) {
        if let Some(count) = self.0.get_mut(state as usize) {
            *count = count.saturating_sub(1);
        }
    }
}

impl DeviceEntry {
    /// Returns a device whose update was not sent yet.
    #[must_use]
    pub fn queued(id: DeviceId) -> Self {
        Self { id, state: DeviceState::Queued, version: None, updated: None, due_ms: None, reason: None, written: None }
    }

    /// Returns the entry once its former values are restored by `version`, for the row that is committed with it.
    #[must_use]
    pub fn restored(&self, date: Timestamp, version: Version) -> Self {
        let (id, state) = (self.id.clone(), DeviceState::RolledBack);
        Self { state, version: Some(version), updated: Some(date), ..Self::queued(id) }
    }

    /// Returns the form in the store, in JSON.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        let record = Record {
            state: self.state,
            version: self.version.map(|version| version.0),
            updated: self.updated.map(|updated| updated.0),
            due: self.due_ms,
            reason: self.reason.clone(),
            written: self.written.clone(),
        };
        serde_json::to_vec(&record).expect("all keys are strings")
    }

    /// Reads the form in the store of the device `id`; `None` if it is damaged.
    #[must_use]
    pub fn read(id: DeviceId, record: &[u8]) -> Option<Self> {
        let Record { state, version, updated, due, reason, written } = serde_json::from_slice(record).ok()?;
        let (version, updated) = (version.map(Version), updated.map(Timestamp));
        Some(Self { id, state, version, updated, due_ms: due, reason, written })
    }

    /// Returns the approximate memory of the written paths and the reason.
    #[must_use]
    pub fn memory(&self) -> usize {
        let values = |path: &WrittenPath| [&path.now, &path.was].map(|value| value.as_ref().map_or(0, memory));
        let keys = |path: &WrittenPath| path.path.keys.iter().map(|key| 16 + key.len()).sum::<usize>();
        let path = |path: &WrittenPath| 112 + keys(path) + values(path).iter().sum::<usize>();
        let written = self.written.as_deref().map_or(0, |written| 16 + written.iter().map(path).sum::<usize>());
        written + self.reason.as_ref().map_or(0, |reason| 16 + reason.len())
    }
}

/// Returns the approximate memory of `value`.
fn memory(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(elements) => elements.iter().map(|element| 32 + memory(element)).sum(),
        Value::Object(members) => members.iter().map(|(key, member)| 64 + key.len() + memory(member)).sum(),
    }
}
