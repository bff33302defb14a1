//! Refusals as responses: status, RFC 9457 body and headers.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    shadow::{Etag, Projection, Rejection, ShadowKey, Timestamp},
    wire,
};

/// A refusal of a request.
#[derive(Debug)]
pub(in crate::http) struct Problem {
    status: StatusCode,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    by_engine: bool,
}

/// The mark of a response to a request that the engine refused. Such a 429 does not count against the connection, as
/// other clients may have used up the quota.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct RefusedByEngine;

pub(in crate::http) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The authentication schemes. RFC 9110 section 11.6.1 requires them in every 401.
pub(in crate::http) const CHALLENGE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"umbra\", Basic realm=\"umbra\", charset=\"UTF-8\"");

/// The schemes for web pages. At a Basic challenge a browser would show its password dialog.
pub(in crate::http) const PAGE_CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"umbra\"");

impl Problem {
    /// Returns a refusal without further fields.
    pub(in crate::http) fn new(status: StatusCode, error: &str, message: &str, now: Timestamp) -> Self {
        let problem = wire::Problem { status: status.as_u16(), error, message, retry_after_ms: None };
        Self { status, body: wire::problem(&problem, now), headers: Vec::new(), by_engine: false }
    }

    /// Returns a 400 for an invalid parameter or header.
    pub(in crate::http) fn parameter(name: &str, reason: &str, now: Timestamp) -> Self {
        let message = format!("Invalid parameter '{name}': {reason}");
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", &message, now)
    }

    /// Returns a 403, whose message is `reason` after "Forbidden: ".
    pub(in crate::http) fn forbidden(reason: &str, now: Timestamp) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", &format!("Forbidden: {reason}"), now)
    }

    /// Returns a 500. The log has the cause.
    pub(in crate::http) fn internal(now: Timestamp) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal service failure", now)
    }

    /// Returns a 429 for an exceeded limit.
    pub(in crate::http) fn too_many(quota: &str, now: Timestamp) -> Self {
        let (status, message) = (StatusCode::TOO_MANY_REQUESTS, format!("Too many requests: {quota}"));
        Self::later(status, "too-many-requests", &message, Duration::from_secs(1), now)
    }

    /// Returns the problem for a rejection of a request that concerns no single shadow.
    pub(in crate::http) fn general(rejection: &Rejection, now: Timestamp) -> Self {
        match rejection {
            Rejection::TooManyRequests { quota, retry_after_ms: Some(retry_after_ms) } => {
                let (status, message) = (status(rejection), format!("Too many requests: {quota}"));
                Self::later(status, rejection.error(), &message, Duration::from_millis(*retry_after_ms), now)
            }
            Rejection::Unavailable(reason) => {
                let message = format!("Unavailable: {reason}");
                Self::new(status(rejection), rejection.error(), &message, now)
            }
            _ => Self::new(status(rejection), rejection.error(), "The request cannot be answered", now),
        }
    }

    /// Returns a refusal of a request that may be repeated after `wait`.
    pub(in crate::http) fn later(
        status: StatusCode,
        error: &str,
        message: &str,
        wait: Duration,
        now: Timestamp,
    ) -> Self {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let problem = wire::Problem { status: status.as_u16(), error, message, retry_after_ms: Some(millis) };
        let problem = Self { status, body: wire::problem(&problem, now), headers: Vec::new(), by_engine: false };
        problem.with(header::RETRY_AFTER, millis.div_ceil(1000).max(1).into())
    }

    /// Returns the problem for a rejection; `note` is added to its detail.
    pub(in crate::http) fn rejection(
        rejection: &Rejection,
        status: StatusCode,
        key: &ShadowKey,
        now: Timestamp,
        projection: &Projection,
        note: Option<&str>,
    ) -> Self {
        let body = wire::rejection_problem(status.as_u16(), rejection, key, now, projection, note);
        let problem = Self { status, body, headers: Vec::new(), by_engine: false };
        match rejection {
            Rejection::VersionConflict { etag: Some(etag), .. }
            | Rejection::ExpectationFailed { etag: Some(etag), .. } => problem.with(header::ETAG, etag_value(*etag)),
            Rejection::TooManyRequests { retry_after_ms: Some(retry_after_ms), .. } => {
                problem.with(header::RETRY_AFTER, retry_after_ms.div_ceil(1000).max(1).into())
            }
            Rejection::Unauthorized => problem.with(header::WWW_AUTHENTICATE, CHALLENGE),
            _ => problem,
        }
    }

    /// Marks the response as [`RefusedByEngine`].
    pub(in crate::http) fn by_engine(mut self) -> Self {
        self.by_engine = true;
        self
    }

    /// Adds a header.
    pub(in crate::http) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        if self.by_engine {
            response.extensions_mut().insert(RefusedByEngine);
        }
        response
    }
}

/// Returns the status of a rejection on the native paths. Expected versions and tags come in headers there, so a
/// conflict is a failed precondition. PROTOCOL section 5.
pub(in crate::http) fn status(rejection: &Rejection) -> StatusCode {
    let code = match rejection {
        Rejection::VersionConflict { .. } => 412,
        rejection => rejection.code(),
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(in crate::http) fn etag_value(etag: Etag) -> HeaderValue {
    HeaderValue::try_from(etag.to_string()).expect("digits, quotes and a dash are valid in a header")
}
