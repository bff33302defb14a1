//! `firmware-sim bench`: throughput, latency and memory of a broker.
//!
//! - [`suite`] makes all published numbers: named workloads, next to the [`peers`], in alternating rounds.
//! - [`load`] has the clients: raw sockets on one thread.
//! - [`servers`] starts umbrad and the servers that it is compared with.
//! - [`report`] prints and writes the results against the targets, and compares two runs.
//! - [`flood`] measures the effect of wrong logins on connected devices.

mod flood;
pub(crate) mod frame;
pub(crate) mod limits;
mod load;
mod load_args;
mod peers;
pub(crate) mod process;
mod report;
mod servers;
mod suite;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Args, Subcommand};

use load::devices::Generator;
use load_args::LoadArgs;
use peers::{EngineArgs, echo, postgres, rumqttd};
use report::diff;

/// The measurements.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure umbrad by named workloads, next to other servers that the command starts: the numbers of `docs/performance/`.
    Suite(Box<suite::SuiteArgs>),
    /// Compare two results of `suite` by their ratios; exit with 1 if a metric is worse.
    Diff(diff::DiffArgs),
    /// Measure a running broker. Its quotas must allow it: see `docs/performance.md`.
    Run(RunArgs),
    /// Start umbrad with a user, and compare the latency of its devices with and without a flood of wrong logins.
    Flood(flood::FloodArgs),
    /// Answer updates behind an ordinary broker like a shadow service, without storage.
    Echo(EngineArgs),
    /// Answer updates behind an ordinary broker, with the shadows in PostgreSQL.
    #[command(hide = true)]
    PostgresWorker(postgres::WorkerArgs),
    /// Run stock rumqttd with an echo engine on its link.
    #[command(hide = true)]
    RumqttdPeer(rumqttd::RumqttdArgs),
}

/// Arguments of `bench run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Address of the broker. May be repeated for the nodes of a cluster: the devices are spread over them.
    #[arg(long = "broker", value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
    brokers: Vec<SocketAddr>,
    /// Devices, each with its own connection and shadow.
    #[arg(long, short = 'n', default_value_t = 1_000)]
    devices: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Updates a second, of all devices, in an open loop: latency counts from the time at which an update was due.
    /// Default: a closed loop, each device with one update in flight
    #[arg(long)]
    rate: Option<f64>,
    #[command(flatten)]
    load: LoadArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs one of the measurements.
///
/// # Errors
///
/// The measurement failed.
pub(crate) fn main(command: BenchCommand) -> anyhow::Result<ExitCode> {
    // No signal handling: these have nothing to clean up.
    match &command {
        BenchCommand::Diff(args) => return diff::diff(args),
        BenchCommand::Echo(args) => return echo::run(args).map(|()| ExitCode::SUCCESS),
        BenchCommand::PostgresWorker(args) => return postgres::run(args).map(|()| ExitCode::SUCCESS),
        BenchCommand::RumqttdPeer(args) => return rumqttd::run(args).map(|()| ExitCode::SUCCESS),
        BenchCommand::Suite(_) | BenchCommand::Run(_) | BenchCommand::Flood(_) => {}
    }
    let stop = Arc::new(AtomicBool::new(false));
    let measurement = {
        let stop = stop.clone();
        move || match command {
            BenchCommand::Suite(args) => suite::suite(&args, &stop),
            BenchCommand::Run(args) => run(&args, &stop),
            BenchCommand::Flood(args) => flood::flood(&args, &stop),
            _ => Ok(ExitCode::SUCCESS),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut measuring = tokio::task::spawn_blocking(measurement);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            outcome = &mut measuring => return outcome?,
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        // The measurement ends itself, and with it the servers it started.
        stop.store(true, Ordering::Relaxed);
        measuring.await?
    });
    outcome.or_else(|error| {
        eprintln!("firmware-sim: {error:#}");
        Ok(ExitCode::FAILURE)
    })
}

fn run(args: &RunArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let load = args.load.load(&args.brokers, args.devices, args.seconds, stop)?;
    let mut generator = Generator::connect(load)?;
    generator.first_reports()?;
    let measured = match args.rate {
        Some(rate) => generator.open_loop(rate)?,
        None => generator.closed_loop()?,
    };
    generator.drain()?;
    let measured = generator.measurement(measured);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        print!("{}", report::measured(&measured));
    }
    Ok(ExitCode::SUCCESS)
}
