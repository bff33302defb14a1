//! The parsed users file: user names and password hashes.
//!
//! A line is `name:$argon2id$…`, empty, or a comment that begins with `#`. One unusable line makes the whole file
//! unusable. Otherwise a silently missing user would be noticed only at the next outage.

use std::{collections::BTreeMap, fs, io, ops::Bound, path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::auth::{FileError, PasswordHash, Principal, authn::password::HashError};

/// Most users of a file.
pub(in crate::auth) const USERS_MAX: usize = 1_000_000;

/// The users by name.
#[derive(Debug)]
pub(in crate::auth) struct Users {
    by_name: BTreeMap<Principal, Arc<PasswordHash>>,
    /// The hash that is checked for an unknown user.
    imaginary: Arc<PasswordHash>,
    digest: [u8; 32],
}

impl Users {
    /// Reads the file at `path`.
    pub(in crate::auth) fn read(path: &Path) -> Result<Self, FileError> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                FileError::whole(path, format!("{error}; auth.users names it, `umbrad passwd add` makes it"))
            }
            _ => FileError::whole(path, error),
        })?;
        Self::parse(path, &text)
    }

    /// Parses `text`, the content of the file at `path`.
    pub(in crate::auth) fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut by_name = BTreeMap::new();
        let mut dearest: Option<Arc<PasswordHash>> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let refuse = |detail: &dyn std::fmt::Display| FileError::line(path, number, detail);
            let Some((name, hash)) = parse_line(line).map_err(|detail| refuse(&detail))? else { continue };
            let hash = Arc::new(hash);
            if dearest.as_ref().is_none_or(|dearest| dearest.cost() < hash.cost()) {
                dearest = Some(hash.clone());
            }
            if by_name.insert(name.clone(), hash).is_some() {
                return Err(refuse(&format!("the user {name} is there before")));
            }
            if by_name.len() > USERS_MAX {
                return Err(refuse(&format!("there are more than {USERS_MAX} users")));
            }
        }
        let imaginary = imaginary(dearest.as_deref()).map_err(|error| FileError::whole(path, error))?;
        Ok(Self { by_name, imaginary: Arc::new(imaginary), digest: Sha256::digest(text).into() })
    }

    /// Returns the password hash of a user.
    pub(in crate::auth) fn get(&self, name: &Principal) -> Option<&Arc<PasswordHash>> {
        self.by_name.get(name)
    }

    /// Returns the hash for unknown users, as costly as the most costly hash in the file.
    pub(in crate::auth) fn imaginary(&self) -> &Arc<PasswordHash> {
        &self.imaginary
    }

    /// Returns at most `limit` users after `after` whose names begin with `prefix`, in their order.
    pub(in crate::auth) fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Principal> {
        let first = match after {
            Some(after) if after >= prefix => Bound::Excluded(Principal::of_known(&after.into())),
            _ => Bound::Included(Principal::of_known(&prefix.into())),
        };
        let names = self.by_name.range((first, Bound::Unbounded)).map(|(name, _)| name);
        names.take_while(|name| name.name().starts_with(prefix)).take(limit).cloned().collect()
    }

    /// Returns the SHA-256 of the file.
    pub(in crate::auth) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Returns the number of users.
    pub(in crate::auth) fn count(&self) -> usize {
        self.by_name.len()
    }
}

/// Parses one line; `None` if it names no user. The error text says what is wrong with it.
pub(in crate::auth) fn parse_line(line: &str) -> Result<Option<(Principal, PasswordHash)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    // A name may hold colons, but no dollar sign.
    let (name, _) = line.split_once(":$").ok_or("is not of the form name:$argon2id$…")?;
    let hash = line.get(name.len() + 1..).unwrap_or_default();
    let name = Principal::named(name).map_err(|error| error.to_string())?;
    match PasswordHash::parse(hash) {
        Ok(hash) => Ok(Some((name, hash))),
        Err(error) => Err(format!("user {name}: {error}")),
    }
}

/// Returns the line of a user, without a line end.
pub(in crate::auth) fn line_of(name: &Principal, hash: &PasswordHash) -> String {
    format!("{name}:{hash}")
}

/// Returns a hash that matches nothing, as costly as `like`, or as a new hash if the file has none.
fn imaginary(like: Option<&PasswordHash>) -> Result<PasswordHash, HashError> {
    match like {
        Some(hash) => hash.imaginary(),
        None => PasswordHash::new(b"").and_then(|hash| hash.imaginary()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use proptest::prelude::*;

    use super::*;
    use crate::auth::authn::password::{Memory, tests::cheap};

    fn parse(text: &str) -> Result<Users, String> {
        Users::parse(Path::new("users"), text).map_err(|error| error.to_string())
    }

    fn named(name: &str) -> Principal {
        Principal::named(name).unwrap()
    }

    #[test]
    fn users_are_parsed() {
        let (lamp, colon) = (cheap("one"), cheap("two"));
        let users = parse(&format!("# ours\n\nlamp:{lamp}\r\n  a:b:c:{colon} \n#lamp:{lamp}\n")).unwrap();
        assert_eq!(users.count(), 2);
        assert_eq!(users.get(&named("lamp")).map(|hash| &**hash), Some(&lamp));
        assert_eq!(users.get(&named("a:b:c")).map(|hash| &**hash), Some(&colon));
        assert!(users.get(&named("lam")).is_none());
        assert_eq!(users.imaginary().cost(), lamp.cost());
    }

    #[test]
    fn a_file_without_users_is_valid() {
        let users = parse("").unwrap();
        assert_eq!(users.count(), 0);
        assert!(!users.imaginary().matches(b"", &mut Memory::default()));
    }

    proptest! {
        /// Arbitrary text is parsed or refused, and what is parsed is written back unchanged.
        #[test]
        fn any_text_is_read_or_refused(text in "(lamp:)?\\$argon2id\\$(v=19\\$)?(m=[0-9]{1,12},?)?(t=[0-9]{1,3},?)?(p=[0-9]{1,3})?(\\$[A-Za-z0-9+/]{0,60}){0,3}|\\PC{0,80}") {
            if let Ok(Some((name, hash))) = parse_line(&text) {
                let again = parse_line(&line_of(&name, &hash));
                prop_assert_eq!(again, Ok(Some((name, hash))));
            }
        }
    }

    #[test]
    fn an_error_names_the_line_and_hides_the_hash() {
        let hash = cheap("x").to_string();
        let (dear, half) = (hash.replace("m=8,", "m=999999,"), hash.get(..40).unwrap());
        for (text, detail) in [
            (format!("lamp:{hash}\nlamp:{hash}"), "users:2: the user lamp is there before"),
            ("\nlamp".to_owned(), "users:2: is not of the form name:$argon2id$…"),
            ("lamp:hunter2".to_owned(), "users:1: is not of the form name:$argon2id$…"),
            (format!("a/b:{hash}"), "users:1: \"a/b\" cannot be a name: names are 1 to 128 of A-Z a-z 0-9 . : _ -"),
            (format!(":{hash}"), "users:1: \"\" cannot be a name: names are 1 to 128 of A-Z a-z 0-9 . : _ -"),
            (
                format!("lamp:{half}"),
                "users:1: user lamp: the hash is not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash",
            ),
            (
                format!("# c\nlamp:{dear}"),
                "users:2: user lamp: the hash has m=999999,t=1,p=1, but at most m=262144,t=16,p=16 are taken",
            ),
        ] {
            assert_eq!(parse(&text).err().as_deref(), Some(detail), "{text}");
        }
    }
}
