//! Memory that clients occupy before it is known who they are.
//!
//! Each has a little for itself. For more they wait, all for the same budget, and those of one source address for a
//! part of it: so what strangers can make the service hold is bounded, however many they are, one address alone cannot
//! take all of it, and who is known needs none of it.
//!
//! The stream of a connection asks for room before it reads ([`crate::net`]); whoever finds out who the client is, or
//! is done with what it sent, tells.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the client of one connection may occupy while it is a stranger. All clones are of the same client.
#[derive(Clone)]
pub struct Acquaintance(Arc<Mutex<Option<Stranger>>>);

/// A client of whom it is not known who it is; dropped, it gives back what it has of the budgets.
struct Stranger {
    /// All that it takes from when it takes anything.
    budgets: Vec<Arc<Semaphore>>,
    held: Vec<OwnedSemaphorePermit>,
    growing: Option<Growing>,
    /// Bytes that it may occupy.
    room: usize,
    /// Bytes that it sent and that may still be held.
    sent: usize,
    /// Of who waits for room.
    waiting: Option<Waker>,
}

/// What comes of waiting for each of the budgets.
type Growing = Pin<Box<dyn Future<Output = Vec<OwnedSemaphorePermit>> + Send>>;

impl Acquaintance {
    /// One with a stranger that has sent nothing, and has nothing of `budgets` yet.
    pub(super) fn new(budgets: Vec<Arc<Semaphore>>) -> Self {
        let (held, growing) = (Vec::new(), None);
        let stranger = Stranger { budgets, held, growing, room: FREE_BYTES, sent: 0, waiting: None };
        Self(Arc::new(Mutex::new(Some(stranger))))
    }

    /// How much may be read from the client, once it is something. `None`: it is no stranger.
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

    /// Whether more would be read if others held less.
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

    /// Tells that nothing is held any more of what was read so far.
    pub fn let_go(&self) {
        if let Some(stranger) = &mut *self.0.lock() {
            (stranger.held, stranger.growing) = (Vec::new(), None);
            (stranger.room, stranger.sent) = (FREE_BYTES, 0);
            stranger.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Tells that it is known who the client is, or that nothing is held of whatever it sends.
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

/// What each may occupy; the CONNECT of most clients is smaller.
const FREE_BYTES: usize = 4 * 1024;
/// What it takes at once beyond that.
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

    /// Sends as much as is read at once; `None`: nothing is.
    fn send(client: &Acquaintance) -> Option<Option<usize>> {
        let room = poll_fn(|context| client.poll_room(context)).now_or_never();
        room.flatten().into_iter().for_each(|room| client.count(room));
        room
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_comes_back() {
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
    async fn an_address_has_a_part_of_it() {
        let (all, here, there) = (budget(3), budget(2), budget(2));
        let of = |own: &Arc<Semaphore>| Acquaintance::new(vec![own.clone(), all.clone()]);
        let (greedy, neighbour, other) = (of(&here), of(&here), of(&there));
        let sent = [&greedy, &neighbour, &other].map(|client| std::iter::from_fn(|| send(client)).count());
        assert_eq!(sent, [3, 1, 2], "what each has, and two, none and one more");
    }
}
