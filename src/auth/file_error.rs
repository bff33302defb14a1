//! What is wrong with a file that says who may come in, told to the operator.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A file of users or keys that cannot be used. Never shows a hash or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, if it is about one.
    pub line: Option<usize>,
    /// What is wrong.
    pub told: String,
}

impl FileError {
    /// About the whole file.
    pub(super) fn whole(path: &Path, told: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), line: None, told: told.to_string() }
    }

    /// About the line `line`, from 1.
    pub(super) fn line(path: &Path, line: usize, told: impl fmt::Display) -> Self {
        Self { line: Some(line), ..Self::whole(path, told) }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.told),
            None => write!(f, "{}: {}", self.path.display(), self.told),
        }
    }
}
