//! AWS Signature Version 4, as far as a server needs it: was a request signed with the secret of the key it names?
//!
//! A signature comes in `Authorization`, or in the query of a presigned URL, which is good for as long as it says, and
//! seven days at most. The signature of a presigned URL covers all its parameters but itself; AWS's own clients add
//! `X-Amz-Security-Token` to the URL of a WebSocket after signing it, so it may be left out.
//!
//! Pure: the secrets, the time and the request come in. The signature covers method, path, query, the signed headers
//! and the body, so all of these have to be as they came over the wire.

use std::borrow::Cow;

use axum::http::request::Parts;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::{
    auth::{
        Principal,
        authn::access_keys::{AccessKey, AccessKeys},
    },
    http::hex::{hex, unhex},
    shadow::Timestamp,
};

/// A request with a signature that is not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// `None`: the header cannot be understood.
    parts: Option<SignedParts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SignedParts {
    access_key: String,
    /// `<date>/<region>/<service>/aws4_request`
    scope: String,
    signature: Vec<u8>,
    /// When it was signed, as it was written and as it is.
    date: String,
    time: Timestamp,
    /// Seconds for which it is good.
    good_for: u64,
    /// The canonical request up to the digest of the body; of one with a security token also without that.
    canonical_heads: Vec<String>,
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header, or the date, is not of the form it must have, or something is not signed that must be.
    #[error("The Authorization header is not a complete AWS4-HMAC-SHA256 signature")]
    Incomplete,
    /// No principal is mapped to the access key.
    #[error("The access key is not known")]
    UnknownKey,
    /// It was signed too long ago, or in the future.
    #[error("The request was signed more than five minutes from now, or its URL is not good any more")]
    Expired,
    /// It is not what the secret would sign.
    #[error("The signature does not match the request")]
    Mismatch,
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How far the clocks of client and server may be apart, in seconds.
const SKEW_MAX: u64 = 300;

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const RESERVED_BUT_SLASH: &AsciiSet = &RESERVED.remove(b'/');

impl Signed {
    /// Whether it claims to be by one of `keys`.
    ///
    /// # Errors
    ///
    /// An [`SignatureError`]; a key that is not known may still come from where nobody has to prove anything.
    pub fn claims(&self, keys: &AccessKeys) -> Result<(), SignatureError> {
        self.key(keys).map(|_| ())
    }

    /// Who signed it with one of `keys`, a request with this body that came at `now`.
    ///
    /// # Errors
    ///
    /// An [`SignatureError`].
    pub fn verify(&self, body: &[u8], keys: &AccessKeys, now: Timestamp) -> Result<Principal, SignatureError> {
        let (signed, key) = self.key(keys)?;
        if now.0.saturating_add(SKEW_MAX) < signed.time.0 || now.0 > signed.time.0.saturating_add(signed.good_for) {
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
        if signed.canonical_heads.iter().any(fits) { Ok(key.principal.clone()) } else { Err(SignatureError::Mismatch) }
    }

    fn key<'k>(&self, keys: &'k AccessKeys) -> Result<(&SignedParts, &'k AccessKey), SignatureError> {
        let signed = self.parts.as_ref().ok_or(SignatureError::Incomplete)?;
        let key = keys.get(&signed.access_key).ok_or(SignatureError::UnknownKey)?;
        Ok((signed, key))
    }
}

impl SignatureError {
    /// What AWS calls it.
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
    /// The signature of a request; `None`: it carries none.
    #[must_use]
    pub fn of(request: &Parts) -> Option<Self> {
        let Some(header) = request.headers.get("authorization") else { return Self::presigned(request) };
        let fields = header.to_str().ok()?.strip_prefix(ALGORITHM)?;
        Some(Self { parts: signed(request, fields) })
    }

    /// The signature in the URL of a request; `None`: it carries none.
    #[must_use]
    pub fn presigned(request: &Parts) -> Option<Self> {
        is_presigned(request).then(|| Self { parts: presigned(request) })
    }
}

/// Returns the query of a request, without what signs it if it is a presigned URL.
#[must_use]
pub fn without_signature(request: &Parts) -> Cow<'_, str> {
    let query = request.uri.query().unwrap_or_default();
    if !is_presigned(request) {
        return query.into();
    }
    let kept = query.split('&').filter(|pair| !pair.starts_with(PRESIGNED));
    kept.collect::<Vec<_>>().join("&").into()
}

/// The beginning of the names of the parameters that sign a URL.
const PRESIGNED: &str = "X-Amz-";
const TOKEN: &str = "X-Amz-Security-Token";

/// The longest time for which a URL is good, in seconds: seven days.
const GOOD_FOR_MAX: u64 = 7 * 86_400;

fn is_presigned(request: &Parts) -> bool {
    parameter(request, "X-Amz-Algorithm").is_some_and(|algorithm| algorithm == ALGORITHM)
}

/// The value of the one parameter of this name.
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
    let good_for: u64 = value("X-Amz-Expires").map_or(Some(DEFAULT_GOOD_FOR), |text| text.parse().ok())?;
    if !(1..=GOOD_FOR_MAX).contains(&good_for) {
        return None;
    }
    let fields = Fields {
        credential: &value("X-Amz-Credential")?,
        signed_headers: &value("X-Amz-SignedHeaders")?,
        signature: &value("X-Amz-Signature")?,
        date: &value("X-Amz-Date")?,
    };
    let of = |left_out: &[&str]| {
        let pairs = request.uri.query().unwrap_or_default().split('&');
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        pairs.filter(|pair| !left_out.contains(&name(pair).as_str())).collect::<Vec<_>>().join("&")
    };
    let signature = "X-Amz-Signature";
    let mut queries = vec![of(&[signature])];
    if value(TOKEN).is_some() {
        queries.push(of(&[signature, TOKEN]));
    }
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    signed_parts(request, &fields, &["host"], &queries, good_for)
}

/// How long a URL is good that does not say, as those of WebSockets: AWS lets those begin for five minutes too.
const DEFAULT_GOOD_FOR: u64 = SKEW_MAX;

/// What a signature says of itself.
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

/// Reads `fields`; `must` are the headers without which a signature could be taken to another server, or used for ever.
fn signed_parts(
    request: &Parts,
    fields: &Fields<'_>,
    must: &[&str],
    queries: &[&str],
    good_for: u64,
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
    // What is in the path already is encoded once more, as all services but S3 have it.
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
        good_for,
        canonical_heads,
    })
}

/// `name:value` and a line feed, spaces in the value made one.
fn canonical_header(request: &Parts, name: &str) -> Option<String> {
    let values = request.headers.get_all(name).iter();
    let values: Option<Vec<_>> =
        values.map(|value| Some(value.to_str().ok()?.split_ascii_whitespace().collect::<Vec<_>>().join(" "))).collect();
    let values = values?;
    (!values.is_empty()).then(|| format!("{name}:{}\n", values.join(",")))
}

/// The parameters in the order of their names, encoded in one way.
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

/// The seconds since 1970 of `20260921T141320Z`.
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
    // Years that begin in March have their leap day at the end.
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
