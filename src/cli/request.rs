//! A shadow request and its reply.

use std::fmt;

use serde_json::Value;

use super::{
    Exit,
    connect_args::{BrokerArgs, CommandFailure},
    output::{complain, print},
};

/// Sends `payload` to `topic`, prints the reply, and returns the exit code.
pub(super) async fn run(broker: &BrokerArgs, topic: &str, payload: String) -> Exit {
    match exchange(broker, topic, payload).await {
        Ok(reply) => match Rejection::of(&reply) {
            None => print(&reply),
            Some(rejection) => complain(&rejection, Exit::Rejected),
        },
        Err(failure) => complain(&failure, failure.exit),
    }
}

async fn exchange(broker: &BrokerArgs, topic: &str, payload: String) -> Result<Value, CommandFailure> {
    let connection = broker.connect().await?;
    let reply = connection.client.exchange(topic, payload.into()).await;
    let reply = reply.map_err(|error| connection.failure(error))?;
    connection.client.close().await;
    serde_json::from_slice(&reply).map_err(|error| CommandFailure::failed(format!("the reply is not JSON: {error}")))
}

/// A rejection, formatted for people.
pub(super) struct Rejection<'a> {
    code: u64,
    reply: &'a Value,
}

impl<'a> Rejection<'a> {
    /// Returns `reply` as a rejection if it is one: only a rejection has a `code`.
    pub(super) fn of(reply: &'a Value) -> Option<Self> {
        let code = reply.get("code")?.as_u64()?;
        Some(Self { code, reply })
    }
}

impl fmt::Display for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key| self.reply.get(key).and_then(Value::as_str).unwrap_or("?");
        write!(f, "rejected: {} {}: {}", self.code, text("error"), text("message"))?;
        if let Some(detail) = self.reply.get("detail").and_then(Value::as_str) {
            write!(f, ": {detail}")?;
        }
        let number = |key| self.reply.get(key).and_then(Value::as_u64);
        if let Some(expected) = number("expected") {
            write!(f, "; expected version {expected}")?;
        }
        if let Some(version) = number("version") {
            write!(f, "; current version {version}")?;
        }
        for list in ["conflicts", "failed"] {
            let paths = self.reply.get(list).and_then(Value::as_array);
            paths.into_iter().flatten().try_for_each(|path| write_path(f, path))?;
        }
        number("retryAfterMs").map_or(Ok(()), |wait| write!(f, "; try again in {wait} ms"))
    }
}

/// Writes the current value at a conflicting or unexpected path, with its version and author.
fn write_path(f: &mut fmt::Formatter<'_>, entry: &Value) -> fmt::Result {
    let text = |key| entry.get(key).and_then(Value::as_str).unwrap_or("?");
    match entry.get("current") {
        Some(current) => write!(f, "; {} is {current}", text("path"))?,
        None => write!(f, "; {} does not exist", text("path"))?,
    }
    match entry.get("version") {
        Some(version) => write!(f, " since version {version} by {}", text("by")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_a_rejection_on_one_line() {
        for (reply, expected) in [
            (json!({"state": {}, "version": 8}), None),
            (
                json!({"code": 409, "error": "version-conflict", "message": "Version conflict", "expected": 7, "version": 9}),
                Some("rejected: 409 version-conflict: Version conflict; expected version 7; current version 9"),
            ),
            (
                json!({"code": 409, "error": "version-conflict", "message": "Version conflict", "expected": 1, "version": 3,
                "conflicts": [
                    {"path": "/desired/a", "yours": 1, "current": "x", "version": 2, "by": "app-1", "timestamp": 5},
                    {"path": "/desired/b", "yours": 1, "removed": true},
                ]}),
                Some(
                    "rejected: 409 version-conflict: Version conflict; expected version 1; current version 3; \
                     /desired/a is \"x\" since version 2 by app-1; /desired/b does not exist",
                ),
            ),
            (
                json!({"code": 400, "error": "invalid-json", "message": "Invalid JSON", "detail": "duplicate key 'a'"}),
                Some("rejected: 400 invalid-json: Invalid JSON: duplicate key 'a'"),
            ),
            (
                json!({"code": 404, "error": "not-found", "message": "No shadow exists with name: 'a'"}),
                Some("rejected: 404 not-found: No shadow exists with name: 'a'"),
            ),
            (
                json!({"code": 429, "error": "too-many-requests", "message": "slow", "retryAfterMs": 50}),
                Some("rejected: 429 too-many-requests: slow; try again in 50 ms"),
            ),
            (json!({"code": 500}), Some("rejected: 500 ?: ?")),
        ] {
            assert_eq!(Rejection::of(&reply).map(|rejection| rejection.to_string()).as_deref(), expected);
        }
    }
}
