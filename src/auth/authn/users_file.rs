//! Edits of the users file by `umbrad passwd`.
//!
//! The new text is written to a file beside the old one, synced, and renamed over it. So a reader, or a start after a
//! power loss, sees either the old or the new file. A lock on the directory serializes writers. Comments and order are
//! kept. A file with an error is not changed. Only the owner of the old file can read the new one.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use crate::auth::{
    FileError, PasswordHash, Principal,
    authn::users::{Users, line_of, parse_line},
};

/// A users file, which may not exist yet.
#[derive(Clone, Debug)]
pub struct UsersFile {
    path: PathBuf,
}

/// The state of a user before the edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousUser {
    /// The user existed.
    There,
    /// The user did not exist.
    Absent,
}

impl UsersFile {
    /// Returns the file at `path`; a symbolic link is followed.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.canonicalize().unwrap_or_else(|_| path.to_owned()) }
    }

    /// Returns the names of the users in file order.
    ///
    /// # Errors
    ///
    /// The file is missing or has an error.
    pub fn names(&self) -> Result<Vec<Principal>, FileError> {
        let text = fs::read_to_string(&self.path).map_err(|error| FileError::whole(&self.path, error))?;
        Users::parse(&self.path, &text)?;
        Ok(text.lines().filter_map(user_of).collect())
    }

    /// Sets the passwords of `users`, whose names must differ. Creates the users and the file if missing. Returns for each
    /// whether it was there before.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, or has an error; it is unchanged.
    pub fn set(&self, users: &[(Principal, PasswordHash)]) -> Result<Vec<PreviousUser>, FileError> {
        let (_lock, mut lines) = self.locked()?;
        let placed = lines.iter().enumerate().filter_map(|(place, line)| Some((user_of(line)?, place)));
        let places: HashMap<_, _> = placed.collect();
        let formers = users.iter().map(|(name, hash)| {
            let line = line_of(name, hash);
            match places.get(name).and_then(|place| lines.get_mut(*place)) {
                Some(old) => {
                    *old = line;
                    PreviousUser::There
                }
                None => {
                    lines.push(line);
                    PreviousUser::Absent
                }
            }
        });
        let formers = formers.collect();
        self.replace(&lines)?;
        Ok(formers)
    }

    /// The path of the file, as it was given or, behind a symbolic link, of what that leads to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the user `name`.
    ///
    /// # Errors
    ///
    /// The file is missing, cannot be read or written, or has an error; it is unchanged.
    pub fn remove(&self, name: &Principal) -> Result<PreviousUser, FileError> {
        fs::metadata(&self.path).map_err(|error| FileError::whole(&self.path, error))?;
        let (_lock, mut lines) = self.locked()?;
        let Some(place) = position(&lines, name) else { return Ok(PreviousUser::Absent) };
        lines.remove(place);
        self.replace(&lines)?;
        Ok(PreviousUser::There)
    }

    /// Waits for the lock, and reads the file. Other writers wait until the lock is dropped.
    fn locked(&self) -> Result<(File, Vec<String>), FileError> {
        let refuse = |error: io::Error| FileError::whole(&self.path, error);
        let lock = File::open(self.folder()).map_err(refuse)?;
        lock.lock().map_err(refuse)?;
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(refuse)?,
        };
        Users::parse(&self.path, &text)?;
        Ok((lock, text.lines().map(str::to_owned).collect()))
    }

    fn replace(&self, lines: &[String]) -> Result<(), FileError> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = self.path.with_file_name(name);
        let written = self.write(&new, lines).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&new); // a partial file, if any
        }
        written
            .and_then(|()| File::open(self.folder())?.sync_all())
            .map_err(|error| FileError::whole(&self.path, error))
    }

    fn write(&self, new: &Path, lines: &[String]) -> io::Result<()> {
        // Remove what a killed writer left behind; the lock excludes other writers.
        match fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(new)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        // If root edits the file, the user of the server must still be able to read it.
        if let Ok(old) = fs::metadata(&self.path) {
            let made = file.metadata()?;
            if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        for line in lines {
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.sync_all()
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

fn position(lines: &[String], name: &Principal) -> Option<usize> {
    lines.iter().position(|line| user_of(line).as_ref() == Some(name))
}

fn user_of(line: &str) -> Option<Principal> {
    parse_line(line).ok().flatten().map(|(name, _)| name)
}

/// File mode: read and write for the owner only.
const PRIVATE: u32 = 0o600;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::{os::unix::fs::symlink, thread};

    use tempfile::TempDir;

    use super::*;
    use crate::auth::authn::password::tests::cheap;

    fn named(name: &str) -> Principal {
        Principal::named(name).unwrap()
    }

    fn names(file: &UsersFile) -> Vec<String> {
        file.names().unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn users_are_added_changed_and_removed_and_the_rest_stays() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("users");
        let (a, b) = (cheap("a"), cheap("b"));
        let before = format!("# ours\nlamp:{a}\n\n# theirs\nheater:{a}\n");
        fs::write(&path, &before).unwrap();
        let file = UsersFile::at(&path);
        assert_eq!(file.set(&[(named("lamp"), b.clone())]).unwrap(), [PreviousUser::There]);
        assert_eq!(file.set(&[(named("door"), b.clone())]).unwrap(), [PreviousUser::Absent]);
        assert_eq!(file.remove(&named("heater")).unwrap(), PreviousUser::There);
        assert_eq!(file.remove(&named("heater")).unwrap(), PreviousUser::Absent);
        let after = fs::read_to_string(&path).unwrap();
        assert_eq!(after, format!("# ours\nlamp:{b}\n\n# theirs\ndoor:{b}\n"));
        assert_eq!(names(&file), ["lamp", "door"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn only_the_owner_can_read_the_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("users");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let file = UsersFile::at(&path);
        assert!(file.names().is_err() && file.remove(&named("lamp")).is_err(), "it is not there");
        file.set(&[(named("lamp"), cheap("a"))]).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        // left by a killed writer
        fs::write(folder.path().join("users.new"), "half a line").unwrap();
        fs::set_permissions(folder.path().join("users.new"), Permissions::from_mode(0o666)).unwrap();
        file.set(&[(named("lamp"), cheap("a"))]).unwrap();
        assert_eq!((mode(), names(&file)), (0o600, vec!["lamp".to_owned()]));
    }

    #[test]
    fn a_symbolic_link_is_kept() {
        let folder = TempDir::new().unwrap();
        let (path, link) = (folder.path().join("users"), folder.path().join("link"));
        fs::write(&path, "").unwrap();
        symlink(&path, &link).unwrap();
        UsersFile::at(&link).set(&[(named("lamp"), cheap("a"))]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&UsersFile::at(&path)), ["lamp"]);
    }

    #[test]
    fn a_file_with_an_error_is_not_changed() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, "# ours\nlamp\n").unwrap();
        let file = UsersFile::at(&path);
        for error in [file.set(&[(named("x"), cheap("x"))]).err(), file.remove(&named("x")).err(), file.names().err()] {
            assert_eq!(error.and_then(|error| error.line), Some(2));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "# ours\nlamp\n");
    }

    #[test]
    fn concurrent_writers_lose_nothing() {
        let folder = TempDir::new().unwrap();
        let file = UsersFile::at(&folder.path().join("users"));
        thread::scope(|scope| {
            for writer in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    for n in 0..8 {
                        file.set(&[(named(&format!("w{writer}-{n}")), cheap("x"))]).unwrap();
                    }
                    file.remove(&named(&format!("w{writer}-0"))).unwrap();
                });
            }
        });
        assert_eq!(names(&file).len(), 8 * 7);
    }
}
