//! A file that is being written, beside its final path.
//!
//! It is named `NAME.part` until it is complete, and its writer keeps it locked. One without a lock was left behind by
//! a killed writer, and is removed. Writers begin one after the other, under a lock of the folder, so none removes the
//! new file of another.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// A file that gets its final name once it is complete.
pub(super) struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// Creates the partial file for `to`, accessible to its owner only.
    ///
    /// # Errors
    ///
    /// Another process is writing it, or the folder or an existing file does not allow it.
    pub(super) fn begin(to: &Path) -> io::Result<Self> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = to.with_file_name(name);
        let folder = folder(to)?;
        folder.lock()?;
        clear(&path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.lock()?;
        Ok(Self { path, file })
    }

    /// Returns the partial file for writing.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file to `to`, replacing any existing file.
    pub(super) fn keep(&self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        folder(to)?.sync_all()
    }

    /// Removes the partial file while its lock is held.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a partial file that was left behind.
fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    // The target of a link belongs to somebody else.
    if found.is_file() {
        File::open(path)?.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another process is writing it"),
            TryLockError::Error(error) => error,
        })?;
    }
    fs::remove_file(path)
}

fn folder(of: &Path) -> io::Result<File> {
    File::open(of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}
