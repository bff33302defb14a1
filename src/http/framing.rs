//! Refuses requests whose body is framed in a way that others on the path may read differently. RFC 9112 section 6.
//!
//! Only `chunked`, alone, is a transfer coding here: hyper takes any list that ends in it. One that does not end in it
//! never comes this far, hyper answers 400 and closes. Nor does a Content-Length beside
//! Transfer-Encoding: hyper drops the field and reads chunks, as RFC 9112 section 6.3 allows.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{clock::Clock, http::problem::Problem};

/// The check as a layer.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if is_understood(request.headers()) {
        return next.run(request).await;
    }
    let message = "The only Transfer-Encoding known here is chunked, alone";
    let now = Clock::system().now();
    let problem = Problem::new(StatusCode::NOT_IMPLEMENTED, "unsupported-transfer-encoding", message, now);
    // The end of the body is not known.
    problem.with(header::CONNECTION, HeaderValue::from_static("close")).into_response()
}

/// True if there is no transfer coding but `chunked`. RFC 9112 section 6.1: another one is 501.
fn is_understood(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return true };
    coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none()
}
