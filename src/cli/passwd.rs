//! `umbrad passwd`: the file of users that may log in with a password.
//!
//! Each change prints the path of the file. A password comes from the terminal, without echo, or from standard input.
//! It is never an argument, which every process of the machine could read.

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

/// Manage the users file. A running server applies changes at SIGHUP; it then disconnects users that were removed or
/// have a new password.
#[derive(Debug, Args)]
pub(super) struct Passwd {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user, or change its password. Asks for the password twice.
    Add {
        /// User name: 1 to 128 of A-Z a-z 0-9 . : _ -
        name: String,
        /// Read the password from standard input, up to the first line end.
        #[arg(long)]
        stdin: bool,
        #[command(flatten)]
        file: UsersArgs,
    },
    /// Add users or change their passwords: one per line of standard input, as NAME:PASSWORD, or NAME, a tab and
    /// PASSWORD for names with colons. If any line is wrong, nothing is changed.
    Import {
        #[command(flatten)]
        file: UsersArgs,
    },
    /// Remove a user.
    Remove {
        /// User name.
        name: String,
        #[command(flatten)]
        file: UsersArgs,
    },
    /// Print the names of the users as a JSON list.
    List {
        #[command(flatten)]
        file: UsersArgs,
    },
}

#[derive(Debug, Args)]
struct UsersArgs {
    /// Users file to use instead of the one in the configuration.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// The reason for which the file was not changed.
enum PasswdError {
    /// An error in the arguments or the input.
    Usage(String),
    /// An error of the file or the machine.
    Failed(String),
}

impl Passwd {
    pub(super) fn run(self) -> Exit {
        let result = match self.command {
            Command::Add { name, stdin, file } => add(&name, stdin, &file),
            Command::Import { file } => import(&file),
            Command::Remove { name, file } => remove(&name, &file),
            Command::List { file } => list(&file),
        };
        match result {
            Ok(exit) => exit,
            Err(PasswdError::Usage(text)) => complain(&text, Exit::Usage),
            Err(PasswdError::Failed(text)) => complain(&text, Exit::Failed),
        }
    }
}

impl UsersArgs {
    fn open(&self) -> Result<UsersFile, PasswdError> {
        if let Some(path) = &self.file {
            return Ok(UsersFile::at(path));
        }
        let (config, _) = self.source.load(&Arguments::default()).map_err(PasswdError::usage)?;
        let path = config
            .auth
            .users
            .ok_or_else(|| PasswdError::usage("no users file: give --file, or a --config with users set in [auth]"))?;
        Ok(UsersFile::at(&path))
    }
}

fn add(name: &str, stdin: bool, file: &UsersArgs) -> Result<Exit, PasswdError> {
    let (name, file) = (Principal::named(name).map_err(PasswdError::usage)?, file.open()?);
    let password = if stdin { from_stdin()? } else { from_terminal(&name)? };
    user_list::check(&password).map_err(PasswdError::usage)?;
    let hash = PasswordHash::new(&password).map_err(PasswdError::failed)?;
    let text = match file.set(&[(name.clone(), hash)])?.as_slice() {
        [PreviousUser::There] => "has a new password",
        _ => "added",
    };
    eprintln!("umbrad: user {name} {text}, in {}", absolute(file.path()));
    Ok(Exit::Done)
}

fn import(file: &UsersArgs) -> Result<Exit, PasswdError> {
    let file = file.open()?;
    let mut list = Zeroizing::new(Vec::new());
    io::stdin().lock().take(LIST_BYTES_MAX + 1).read_to_end(&mut list).map_err(PasswdError::failed)?;
    if list.len() as u64 > LIST_BYTES_MAX {
        return Err(PasswdError::usage("standard input exceeds 256 MiB"));
    }
    let users = user_list::parse(&list).map_err(PasswdError::usage)?;
    let hashes = user_list::hash(&users).map_err(PasswdError::failed)?;
    let previous_users = file.set(&hashes)?;
    let changed = previous_users.iter().filter(|previous| **previous == PreviousUser::There).count();
    let (added, path) = (previous_users.len() - changed, absolute(file.path()));
    eprintln!("umbrad: users added: {added}, with a new password: {changed}, in {path}");
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

/// Asks twice, without echo.
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

/// Reads standard input up to its first line end. Further input is refused, since it would not be part of any password.
fn from_stdin() -> Result<Zeroizing<Vec<u8>>, PasswdError> {
    let mut read = Zeroizing::new(Vec::new());
    // A longer password is refused anyway, so it need not be read to its end.
    let most = PASSWORD_BYTES_MAX as u64 + 3;
    io::stdin().lock().take(most).read_to_end(&mut read).map_err(PasswdError::failed)?;
    let end = read.iter().position(|byte| *byte == b'\n').unwrap_or(read.len());
    if read.len() > end + 1 {
        return Err(PasswdError::usage("standard input has more than one line"));
    }
    read.truncate(end);
    if read.last() == Some(&b'\r') {
        read.pop();
    }
    Ok(read)
}

impl PasswdError {
    fn usage(text: impl fmt::Display) -> Self {
        Self::Usage(text.to_string())
    }

    fn failed(text: impl fmt::Display) -> Self {
        Self::Failed(text.to_string())
    }
}

impl From<FileError> for PasswdError {
    fn from(error: FileError) -> Self {
        Self::failed(error)
    }
}
