//! `umbrad context`

use clap::{Args, Subcommand};
use umbra_client::ConnectOptions;

use super::{
    Exit,
    command_failure::CommandFailure,
    contexts::Contexts,
    output::{complain, print, say},
};

/// Store connections under names, so that commands need no flags.
///
/// A context has the flags of a connection, and the paths of files with certificates and passwords, never a password
/// itself.
#[derive(Debug, Args)]
pub(super) struct Context {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store a connection.
    Add {
        /// Name of the context: 1 to 64 of A-Z a-z 0-9 . _ -
        name: String,
        /// Replace a context of this name.
        #[arg(long)]
        replace: bool,
        /// Also select the context.
        #[arg(long)]
        select: bool,
        #[command(flatten)]
        options: Box<ConnectOptions>,
    },
    /// List the contexts, with * before the selected one.
    List,
    /// Use this context for commands without another connection.
    Select {
        /// Name of the context.
        name: String,
    },
    /// Use no context.
    Unselect,
    /// Print a context.
    Show {
        /// Name of the context; without it, the selected one.
        name: Option<String>,
    },
    /// Remove a context.
    Remove {
        /// Name of the context.
        name: String,
    },
}

impl Context {
    pub(super) fn run(self) -> Exit {
        match Contexts::open().and_then(|contexts| self.command.run(&contexts)) {
            Ok(exit) => exit,
            Err(failure) => complain(&failure, failure.exit),
        }
    }
}

impl Command {
    fn run(self, contexts: &Contexts) -> Result<Exit, CommandFailure> {
        match self {
            Self::Add { name, replace, select, mut options } => {
                options.make_paths_absolute().map_err(|error| CommandFailure::failed(error.to_string()))?;
                contexts.store(&name, &options, replace)?;
                if select { contexts.select(Some(&name)) } else { Ok(()) }?;
            }
            Self::Select { name } => contexts.select(Some(&name))?,
            Self::Unselect => contexts.select(None)?,
            Self::Remove { name } => contexts.remove(&name)?,
            Self::List => return list(contexts),
            Self::Show { name } => return show(contexts, name),
        }
        Ok(Exit::Done)
    }
}

fn list(contexts: &Contexts) -> Result<Exit, CommandFailure> {
    let selected = contexts.selected()?;
    for name in contexts.names()? {
        let mark = if selected.as_deref() == Some(&*name) { '*' } else { ' ' };
        let exit = say(&format!("{mark} {name}"), Exit::Done);
        if exit != Exit::Done {
            return Ok(exit);
        }
    }
    Ok(Exit::Done)
}

fn show(contexts: &Contexts, name: Option<String>) -> Result<Exit, CommandFailure> {
    let name = name.map_or_else(|| contexts.selected(), |name| Ok(Some(name)))?;
    let name = name.ok_or_else(|| CommandFailure::usage("no context is selected; name one".to_owned()))?;
    let options =
        serde_json::to_value(contexts.load(&name)?).map_err(|error| CommandFailure::failed(error.to_string()))?;
    Ok(print(&options))
}
