//! The result of an attack: the phases compared, and the limits that they are held against.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    catalogue::Parameters,
    process::Usage,
    stage::Counts,
    victims::{Observed, Sample},
};

/// The limits of `--assert`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Limits {
    /// Highest ratio of the victims' median latency, during the attack to before.
    #[arg(long, default_value_t = 3.0)]
    pub(super) median_times_max: f64,
    /// Highest latency of a victim, in milliseconds.
    #[arg(long, default_value_t = 100.0)]
    pub(super) worst_ms_max: f64,
    /// Lowest ratio of the writers' updates a second, during the attack to before.
    #[arg(long, default_value_t = 0.8)]
    pub(super) writers_min: f64,
    /// Highest resident memory of the server, such as 512M. Default: any, or that of --cgroup-memory.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) memory_max: Option<u64>,
}

/// Parses a size: bytes, or with K, M or G.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|char: char| !char.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.trim().trim_end_matches("iB") {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("{text} is no size: a number with K, M or G, such as 512M")),
    };
    number.parse::<u64>().map(|number| number << shift).map_err(|_| format!("{text} is no size, such as 512M"))
}

/// The times at which the phases of a run began.
pub(super) struct Times {
    /// The baseline.
    pub(super) before: Instant,
    /// The order to attack.
    pub(super) launch: Instant,
    /// The report that the load is on.
    pub(super) attack: Instant,
    /// The attacker's end.
    pub(super) after: Instant,
    /// The end of the measurement.
    pub(super) end: Instant,
}

/// The victims and writers in one phase.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PhaseResult {
    /// Seconds measured.
    pub(super) seconds: f64,
    /// Updates of the victims.
    pub(super) samples: usize,
    /// Their median latency in milliseconds.
    pub(super) median_ms: f64,
    /// Their 99th percentile.
    pub(super) p99_ms: f64,
    /// The highest.
    pub(super) worst_ms: f64,
    /// Updates of all writers a second.
    pub(super) writes_per_second: f64,
}

impl PhaseResult {
    fn new(observed: &Observed, from: Instant, to: Instant) -> Self {
        let within = |at: &Instant| *at >= from && *at < to;
        let samples = observed.samples.iter().filter(|Sample { at, .. }| within(at));
        let mut times: Vec<_> = samples.map(|sample| sample.took).collect();
        times.sort_unstable();
        let seconds = to.saturating_duration_since(from).as_secs_f64();
        let written = observed.written.iter().filter(|at| within(at)).count();
        let quantile = |share: f64| milliseconds(times.get((times.len() as f64 * share) as usize).or(times.last()));
        Self {
            seconds,
            samples: times.len(),
            median_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            worst_ms: quantile(1.0),
            writes_per_second: if seconds > 0.0 { written as f64 / seconds } else { 0.0 },
        }
    }
}

fn milliseconds(time: Option<&Duration>) -> f64 {
    time.map_or(0.0, |time| (time.as_secs_f64() * 1e5).round() / 100.0)
}

/// The report on one attack.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// The name of the attack.
    pub(super) attack: String,
    /// The name with the parameters in which its runs differ.
    pub(super) label: String,
    /// All parameters.
    pub(super) parameters: Parameters,
    /// Before the attack, with its preparation done.
    pub(super) before: PhaseResult,
    /// From the order to attack until the load is on. Empty unless sessions are left behind.
    pub(super) launch: PhaseResult,
    /// During the load.
    pub(super) during: PhaseResult,
    /// The worse value of launch and attack, which the limits are for.
    pub(super) attacked: PhaseResult,
    /// After the attacker has gone.
    pub(super) after: PhaseResult,
    /// The victims' median during the attack, divided by that before.
    pub(super) median_times: f64,
    /// The writers' updates a second during the attack, divided by those before.
    pub(super) writers_ratio: f64,
    /// Updates of victims and writers refused.
    pub(super) victims_refused: u64,
    /// Connections of victims and writers that ended.
    pub(super) victims_reconnects: u64,
    /// The longest that a victim's own thread was late, in milliseconds.
    pub(super) victims_late_ms: f64,
    /// Resident memory of the server at the end of the baseline.
    pub(super) memory_before: u64,
    /// The highest from then on.
    pub(super) memory_peak: u64,
    /// The most threads of the server.
    pub(super) threads_peak: u64,
    /// Seconds of CPU of the attacker during the attack.
    pub(super) attacker_cpu_seconds: f64,
    /// The counts of the attacker.
    pub(super) attacker: Counts,
    /// The limits that were not kept. Empty: the attack did not take the service from the others.
    pub(super) violations: Vec<String>,
}

/// The measurements of a run.
pub(super) struct Measured {
    /// The name of the attack.
    pub(super) attack: String,
    /// The label of its report.
    pub(super) label: String,
    /// Its parameters.
    pub(super) parameters: Parameters,
    /// The phases.
    pub(super) times: Times,
    /// The victims and writers.
    pub(super) observed: Observed,
    /// The server's memory.
    pub(super) usage: Vec<Usage>,
    /// The attacker's CPU time.
    pub(super) cpu: Duration,
    /// The attacker's counts.
    pub(super) counts: Counts,
}

impl Report {
    /// Compares the phases, and holds the worse of launch and attack against `limits`.
    pub(super) fn new(measured: Measured, limits: &Limits) -> Self {
        let Measured { attack, label, parameters, times, observed, usage, cpu, counts } = measured;
        let before = PhaseResult::new(&observed, times.before, times.launch);
        let launch = PhaseResult::new(&observed, times.launch, times.attack);
        let during = PhaseResult::new(&observed, times.attack, times.after);
        let after = PhaseResult::new(&observed, times.after, times.end);
        // A launch of a moment is no measurement of its own, apart from its worst.
        let phases = if launch.seconds < 1.0 { vec![&during] } else { vec![&launch, &during] };
        let ratio = |value: f64, base: f64| if base > 0.0 { value / base } else { 0.0 };
        let highest = |value: fn(&PhaseResult) -> f64| phases.iter().map(|phase| value(phase)).fold(0.0, f64::max);
        let attacked = PhaseResult {
            seconds: launch.seconds + during.seconds,
            samples: launch.samples + during.samples,
            median_ms: highest(|phase| phase.median_ms),
            p99_ms: highest(|phase| phase.p99_ms),
            worst_ms: launch.worst_ms.max(during.worst_ms),
            writes_per_second: phases.iter().map(|phase| phase.writes_per_second).fold(f64::INFINITY, f64::min),
        };
        let rows = |from| usage.iter().filter(move |usage| usage.at >= from);
        let mut report = Self {
            attack,
            label,
            parameters,
            median_times: ratio(attacked.median_ms, before.median_ms),
            writers_ratio: ratio(attacked.writes_per_second, before.writes_per_second),
            victims_refused: observed.refused,
            victims_reconnects: observed.reconnects,
            victims_late_ms: milliseconds(Some(&observed.late)),
            memory_before: usage.iter().rfind(|usage| usage.at < times.launch).map_or(0, |usage| usage.bytes),
            memory_peak: rows(times.before).map(|usage| usage.bytes).max().unwrap_or_default(),
            threads_peak: rows(times.before).map(|usage| usage.threads).max().unwrap_or_default(),
            attacker_cpu_seconds: cpu.as_secs_f64(),
            attacker: counts,
            violations: Vec::new(),
            before,
            launch,
            during,
            attacked,
            after,
        };
        report.violations = report.judge(limits);
        report
    }

    fn judge(&self, limits: &Limits) -> Vec<String> {
        let mut violations = Vec::new();
        let Limits { median_times_max, worst_ms_max, writers_min, memory_max } = limits;
        let mut violation = |holds: bool, text: String| {
            if !holds {
                violations.push(text);
            }
        };
        violation(self.before.samples > 0 && self.during.samples > 0, "the victims were not measured".to_owned());
        violation(
            self.median_times <= *median_times_max,
            format!("median {:.1}×, at most {median_times_max:.1}×", self.median_times),
        );
        violation(
            self.attacked.worst_ms <= *worst_ms_max,
            format!("worst {:.0} ms, at most {worst_ms_max:.0} ms", self.attacked.worst_ms),
        );
        violation(
            self.writers_ratio >= *writers_min,
            format!("writers {:.2}×, at least {writers_min:.2}×", self.writers_ratio),
        );
        violation(
            self.victims_reconnects == 0,
            format!("{} connections of victims and writers ended", self.victims_reconnects),
        );
        if let Some(most) = memory_max {
            violation(self.memory_peak <= *most, format!("memory {}, at most {}", mib(self.memory_peak), mib(*most)));
        }
        violations
    }

    /// Returns the report as one line.
    pub(super) fn line(&self) -> String {
        let Self { before, attacked, attacker, .. } = self;
        let mut line = format!(
            "{}: victims {:.1}/{:.1}/{:.1} → {:.1}/{:.1}/{:.1} ms (median/p99/worst; {:.1}×), writers {:.0} → {:.0}/s ({:.2}×), \
             memory {} → {}, {} threads; attacker {:.1} s CPU, {} requests ({} accepted, {} refused), {} deliveries",
            self.label,
            before.median_ms,
            before.p99_ms,
            before.worst_ms,
            attacked.median_ms,
            attacked.p99_ms,
            self.attacked.worst_ms,
            self.median_times,
            before.writes_per_second,
            attacked.writes_per_second,
            self.writers_ratio,
            mib(self.memory_before),
            mib(self.memory_peak),
            self.threads_peak,
            self.attacker_cpu_seconds,
            attacker.requests,
            attacker.accepted,
            attacker.refused,
            attacker.deliveries,
        );
        if attacker.prepared < attacker.wanted {
            let _ = write!(line, ", {} of {} prepared", attacker.prepared, attacker.wanted);
        }
        line.push_str(": ");
        line.push_str(&self.verdict());
        line
    }

    /// Returns the verdict.
    pub(super) fn verdict(&self) -> String {
        if self.violations.is_empty() { "held".to_owned() } else { format!("FAILED ({})", self.violations.join("; ")) }
    }
}

/// Returns the reports as a table in Markdown.
pub(super) fn table(reports: &[Report]) -> String {
    let mut out = String::from(
        "| attack | median ms | p99 ms | worst ms | writers/s | after: median ms | memory MiB | threads | attacker's CPU s | accepted, refused | verdict |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for report in reports {
        let Report { before, attacked, after, attacker, .. } = report;
        let _ = writeln!(
            out,
            "| {} | {:.1} → {:.1} ({:.1}×) | {:.1} → {:.1} | {:.1} → {:.0} | {:.0} → {:.0} ({:.2}×) | {:.1} | {} → {} | {} | {:.1} | {}, {} | {} |",
            report.label,
            before.median_ms,
            attacked.median_ms,
            report.median_times,
            before.p99_ms,
            attacked.p99_ms,
            before.worst_ms,
            report.attacked.worst_ms,
            before.writes_per_second,
            attacked.writes_per_second,
            report.writers_ratio,
            after.median_ms,
            report.memory_before >> 20,
            report.memory_peak >> 20,
            report.threads_peak,
            report.attacker_cpu_seconds,
            attacker.accepted,
            attacker.refused,
            report.verdict(),
        );
    }
    out
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(limits: &Limits, during_ms: u64, writes: usize, memory: u64, reconnects: u64) -> Report {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let samples = (0..40_u64).map(|number| {
            let took = if number >= 10 { during_ms } else { 2 };
            Sample { at: start + Duration::from_millis(number * 100), took: Duration::from_millis(took) }
        });
        let before = (0..100_u64).map(|number| start + Duration::from_millis(number * 10));
        let during = (0..writes as u64).map(|number| at(1) + Duration::from_millis(number * 3000 / writes as u64));
        let observed = Observed {
            samples: samples.collect(),
            written: before.chain(during).collect(),
            reconnects,
            ..Observed::default()
        };
        let measured = Measured {
            attack: "a".to_owned(),
            label: "a".to_owned(),
            parameters: Parameters::new(),
            times: Times { before: start, launch: at(1), attack: at(1), after: at(4), end: at(5) },
            observed,
            usage: vec![Usage { at: at(2), bytes: memory, threads: 3 }],
            cpu: Duration::ZERO,
            counts: Counts::default(),
        };
        Report::new(measured, limits)
    }

    #[test]
    fn each_limit_is_held_against_its_phase() {
        let limits = Limits { median_times_max: 3.0, worst_ms_max: 100.0, writers_min: 0.8, memory_max: Some(1 << 20) };
        let rows = [
            ("all within", report(&limits, 6, 300, 1 << 20, 0), ""),
            ("median", report(&limits, 7, 300, 0, 0), "median 3.5×, at most 3.0×"),
            ("writers", report(&limits, 2, 150, 0, 0), "writers 0.50×, at least 0.80×"),
            ("memory", report(&limits, 2, 300, 2 << 20, 0), "memory 2 MiB, at most 1 MiB"),
            ("connections", report(&limits, 2, 300, 0, 1), "1 connections of victims and writers ended"),
            ("worst", report(&limits, 101, 300, 0, 0), "median 50.5×, at most 3.0×; worst 101 ms, at most 100 ms"),
        ];
        for (label, report, violations) in rows {
            assert_eq!(report.violations.join("; "), violations, "{label}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(["7", "2K", "512M", "1GiB"].map(size), [Ok(7), Ok(2048), Ok(512 << 20), Ok(1 << 30)]);
        assert!(["", "M", "1T", "-1"].iter().all(|text| size(text).is_err()));
    }
}
