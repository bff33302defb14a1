//! Principals: the names under which requests are made.
//!
//! Client certificates, the users file and tokens name principals by one rule, and equal names are the same principal.
//! No name holds `+`, `#` or `/`, so it cannot extend a topic or rule in which it is inserted. No name looks like that
//! of an anonymous client.

use std::{fmt, sync::Arc};

use crate::shadow::excerpt;

/// The prefix of the names of anonymous clients.
const ANONYMOUS: &str = "anonymous/";
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 128;

/// The name under which a request is made, as recorded in metadata and history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

/// An error for a text that cannot name a principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a name: names are 1 to 128 of A-Z a-z 0-9 . : _ -")]
pub struct NameError(String);

impl Principal {
    /// Returns the principal `name`, as named by a certificate, the users file or a token.
    ///
    /// # Errors
    ///
    /// The name is not 1–128 of `A-Z a-z 0-9 . : _ -`.
    pub fn named(name: &str) -> Result<Self, NameError> {
        if !name.is_empty() && Self::may_hold(name) {
            return Ok(Self(name.into()));
        }
        Err(NameError(excerpt(name, NAME_BYTES_MAX).to_owned()))
    }

    /// Returns true if `part` may be a part of a name that [`Principal::named`] takes.
    #[must_use]
    pub fn may_hold(part: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-');
        part.len() <= NAME_BYTES_MAX && part.chars().all(allowed)
    }

    /// Returns true if a pattern that is written as `text` may match the name of an anonymous client.
    #[must_use]
    pub fn may_be_anonymous(text: &str) -> bool {
        let start = text.split(['*', '{']).next().unwrap_or_default();
        start.starts_with(ANONYMOUS) || (start.len() < text.len() && ANONYMOUS.starts_with(start))
    }

    /// Returns the principal of a client on an anonymous listener: `anonymous/<client id>`.
    #[must_use]
    pub fn anonymous(client_id: &str) -> Self {
        Self(format!("{ANONYMOUS}{client_id}").into())
    }

    /// Returns the principal with the name of an existing one.
    #[must_use]
    pub fn of_known(name: &Arc<str>) -> Self {
        Self(name.clone())
    }

    /// Returns true for a client on an anonymous listener.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.0.starts_with(ANONYMOUS)
    }

    /// Returns the shared name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_checked() {
        let (longest, long) = ("x".repeat(128), "x".repeat(129));
        for (name, valid) in [
            ("lamp-1.example:a_B", true),
            (longest.as_str(), true),
            (long.as_str(), false),
            ("", false),
            ("a b", false),
            ("a+", false),
            ("#", false),
            ("a/b", false),
            ("anonymous/x", false),
            ("é", false),
            ("a\n", false),
            ("a\0", false),
            ("$a", false),
        ] {
            let named = Principal::named(name);
            assert_eq!(named.as_ref().ok().map(|principal| &**principal.name()), valid.then_some(name), "{name:?}");
        }
        assert_ne!(Principal::named("x").ok(), Some(Principal::anonymous("x")));
    }

    proptest! {
        /// A name is a single topic level without wildcards.
        #[test]
        fn a_name_is_one_plain_topic_level(text in "\\PC{0,140}") {
            if let Ok(principal) = Principal::named(&text) {
                prop_assert!(!principal.name().contains(['+', '#', '/', '$', '\0']));
                prop_assert!(!principal.name().is_empty());
            }
        }
    }
}
