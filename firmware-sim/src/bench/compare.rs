//! `bench compare`: alternating rounds of both servers, and the ratios.
//!
//! Order: rounds at the usual size, umbrad and mosquitto in turn, so that other load on the machine affects both; then
//! umbrad by kind of update, with many devices, with few, and with idle ones. Every round starts its server again. The
//! echo engine's answers are as large as umbrad's in the round before. A rejected or lost update fails the whole run.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context, ensure};
use clap::Args;

use super::{
    generator::{Generator, Load},
    load_args::LoadArgs,
    message::UpdateKind,
    results::{Comparison, Idle, Round},
    servers::{Peer, Servers},
    table,
};

/// Arguments of `bench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The umbrad to measure. Default: the one beside this program
    #[arg(long)]
    umbrad: Option<PathBuf>,
    /// The mosquitto to compare with. Default: the one installed
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    /// Measure umbrad alone.
    #[arg(long, conflicts_with = "mosquitto")]
    without_mosquitto: bool,
    /// Directory for the stores of the servers, which are removed again. Default: beside this program
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Rounds of each server at the usual size; other sizes get up to three.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds measured in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Devices at the usual size.
    #[arg(long, default_value_t = 1_000)]
    devices: usize,
    /// Many devices; 0 omits the measurement.
    #[arg(long, default_value_t = 15_000)]
    many: usize,
    /// Few devices, for the latency; 0 omits the measurement.
    #[arg(long, default_value_t = 100)]
    few: usize,
    /// Idle devices, for the memory; 0 omits the measurement.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Omit the comparison of kinds of updates.
    #[arg(long)]
    without_update_kinds: bool,
    #[command(flatten)]
    load: LoadArgs,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    enforce: bool,
}

/// Runs the comparison and prints it.
///
/// # Errors
///
/// A server did not start, or a round failed.
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

/// The kinds of updates, in the order of their rounds.
const UPDATE_KINDS: [UpdateKind; 4] =
    [UpdateKind::Unconditional, UpdateKind::Conditional, UpdateKind::Rebase, UpdateKind::Keyed];

struct Bench<'a> {
    args: &'a CompareArgs,
    servers: Servers,
    stop: &'a Arc<AtomicBool>,
}

impl Bench<'_> {
    fn all(&self) -> anyhow::Result<Comparison> {
        eprintln!("umbrad runs with its default settings, except:");
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
        if !self.args.without_update_kinds {
            for number in 1..=self.args.rounds {
                for kind in UPDATE_KINDS {
                    all.update_kinds.push((kind, self.umbrad_with(kind, number)?));
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

    fn umbrad_with(&self, kind: UpdateKind, number: u32) -> anyhow::Result<Round> {
        let peer = self.servers.start_umbrad()?;
        let load = Load { kind, ..self.load(&peer, self.args.devices)? };
        self.round(&peer, &format!("umbrad, {}", kind.name()), load, number)
    }

    fn mosquitto(&self, accepted_bytes: usize, number: u32) -> anyhow::Result<Round> {
        let peer = self.servers.start_mosquitto(accepted_bytes, self.args.load.event_qos)?;
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
        let before = peer.settled_bytes()?;
        let generator = Generator::connect(self.load(&peer, self.args.idle)?)?;
        let growth = peer.settled_bytes()?.saturating_sub(before);
        let devices = self.args.idle;
        let bytes_per_device = growth as f64 / devices as f64;
        eprintln!("idle: {devices} devices: {:.1} KB each", bytes_per_device / 1000.0);
        Ok(Idle { devices, bytes_per_device, connect_seconds: generator.connect_time().as_secs_f64() })
    }

    fn load(&self, peer: &Peer, devices: usize) -> anyhow::Result<Load> {
        self.args.load.load(peer.address, devices, self.args.seconds, self.stop)
    }
}
