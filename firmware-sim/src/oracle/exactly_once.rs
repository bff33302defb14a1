//! Updates under idempotency keys, and commands: each is applied exactly once.

use std::collections::{HashMap, HashSet, VecDeque};

use umbra_client::{DeviceId, Version};

use super::{AcceptedUpdate, Violation};

/// The last keys of one shadow: as many as the service remembers.
#[derive(Debug, Default)]
pub(super) struct Keys(VecDeque<AnsweredKey>);

#[derive(Debug)]
struct AnsweredKey {
    key: String,
    version: Version,
}

impl Keys {
    /// Records a reply; returns false if an earlier reply to the same key had the same version: a replay, or the same
    /// reply again, as a message at QoS 1 may come twice.
    pub(super) fn accepted(&mut self, device: &DeviceId, update: &AcceptedUpdate) -> Result<bool, Box<Violation>> {
        let Some(key) = &update.key else { return Ok(true) };
        let Some(answered) = self.0.iter().rev().find(|answered| answered.key == *key) else {
            if self.0.len() == KEYS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(AnsweredKey { key: key.clone(), version: update.version });
            return Ok(true);
        };
        if answered.version == update.version {
            return Ok(false);
        }
        Err(Box::new(Violation::AppliedTwice {
            device: device.clone(),
            version: update.version,
            first: answered.version,
            writer: update.writer.clone(),
            key: key.clone(),
        }))
    }
}

/// The commands of one device.
#[derive(Debug, Default)]
pub(super) struct Commands {
    accepted: HashSet<String>,
    /// Times that each took effect. Those of unknown outcome are not in `accepted`.
    effects: HashMap<String, u64>,
}

impl Commands {
    /// Records a command that was accepted.
    pub(super) fn accepted(&mut self, id: &str) {
        self.accepted.insert(id.to_owned());
    }

    /// Records an effect; returns a violation if it is not the first of its command.
    pub(super) fn effect(&mut self, device: &DeviceId, id: &str) -> Option<Violation> {
        let times = self.effects.entry(id.to_owned()).or_default();
        *times += 1;
        (*times > 1).then(|| Violation::EffectTwice { device: device.clone(), command: id.to_owned() })
    }

    /// Returns a violation for each accepted command that took no effect.
    pub(super) fn missing(&self, device: &DeviceId) -> Vec<Violation> {
        let mut missing: Vec<_> = self.accepted.iter().filter(|id| !self.effects.contains_key(*id)).collect();
        missing.sort();
        let violation = |id: &String| Violation::EffectMissing { device: device.clone(), command: id.clone() };
        missing.into_iter().map(violation).collect()
    }

    /// Returns the number of accepted commands and of effects.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.accepted.len() as u64, self.effects.values().sum())
    }
}

const KEYS_MAX: usize = 64;
