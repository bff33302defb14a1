//! Says whether the service kept its word to the fleet.
//!
//! Fed with every update a writer was told was accepted, and at the end with each shadow as it then is, it finds:
//!
//! - an update told as accepted that is neither in the final state nor superseded by a later write of the same path
//!   ([`Violation::LostUpdate`]);
//! - a version told twice ([`Violation::DuplicateVersion`]), one that does not follow the version the writer required
//!   ([`Violation::StaleAccepted`]), one that went backwards for someone who listened ([`Violation::FellBack`]) or in
//!   the end ([`Violation::FinalBehind`]);
//! - a device that did not come to agree with what is wanted of it ([`Violation::Unconverged`]), was never told of it
//!   ([`Violation::NotTold`], which the device itself finds), or could not be read.
//!
//! Others may write the same shadows: what the fleet did not do itself, and what it does not know the outcome of (a
//! connection that broke), shows as versions nobody here was told of, and may have superseded anything before it.
//! The order in which acceptances are reported does not matter, only their versions do.
//!
//! Pure: no clock, no socket, no lock. Memory grows with shadows and paths, not with updates.

mod paths;
mod verdict;
mod versions;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use umbra_client::{DeviceId, Document, Version, same_value};

pub(crate) use verdict::Violation;
pub(crate) use versions::Listener;

use versions::VersionSet;

/// What a writer was told about one of its updates.
#[derive(Debug, Clone)]
pub(crate) struct AcceptedUpdate {
    /// Who wrote.
    pub(crate) writer: DeviceId,
    /// The version it required.
    pub(crate) expected: Version,
    /// Whether the service carried it over later versions.
    pub(crate) rebased: bool,
    /// The version it was told.
    pub(crate) version: Version,
    /// False if it was told that nothing changed.
    pub(crate) changed: bool,
    /// The sections it sent.
    pub(crate) state: Value,
}

/// The ledger of all that was told.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    shadows: BTreeMap<DeviceId, ObservedShadow>,
    found: Vec<Violation>,
}

/// What was told of one shadow.
#[derive(Debug, Default)]
struct ObservedShadow {
    /// Versions that an update of ours made.
    versions: VersionSet,
    /// The last write of each path that was ever written.
    last_writes: HashMap<String, Write>,
}

#[derive(Debug, Clone)]
struct Write {
    version: Version,
    writer: DeviceId,
    /// `None` is a removal.
    value: Option<Value>,
}

impl Oracle {
    /// Enters an update that its writer was told is accepted.
    pub(crate) fn accepted(&mut self, device: &DeviceId, update: AcceptedUpdate) {
        let follows = Version(update.expected.0 + u64::from(update.changed));
        let fits = if update.rebased { update.version > follows } else { update.version == follows };
        if !fits {
            self.found.push(Violation::StaleAccepted {
                device: device.clone(),
                version: update.version,
                expected: update.expected,
                writer: update.writer.clone(),
            });
        }
        let told = self.shadows.entry(device.clone()).or_default();
        if update.changed && !told.versions.insert(update.version) {
            self.found.push(Violation::DuplicateVersion {
                device: device.clone(),
                version: update.version,
                writer: update.writer.clone(),
            });
        }
        for (path, value) in paths::writes(&update.state) {
            let write = Write { version: update.version, writer: update.writer.clone(), value };
            match told.last_writes.get(&path) {
                Some(later) if later.version > write.version => {}
                _ => {
                    told.last_writes.insert(path, write);
                }
            }
        }
    }

    /// Enters what someone else found, such as a [`Listener`].
    pub(crate) fn violated(&mut self, violation: Violation) {
        self.found.push(violation);
    }

    /// Versions between the first and the last we were told of a shadow that nobody here was told of, over all.
    pub(crate) fn unaccounted(&self) -> u64 {
        self.shadows.values().map(|told| told.versions.missing()).sum()
    }

    /// Everything that is wrong, given each shadow as it is in the end, or why it could not be read.
    pub(crate) fn judge(
        &self,
        finals: &BTreeMap<DeviceId, Result<Document, String>>,
        owned: &[&str],
    ) -> Vec<Violation> {
        let mut violations = self.found.clone();
        for (device, outcome) in finals {
            match outcome {
                Err(reason) => {
                    violations.push(Violation::Unread { device: device.clone(), reason: reason.clone() });
                }
                Ok(found) => {
                    if let Some(told) = self.shadows.get(device) {
                        told.judge(device, found, &mut violations);
                    }
                    let fields = Self::unconverged_fields(found, owned).into_iter();
                    violations.extend(fields.map(|field| Violation::Unconverged {
                        device: device.clone(),
                        version: found.version,
                        path: format!("/desired/{field}"),
                    }));
                }
            }
        }
        let unread = self.shadows.keys().filter(|device| !finals.contains_key(*device));
        violations
            .extend(unread.map(|device| Violation::Unread { device: device.clone(), reason: "nobody read it".into() }));
        violations
    }

    /// Those of the `owned` fields in which `desired` has something that `reported` has not, or different.
    pub(crate) fn unconverged_fields<'a>(found: &Document, owned: &[&'a str]) -> Vec<&'a str> {
        let differs = |field: &&str| {
            let wanted = found.section("desired").and_then(|desired| desired.get(*field));
            let is = found.section("reported").and_then(|reported| reported.get(*field));
            wanted.is_some_and(|wanted| !is.is_some_and(|is| same_value(wanted, is)))
        };
        owned.iter().copied().filter(differs).collect()
    }
}

impl ObservedShadow {
    fn judge(&self, device: &DeviceId, found: &Document, violations: &mut Vec<Violation>) {
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

    /// Whether a write is in the final state, or something later explains why not.
    fn kept(&self, path: &str, write: &Write, found: &Document) -> bool {
        let is_there = match (&write.value, found.pointer(path)) {
            (None, None) => true,
            (Some(sent), Some(there)) => same_value(sent, there),
            _ => false,
        };
        is_there
            || self.superseded_by_ours(path, write.version)
            || self.superseded_by_others(path, write.version, found)
    }

    /// A later write of ours above or below the path: it turned the place into something else.
    fn superseded_by_ours(&self, path: &str, version: Version) -> bool {
        self.last_writes
            .iter()
            .any(|(other, write)| write.version > version && other != path && paths::related(other, path))
    }

    /// A version that nobody here was told of is later than the write. Where the service says which version a leaf is
    /// of, it must be that one; a leaf it has nothing to say about may have been removed by any of them.
    fn superseded_by_others(&self, path: &str, version: Version, found: &Document) -> bool {
        match paths::leaf_version(&found.metadata, path) {
            Some(leaf) => leaf > version && leaf <= found.version && !self.versions.contains(leaf),
            None => self.versions.missing_between(version, found.version),
        }
    }
}

#[cfg(test)]
mod tests;
