//! A memory budget for clients before authentication.
//!
//! Each client may use a few bytes freely. Beyond these, all unauthenticated clients wait for one shared budget, and
//! those of one source address for a part of it. So their total memory is bounded, and one address cannot take all of
//! it. Authenticated clients need none of the budget.
//!
//! The stream of a connection acquires budget before it reads ([`crate::net`]). The code that authenticates the client,
//! or that discards its input, releases it.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget of one connection until its client is authenticated. All clones refer to the same connection.
#[derive(Clone)]
pub struct Acquaintance(Arc<Mutex<Option<Stranger>>>);

/// The state of an unauthenticated client; dropping it releases its share of the budgets.
struct Stranger {
    /// The budgets; every step acquires from all of them.
    budgets: Vec<Arc<Semaphore>>,
    held: Vec<OwnedSemaphorePermit>,
    growing: Option<Growing>,
    /// Bytes that the client may send.
    room: usize,
    /// Bytes that the client sent and that may still be in memory.
    sent: usize,
    /// The task that waits for the budget.
    waiting: Option<Waker>,
}

/// A pending acquisition from all budgets.
type Growing = Pin<Box<dyn Future<Output = Vec<OwnedSemaphorePermit>> + Send>>;

impl Acquaintance {
    /// Returns the budget of a client that has sent nothing and holds nothing of `budgets`.
    pub(super) fn new(budgets: Vec<Arc<Semaphore>>) -> Self {
        let (held, growing) = (Vec::new(), None);
        let stranger = Stranger { budgets, held, growing, room: FREE_BYTES, sent: 0, waiting: None };
        Self(Arc::new(Mutex::new(Some(stranger))))
    }

    /// Waits until some bytes may be read and returns their number; `None` if the client is authenticated.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<Option<usize>> {
        let mut stranger = self.0.lock();
        let Some(stranger) = &mut *stranger else { return Poll::Ready(None) };
        if stranger.sent >= stranger.room {
            stranger.waiting = Some(context.waker().clone());
            ready!(stranger.poll_grow(context));
            stranger.waiting = None;
        }
        Poll::Ready(Some(stranger.room - stranger.sent))
    }

    /// Returns true if reading waits for the budget.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|stranger| stranger.waiting.is_some())
    }

    /// Counts `bytes` that were read.
    pub fn count(&self, bytes: usize) {
        if let Some(stranger) = &mut *self.0.lock() {
            stranger.sent += bytes;
        }
    }

    /// Releases the budget: nothing of the input is in memory any more.
    pub fn let_go(&self) {
        if let Some(stranger) = &mut *self.0.lock() {
            (stranger.held, stranger.growing) = (Vec::new(), None);
            (stranger.room, stranger.sent) = (FREE_BYTES, 0);
            stranger.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Ends the limit: the client is authenticated, or its further input is not kept.
    pub fn settle(&self) {
        let stranger = self.0.lock().take();
        stranger.and_then(|stranger| stranger.waiting).into_iter().for_each(Waker::wake);
    }
}

impl Stranger {
    fn poll_grow(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let growing = self.growing.get_or_insert_with(|| {
            let budgets = self.budgets.clone();
            Box::pin(async move {
                let mut held = Vec::with_capacity(budgets.len());
                for budget in budgets {
                    held.extend(budget.acquire_many_owned(STEP_BYTES).await); // never closed
                }
                held
            })
        });
        self.held.extend(ready!(growing.as_mut().poll(context)));
        self.growing = None;
        self.room += STEP_BYTES as usize;
        Poll::Ready(())
    }
}

impl fmt::Debug for Acquaintance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquaintance").finish_non_exhaustive()
    }
}

/// Bytes that each client may use without the budget; the CONNECT of most clients is smaller.
const FREE_BYTES: usize = 4 * 1024;
/// Bytes acquired from the budget at once.
pub(super) const STEP_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    const STEP: usize = STEP_BYTES as usize;

    fn budget(steps: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(steps * STEP))
    }

    /// Sends as many bytes as may be read now; `None` if none may.
    fn send(client: &Acquaintance) -> Option<Option<usize>> {
        let room = poll_fn(|context| client.poll_room(context)).now_or_never();
        room.flatten().into_iter().for_each(|room| client.count(room));
        room
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_released() {
        let all = budget(2);
        let [first, second] = [(); 2].map(|()| Acquaintance::new(vec![all.clone()]));
        assert_eq!([(); 4].map(|()| send(&first)), [Some(Some(FREE_BYTES)), Some(Some(STEP)), Some(Some(STEP)), None]);
        assert_eq!([(); 2].map(|()| send(&second)), [Some(Some(FREE_BYTES)), None]);
        assert!(first.waits() && second.waits());
        first.let_go();
        assert!(!first.waits());
        assert_eq!([(); 3].map(|()| send(&second)), [Some(Some(STEP)), Some(Some(STEP)), None]);
        assert_eq!([(); 2].map(|()| send(&first)), [Some(Some(FREE_BYTES)), None]);
        second.settle();
        assert_eq!((send(&first), send(&second)), (Some(Some(STEP)), Some(None)));
        drop((first, second));
        assert_eq!(all.available_permits(), 2 * STEP);
    }

    #[tokio::test]
    async fn an_address_is_limited_to_its_part() {
        let (all, here, there) = (budget(3), budget(2), budget(2));
        let of = |own: &Arc<Semaphore>| Acquaintance::new(vec![own.clone(), all.clone()]);
        let (greedy, neighbour, other) = (of(&here), of(&here), of(&there));
        let sent = [&greedy, &neighbour, &other].map(|client| std::iter::from_fn(|| send(client)).count());
        assert_eq!(sent, [3, 1, 2], "what each has, and two, none and one more");
    }
}
