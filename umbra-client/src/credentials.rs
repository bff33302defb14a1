//! The credentials of a login. They are not in the debug output.

use std::fmt;

/// The credentials of a login.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// User name and password.
    Password(String, String),
    /// A token (JWT), which names the principal.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the secrets.
        f.write_str(match self {
            Self::Password(..) => "Credentials::Password",
            Self::Token(_) => "Credentials::Token",
        })
    }
}
