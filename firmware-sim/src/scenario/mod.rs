//! `firmware-sim scenario`: a fleet like a physical one, described by a file.
//!
//! The devices are pure state machines ([`device`], [`crate::firmware`]) on pure MQTT sessions ([`session`]); only
//! [`connection`] has sockets. The faults are planned by seed ([`schedule`]). Back-end writers ([`crate::writers`]) and
//! firmware waves ([`waves`]) use the client library.
//!
//! Order of the stop: the writers finish their edits; then the network and the power are repaired, and the devices
//! converge within a deadline and each reads its shadow a last time; then the oracle judges.

mod connection;
mod device;
mod file;
mod outcome;
mod run;
pub(crate) mod schedule;
mod session;
mod socket;
mod span;
mod waves;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use umbra_client::ConnectOptions;

pub(crate) use file::Scenario;
pub(crate) use run::{Settings, run};

/// Subcommands of `scenario`.
#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioCommand {
    /// Run a scenario against a broker, and check its replies.
    Run(Box<RunArgs>),
    /// Check a scenario file without running it.
    Check {
        /// The scenario file.
        file: PathBuf,
    },
}

/// Arguments of `scenario run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The scenario file.
    file: PathBuf,
    #[command(flatten)]
    connect: ConnectOptions,
    #[command(flatten)]
    options: RunOptions,
}

/// Options of `scenario run` and `soak`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Seed of devices, writers and faults, in place of that of the file.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Print each conflict, retry, delta, edit and lost connection.
    #[arg(long)]
    pub(crate) narrate: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the command to its end.
///
/// # Errors
///
/// Nothing was run: the file is wrong, or there is no broker.
pub(crate) fn main(command: ScenarioCommand) -> anyhow::Result<ExitCode> {
    match command {
        ScenarioCommand::Check { file } => {
            println!("{}", Scenario::load(&file)?.summary());
            Ok(ExitCode::SUCCESS)
        }
        ScenarioCommand::Run(args) => {
            let RunArgs { file, connect, options } = *args;
            let settings = Settings::new(Scenario::load(&file)?, connect, &options);
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
            let outcome = runtime.block_on(run(settings, |_, _| Ok(())))?;
            Ok(outcome.print(options.json, None))
        }
    }
}
