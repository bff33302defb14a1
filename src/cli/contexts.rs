//! Stored connections: one JSON file per context in `umbra/contexts` of the user's configuration directory
//! (`XDG_CONFIG_HOME`, else `~/.config`), and the name of the selected one in `umbra/context`.
//!
//! The files contain no secrets, only the paths of files that do, but only their owner may read them. Each is replaced
//! as a whole.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use umbra_client::ConnectOptions;

use super::command_failure::CommandFailure;

/// The directory with the stored connections.
pub(super) struct Contexts {
    directory: PathBuf,
}

impl Contexts {
    /// Returns the contexts of this user; the directory need not exist.
    pub(super) fn open() -> Result<Self, CommandFailure> {
        let variable = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let base = base.ok_or_else(|| {
            CommandFailure::usage(
                "contexts are kept below XDG_CONFIG_HOME or HOME; set one of them to an absolute path".into(),
            )
        })?;
        Ok(Self { directory: base.join("umbra") })
    }

    /// Returns the selected options; `None` if no context is selected, or there is no directory for contexts.
    pub(super) fn selected_options() -> Result<Option<ConnectOptions>, CommandFailure> {
        let Ok(contexts) = Self::open() else { return Ok(None) };
        contexts.selected()?.map(|name| contexts.load(&name)).transpose()
    }

    /// Returns the name of the selected context.
    pub(super) fn selected(&self) -> Result<Option<String>, CommandFailure> {
        let path = self.directory.join(SELECTED);
        match fs::read_to_string(&path) {
            Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure(&path, &error)),
        }
    }

    /// Selects an existing context, or none.
    pub(super) fn select(&self, name: Option<&str>) -> Result<(), CommandFailure> {
        let path = self.directory.join(SELECTED);
        match name {
            Some(name) => {
                self.load(name)?;
                self.write(&path, name)
            }
            None => removed(&path).map(drop),
        }
    }

    /// Returns the names of all contexts, sorted.
    pub(super) fn names(&self) -> Result<Vec<String>, CommandFailure> {
        let directory = self.directory.join(CONTEXTS);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failure(&directory, &error)),
        };
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = files.filter_map(|file| file.strip_suffix(".json").map(str::to_owned)).collect();
        names.retain(|name| is_name(name));
        names.sort();
        Ok(names)
    }

    /// Returns the options stored as `name`.
    pub(super) fn load(&self, name: &str) -> Result<ConnectOptions, CommandFailure> {
        let path = self.path(name)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(unknown(name)),
            Err(error) => return Err(failure(&path, &error)),
        };
        serde_json::from_str(&text).map_err(|error| CommandFailure::usage(format!("{}: {error}", path.display())))
    }

    /// Stores `options` as `name`.
    pub(super) fn store(&self, name: &str, options: &ConnectOptions, replace: bool) -> Result<(), CommandFailure> {
        let path = self.path(name)?;
        if path.exists() && !replace {
            return Err(CommandFailure::failed(format!("context '{name}' exists; --replace replaces it")));
        }
        let text = serde_json::to_string_pretty(options).map_err(|error| CommandFailure::failed(error.to_string()))?;
        self.write(&path, &text)
    }

    /// Removes the context, and the selection if it was selected.
    pub(super) fn remove(&self, name: &str) -> Result<(), CommandFailure> {
        if !removed(&self.path(name)?)? {
            return Err(unknown(name));
        }
        if self.selected()?.as_deref() == Some(name) { self.select(None) } else { Ok(()) }
    }

    fn path(&self, name: &str) -> Result<PathBuf, CommandFailure> {
        if is_name(name) {
            return Ok(self.directory.join(CONTEXTS).join(format!("{name}.json")));
        }
        Err(CommandFailure::usage(format!(
            "invalid context name '{name}': use 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with '.'"
        )))
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), CommandFailure> {
        let directories = fs::DirBuilder::new().recursive(true).mode(0o700).create(self.directory.join(CONTEXTS));
        directories.map_err(|error| failure(&self.directory, &error))?;
        let part = path.with_extension(format!("part-{}", std::process::id()));
        let written = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            writeln!(file, "{text}")?;
            fs::rename(&part, path)
        };
        written().map_err(|error: io::Error| {
            let _ = fs::remove_file(&part); // it may not be there
            failure(path, &error)
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Removes a file. Returns false if there was none.
fn removed(path: &Path) -> Result<bool, CommandFailure> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failure(path, &error)),
    }
}

fn unknown(name: &str) -> CommandFailure {
    CommandFailure::usage(format!("there is no context '{name}'; see `umbrad context list`"))
}

fn failure(path: &Path, error: &io::Error) -> CommandFailure {
    CommandFailure::failed(format!("{}: {error}", path.display()))
}

const CONTEXTS: &str = "contexts";
const SELECTED: &str = "context";
