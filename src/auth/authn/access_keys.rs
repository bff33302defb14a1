//! Access keys as in AWS: a client that signs its requests with the secret of a key acts as the principal of that key.
//!
//! A line of the file holds a key: its id, its secret and the principal, separated by blanks. Empty lines and those
//! that begin with `#` are ignored. The server needs the secrets themselves to verify signatures, so only the owner of
//! the file may be able to read it.

use std::{collections::HashMap, fmt, fs, path::Path, sync::Arc};

use ring::digest;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::auth::{FileError, Principal};
use crate::private_file;

/// The access keys by id.
#[derive(Default)]
pub struct AccessKeys(HashMap<String, Arc<AccessKey>>);

/// One access key.
#[derive(PartialEq, Eq)]
pub struct AccessKey {
    /// The id.
    pub id: String,
    /// The secret that signs requests.
    pub secret: String,
    /// The principal of the key.
    pub principal: Principal,
}

/// Fewest bytes of a secret that cannot be guessed from a digest of it.
const SECRET_BYTES_MIN: usize = 20;
/// Most bytes of the file.
const FILE_BYTES_MAX: usize = 1 << 20;

impl AccessKeys {
    /// Reads the file at `path`.
    pub(in crate::auth) fn read(path: &Path) -> Result<Self, FileError> {
        let refuse = |detail: &dyn fmt::Display| FileError::whole(path, detail);
        private_file::check(path).map_err(|error| refuse(&error))?;
        let text = fs::read_to_string(path).map_err(|error| refuse(&error))?;
        if text.len() > FILE_BYTES_MAX {
            return Err(refuse(&"is larger than 1 MiB"));
        }
        let mut keys = Self::default();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let refuse = |detail: &dyn fmt::Display| FileError::line(path, number, detail);
            let mut words = line.split_whitespace();
            let (Some(id), Some(secret), Some(name), None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(refuse(&"must be an access key id, its secret and a principal"));
            };
            let principal = Principal::named(name).map_err(|error| refuse(&error))?;
            let key = AccessKey { id: id.to_owned(), secret: secret.to_owned(), principal };
            if keys.0.insert(id.to_owned(), Arc::new(key)).is_some() {
                return Err(refuse(&format!("has the access key {id} again")));
            }
        }
        Ok(keys)
    }

    /// Returns a SHA-256 of all keys.
    pub(in crate::auth) fn digest(&self) -> [u8; 32] {
        let mut keys: Vec<_> = self.0.values().collect();
        keys.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let mut digest = Sha256::new();
        for part in keys.iter().flat_map(|key| [key.id.as_str(), &key.secret, &**key.principal.name()]) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Returns the key with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<AccessKey>> {
        self.0.get(id)
    }

    /// Returns true if `key` is there, with the same secret and principal.
    pub(in crate::auth) fn has(&self, key: &AccessKey) -> bool {
        self.0.get(&key.id).is_some_and(|present| **present == *key)
    }

    /// Adds a key.
    #[cfg(test)]
    pub(crate) fn with(mut self, id: &str, secret: &str, principal: Principal) -> Self {
        let key = AccessKey { id: id.to_owned(), secret: secret.to_owned(), principal };
        self.0.insert(id.to_owned(), Arc::new(key));
        self
    }
}

impl AccessKey {
    /// Returns a digest of the id and the secret, by which the key is recognized after a restart. `None` if the secret is
    /// shorter than 20 bytes, as it could be guessed from its digest.
    pub(in crate::auth) fn digest(&self) -> Option<digest::Digest> {
        let Self { id, secret, .. } = self;
        // An id holds no blank.
        let content = (secret.len() >= SECRET_BYTES_MIN).then(|| Zeroizing::new(format!("{id} {secret}")))?;
        Some(digest::digest(&digest::SHA256, content.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(text: &str, mode: u32) -> Result<AccessKeys, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        AccessKeys::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_holds_a_key() {
        let keys = read("# back ends\n\nAKIA1 s3cr/t+ app-1\n  AKIA2\tother  app-2\n", 0o600).unwrap();
        let found = keys.get("AKIA1").unwrap();
        assert_eq!((found.secret.as_str(), &**found.principal.name()), ("s3cr/t+", "app-1"));
        assert!(keys.get("AKIA2").is_some() && keys.get("AKIA3").is_none());
    }

    #[test]
    fn an_error_names_the_line_and_hides_the_secret() {
        for (text, mode, detail) in [
            ("AKIA1 s3cret\n", 0o600, ":1: must be"),
            ("\nAKIA1 s3cret a b\n", 0o600, ":2: must be"),
            ("AKIA1 s3cret a/b\n", 0o600, ":1: \"a/b\" cannot be a name"),
            ("AKIA1 s3cret a\nAKIA1 s3cret b\n", 0o600, ":2: has the access key AKIA1 again"),
            ("AKIA1 s3cret a\n", 0o644, "chmod 600"),
        ] {
            let error = read(text, mode).map(|_| ()).unwrap_err();
            assert!(error.contains(detail) && !error.contains("s3cret"), "{error}");
        }
    }
}
