//! The one place that decides who a client is, whichever door it comes through.
//!
//! What it shows counts in this order:
//!
//! 1. A verified certificate. Whatever else it sends is ignored, as AWS's SDKs send user names that name nobody.
//! 2. A token, as such or as an MQTT password of the form of one while tokens are configured; its user name is ignored.
//! 3. User name and password.
//! 4. Nothing: where the listener takes that, it is `anonymous/<client id>`.
//!
//! Where neither users nor tokens are configured, an anonymous listener ignores what a client sends; where they are,
//! what is wrong is refused there too, since who says who it is wants to be that.
//!
//! A refusal never tells which half was wrong, not by its text and not by the time it takes: it comes a fixed time
//! after the login did, unless hashing takes longer, which it then does for everybody. `failures` has the limits of how
//! often. Passwords are hashed on threads of their own (`checks`), and one that was right is not hashed again
//! (`verified`). What a client that is known may do is decided elsewhere.

use std::{
    fmt, io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ring::digest;

use super::{
    FileError, Principal,
    certificate::Proof,
    failures::Failures,
    identity::Ground,
    passwords::{Fault, Passwords, Proven},
    tokens::{Token, Tokens, is_like_token},
};
use crate::{
    clock::Clock,
    config::AuthConfig,
    metrics::LoginCounters,
    quota::{Meter, Network, Rate},
};

pub use super::{
    identity::{Credentials, Denied, Identity, Method},
    tokens::Expiry,
};

/// Decides who clients are. One for all listeners.
pub struct Login {
    clock: Clock,
    failure_delay: Duration,
    failures: Arc<Failures>,
    counters: Arc<LoginCounters>,
    /// Refusals that the log told of.
    told: Mutex<Meter>,
    /// `None`: no users are configured.
    passwords: Option<Passwords>,
    /// `None`: no tokens are configured.
    tokens: Option<Tokens>,
}

/// How many refusals the log tells of, so that whoever guesses does not fill it.
const TOLD_PER_MINUTE: u64 = 10;

/// Why nobody can be known.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A file of users or keys.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system gives no thread or no random bytes.
    #[error("cannot check passwords: {0}")]
    System(io::Error),
}

impl Login {
    /// Reads users and keys, and starts the threads that check passwords.
    ///
    /// # Errors
    ///
    /// A [`LoginError`], which names the file, and the line where there is one.
    pub fn open(config: &AuthConfig, clock: Clock) -> Result<Self, LoginError> {
        let of_users = Rate::every(config.user_failure_every, config.user_failures_at_once);
        let of_addresses = Rate::every(config.address_failure_every, config.address_failures_at_once);
        let failures = Arc::new(Failures::new(of_users, of_addresses));
        let counters = Arc::new(LoginCounters::default());
        let passwords = config.users.clone();
        let passwords = passwords.map(|path| Passwords::open(path, config, failures.clone(), counters.clone()));
        let tokens = config.tokens.clone().map(|config| Tokens::open(config, clock.clone()));
        Ok(Self {
            clock,
            failure_delay: config.failure_delay,
            failures,
            counters,
            told: Mutex::new(Meter::new(Instant::now())),
            passwords: passwords.transpose()?,
            tokens: tokens.transpose()?,
        })
    }

    /// Reads users and keys again. Blocks while it reads. Ask [`Self::still_valid`] of those who are connected then.
    ///
    /// Returns what is wrong with each file that cannot be used; what was read of it before stays.
    #[must_use]
    pub fn reload(&self) -> Vec<FileError> {
        let users = self.passwords.as_ref().map_or(Ok(()), Passwords::reload);
        let keys = self.tokens.as_ref().map_or(Ok(()), Tokens::reload);
        [users, keys].into_iter().filter_map(Result::err).collect()
    }

    /// Finds out who the client at `address` is. `anonymous`: the client id to call it by if its listener takes clients
    /// that are not known.
    ///
    /// A refusal takes `failure_delay`. Dropping the future gives the login up.
    ///
    /// # Errors
    ///
    /// [`Denied`], for the client.
    pub async fn identify(
        &self,
        address: IpAddr,
        certificate: &Proof,
        credentials: Credentials<'_>,
        anonymous: Option<&str>,
    ) -> Result<Identity, Denied> {
        let came = Instant::now();
        let known = self.known(address.into(), certificate, credentials, anonymous).await;
        let denied = match known {
            Ok(identity) => return Ok(identity),
            Err(Denied::Missing) => return Err(Denied::Missing), // nothing was tried, so there is nothing to learn
            Err(denied) => denied,
        };
        self.note(address, denied, None);
        tokio::time::sleep_until((came + self.failure_delay).into()).await;
        Err(denied)
    }

    /// Counts a refusal, and tells the log: as much of it as somebody may read, the rest at the level `debug`.
    pub(super) fn note(&self, address: IpAddr, denied: Denied, principal: Option<&Principal>) {
        self.counters.of(denied).add(1);
        let principal = principal.map(tracing::field::display);
        match self.told.lock().take(Rate::per_minute(TOLD_PER_MINUTE), Instant::now()) {
            Ok(()) => tracing::info!(%address, principal, %denied, "a login was refused"),
            Err(_) => tracing::debug!(%address, principal, %denied, "a login was refused"),
        }
    }

    /// Whether a client that was let in as `identity` may stay: its user is there with the same password, its token's
    /// key is there, its token has not expired.
    #[must_use]
    pub fn still_valid(&self, identity: &Identity) -> bool {
        let grounded = match &identity.ground {
            Ground::None => true,
            Ground::User(hash) => self.passwords.as_ref().is_some_and(|users| users.has(&identity.principal, hash)),
            Ground::Key(key) => self.tokens.as_ref().is_some_and(|tokens| tokens.has(key)),
        };
        grounded && identity.until.is_none_or(|until| !until.is_past(&self.clock, Instant::now()))
    }

    /// Whether a client that was once let in as `identity` may come back: if it is a user, there is still one of this
    /// name.
    #[must_use]
    pub fn still_known(&self, identity: &Identity) -> bool {
        match &identity.ground {
            Ground::None | Ground::Key(_) => true,
            Ground::User(_) => self.passwords.as_ref().is_some_and(|users| users.knows(&identity.principal)),
        }
    }

    /// What was checked and refused so far.
    #[must_use]
    pub fn counters(&self) -> &LoginCounters {
        &self.counters
    }

    async fn known(
        &self,
        from: Network,
        certificate: &Proof,
        credentials: Credentials<'_>,
        anonymous: Option<&str>,
    ) -> Result<Identity, Denied> {
        match certificate {
            Proof::Certificate(principal) => return Ok(Identity::lasting(principal.clone(), Method::Certificate)),
            Proof::Unusable => return Err(Denied::Missing),
            Proof::None => {}
        }
        let ignored = anonymous.is_some() && self.passwords.is_none() && self.tokens.is_none();
        match (credentials, anonymous) {
            (Credentials::Password { user, password }, _) if !ignored => match self.token_in(password) {
                Some((tokens, token)) => self.by_token(from, tokens, token),
                None => self.by_password(from, user, password).await,
            },
            (Credentials::Bearer(token), _) if !ignored => match &self.tokens {
                Some(tokens) => self.by_token(from, tokens, token),
                None => Err(Denied::Bad),
            },
            (_, Some(client)) => Ok(Identity::lasting(Principal::anonymous(client), Method::Anonymous)),
            (_, None) => Err(Denied::Missing),
        }
    }

    /// The token that a password is, while tokens are taken.
    fn token_in<'a>(&self, password: &'a [u8]) -> Option<(&Tokens, &'a str)> {
        let tokens = self.tokens.as_ref()?;
        let token = std::str::from_utf8(password).ok().filter(|text| is_like_token(text))?;
        Some((tokens, token))
    }

    async fn by_password(&self, from: Network, user: &str, password: &[u8]) -> Result<Identity, Denied> {
        let Some(passwords) = &self.passwords else { return Err(Denied::Bad) };
        let Proven { user, hash } = passwords.verify(from, user, password).await?;
        Ok(Identity { principal: user, method: Method::Password, until: None, ground: Ground::User(hash) })
    }

    /// A token is no guess, so one that is right is taken whatever else fails at its address. One that is wrong counts
    /// as a user of its own: a device that goes on with the same expired one does not use up what its neighbours
    /// may.
    fn by_token(&self, from: Network, tokens: &Tokens, token: &str) -> Result<Identity, Denied> {
        let now = Instant::now();
        let own = format!("token/{:?}", digest::digest(&digest::SHA256, token.as_bytes())); // no user is called that
        self.failures.check_user(from, &own, now)?;
        match tokens.verify(token) {
            Ok(Token { principal, until, key }) => {
                Ok(Identity { principal, method: Method::Token, until: Some(until), ground: Ground::Key(key) })
            }
            Err(fault) => {
                tracing::debug!(%fault, "a token is not taken");
                self.failures.check_address(from, now)?;
                self.failures.count(from, &own, now);
                Err(Denied::Bad)
            }
        }
    }
}

impl LoginCounters {
    fn of(&self, denied: Denied) -> &crate::metrics::Counter {
        match denied {
            Denied::Bad | Denied::Missing => &self.refused,
            Denied::NoRole => &self.without_role,
            Denied::TooMany { .. } => &self.limited,
            Denied::Busy => &self.busy,
        }
    }
}

impl From<Fault> for LoginError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::File(error) => Self::File(error),
            Fault::System(error) => Self::System(error),
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
