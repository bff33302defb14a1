//! `bench suite`: all published numbers, by named workloads, next to the peers.
//!
//! A workload starts its servers, measures them in alternating rounds, so that other load on the machine affects all, and
//! records each round. Every round starts its server again with an empty store. A rejected or lost update fails the whole
//! run.
//!
//! - [`devices`]: one connection per device
//! - [`shadows`]: many shadows, or one
//! - [`clients`]: dashboards, a reconnect storm, HTTP and event readers
//! - [`search`]: searches over many shadows, with and without an index
//! - [`messages`]: ordinary messages and persistent sessions

mod clients;
mod devices;
mod messages;
pub(crate) mod names;
mod search;
mod shadows;
mod sync_probe;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::{Args, ValueEnum};

use super::{
    load::{devices::Load, event_loop::Phases},
    load_args::LoadArgs,
    report::{self, Machine, Metric, Results, Round, SeriesName},
    servers::{Peer, PeerName, ServerArgs, Servers},
};

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// 1,000 devices, closed and open loop, next to mosquitto, PostgreSQL and NATS
    Hot,
    /// 100 devices, for the latency
    Few,
    /// 15,000 devices
    Fleet,
    /// 1,000 devices, by the precondition of their updates
    Kinds,
    /// Random updates of a million shadows and of 10,000, and a kill at full load
    Cold,
    /// 64 writers of one shadow, which repeat an update after a conflict
    Contention,
    /// Updates of all devices to 100 dashboards
    FanOut,
    /// 18,000 idle devices that connect again at once
    Storm,
    /// Reads and writes over MQTT and HTTP at the same time
    Mixed,
    /// Reads over HTTP
    Reads,
    /// Writers with and without 1,000 readers of server-sent events
    Events,
    /// Ordinary QoS 1 messages, next to mosquitto and NATS
    Messages,
    /// Memory of persistent sessions, and a start with many
    Sessions,
    /// Searches and aggregates over a million shadows, and writers beside them and with an index
    Search,
    /// 5,000 devices in the minute from the first CONNECT, next to stock rumqttd
    RampUp,
}

/// Arguments of `bench suite`.
#[derive(Debug, Args)]
pub(crate) struct SuiteArgs {
    /// The workloads to run. Default: all
    #[arg(value_enum, value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    #[command(flatten)]
    servers: ServerArgs,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds measured in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the ramp-up, from the first CONNECT.
    #[arg(long, default_value_t = 60.0)]
    ramp_up_seconds: f64,
    /// Shadows of the cold workload, and of searches.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    shadows: u32,
    /// Updates a second of the open loop. Default: half the rate of the closed loop
    #[arg(long)]
    rate: Option<f64>,
    /// The largest number of devices, sessions or other clients; workloads with more use this many.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    clients_max: usize,
    #[command(flatten)]
    load: LoadArgs,
    /// Directory for Markdown, charts and JSON; results.json in it is the file for `bench diff`
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print JSON in place of the tables.
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    enforce: bool,
}

/// A run of the suite.
struct Suite<'a> {
    args: &'a SuiteArgs,
    servers: Servers,
    stop: &'a Arc<AtomicBool>,
    results: Results,
}

/// Runs the workloads, and prints and writes the results.
///
/// # Errors
///
/// A peer is not installed, the suite was interrupted, or the pages cannot be written. A workload that fails is reported with the
/// results of the others.
pub(crate) fn suite(args: &SuiteArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let servers = Servers::find(&args.servers)?;
    let workloads = if args.workloads.is_empty() { Workload::value_variants() } else { &args.workloads };
    let mut peers: Vec<PeerName> = workloads.iter().flat_map(|workload| workload.peers()).copied().collect();
    peers.dedup();
    servers.check(&peers)?;
    let mut results = Results::new(Machine::this(servers.directory()));
    results.versions = servers.versions(&peers);
    results.settings = args.settings();
    results.umbrad_settings = Servers::umbrad_settings(super::process::free_address()?, Path::new("umbra.redb"));
    let mut suite = Suite { args, servers, stop, results };
    let mut has_failed = false;
    for workload in workloads {
        if let Err(error) = workload.run(&mut suite) {
            // What was measured before is kept, and the rest is measured.
            let error = error.context(format!("workload {} failed", workload.name()));
            if stop.load(Ordering::Relaxed) {
                return Err(error);
            }
            suite.omit(&format!("{error:#}"));
            has_failed = true;
        }
    }
    let mut results = suite.results;
    results.targets = report::targets(&results);
    if let Some(directory) = &args.output {
        report::write_pages(&results, directory)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        print!("{}", report::overview(&results));
    }
    let missed = results.targets.iter().any(|target| !target.met);
    Ok(if has_failed || (missed && args.enforce) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Workload {
    fn run(self, suite: &mut Suite<'_>) -> anyhow::Result<()> {
        match self {
            Self::Hot => devices::hot(suite),
            Self::Few => devices::sized(suite, names::FEW, 100),
            Self::Fleet => devices::sized(suite, names::FLEET, 15_000),
            Self::Kinds => devices::kinds(suite),
            Self::Cold => shadows::cold(suite),
            Self::Contention => shadows::contention(suite),
            Self::FanOut => clients::fan_out(suite),
            Self::Storm => clients::storm(suite),
            Self::Mixed => clients::mixed(suite),
            Self::Reads => clients::reads(suite),
            Self::Events => clients::events(suite),
            Self::Messages => messages::messages(suite),
            Self::Sessions => messages::sessions(suite),
            Self::Search => search::search(suite),
            Self::RampUp => devices::ramp_up(suite),
        }
    }

    /// Returns the peers that it measures.
    fn peers(self) -> &'static [PeerName] {
        match self {
            Self::Hot => &[PeerName::Mosquitto, PeerName::Postgres, PeerName::Nats],
            Self::Messages => &[PeerName::Mosquitto, PeerName::Nats],
            Self::RampUp => &[PeerName::Rumqttd],
            _ => &[],
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl SuiteArgs {
    /// Returns the settings that change the numbers.
    fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = self.load.settings();
        settings.extend([
            ("rounds".to_owned(), self.rounds.to_string()),
            ("seconds of a round".to_owned(), self.seconds.to_string()),
        ]);
        settings
    }
}

impl Suite<'_> {
    /// Adds a round, and reports it.
    fn record(&mut self, workload: &str, server: &str, load: &str, round: Round) {
        let name = SeriesName { workload: workload.to_owned(), server: server.to_owned(), load: load.to_owned() };
        let values = round.iter().filter(|(metric, _)| **metric != Metric::GeneratorCpuUs);
        let values: Vec<_> =
            values.map(|(metric, value)| format!("{} {}", report::short(*value), metric.label())).collect();
        let load = if load.is_empty() { String::new() } else { format!(", {load}") };
        eprintln!("{workload}: {server}{load}: {}", values.join(", "));
        self.results.record(&name, round);
    }

    /// Keeps the reason why something is not measured.
    fn omit(&mut self, reason: &str) {
        if !self.results.omitted.iter().any(|omitted| omitted == reason) {
            eprintln!("not measured: {reason}");
            self.results.omitted.push(reason.to_owned());
        }
    }

    /// Returns a number of clients, within the limit of the command line.
    fn clients(&self, wanted: usize) -> usize {
        wanted.min(self.args.clients_max).max(1)
    }

    fn phases(&self) -> anyhow::Result<Phases> {
        self.args.load.phases(self.args.seconds)
    }

    fn load(&self, peer: &Peer, devices: usize) -> anyhow::Result<Load> {
        self.args.load.load(&[peer.address], self.clients(devices), self.args.seconds, self.stop)
    }
}

/// Returns the microseconds of CPU per request.
fn cpu_us(time: Duration, requests: u64) -> f64 {
    time.as_secs_f64() * 1e6 / requests.max(1) as f64
}

/// Returns the text of a failure, with the end of the server's log.
fn failed(peer: &Peer, server: &str) -> String {
    format!("{server}; its log ends:\n{}\n", peer.log_end())
}
