//! `bench diff`: the ratios of two runs of the suite.

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use clap::Args;

use super::{
    Metric,
    metric::{Better, short},
    results::{FORMAT, Results, SeriesName},
};
use crate::bench::suite::names::UMBRAD;

/// Arguments of `bench diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The results.json of the older run
    old: PathBuf,
    /// The results.json of the newer run
    new: PathBuf,
    /// Percent by which a metric may be worse.
    #[arg(long, default_value_t = 10.0)]
    tolerance: f64,
    /// Print only what is worse.
    #[arg(long)]
    worse: bool,
}

/// One metric of a series in both runs.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    name: SeriesName,
    metric: Metric,
    old: f64,
    new: f64,
    /// True if it is worse by more than the tolerance, and counts.
    worse: bool,
}

/// Prints the changes. The exit code is 1 if a metric of umbrad is worse than the tolerance.
///
/// # Errors
///
/// A file cannot be read, or has nothing in common with the other.
pub(crate) fn diff(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let changes = changes(&old, &new, args.tolerance / 100.0);
    ensure!(!changes.is_empty(), "the two runs have no series in common");
    let shown = changes.iter().filter(|change| change.worse || !args.worse);
    print!("{}", table(shown));
    let worse = changes.iter().filter(|change| change.worse).count();
    println!("{} metrics, {worse} worse by more than {} %", changes.len(), args.tolerance);
    Ok(if worse > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(file: &PathBuf) -> anyhow::Result<Results> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let results: Results =
        serde_json::from_str(&text).with_context(|| format!("{} is no results.json", file.display()))?;
    ensure!(results.format == FORMAT, "{} has format {}, not {FORMAT}", file.display(), results.format);
    Ok(results)
}

/// Returns the changes of all metrics that both runs have and that can be better or worse. Those of the peers never count:
/// they say how far the two machines differ.
fn changes(old: &Results, new: &Results, tolerance: f64) -> Vec<Change> {
    let mut changes = Vec::new();
    for series in &new.series {
        let Some(before) = old.series.iter().find(|before| before.name == series.name) else { continue };
        let metrics = series.rounds.first().map(|round| round.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
        for metric in metrics {
            let (Some(old), Some(new)) = (before.median(metric), series.median(metric)) else { continue };
            let worse = match metric.better() {
                Better::Neither => continue,
                Better::Higher => new < old * (1.0 - tolerance),
                Better::Lower => new > old * (1.0 + tolerance),
            };
            let worse = worse && series.name.server == UMBRAD;
            changes.push(Change { name: series.name.clone(), metric, old, new, worse });
        }
    }
    changes
}

fn table<'a>(changes: impl Iterator<Item = &'a Change>) -> String {
    let mut text = format!(
        "{:<12}{:<26}{:<34}{:<18}{:>12}{:>12}{:>8}\n",
        "workload", "server", "load", "metric", "old", "new", "ratio"
    );
    for Change { name, metric, old, new, worse } in changes {
        let ratio = if *old == 0.0 { f64::NAN } else { new / old };
        let _ = writeln!(
            text,
            "{:<12}{:<26}{:<34}{:<18}{:>12}{:>12}{ratio:>8.2}{}",
            name.workload,
            name.server,
            name.load,
            metric.label(),
            short(*old),
            short(*new),
            if *worse { "  WORSE" } else { "" }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Machine, Round};

    fn results(server: &str, rounds: &[(f64, f64)]) -> Results {
        let mut results = Results::new(Machine::this(std::path::Path::new("/")));
        let name = SeriesName { workload: "hot".to_owned(), server: server.to_owned(), load: "closed loop".to_owned() };
        for (rate, latency) in rounds {
            let clients = (Metric::Clients, 1.0);
            results.record(&name, Round::from([clients, (Metric::UpdatesPerSecond, *rate), (Metric::P99Ms, *latency)]));
        }
        results
    }

    #[test]
    fn medians_are_compared_in_the_direction_of_the_metric() {
        let old = results(UMBRAD, &[(1.0, 1.0), (1_000.0, 10.0), (9_000.0, 90.0)]);
        for (label, rate, latency, expected) in [
            ("the same", 1_000.0, 10.0, [false, false]),
            ("better", 2_000.0, 5.0, [false, false]),
            ("within the tolerance", 901.0, 10.9, [false, false]),
            ("slower", 899.0, 10.0, [true, false]),
            ("later", 1_000.0, 11.1, [false, true]),
        ] {
            let new = results(UMBRAD, &[(rate, latency)]);
            let found = changes(&old, &new, 0.1);
            let worse: Vec<_> = found.iter().map(|change| change.worse).collect();
            assert_eq!(worse, expected, "{label}");
        }
    }

    #[test]
    fn a_peer_never_counts_and_other_series_are_left_out() {
        let found = changes(&results("NATS", &[(1_000.0, 1.0)]), &results("NATS", &[(1.0, 100.0)]), 0.1);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|change| !change.worse));
        assert!(changes(&results("NATS", &[(1.0, 1.0)]), &results(UMBRAD, &[(1.0, 1.0)]), 0.1).is_empty());
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let written = results(UMBRAD, &[(1.0, 2.0)]);
        let text = serde_json::to_string(&written).expect("JSON");
        let read: Results = serde_json::from_str(&text).expect("results");
        assert_eq!(changes(&written, &read, 0.0).iter().filter(|change| change.worse).count(), 0);
        assert!(table(changes(&written, &read, 0.0).iter()).contains("p99 ms"));
    }
}
