//! The section `[auth]`: authentication of clients.

use std::{path::PathBuf, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::{
    derived,
    error::UnlocatedError,
    limits as hard,
    raw::RawAuth,
    section::{DAY, MINUTE, Section, checked, given},
    units::Text,
};
use crate::rate::Rate;

/// The section `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// The users file; `None` for no users.
    pub users: Option<PathBuf>,
    /// The number of hashing threads.
    pub password_checks_at_once: usize,
    /// Most password checks in their queue.
    pub password_checks_waiting: usize,
    /// The lifetime of a verified password after the last login with it.
    pub password_cache_age: Duration,
    /// The time after which a failed login is answered.
    pub failure_delay: Duration,
    /// The rate of failed logins per user and address.
    pub user_failures: Rate,
    /// The rate of failed logins per address.
    pub address_failures: Rate,
    /// The verification of tokens; `None` to refuse tokens.
    pub tokens: Option<TokenConfig>,
    /// The file of AWS access keys; `None` for no keys.
    pub aws_keys: Option<PathBuf>,
    /// The file of banned principals; `None` for none.
    pub banned: Option<PathBuf>,
}

/// The `token_…` keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// The file of the keys that verify tokens.
    pub keys: PathBuf,
    /// The allowed signature algorithms: at least one, all for a secret or all for a public key.
    pub algorithms: Vec<Algorithm>,
    /// The required `aud`.
    pub audience: String,
    /// The required `iss`; `None` for any.
    pub issuer: Option<String>,
    /// The claim with the name of the principal.
    pub claim: String,
    /// The allowed difference to the issuer's clock, in whole seconds.
    pub leeway: Duration,
}

pub(super) fn check(raw: &RawAuth) -> Result<AuthConfig, UnlocatedError> {
    let at = Section("auth".into());
    Ok(AuthConfig {
        users: given(&raw.users),
        password_checks_at_once: derived::password_checks(),
        password_checks_waiting: derived::PASSWORD_CHECKS_WAITING,
        password_cache_age: checked!(at.duration(raw.password_cache_age, 0..=365 * DAY)),
        failure_delay: checked!(at.duration(raw.failure_delay, 0..=MINUTE)),
        user_failures: checked!(at.rate(raw.login_failures, hard::LOGIN_FAILURES_RATE)),
        address_failures: derived::address_failures(raw.login_failures),
        tokens: tokens(&at, raw)?,
        aws_keys: given(&raw.aws_keys),
        banned: given(&raw.banned),
    })
}

fn tokens(at: &Section, raw: &RawAuth) -> Result<Option<TokenConfig>, UnlocatedError> {
    let algorithms = algorithms(at, &raw.token_algorithms)?;
    let claim = at.filled("token_claim", &raw.token_claim)?;
    let (audience, issuer) = (given(&raw.token_audience), given(&raw.token_issuer));
    match (given(&raw.token_keys), audience) {
        (None, None) if issuer.is_none() => Ok(None),
        (None, None) => Err(at.invalid("token_issuer", "is set, but token_keys is not".into())),
        (None, Some(_)) => Err(at.invalid("token_audience", "is set, but token_keys is not".into())),
        // Without it, a token for another service of the same issuer would be accepted.
        (Some(_), None) => Err(at.invalid("token_audience", "is empty, but token_keys is not".into())),
        (Some(keys), Some(audience)) => {
            let leeway = derived::TOKEN_LEEWAY;
            Ok(Some(TokenConfig { keys, algorithms, audience, issuer, claim, leeway }))
        }
    }
}

fn algorithms(at: &Section, text: &Text) -> Result<Vec<Algorithm>, UnlocatedError> {
    let mut algorithms = Vec::new();
    for name in text.0.split(',').map(str::trim) {
        let algorithm = name.parse::<Algorithm>().map_err(|_| {
            let known = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384 and HS512";
            at.invalid("token_algorithms", format!("has {name:?}, but may have only {known}"))
        })?;
        algorithms.push(algorithm);
    }
    let secret = |algorithm: &Algorithm| algorithm.family() == AlgorithmFamily::Hmac;
    if algorithms.iter().any(secret) && !algorithms.iter().all(secret) {
        let detail = format!("is {:?}, but HS256, HS384 and HS512 cannot be mixed with others", text.0);
        return Err(at.invalid("token_algorithms", detail));
    }
    Ok(algorithms)
}
