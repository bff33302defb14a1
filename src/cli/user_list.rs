//! Names and passwords of many users, as `umbrad passwd import` reads them.
//!
//! A line is a name, a tab or else the first colon, and the password, which may hold anything else. Empty lines say
//! nothing. All of it is looked at before a password is hashed, so a list with a mistake changes nothing.

use std::{collections::HashSet, num::NonZero, thread};

use zeroize::Zeroizing;

use crate::auth::{HashError, PASSWORD_BYTES_MAX, PasswordHash, Principal};

/// The largest list, in bytes.
pub(super) const LIST_BYTES_MAX: u64 = 256 << 20;

/// A user and the password it is to have.
pub(super) type User = (Principal, Zeroizing<Vec<u8>>);

/// Reads a list.
///
/// # Errors
///
/// What is wrong with which line, without the password in it.
pub(super) fn parse(list: &[u8]) -> Result<Vec<User>, String> {
    let (mut users, mut names) = (Vec::new(), HashSet::new());
    for (number, line) in (1..).zip(list.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let (name, password) = parse_line(line).map_err(|told| format!("line {number}: {told}"))?;
        if !names.insert(name.clone()) {
            return Err(format!("line {number}: the user {name} is there before"));
        }
        users.push((name, password));
    }
    Ok(users)
}

fn parse_line(line: &[u8]) -> Result<User, String> {
    let find = |wanted| line.iter().position(|byte| *byte == wanted);
    let end = find(b'\t').or_else(|| find(b':')).ok_or("is not a name, a tab or colon, and a password")?;
    let (name, rest) = line.split_at_checked(end).unwrap_or((line, &[]));
    let password = rest.get(1..).unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| "the name is not UTF-8")?;
    let name = Principal::named(name).map_err(|error| error.to_string())?;
    check(password).map_err(|told| format!("user {name}: {told}"))?;
    Ok((name, Zeroizing::new(password.to_vec())))
}

/// Checks the length of a password.
pub(super) fn check(password: &[u8]) -> Result<(), String> {
    match password.len() {
        0 => Err("the password is empty".to_owned()),
        1..=PASSWORD_BYTES_MAX => Ok(()),
        more => Err(format!("the password is {more} bytes long, but may be {PASSWORD_BYTES_MAX}")),
    }
}

/// Hashes the passwords of `users`, on all processors.
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
    fn lines_are_split_at_a_tab_or_the_first_colon() {
        let list = b"lamp:secret\n\nb:c:d\r\nurn:dev:1\tx:\ty\n";
        let users = parse(list).unwrap();
        let shown: Vec<_> = users.iter().map(|(name, password)| (&**name.name(), password.as_slice())).collect();
        assert_eq!(shown, [("lamp", &b"secret"[..]), ("b", b"c:d"), ("urn:dev:1", b"x:\ty")]);
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_without_the_password() {
        let long = format!("lamp:{}", "s3cret".repeat(200));
        for (list, told) in [
            ("lamp s3cret", "line 1: is not a name, a tab or colon, and a password"),
            ("a:s3cret\n\nb/c:s3cret", "line 3: \"b/c\" cannot be a name"),
            ("a:s3cret\nb:", "line 2: user b: the password is empty"),
            (&long, "line 1: user lamp: the password is 1200 bytes long, but may be 1024"),
            ("a:s3cret\nb:s3cret\na:s3cret2", "line 3: the user a is there before"),
        ] {
            let error = parse(list.as_bytes()).unwrap_err();
            assert!(error.starts_with(told) && !error.contains("s3cret"), "{error}");
        }
    }
}
