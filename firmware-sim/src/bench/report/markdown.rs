//! The pages of a run: Markdown with a chart per workload, and JSON with every round.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context;

use super::{
    chart::chart,
    metric::short,
    results::{Results, TargetResult},
    table::Rows,
};
use crate::bench::suite::names::about;

/// Writes `results.md`, `results.json` and a chart per workload into `directory`.
///
/// # Errors
///
/// A file cannot be written.
pub(crate) fn write_pages(results: &Results, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let write = |name: &str, text: &str| {
        let file = directory.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    };
    for workload in results.workloads() {
        if let Some(svg) = chart(results, workload) {
            write(&format!("{workload}.svg"), &svg)?;
        }
    }
    write("results.json", &format!("{}\n", serde_json::to_string_pretty(results)?))?;
    write("results.md", &page(results))
}

fn page(results: &Results) -> String {
    let mut text = format!("# Results\n\n{}\n", introduction(results));
    if !results.targets.is_empty() {
        text.push_str("## Targets\n\n| | reached | target | |\n|---|---|---|---|\n");
        for TargetResult { what, reached, target, at_least, met } in &results.targets {
            let (bound, met) =
                (if *at_least { "at least" } else { "at most" }, if *met { "met" } else { "**missed**" });
            let _ = writeln!(text, "| {what} | {} | {bound} {} | {met} |", short(*reached), short(*target));
        }
    }
    for workload in results.workloads() {
        let _ = write!(text, "\n## {workload}\n\n{}\n\n", about(workload));
        if chart(results, workload).is_some() {
            let _ = write!(text, "![{workload}]({workload}.svg)\n\n");
        }
        let rows = Rows::of(results, workload);
        let _ = writeln!(text, "| {} |", rows.head.join(" | "));
        let columns = rows.head.iter().enumerate().map(|(column, _)| if column < 2 { "---" } else { "--:" });
        let _ = writeln!(text, "|{}|", columns.collect::<Vec<_>>().join("|"));
        for row in rows.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
    }
    if !results.omitted.is_empty() {
        text.push_str("\n## Not measured\n\n");
        for omitted in &results.omitted {
            let _ = writeln!(text, "- {omitted}");
        }
    }
    let _ = write!(
        text,
        "\n## Settings\n\n{}\n\numbrad runs with its defaults, except:\n\n```toml\n{}\n```\n",
        list(&results.settings.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()),
        results.umbrad_settings.trim_end()
    );
    text
}

fn introduction(results: &Results) -> String {
    let machine = &results.machine;
    let versions = results.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect::<Vec<_>>();
    format!(
        "Written by `./bench` on {}; [performance.md](../performance.md) says what each number means. `results.json` has every\n\
         round. Server and load generator ran on one machine: {} processors ({}), {} GiB of memory, {}, stores on {}.\n\
         The numbers are medians of the rounds; the lines in the charts span all rounds. `ratio` is relative to the first row\n\
         of a table.\n\n{}",
        machine.date,
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        machine.file_system,
        list(&versions)
    )
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {line}")).collect::<Vec<_>>().join("\n") + "\n"
}
