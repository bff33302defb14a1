//! A path into `state`: the section and the keys below it, written as an RFC 6901 JSON Pointer.

use std::{fmt, str::FromStr};

/// A path into one section of `state`; no keys means the whole section.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointer {
    /// The section.
    pub section: SectionName,
    /// The keys from the section down.
    pub keys: Vec<Box<str>>,
}

/// A section of `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SectionName {
    /// The requested state.
    Desired,
    /// The state that the device reports.
    Reported,
    /// Notes of the back end, which a device does not see.
    Tags,
}

impl SectionName {
    /// The sections, in the order of the JSON document.
    pub const ALL: [Self; 3] = [Self::Desired, Self::Reported, Self::Tags];

    /// Returns the section with the key `key`.
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == key)
    }

    /// Returns the key of the section in `state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Reported => "reported",
            Self::Tags => "tags",
        }
    }
}

impl Pointer {
    /// Returns the path of a whole section.
    #[must_use]
    pub fn section(section: SectionName) -> Self {
        Self { section, keys: Vec::new() }
    }

    /// Returns the path of the member `key` below this path.
    #[must_use]
    pub fn member(&self, key: &str) -> Self {
        let keys = self.keys.iter().map(|key| &**key).chain([key]).map(Into::into).collect();
        Self { section: self.section, keys }
    }

    /// Returns the bytes of the keys.
    #[must_use]
    pub fn key_bytes(&self) -> usize {
        self.keys.iter().map(|key| key.len()).sum()
    }

    /// Returns true if this path is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.section == other.section && self.keys.starts_with(&other.keys)
    }
}

/// An error for a text that is not a JSON Pointer into a section of `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON Pointer that begins with /desired, /reported or /tags")]
pub struct NotAPointer;

/// Parses an RFC 6901 JSON Pointer.
impl FromStr for Pointer {
    type Err = NotAPointer;

    fn from_str(text: &str) -> Result<Self, NotAPointer> {
        let mut tokens = text.strip_prefix('/').ok_or(NotAPointer)?.split('/');
        let section = tokens.next().and_then(SectionName::of).ok_or(NotAPointer)?;
        Ok(Self { section, keys: tokens.map(unescaped).collect::<Result<_, _>>()? })
    }
}

fn unescaped(token: &str) -> Result<Box<str>, NotAPointer> {
    let mut parts = token.split('~');
    let mut key = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match part.strip_prefix('0') {
            Some(rest) => ('~', rest),
            None => ('/', part.strip_prefix('1').ok_or(NotAPointer)?),
        };
        key.push(escaped);
        key.push_str(rest);
    }
    Ok(key.into())
}

/// Writes an RFC 6901 JSON Pointer, with `~` as `~0` and `/` as `~1` inside a key.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.section.as_str())?;
        self.keys.iter().try_for_each(|key| write!(f, "/{}", key.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_member_is_within_the_paths_above_it() {
        let pointer = |text: &str| text.parse::<Pointer>().unwrap();
        assert_eq!(pointer("/desired/a").member("b"), pointer("/desired/a/b"));
        assert_eq!(Pointer::section(SectionName::Tags).member("b"), pointer("/tags/b"));
        for (path, other, is_within) in [
            ("/desired/a/b", "/desired/a", true),
            ("/desired/a", "/desired/a", true),
            ("/desired/a", "/desired/a/b", false),
            ("/desired/ab", "/desired/a", false),
            ("/desired/a", "/reported", false),
        ] {
            assert_eq!(pointer(path).is_within(&pointer(other)), is_within, "{path} {other}");
        }
    }

    #[test]
    fn pointers_round_trip() {
        for text in ["/desired", "/tags/", "/reported/a/b~1c/~0/~01/é", "/desired//x"] {
            assert_eq!(text.parse::<Pointer>().map(|pointer| pointer.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "/", "desired", "desired/a", "/delta/a", "/Desired", "/desired/~", "/desired/a~2", "#/desired"]
        {
            assert_eq!(text.parse::<Pointer>(), Err(NotAPointer), "{text}");
        }
    }
}
