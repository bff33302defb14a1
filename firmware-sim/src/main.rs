//! `firmware-sim`: simulated clients of the broker.
//!
//! - `fleet` simulates thermostats, and the apps and monitors that race them; at the end an oracle checks the service's
//!   replies ([`fleet`], [`oracle`]).
//! - `scenario` simulates a fleet like a physical one, as described by a file; `soak` compresses a day of it into minutes
//!   ([`scenario`], [`soak`]).
//! - `attack` makes the load of a hostile client, and measures its effect on the others ([`attack`]).
//! - `bench` measures the service with as little CPU as possible, alone or against another broker ([`mod@bench`]).
//!
//! *Invariant:* neither this crate nor the client library depends on the server's. They know the protocol alone, so an
//! error in the server's encoding cannot cancel itself out here.
//!
//! Exit codes: 0 success, 1 the oracle found a violation, a measurement is invalid or an attack succeeded, 2 nothing was run (wrong arguments,
//! no broker).

mod attack;
mod bench;
mod device;
mod difference;
mod firmware;
mod fleet;
mod nodes;
mod oracle;
mod participant;
mod report;
mod scenario;
mod soak;
mod writers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Simulated fleets, attacks and a load generator, for umbrad.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run thermostats, and apps and monitors that race them, and check the service's replies.
    Fleet(Box<fleet::FleetArgs>),
    /// Run a fleet that a file describes: device kinds, faults, firmware waves.
    #[command(subcommand)]
    Scenario(scenario::ScenarioCommand),
    /// Run a day of a fleet in minutes, with faults, and check the server's replies, memory and file.
    Soak(Box<soak::SoakArgs>),
    /// Measure a broker: updates a second, latency, memory.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Attack a server with one credential, and measure the effect on other clients.
    Attack(Box<attack::AttackArgs>),
    /// The attacker of `attack`, which starts it.
    #[command(hide = true)]
    AttackProcess,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Fleet(args) => fleet::main(*args),
        Command::Scenario(command) => scenario::main(command),
        Command::Soak(args) => soak::main(*args),
        Command::Bench(command) => bench::main(command),
        Command::Attack(args) => attack::main(&args),
        Command::AttackProcess => attack::attack_process(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("firmware-sim: {error:#}");
        ExitCode::from(2)
    })
}
