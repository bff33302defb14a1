//! Refuses requests whose body framing an intermediary may read differently (request smuggling). RFC 9112 sections 6
//! and 7.1.
//!
//! hyper accepts more than the RFC: any octet in a chunk extension, whitespace after a chunk size, bare line feeds in
//! the trailer section, a Content-Length beside Transfer-Encoding. It answers 400 to an unknown transfer coding,
//! where the RFC has 501. Its bytes therefore pass a [`FramingStream`] first:
//!
//! 1. `head` reads the framing of each request's head with the parser that hyper uses.
//! 2. `tracker` follows the connection from message to message; `chunked` checks a chunked body byte by byte.
//! 3. A refused head reaches hyper with its framing fields renamed, so without a body; in place of one that is too large,
//!    hyper receives a small one. [`check`] finds the names and answers 400, 431 or 501. Nothing after that head is read as
//!    a request.
//! 4. A fault in a chunked body fails the read at that byte, as [`ChunkFault`]. `payload` answers 400.
//!
//! Bodies are not copied. A head that arrives in pieces is: hyper receives it when it is complete or exceeds hyper's
//! limit. A head that the parser refuses passes unchanged, and hyper refuses it.

mod chunked;
mod head;
mod stream;
mod tracker;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use axum::{
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use self::head::{HeadFault, RENAMED_CODING, RENAMED_LENGTH};
pub(in crate::http) use self::{chunked::ChunkFault, stream::FramingStream};
use crate::{clock::Clock, http::problem::Problem};

/// The refusal of a connection's last request, set before hyper receives its head. A request extension.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct HeadRefusal(Arc<OnceLock<HeadFault>>);

/// Answers a request whose head was refused, and closes the connection.
pub(in crate::http) async fn check(request: Request, next: Next) -> Response {
    let Some(fault) = refusal(&request) else { return next.run(request).await };
    let problem = Problem::new(fault.status(), fault.error(), &fault.to_string(), Clock::system().now());
    // Without framing, the end of the body is unknown.
    problem.with(header::CONNECTION, HeaderValue::from_static("close")).into_response()
}

/// Returns the fault if `request` is the refused one. Pipelined requests before it lack the renamed fields.
fn refusal(request: &Request) -> Option<&HeadFault> {
    let fault = request.extensions().get::<HeadRefusal>()?.0.get()?;
    let headers = request.headers();
    (headers.contains_key(RENAMED_CODING) || headers.contains_key(RENAMED_LENGTH)).then_some(fault)
}

/// Returns the beginning of `bytes`, escaped, for a message.
fn excerpt(bytes: &[u8]) -> String {
    let (shown, cut) = bytes.split_at(bytes.len().min(EXCERPT_BYTES_MAX));
    format!("{}{}", shown.escape_ascii(), if cut.is_empty() { "" } else { "..." })
}

const EXCERPT_BYTES_MAX: usize = 32;
