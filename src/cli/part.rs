//! A file in the making, beside the one that it is to be.
//!
//! It is `NAME.part` until it is whole, and its writer keeps it locked: one that nobody has locked was left behind by a
//! writer that was killed, and makes way. Writers begin one after the other, under a lock of the folder, so none takes
//! for left behind what another has only just made.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// See the module.
pub(super) struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// Begins what is to be the file `to`, for its owner alone.
    ///
    /// # Errors
    ///
    /// Another writer is at it, or the folder or what is in it stands in the way.
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

    /// What is written to.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the name of `to`, in the place of what has that name.
    pub(super) fn keep(&self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        folder(to)?.sync_all()
    }

    /// Removes it, while the lock says that it is this one.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what was left behind.
fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    // Where a link leads is another's.
    if found.is_file() {
        File::open(path)?.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another one writes it just now"),
            TryLockError::Error(error) => error,
        })?;
    }
    fs::remove_file(path)
}

fn folder(of: &Path) -> io::Result<File> {
    File::open(of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}
