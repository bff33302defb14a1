//! AWS Signature Version 4, as far as a server needs it: was a request signed with the secret of the key it names?
//!
//! Pure: the secrets, the time and the request come in. The signature covers method, path, query, the signed headers
//! and the body, so all of these have to be as they came over the wire.

use axum::http::request::Parts;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::{
    auth::{
        Principal,
        access_keys::{AccessKey, AccessKeys},
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
    /// The canonical request up to the digest of the body.
    canonical_head: String,
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The header, or the date, is not of the form it must have, or something is not signed that must be.
    #[error("The Authorization header is not a complete AWS4-HMAC-SHA256 signature")]
    Incomplete,
    /// No principal is mapped to the access key.
    #[error("The access key is not known")]
    UnknownKey,
    /// It was signed too long ago, or in the future.
    #[error("The request was signed more than five minutes from now")]
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
    /// An [`Unverified`]; a key that is not known may still come from where nobody has to prove anything.
    pub fn claims(&self, keys: &AccessKeys) -> Result<(), Unverified> {
        self.key(keys).map(|_| ())
    }

    /// Who signed it with one of `keys`, a request with this body that came at `now`.
    ///
    /// # Errors
    ///
    /// An [`Unverified`].
    pub fn verify(&self, body: &[u8], keys: &AccessKeys, now: Timestamp) -> Result<Principal, Unverified> {
        let (signed, key) = self.key(keys)?;
        if signed.time.0.abs_diff(now.0) > SKEW_MAX {
            return Err(Unverified::Expired);
        }
        let canonical_request = format!("{}\n{}", signed.canonical_head, hex(&Sha256::digest(body)));
        let digest = hex(&Sha256::digest(&canonical_request));
        let to_sign = format!("{ALGORITHM}\n{}\n{}\n{digest}", signed.date, signed.scope);
        let first = format!("AWS4{}", key.secret).into_bytes();
        let signing = signed.scope.split('/').fold(first, |key, part| mac(&key, part).finalize().into_bytes().to_vec());
        match mac(&signing, &to_sign).verify_slice(&signed.signature) {
            Ok(()) => Ok(key.principal.clone()),
            Err(_) => Err(Unverified::Mismatch),
        }
    }

    fn key<'k>(&self, keys: &'k AccessKeys) -> Result<(&SignedParts, &'k AccessKey), Unverified> {
        let signed = self.parts.as_ref().ok_or(Unverified::Incomplete)?;
        let key = keys.get(&signed.access_key).ok_or(Unverified::UnknownKey)?;
        Ok((signed, key))
    }
}

impl Unverified {
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
        let header = request.headers.get("authorization")?.to_str().ok()?;
        let fields = header.strip_prefix(ALGORITHM)?;
        Some(Self { parts: signed(request, fields) })
    }
}

fn signed(request: &Parts, fields: &str) -> Option<SignedParts> {
    let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
    let (access_key, scope) = field("Credential")?.split_once('/')?;
    let signed_headers = field("SignedHeaders")?;
    let names: Vec<_> = signed_headers.split(';').collect();
    // Else a signature could be taken to another server, or used for ever.
    if !names.contains(&"host") || !names.contains(&"x-amz-date") {
        return None;
    }
    let date = request.headers.get("x-amz-date")?.to_str().ok()?;
    let parts: Vec<_> = scope.split('/').collect();
    let [day, _, _, "aws4_request"] = parts.as_slice() else { return None };
    if !date.starts_with(day) || day.len() != 8 {
        return None;
    }
    let headers: Option<String> = names.iter().map(|name| canonical_header(request, name)).collect();
    let canonical_head = [
        request.method.as_str(),
        // What is in the path already is encoded once more, as all services but S3 have it.
        &utf8_percent_encode(request.uri.path(), RESERVED_BUT_SLASH).to_string(),
        &canonical_query(request.uri.query().unwrap_or_default())?,
        &headers?,
        signed_headers,
    ]
    .join("\n");
    Some(SignedParts {
        access_key: access_key.to_owned(),
        scope: scope.to_owned(),
        signature: unhex(field("Signature")?)?,
        date: date.to_owned(),
        time: time(date)?,
        canonical_head,
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
