//! Results as tables of text.

use std::fmt::Write as _;

use super::{
    Metric,
    metric::short,
    results::{Results, Series, TargetResult},
};
use crate::bench::{load::devices::Measurement, suite::names::DISK};

/// Returns one measurement, with a line per number.
pub(crate) fn measured(all: &Measurement) -> String {
    let Measurement { devices, measured, connect_seconds, update_bytes } = all;
    let l = measured.latency_ms;
    format!(
        "devices             {devices}, all connected in {connect_seconds:.2} s\n\
         accepted updates/s  {:.0}\n\
         latency             p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms\n\
         sizes               update {update_bytes} bytes on the wire, payload of accepted {} bytes\n\
         CPU of generator    {:.1} us for each update\n",
        measured.per_second, l.p50, l.p99, l.p999, l.max, measured.answer_bytes, measured.generator_cpu_us
    )
}

/// Returns the medians of all series, a table per workload, and the targets.
pub(crate) fn overview(results: &Results) -> String {
    let mut text = String::new();
    for workload in results.workloads() {
        let rows = Rows::of(results, workload);
        let widths: Vec<usize> = (0..rows.head.len())
            .map(|column| {
                let cells = rows.rows.iter().chain([&rows.head]).filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
            })
            .collect();
        let _ = writeln!(text, "\n{workload}");
        for row in [&rows.head].into_iter().chain(&rows.rows) {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // The first two columns are text.
                let _ = if column < 2 { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
    }
    text.push_str(&targets(&results.targets));
    for omitted in &results.omitted {
        let _ = writeln!(text, "not measured: {omitted}");
    }
    text
}

/// The cells of the table of a workload.
pub(super) struct Rows {
    /// The head: server, load, the metrics, and the ratio.
    pub(super) head: Vec<String>,
    /// A row of medians per series.
    pub(super) rows: Vec<Vec<String>>,
}

impl Rows {
    /// Returns the medians of a workload. The ratio is that of each series' main metric to that of the first server, if
    /// they have the same.
    pub(super) fn of(results: &Results, workload: &str) -> Self {
        let series: Vec<&Series> = results.series.iter().filter(|series| series.name.workload == workload).collect();
        let mut metrics: Vec<Metric> =
            series.iter().flat_map(|series| &series.rounds).flat_map(|r| r.keys().copied()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let mut head = vec!["server".to_owned(), "load".to_owned()];
        head.extend(metrics.iter().map(|metric| metric.label().to_owned()));
        head.push("ratio".to_owned());
        // The disk is no server.
        let reference = series.iter().find(|series| series.name.server != DISK);
        let reference = reference.and_then(|first| Some((first.main_metric()?, first.median(first.main_metric()?)?)));
        let rows = series.iter().map(|series| {
            let mut row = vec![series.name.server.clone(), series.name.load.clone()];
            row.extend(metrics.iter().map(|metric| series.median(*metric).map(short).unwrap_or_default()));
            let ratio = reference.filter(|(metric, _)| series.main_metric() == Some(*metric));
            let ratio = ratio.and_then(|(metric, first)| Some(series.median(metric)? / first));
            row.push(ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default());
            row
        });
        Self { rows: rows.collect(), head }
    }
}

/// Returns a table of the targets.
fn targets(targets: &[TargetResult]) -> String {
    let mut text = format!("\n{:<64} {:>10}   target\n", "target", "reached");
    for TargetResult { what, reached, target, at_least, met } in targets {
        let (bound, met) = (if *at_least { "≥" } else { "≤" }, if *met { "met" } else { "MISSED" });
        let _ = writeln!(text, "{what:<64} {:>10}   {bound} {:<8} {met}", short(*reached), short(*target));
    }
    text
}
