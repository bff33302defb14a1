//! Refusals over HTTP: RFC 9457 problem details with the members of `rejected`.

use bytes::Bytes;

use crate::{
    shadow::{Projection, Rejection, ShadowKey, Timestamp},
    wire::native::{message, refused},
};

/// A refusal of a request that concerns no shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    /// The HTTP status, and the `code`.
    pub status: u16,
    /// One word per reason, for programs.
    pub error: &'a str,
    /// The description for people.
    pub message: &'a str,
    /// The time to wait before a retry, in milliseconds, if a retry can help.
    pub retry_after_ms: Option<u64>,
}

/// Renders `problem`.
#[must_use]
pub fn problem(problem: &Problem<'_>, now: Timestamp) -> Bytes {
    let Problem { status, error, message: text, retry_after_ms } = *problem;
    message(|envelope| {
        envelope.text("type", &kind(error));
        envelope.text("title", &title(error));
        envelope.member("status", &status);
        envelope.member("code", &status);
        envelope.text("error", error);
        envelope.text("message", text);
        envelope.member("timestamp", &now.0);
        if let Some(retry_after_ms) = retry_after_ms {
            envelope.member("retryAfterMs", &retry_after_ms);
        }
    })
}

/// Renders `rejection` for a response with `status`; `note` is its `detail` if it has none.
#[must_use]
pub fn rejection_problem(
    status: u16,
    rejection: &Rejection,
    shadow: &ShadowKey,
    now: Timestamp,
    projection: &Projection,
    note: Option<&str>,
) -> Bytes {
    message(|envelope| {
        envelope.text("type", &kind(rejection.error()));
        envelope.text("title", &title(rejection.error()));
        envelope.member("status", &status);
        if let (Some(note), None) = (note, rejection.detail()) {
            envelope.text("detail", note);
        }
        refused(envelope, rejection, shadow, now, projection, None);
    })
}

fn kind(error: &str) -> String {
    format!("urn:umbra:problem:{error}")
}

/// Returns the title of a kind of problem: its error in words.
fn title(error: &str) -> String {
    let words = error.replace('-', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
