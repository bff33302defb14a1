//! What a client shows, and what comes of it: an identity, or a refusal.

use std::{fmt, sync::Arc, time::Duration};

use super::{PasswordHash, Principal, token_keys::TokenKey, tokens::Expiry};

/// What a client sends to be known by.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    /// Nothing.
    None,
    /// User name and password, or a token in place of the password.
    Password {
        /// The user name; empty if there was none.
        user: &'a str,
        /// The password; empty if there was none.
        password: &'a [u8],
    },
    /// A token, as in `Authorization: Bearer …`.
    Bearer(&'a str),
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name.
    pub principal: Principal,
    /// How it is known.
    pub method: Method,
    /// When it ends; `None` if it does not by itself.
    pub until: Option<Expiry>,
    pub(super) ground: Ground,
}

/// How a client is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It is not; its listener takes that.
    Anonymous,
    /// By its certificate.
    Certificate,
    /// By user name and password.
    Password,
    /// By a token.
    Token,
    /// By the signature of an access key, on AWS's paths of HTTP.
    AccessKey,
}

impl Method {
    /// All, as they are named in grants and by `umbrad auth explain`.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("anonymous", Self::Anonymous),
        ("certificate", Self::Certificate),
        ("password", Self::Password),
        ("token", Self::Token),
        ("access-key", Self::AccessKey),
    ];
}

/// What the files must still hold for an identity to go on.
#[derive(Clone)]
pub(super) enum Ground {
    /// Nothing.
    None,
    /// The principal, with this password.
    User(Arc<PasswordHash>),
    /// This key.
    Key(Arc<TokenKey>),
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The user name, the password or the token is wrong; which one is not told.
    #[error("user name, password or token is wrong")]
    Bad,
    /// Too many logins have failed.
    #[error("too many logins have failed")]
    TooMany {
        /// When the next may succeed.
        retry_after: Duration,
    },
    /// It showed nothing, or a certificate without a usable name, and the listener wants to know its clients.
    #[error("this listener takes no clients that it does not know")]
    Missing,
    /// It is known, and has no role.
    #[error("this client has no role here")]
    NoRole,
    /// More logins wait to be checked than may.
    #[error("too many logins at once")]
    Busy,
}

impl<'a> Credentials<'a> {
    /// Of an MQTT CONNECT, or of HTTP's `Authorization: Basic`.
    ///
    /// What follows a `?` in a user name is not part of it: AWS's SDKs tell there what they are, with a user name
    /// before it or without. A user name alone is one with a wrong password.
    #[must_use]
    pub fn of(user: Option<&'a str>, password: Option<&'a [u8]>) -> Self {
        let user = user.and_then(|user| user.split('?').next()).unwrap_or_default();
        match password {
            None if user.is_empty() => Self::None,
            password => Self::Password { user, password: password.unwrap_or_default() },
        }
    }
}

impl Identity {
    /// One that nothing but its connection ends.
    pub(super) fn lasting(principal: Principal, method: Method) -> Self {
        Self { principal, method, until: None, ground: Ground::None }
    }
}

impl From<Duration> for Denied {
    /// Of a limit of failures, with the time to wait.
    fn from(retry_after: Duration) -> Self {
        Self::TooMany { retry_after }
    }
}

impl fmt::Debug for Credentials<'_> {
    /// Keeps passwords and tokens out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Bearer(_) => "Bearer",
        })
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::User(_) => "User",
            Self::Key(_) => "Key",
        })
    }
}
