//! Access keys as AWS has them: a client that signs its requests with the secret of one is the principal it stands for.
//!
//! In the file, a key is a line: its id, its secret and the principal, with blanks between them. Empty lines and those
//! that begin with `#` say nothing. Signatures need the secret itself, so the file must be one that only its owner can
//! read.

use std::{collections::HashMap, fmt, fs, os::unix::fs::PermissionsExt, path::Path};

use super::{FileError, Principal};

/// Access keys, by their id.
#[derive(Default)]
pub struct AccessKeys(HashMap<String, AccessKey>);

/// One access key.
pub struct AccessKey {
    /// What requests are signed with.
    pub secret: String,
    /// Whom it stands for.
    pub principal: Principal,
}

/// The largest file of keys.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Others than its owner may not read the file.
const OTHERS: u32 = 0o077;

impl AccessKeys {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let refuse = |told: &dyn fmt::Display| FileError::whole(path, told);
        let mode = fs::metadata(path).map_err(|error| refuse(&error))?.permissions().mode();
        if mode & OTHERS != 0 {
            return Err(refuse(&"holds secrets that others than its owner may read; chmod 600 it"));
        }
        let text = fs::read_to_string(path).map_err(|error| refuse(&error))?;
        if text.len() > FILE_BYTES_MAX {
            return Err(refuse(&"is larger than 1 MiB"));
        }
        let mut keys = Self::default();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let refuse = |told: &dyn fmt::Display| FileError::line(path, number, told);
            let mut words = line.split_whitespace();
            let (Some(id), Some(secret), Some(name), None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(refuse(&"must be an access key id, its secret and a principal"));
            };
            let principal = Principal::named(name).map_err(|error| refuse(&error))?;
            if keys.0.insert(id.to_owned(), AccessKey { secret: secret.to_owned(), principal }).is_some() {
                return Err(refuse(&format!("has the access key {id} again")));
            }
        }
        Ok(keys)
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&AccessKey> {
        self.0.get(id)
    }

    /// Adds a key.
    #[cfg(test)]
    pub(crate) fn with(mut self, id: &str, secret: &str, principal: Principal) -> Self {
        self.0.insert(id.to_owned(), AccessKey { secret: secret.to_owned(), principal });
        self
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn read(text: &str, mode: u32) -> Result<AccessKeys, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        AccessKeys::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_has_a_key_a_line() {
        let keys = read("# back ends\n\nAKIA1 s3cr/t+ app-1\n  AKIA2\tother  app-2\n", 0o600).unwrap();
        let found = keys.get("AKIA1").unwrap();
        assert_eq!((found.secret.as_str(), &**found.principal.name()), ("s3cr/t+", "app-1"));
        assert!(keys.get("AKIA2").is_some() && keys.get("AKIA3").is_none());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_the_secret() {
        for (text, mode, told) in [
            ("AKIA1 s3cret\n", 0o600, ":1: must be"),
            ("\nAKIA1 s3cret a b\n", 0o600, ":2: must be"),
            ("AKIA1 s3cret a/b\n", 0o600, ":1: \"a/b\" cannot be a name"),
            ("AKIA1 s3cret a\nAKIA1 s3cret b\n", 0o600, ":2: has the access key AKIA1 again"),
            ("AKIA1 s3cret a\n", 0o644, "chmod 600"),
        ] {
            let error = read(text, mode).map(|_| ()).unwrap_err();
            assert!(error.contains(told) && !error.contains("s3cret"), "{error}");
        }
    }
}
