//! A file with a password or a token in its first line, so that neither stands on the command line.

use std::{fs, io, path::Path};

/// The first line of `file`, without its end.
pub(super) fn read(file: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(file)?.lines().next().unwrap_or_default().to_owned())
}
