//! Errors in the configuration, for the operator: location, key and problem.

use std::{fmt, path::PathBuf};

/// An error in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The location of the value.
    pub place: ValueSource,
    /// The key with its section, such as `limits.depth_max` or `listener[0].bind`, if known.
    pub key: Option<String>,
    /// The problem.
    pub problem: Problem,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// A file with the line, from 1, if known.
    File(PathBuf, Option<usize>),
    /// An environment variable or command line argument, by name.
    Named(String),
    /// The default.
    Default,
}

/// A problem with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is missing, or cannot be read as UTF-8 text.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is not TOML.
    #[error("is not TOML: {0}")]
    Syntax(String),
    /// The key is unknown. Holds the most similar known key, if any.
    #[error("is not a known key{}", suggestion(.0))]
    Unknown(Option<String>),
    /// The key was removed. Holds its replacement.
    #[error("was removed: {0}")]
    Removed(&'static str),
    /// The value has the wrong type: "must be …, not …".
    #[error("{0}")]
    Type(String),
    /// The value is outside its range. Both are shown as they would be written.
    #[error("is {value}, but must be {range}")]
    Range {
        /// The value.
        value: String,
        /// The allowed range.
        range: String,
    },
    /// The value is impossible, alone or with another one: "is …, but …".
    #[error("{0}")]
    Invalid(String),
}

/// A problem with a key whose location is not known yet.
#[derive(Debug)]
pub(super) struct UnlocatedError {
    pub(super) key: String,
    pub(super) problem: Problem,
}

impl UnlocatedError {
    pub(super) fn new(key: impl Into<String>, problem: Problem) -> Self {
        Self { key: key.into(), problem }
    }

    pub(super) fn at(self, place: ValueSource) -> ConfigError {
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

impl fmt::Display for ValueSource {
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
