//! Parsing and hashing of the user lists that `umbrad passwd import` reads.
//!
//! A line is a name, a tab or else the first colon, and the password, which may contain any other character. Empty
//! lines are skipped. The whole list is checked before a password is hashed, so a list with an error changes nothing.

use std::{collections::HashSet, num::NonZero, thread};

use zeroize::Zeroizing;

use crate::auth::{HashError, PASSWORD_BYTES_MAX, PasswordHash, Principal};

/// Maximum size of a list in bytes.
pub(super) const LIST_BYTES_MAX: u64 = 256 << 20;

/// A user and the new password.
pub(super) type User = (Principal, Zeroizing<Vec<u8>>);

/// Parses a list.
///
/// # Errors
///
/// Returns the error and the number of its line, without the password.
pub(super) fn parse(list: &[u8]) -> Result<Vec<User>, String> {
    let (mut users, mut names) = (Vec::new(), HashSet::new());
    for (number, line) in (1..).zip(list.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let (name, password) = parse_line(line).map_err(|error| format!("line {number}: {error}"))?;
        if !names.insert(name.clone()) {
            return Err(format!("line {number}: duplicate user {name}"));
        }
        users.push((name, password));
    }
    Ok(users)
}

fn parse_line(line: &[u8]) -> Result<User, String> {
    let find = |wanted| line.iter().position(|byte| *byte == wanted);
    let end = find(b'\t').or_else(|| find(b':')).ok_or("expected a name, a tab or colon, and a password")?;
    let (name, rest) = line.split_at_checked(end).unwrap_or((line, &[]));
    let password = rest.get(1..).unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| "the name is not UTF-8")?;
    let name = Principal::named(name).map_err(|error| error.to_string())?;
    check(password).map_err(|error| format!("user {name}: {error}"))?;
    Ok((name, Zeroizing::new(password.to_vec())))
}

/// Checks the length of a password.
pub(super) fn check(password: &[u8]) -> Result<(), String> {
    match password.len() {
        0 => Err("the password is empty".to_owned()),
        1..=PASSWORD_BYTES_MAX => Ok(()),
        more => Err(format!("the password exceeds {PASSWORD_BYTES_MAX} bytes: it has {more}")),
    }
}

/// Hashes the passwords of `users` on all processors.
pub(super) fn hash(users: &[User]) -> Result<Vec<(Principal, PasswordHash)>, HashError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let hash_all = |users: &[User]| -> Result<Vec<_>, HashError> {
        users.iter().map(|(name, password)| Ok((name.clone(), PasswordHash::new(password)?))).collect()
    };
    thread::scope(|scope| {
        let parts = users.chunks(users.len().div_ceil(threads).max(1));
        let running: Vec<_> = parts.map(|part| scope.spawn(move || hash_all(part))).collect();
        let mut hashes = Vec::with_capacity(users.len());
        for part in running {
            hashes.extend(part.join().unwrap_or(Err(HashError::System("a thread failed")))?);
        }
        Ok(hashes)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn splits_lines_at_a_tab_or_the_first_colon() {
        let list = b"lamp:secret\n\nb:c:d\r\nurn:dev:1\tx:\ty\n";
        let users = parse(list).unwrap();
        let shown: Vec<_> = users.iter().map(|(name, password)| (&**name.name(), password.as_slice())).collect();
        assert_eq!(shown, [("lamp", &b"secret"[..]), ("b", b"c:d"), ("urn:dev:1", b"x:\ty")]);
    }

    #[test]
    fn errors_name_the_line_and_not_the_password() {
        let long = format!("lamp:{}", "s3cret".repeat(200));
        for (list, error) in [
            ("lamp s3cret", "line 1: expected a name, a tab or colon, and a password"),
            ("a:s3cret\n\nb/c:s3cret", "line 3: \"b/c\" cannot be a name"),
            ("a:s3cret\nb:", "line 2: user b: the password is empty"),
            (&long, "line 1: user lamp: the password exceeds 1024 bytes: it has 1200"),
            ("a:s3cret\nb:s3cret\na:s3cret2", "line 3: duplicate user a"),
        ] {
            let found = parse(list.as_bytes()).unwrap_err();
            assert!(found.starts_with(error) && !found.contains("s3cret"), "{found}");
        }
    }
}
