//! What is wrong with the configuration, told to the operator: where, which key, what about it.

use std::{fmt, path::PathBuf};

/// A configuration that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where the value stands.
    pub place: Place,
    /// The key with its section, such as `limits.depth_max` or `listener[0].bind`, if it is about one.
    pub key: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// Where a value of the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, and the line, from 1, if it is about one.
    File(PathBuf, Option<usize>),
    /// An environment variable or a command line argument, by name.
    Named(String),
    /// Nowhere: the default.
    Default,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is missing or cannot be read as UTF-8 text.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is not TOML.
    #[error("is not TOML: {0}")]
    Syntax(String),
    /// No such key; the known one that is most like it, if any is.
    #[error("is not a known key{}", suggestion(.0))]
    Unknown(Option<String>),
    /// A value of another type: "must be …, not …".
    #[error("{0}")]
    Type(String),
    /// A value outside its range, rendered as it would be written.
    #[error("is {value}, but must be {range}")]
    Range {
        /// The value.
        value: String,
        /// The least and the most that are allowed.
        range: String,
    },
    /// A value that is not possible, or not together with another: "is …, but …".
    #[error("{0}")]
    Invalid(String),
}

/// A problem with one key, before it is known where the key stands.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) problem: Problem,
}

impl Fault {
    pub(super) fn new(key: impl Into<String>, problem: Problem) -> Self {
        Self { key: key.into(), problem }
    }

    pub(super) fn at(self, place: Place) -> ConfigError {
        ConfigError { place, key: Some(self.key), problem: self.problem }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: '{key}' {}", self.place, self.problem),
            None => write!(f, "{}: {}", self.place, self.problem),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => path.display().fmt(f),
            Self::Named(name) => f.write_str(name),
            Self::Default => f.write_str("default configuration"),
        }
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!("; did you mean '{nearest}'?")).unwrap_or_default()
}
