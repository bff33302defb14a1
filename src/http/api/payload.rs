//! Request bodies: their size limit, encoding and media type. [`TimedBody`](crate::http::server::body::TimedBody)
//! limits the time.

use std::{error::Error, io, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::{
    http::{problem::Problem, server::framing::ChunkFault, state::Api},
    shadow::{Rejection, SizeLimit},
};

/// The reason that a body was not read.
pub(in crate::http) enum BodyError {
    /// The body is too large.
    Rejected(Rejection),
    /// The transfer failed.
    Failed(Problem),
}

/// Reads all of `body`, at most `max` bytes.
///
/// Each frame is copied as it arrives. A frame keeps its whole read buffer in memory, even for one byte.
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

/// Converts the error of a body with the limit `max`.
fn unread(error: &(dyn Error + 'static), max: usize, api: &Api) -> BodyError {
    if error.is::<LengthLimitError>() {
        return BodyError::Rejected(Rejection::TooLarge { what: SizeLimit::Body, size: max + 1, max });
    }
    if is_of(error, io::ErrorKind::ResourceBusy) {
        let (status, message) = (StatusCode::SERVICE_UNAVAILABLE, "Too many unauthenticated requests at once");
        return BodyError::Failed(Problem::later(status, "unavailable", message, Duration::from_secs(1), api.now()));
    }
    if is_of(error, io::ErrorKind::TimedOut) {
        let problem =
            Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The body was not received in time", api.now());
        return BodyError::Failed(problem.with(header::CONNECTION, HeaderValue::from_static("close")));
    }
    if let Some(fault) = chunk_fault(error) {
        let problem =
            Problem::new(StatusCode::BAD_REQUEST, "invalid-framing", &format!("The body has an {fault}"), api.now());
        return BodyError::Failed(problem.with(header::CONNECTION, HeaderValue::from_static("close")));
    }
    BodyError::Failed(Problem::new(StatusCode::BAD_REQUEST, "incomplete", "The body is incomplete", api.now()))
}

/// Returns the announced length of a body, if any.
fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns true if `error` or one of its sources is of `kind`.
fn is_of(error: &(dyn Error + 'static), kind: io::ErrorKind) -> bool {
    let own = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind);
    own || error.source().is_some_and(|source| is_of(source, kind))
}

/// Returns the fault of a chunked body among the sources of `error`.
fn chunk_fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ChunkFault> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
    wrapped.or_else(|| chunk_fault(error.source()?))
}

/// Refuses an encoded body. Nothing is decoded, so that a small body cannot expand to a large one.
pub(in crate::http) fn check_encoding(headers: &HeaderMap, api: &Api) -> Result<(), Problem> {
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(identity) {
        return Ok(());
    }
    let message = "Unsupported Content-Encoding; send the body unencoded";
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", message, api.now());
    // RFC 9110 section 12.5.3.
    Err(problem.with(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// Returns the media type of a body in lower case and without parameters. A charset other than UTF-8 gives a text that
/// is no media type.
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
