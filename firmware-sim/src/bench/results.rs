//! The results of a comparison, their medians, and the targets.

use serde::Serialize;

use super::{generator::Measurement, message::UpdateKind};

/// All measurements.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Comparison {
    /// umbrad at the usual size.
    pub(crate) umbrad: Vec<Round>,
    /// mosquitto with the echo engine at the usual size.
    pub(crate) mosquitto: Vec<Round>,
    /// umbrad at the usual size, by kind of update.
    pub(crate) update_kinds: Vec<(UpdateKind, Round)>,
    /// umbrad with many devices.
    pub(crate) many: Vec<Round>,
    /// umbrad with few devices.
    pub(crate) few: Vec<Round>,
    /// umbrad with idle devices.
    pub(crate) idle: Option<Idle>,
}

/// One round of one server.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    /// The generator's measurement.
    #[serde(flatten)]
    pub(crate) measured: Measurement,
    /// Microseconds of CPU per update that the server (and the echo engine) used in the round.
    pub(crate) server_cpu_us: f64,
}

/// The cost of idle devices.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    /// Devices connected, four subscriptions each.
    pub(crate) devices: usize,
    /// Growth of resident memory per device, in bytes.
    pub(crate) bytes_per_device: f64,
    /// Seconds until all were connected and subscribed.
    pub(crate) connect_seconds: f64,
}

/// A target and its result.
#[derive(Debug, Serialize)]
pub(crate) struct TargetResult {
    /// The subject.
    pub(crate) what: &'static str,
    /// The result.
    pub(crate) reached: f64,
    /// The target.
    pub(crate) target: f64,
    /// True if the target is a minimum, false if it is a maximum.
    pub(crate) at_least: bool,
    /// True if the target is met.
    pub(crate) met: bool,
}

impl Comparison {
    /// Returns the targets that the measurements cover.
    pub(crate) fn verdicts(&self) -> Vec<TargetResult> {
        let rate = |rounds: &[Round]| median(rounds.iter().map(|round| round.measured.updates_per_second));
        let usual = rate(&self.umbrad);
        let ratio = |part: Option<f64>, whole: Option<f64>| Some(part? / whole?);
        let connect = median(self.many.iter().map(|round| round.measured.connect_seconds));
        let latency = median(self.few.iter().map(|round| round.measured.latency_ms.p50));
        let by_kind = |kind| {
            let of = |wanted: UpdateKind| {
                let rounds = self.update_kinds.iter().filter(move |(kind, _)| *kind == wanted);
                median(rounds.map(|(_, round)| round.measured.updates_per_second))
            };
            ratio(of(kind), of(UpdateKind::Unconditional))
        };
        let memory = self.idle.as_ref().map(|idle| idle.bytes_per_device / 1000.0);
        [
            ("durable accepted updates/s", usual, 30_000.0, true),
            ("ratio to mosquitto with an echo and no storage", ratio(usual, rate(&self.mosquitto)), 1.1, true),
            ("ratio of conditional to unconditional updates", by_kind(UpdateKind::Conditional), 0.85, true),
            ("ratio of rebased to unconditional updates", by_kind(UpdateKind::Rebase), 0.85, true),
            ("ratio of keyed to unconditional updates", by_kind(UpdateKind::Keyed), 0.85, true),
            ("ratio of many devices to the usual size", ratio(rate(&self.many), usual), 0.7, true),
            ("seconds to connect many devices", connect, 15.0, false),
            ("median latency of few devices, ms", latency, 4.0, false),
            ("KB of memory per idle device", memory, 12.0, false),
        ]
        .into_iter()
        .filter_map(TargetResult::of)
        .collect()
    }
}

impl TargetResult {
    /// Returns the result for a subject, the number reached if it was measured, the target, and true if that is a minimum.
    pub(crate) fn of((what, reached, target, at_least): (&'static str, Option<f64>, f64, bool)) -> Option<Self> {
        let reached = reached?;
        let met = if at_least { reached >= target } else { reached <= target };
        Some(Self { what, reached, target, at_least, met })
    }
}

/// Returns the median: the middle value, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        for (label, values, expected) in [
            ("none", &[][..], None),
            ("one", &[3.0], Some(3.0)),
            ("odd", &[9.0, 1.0, 5.0], Some(5.0)),
            ("even", &[9.0, 1.0, 5.0, 6.0], Some(5.5)),
        ] {
            assert_eq!(median(values.iter().copied()), expected, "{label}");
        }
    }
}
