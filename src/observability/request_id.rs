//! The id of one request, MQTT or HTTP: what joins the lines of the log that are about it, and what a client is told
//! when it was our fault.
//!
//! Ids are counted, so giving one costs next to nothing and nothing is written until there is something to say. What
//! stands before the dash tells one run of the process from another.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Names a request in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

static NEXT: AtomicU64 = AtomicU64::new(1);
static RUN: LazyLock<u16> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()) as u16);

tokio::task_local! {
    static CURRENT: RequestId;
}

impl RequestId {
    /// One that no other request of this process has.
    #[must_use]
    pub fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// That of the request which the task answers, if it is in [`RequestId::scope`]; else a new one.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(|id| *id).unwrap_or_else(|_| Self::next())
    }

    /// Answers a request under this id.
    pub async fn scope<F: Future>(self, answer: F) -> F::Output {
        CURRENT.scope(self, answer).await
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}-{:x}", *RUN, self.0)
    }
}
