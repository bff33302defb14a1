//! A signer of valid and invalid tokens for tests, independent of the library that verifies them.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

/// The secret of the HMAC.
pub(in crate::auth) const SECRET: &str = "the secret that the tests sign their tokens with";

/// Returns a token with these claims, signed with HS256 and [`SECRET`].
pub(in crate::auth) fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET.as_bytes())
}

/// Returns a token with an arbitrary header, signed with HS256.
pub(in crate::auth) fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
