//! Refuses requests whose body is framed in a way that others on the path may read differently. RFC 9112 section 6.
//!
//! Only `chunked`, alone, is a transfer coding here: hyper takes any list that ends in it. One that does not end in it
//! never comes this far, hyper answers 400 and closes.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{clock::Clock, http::problem::Problem};

/// The check as a layer.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let now = || Clock::system().now();
    let problem = match refusal(request.headers()) {
        None => return next.run(request).await,
        Some(Refusal::Coding) => {
            let message = "The only Transfer-Encoding known here is chunked, alone";
            Problem::new(StatusCode::NOT_IMPLEMENTED, "unsupported-transfer-encoding", message, now())
        }
        Some(Refusal::TwoLengths) => {
            Problem::parameter("Content-Length", "must not stand beside Transfer-Encoding", now())
        }
    };
    // Where the body ends is not known.
    problem.with(header::CONNECTION, HeaderValue::from_static("close")).into_response()
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// RFC 9112 section 6.1: a coding that is not understood is 501.
    Coding,
    /// RFC 9112 section 6.3: both lengths may be an attempt at smuggling.
    TwoLengths,
}

fn refusal(headers: &HeaderMap) -> Option<Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
        return Some(Refusal::Coding);
    }
    headers.contains_key(header::CONTENT_LENGTH).then_some(Refusal::TwoLengths)
}
