//! All rounds of a run of the suite, and their medians.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Machine, Metric};
use crate::bench::load::event_loop::Measured;

/// The version of the form of the results.
pub(crate) const FORMAT: u32 = 1;

/// One round of one series.
pub(crate) type Round = BTreeMap<Metric, f64>;

/// The name of a series of rounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeriesName {
    /// The workload.
    pub(crate) workload: String,
    /// The measured server.
    pub(crate) server: String,
    /// The load, if a workload has several.
    pub(crate) load: String,
}

/// The rounds of one load against one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Its name.
    #[serde(flatten)]
    pub(crate) name: SeriesName,
    /// Each round.
    pub(crate) rounds: Vec<Round>,
}

/// A target and its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TargetResult {
    /// The subject.
    pub(crate) what: String,
    /// The result.
    pub(crate) reached: f64,
    /// The target.
    pub(crate) target: f64,
    /// True if the target is a minimum, false if it is a maximum.
    pub(crate) at_least: bool,
    /// True if the target is met.
    pub(crate) met: bool,
}

/// A run of the suite.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    /// The version of this form.
    pub(crate) format: u32,
    /// The machine.
    pub(crate) machine: Machine,
    /// The versions of the servers, as they print them.
    pub(crate) versions: Vec<(String, String)>,
    /// The settings of the run.
    pub(crate) settings: BTreeMap<String, String>,
    /// The settings of umbrad that are not its defaults, as TOML.
    pub(crate) umbrad_settings: String,
    /// Measurements that were omitted, with the reason.
    pub(crate) omitted: Vec<String>,
    /// All rounds.
    pub(crate) series: Vec<Series>,
    /// The targets of the workloads that ran.
    pub(crate) targets: Vec<TargetResult>,
}

impl Series {
    /// Returns the median of a metric.
    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        median(self.values(metric))
    }

    /// Returns the values of a metric in all rounds.
    pub(crate) fn values(&self, metric: Metric) -> impl Iterator<Item = f64> {
        self.rounds.iter().filter_map(move |round| round.get(&metric).copied())
    }

    /// Returns the first metric that improves in a direction: the one that a chart shows.
    pub(crate) fn main_metric(&self) -> Option<Metric> {
        let mut metrics = self.rounds.first()?.keys().copied();
        metrics.find(|metric| metric.better() != super::metric::Better::Neither)
    }
}

impl Results {
    /// Returns results without a round.
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            format: FORMAT,
            machine,
            versions: Vec::new(),
            settings: BTreeMap::new(),
            umbrad_settings: String::new(),
            omitted: Vec::new(),
            series: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds a round.
    pub(crate) fn record(&mut self, name: &SeriesName, round: Round) {
        match self.series.iter_mut().find(|series| series.name == *name) {
            Some(series) => series.rounds.push(round),
            None => self.series.push(Series { name: name.clone(), rounds: vec![round] }),
        }
    }

    /// Returns the median of a metric of a series, if it was measured.
    pub(crate) fn median(&self, workload: &str, server: &str, load: &str, metric: Metric) -> Option<f64> {
        let wanted = |name: &SeriesName| name.workload == workload && name.server == server && name.load == load;
        self.series.iter().find(|series| wanted(&series.name))?.median(metric)
    }

    /// Returns the workloads in the order in which they ran.
    pub(crate) fn workloads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for series in &self.series {
            if !names.contains(&&*series.name.workload) {
                names.push(&series.name.workload);
            }
        }
        names
    }
}

/// Returns the metrics of a measurement, its rate as `rate`.
pub(crate) fn round(rate: Metric, measured: &Measured) -> Round {
    Round::from([
        (rate, measured.per_second),
        (Metric::P50Ms, measured.latency_ms.p50),
        (Metric::P99Ms, measured.latency_ms.p99),
        (Metric::P999Ms, measured.latency_ms.p999),
        (Metric::GeneratorCpuUs, measured.generator_cpu_us),
    ])
}

impl TargetResult {
    /// Returns the result for a subject, the number reached if it was measured, the target, and true if that is a minimum.
    pub(crate) fn of(what: &str, reached: Option<f64>, target: f64, at_least: bool) -> Option<Self> {
        let reached = reached?;
        let met = if at_least { reached >= target } else { reached <= target };
        Some(Self { what: what.to_owned(), reached, target, at_least, met })
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
