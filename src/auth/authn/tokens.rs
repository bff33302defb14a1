//! Bearer tokens: JSON Web Tokens of one issuer, signed with a pinned algorithm, for this audience.
//!
//! A token is verified on each login, in less time than the TLS handshake of its connection. It must have a principal
//! in the configured claim, `exp`, `aud`, and `iss` if one is configured; `nbf` is checked if present. Times are
//! compared with the wall clock, with a leeway. The session that a token opened ends with the token ([`Expiry`]).

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{Header, Validation, decode, decode_header};
use parking_lot::RwLock;
use serde_json::{Map, Value};

use crate::auth::{
    FileError, Principal,
    authn::{
        ring_provider,
        token_keys::{TokenKey, TokenKeys},
    },
};
use crate::{clock::Clock, config::TokenConfig, shadow::Timestamp};

/// Most bytes of a token.
pub(in crate::auth) const TOKEN_BYTES_MAX: usize = 8 * 1_024;

/// The limit for the end of a session; no machine runs that long.
const AHEAD_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The end of a session that a token opened. Either clock ends it, so that neither a wall clock that is set back nor a
/// suspended machine prolongs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The end by the wall clock: the token's `exp` plus the leeway.
    pub wall: Timestamp,
    /// The end by the monotonic clock, computed when the token was verified.
    pub deadline: Instant,
}

/// The verification of tokens.
pub(in crate::auth) struct Tokens {
    config: TokenConfig,
    clock: Clock,
    /// The keys; replaced as a whole by [`Self::reload`].
    keys: RwLock<Arc<TokenKeys>>,
}

/// A verified token.
pub(in crate::auth) struct Token {
    pub(in crate::auth) principal: Principal,
    pub(in crate::auth) until: Expiry,
    /// The key that signed it.
    pub(in crate::auth) key: Arc<TokenKey>,
}

/// The reason for refusing a token, for the log only. The client does not learn it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::auth) enum TokenFault {
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
    /// Returns the expiry at `end`, a time since 1970.
    pub(in crate::auth) fn at(end: Duration, clock: &Clock) -> Self {
        let left = end.saturating_sub(Duration::from_millis(clock.now_milliseconds()));
        Self { wall: Timestamp(end.as_secs()), deadline: Instant::now() + left.min(AHEAD_MAX) }
    }

    /// Returns true if the time is over.
    #[must_use]
    pub fn is_past(&self, clock: &Clock, now: Instant) -> bool {
        clock.now() >= self.wall || now >= self.deadline
    }
}

impl Tokens {
    /// Reads the keys.
    pub(in crate::auth) fn open(config: TokenConfig, clock: Clock) -> Result<Self, FileError> {
        ring_provider::install();
        let keys = RwLock::new(Arc::new(read(&config)?));
        Ok(Self { config, clock, keys })
    }

    /// Reads the keys again; if that fails, the old keys stay.
    pub(in crate::auth) fn reload(&self) -> Result<(), FileError> {
        let keys = Arc::new(read(&self.config)?);
        *self.keys.write() = keys;
        Ok(())
    }

    /// Returns a SHA-256 of the keys in use.
    pub(in crate::auth) fn digest(&self) -> [u8; 32] {
        self.keys.read().digest()
    }

    /// Returns true if `key` is still in use.
    pub(in crate::auth) fn has(&self, key: &TokenKey) -> bool {
        self.keys.read().has(key)
    }

    /// Returns the key with this fingerprint, if it is in use.
    pub(in crate::auth) fn key(&self, fingerprint: &[u8]) -> Option<Arc<TokenKey>> {
        self.keys.read().get(fingerprint).cloned()
    }

    /// Verifies a token.
    pub(in crate::auth) fn verify(&self, token: &str) -> Result<Token, TokenFault> {
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

    /// Returns the checks that the library performs besides the signature. Time is excluded, since the library would
    /// read the system clock.
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

    /// Checks that the token is valid now, and returns its end.
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
        Ok(Expiry::at(end, &self.clock))
    }
}

/// Returns true if `text` looks like a JSON Web Token: three base64url parts, the first the beginning of an object.
pub(in crate::auth) fn is_like_token(text: &str) -> bool {
    let part = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    // `{"` in base64url; spaces or line ends could follow `{`, but hardly ever do.
    text.starts_with("ey") && text.split('.').count() == 3 && text.split('.').all(part)
}

fn read(config: &TokenConfig) -> Result<TokenKeys, FileError> {
    let path: &Path = &config.keys;
    let keys = TokenKeys::read(path, &config.algorithms)?;
    tracing::info!(path = %path.display(), keys = keys.count(), "token keys read");
    Ok(keys)
}

/// Parses a `NumericDate` (RFC 7519, 2): seconds since 1970; a fraction is dropped.
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
pub(in crate::auth) mod signer;
#[cfg(test)]
mod tests;
