//! Verification of AWS Signature Version 4: a request is signed with the secret of the access key that it names.
//!
//! A signature is in `Authorization`, or in the query of a presigned URL, which states how long it is valid, at most
//! seven days. The signature of a presigned URL covers all its parameters except itself. AWS's clients add
//! `X-Amz-Security-Token` to the URL of a WebSocket after signing it, so that parameter may be left out too.
//!
//! This module is pure: secrets, time and request are arguments. The signature covers method, path, query, the signed
//! headers and the body. All of them must be given as received.

use std::{borrow::Cow, sync::Arc};

use axum::http::request::Parts;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::{
    auth::authn::access_keys::{AccessKey, AccessKeys},
    http::hex::{hex, unhex},
    shadow::Timestamp,
};

/// An unverified signature of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// `None` if the header or URL is malformed.
    parts: Option<SignedParts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SignedParts {
    access_key: String,
    /// `<date>/<region>/<service>/aws4_request`
    scope: String,
    signature: Vec<u8>,
    /// The time of the signature, as sent and parsed.
    date: String,
    time: Timestamp,
    /// Seconds for which the signature is valid.
    valid_seconds: u64,
    /// The canonical request up to the digest of the body; of a URL with a security token, also without the token.
    canonical_heads: Vec<String>,
}

/// The reason that a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header or date is malformed, or a required part is not signed.
    #[error("The Authorization header is not a complete AWS4-HMAC-SHA256 signature")]
    Incomplete,
    /// No principal is mapped to the access key.
    #[error("The access key is unknown")]
    UnknownKey,
    /// The signature is too old, or from the future.
    #[error("The request was signed more than five minutes from now, or its URL has expired")]
    Expired,
    /// The signature differs from that of the key's secret.
    #[error("The signature does not match the request")]
    Mismatch,
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Largest difference between the clocks of client and server, in seconds.
const SKEW_MAX: u64 = 300;

/// All characters except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const RESERVED_BUT_SLASH: &AsciiSet = &RESERVED.remove(b'/');

impl Signed {
    /// Checks that the signature names one of `keys`.
    ///
    /// # Errors
    ///
    /// A [`SignatureError`]. A client with an unknown key may still be accepted as anonymous.
    pub fn claims(&self, keys: &AccessKeys) -> Result<(), SignatureError> {
        self.key(keys).map(|_| ())
    }

    /// Verifies the signature of a request with this body, received at `now`. Returns the key.
    ///
    /// # Errors
    ///
    /// A [`SignatureError`].
    pub fn verify(&self, body: &[u8], keys: &AccessKeys, now: Timestamp) -> Result<Arc<AccessKey>, SignatureError> {
        let (signed, key) = self.key(keys)?;
        if now.0.saturating_add(SKEW_MAX) < signed.time.0 || now.0 > signed.time.0.saturating_add(signed.valid_seconds)
        {
            return Err(SignatureError::Expired);
        }
        let first = format!("AWS4{}", key.secret).into_bytes();
        let signing = signed.scope.split('/').fold(first, |key, part| mac(&key, part).finalize().into_bytes().to_vec());
        let body = hex(&Sha256::digest(body));
        let fits = |head: &String| {
            let digest = hex(&Sha256::digest(format!("{head}\n{body}")));
            let to_sign = format!("{ALGORITHM}\n{}\n{}\n{digest}", signed.date, signed.scope);
            mac(&signing, &to_sign).verify_slice(&signed.signature).is_ok()
        };
        if signed.canonical_heads.iter().any(fits) { Ok(key.clone()) } else { Err(SignatureError::Mismatch) }
    }

    fn key<'k>(&self, keys: &'k AccessKeys) -> Result<(&SignedParts, &'k Arc<AccessKey>), SignatureError> {
        let signed = self.parts.as_ref().ok_or(SignatureError::Incomplete)?;
        let key = keys.get(&signed.access_key).ok_or(SignatureError::UnknownKey)?;
        Ok((signed, key))
    }
}

impl SignatureError {
    /// Returns AWS's name of the exception.
    #[must_use]
    pub fn exception(self) -> &'static str {
        match self {
            Self::Incomplete => "IncompleteSignatureException",
            Self::UnknownKey => "UnrecognizedClientException",
            Self::Expired | Self::Mismatch => "InvalidSignatureException",
        }
    }
}

impl Signed {
    /// Returns the signature of a request, if it has one.
    #[must_use]
    pub fn of(request: &Parts) -> Option<Self> {
        let Some(header) = request.headers.get("authorization") else { return Self::presigned(request) };
        let fields = header.to_str().ok()?.strip_prefix(ALGORITHM)?;
        Some(Self { parts: signed(request, fields) })
    }

    /// Returns the signature in the URL of a request, if it has one.
    #[must_use]
    pub fn presigned(request: &Parts) -> Option<Self> {
        is_presigned(request).then(|| Self { parts: presigned(request) })
    }
}

/// Returns the query of a request without the parameters of a presigned URL.
#[must_use]
pub fn without_signature(request: &Parts) -> Cow<'_, str> {
    let query = request.uri.query().unwrap_or_default();
    if !is_presigned(request) {
        return query.into();
    }
    let kept = query.split('&').filter(|pair| !pair.starts_with(PRESIGNED));
    kept.collect::<Vec<_>>().join("&").into()
}

/// The prefix of the parameters that sign a URL.
const PRESIGNED: &str = "X-Amz-";
const TOKEN: &str = "X-Amz-Security-Token";

/// Longest validity of a URL, in seconds: seven days.
const VALID_SECONDS_MAX: u64 = 7 * 86_400;

fn is_presigned(request: &Parts) -> bool {
    parameter(request, "X-Amz-Algorithm").is_some_and(|algorithm| algorithm == ALGORITHM)
}

/// Returns the value of the single parameter with this name.
fn parameter<'r>(request: &'r Parts, name: &str) -> Option<Cow<'r, str>> {
    let pairs = request.uri.query()?.split('&');
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    match (values.next(), values.next()) {
        (Some(value), None) => percent_decode_str(value).decode_utf8().ok(),
        _ => None,
    }
}

fn presigned(request: &Parts) -> Option<SignedParts> {
    let value = |name: &str| parameter(request, name);
    let valid_seconds: u64 = value("X-Amz-Expires").map_or(Some(VALID_SECONDS_DEFAULT), |text| text.parse().ok())?;
    if !(1..=VALID_SECONDS_MAX).contains(&valid_seconds) {
        return None;
    }
    let fields = Fields {
        credential: &value("X-Amz-Credential")?,
        signed_headers: &value("X-Amz-SignedHeaders")?,
        signature: &value("X-Amz-Signature")?,
        date: &value("X-Amz-Date")?,
    };
    let query_without = |left_out: &[&str]| {
        let pairs = request.uri.query().unwrap_or_default().split('&');
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        pairs.filter(|pair| !left_out.contains(&name(pair).as_str())).collect::<Vec<_>>().join("&")
    };
    let signature = "X-Amz-Signature";
    let mut queries = vec![query_without(&[signature])];
    if value(TOKEN).is_some() {
        queries.push(query_without(&[signature, TOKEN]));
    }
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    signed_parts(request, &fields, &["host"], &queries, valid_seconds)
}

/// Validity of a URL that does not state it, such as that of a WebSocket. AWS accepts those for five minutes too.
const VALID_SECONDS_DEFAULT: u64 = SKEW_MAX;

/// The fields of a signature, from the header or the URL.
struct Fields<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
    date: &'a str,
}

fn signed(request: &Parts, fields: &str) -> Option<SignedParts> {
    let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
    let fields = Fields {
        credential: field("Credential")?,
        signed_headers: field("SignedHeaders")?,
        signature: field("Signature")?,
        date: request.headers.get("x-amz-date")?.to_str().ok()?,
    };
    let query = request.uri.query().unwrap_or_default();
    signed_parts(request, &fields, &["host", "x-amz-date"], &[query], SKEW_MAX)
}

/// Parses `fields`. The headers `must` have to be signed: without them a signature could be replayed at another server
/// or at any time.
fn signed_parts(
    request: &Parts,
    fields: &Fields<'_>,
    must: &[&str],
    queries: &[&str],
    valid_seconds: u64,
) -> Option<SignedParts> {
    let Fields { signed_headers, date, .. } = *fields;
    let (access_key, scope) = fields.credential.split_once('/')?;
    let names: Vec<_> = signed_headers.split(';').collect();
    if !must.iter().all(|name| names.contains(name)) {
        return None;
    }
    let parts: Vec<_> = scope.split('/').collect();
    let [day, _, _, "aws4_request"] = parts.as_slice() else { return None };
    if !date.starts_with(day) || day.len() != 8 {
        return None;
    }
    let headers: Option<String> = names.iter().map(|name| canonical_header(request, name)).collect();
    let headers = headers?;
    // The path is percent-encoded once more, as for all services except S3.
    let path = utf8_percent_encode(request.uri.path(), RESERVED_BUT_SLASH).to_string();
    let head = |query: &&str| {
        Some([request.method.as_str(), &path, &canonical_query(query)?, &headers, signed_headers].join("\n"))
    };
    let canonical_heads = queries.iter().map(head).collect::<Option<Vec<_>>>()?;
    Some(SignedParts {
        access_key: access_key.to_owned(),
        scope: scope.to_owned(),
        signature: unhex(fields.signature)?,
        date: date.to_owned(),
        time: time(date)?,
        valid_seconds,
        canonical_heads,
    })
}

/// Returns `name:value` and a line feed. Runs of spaces in the value become one.
fn canonical_header(request: &Parts, name: &str) -> Option<String> {
    let values = request.headers.get_all(name).iter();
    let values: Option<Vec<_>> =
        values.map(|value| Some(value.to_str().ok()?.split_ascii_whitespace().collect::<Vec<_>>().join(" "))).collect();
    let values = values?;
    (!values.is_empty()).then(|| format!("{name}:{}\n", values.join(",")))
}

/// Returns the parameters sorted by name, with canonical encoding.
fn canonical_query(query: &str) -> Option<String> {
    let encode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().ok()?;
        Some(utf8_percent_encode(&decoded, RESERVED).to_string())
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs: Option<Vec<(String, String)>> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((encode(name)?, encode(value)?))
        })
        .collect();
    let mut pairs = pairs?;
    pairs.sort();
    Some(pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"))
}

/// Parses a time like `20260921T141320Z`.
fn time(text: &str) -> Option<Timestamp> {
    let (day, clock) = text.strip_suffix('Z')?.split_once('T')?;
    if day.len() != 8 || clock.len() != 6 || !day.bytes().chain(clock.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |text: Option<&str>| text?.parse::<u64>().ok();
    let (year, month, date) = (number(day.get(..4))?, number(day.get(4..6))?, number(day.get(6..))?);
    let (hour, minute, second) = (number(clock.get(..2))?, number(clock.get(2..4))?, number(clock.get(4..))?);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=12).contains(&month) || !(1..=last).contains(&date) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Counted from March, the leap day is the last of the year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + date - 1;
    let epoch = 719_468;
    Some(Timestamp((days.checked_sub(epoch)?) * 86_400 + hour * 3_600 + minute * 60 + second))
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests;
