//! `firmware-sim bench`: throughput, latency and memory of a broker.
//!
//! - [`generator`] is the load: raw sockets on one thread, in a closed loop, one update in flight per device.
//! - [`echo`] answers the updates behind an ordinary broker, so that the same load can be run against it.
//! - [`flood`] measures the effect of wrong logins on connected devices.
//! - [`sessions`] measures persistent sessions: [`delivery`] to them next to other brokers, their memory, and a start.
//! - [`compare`] makes all published numbers: it starts the servers, alternates between them, and prints the [`results`]
//!   against the targets.

mod compare;
mod connection;
mod delivery;
mod echo;
mod flood;
pub(crate) mod frame;
mod generator;
pub(crate) mod limits;
mod load_args;
mod message;
pub(crate) mod process;
mod results;
mod servers;
mod sessions;
mod socket;
mod table;
mod tally;
mod visitor;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Args, Subcommand};

use echo::ECHO_READY;
use generator::Generator;
use load_args::LoadArgs;

/// The measurements.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure a running broker. Its quotas must allow it: see `docs/performance.md`.
    Run(RunArgs),
    /// Answer updates behind an ordinary broker like a shadow service, without storage.
    Echo(EchoArgs),
    /// Start umbrad, and mosquitto with the echo engine, and compare them: the numbers of `docs/performance.md`.
    Compare(compare::CompareArgs),
    /// Start umbrad with a user, and compare the latency of its devices with and without a flood of wrong logins.
    Flood(flood::FloodArgs),
    /// Measure persistent sessions: throughput next to mosquitto and NATS, memory, and the time of a start.
    Sessions(sessions::SessionsArgs),
}

/// Arguments of `bench run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Address of the broker.
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: SocketAddr,
    /// Devices, each with its own connection and shadow.
    #[arg(long, short = 'n', default_value_t = 1_000)]
    devices: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    load: LoadArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `bench echo`.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Address of the broker.
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: SocketAddr,
    /// Bytes of the payload of an answer.
    #[arg(long, default_value_t = 512)]
    accepted_bytes: usize,
    /// QoS of the answers.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
}

/// Runs one of the measurements.
///
/// # Errors
///
/// The measurement failed.
pub(crate) fn main(command: BenchCommand) -> anyhow::Result<ExitCode> {
    if let BenchCommand::Echo(args) = &command {
        // No signal handling: it has nothing to clean up.
        let echo = echo::Echo::connect(args.broker, args.accepted_bytes, args.qos)?;
        println!("{ECHO_READY}");
        echo.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let measurement = {
        let stop = stop.clone();
        move || match command {
            BenchCommand::Compare(args) => compare::compare(&args, &stop),
            BenchCommand::Flood(args) => flood::flood(&args, &stop),
            BenchCommand::Sessions(args) => sessions::sessions(&args, &stop),
            BenchCommand::Run(args) => run(&args, &stop),
            BenchCommand::Echo(_) => Ok(ExitCode::SUCCESS),
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
    let load = args.load.load(args.broker, args.devices, args.seconds, stop)?;
    let (measured, _) = Generator::connect(load)?.run()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        print!("{}", table::measured(&measured));
    }
    Ok(ExitCode::SUCCESS)
}
