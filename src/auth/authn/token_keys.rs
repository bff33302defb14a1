//! The keys that verify tokens, from the file `token_keys`.
//!
//! The file holds one public key in PEM, a JWK set or, for the HMAC algorithms, a bare secret. Each key is bound to its
//! algorithms when it is read: those that the configuration allows and that fit its type. So a token cannot choose its
//! algorithm or the interpretation of a key; it only names a key by `kid`.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Header,
    jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse},
};
use ring::digest;
use sha2::{Digest as _, Sha256};

use crate::auth::FileError;
use crate::private_file;

/// Most bytes of the file.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Most keys of a set, usable or not.
const KEYS_MAX: usize = 256;
/// Fewest bytes of an RSA key: 2,048 bits.
const RSA_BYTES_MIN: usize = 256;

/// At least one key. If there are several, each has a unique id.
pub(in crate::auth) struct TokenKeys(Vec<Arc<TokenKey>>);

/// A key with the algorithms it may verify.
pub(in crate::auth) struct TokenKey {
    id: Option<String>,
    pub(in crate::auth) key: DecodingKey,
    /// The algorithms; at least one.
    algorithms: Vec<Algorithm>,
    /// A digest of the key and its id, by which it is recognized after a reload or a restart. Another way to compute it
    /// ends the sessions that tokens opened.
    fingerprint: Vec<u8>,
}

impl TokenKeys {
    /// Reads the file at `path`, for tokens signed with one of `algorithms`.
    pub(in crate::auth) fn read(path: &Path, algorithms: &[Algorithm]) -> Result<Self, FileError> {
        let refuse = |detail: &dyn std::fmt::Display| FileError::whole(path, detail);
        if algorithms.iter().all(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
            private_file::check(path).map_err(|error| refuse(&error))?;
        }
        let content = fs::read(path).map_err(|error| refuse(&error))?;
        if content.len() > FILE_BYTES_MAX {
            return Err(refuse(&"is larger than 1 MiB"));
        }
        let keys = if content.starts_with(b"-----BEGIN ") {
            vec![TokenKey::new(None, pem(&content).map_err(|detail| refuse(&detail))?, algorithms)]
        } else if content.trim_ascii_start().starts_with(b"{") {
            set(path, &content, algorithms)?
        } else if algorithms.iter().all(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
            let secret = content.strip_suffix(b"\n").unwrap_or(&content);
            vec![TokenKey::new(None, DecodingKey::from_secret(secret), algorithms)]
        } else {
            return Err(refuse(&"holds neither a public key in PEM nor a JWK set"));
        };
        Self::usable(keys, algorithms).map_err(|detail| refuse(&detail))
    }

    /// Returns the key for a token with this header, if it may be used.
    pub(in crate::auth) fn select(&self, header: &Header) -> Option<&Arc<TokenKey>> {
        let found = match self.0.as_slice() {
            [key] if key.id.is_none() || header.kid.is_none() => Some(key),
            keys => keys.iter().find(|key| key.id.is_some() && key.id == header.kid),
        };
        found.filter(|key| key.algorithms.contains(&header.alg))
    }

    /// Returns true if `key` is in the set.
    pub(in crate::auth) fn has(&self, key: &TokenKey) -> bool {
        self.get(&key.fingerprint).is_some()
    }

    /// Returns the key with this fingerprint.
    pub(in crate::auth) fn get(&self, fingerprint: &[u8]) -> Option<&Arc<TokenKey>> {
        self.0.iter().find(|key| key.fingerprint == fingerprint)
    }

    /// Returns a SHA-256 of the keys, in their order.
    pub(in crate::auth) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        self.0.iter().for_each(|key| digest.update(&key.fingerprint));
        digest.finalize().into()
    }

    /// Returns the number of keys.
    pub(in crate::auth) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the `keys` that fit some of `algorithms`.
    fn usable(mut keys: Vec<TokenKey>, algorithms: &[Algorithm]) -> Result<Self, String> {
        keys.retain(|key| !key.algorithms.is_empty());
        let mut ids = HashSet::new();
        let clash = keys.iter().find(|key| !ids.insert(&key.id));
        match (keys.len(), clash) {
            (0, _) => Err(format!("holds no key that can be used with {algorithms:?}{}", least(algorithms))),
            (_, Some(TokenKey { id: Some(id), .. })) => Err(format!("holds two keys whose kid is {id:?}")),
            (2.., _) if ids.contains(&None) => Err("holds several keys, of which one has no kid".to_owned()),
            _ => Ok(Self(keys.into_iter().map(Arc::new).collect())),
        }
    }
}

impl TokenKey {
    fn new(id: Option<String>, key: DecodingKey, algorithms: &[Algorithm]) -> Self {
        let algorithms = algorithms.iter().copied().filter(|algorithm| fits(&key, *algorithm)).collect();
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [id.as_deref().unwrap_or_default().as_bytes()].into_iter().chain(parts(&key)) {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let fingerprint = context.finish().as_ref().to_vec();
        Self { id, key, algorithms, fingerprint }
    }

    /// Returns a digest of the key and its id.
    pub(in crate::auth) fn fingerprint(&self) -> &[u8] {
        &self.fingerprint
    }
}

/// Parses a public key in PEM.
fn pem(content: &[u8]) -> Result<DecodingKey, &'static str> {
    let text = std::str::from_utf8(content).map_err(|_| "is not text")?;
    let mut labels = text.lines().filter_map(|line| line.strip_prefix("-----BEGIN ")?.trim_end().strip_suffix("-----"));
    match (labels.next(), labels.next()) {
        (Some("PUBLIC KEY" | "RSA PUBLIC KEY"), None) => {}
        (_, Some(_)) => return Err("holds more than one PEM block; a JWK set can have several keys"),
        (Some(label), None) if label.contains("PRIVATE") => {
            return Err("holds a private key; give the public key, which is all it takes to verify tokens");
        }
        _ => return Err("holds no public key: its PEM block must be a PUBLIC KEY"),
    }
    let readers = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
    readers
        .into_iter()
        .find_map(|read| read(content).ok())
        .ok_or("holds a public key that is none of RSA, EC and Ed25519")
}

/// Returns the signature keys of a JWK set.
fn set(path: &Path, content: &[u8], algorithms: &[Algorithm]) -> Result<Vec<TokenKey>, FileError> {
    let set: JwkSet = serde_json::from_slice(content)
        .map_err(|error| FileError::line(path, error.line().max(1), format!("is not a JWK set: {error}")))?;
    if set.keys.len() > KEYS_MAX {
        return Err(FileError::whole(path, format!("holds {} keys, but may hold at most {KEYS_MAX}", set.keys.len())));
    }
    let mut keys = Vec::new();
    for jwk in set.keys.into_iter().filter(is_for_signatures) {
        let allowed = algorithms.iter().copied().filter(|algorithm| names(&jwk, *algorithm)).collect::<Vec<_>>();
        // A key of an unknown type or for another algorithm belongs to another service.
        if let Ok(key) = DecodingKey::from_jwk(&jwk) {
            keys.push(TokenKey::new(jwk.common.key_id, key, &allowed));
        }
    }
    Ok(keys)
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let by_use = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let operations = jwk.common.key_operations.as_ref();
    by_use && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

/// Returns true if the `alg` of the key is `algorithm` or missing.
fn names(jwk: &Jwk, algorithm: Algorithm) -> bool {
    jwk.common.key_algorithm.is_none_or(|named| named.to_string().parse() == Ok(algorithm))
}

/// Returns true if the key has the type and the strength that the algorithm requires.
fn fits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let length = parts(key).next().map_or(0, <[u8]>::len);
    key.family() == algorithm.family()
        && match algorithm {
            // RFC 7518, 3.2: a key at least as long as the hash.
            Algorithm::HS256 => length >= 32,
            Algorithm::HS384 => length >= 48,
            Algorithm::HS512 => length >= 64,
            // A point: 4, x, y.
            Algorithm::ES256 => length == 65,
            Algorithm::ES384 => length == 97,
            Algorithm::EdDSA => length == 32,
            _ => length >= RSA_BYTES_MIN,
        }
}

fn parts(key: &DecodingKey) -> impl Iterator<Item = &[u8]> {
    let (first, second) = match key.kind() {
        DecodingKeyKind::SecretOrDer(key) => (key, None),
        DecodingKeyKind::RsaModulusExponent { n, e } => (n, Some(e)),
    };
    [Some(first), second].into_iter().flatten().map(Vec::as_slice)
}

/// Returns the requirements on keys that are easily missed.
fn least(algorithms: &[Algorithm]) -> &'static str {
    match algorithms.first().map(|algorithm| algorithm.family()) {
        Some(AlgorithmFamily::Hmac) => ": a secret must be as long as the hash, 32, 48 or 64 bytes",
        Some(AlgorithmFamily::Rsa) => ": an RSA key must have at least 2,048 bits",
        _ => "",
    }
}
