//! Memory that clients occupy before it is known who they are.
//!
//! Each has a little for itself. For more they wait, all for the same budget: so what strangers can make the service
//! hold is bounded, however many they are, and who is known needs none of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget of all strangers.
#[derive(Debug)]
pub struct Strangers(Arc<Semaphore>);

/// A client of whom it is not known who it is; dropped, it gives back what it has of the budget.
#[derive(Debug)]
pub struct Stranger {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Strangers {
    /// A budget of `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// One more, with what each may have.
    #[must_use]
    pub fn enter(&self) -> Stranger {
        Stranger { budget: self.0.clone(), held: None }
    }
}

impl Stranger {
    /// Bytes that it may occupy.
    #[must_use]
    pub fn room(&self) -> usize {
        FREE_BYTES + self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Waits until it may occupy more.
    pub async fn grow(&mut self) {
        // The budget is never closed.
        if let Ok(more) = self.budget.clone().acquire_many_owned(STEP_BYTES).await {
            self.take(more);
        }
    }

    /// Whether it may occupy `bytes`, without waiting for others.
    #[must_use]
    pub fn may_have(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.room());
        let more =
            u32::try_from(missing).ok().and_then(|missing| self.budget.clone().try_acquire_many_owned(missing).ok());
        more.map(|more| self.take(more)).is_some()
    }

    fn take(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
    }
}

/// What each may occupy; the CONNECT of most clients is smaller.
const FREE_BYTES: usize = 4 * 1024;
const STEP_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_budget_is_shared_and_comes_back() {
        let strangers = Strangers::new(2 * STEP_BYTES as usize);
        let (mut first, mut second) = (strangers.enter(), strangers.enter());
        assert_eq!(first.room(), FREE_BYTES);
        first.grow().await;
        first.grow().await;
        assert_eq!(first.room(), FREE_BYTES + 2 * STEP_BYTES as usize);
        assert!(second.may_have(FREE_BYTES) && !second.may_have(FREE_BYTES + 1));
        {
            let mut waiting = std::pin::pin!(second.grow());
            assert!(waiting.as_mut().now_or_never().is_none());
            drop(first);
            waiting.await;
        }
        assert_eq!(second.room(), FREE_BYTES + STEP_BYTES as usize);
        assert!(second.may_have(FREE_BYTES + 2 * STEP_BYTES as usize) && !strangers.enter().may_have(FREE_BYTES + 1));
    }
}
