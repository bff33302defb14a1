//! The program `umbrad`: reads the arguments, builds the runtime, runs the subcommand, exits with its code.

use std::process::ExitCode;

use clap::Parser;
use umbrad::cli::{Cli, Exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => {
            eprintln!("umbrad: cannot start threads: {error}");
            Exit::Failed
        }
    };
    exit.into()
}
