//! Bearer tokens: JSON Web Tokens of one issuer, signed with a pinned algorithm, for this audience, for a time.
//!
//! A token proves itself, so it is verified each time, in less than the TLS handshake of its connection takes. What
//! must be in it: a principal in the configured claim, `exp`, `aud`, and `iss` where one is configured; `nbf` counts
//! where it is there. Time is the wall clock's, with a leeway. The session that a token opened ends with it
//! ([`Expiry`]).

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{Header, Validation, decode, decode_header};
use parking_lot::RwLock;
use serde_json::{Map, Value};

use super::{
    FileError, Principal, ring_provider,
    token_keys::{TokenKey, TokenKeys},
};
use crate::{clock::Clock, config::TokenConfig, shadow::Timestamp};

/// The longest token that is looked at.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1_024;

/// The furthest ahead that the end of a session is set; no machine runs that long.
const AHEAD_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// When a session ends that a token opened: as soon as one of the two is over, so that neither a wall clock that is set
/// back nor a machine that slept prolongs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// By the wall clock: the token's `exp` and the leeway.
    pub wall: Timestamp,
    /// By the clock that only goes on, as it looked when the token came.
    pub deadline: Instant,
}

/// What it takes to verify tokens.
pub(super) struct Tokens {
    config: TokenConfig,
    clock: Clock,
    /// Replaced as a whole by [`Self::reload`].
    keys: RwLock<Arc<TokenKeys>>,
}

/// A token that was verified.
pub(super) struct Token {
    pub(super) principal: Principal,
    pub(super) until: Expiry,
    /// The key it was signed with.
    pub(super) key: Arc<TokenKey>,
}

/// Why a token is not taken. For the log; the client is told nothing of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenFault {
    #[error("longer than {TOKEN_BYTES_MAX} bytes")]
    Long,
    #[error("{0}")]
    Refused(String),
    #[error("signed with a key or an algorithm that is not taken")]
    Key,
    #[error("it has header fields that must be understood, and are not")]
    Critical,
    #[error("no '{0}' that can be used")]
    Claim(String),
    #[error("expired")]
    Expired,
    #[error("not valid yet")]
    Early,
}

impl Expiry {
    /// Whether it is over.
    #[must_use]
    pub fn is_past(&self, clock: &Clock, now: Instant) -> bool {
        clock.now() >= self.wall || now >= self.deadline
    }
}

impl Tokens {
    /// Reads the keys.
    pub(super) fn open(config: TokenConfig, clock: Clock) -> Result<Self, FileError> {
        ring_provider::install();
        let keys = RwLock::new(Arc::new(read(&config)?));
        Ok(Self { config, clock, keys })
    }

    /// Reads the keys again; if that fails, they stay as they were.
    pub(super) fn reload(&self) -> Result<(), FileError> {
        let keys = Arc::new(read(&self.config)?);
        *self.keys.write() = keys;
        Ok(())
    }

    /// Whether `key` is still one of those that tokens are verified with.
    pub(super) fn has(&self, key: &TokenKey) -> bool {
        self.keys.read().has(key)
    }

    /// Verifies a token.
    pub(super) fn verify(&self, token: &str) -> Result<Token, TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Long);
        }
        let header = decode_header(token).map_err(refused)?;
        if header.crit.is_some() {
            return Err(TokenFault::Critical); // RFC 7515, 4.1.11
        }
        let key = self.keys.read().select(&header).cloned().ok_or(TokenFault::Key)?;
        let claims: Map<String, Value> = decode(token, &key.key, &self.validation(&header)).map_err(refused)?.claims;
        let until = self.period(&claims)?;
        let name = claims.get(&self.config.claim).and_then(Value::as_str);
        let principal = name.and_then(|name| Principal::named(name).ok());
        let principal = principal.ok_or_else(|| TokenFault::Claim(self.config.claim.clone()))?;
        Ok(Token { principal, until, key })
    }

    /// What the library is to look at besides the signature: all but time, which it would ask the system for.
    fn validation(&self, header: &Header) -> Validation {
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&self.config.audience]);
        let mut required = vec!["aud"];
        if let Some(issuer) = &self.config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation
    }

    /// Checks that the token is valid now, and tells until when it is.
    fn period(&self, claims: &Map<String, Value>) -> Result<Expiry, TokenFault> {
        let (now, leeway) = (Duration::from_millis(self.clock.now_milliseconds()), self.config.leeway);
        let date = |claim: &str| date(claims, claim).map_err(|()| TokenFault::Claim(claim.to_owned()));
        let end = date("exp")?.ok_or_else(|| TokenFault::Claim("exp".to_owned()))?.saturating_add(leeway);
        if end <= now {
            return Err(TokenFault::Expired);
        }
        if date("nbf")?.is_some_and(|begin| begin > now.saturating_add(leeway)) {
            return Err(TokenFault::Early);
        }
        Ok(Expiry { wall: Timestamp(end.as_secs()), deadline: Instant::now() + (end - now).min(AHEAD_MAX) })
    }
}

/// Whether `text` is of the form of a JSON Web Token: three parts in base64url, the first the beginning of an object.
pub(super) fn is_like_token(text: &str) -> bool {
    let part = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    // `{"`, which may be followed by spaces and line ends, but hardly ever is.
    text.starts_with("ey") && text.split('.').count() == 3 && text.split('.').all(part)
}

fn read(config: &TokenConfig) -> Result<TokenKeys, FileError> {
    let path: &Path = &config.keys;
    let keys = TokenKeys::read(path, &config.algorithms)?;
    tracing::info!(path = %path.display(), keys = keys.count(), "keys of tokens");
    Ok(keys)
}

/// A `NumericDate` (RFC 7519, 2): seconds since 1970, perhaps with a fraction, which is dropped.
fn date(claims: &Map<String, Value>, claim: &str) -> Result<Option<Duration>, ()> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_u64().or_else(|| {
        let seconds = value.as_f64()?;
        (0.0..1e18).contains(&seconds).then_some(seconds as u64)
    });
    seconds.map(|seconds| Some(Duration::from_secs(seconds))).ok_or(())
}

fn refused(error: jsonwebtoken::errors::Error) -> TokenFault {
    TokenFault::Refused(error.to_string())
}

#[cfg(test)]
pub(super) mod signer;
#[cfg(test)]
mod tests;
