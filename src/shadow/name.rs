//! Names of devices and shadows, and the key of a shadow.

use std::{fmt, sync::Arc};

/// A device id: 1 to 128 bytes of `A-Z a-z 0-9 : _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// The name of a named shadow: 1 to 64 bytes of `A-Z a-z 0-9 : _ - $`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShadowName(Arc<str>);

/// The key of a shadow: a device and, for a named shadow, its name. Sorts by device, the classic shadow first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShadowKey {
    /// The device.
    pub device: DeviceId,
    /// The name of the shadow; `None` for the classic shadow.
    pub name: Option<ShadowName>,
}

/// An error for a text that is not a device id or shadow name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("'{name}' is {length} bytes long, allowed are 1 to {max}")]
    Length {
        /// The text, cut to 64 characters.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A character outside the set.
    #[error("'{name}' holds '{character}', allowed are {allowed}")]
    Character {
        /// The text, cut to 64 characters.
        name: String,
        /// The first character that is not allowed.
        character: char,
        /// The allowed characters.
        allowed: &'static str,
    },
}

impl DeviceId {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// A [`NameError`] with the offending text.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, 128, |c| matches!(c, ':' | '_' | '-'), "A-Z a-z 0-9 : _ -").map(Self)
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ShadowName {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// A [`NameError`] with the offending text.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, 64, |c| matches!(c, ':' | '_' | '-' | '$'), "A-Z a-z 0-9 : _ - $").map(Self)
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ShadowKey {
    /// Returns the key of the classic shadow of `device`.
    #[must_use]
    pub fn classic(device: DeviceId) -> Self {
        Self { device, name: None }
    }

    /// Returns the key of the shadow `name` of `device`.
    #[must_use]
    pub fn named(device: DeviceId, name: ShadowName) -> Self {
        Self { device, name: Some(name) }
    }
}

/// Writes `<id>` or `<id>~<name>`, as in error messages.
impl fmt::Display for ShadowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.device.as_str())?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "~{}", name.as_str()))
    }
}

/// Returns at most `chars_max` characters of a text from outside, for a message or the log.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// Checks that `text` has 1 to `max` bytes of letters, digits and `extra`; `allowed` lists all of them for the error.
pub(crate) fn check(
    text: &str,
    max: usize,
    extra: fn(char) -> bool,
    allowed: &'static str,
) -> Result<Arc<str>, NameError> {
    let shown = || excerpt(text, 64).to_owned();
    if text.is_empty() || text.len() > max {
        return Err(NameError::Length { name: shown(), length: text.len(), max });
    }
    match text.chars().find(|&c| !c.is_ascii_alphanumeric() && !extra(c)) {
        Some(character) => Err(NameError::Character { name: shown(), character, allowed }),
        None => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn an_error_shows_the_name_and_the_rule() {
        for (text, error) in [
            ("", "'' is 0 bytes long, allowed are 1 to 64"),
            ("a/b+", "'a/b+' holds '/', allowed are A-Z a-z 0-9 : _ - $"),
        ] {
            assert_eq!(ShadowName::new(text).unwrap_err().to_string(), error);
        }
        let error = ShadowName::new(&"é".repeat(65)).unwrap_err().to_string();
        assert_eq!(error, format!("'{}' is 130 bytes long, allowed are 1 to 64", "é".repeat(64)));
        assert!(ShadowName::new(&"a".repeat(64)).is_ok() && ShadowName::new(&"a".repeat(65)).is_err());
    }

    #[test]
    fn a_key_shows_device_and_name() {
        let device = DeviceId::new("dev-1").unwrap();
        assert_eq!(ShadowKey::classic(device.clone()).to_string(), "dev-1");
        assert_eq!(ShadowKey::named(device, ShadowName::new("cfg").unwrap()).to_string(), "dev-1~cfg");
    }

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        for (text, shown) in [("", ""), ("abc", "abc"), ("abcd", "abc"), ("äöü!", "äöü")] {
            assert_eq!(excerpt(text, 3), shown);
        }
    }

    #[test]
    fn names_are_checked() {
        let (long, longer) = ("a".repeat(128), "a".repeat(129));
        for (text, device, shadow) in [
            ("dev-1:a_B", true, true),
            ("$x", false, true),
            ("", false, false),
            ("a/b", false, false),
            ("é", false, false),
            ("a+b", false, false),
            (&long, true, false),
            (&longer, false, false),
        ] {
            assert_eq!(DeviceId::new(text).is_ok(), device, "{text}");
            assert_eq!(ShadowName::new(text).is_ok(), shadow, "{text}");
        }
    }
}
