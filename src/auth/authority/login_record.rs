//! The form in which the store keeps the login of a session.
//!
//! A record refers to the entry of a file on which the login depends, as [`CredentialOrigin`] does. At the next start,
//! [`Authority::restore`] looks for that entry in the present files. If it is missing or has changed, the login was
//! revoked meanwhile. [`Authority::review_absent`] then decides on everything that a review at SIGHUP decides on: the
//! trust in a certificate and its expiry, bans, roles, and whether the listener accepts anonymous clients.
//!
//! *Invariant:* nobody can log in with a record. It holds digests of password hashes and of keys, never these
//! themselves. A password hash contains random salt, and a secret whose digest is kept has at least 20 bytes, so neither
//! can be guessed from its digest.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ring::digest;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::auth::{
    AuthContext, Authority, Expiry, Method, PasswordHash, Principal,
    authn::{
        certificate::VerifiedCertificate,
        identity::{CredentialOrigin, Identity},
    },
};

/// The login of a session, for the store.
///
/// Fields of newer versions are ignored. A method of a newer version is refused, because its login cannot be reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRecord {
    /// The name of the principal; `anonymous/…` for an anonymous client.
    principal: Arc<str>,
    /// The name of the listener.
    listener: Arc<str>,
    /// The client id.
    client: Arc<str>,
    /// The method, with the entry of a file on which the login depends.
    method: MethodRecord,
}

impl LoginRecord {
    /// Returns the name of the principal.
    #[must_use]
    pub fn principal(&self) -> &Arc<str> {
        &self.principal
    }
}

/// A method of authentication and the origin of the credentials. Bytes are written in base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MethodRecord {
    /// None.
    Anonymous,
    /// A client certificate. Its expiry is read from it.
    Certificate {
        /// The certificates in DER, the client's own first.
        chain: Vec<String>,
    },
    /// A user name and a password.
    Password {
        /// The SHA-256 digest of the password hash in the users file.
        hash: String,
    },
    /// A token.
    Token {
        /// The SHA-256 digest of the key and its id.
        key: String,
        /// The end of the authentication, in seconds since 1970; absent if it does not expire.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    },
    /// An AWS access key.
    AccessKey {
        /// The id of the key.
        id: String,
        /// The SHA-256 digest of the id and the secret; absent if the secret is too short for it. Then the login cannot
        /// be restored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

impl AuthContext {
    /// Returns the record of the login.
    #[must_use]
    pub fn record(&self) -> LoginRecord {
        LoginRecord {
            principal: self.identity.principal.name().clone(),
            listener: self.listener.clone(),
            client: self.client.clone(),
            method: MethodRecord::of(&self.identity),
        }
    }
}

impl Authority {
    /// Returns the login of `record` if the entry on which it depends is in the present files, unchanged. Its rights
    /// must be reviewed afterwards ([`Authority::review_absent`]), which also verifies a certificate.
    ///
    /// `None` if the login was revoked: its listener, its user or its key is gone, the user has another password, or the
    /// key was replaced.
    #[must_use]
    pub fn restore(&self, record: &LoginRecord) -> Option<Arc<AuthContext>> {
        if !self.state.rules().listeners.contains_key(&*record.listener) {
            return None;
        }
        let identity = self.restored_identity(record)?;
        let (listener, client) = (record.listener.clone(), record.client.clone());
        Some(Arc::new(AuthContext { identity, listener, client }))
    }

    fn restored_identity(&self, record: &LoginRecord) -> Option<Identity> {
        let (login, principal) = (&self.state.login, Principal::of_known(&record.principal));
        let identity = match &record.method {
            MethodRecord::Anonymous => Identity::lasting(principal.clone(), Method::Anonymous),
            MethodRecord::Certificate { chain } => {
                let trust = self.certificate_trust.get(&*record.listener)?.clone();
                let chain = chain.iter().map(|own| Some(CertificateDer::from(decoded(own)?))).collect::<Option<_>>()?;
                Identity::by_certificate(Arc::new(VerifiedCertificate::restored(chain, trust)?), login.clock())
            }
            MethodRecord::Password { hash } => {
                let present = login.hash_of(&principal).filter(|present| digest_of(present) == *hash)?;
                let origin = CredentialOrigin::User(present);
                Identity { origin, ..Identity::lasting(principal.clone(), Method::Password) }
            }
            MethodRecord::Token { key, until } => {
                let origin = CredentialOrigin::Key(login.token_key(&decoded(key)?)?);
                let until = until.map(|end| Expiry::at(Duration::from_secs(end), login.clock()));
                Identity { until, origin, ..Identity::lasting(principal.clone(), Method::Token) }
            }
            MethodRecord::AccessKey { id, key } => {
                let (keys, recorded) = (self.access_keys(), decoded(key.as_deref()?)?);
                let present = keys.get(id).filter(|key| key.digest().is_some_and(|now| now.as_ref() == recorded))?;
                Identity::by_access_key(present)
            }
        };
        // The names of anonymous clients are their own choice, so no other method has them.
        let is_named_so =
            identity.principal == principal && principal.is_anonymous() == (identity.method == Method::Anonymous);
        is_named_so.then_some(identity)
    }
}

impl MethodRecord {
    fn of(identity: &Identity) -> Self {
        match &identity.origin {
            CredentialOrigin::None => Self::Anonymous,
            CredentialOrigin::Certificate(certificate) => {
                Self::Certificate { chain: certificate.chain().iter().map(|own| BASE64.encode(own)).collect() }
            }
            CredentialOrigin::User(hash) => Self::Password { hash: digest_of(hash) },
            CredentialOrigin::Key(key) => {
                let until = identity.until.map(|until| until.wall.0);
                Self::Token { key: BASE64.encode(key.fingerprint()), until }
            }
            CredentialOrigin::AccessKey(key) => {
                Self::AccessKey { id: key.id.clone(), key: key.digest().map(|digest| BASE64.encode(digest)) }
            }
        }
    }
}

/// Returns the digest of a password hash, which contains random salt.
fn digest_of(hash: &PasswordHash) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, hash.to_string().as_bytes()))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests;
