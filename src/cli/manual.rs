//! `umbrad completions`, `umbrad man` and `umbrad default-config`: texts that are built into the program.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Exit, output::complain};

/// Print the completion script of a shell: umbrad completions bash > /etc/bash_completion.d/umbrad
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Name of the shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page of umbrad or of one command: umbrad man get | man -l -
#[derive(Debug, Args)]
pub(super) struct Manual {
    /// Command, such as get, or context add; without it, umbrad itself.
    command: Vec<String>,
    /// Write the pages of all commands into this directory instead.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "command")]
    to: Option<PathBuf>,
}

/// Print the default configuration, with an explanation of each key.
#[derive(Debug, Args)]
pub(super) struct DefaultConfig {}

impl Completions {
    pub(super) fn run(self) -> Exit {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "umbrad", &mut script);
        write(&script)
    }
}

impl Manual {
    pub(super) fn run(self) -> Exit {
        let mut cli = Cli::command();
        cli.build();
        if let Some(directory) = &self.to {
            let generated = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(cli, directory));
            return match generated {
                Ok(()) => Exit::Done,
                Err(error) => complain(&format!("{}: {error}", directory.display()), Exit::Failed),
            };
        }
        let mut command = &cli;
        for name in &self.command {
            match command.find_subcommand(name) {
                Some(found) => command = found,
                None => return complain(&format!("there is no command '{name}'; see umbrad help"), Exit::Usage),
            }
        }
        let mut page = Vec::new();
        match Man::new(command.clone()).render(&mut page) {
            Ok(()) => write(&page),
            Err(error) => complain(&error, Exit::Failed),
        }
    }
}

impl DefaultConfig {
    pub(super) fn run(self) -> Exit {
        write(include_bytes!("../../broker.toml"))
    }
}

fn write(text: &[u8]) -> Exit {
    match io::stdout().lock().write_all(text) {
        Ok(()) => Exit::Done,
        Err(error) => complain(&error, Exit::Failed),
    }
}
