//! Memory that clients occupy before it is known who they are.
//!
//! Each has a little for itself. For more they wait, all for the same budget, and those of one source address for a
//! part of it: so what strangers can make the service hold is bounded, however many they are, one address alone cannot
//! take all of it, and who is known needs none of it.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A client of whom it is not known who it is; dropped, it gives back what it has of the budgets.
pub struct Stranger {
    /// All that it takes from when it takes anything.
    budgets: Vec<Arc<Semaphore>>,
    held: Vec<OwnedSemaphorePermit>,
    room: usize,
    growing: Option<Growing>,
}

/// What comes of waiting for each of the budgets.
type Growing = Pin<Box<dyn Future<Output = Vec<OwnedSemaphorePermit>> + Send>>;

/// Whether a connection's client is a stranger: who reads from it asks, and who finds out who it is tells.
#[derive(Clone, Debug)]
pub struct Acquaintance(Arc<Mutex<Option<Unknown>>>);

/// What a stranger sent that may still be held.
#[derive(Debug)]
struct Unknown {
    stranger: Stranger,
    bytes: usize,
    /// Of who waits for room.
    waits: Option<Waker>,
}

impl Stranger {
    /// One that has nothing of `budgets` yet.
    pub(super) fn new(budgets: Vec<Arc<Semaphore>>) -> Self {
        Self { budgets, held: Vec::new(), room: FREE_BYTES, growing: None }
    }

    /// Bytes that it may occupy.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Waits until it may occupy more.
    pub async fn grow(&mut self) {
        poll_fn(|context| self.poll_grow(context)).await;
    }

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

    /// Gives back all it has beyond what each may have.
    fn shrink(&mut self) {
        self.held = Vec::new();
        self.growing = None;
        self.room = FREE_BYTES;
    }
}

impl fmt::Debug for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stranger").field("room", &self.room).finish_non_exhaustive()
    }
}

impl Acquaintance {
    /// A client that is `stranger` so far, and has sent nothing.
    #[must_use]
    pub fn new(stranger: Stranger) -> Self {
        Self(Arc::new(Mutex::new(Some(Unknown { stranger, bytes: 0, waits: None }))))
    }

    /// How much may be read from the client, once it is something. `None`: the client is known.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<Option<usize>> {
        let mut unknown = self.0.lock();
        let Some(Unknown { stranger, bytes, waits }) = &mut *unknown else { return Poll::Ready(None) };
        if *bytes >= stranger.room() {
            *waits = Some(context.waker().clone());
            ready!(stranger.poll_grow(context));
            *waits = None;
        }
        Poll::Ready(Some(stranger.room() - *bytes))
    }

    /// Whether more would be read if others held less.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|unknown| unknown.waits.is_some())
    }

    /// Counts `bytes` that were read.
    pub fn took(&self, bytes: usize) {
        if let Some(unknown) = &mut *self.0.lock() {
            unknown.bytes += bytes;
        }
    }

    /// Tells that nothing is held any more of what was read.
    pub fn let_go(&self) {
        if let Some(unknown) = &mut *self.0.lock() {
            unknown.bytes = 0;
            unknown.stranger.shrink();
            unknown.waits.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Tells that it is known who the client is.
    pub fn made(&self) {
        let unknown = self.0.lock().take();
        unknown.and_then(|unknown| unknown.waits).into_iter().for_each(Waker::wake);
    }
}

/// What each may occupy; the CONNECT of most clients is smaller.
const FREE_BYTES: usize = 4 * 1024;
/// What it takes at once beyond that.
pub(super) const STEP_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const STEP: usize = STEP_BYTES as usize;

    fn budget(steps: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(steps * STEP))
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_comes_back() {
        let all = budget(2);
        let (mut first, mut second) = (Stranger::new(vec![all.clone()]), Stranger::new(vec![all]));
        assert_eq!(first.room(), FREE_BYTES);
        first.grow().await;
        first.grow().await;
        assert_eq!(first.room(), FREE_BYTES + 2 * STEP);
        {
            let mut waiting = std::pin::pin!(second.grow());
            assert!(waiting.as_mut().now_or_never().is_none());
            drop(first);
            waiting.await;
        }
        assert_eq!(second.room(), FREE_BYTES + STEP);
    }

    #[tokio::test]
    async fn an_address_has_a_part_of_it() {
        let (all, here, there) = (budget(3), budget(2), budget(2));
        let of = |own: &Arc<Semaphore>| Stranger::new(vec![own.clone(), all.clone()]);
        let (mut greedy, mut neighbour, mut other) = (of(&here), of(&here), of(&there));
        greedy.grow().await;
        greedy.grow().await;
        assert!(neighbour.grow().now_or_never().is_none());
        other.grow().await;
        assert!(other.grow().now_or_never().is_none(), "that was the last of all");
    }

    #[tokio::test]
    async fn what_is_let_go_of_comes_back() {
        let all = budget(1);
        let acquaintance = || Acquaintance::new(Stranger::new(vec![all.clone()]));
        let (first, second) = (acquaintance(), acquaintance());
        let room = |of: &Acquaintance| poll_fn(|context| of.poll_room(context)).now_or_never();
        for one in [&first, &second] {
            assert_eq!(room(one), Some(Some(FREE_BYTES)));
            one.took(FREE_BYTES);
        }
        assert_eq!((room(&first), room(&second)), (Some(Some(STEP)), None));
        assert!(second.waits() && !first.waits());
        first.let_go();
        assert_eq!((room(&first), room(&second)), (Some(Some(FREE_BYTES)), Some(Some(STEP))));
        first.took(FREE_BYTES);
        assert_eq!(room(&first), None);
        second.made();
        assert_eq!((room(&first), room(&second)), (Some(Some(STEP)), Some(None)));
    }
}
