//! Callbacks about the client's connection and its writes, for counters and logs.

use std::time::Duration;

use serde_json::Value;

use crate::{
    document::Accepted,
    error::{ConnectionError, Error},
    names::ShadowId,
    version::Version,
};

/// Callbacks that the client calls on its own threads: they must not block.
///
/// ```
/// use std::time::Duration;
/// use umbra_client::{ConnectionError, Observer};
///
/// struct Log;
///
/// impl Observer for Log {
///     fn on_disconnect(&self, _was_connected: bool, error: &ConnectionError, retry_in: Duration) {
///         eprintln!("{error:#}; reconnecting in {retry_in:?}");
///     }
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Called when a connection is open and its subscriptions are granted; `again` if it is not the first.
    fn on_connect(&self, again: bool) {
        let _ = again;
    }

    /// Called when a connection ends or an attempt fails (then `was_connected` is false). The next attempt follows after
    /// `retry_in`.
    fn on_disconnect(&self, was_connected: bool, error: &ConnectionError, retry_in: Duration) {
        let _ = (was_connected, error, retry_in);
    }

    /// Called when the broker does not grant a subscription. `reason` is its reason code.
    fn on_subscription_refused(&self, filter: &str, reason: &str) {
        let _ = (filter, reason);
    }

    /// Called when a message of a watched topic cannot be decoded; the watch gets no event for it.
    fn on_decode_error(&self, topic: &str, error: &serde_json::Error) {
        let _ = (topic, error);
    }

    /// Called after each try of a write.
    fn on_attempt(&self, attempt: &Attempt<'_>) {
        let _ = attempt;
    }
}

/// One try of a write, and its outcome.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// The shadow.
    pub shadow: &'a ShadowId,
    /// The number of the try, from 1.
    pub number: u32,
    /// The version that it required; `None`: last write wins.
    pub expected: Option<Version>,
    /// The sections that it sent.
    pub state: &'a Value,
    /// The duration of this try.
    pub took: Duration,
    /// The time since the first try began, waits included.
    pub since_first: Duration,
    /// The outcome.
    pub outcome: Result<&'a Accepted, &'a Error>,
    /// The wait before the next try; `None` if this was the last.
    pub retry_in: Option<Duration>,
}

/// An observer that does nothing.
pub(crate) struct NoopObserver;

impl Observer for NoopObserver {}
