//! The program `umbrad`: reads the arguments, builds the runtime, runs the subcommand, exits with its code.

use std::{num::NonZeroUsize, process::ExitCode};

use clap::Parser;
use umbrad::cli::{Cli, Exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(blocking_threads()).build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => {
            eprintln!("umbrad: cannot start threads: {error}");
            Exit::Failed
        }
    };
    exit.into()
}

/// Returns the most threads for work that blocks: the reads of the store, which the engine bounds to fewer, and a few
/// for work that is rare, such as backups and reloads.
fn blocking_threads() -> usize {
    16 + 4 * std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
