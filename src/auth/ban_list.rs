//! The list of banned principals: one name or pattern on each line of a file.
//!
//! A banned principal is refused by every method of authentication, after its credentials were found correct, so the
//! list reveals nothing to others. Empty lines and those that begin with `#` are ignored. `*` is any run of characters.

use std::{collections::HashSet, fmt, fs, path::Path};

use sha2::{Digest as _, Sha256};

use crate::auth::{
    FileError, Principal,
    authz::pattern::{Pattern, PlaceholderValues},
};

/// The banned principals.
#[derive(Debug, Default)]
pub(super) struct BanList {
    /// The names without `*`.
    names: HashSet<Box<str>>,
    patterns: Vec<Pattern>,
    /// The SHA-256 of the file.
    digest: [u8; 32],
}

/// Most bytes of the file.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Most lines with `*`, each of which is compared at every login.
const PATTERNS_MAX: usize = 256;

impl BanList {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let refuse = |detail: &dyn fmt::Display| FileError::whole(path, detail);
        let text = fs::read_to_string(path).map_err(|error| refuse(&format!("{error}; auth.banned names it")))?;
        if text.len() > FILE_BYTES_MAX {
            return Err(refuse(&"is larger than 1 MiB"));
        }
        let mut list = Self { digest: Sha256::digest(&text).into(), ..Self::default() };
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            list.add(line).map_err(|detail| FileError::line(path, number, detail))?;
        }
        Ok(list)
    }

    /// Returns the SHA-256 of the file.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Returns true if `principal` is banned.
    pub(super) fn has(&self, principal: &Principal) -> bool {
        let name = &**principal.name();
        let who = PlaceholderValues { principal: "", client: "" };
        self.names.contains(name) || self.patterns.iter().any(|pattern| pattern.matches(name, who))
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        if line.contains(['{', '}']) {
            return Err(format!("has '{line}', but a ban has no placeholders"));
        }
        if !line.contains('*') {
            let is_anonymous = Principal::may_be_anonymous(line);
            if !is_anonymous {
                Principal::named(line).map_err(|error| error.to_string())?;
            }
            self.names.insert(line.into());
            return Ok(());
        }
        if self.patterns.len() >= PATTERNS_MAX {
            return Err(format!("is one more than the {PATTERNS_MAX} lines that may have a '*'"));
        }
        let pattern: Pattern = line.parse().map_err(|error| format!("{error}"))?;
        if !pattern.texts().all(Principal::may_hold) && !Principal::may_be_anonymous(line) {
            return Err(format!("has '{line}', which no principal can be called"));
        }
        self.patterns.push(pattern);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn read(text: &str) -> Result<BanList, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        BanList::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_is_a_name_or_a_pattern() {
        let list = read("# stolen\n\nlamp-7\n  old-* \nanonymous/x/*\r\nanonymous/+/#\n").unwrap();
        for (name, banned) in
            [("lamp-7", true), ("lamp-70", false), ("old-", true), ("old-1", true), ("x-old-1", false)]
        {
            assert_eq!(list.has(&Principal::named(name).unwrap()), banned, "{name}");
        }
        for (client, banned) in [("x/1", true), ("x", false), ("+/#", true), ("lamp-7", false)] {
            assert_eq!(list.has(&Principal::anonymous(client)), banned, "{client}");
        }
        assert!(!read("").unwrap().has(&Principal::named("lamp-7").unwrap()));
    }

    #[test]
    fn an_error_names_the_line() {
        let many = "a*\n".repeat(PATTERNS_MAX + 1);
        for (text, detail) in [
            ("lamp 7", ":1: \"lamp 7\" cannot be a name"),
            ("# x\na/b", ":2: \"a/b\" cannot be a name"),
            ("a/*", ":1: has 'a/*', which no principal can be called"),
            ("{principal}", ":1: has '{principal}', but a ban has no placeholders"),
            (&many, ":257: is one more than the 256 lines"),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            assert!(error.contains(detail), "{error}");
        }
    }
}
