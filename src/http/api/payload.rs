//! The body of a request: bounded in bytes here, and in time by [`TimedBody`](crate::http::server::body::TimedBody).

use std::{error::Error, io, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::{
    http::{
        api::{Api, problem::Problem},
        server::framing::ChunkFault,
    },
    shadow::{Rejection, SizeLimit},
};

/// Why a body was not read.
pub(in crate::http) enum BodyError {
    /// What it is about is larger than may be.
    Rejected(Rejection),
    /// The transfer failed.
    Failed(Problem),
}

/// Reads all of `body`, which may have `max` bytes.
///
/// It is copied as it comes: a piece of it, be it one byte, is held in the whole buffer that it was read into.
pub(in crate::http) async fn read(headers: &HeaderMap, body: Body, max: usize, api: &Api) -> Result<Bytes, BodyError> {
    if let Some(size) = length(headers).filter(|length| *length > max) {
        return Err(BodyError::Rejected(Rejection::TooLarge { what: SizeLimit::Body, size, max }));
    }
    let mut body = Limited::new(body, max);
    let mut whole = BytesMut::new();
    loop {
        match body.frame().await.transpose() {
            Ok(Some(frame)) => whole.extend(frame.into_data()),
            Ok(None) => return Ok(whole.freeze()),
            Err(error) => return Err(unread(&*error, max, api)),
        }
    }
}

/// Why a body that may have `max` bytes was not read, if it failed with `error`.
fn unread(error: &(dyn Error + 'static), max: usize, api: &Api) -> BodyError {
    if error.is::<LengthLimitError>() {
        return BodyError::Rejected(Rejection::TooLarge { what: SizeLimit::Body, size: max + 1, max });
    }
    if is_of(error, io::ErrorKind::ResourceBusy) {
        let (status, message) = (StatusCode::SERVICE_UNAVAILABLE, "Too many requests of strangers at once");
        return BodyError::Failed(Problem::later(status, "unavailable", message, Duration::from_secs(1), api.now()));
    }
    if is_of(error, io::ErrorKind::TimedOut) {
        let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The body came too slowly", api.now());
        return BodyError::Failed(problem.with(header::CONNECTION, HeaderValue::from_static("close")));
    }
    if let Some(fault) = chunk_fault(error) {
        let problem =
            Problem::new(StatusCode::BAD_REQUEST, "invalid-framing", &format!("The body has an {fault}"), api.now());
        return BodyError::Failed(problem.with(header::CONNECTION, HeaderValue::from_static("close")));
    }
    BodyError::Failed(Problem::new(StatusCode::BAD_REQUEST, "incomplete", "The body is incomplete", api.now()))
}

/// How long a body is, if that is said before it.
fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether `error`, or what it comes from, is of `kind`.
fn is_of(error: &(dyn Error + 'static), kind: io::ErrorKind) -> bool {
    let own = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind);
    own || error.source().is_some_and(|source| is_of(source, kind))
}

/// Returns the fault of a chunked body from which `error` comes.
fn chunk_fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ChunkFault> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
    wrapped.or_else(|| chunk_fault(error.source()?))
}

/// Refuses a body that is encoded; nothing is decoded here, so that a small one cannot become a large one.
pub(in crate::http) fn check_encoding(headers: &HeaderMap, api: &Api) -> Result<(), Problem> {
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(identity) {
        return Ok(());
    }
    let message = "Unsupported Content-Encoding; send the body as it is";
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", message, api.now());
    // RFC 9110 section 12.5.3.
    Err(problem.with(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// The media type of a body: its essence in lower case, if its charset is one that JSON has.
pub(in crate::http) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("?");
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    if parts.all(utf8) { Some(essence) } else { Some("a charset other than UTF-8".to_owned()) }
}
