//! Measurements as tables of text.

use std::fmt::Write as _;

use super::{
    generator::Measurement,
    results::{Comparison, Round, TargetResult, median},
};

/// Returns one measurement, with a line per number.
pub(crate) fn measured(measured: &Measurement) -> String {
    let Measurement { devices, updates_per_second, latency_ms: l, connect_seconds, .. } = measured;
    format!(
        "devices             {devices}, all connected in {connect_seconds:.2} s\n\
         accepted updates/s  {updates_per_second:.0}\n\
         latency             p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms\n\
         sizes               update {} bytes on the wire, payload of accepted {} bytes\n\
         CPU of generator    {:.1} us for each update\n",
        l.p50, l.p99, l.p999, l.max, measured.update_bytes, measured.accepted_bytes, measured.generator_cpu_us
    )
}

/// Returns all rounds, their medians, and the targets.
pub(crate) fn comparison(all: &Comparison, verdicts: &[TargetResult]) -> String {
    let mut text = String::from(HEAD);
    for (name, rounds) in
        [("umbrad", &all.umbrad), ("mosquitto + echo", &all.mosquitto), ("umbrad", &all.many), ("umbrad", &all.few)]
    {
        for round in rounds {
            row(&mut text, name, "", &Numbers::of(round));
        }
        if let Some(median) = Numbers::median(rounds) {
            row(&mut text, name, "median", &median);
        }
    }
    if let Some(idle) = &all.idle {
        let (devices, kilobytes) = (idle.devices, idle.bytes_per_device / 1000.0);
        let seconds = idle.connect_seconds;
        let _ = writeln!(text, "\numbrad, {devices} idle devices: {kilobytes:.2} KB each, connected in {seconds:.1} s");
    }
    text.push_str(&targets(verdicts));
    text
}

/// Returns a table of the targets.
pub(crate) fn targets(verdicts: &[TargetResult]) -> String {
    let mut text = format!("\n{:<50} {:>10}   target\n", "target", "reached");
    for TargetResult { what, reached, target, at_least, met } in verdicts {
        let (bound, met) = (if *at_least { "≥" } else { "≤" }, if *met { "met" } else { "MISSED" });
        let _ = writeln!(text, "{what:<50} {:>10}   {bound} {target:<8} {met}", short(*reached));
    }
    text
}

/// The numbers of a row.
struct Numbers {
    devices: usize,
    rate: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    connect: f64,
    server_cpu: f64,
    generator_cpu: f64,
}

impl Numbers {
    fn of(Round { measured, server_cpu_us }: &Round) -> Self {
        Self {
            devices: measured.devices,
            rate: measured.updates_per_second,
            p50: measured.latency_ms.p50,
            p99: measured.latency_ms.p99,
            p999: measured.latency_ms.p999,
            connect: measured.connect_seconds,
            server_cpu: *server_cpu_us,
            generator_cpu: measured.generator_cpu_us,
        }
    }

    /// Returns the median of each number.
    fn median(rounds: &[Round]) -> Option<Self> {
        let of = |number: fn(&Self) -> f64| median(rounds.iter().map(|round| number(&Self::of(round))));
        Some(Self {
            devices: rounds.first()?.measured.devices,
            rate: of(|n| n.rate)?,
            p50: of(|n| n.p50)?,
            p99: of(|n| n.p99)?,
            p999: of(|n| n.p999)?,
            connect: of(|n| n.connect)?,
            server_cpu: of(|n| n.server_cpu)?,
            generator_cpu: of(|n| n.generator_cpu)?,
        })
    }
}

fn row(text: &mut String, name: &str, note: &str, n: &Numbers) {
    let Numbers { devices, rate, p50, p99, p999, connect, server_cpu, generator_cpu } = n;
    let _ = writeln!(
        text,
        "{name:<17}{note:<7}{devices:>8}{rate:>11.0}{p50:>9.2}{p99:>9.2}{p999:>9.2}{connect:>9.2}{server_cpu:>11.1}{generator_cpu:>14.1}",
    );
}

fn short(value: f64) -> String {
    if value >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

const HEAD: &str = "\
server                  devices  updates/s   p50 ms   p99 ms p99.9 ms  conn. s  CPU us/upd  generator us
";
