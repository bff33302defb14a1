//! The check of the service's replies against the final state.
//!
//! From every accepted update and the final document of each shadow it finds:
//!
//! - an accepted update that is neither in the final state nor superseded by a later write of the same path
//!   ([`Violation::LostUpdate`]);
//! - a version assigned twice ([`Violation::DuplicateVersion`]), one that does not follow the required version
//!   ([`Violation::StaleAccepted`]), one that went back for a subscriber ([`Violation::VersionWentBack`]) or at the end
//!   ([`Violation::FinalBehind`]);
//! - an update that was applied twice under one idempotency key ([`Violation::AppliedTwice`]) or whose key was forgotten
//!   ([`Violation::KeyForgotten`]), a command that took effect twice or never ([`Violation::EffectTwice`],
//!   [`Violation::EffectMissing`]);
//! - a version that nobody asked for, if the fleet alone writes the shadows ([`Violation::Unaccounted`]);
//! - a device that did not converge ([`Violation::Unconverged`]), that got no delta ([`Violation::MissingDelta`], found by
//!   the device itself), or whose shadow could not be read;
//! - a node of a cluster that has another final state ([`Violation::NodeDiffers`], found by [`crate::nodes`]);
//! - a device that a rollout changed before its wave, or beyond the number of devices of its wave
//!   ([`Violation::WaveExceeded`]).
//!
//! Other clients may write the same shadows. Their updates, and updates of unknown outcome, are versions that no reply
//! assigned; they may have superseded any earlier write. The order of the replies does not matter, only their versions.
//!
//! Pure: no clock, no socket, no lock. Memory grows with shadows, paths and commands, not with updates.

mod convergence;
mod exactly_once;
mod paths;
mod verdict;
mod versions;
mod waves;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use umbra_client::{DeviceId, Document, Version, same_value};

pub(crate) use convergence::{Convergence, ConvergenceTimes};
pub(crate) use verdict::Violation;
pub(crate) use versions::VersionOrder;
pub(crate) use waves::{RolledOut, RolledOutDevice};

use exactly_once::{Commands, Keys};
use versions::VersionSet;
use waves::Waves;

/// An accepted update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AcceptedUpdate {
    /// The writer.
    pub(crate) writer: DeviceId,
    /// The idempotency key, if it may be sent again.
    pub(crate) key: Option<String>,
    /// True if the reply repeats the outcome of the same key.
    pub(crate) replayed: bool,
    /// The version it required, if any.
    pub(crate) expected: Option<Version>,
    /// True if the service rebased it.
    pub(crate) rebased: bool,
    /// The version assigned.
    pub(crate) version: Version,
    /// False if it changed nothing.
    pub(crate) changed: bool,
    /// The sections it sent.
    pub(crate) state: Value,
}

/// All replies.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    shadows: BTreeMap<DeviceId, ObservedShadow>,
    found: Vec<Violation>,
    waves: Waves,
    /// True if the fleet alone writes the shadows.
    exclusive: bool,
}

/// The replies about one shadow.
#[derive(Debug, Default)]
struct ObservedShadow {
    /// Versions assigned to the fleet's updates.
    versions: VersionSet,
    /// The last write of each path.
    last_writes: HashMap<String, Write>,
    keys: Keys,
    commands: Commands,
    /// Updates that may have been applied or not.
    unknown: u64,
}

#[derive(Debug, Clone)]
struct Write {
    version: Version,
    writer: DeviceId,
    /// `None` is a removal.
    value: Option<Value>,
}

impl Oracle {
    /// Returns an oracle; `exclusive`: the fleet alone writes the shadows.
    pub(crate) fn new(exclusive: bool) -> Self {
        Self { exclusive, ..Self::default() }
    }

    /// Records an accepted update; returns false if an earlier reply had the same idempotency key.
    pub(crate) fn accepted(&mut self, device: &DeviceId, update: AcceptedUpdate) -> bool {
        let shadow = self.shadows.entry(device.clone()).or_default();
        match shadow.keys.accepted(device, &update) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(violation) => self.found.push(*violation),
        }
        if let Some(expected) = update.expected {
            let follows = Version(expected.0 + u64::from(update.changed));
            let fits = if update.rebased { update.version > follows } else { update.version == follows };
            if !fits {
                self.found.push(Violation::StaleAccepted {
                    device: device.clone(),
                    version: update.version,
                    expected,
                    writer: update.writer.clone(),
                });
            }
        }
        if update.changed && !shadow.versions.insert(update.version) {
            self.found.push(Violation::DuplicateVersion {
                device: device.clone(),
                version: update.version,
                writer: update.writer.clone(),
            });
        }
        shadow.wrote(&update.writer, update.version, &update.state);
        true
    }

    /// Records an update whose outcome stays unknown.
    pub(crate) fn unknown(&mut self, device: &DeviceId) {
        self.shadows.entry(device.clone()).or_default().unknown += 1;
    }

    /// Records a command that was accepted.
    pub(crate) fn command(&mut self, device: &DeviceId, id: &str) {
        self.shadows.entry(device.clone()).or_default().commands.accepted(id);
    }

    /// Records that a command took effect.
    pub(crate) fn effect(&mut self, device: &DeviceId, id: &str) {
        let shadow = self.shadows.entry(device.clone()).or_default();
        self.found.extend(shadow.commands.effect(device, id));
    }

    /// Records that a device saw that it is asked to install `firmware`.
    pub(crate) fn firmware_asked(&mut self, device: &DeviceId, firmware: &str) {
        self.waves.asked(device, firmware);
    }

    /// Records that a device is about to report that it runs `firmware`.
    pub(crate) fn firmware_running(&mut self, device: &DeviceId, firmware: &str) {
        self.waves.running(device, firmware);
    }

    /// Records a rollout that has ended, by the client `writer`. Its updates are those of the fleet.
    pub(crate) fn rolled_out(&mut self, writer: &DeviceId, rollout: RolledOut) {
        let state = json!({"desired": {"firmware": rollout.firmware}});
        for RolledOutDevice { id, version, .. } in &rollout.devices {
            let Some(version) = *version else { continue };
            let shadow = self.shadows.entry(id.clone()).or_default();
            // A device whose shadow had the value before keeps its version.
            shadow.versions.insert(version);
            shadow.wrote(writer, version, &state);
        }
        self.waves.rolled_out(rollout);
    }

    /// Returns the rollouts that have ended.
    pub(crate) fn rollouts(&self) -> &[RolledOut] {
        self.waves.rollouts()
    }

    /// Returns the number of commands that were accepted, and that took effect.
    pub(crate) fn commands(&self) -> (u64, u64) {
        let counts = self.shadows.values().map(|shadow| shadow.commands.counts());
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    }

    /// Records a violation found elsewhere, such as by [`VersionOrder`].
    pub(crate) fn add_violation(&mut self, violation: Violation) {
        self.found.push(violation);
    }

    /// Returns the newest version of a shadow that a reply assigned; 0 if there is none.
    pub(crate) fn newest(&self, device: &DeviceId) -> Version {
        self.shadows.get(device).and_then(|shadow| shadow.versions.last()).unwrap_or_default()
    }

    /// Returns the number of versions, between the first and the last of each shadow, that no reply assigned.
    pub(crate) fn unaccounted(&self) -> u64 {
        self.shadows.values().map(|shadow| shadow.versions.missing()).sum()
    }

    /// Returns all violations, given the final document of each shadow, or the reason why it could not be read, and the
    /// fields that each device owns.
    pub(crate) fn judge(
        &self,
        finals: &BTreeMap<DeviceId, Result<Document, String>>,
        owned: impl Fn(&DeviceId) -> &'static [&'static str],
    ) -> Vec<Violation> {
        let mut violations = self.found.clone();
        violations.extend(self.waves.judge());
        for (device, outcome) in finals {
            match outcome {
                Err(reason) => {
                    violations.push(Violation::Unread { device: device.clone(), reason: reason.clone() });
                }
                Ok(found) => {
                    if let Some(shadow) = self.shadows.get(device) {
                        shadow.judge(device, found, self.exclusive, &mut violations);
                    }
                    let fields = Self::unconverged_fields(found, owned(device)).into_iter();
                    violations.extend(fields.map(|field| Violation::Unconverged {
                        device: device.clone(),
                        version: found.version,
                        path: format!("/desired/{field}"),
                    }));
                }
            }
        }
        let unread = self.shadows.keys().filter(|device| !finals.contains_key(*device));
        violations.extend(
            unread.map(|device| Violation::Unread { device: device.clone(), reason: "no device read it".into() }),
        );
        violations
    }

    /// Returns the `owned` fields of `desired` that `reported` lacks or has different.
    pub(crate) fn unconverged_fields<'a>(found: &Document, owned: &[&'a str]) -> Vec<&'a str> {
        let differs = |field: &&str| {
            let desired = found.section("desired").and_then(|desired| desired.get(*field));
            let reported = found.section("reported").and_then(|reported| reported.get(*field));
            desired.is_some_and(|desired| !reported.is_some_and(|reported| same_value(desired, reported)))
        };
        owned.iter().copied().filter(differs).collect()
    }
}

impl ObservedShadow {
    /// Records the paths that an accepted update has written.
    fn wrote(&mut self, writer: &DeviceId, version: Version, state: &Value) {
        for (path, value) in paths::writes(state) {
            let write = Write { version, writer: writer.clone(), value };
            match self.last_writes.get(&path) {
                Some(later) if later.version > write.version => {}
                _ => {
                    self.last_writes.insert(path, write);
                }
            }
        }
    }

    fn judge(&self, device: &DeviceId, found: &Document, exclusive: bool, violations: &mut Vec<Violation>) {
        violations.extend(self.commands.missing(device));
        let versions = self.versions.missing();
        if exclusive && versions > self.unknown {
            violations.push(Violation::Unaccounted { device: device.clone(), versions, unknown: self.unknown });
        }
        if let Some(accepted) = self.versions.last().filter(|last| *last > found.version) {
            violations.push(Violation::FinalBehind { device: device.clone(), accepted, version: found.version });
        }
        let mut lost: Vec<_> = self
            .last_writes
            .iter()
            .filter(|(path, write)| !self.kept(path, write, found))
            .map(|(path, write)| Violation::LostUpdate {
                device: device.clone(),
                version: write.version,
                path: path.clone(),
                writer: write.writer.clone(),
                sent: write.value.clone(),
                found: found.pointer(path).cloned(),
            })
            .collect();
        lost.sort_by_key(Violation::version);
        violations.append(&mut lost);
    }

    /// Returns true if a write is in the final state, or a later one superseded it.
    fn kept(&self, path: &str, write: &Write, found: &Document) -> bool {
        let present = match (&write.value, found.pointer(path)) {
            (None, None) => true,
            (Some(sent), Some(found)) => same_value(sent, found),
            _ => false,
        };
        present || self.superseded_by_ours(path, write.version) || self.superseded_by_others(path, write.version, found)
    }

    /// Returns true if the fleet wrote above or below the path later.
    fn superseded_by_ours(&self, path: &str, version: Version) -> bool {
        self.last_writes
            .iter()
            .any(|(other, write)| write.version > version && other != path && paths::related(other, path))
    }

    /// Returns true if a version that no reply assigned is later than the write. If the metadata has the leaf's version, it
    /// must be that one; a leaf without metadata may have been removed by any of them.
    fn superseded_by_others(&self, path: &str, version: Version, found: &Document) -> bool {
        match paths::leaf_version(&found.metadata, path) {
            Some(leaf) => leaf > version && leaf <= found.version && !self.versions.contains(leaf),
            None => self.versions.missing_between(version, found.version),
        }
    }
}

#[cfg(test)]
mod tests;
