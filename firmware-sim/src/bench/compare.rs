//! `bench compare`: both servers, alternating, and the ratios.
//!
//! Order: rounds at the usual size, umbrad and mosquitto in turn so that whatever else the machine does meets both;
//! then umbrad with many devices, with few, and with many that are idle. Every round starts its server anew. The echo
//! engine's answers are as large as umbrad's were in the round before. A failed round fails the whole: there is no
//! result of a run in which an update was rejected or lost.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    Shape,
    generator::{Generator, Load, Measurement},
    message::UpdateKind,
    servers::{Peer, Servers},
    table,
};

/// Arguments of `bench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The umbrad to measure; the one beside this program without it.
    #[arg(long)]
    umbrad: Option<PathBuf>,
    /// The mosquitto to compare with; the one installed without it.
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    /// Measure umbrad alone.
    #[arg(long, conflicts_with = "mosquitto")]
    without_mosquitto: bool,
    /// Where the stores of the measured servers are made, and removed again; beside this program without it.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Rounds of each server at the usual size; sizes beside it get up to three.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds measured in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The usual size.
    #[arg(long, default_value_t = 1_000)]
    devices: usize,
    /// Many devices; 0 leaves it out.
    #[arg(long, default_value_t = 15_000)]
    many: usize,
    /// Few devices, for the latency; 0 leaves it out.
    #[arg(long, default_value_t = 100)]
    few: usize,
    /// Idle devices, for the memory; 0 leaves it out.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Leave out the comparison of updates that are guarded in different ways.
    #[arg(long)]
    without_manners: bool,
    #[command(flatten)]
    shape: Shape,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    enforce: bool,
}

/// Everything measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Comparison {
    /// umbrad at the usual size.
    pub(crate) umbrad: Vec<Round>,
    /// mosquitto with the echo engine at the usual size.
    pub(crate) mosquitto: Vec<Round>,
    /// umbrad at the usual size, by how updates are guarded.
    pub(crate) manners: Vec<(UpdateKind, Round)>,
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
    /// What the generator measured.
    #[serde(flatten)]
    pub(crate) measured: Measurement,
    /// Microseconds of CPU the server (and the echo engine) used for each update, from start to end of the round.
    pub(crate) server_cpu_us: f64,
}

/// The price of devices that do nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    /// Devices connected, four subscriptions each.
    pub(crate) devices: usize,
    /// Growth of resident memory for each, in bytes.
    pub(crate) bytes_per_device: f64,
    /// Until all were connected and subscribed.
    pub(crate) connect_seconds: f64,
}

/// Compares, and prints.
///
/// # Errors
///
/// A server did not start, or a round is not to be trusted.
pub(crate) fn compare(args: &CompareArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let servers = Servers::find(args.umbrad.as_deref(), args.mosquitto.as_deref(), args.directory.as_deref())?;
    super::limits::raise_open_files(args.devices.max(args.many).max(args.idle))?;
    let bench = Bench { args, servers, stop };
    let comparison = bench.all()?;
    let verdicts = comparison.verdicts();
    if args.json {
        let verdicts: Vec<_> = verdicts.iter().collect();
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"rounds": comparison, "targets": verdicts}))?);
    } else {
        print!("{}", table::comparison(&comparison, &verdicts));
    }
    let missed = verdicts.iter().any(|verdict| !verdict.met);
    Ok(if missed && args.enforce { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// In the order of their turns.
const MANNERS: [UpdateKind; 4] =
    [UpdateKind::Unconditional, UpdateKind::Conditional, UpdateKind::Rebase, UpdateKind::Keyed];

struct Bench<'a> {
    args: &'a CompareArgs,
    servers: Servers,
    stop: &'a Arc<AtomicBool>,
}

impl Bench<'_> {
    fn all(&self) -> anyhow::Result<Comparison> {
        eprintln!("umbrad runs with its shipped settings, but for these:");
        let shown = Servers::umbrad_settings(super::process::free_address()?, Path::new("umbra.redb"));
        shown.lines().for_each(|line| eprintln!("    {line}"));
        let mut all = Comparison::default();
        for number in 1..=self.args.rounds {
            let umbrad = self.umbrad(self.args.devices, number)?;
            let accepted_bytes = umbrad.measured.accepted_bytes;
            all.umbrad.push(umbrad);
            if !self.args.without_mosquitto {
                all.mosquitto.push(self.mosquitto(accepted_bytes, number)?);
            }
        }
        if !self.args.without_manners {
            for number in 1..=self.args.rounds {
                for manner in MANNERS {
                    all.manners.push((manner, self.guarded(manner, number)?));
                }
            }
        }
        for number in 1..=self.args.rounds.min(3) {
            if self.args.many > 0 {
                all.many.push(self.umbrad(self.args.many, number)?);
            }
            if self.args.few > 0 {
                all.few.push(self.umbrad(self.args.few, number)?);
            }
        }
        if self.args.idle > 0 {
            all.idle = Some(self.idle()?);
        }
        Ok(all)
    }

    fn umbrad(&self, devices: usize, number: u32) -> anyhow::Result<Round> {
        let peer = self.servers.start_umbrad()?;
        self.round(&peer, "umbrad", self.load(&peer, devices)?, number)
    }

    fn guarded(&self, manner: UpdateKind, number: u32) -> anyhow::Result<Round> {
        let peer = self.servers.start_umbrad()?;
        let load = Load { manner, ..self.load(&peer, self.args.devices)? };
        self.round(&peer, &format!("umbrad, {}", manner.name()), load, number)
    }

    fn mosquitto(&self, accepted_bytes: usize, number: u32) -> anyhow::Result<Round> {
        let peer = self.servers.start_mosquitto(accepted_bytes, self.args.shape.event_qos)?;
        let round = self.round(&peer, "mosquitto", self.load(&peer, self.args.devices)?, number)?;
        let answered = round.measured.accepted_bytes;
        ensure!(answered == accepted_bytes, "the echo engine answered with {answered} bytes, not {accepted_bytes}");
        Ok(round)
    }

    fn round(&self, peer: &Peer, name: &str, load: Load, number: u32) -> anyhow::Result<Round> {
        let devices = load.devices;
        let failed = || format!("round {number} of {name} with {devices} devices; its log ends:\n{}\n", peer.log_end());
        let generator = Generator::connect(load).with_context(failed)?;
        let before = peer.cpu_time()?;
        let (measured, updates) = generator.run().with_context(failed)?;
        let server_cpu_us = (peer.cpu_time()? - before).as_secs_f64() * 1e6 / updates.max(1) as f64;
        let rate = measured.updates_per_second;
        eprintln!("round {number}: {name}, {devices} devices: {rate:.0} updates/s");
        Ok(Round { measured, server_cpu_us })
    }

    fn idle(&self) -> anyhow::Result<Idle> {
        let peer = self.servers.start_umbrad()?;
        let before = settled(&peer)?;
        let generator = Generator::connect(self.load(&peer, self.args.idle)?)?;
        let growth = settled(&peer)?.saturating_sub(before);
        let devices = self.args.idle;
        let bytes_per_device = growth as f64 / devices as f64;
        eprintln!("idle: {devices} devices: {:.1} KB each", bytes_per_device / 1000.0);
        Ok(Idle { devices, bytes_per_device, connect_seconds: generator.connect_time().as_secs_f64() })
    }

    fn load(&self, peer: &Peer, devices: usize) -> anyhow::Result<Load> {
        self.args.shape.load(peer.address, devices, self.args.seconds, self.stop)
    }
}

/// Resident memory once it no longer grows: the highest of five readings in a row without a new highest.
fn settled(peer: &Peer) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let (mut highest, mut without_growth) = (0, 0);
    while without_growth < 5 && Instant::now() < deadline {
        let now = peer.resident_bytes()?;
        without_growth = if now > highest { 0 } else { without_growth + 1 };
        highest = highest.max(now);
        sleep(Duration::from_millis(100));
    }
    Ok(highest)
}

/// One target and what was reached.
#[derive(Debug, Serialize)]
pub(crate) struct TargetResult {
    /// What it is about.
    pub(crate) what: &'static str,
    /// What was reached.
    pub(crate) reached: f64,
    /// What should be, at least or at most.
    pub(crate) target: f64,
    /// Whether more is better.
    pub(crate) at_least: bool,
    /// Whether it is reached.
    pub(crate) met: bool,
}

impl Comparison {
    /// The targets that can be judged by what was measured.
    pub(crate) fn verdicts(&self) -> Vec<TargetResult> {
        let rate = |rounds: &[Round]| median(rounds.iter().map(|round| round.measured.updates_per_second));
        let usual = rate(&self.umbrad);
        let ratio = |part: Option<f64>, whole: Option<f64>| Some(part? / whole?);
        let connect = median(self.many.iter().map(|round| round.measured.connect_seconds));
        let latency = median(self.few.iter().map(|round| round.measured.latency_ms.p50));
        let guarded = |manner| {
            let of = |wanted: UpdateKind| {
                let rounds = self.manners.iter().filter(move |(manner, _)| *manner == wanted);
                median(rounds.map(|(_, round)| round.measured.updates_per_second))
            };
            ratio(of(manner), of(UpdateKind::Unconditional))
        };
        let memory = self.idle.as_ref().map(|idle| idle.bytes_per_device / 1000.0);
        [
            ("durable accepted updates/s", usual, 30_000.0, true),
            ("ratio to mosquitto with an echo and no storage", ratio(usual, rate(&self.mosquitto)), 1.1, true),
            ("ratio of conditional to unconditional updates", guarded(UpdateKind::Conditional), 0.85, true),
            ("ratio of rebased to unconditional updates", guarded(UpdateKind::Rebase), 0.85, true),
            ("ratio of keyed to unconditional updates", guarded(UpdateKind::Keyed), 0.85, true),
            ("ratio of many devices to the usual size", ratio(rate(&self.many), usual), 0.7, true),
            ("seconds to connect many devices", connect, 15.0, false),
            ("median latency of few devices, ms", latency, 4.0, false),
            ("KB of memory per idle device", memory, 12.0, false),
        ]
        .into_iter()
        .filter_map(|(what, reached, target, at_least)| {
            let reached = reached?;
            let met = if at_least { reached >= target } else { reached <= target };
            Some(TargetResult { what, reached, target, at_least, met })
        })
        .collect()
    }
}

/// The middle value; of two in the middle, their mean.
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
