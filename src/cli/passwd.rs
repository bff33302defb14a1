//! `umbrad passwd`: the file of users that may log in with a password.
//!
//! Whatever changes the file says where that is. A password comes from the terminal, unseen, or from standard input; never from an argument, which every process of
//! the machine could read.

use std::{
    fmt,
    io::{self, Read},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Exit,
    output::{absolute, complain, print},
    serve::Source,
    terminal::SilentTerminal,
    user_list::{self, LIST_BYTES_MAX},
};
use crate::{
    auth::{
        FileError, PASSWORD_BYTES_MAX, PasswordHash, Principal,
        authn::users_file::{PreviousUser, UsersFile},
    },
    config::Arguments,
};

/// Keep the file of users. A running server takes changes over when it gets a SIGHUP; who was removed or has another
/// password then has to go.
#[derive(Debug, Args)]
pub(super) struct Passwd {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user, or give one another password. Asks for it twice.
    Add {
        /// 1 to 128 of A-Z a-z 0-9 . : _ -
        name: String,
        /// Read the password from standard input, up to the first line end.
        #[arg(long)]
        stdin: bool,
        #[command(flatten)]
        file: UsersArgs,
    },
    /// Add users, or give them other passwords: one a line of standard input, as NAME:PASSWORD, or NAME, a tab and PASSWORD
    /// for names with colons. If anything is wrong with a line, nothing is changed.
    Import {
        #[command(flatten)]
        file: UsersArgs,
    },
    /// Remove a user.
    Remove {
        /// Who.
        name: String,
        #[command(flatten)]
        file: UsersArgs,
    },
    /// Print the names of the users, as a JSON list.
    List {
        #[command(flatten)]
        file: UsersArgs,
    },
}

#[derive(Debug, Args)]
struct UsersArgs {
    /// The file of users, in place of the one that the configuration names.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// Why the file was not changed.
enum PasswdError {
    /// What was given is wrong.
    Usage(String),
    /// The file, or the machine.
    Failed(String),
}

impl Passwd {
    pub(super) fn run(self) -> Exit {
        let done = match self.command {
            Command::Add { name, stdin, file } => add(&name, stdin, &file),
            Command::Import { file } => import(&file),
            Command::Remove { name, file } => remove(&name, &file),
            Command::List { file } => list(&file),
        };
        match done {
            Ok(exit) => exit,
            Err(PasswdError::Usage(told)) => complain(&told, Exit::Usage),
            Err(PasswdError::Failed(told)) => complain(&told, Exit::Failed),
        }
    }
}

impl UsersArgs {
    fn open(&self) -> Result<UsersFile, PasswdError> {
        if let Some(path) = &self.file {
            return Ok(UsersFile::at(path));
        }
        let (config, _) = self.source.load(&Arguments::default()).map_err(PasswdError::usage)?;
        let path = config.auth.users.ok_or_else(|| {
            PasswdError::usage("which file? Give it with --file, or a --config in which users is set in [auth]")
        })?;
        Ok(UsersFile::at(&path))
    }
}

fn add(name: &str, stdin: bool, file: &UsersArgs) -> Result<Exit, PasswdError> {
    let (name, file) = (Principal::named(name).map_err(PasswdError::usage)?, file.open()?);
    let password = if stdin { from_stdin()? } else { from_terminal(&name)? };
    user_list::check(&password).map_err(PasswdError::usage)?;
    let hash = PasswordHash::new(&password).map_err(PasswdError::failed)?;
    let told = match file.set(&[(name.clone(), hash)])?.as_slice() {
        [PreviousUser::There] => "has another password now",
        _ => "added",
    };
    eprintln!("umbrad: user {name} {told}, in {}", absolute(file.path()));
    Ok(Exit::Done)
}

fn import(file: &UsersArgs) -> Result<Exit, PasswdError> {
    let file = file.open()?;
    let mut list = Zeroizing::new(Vec::new());
    io::stdin().lock().take(LIST_BYTES_MAX + 1).read_to_end(&mut list).map_err(PasswdError::failed)?;
    if list.len() as u64 > LIST_BYTES_MAX {
        return Err(PasswdError::usage("there is more on standard input than 256 MiB"));
    }
    let users = user_list::parse(&list).map_err(PasswdError::usage)?;
    let hashes = user_list::hash(&users).map_err(PasswdError::failed)?;
    let formers = file.set(&hashes)?;
    let changed = formers.iter().filter(|former| **former == PreviousUser::There).count();
    let (added, path) = (formers.len() - changed, absolute(file.path()));
    eprintln!("umbrad: users added: {added}, with another password now: {changed}, in {path}");
    Ok(Exit::Done)
}

fn remove(name: &str, file: &UsersArgs) -> Result<Exit, PasswdError> {
    let (name, file) = (Principal::named(name).map_err(PasswdError::usage)?, file.open()?);
    match file.remove(&name)? {
        PreviousUser::There => {
            eprintln!("umbrad: user {name} removed, in {}", absolute(file.path()));
            Ok(Exit::Done)
        }
        PreviousUser::Absent => Err(PasswdError::failed(format!("there is no user {name}"))),
    }
}

fn list(file: &UsersArgs) -> Result<Exit, PasswdError> {
    let names = file.open()?.names()?;
    Ok(print(&json!(names.iter().map(|name| name.name()).collect::<Vec<_>>())))
}

/// Asks twice, and does not show what is typed.
fn from_terminal(name: &Principal) -> Result<Zeroizing<Vec<u8>>, PasswdError> {
    let ask = || {
        let mut terminal = SilentTerminal::open()?;
        Ok((terminal.ask(&format!("Password of {name}: "))?, terminal.ask("Again: ")?))
    };
    let (first, second) = ask().map_err(|error: io::Error| {
        PasswdError::failed(format!("cannot ask for a password: {error}; --stdin reads it from standard input"))
    })?;
    if first != second {
        return Err(PasswdError::usage("the two passwords differ"));
    }
    Ok(first)
}

/// Standard input up to its first line end. Whatever comes after one is not part of any password, so it is refused.
fn from_stdin() -> Result<Zeroizing<Vec<u8>>, PasswdError> {
    let mut read = Zeroizing::new(Vec::new());
    // A longer password is refused anyway, so it need not be read to its end.
    let most = PASSWORD_BYTES_MAX as u64 + 3;
    io::stdin().lock().take(most).read_to_end(&mut read).map_err(PasswdError::failed)?;
    let end = read.iter().position(|byte| *byte == b'\n').unwrap_or(read.len());
    if read.len() > end + 1 {
        return Err(PasswdError::usage("there is more than one line on standard input"));
    }
    read.truncate(end);
    if read.last() == Some(&b'\r') {
        read.pop();
    }
    Ok(read)
}

impl PasswdError {
    fn usage(told: impl fmt::Display) -> Self {
        Self::Usage(told.to_string())
    }

    fn failed(told: impl fmt::Display) -> Self {
        Self::Failed(told.to_string())
    }
}

impl From<FileError> for PasswdError {
    fn from(error: FileError) -> Self {
        Self::failed(error)
    }
}
