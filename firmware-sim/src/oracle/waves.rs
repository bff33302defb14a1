//! The check of rollouts: no device gets a version before its wave.
//!
//! It knows when each device saw that it is asked to install a version, and when it was about to report that it runs it. A
//! device sees the request after the server has made it, and the server sees the report after the device has made it. So a
//! device of a later wave that is asked before one of an earlier wave runs the version, although the server has counted that
//! one as converged, shows a wave that came too early. No clock is needed, only the order of these events.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use umbra_client::{DeviceId, Version};

use super::Violation;

/// A rollout at its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RolledOut {
    /// Its id.
    pub(crate) id: String,
    /// The version.
    pub(crate) firmware: String,
    /// Its state, or the reason that it was not created.
    pub(crate) state: String,
    /// The numbers of devices that may be reached in all by the end of each wave.
    pub(crate) waves: Vec<usize>,
    /// The devices that were changed.
    #[serde(serialize_with = "count")]
    pub(crate) devices: Vec<RolledOutDevice>,
}

/// A device of a rollout at its end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RolledOutDevice {
    /// Its id.
    pub(crate) id: DeviceId,
    /// The number of its wave, from 0.
    pub(crate) wave: usize,
    /// Its state, as the server has it.
    pub(crate) state: String,
    /// The version of its shadow that the rollout made; `None` if it did not change it.
    pub(crate) version: Option<Version>,
}

/// The events of devices and the rollouts.
#[derive(Debug, Default)]
pub(super) struct Waves {
    /// The number of the last event.
    last: u64,
    asked: HashMap<(String, DeviceId), u64>,
    running: HashMap<(String, DeviceId), u64>,
    rollouts: Vec<RolledOut>,
}

impl Waves {
    /// Records that a device saw that it is asked to install `firmware`.
    pub(super) fn asked(&mut self, device: &DeviceId, firmware: &str) {
        self.last += 1;
        self.asked.entry((firmware.to_owned(), device.clone())).or_insert(self.last);
    }

    /// Records that a device is about to report that it runs `firmware`.
    pub(super) fn running(&mut self, device: &DeviceId, firmware: &str) {
        self.last += 1;
        self.running.entry((firmware.to_owned(), device.clone())).or_insert(self.last);
    }

    /// Adds a rollout that has ended.
    pub(super) fn rolled_out(&mut self, rollout: RolledOut) {
        self.rollouts.push(rollout);
    }

    /// Returns the rollouts.
    pub(super) fn rollouts(&self) -> &[RolledOut] {
        &self.rollouts
    }

    /// Returns all violations.
    pub(super) fn judge(&self) -> Vec<Violation> {
        self.rollouts.iter().flat_map(|rollout| self.judge_one(rollout)).collect()
    }

    fn judge_one(&self, rollout: &RolledOut) -> Vec<Violation> {
        let violation = |device: &DeviceId, reason: String| Violation::WaveExceeded {
            device: device.clone(),
            rollout: rollout.id.clone(),
            reason,
        };
        let mut found = Vec::new();
        let mut in_order: Vec<_> = rollout.devices.iter().filter(|device| device.version.is_some()).collect();
        in_order.sort_by_key(|device| device.wave);
        for (reached, device) in (1..).zip(&in_order) {
            let allowed = rollout.waves.get(device.wave).copied().unwrap_or_default();
            if reached > allowed {
                let wave = device.wave + 1;
                found.push(violation(
                    &device.id,
                    format!("it is number {reached} in wave {wave}, which allows {allowed}"),
                ));
            }
        }
        let by_id: BTreeMap<_, _> = in_order.iter().map(|device| (&device.id, device.wave)).collect();
        let key = |device: &DeviceId| (rollout.firmware.clone(), device.clone());
        for device in &rollout.devices {
            if !by_id.contains_key(&device.id) && self.asked.contains_key(&key(&device.id)) {
                let state = &device.state;
                found.push(violation(&device.id, format!("it was asked, and the rollout has it as {state}")));
            }
        }
        // The device of the waves so far that was the last one to run the version.
        let mut slowest: Option<(u64, &DeviceId)> = None;
        for wave in in_order.chunk_by(|a, b| a.wave == b.wave) {
            for device in wave {
                if let (Some(asked), Some((ran, earlier))) = (self.asked.get(&key(&device.id)), slowest)
                    && *asked < ran
                {
                    found.push(violation(
                        &device.id,
                        format!("it was asked before {earlier} of an earlier wave ran it"),
                    ));
                }
            }
            for device in wave.iter().filter(|device| device.state == "converged") {
                match self.running.get(&key(&device.id)) {
                    Some(ran) => slowest = slowest.max(Some((*ran, &device.id))),
                    None => found.push(violation(&device.id, "it never ran it, and counts as converged".to_owned())),
                }
            }
        }
        found
    }
}

fn count<S: serde::Serializer>(devices: &[RolledOutDevice], serializer: S) -> Result<S::Ok, S::Error> {
    devices.iter().filter(|device| device.version.is_some()).count().serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> DeviceId {
        DeviceId::new(name).expect("a device id")
    }

    /// Returns the violations of a rollout of two waves, of one and of three devices, after events such as `+a` (asked) and `a`
    /// (running). `devices` have a wave, a state, and a version unless they are queued.
    fn violations(events: &str, devices: &[(&str, usize, &str)]) -> String {
        let mut waves = Waves::default();
        for event in events.split_whitespace() {
            match event.strip_prefix('+') {
                Some(device) => waves.asked(&id(device), "2"),
                None => waves.running(&id(event), "2"),
            }
        }
        let device = |(name, wave, state): &(&str, usize, &str)| RolledOutDevice {
            id: id(name),
            wave: *wave,
            state: (*state).to_owned(),
            version: (*state != "queued").then_some(Version(5)),
        };
        waves.rolled_out(RolledOut {
            id: "r".into(),
            firmware: "2".into(),
            state: "completed".into(),
            waves: vec![1, 3],
            devices: devices.iter().map(device).collect(),
        });
        let reasons =
            waves.judge().iter().map(|violation| format!("{} {violation}", violation.device())).collect::<Vec<_>>();
        reasons.join("; ").replace("wave exceeded by rollout r: ", "")
    }

    #[test]
    fn a_device_gets_nothing_before_its_wave() {
        const DONE: [(&str, usize, &str); 3] = [("a", 0, "converged"), ("b", 1, "converged"), ("c", 1, "converged")];
        for (label, events, devices, expected) in [
            ("in order", "+a a +b +c c b", &DONE[..], ""),
            ("asked too early", "+a +b a b +c c", &DONE, "b b: it was asked before a of an earlier wave ran it"),
            ("not seen, but done", "+a a b +c c", &DONE, ""),
            ("never ran", "+a +b b +c c", &DONE, "a a: it never ran it, and counts as converged"),
            (
                "the first timed out",
                "+a +b b a +c c",
                &[("a", 0, "timed-out"), ("b", 1, "converged"), ("c", 1, "converged")],
                "",
            ),
            (
                "too many in a wave",
                "+a a +b b",
                &[("a", 0, "converged"), ("b", 0, "converged")],
                "b b: it is number 2 in wave 1, which allows 1",
            ),
            (
                "asked although queued",
                "+a +b",
                &[("a", 0, "timed-out"), ("b", 1, "queued")],
                "b b: it was asked, and the rollout has it as queued",
            ),
        ] {
            assert_eq!(violations(events, devices), expected, "{label}");
        }
    }
}
