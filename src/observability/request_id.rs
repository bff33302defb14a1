//! The id of one MQTT or HTTP request. It joins the log lines about the request, and is sent to the client with an
//! internal error.
//!
//! Ids are consecutive, so creating one costs next to nothing, and nothing is formatted until there is something to
//! log. The part before the dash distinguishes runs of the process.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The id of a request in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

static NEXT: AtomicU64 = AtomicU64::new(1);
static RUN: LazyLock<u16> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()) as u16);

tokio::task_local! {
    static CURRENT: RequestId;
}

impl RequestId {
    /// Returns an id that no other request of this process has.
    #[must_use]
    pub fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the id of the request that the task answers inside [`RequestId::scope`]; else a new one.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(|id| *id).unwrap_or_else(|_| Self::next())
    }

    /// Runs `answer` with this id as the current one.
    pub async fn scope<F: Future>(self, answer: F) -> F::Output {
        CURRENT.scope(self, answer).await
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}-{:x}", *RUN, self.0)
    }
}
