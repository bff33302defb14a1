//! Authentication of WebSockets by presigned URL: AWS's SDKs for browsers sign the URL of `/mqtt` with SigV4.

use std::{sync::Arc, time::Instant};

use axum::http::request::Parts;

use crate::{
    auth::{AuthContext, Authority},
    clock::Clock,
    http::auth::{
        sessions::SignedIn,
        sigv4::{SignatureError, Signed},
    },
};

/// The access keys for presigned URLs; `None` in tests of the transport.
#[derive(Clone, Default)]
pub(in crate::http) struct UrlKeys(pub(in crate::http) Option<Arc<Authority>>);

impl UrlKeys {
    /// Returns the client that signed the URL of a request to `listener`. Returns `None` if the URL is not signed or
    /// the key is unknown. The client must then authenticate in its CONNECT.
    ///
    /// # Errors
    ///
    /// A [`SignatureError`] if the key is known and the signature is invalid.
    pub(in crate::http) fn signer(
        &self,
        request: &Parts,
        listener: &Arc<str>,
    ) -> Result<Option<SignedIn>, SignatureError> {
        let (Some(authority), Some(signed)) = (&self.0, Signed::presigned(request)) else { return Ok(None) };
        match signed.verify(&[], &authority.access_keys(), Clock::system().now()) {
            Ok(key) => {
                let auth_context = AuthContext::of_access_key(&key, listener.clone(), "".into());
                Ok(Some(SignedIn::by_url(Arc::new(auth_context), Instant::now())))
            }
            Err(SignatureError::UnknownKey) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
