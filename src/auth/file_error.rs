//! Errors in files of users and keys, for the operator.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// An error in a file of users or keys. It never contains a hash or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// The path of the file.
    pub path: PathBuf,
    /// The line, from 1, if known.
    pub line: Option<usize>,
    /// The error.
    pub problem: String,
}

impl FileError {
    /// Returns an error about the whole file.
    pub(super) fn whole(path: &Path, detail: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), line: None, problem: detail.to_string() }
    }

    /// Returns an error about a line, counted from 1.
    pub(super) fn line(path: &Path, line: usize, detail: impl fmt::Display) -> Self {
        Self { line: Some(line), ..Self::whole(path, detail) }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.problem),
            None => write!(f, "{}: {}", self.path.display(), self.problem),
        }
    }
}
