//! The authentication of clients, for MQTT and HTTP.
//!
//! The credentials of a client have this order of precedence:
//!
//! 1. A verified certificate. Other credentials are ignored, since AWS SDKs send user names that name no user.
//! 2. A token, sent as such or, if it has the form of one and tokens are configured, as MQTT password. Its user name is
//!    ignored.
//! 3. A user name and a password.
//! 4. None: on an anonymous listener, the client is `anonymous/<client id>`.
//!
//! If neither users nor tokens are configured, an anonymous listener ignores all credentials. If they are, it refuses
//! wrong ones too, because a client that sends credentials wants to be identified by them.
//!
//! A refusal does not reveal which half was wrong, neither by its text nor by its time. It is sent at a fixed time
//! after the login, unless hashing takes longer, which it then does for all clients. `failures` limits failed logins.
//! Passwords are hashed on separate threads (`checks`), and verified ones are cached (`verified`). The rights of an
//! authenticated client are decided elsewhere.

use std::{
    fmt, io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ring::digest;

use crate::{
    admission::Network,
    clock::Clock,
    config::AuthConfig,
    observability::{
        logging::{LineLimit, limited},
        metrics::LoginCounters,
    },
};
use crate::{
    admission::login_throttle::LoginThrottle,
    auth::{
        FileError, PasswordHash, Principal,
        authn::{
            access_keys::AccessKeys,
            certificate::PeerCertificate,
            identity::CredentialOrigin,
            passwords::{Passwords, PasswordsError, VerifiedUser},
            token_keys::TokenKey,
            tokens::{Token, TokenFault, Tokens, is_like_token},
        },
    },
};

pub use crate::auth::authn::{
    identity::{AuthenticationError, Credentials, Identity, Method},
    tokens::Expiry,
};

/// The authentication of clients on all listeners.
pub struct Login {
    clock: Clock,
    failure_delay: Duration,
    failures: Arc<LoginThrottle>,
    counters: Arc<LoginCounters>,
    /// The limit of logged refusals.
    lines: LineLimit,
    /// The users; `None` if not configured.
    passwords: Option<Passwords>,
    /// The tokens; `None` if not configured.
    tokens: Option<Tokens>,
}

/// An error that prevents authentication.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// An error in a file of users or keys.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system provides no thread or no random bytes.
    #[error("cannot check passwords: {0}")]
    System(io::Error),
}

impl Login {
    /// Reads users and keys, and starts the hashing threads.
    ///
    /// # Errors
    ///
    /// A [`LoginError`] with the file and, if known, the line.
    pub fn open(config: &AuthConfig, clock: Clock) -> Result<Self, LoginError> {
        let failures = Arc::new(LoginThrottle::new(config.user_failures, config.address_failures));
        let counters = Arc::new(LoginCounters::default());
        let passwords = config.users.clone();
        let passwords = passwords.map(|path| Passwords::open(path, config, failures.clone(), counters.clone()));
        let tokens = config.tokens.clone().map(|config| Tokens::open(config, clock.clone()));
        Ok(Self {
            clock,
            failure_delay: config.failure_delay,
            failures,
            counters,
            lines: LineLimit::default(),
            passwords: passwords.transpose()?,
            tokens: tokens.transpose()?,
        })
    }

    /// Reads users and keys again, blocking. Logins must be checked with [`Self::is_in_force`] afterwards.
    ///
    /// Returns the errors of unusable files; their old content stays in use.
    #[must_use]
    pub fn reload(&self) -> Vec<FileError> {
        let users = self.passwords.as_ref().map_or(Ok(()), Passwords::reload);
        let keys = self.tokens.as_ref().map_or(Ok(()), Tokens::reload);
        [users, keys].into_iter().filter_map(Result::err).collect()
    }

    /// Returns the digests of the files in use, by the keys that name them.
    pub(in crate::auth) fn digests(&self) -> impl Iterator<Item = (&'static str, [u8; 32])> {
        let users = self.passwords.as_ref().map(|passwords| ("auth.users", passwords.digest()));
        let keys = self.tokens.as_ref().map(|tokens| ("auth.token_keys", tokens.digest()));
        [users, keys].into_iter().flatten()
    }

    /// Authenticates the client at `address`. `anonymous` is its client id if the listener accepts anonymous clients.
    ///
    /// A refusal takes `failure_delay`. Dropping the future cancels the login.
    ///
    /// # Errors
    ///
    /// [`AuthenticationError`], for the client.
    pub async fn identify(
        &self,
        address: IpAddr,
        certificate: &PeerCertificate,
        credentials: Credentials<'_>,
        anonymous: Option<&str>,
    ) -> Result<Identity, AuthenticationError> {
        let came = Instant::now();
        let known = self.known(address.into(), certificate, credentials, anonymous).await;
        let denied = match known {
            Ok(identity) => return Ok(identity),
            Err(AuthenticationError::Missing) => return Err(AuthenticationError::Missing), // no delay: nothing was tried
            Err(denied) => denied,
        };
        self.note(address, denied, None);
        tokio::time::sleep_until((came + self.failure_delay).into()).await;
        Err(denied)
    }

    /// Counts a refusal and logs it: at level `info` within the rate limit, at level `debug` beyond.
    pub(in crate::auth) fn note(&self, address: IpAddr, denied: AuthenticationError, principal: Option<&Principal>) {
        self.counters.of(denied).add(1);
        let principal = principal.map(tracing::field::display);
        limited!(info, self.lines, %address, principal, %denied, "a login was refused");
    }

    /// Returns true unless the credentials of the login were revoked: the user has the same password, the key of the
    /// token is still there, and the certificate is accepted. `access_keys` are those of the files read last. Expiry is
    /// not considered.
    #[must_use]
    pub fn is_in_force(&self, identity: &Identity, access_keys: &AccessKeys) -> bool {
        match &identity.origin {
            CredentialOrigin::None => true,
            CredentialOrigin::Certificate(certificate) => certificate.is_trusted(),
            CredentialOrigin::User(hash) => {
                self.passwords.as_ref().is_some_and(|users| users.has(&identity.principal, hash))
            }
            CredentialOrigin::Key(key) => self.tokens.as_ref().is_some_and(|tokens| tokens.has(key)),
            CredentialOrigin::AccessKey(key) => access_keys.has(key),
        }
    }

    /// Returns true if the certificate or token of the login has expired.
    #[must_use]
    pub fn is_expired(&self, identity: &Identity) -> bool {
        identity.until.is_some_and(|until| until.is_past(&self.clock, Instant::now()))
    }

    /// Returns the present password hash of a user.
    pub(in crate::auth) fn hash_of(&self, user: &Principal) -> Option<Arc<PasswordHash>> {
        self.passwords.as_ref()?.hash_of(user)
    }

    /// Returns the present token key with this fingerprint.
    pub(in crate::auth) fn token_key(&self, fingerprint: &[u8]) -> Option<Arc<TokenKey>> {
        self.tokens.as_ref()?.key(fingerprint)
    }

    /// Returns the clock by which logins expire.
    pub(in crate::auth) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns at most `limit` users after `after` whose names begin with `prefix`, in their order.
    pub(in crate::auth) fn users(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Principal> {
        self.passwords.as_ref().map_or_else(Vec::new, |users| users.page(prefix, after, limit))
    }

    /// Returns the counters of checks and refusals.
    #[must_use]
    pub fn counters(&self) -> &LoginCounters {
        &self.counters
    }

    async fn known(
        &self,
        from: Network,
        certificate: &PeerCertificate,
        credentials: Credentials<'_>,
        anonymous: Option<&str>,
    ) -> Result<Identity, AuthenticationError> {
        match certificate {
            PeerCertificate::Certificate(certificate) => {
                let identity = Identity::by_certificate(certificate.clone(), &self.clock);
                // The handshake may be long ago.
                let valid = certificate.is_trusted() && !self.is_expired(&identity);
                return if valid { Ok(identity) } else { Err(AuthenticationError::Missing) };
            }
            PeerCertificate::Unusable => return Err(AuthenticationError::Missing),
            PeerCertificate::None => {}
        }
        let ignored = anonymous.is_some() && self.passwords.is_none() && self.tokens.is_none();
        match (credentials, anonymous) {
            (Credentials::Password { user, password }, _) if !ignored => match self.token_in(password) {
                Some((tokens, token)) => self.by_token(from, tokens, token),
                None => self.by_password(from, user, password).await,
            },
            (Credentials::Bearer(token), _) if !ignored => match &self.tokens {
                Some(tokens) => self.by_token(from, tokens, token),
                None => Err(AuthenticationError::Bad),
            },
            (_, Some(client)) => Ok(Identity::lasting(Principal::anonymous(client), Method::Anonymous)),
            (_, None) => Err(AuthenticationError::Missing),
        }
    }

    /// Returns the token that a password contains, if tokens are configured.
    fn token_in<'a>(&self, password: &'a [u8]) -> Option<(&Tokens, &'a str)> {
        let tokens = self.tokens.as_ref()?;
        let token = std::str::from_utf8(password).ok().filter(|text| is_like_token(text))?;
        Some((tokens, token))
    }

    async fn by_password(&self, from: Network, user: &str, password: &[u8]) -> Result<Identity, AuthenticationError> {
        let Some(passwords) = &self.passwords else { return Err(AuthenticationError::Bad) };
        let VerifiedUser { user, hash } = passwords.verify(from, user, password).await?;
        Ok(Identity { principal: user, method: Method::Password, until: None, origin: CredentialOrigin::User(hash) })
    }

    /// Authenticates by token. A token cannot be guessed, so a valid one is accepted whatever else fails at its
    /// address. An invalid one counts as a separate user. So a device that repeats an expired token does not use up the
    /// limit of its neighbours.
    fn by_token(&self, from: Network, tokens: &Tokens, token: &str) -> Result<Identity, AuthenticationError> {
        let now = Instant::now();
        let own = format!("token/{:?}", digest::digest(&digest::SHA256, token.as_bytes())); // no user is called that
        self.failures.check_user(from, &own, now)?;
        match tokens.verify(token) {
            Ok(Token { principal, until, key }) => Ok(Identity {
                principal,
                method: Method::Token,
                until: Some(until),
                origin: CredentialOrigin::Key(key),
            }),
            Err(fault) => {
                tracing::debug!(%fault, "a token was refused");
                self.failures.check_address(from, now)?;
                self.failures.count(from, &own, now);
                match fault {
                    TokenFault::Long => Err(AuthenticationError::LongToken { bytes: token.len() }),
                    _ => Err(AuthenticationError::Bad),
                }
            }
        }
    }
}

impl LoginCounters {
    fn of(&self, denied: AuthenticationError) -> &crate::observability::metrics::Counter {
        match denied {
            AuthenticationError::Bad | AuthenticationError::LongToken { .. } | AuthenticationError::Missing => {
                &self.refused
            }
            AuthenticationError::NoRole => &self.without_role,
            AuthenticationError::Banned => &self.banned,
            AuthenticationError::TooMany { .. } => &self.limited,
            AuthenticationError::Busy => &self.busy,
        }
    }
}

impl From<PasswordsError> for LoginError {
    fn from(fault: PasswordsError) -> Self {
        match fault {
            PasswordsError::File(error) => Self::File(error),
            PasswordsError::System(error) => Self::System(error),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
