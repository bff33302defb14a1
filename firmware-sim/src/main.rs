//! `firmware-sim`: what stands on the other side of the broker.
//!
//! - `fleet` plays thermostats, and the apps and monitors that race them, and at the end an oracle says whether the
//!   service kept its word ([`fleet`], [`oracle`]).
//! - `bench` measures the service with as little CPU as it can, alone or against another broker ([`bench`]).
//!
//! *Invariant:* neither this crate nor the client library it uses depends on the server's. They know the wire and
//! nothing else, so an error in the server's own encoding cannot cancel itself out here.
//!
//! Exit codes: 0 as hoped, 1 when the oracle found a violation or a measurement is not to be trusted, 2 when nothing
//! could be tried (wrong arguments, no broker).

mod bench;
mod device;
mod difference;
mod fleet;
mod oracle;
mod participant;
mod report;
mod thermostat;
mod writers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A simulated fleet of thermostats, and a load generator, for umbrad.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run thermostats, and apps and monitors that race them, and judge what the service told them.
    Fleet(Box<fleet::FleetArgs>),
    /// Measure a broker: updates a second, latency, memory.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Fleet(args) => fleet::main(*args),
        Command::Bench(command) => bench::main(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("firmware-sim: {error:#}");
        ExitCode::from(2)
    })
}
