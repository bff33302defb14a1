//! What a program can learn about its client's doings, for counters and logs.

use std::time::Duration;

use serde_json::Value;

use crate::{
    document::{Accepted, Version},
    error::Error,
    names::ShadowId,
};

/// Is told what happens, on the thread where it happens: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// A connection is up and its subscriptions are granted; `again` if it is not the first.
    fn connected(&self, again: bool) {
        let _ = again;
    }

    /// A connection ended, or could not be made (then `was_up` is false); another try follows `again_in`.
    fn lost(&self, was_up: bool, why: &str, again_in: Duration) {
        let _ = (was_up, why, again_in);
    }

    /// The broker does not grant a subscription that a watch needs.
    fn unheard(&self, filter: &str, why: &str) {
        let _ = (filter, why);
    }

    /// One try of a write ended.
    fn tried(&self, attempt: &Attempt<'_>) {
        let _ = attempt;
    }
}

/// One try of a write, and how it ended.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// Of which shadow.
    pub shadow: &'a ShadowId,
    /// 1 for the first try.
    pub number: u32,
    /// The version it required.
    pub expected: Version,
    /// The sections it sent.
    pub state: &'a Value,
    /// How long this try took.
    pub took: Duration,
    /// How long ago the first try began, waits included.
    pub since_first: Duration,
    /// How it ended.
    pub outcome: Result<&'a Accepted, &'a Error>,
    /// After which wait the next try follows; `None` if none does.
    pub retry_in: Option<Duration>,
}

/// Observes nothing.
pub(crate) struct NoopObserver;

impl Observer for NoopObserver {}
