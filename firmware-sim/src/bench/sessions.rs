//! `bench sessions`: persistent sessions. Their throughput at QoS 1, next to mosquitto and NATS JetStream; their memory;
//! and the time of a start with many of them.
//!
//! Order: rounds of all servers in turn, so that other load on the machine affects all; then the memory of sessions that
//! are connected, and of those that are disconnected; then the start. Every round starts its server again.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    delivery::{Delivered, Deliveries, DeliveryLoad},
    results::{TargetResult, median},
    servers::{Peer, Servers},
    table,
    visitor::Visits,
};

/// Arguments of `bench sessions`.
#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// The umbrad to measure. Default: the one beside this program
    #[arg(long)]
    umbrad: Option<PathBuf>,
    /// The mosquitto to compare with. Default: the one installed
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    /// The NATS server to compare with. Default: the one that `./bench-sessions` installs
    #[arg(long)]
    nats: Option<PathBuf>,
    /// Measure umbrad alone.
    #[arg(long, conflicts_with_all = ["mosquitto", "nats"])]
    alone: bool,
    /// Directory for the stores of the servers, which are removed again. Default: beside this program
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Rounds of each server; 0 omits the measurement.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds measured in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of load before.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Publishers, each with a subscriber.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,
    /// Messages of each publisher that are not delivered and acknowledged, at most.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    window: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// Sessions, for the memory; 0 omits the measurement.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Sessions at a start; 0 omits the measurement.
    #[arg(long, default_value_t = 100_000)]
    stored: usize,
    /// Messages queued for each of them.
    #[arg(long, default_value_t = 10)]
    queued: usize,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    enforce: bool,
}

/// All measurements.
#[derive(Debug, Default, Serialize)]
struct SessionResults {
    umbrad: Vec<DeliveryRound>,
    mosquitto: Vec<DeliveryRound>,
    nats: Vec<DeliveryRound>,
    /// Growth of resident memory per session, in bytes.
    connected_bytes: Option<f64>,
    /// The same, of sessions without a connection.
    disconnected_bytes: Option<f64>,
    /// Seconds of the start, after a stop and after a kill.
    start_seconds: Option<[f64; 2]>,
}

/// One round of one server.
#[derive(Debug, Serialize)]
struct DeliveryRound {
    #[serde(flatten)]
    delivered: Delivered,
    /// Microseconds of CPU per message that the server used in the round.
    server_cpu_us: f64,
}

/// Measures, and prints.
///
/// # Errors
///
/// A server did not start, or a round failed.
pub(crate) fn sessions(args: &SessionsArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let servers = Servers::find(args.umbrad.as_deref(), args.mosquitto.as_deref(), args.directory.as_deref())?;
    let servers = servers.with_nats(args.nats.as_deref());
    super::limits::raise_open_files(args.idle)?;
    let bench = Bench { args, servers, stop };
    let results = bench.all()?;
    let targets = results.targets();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"rounds": results, "targets": targets}))?);
    } else {
        print!("{}{}", results.table(), table::targets(&targets));
    }
    let missed = targets.iter().any(|target| !target.met);
    Ok(if missed && args.enforce { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Bench<'a> {
    args: &'a SessionsArgs,
    servers: Servers,
    stop: &'a Arc<AtomicBool>,
}

impl Bench<'_> {
    fn all(&self) -> anyhow::Result<SessionResults> {
        let mut all = SessionResults::default();
        for number in 1..=self.args.rounds {
            all.umbrad.push(self.round(&self.servers.start_umbrad()?, "umbrad", number)?);
            if !self.args.alone {
                all.mosquitto.push(self.round(&self.servers.start_persistent_mosquitto()?, "mosquitto", number)?);
                all.nats.push(self.round(&self.servers.start_nats()?, "nats", number)?);
            }
        }
        if self.args.idle > 0 {
            all.connected_bytes = Some(self.memory("connected", Visits::connect)?);
            all.disconnected_bytes = Some(self.memory("disconnected", Visits::park)?);
        }
        if self.args.stored > 0 {
            all.start_seconds = Some(self.start()?);
        }
        Ok(all)
    }

    fn round(&self, peer: &Peer, name: &str, number: u32) -> anyhow::Result<DeliveryRound> {
        let failed = || format!("round {number} of {name}; its log ends:\n{}\n", peer.log_end());
        let load = DeliveryLoad {
            broker: peer.address,
            pairs: self.args.pairs as usize,
            window: self.args.window,
            payload_bytes: self.args.payload_bytes,
            warm_up: Duration::try_from_secs_f64(self.args.warm_up).context("--warm-up")?,
            measured: Duration::try_from_secs_f64(self.args.seconds).context("--seconds")?,
            stop: self.stop.clone(),
        };
        let deliveries = Deliveries::connect(load).with_context(failed)?;
        let before = peer.cpu_time()?;
        let (delivered, messages) = deliveries.run().with_context(failed)?;
        let server_cpu_us = (peer.cpu_time()? - before).as_secs_f64() * 1e6 / messages.max(1) as f64;
        eprintln!("round {number}: {name}: {:.0} messages/s", delivered.messages_per_second);
        Ok(DeliveryRound { delivered, server_cpu_us })
    }

    /// Returns the growth of memory per session that `make` makes.
    fn memory<T>(&self, kind: &str, make: impl Fn(&Visits) -> anyhow::Result<T>) -> anyhow::Result<f64> {
        let peer = self.servers.start_umbrad()?;
        let before = peer.settled_bytes()?;
        let visitors = make(&self.visits(&peer, self.args.idle)).with_context(|| peer.log_end())?;
        let growth = peer.settled_bytes()?.saturating_sub(before);
        drop(visitors);
        let bytes = growth as f64 / self.args.idle as f64;
        eprintln!("{} {kind} sessions: {:.2} KB each", self.args.idle, bytes / 1000.0);
        Ok(bytes)
    }

    /// Returns the seconds of a start after a stop, and after a kill.
    fn start(&self) -> anyhow::Result<[f64; 2]> {
        let mut peer = self.servers.start_umbrad()?;
        let visits = self.visits(&peer, self.args.stored);
        visits.park().with_context(|| peer.log_end())?;
        visits.publish(self.args.queued, self.args.payload_bytes).with_context(|| peer.log_end())?;
        let (stopped, killed) = (peer.restart(false)?, peer.restart(true)?);
        let messages = self.args.stored * self.args.queued;
        eprintln!(
            "start with {} sessions and {messages} messages: {stopped:.2?}, after a kill {killed:.2?}",
            self.args.stored
        );
        Ok([stopped.as_secs_f64(), killed.as_secs_f64()])
    }

    fn visits(&self, peer: &Peer, sessions: usize) -> Visits {
        Visits { broker: peer.address, sessions, stop: self.stop.clone() }
    }
}

impl SessionResults {
    fn targets(&self) -> Vec<TargetResult> {
        let ratio = |other: &[DeliveryRound]| Some(rate(&self.umbrad)? / rate(other)?);
        let kilobytes = |bytes: Option<f64>| bytes.map(|bytes| bytes / 1000.0);
        [
            ("ratio to mosquitto with persistence", ratio(&self.mosquitto), 1.0, true),
            ("ratio to NATS JetStream, synced", ratio(&self.nats), 3.0, true),
            ("KB of memory per disconnected session", kilobytes(self.disconnected_bytes), 4.0, false),
            ("seconds of a start after a stop", self.start_seconds.map(|[stopped, _]| stopped), 10.0, false),
            ("seconds of a start after a kill", self.start_seconds.map(|[_, killed]| killed), 10.0, false),
        ]
        .into_iter()
        .filter_map(TargetResult::of)
        .collect()
    }

    fn table(&self) -> String {
        let mut text = String::from(HEAD);
        for (name, rounds) in [("umbrad", &self.umbrad), ("mosquitto", &self.mosquitto), ("nats", &self.nats)] {
            let of = |number: fn(&DeliveryRound) -> f64| median(rounds.iter().map(number)).unwrap_or_default();
            if !rounds.is_empty() {
                text.push_str(&format!(
                    "{name:<12}{:>12.0}{:>9.2}{:>9.2}{:>12.1}{:>14.1}\n",
                    of(|round| round.delivered.messages_per_second),
                    of(|round| round.delivered.latency_ms.p50),
                    of(|round| round.delivered.latency_ms.p99),
                    of(|round| round.server_cpu_us),
                    of(|round| round.delivered.generator_cpu_us),
                ));
            }
        }
        if let Some(bytes) = self.connected_bytes {
            text.push_str(&format!("\numbrad, connected sessions: {:.2} KB each\n", bytes / 1000.0));
        }
        text
    }
}

fn rate(rounds: &[DeliveryRound]) -> Option<f64> {
    median(rounds.iter().map(|round| round.delivered.messages_per_second))
}

const HEAD: &str = "\
medians     messages/s   p50 ms   p99 ms  CPU us/msg  generator us
";
