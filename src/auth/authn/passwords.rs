//! Users and the verification of their passwords, with bounded cost.
//!
//! The checks run in this order. A login that cannot succeed (too long, no name) is refused as wrong. A password that
//! was verified recently succeeds, whatever failed in the meantime. A client over a limit of failures is refused.
//! Otherwise the password is hashed by [`PasswordHashPool`], which repeats the limit and cache checks when the job starts. An
//! unknown user is checked against a hash that nothing matches, so that it cannot be distinguished from a wrong
//! password.

use std::{io, path::PathBuf, sync::Arc, time::Instant};

use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::{admission::Network, config::AuthConfig, observability::metrics::LoginCounters};
use crate::{
    admission::login_throttle::LoginThrottle,
    auth::{
        FileError, PASSWORD_BYTES_MAX, PasswordHash, Principal,
        authn::{
            hash_pool::{PasswordCheck, PasswordHashPool, PasswordVerdict},
            identity::AuthenticationError,
            password::Memory,
            password_cache::PasswordCache,
            users::Users,
        },
    },
};

/// The users and the verification of their passwords.
pub(in crate::auth) struct Passwords {
    path: PathBuf,
    /// The users; replaced as a whole by [`Self::reload`].
    users: RwLock<Arc<Users>>,
    context: Arc<HashContext>,
    checks: PasswordHashPool,
}

/// The state used by the threads of [`PasswordHashPool`].
struct HashContext {
    verified: PasswordCache,
    failures: Arc<LoginThrottle>,
    counters: Arc<LoginCounters>,
}

/// A user whose password was verified.
pub(in crate::auth) struct VerifiedUser {
    pub(in crate::auth) user: Principal,
    /// The hash that matched.
    pub(in crate::auth) hash: Arc<PasswordHash>,
}

/// An error that prevents the verification of passwords.
#[derive(Debug)]
pub(in crate::auth) enum PasswordsError {
    /// An error in the users file.
    File(FileError),
    /// An error of the operating system.
    System(io::Error),
}

impl Passwords {
    /// Reads the users file at `path` and starts the hashing threads.
    pub(in crate::auth) fn open(
        path: PathBuf,
        config: &AuthConfig,
        failures: Arc<LoginThrottle>,
        counters: Arc<LoginCounters>,
    ) -> Result<Self, PasswordsError> {
        let users = Users::read(&path).map_err(PasswordsError::File)?;
        tracing::info!(path = %path.display(), users = users.count(), "users read");
        let verified = PasswordCache::new(config.password_cache_age)
            .ok_or_else(|| PasswordsError::System(io::Error::other("the system gives no random bytes")))?;
        let context = Arc::new(HashContext { verified, failures, counters });
        let examine = {
            let context = context.clone();
            move |check: &PasswordCheck, memory: &mut Memory| context.examine(check, memory)
        };
        let checks = PasswordHashPool::start(config.password_checks_at_once, config.password_checks_waiting, examine)
            .map_err(PasswordsError::System)?;
        Ok(Self { path, users: RwLock::new(Arc::new(users)), context, checks })
    }

    /// Returns at most `limit` users after `after` whose names begin with `prefix`, in their order.
    pub(in crate::auth) fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Principal> {
        self.users.read().page(prefix, after, limit)
    }

    /// Reads the users file again; if that fails, the old users stay.
    pub(in crate::auth) fn reload(&self) -> Result<(), FileError> {
        let users = Arc::new(Users::read(&self.path)?);
        tracing::info!(path = %self.path.display(), users = users.count(), "users read");
        *self.users.write() = users.clone();
        self.context.verified.sweep(|user| users.get(user).is_some(), Instant::now());
        Ok(())
    }

    /// Returns the SHA-256 of the users file that is in use.
    pub(in crate::auth) fn digest(&self) -> [u8; 32] {
        self.users.read().digest()
    }

    /// Returns true if `user` still has the password with this hash.
    pub(in crate::auth) fn has(&self, user: &Principal, hash: &PasswordHash) -> bool {
        self.users.read().get(user).is_some_and(|now| **now == *hash)
    }

    /// Returns the password hash of `user`.
    pub(in crate::auth) fn hash_of(&self, user: &Principal) -> Option<Arc<PasswordHash>> {
        self.users.read().get(user).cloned()
    }

    /// Verifies a login.
    pub(in crate::auth) async fn verify(
        &self,
        from: Network,
        user: &str,
        password: &[u8],
    ) -> Result<VerifiedUser, AuthenticationError> {
        let now = Instant::now();
        let Some(user) = Principal::named(user).ok().filter(|_| password.len() <= PASSWORD_BYTES_MAX) else {
            self.context.failures.check(from, user, now)?;
            self.context.failures.count(from, user, now);
            return Err(AuthenticationError::Bad);
        };
        let users = self.users.read().clone();
        let known = users.get(&user);
        let hash = known.unwrap_or_else(|| users.imaginary()).clone();
        let tag = self.context.verified.tag(user.name(), password, &hash);
        if known.is_some() && self.context.verified.holds(&user, &tag, now) {
            return Ok(VerifiedUser { user, hash });
        }
        self.context.failures.check(from, user.name(), now)?;
        let password = Zeroizing::new(password.to_vec());
        let check = PasswordCheck { from, user: user.clone(), password, hash: hash.clone(), tag };
        match self.checks.verdict(check).await {
            // The user may have been removed while the check was queued.
            Ok(PasswordVerdict::Right) if self.has(&user, &hash) => Ok(VerifiedUser { user, hash }),
            Ok(PasswordVerdict::Right | PasswordVerdict::Wrong) => {
                tracing::debug!(%user, known = known.is_some(), "a password is wrong");
                Err(AuthenticationError::Bad)
            }
            Ok(PasswordVerdict::TooMany(retry_after)) => Err(AuthenticationError::TooMany { retry_after }),
            Err(_) => Err(AuthenticationError::Busy),
        }
    }
}

impl HashContext {
    /// Runs one check on a hashing thread.
    fn examine(&self, check: &PasswordCheck, memory: &mut Memory) -> PasswordVerdict {
        let (user, now) = (&check.user, Instant::now());
        if self.verified.holds(user, &check.tag, now) {
            return PasswordVerdict::Right;
        }
        if let Err(retry_after) = self.failures.check(check.from, user.name(), now) {
            return PasswordVerdict::TooMany(retry_after);
        }
        self.counters.password_hashes.add(1);
        if check.hash.matches(&check.password, memory) {
            self.verified.keep(user, check.tag, Instant::now());
            PasswordVerdict::Right
        } else {
            self.failures.count(check.from, user.name(), Instant::now());
            PasswordVerdict::Wrong
        }
    }
}
