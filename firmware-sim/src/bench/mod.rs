//! stub
use clap::Subcommand;
use std::process::ExitCode;
/// Bench.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {}
/// Runs.
pub(crate) fn main(command: BenchCommand) -> anyhow::Result<ExitCode> {
    match command {}
}
