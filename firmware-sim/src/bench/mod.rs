//! `firmware-sim bench`: how fast, how evenly, and with how much memory.
//!
//! - [`generator`] is the load: raw sockets on one thread, in a closed loop, one update in flight per device.
//! - [`echo`] turns an ordinary broker into something that the same load can be run against.
//! - [`flood`] measures what a flood of wrong logins costs those who are connected.
//! - [`compare`] is the one command for all published numbers: it starts the servers, alternates between them, and
//!   prints the ratios against the targets.

mod compare;
mod connection;
mod echo;
mod flood;
mod frame;
mod generator;
mod limits;
mod message;
mod process;
mod servers;
mod table;
mod tally;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand};

use frame::Protocol;
use generator::{Generator, Load};
use message::UpdateKind;

/// The measurements.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure a broker that runs already. Its quotas must allow it: see `docs/performance.md`.
    Run(RunArgs),
    /// Answer updates behind an ordinary broker as a shadow service would, without storage.
    Echo(EchoArgs),
    /// Start umbrad, and mosquitto with the echo engine, and compare them: the numbers of `docs/performance.md`.
    Compare(compare::CompareArgs),
    /// Start umbrad with a user, and compare the latency of its devices with and without a flood of wrong logins.
    Flood(flood::FloodArgs),
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
    shape: Shape,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is the same in all measurements of one command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// Seconds before, not counted.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Version of MQTT.
    #[arg(long, value_enum, default_value = "3.1.1")]
    mqtt: Protocol,
    /// QoS of the devices' subscriptions; updates are published at QoS 1 always.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    event_qos: u8,
    /// How updates are guarded.
    #[arg(long, value_enum, default_value = "conditional")]
    manner: UpdateKind,
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

impl Shape {
    fn load(&self, broker: SocketAddr, devices: usize, seconds: f64, stop: &Arc<AtomicBool>) -> anyhow::Result<Load> {
        Ok(Load {
            broker,
            devices,
            protocol: self.mqtt,
            event_qos: self.event_qos,
            manner: self.manner,
            warm_up: Duration::try_from_secs_f64(self.warm_up).context("--warm-up")?,
            measured: Duration::try_from_secs_f64(seconds).context("--seconds")?,
            login: None,
            stop: stop.clone(),
        })
    }
}

/// Runs one of the measurements.
///
/// # Errors
///
/// It is not to be trusted, or could not be made.
pub(crate) fn main(command: BenchCommand) -> anyhow::Result<ExitCode> {
    if let BenchCommand::Echo(args) = &command {
        // Left to the default of the signals: it has nothing to end but itself.
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
    let load = args.shape.load(args.broker, args.devices, args.seconds, stop)?;
    let (measured, _) = Generator::connect(load)?.run()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        print!("{}", table::measured(&measured));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the echo engine prints once updates reach it.
const ECHO_READY: &str = "echo engine: subscribed";
