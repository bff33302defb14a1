//! The layers of the configuration: the shipped file, the operator's file, the environment, the command line; later
//! ones win. The source of each value is kept, so that an error can name it.

use std::{
    collections::BTreeMap,
    mem,
    path::{self, Path},
};

use config::{Config as Tree, File, FileFormat, Map, Value, ValueKind};

use super::{
    Arguments,
    error::{ConfigError, Problem, UnlocatedError, ValueSource},
    file::SourceFile,
    known::{KnownEntry, KnownKeys, SHIPPED},
    raw::RawConfig,
    written::Written,
};

/// The prefix of environment variables. The key follows, with `__` between its parts.
const PREFIX: &str = "UMBRA__";

/// The layers; values of the upper ones are by key.
pub(super) struct Layers {
    known: KnownKeys,
    file: Option<SourceFile>,
    /// The file with additional rules and grants.
    rules_file: Option<SourceFile>,
    /// The variable or argument that sets a key.
    named: BTreeMap<String, String>,
    /// The variables of joined lists, which are set once [`Layers::join_rules`] has made these.
    of_joined: Vec<(String, String)>,
    tree: Tree,
}

impl Layers {
    /// Reads the shipped configuration with `file` over it.
    pub(super) fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let known = KnownKeys::shipped().map_err(ours)?;
        let file = file.map(|path| SourceFile::read(path, &known)).transpose()?;
        let mut builder = Tree::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml));
        if let Some(file) = &file {
            builder = builder.add_source(File::from_str(&file.text, FileFormat::Toml));
        }
        let tree = builder.build().map_err(ours)?;
        Ok(Self { known, file, rules_file: None, named: BTreeMap::new(), of_joined: Vec::new(), tree })
    }

    /// Sets the values of variables that begin with [`PREFIX`]. The indices of a joined list are those of
    /// [`Layers::merged`].
    pub(super) fn environment(&mut self, all: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let ours = all.filter(|(name, _)| name.starts_with(PREFIX));
        let (of_joined, others) = ours.partition(|(name, _)| is_of_joined(name));
        self.of_joined = of_joined;
        self.variables(others)
    }

    fn variables(&mut self, all: Vec<(String, String)>) -> Result<(), ConfigError> {
        let mut values = Vec::new();
        for (name, text) in all {
            let path = name.strip_prefix(PREFIX).unwrap_or_default();
            let (key, value) = self.variable(path, text).map_err(|fault| fault.at(ValueSource::Named(name.clone())))?;
            self.named.insert(key.clone(), name);
            values.push((key, value));
        }
        self.set(values)
    }

    /// Sets the values of the command line.
    pub(super) fn arguments(&mut self, arguments: &Arguments) -> Result<(), ConfigError> {
        let mut values = Vec::new();
        if let Some(path) = &arguments.store {
            self.named.insert("store.path".into(), "--store".into());
            values.push(("store.path".into(), path.as_str().into()));
        }
        if !arguments.bind.is_empty() {
            let section = |bind: &String| Map::from_iter([("name", bind.as_str()), ("bind", bind)].map(owned));
            let listeners = arguments.bind.iter().map(|bind| Value::from(section(bind))).collect::<Vec<_>>();
            self.named.retain(|key, _| !key.starts_with("listener["));
            self.named.insert("listener".into(), "--bind".into());
            values.push(("listener".into(), listeners.into()));
        }
        self.set(values)
    }

    /// Returns the merged layers. Types are checked, ranges are not.
    pub(super) fn merged(&mut self) -> Result<RawConfig, ConfigError> {
        self.complete("listener")?;
        self.anchor_paths()?;
        self.join_rules()?;
        let of_joined = mem::take(&mut self.of_joined);
        self.variables(of_joined)?;
        self.complete("role")?;
        self.tree.clone().try_deserialize().map_err(|error| match error {
            config::ConfigError::At { error, key: Some(key), .. } => {
                // The crate writes `listener[0]bind`.
                self.blame(UnlocatedError::new(key.replace(']', "]."), Problem::Type(error.to_string())))
            }
            other => ours(other),
        })
    }

    /// Returns the written value of each key of [`Self::merged`].
    pub(super) fn written(&self) -> Written {
        Written::of(&self.tree, |key| self.place(key))
    }

    /// Adds the location of the key to `fault`.
    pub(super) fn blame(&self, fault: UnlocatedError) -> ConfigError {
        let place = self.place(&fault.key);
        fault.at(place)
    }

    /// Returns the location of `key`.
    pub(super) fn place(&self, key: &str) -> ValueSource {
        let section = key.split('[').next().unwrap_or_default();
        if let Some(name) = self.named.get(key).or_else(|| self.named.get(section)) {
            return ValueSource::Named(name.clone());
        }
        if JOINED.contains(&section) {
            return self.place_joined(section, key);
        }
        let in_file = |file: &SourceFile| ValueSource::File(file.path.clone(), file.line(key));
        self.file.as_ref().map_or(ValueSource::Default, in_file)
    }

    /// Returns the location of `key` in a list joined by [`Layers::join_rules`]: first the sections of the file, then
    /// those of the rules file, then shipped ones.
    fn place_joined(&self, list: &str, key: &str) -> ValueSource {
        let index = key.split(['[', ']']).nth(1).and_then(|index| index.parse::<usize>().ok()).unwrap_or_default();
        let mut before = 0;
        for file in [&self.file, &self.rules_file].into_iter().flatten() {
            let count = file.count(list);
            if index < before + count {
                let own = key.replacen(&format!("[{index}]"), &format!("[{}]", index - before), 1);
                return ValueSource::File(file.path.clone(), file.line(&own));
            }
            before += count;
        }
        ValueSource::Default
    }

    /// Returns the key named by a variable such as `LIMITS__DEPTH_MAX` or `LISTENER__0__BIND`, with its value in the
    /// type of the key.
    fn variable(&self, path: &str, text: String) -> Result<(String, Value), UnlocatedError> {
        let path = path.to_lowercase();
        let parts = path.split("__").collect::<Vec<_>>();
        let (section, key, full) = match parts.as_slice() {
            [key] => (None, *key, (*key).to_owned()),
            [section, key] => (Some(*section), *key, format!("{section}.{key}")),
            [section, index, key] => (Some(*section), *key, format!("{section}[{index}].{key}")),
            _ => (None, path.as_str(), path.replace("__", ".")),
        };
        let indexed = parts.len() == 3;
        let list = section.is_some_and(|name| matches!(self.known.entry(name), Some(KnownEntry::List(_))));
        let default = self.known.default(section, key);
        let unknown = || UnlocatedError::new(full.clone(), self.known.unknown(section, key));
        let default = default.filter(|_| indexed == list).ok_or_else(unknown)?;
        if let [section, index, _] = parts.as_slice() {
            let count = self.tree.get_array(section).map_or(0, |sections| sections.len());
            if !(0..count).any(|known| known.to_string() == *index) {
                let problem =
                    Problem::Invalid(format!("names none of the {count} sections [[{section}]], numbered from 0"));
                return Err(UnlocatedError::new(full, problem));
            }
        }
        Ok((full, typed(text, &default.kind)))
    }

    /// Adds the missing keys of each section of `list`: those of the first shipped one, except the role.
    fn complete(&mut self, list: &str) -> Result<(), ConfigError> {
        let Some(KnownEntry::List(defaults)) = self.known.entry(list) else { return Ok(()) };
        let mut missing = Vec::new();
        for (index, section) in self.tree.get_array(list).unwrap_or_default().into_iter().enumerate() {
            let ValueKind::Table(given) = section.kind else { continue };
            let absent = defaults.iter().filter(|(key, _)| !given.contains_key(*key) && *key != "role");
            missing.extend(absent.map(|(key, default)| (format!("{list}[{index}].{key}"), default.clone())));
        }
        self.set(missing)
    }

    /// Has the relative paths that the file sets begin at its folder. Those of the environment and the command line begin
    /// at the working directory, and so does the default.
    fn anchor_paths(&mut self) -> Result<(), ConfigError> {
        let Some(file) = &self.file else { return Ok(()) };
        let parent = file.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A folder that no text can name is the working directory's, or nothing in it could be named here.
        let folder = path::absolute(parent).unwrap_or_else(|_| parent.to_owned());
        let Some(folder) = folder.to_str() else { return Ok(()) };
        let listeners = 0..self.tree.get_array("listener").map_or(0, |listeners| listeners.len());
        let of_listeners =
            listeners.flat_map(|index| LISTENER_PATHS.iter().map(move |key| format!("listener[{index}].{key}")));
        let keys = PATHS.iter().map(|key| (*key).to_owned()).chain(of_listeners);
        let mut values = Vec::new();
        for key in keys.filter(|key| matches!(self.place(key), ValueSource::File(_, Some(_)))) {
            let Ok(Value { kind: ValueKind::String(text), .. }) = self.tree.get::<Value>(&key) else { continue };
            if !text.is_empty() && Path::new(&text).is_relative() {
                values.push((key, format!("{folder}/{text}").into()));
            }
        }
        self.set(values)
    }

    /// Joins the rules and grants of the file, those of its rules file, and shipped ones of roles that the others do
    /// not name.
    fn join_rules(&mut self) -> Result<(), ConfigError> {
        let path = self.tree.get_string("rules_file").unwrap_or_default();
        if !path.is_empty() {
            let file = SourceFile::read(Path::new(&path), &self.known)?;
            if let Some(key) = file.keys().into_iter().find(|key| !JOINED.contains(&key.as_str())) {
                let place = ValueSource::File(file.path.clone(), file.line(&key));
                let detail =
                    "does not belong into a rules file, which has [[rule]], [[role]] and [[grant]] only".to_owned();
                return Err(UnlocatedError::new(key, Problem::Invalid(detail)).at(place));
            }
            self.rules_file = Some(file);
        }
        let shipped = Tree::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build().map_err(ours)?;
        let mut values = Vec::new();
        for list in JOINED {
            let own = self.file.as_ref().is_some_and(|file| file.count(list) > 0);
            let mut all = if own { self.tree.get_array(list).map_err(ours)? } else { Vec::new() };
            if let Some(file) = &self.rules_file {
                let more = Tree::builder().add_source(File::from_str(&file.text, FileFormat::Toml)).build();
                all.extend(more.map_err(ours)?.get_array(list).unwrap_or_default());
            }
            let named: Vec<_> = all.iter().filter_map(role).collect();
            let others = shipped.get_array(list).map_err(ours)?.into_iter();
            all.extend(others.filter(|rule| role(rule).is_none_or(|role| !named.contains(&role))));
            values.push((list.to_owned(), all.into()));
        }
        self.set(values)
    }

    fn set(&mut self, values: Vec<(String, Value)>) -> Result<(), ConfigError> {
        let mut builder = Tree::builder().add_source(self.tree.clone());
        for (key, value) in values {
            builder = builder.set_override(key, value).map_err(ours)?;
        }
        self.tree = builder.build().map_err(ours)?;
        Ok(())
    }
}

/// The keys that hold a path.
const PATHS: [&str; 8] = [
    "rules_file",
    "store.path",
    "auth.users",
    "auth.aws_keys",
    "auth.banned",
    "auth.token_keys",
    "cluster.credentials_file",
    "cluster.ca_file",
];
/// The keys of a listener that hold a path.
const LISTENER_PATHS: [&str; 4] = ["tls_certificate", "tls_key", "tls_client_ca", "tls_client_crl"];

/// The lists that files extend rather than replace.
const JOINED: [&str; 3] = ["rule", "role", "grant"];

/// Returns true if a variable, with its prefix, is one of a joined list.
fn is_of_joined(name: &str) -> bool {
    let list = name.strip_prefix(PREFIX).and_then(|path| path.split("__").next()).unwrap_or_default();
    JOINED.contains(&list.to_lowercase().as_str())
}

/// Returns the role of a rule or grant.
fn role(section: &Value) -> Option<String> {
    match &section.kind {
        ValueKind::Table(keys) => keys.get("role").map(ToString::to_string),
        _ => None,
    }
}

/// Returns `text` in the type of a default. A text of another type is unchanged and is refused later, as in a file.
fn typed(text: String, like: &ValueKind) -> Value {
    match like {
        ValueKind::Boolean(_) => text.parse::<bool>().map(Value::from).unwrap_or_else(|_| text.into()),
        ValueKind::I64(_) => text.parse::<i64>().map(Value::from).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

fn owned((key, value): (&str, &str)) -> (String, Value) {
    (key.to_owned(), value.into())
}

/// Converts an error that no operator can cause: in the shipped file, or in the `config` crate.
fn ours(error: config::ConfigError) -> ConfigError {
    ConfigError { place: ValueSource::Default, key: None, problem: Problem::Invalid(error.to_string()) }
}
