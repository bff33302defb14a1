//! Credentials, and the result of authentication: an identity or a refusal.

use std::{fmt, sync::Arc, time::Duration};

use crate::auth::{
    PasswordHash, Principal,
    authn::{
        access_keys::AccessKey,
        certificate::VerifiedCertificate,
        token_keys::TokenKey,
        tokens::{Expiry, TOKEN_BYTES_MAX},
    },
};
use crate::clock::Clock;

/// The credentials that a client sends.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    /// No credentials.
    None,
    /// A user name and a password, or a token in place of the password.
    Password {
        /// The user name; empty if not sent.
        user: &'a str,
        /// The password; empty if not sent.
        password: &'a [u8],
    },
    /// A token of `Authorization: Bearer …`.
    Bearer(&'a str),
}

/// The identity of a client.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The principal.
    pub principal: Principal,
    /// The authentication method.
    pub method: Method,
    /// The end of the authentication; `None` if it does not expire.
    pub until: Option<Expiry>,
    pub(in crate::auth) origin: CredentialOrigin,
}

/// The methods of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// None; the listener accepts anonymous clients.
    Anonymous,
    /// A client certificate.
    Certificate,
    /// A user name and a password.
    Password,
    /// A token.
    Token,
    /// The signature of an access key, on the AWS paths of HTTP.
    AccessKey,
}

impl Method {
    /// All methods, by their names in grants and in `umbrad auth explain`.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("anonymous", Self::Anonymous),
        ("certificate", Self::Certificate),
        ("password", Self::Password),
        ("token", Self::Token),
        ("access-key", Self::AccessKey),
    ];
}

/// The entry of a file on which the authentication depends.
#[derive(Clone)]
pub(in crate::auth) enum CredentialOrigin {
    /// No entry.
    None,
    /// The certificate, which the files of its listener must accept.
    Certificate(Arc<VerifiedCertificate>),
    /// The user with this password hash.
    User(Arc<PasswordHash>),
    /// The token key.
    Key(Arc<TokenKey>),
    /// The AWS access key.
    AccessKey(Arc<AccessKey>),
}

/// Reason for refusing a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// Wrong user name, password or token. The client does not learn which.
    #[error("user name, password or token is wrong")]
    Bad,
    /// A token that is too long to be read.
    #[error("the token has {bytes} bytes, and at most {TOKEN_BYTES_MAX} are read")]
    LongToken {
        /// Its length.
        bytes: usize,
    },
    /// Too many failed logins.
    #[error("too many logins have failed")]
    TooMany {
        /// The time after which a login may succeed.
        retry_after: Duration,
    },
    /// No credentials, or a certificate without a usable name, on a listener that requires authentication.
    #[error("this listener takes no clients that it does not know")]
    Missing,
    /// Authenticated, but on the list of banned principals.
    #[error("this client is banned")]
    Banned,
    /// Authenticated, but no role assigned.
    #[error("this client has no role assigned")]
    NoRole,
    /// Too many logins are queued for verification.
    #[error("too many logins at once")]
    Busy,
}

impl<'a> Credentials<'a> {
    /// Returns the credentials of an MQTT CONNECT or of `Authorization: Basic`.
    ///
    /// A `?` ends the user name: AWS SDKs append their name and version to it, or send only that. A user name without a
    /// password counts as one with a wrong password.
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
    /// Returns the identity of a certificate.
    pub(in crate::auth) fn by_certificate(certificate: Arc<VerifiedCertificate>, clock: &Clock) -> Self {
        Self {
            principal: certificate.principal.clone(),
            method: Method::Certificate,
            until: Some(Expiry::at(certificate.expires, clock)),
            origin: CredentialOrigin::Certificate(certificate),
        }
    }

    /// Returns the identity of an access key.
    pub(in crate::auth) fn by_access_key(key: &Arc<AccessKey>) -> Self {
        let origin = CredentialOrigin::AccessKey(key.clone());
        Self { origin, ..Self::lasting(key.principal.clone(), Method::AccessKey) }
    }

    /// Returns an identity that does not expire.
    pub(in crate::auth) fn lasting(principal: Principal, method: Method) -> Self {
        Self { principal, method, until: None, origin: CredentialOrigin::None }
    }
}

impl From<Duration> for AuthenticationError {
    /// Converts the wait time of a failure limit.
    fn from(retry_after: Duration) -> Self {
        Self::TooMany { retry_after }
    }
}

impl fmt::Debug for Credentials<'_> {
    /// Hides passwords and tokens, as in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Bearer(_) => "Bearer",
        })
    }
}

impl fmt::Debug for CredentialOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Certificate(_) => "Certificate",
            Self::User(_) => "User",
            Self::Key(_) => "Key",
            Self::AccessKey(_) => "AccessKey",
        })
    }
}
