//! Changes of the users file, as `umbrad passwd` makes them.
//!
//! The new text goes to a file beside it, is synced and takes the old one's place, so that a reader, and a machine that
//! stops in between, sees one or the other. A lock on the folder makes writers wait for each other. Comments and order
//! are kept; a file that cannot be read as it should be is not touched. The result can be read by the owner of the old
//! file alone.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use super::{
    FileError, PasswordHash, Principal,
    users::{Users, line_of, parse_line},
};

/// A users file, which need not be there yet.
#[derive(Clone, Debug)]
pub struct UsersFile {
    path: PathBuf,
}

/// Whether a user was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// It was.
    There,
    /// It was not.
    Absent,
}

impl UsersFile {
    /// The one at `path`, or, where that is a symbolic link, the one it leads to.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.canonicalize().unwrap_or_else(|_| path.to_owned()) }
    }

    /// The users, in the order of the file.
    ///
    /// # Errors
    ///
    /// The file is not there, or cannot be used.
    pub fn names(&self) -> Result<Vec<Principal>, FileError> {
        let text = fs::read_to_string(&self.path).map_err(|error| FileError::whole(&self.path, error))?;
        Users::parse(&self.path, &text)?;
        Ok(text.lines().filter_map(user_of).collect())
    }

    /// Gives the user `name` a password, whether it had one or not. The file is made if it is not there.
    ///
    /// # Errors
    ///
    /// The file cannot be read, used or written; it is as before.
    pub fn set(&self, name: &Principal, hash: &PasswordHash) -> Result<Former, FileError> {
        let (_lock, mut lines) = self.locked()?;
        let line = line_of(name, hash);
        let former = match position(&lines, name).and_then(|place| lines.get_mut(place)) {
            Some(old) => {
                *old = line;
                Former::There
            }
            None => {
                lines.push(line);
                Former::Absent
            }
        };
        self.replace(&lines)?;
        Ok(former)
    }

    /// Takes the user `name` out.
    ///
    /// # Errors
    ///
    /// The file is not there, or cannot be read, used or written; it is as before.
    pub fn remove(&self, name: &Principal) -> Result<Former, FileError> {
        fs::metadata(&self.path).map_err(|error| FileError::whole(&self.path, error))?;
        let (_lock, mut lines) = self.locked()?;
        let Some(place) = position(&lines, name) else { return Ok(Former::Absent) };
        lines.remove(place);
        self.replace(&lines)?;
        Ok(Former::There)
    }

    /// Waits for other writers, keeps them out for as long as the lock is held, and reads.
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
            let _ = fs::remove_file(&new); // what is left of it, if anything
        }
        written
            .and_then(|()| File::open(self.folder())?.sync_all())
            .map_err(|error| FileError::whole(&self.path, error))
    }

    fn write(&self, new: &Path, lines: &[String]) -> io::Result<()> {
        // What a writer left behind that was killed; none is at work, since the folder is locked.
        match fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(new)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        // root may change the file of the user that the server runs as, who must still be able to read it.
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

/// Read and written by its owner alone.
const PRIVATE: u32 = 0o600;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::{os::unix::fs::symlink, thread};

    use tempfile::TempDir;

    use super::{super::password::tests::cheap, *};

    fn named(name: &str) -> Principal {
        Principal::named(name).unwrap()
    }

    fn names(file: &UsersFile) -> Vec<String> {
        file.names().unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn users_come_change_and_go_and_the_rest_stays() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("users");
        let (a, b) = (cheap("a"), cheap("b"));
        let before = format!("# ours\nlamp:{a}\n\n# theirs\nheater:{a}\n");
        fs::write(&path, &before).unwrap();
        let file = UsersFile::at(&path);
        assert_eq!(file.set(&named("lamp"), &b).unwrap(), Former::There);
        assert_eq!(file.set(&named("door"), &b).unwrap(), Former::Absent);
        assert_eq!(file.remove(&named("heater")).unwrap(), Former::There);
        assert_eq!(file.remove(&named("heater")).unwrap(), Former::Absent);
        let after = fs::read_to_string(&path).unwrap();
        assert_eq!(after, format!("# ours\nlamp:{b}\n\n# theirs\ndoor:{b}\n"));
        assert_eq!(names(&file), ["lamp", "door"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("users");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let file = UsersFile::at(&path);
        assert!(file.names().is_err() && file.remove(&named("lamp")).is_err(), "it is not there");
        file.set(&named("lamp"), &cheap("a")).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        // left by a writer that was killed
        fs::write(folder.path().join("users.new"), "half a line").unwrap();
        fs::set_permissions(folder.path().join("users.new"), Permissions::from_mode(0o666)).unwrap();
        file.set(&named("lamp"), &cheap("a")).unwrap();
        assert_eq!((mode(), names(&file)), (0o600, vec!["lamp".to_owned()]));
    }

    #[test]
    fn a_link_stays_one() {
        let folder = TempDir::new().unwrap();
        let (path, link) = (folder.path().join("users"), folder.path().join("link"));
        fs::write(&path, "").unwrap();
        symlink(&path, &link).unwrap();
        UsersFile::at(&link).set(&named("lamp"), &cheap("a")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&UsersFile::at(&path)), ["lamp"]);
    }

    #[test]
    fn a_file_with_a_mistake_is_not_touched() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, "# ours\nlamp\n").unwrap();
        let file = UsersFile::at(&path);
        for error in [file.set(&named("x"), &cheap("x")).err(), file.remove(&named("x")).err(), file.names().err()] {
            assert_eq!(error.and_then(|error| error.line), Some(2));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "# ours\nlamp\n");
    }

    #[test]
    fn no_writer_undoes_what_another_wrote() {
        let folder = TempDir::new().unwrap();
        let file = UsersFile::at(&folder.path().join("users"));
        thread::scope(|scope| {
            for writer in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    for n in 0..8 {
                        file.set(&named(&format!("w{writer}-{n}")), &cheap("x")).unwrap();
                    }
                    file.remove(&named(&format!("w{writer}-0"))).unwrap();
                });
            }
        });
        assert_eq!(names(&file).len(), 8 * 7);
    }
}
