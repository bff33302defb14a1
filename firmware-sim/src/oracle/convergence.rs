//! The time from an accepted change of `desired` until the same value is accepted in `reported`.
//!
//! A change that another one replaces is not measured: the time begins again with the newest. Versions, not the order of
//! the replies, say which value is the newest.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::Value;
use umbra_client::{DeviceId, Version, same_value};

use super::AcceptedUpdate;
use crate::difference::merge;

/// The convergence of all devices, by group.
#[derive(Debug, Default)]
pub(crate) struct Convergence {
    groups: Vec<Group>,
    devices: HashMap<DeviceId, (usize, BTreeMap<&'static str, Field>)>,
}

#[derive(Debug)]
struct Group {
    name: String,
    /// Milliseconds.
    times: Histogram<u64>,
}

/// A field that a device applies and reports.
#[derive(Debug, Default)]
struct Field {
    desired: Option<(Value, Version, Duration)>,
    reported: Option<(Value, Version)>,
}

/// The distribution of the convergence times of a group, in simulated seconds.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConvergenceTimes {
    /// The group.
    pub(crate) group: String,
    /// The number of changes that were reported.
    pub(crate) count: u64,
    /// Half of them took at most this.
    pub(crate) p50: f64,
    /// 90 % of them took at most this.
    pub(crate) p90: f64,
    /// 99 % of them took at most this.
    pub(crate) p99: f64,
    /// The longest one.
    pub(crate) max: f64,
}

impl Convergence {
    /// Adds a group of devices with the fields that they own.
    pub(crate) fn add(&mut self, name: &str, devices: &[DeviceId], owned: &'static [&'static str]) {
        let times = Histogram::new_with_bounds(1, TIME_MAX, 3).expect("the bounds are valid constants");
        let index = self.groups.len();
        self.groups.push(Group { name: name.to_owned(), times });
        let fields = || owned.iter().map(|field| (*field, Field::default())).collect();
        self.devices.extend(devices.iter().map(|device| (device.clone(), (index, fields()))));
    }

    /// Records an accepted update at a simulated time.
    pub(crate) fn accepted(&mut self, device: &DeviceId, update: &AcceptedUpdate, now: Duration) {
        let Some((group, fields)) = self.devices.get_mut(device) else { return };
        let Some(group) = self.groups.get_mut(*group) else { return };
        let sent = |section: &str| update.state.get(section).and_then(Value::as_object);
        for (name, field) in fields {
            if let Some(value) = sent("reported").and_then(|reported| reported.get(*name)) {
                field.report(value, update.version);
            }
            if let Some(value) = sent("desired").and_then(|desired| desired.get(*name)).filter(|_| update.changed) {
                field.desire(value, update.version, now);
            }
            if let Some(time) = field.converged(now) {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                group.times.saturating_record(millis.max(1));
            }
        }
    }

    /// Returns the distribution of each group that had a change.
    pub(crate) fn times(&self) -> Vec<ConvergenceTimes> {
        let measured = self.groups.iter().filter(|group| !group.times.is_empty());
        let times = |group: &Group| {
            let at = |quantile: f64| group.times.value_at_quantile(quantile) as f64 / 1_000.0;
            let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), group.times.max() as f64 / 1_000.0);
            ConvergenceTimes { group: group.name.clone(), count: group.times.len(), p50, p90, p99, max }
        };
        measured.map(times).collect()
    }
}

impl Field {
    /// An update has only the parts of an object that changed.
    fn report(&mut self, value: &Value, version: Version) {
        let Some((known, known_version)) = &mut self.reported else {
            self.reported = Some((value.clone(), version));
            return;
        };
        if version >= *known_version {
            match (known, value) {
                (Value::Object(known), Value::Object(patch)) => merge(known, patch),
                (known, value) => *known = value.clone(),
            }
            *known_version = version;
        }
    }

    fn desire(&mut self, value: &Value, version: Version, now: Duration) {
        let is_newer = self.desired.as_ref().is_none_or(|(_, known, _)| version > *known);
        let is_change = self
            .reported
            .as_ref()
            .is_none_or(|(known, known_version)| *known_version > version || !same_value(known, value));
        if is_newer {
            self.desired = is_change.then(|| (value.clone(), version, now));
        }
    }

    fn converged(&mut self, now: Duration) -> Option<Duration> {
        let (desired, version, since) = self.desired.as_ref()?;
        let (reported, reported_version) = self.reported.as_ref()?;
        let took = (reported_version > version && same_value(desired, reported)).then(|| now.saturating_sub(*since))?;
        self.desired = None;
        Some(took)
    }
}

/// A week.
const TIME_MAX: u64 = 7 * 86_400 * 1_000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// (second, version, state)
    fn measured(rows: &[(u64, u64, Value)]) -> Vec<(u64, f64, f64)> {
        let device = DeviceId::new("d1").expect("a device id");
        let mut convergence = Convergence::default();
        convergence.add("group", std::slice::from_ref(&device), &["target", "command"]);
        for (second, version, state) in rows {
            let update = AcceptedUpdate {
                writer: device.clone(),
                key: None,
                replayed: false,
                expected: None,
                rebased: false,
                version: Version(*version),
                changed: true,
                state: state.clone(),
            };
            convergence.accepted(&device, &update, Duration::from_secs(*second));
        }
        convergence.times().into_iter().map(|times| (times.count, times.p50.round(), times.max.round())).collect()
    }

    #[test]
    fn the_time_is_from_the_newest_change_to_its_report() {
        let desired = |value: u64| json!({"desired": {"target": value}});
        let reported = |value: u64| json!({"reported": {"target": value}});
        for (label, rows, expected) in [
            ("one", vec![(0, 1, desired(1)), (5, 2, reported(1))], vec![(1, 5.0, 5.0)]),
            ("replies in another order", vec![(5, 2, reported(1)), (6, 1, desired(1))], vec![(1, 0.0, 0.0)]),
            ("another value", vec![(0, 1, desired(1)), (5, 2, reported(2))], vec![]),
            (
                "a replaced change",
                vec![(0, 1, desired(1)), (8, 2, desired(2)), (9, 3, reported(2))],
                vec![(1, 1.0, 1.0)],
            ),
            ("reported already", vec![(0, 1, reported(1)), (5, 2, desired(1)), (9, 3, reported(1))], vec![]),
            ("an older report", vec![(0, 5, desired(1)), (5, 4, reported(1))], vec![]),
        ] {
            assert_eq!(measured(&rows), expected, "{label}");
        }
    }

    /// A command that differs from the one before only in its id.
    #[test]
    fn reports_of_a_part_of_an_object_are_merged() {
        let command = |id: &str| json!({"command": {"id": id, "litres": 5}});
        let rows = [
            (0, 1, json!({"desired": command("a")})),
            (1, 2, json!({"reported": command("a")})),
            (2, 3, json!({"desired": command("b")})),
            (6, 4, json!({"reported": {"command": {"id": "b"}}})),
        ];
        assert_eq!(measured(&rows), [(2, 1.0, 4.0)]);
    }
}
