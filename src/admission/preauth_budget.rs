//! Memory budgets for input that is not handled yet.
//!
//! Each client may use a few bytes freely. Beyond these, all unauthenticated clients share one budget, and those of one
//! source address a part of it. All authenticated clients share another one, and those of one principal a part of it.
//! So the total is bounded, and neither an address nor a principal can take all of it.
//!
//! The stream of a connection acquires budget before it reads ([`crate::net`]). The code that authenticates the client,
//! or that handles or discards its input, releases it. An authenticated client that waits for [`WAIT_MAX`] is
//! disconnected, which releases what it holds: clients that each hold a part cannot block each other for ever.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::admission::{memory::Charge, principals::PrincipalQuota};

/// The budget of one connection. All clones refer to the same connection.
#[derive(Clone)]
pub struct PreAuthPermit(Arc<Mutex<Option<BudgetShare>>>);

/// Bytes that several clients share.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    left: Arc<Semaphore>,
    bytes: usize,
}

/// Budgets that one client takes from, in this order.
pub(super) type Budgets = Arc<[Budget]>;

/// The state of a client; dropping it releases its share of the budgets.
struct BudgetShare {
    budgets: Budgets,
    /// The same bytes, charged to the principal of an authenticated client.
    charge: Option<Charge>,
    /// One permit of each budget, or none.
    held: Vec<OwnedSemaphorePermit>,
    growing: Option<PendingAcquire>,
    /// Bytes that the client may send.
    room: usize,
    /// Bytes that the client sent and that may still be in memory.
    sent: usize,
    /// The task that waits for the budget.
    waiting: Option<Waker>,
}

/// A pending acquisition from all budgets; `None` after [`WAIT_MAX`].
type PendingAcquire = Pin<Box<dyn Future<Output = Option<Vec<OwnedSemaphorePermit>>> + Send>>;

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// True if nobody can have any of it.
    pub(super) fn is_whole(&self) -> bool {
        Arc::strong_count(&self.left) == 1
    }

    /// True if at least half of it is left after `bytes` more.
    fn has_plenty(&self, bytes: u32) -> bool {
        self.left.available_permits() >= self.bytes / 2 + bytes as usize
    }
}

impl PreAuthPermit {
    /// Returns the budget of an unauthenticated client that has sent nothing and holds nothing of `budgets`.
    pub(super) fn new(budgets: Vec<Budget>) -> Self {
        Self(Arc::new(Mutex::new(Some(BudgetShare::new(budgets.into(), None)))))
    }

    /// Waits until some bytes may be read and returns their number; `None` if there is no limit.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::QuotaExceeded`]: the client is authenticated and has waited for too long.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let mut occupant = self.0.lock();
        let Some(occupant) = &mut *occupant else { return Poll::Ready(Ok(None)) };
        if occupant.sent >= occupant.room {
            occupant.waiting = Some(context.waker().clone());
            let grown = ready!(occupant.poll_grow(context));
            occupant.waiting = None;
            if !grown {
                return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
            }
        }
        Poll::Ready(Ok(Some(occupant.room.saturating_sub(occupant.sent))))
    }

    /// Makes room for more without waiting, if the budgets have plenty. Returns false if there is no room.
    #[must_use]
    pub fn has_spare_room(&self) -> bool {
        let mut occupant = self.0.lock();
        let Some(occupant) = &mut *occupant else { return true };
        occupant.sent < occupant.room || occupant.grow_at_once()
    }

    /// True if the client waits for budget that others hold.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|occupant| occupant.waiting.is_some())
    }

    /// Counts `bytes` that were read.
    pub fn count(&self, bytes: usize) {
        if let Some(occupant) = &mut *self.0.lock() {
            occupant.sent += bytes;
        }
    }

    /// Releases all but `bytes` of what was read so far.
    pub fn hold(&self, bytes: usize) {
        if let Some(occupant) = &mut *self.0.lock() {
            occupant.hold(bytes);
        }
    }

    /// Releases all of what was read so far.
    pub fn release(&self) {
        self.hold(0);
    }

    /// Marks the client as authenticated: from now on it uses the budgets of `principal`. Releases what was read so
    /// far.
    pub fn know(&self, principal: &Arc<PrincipalQuota>) {
        let budgets = principal.input();
        let mut occupant = self.0.lock();
        if occupant.as_ref().is_some_and(|occupant| occupant.is_known() && Arc::ptr_eq(&occupant.budgets, budgets)) {
            return;
        }
        let before = occupant.replace(BudgetShare::new(budgets.clone(), Some(Charge::new(principal.clone(), 0))));
        before.and_then(|before| before.waiting).into_iter().for_each(Waker::wake);
    }

    /// Lifts the limit, for a client whose further input is discarded or has a limit of its own.
    pub fn settle(&self) {
        let occupant = self.0.lock().take();
        occupant.and_then(|occupant| occupant.waiting).into_iter().for_each(Waker::wake);
    }
}

impl BudgetShare {
    fn new(budgets: Budgets, charge: Option<Charge>) -> Self {
        let (held, growing) = (Vec::new(), None);
        let room = if charge.is_some() { KNOWN_FREE_BYTES } else { FREE_BYTES };
        Self { budgets, charge, held, growing, room, sent: 0, waiting: None }
    }

    /// Returns true once the client is authenticated.
    fn is_known(&self) -> bool {
        self.charge.is_some()
    }

    /// Charges the room beyond the free bytes to the principal.
    fn charge_room(&mut self) {
        let bytes = self.room - self.free();
        if let Some(charge) = &mut self.charge {
            charge.resize(bytes);
        }
    }

    fn free(&self) -> usize {
        if self.is_known() { KNOWN_FREE_BYTES } else { FREE_BYTES }
    }

    fn step(&self) -> u32 {
        if self.is_known() { KNOWN_STEP_BYTES } else { STEP_BYTES }
    }

    /// Waits for one step of each budget. Returns false after [`WAIT_MAX`].
    fn poll_grow(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let (step, known) = (self.step(), self.is_known());
        let growing = self.growing.get_or_insert_with(|| {
            let budgets = self.budgets.clone();
            let acquired = async move {
                let mut held = Vec::with_capacity(budgets.len());
                for budget in &*budgets {
                    held.extend(budget.left.clone().acquire_many_owned(step).await); // never closed
                }
                held
            };
            Box::pin(async move { if known { timeout(WAIT_MAX, acquired).await.ok() } else { Some(acquired.await) } })
        });
        let grown = ready!(growing.as_mut().poll(context));
        self.growing = None;
        let Some(permits) = grown else { return Poll::Ready(false) };
        self.take(permits);
        Poll::Ready(true)
    }

    fn grow_at_once(&mut self) -> bool {
        let step = self.step();
        // Half of each budget is for packets that cannot be handled before they are whole.
        if self.growing.is_some() || self.budgets.iter().any(|budget| !budget.has_plenty(step)) {
            return false;
        }
        let acquired = self.budgets.iter().map(|budget| budget.left.clone().try_acquire_many_owned(step));
        let Ok(permits) = acquired.collect::<Result<Vec<_>, _>>() else { return false };
        self.take(permits);
        true
    }

    fn take(&mut self, permits: Vec<OwnedSemaphorePermit>) {
        self.room += self.step() as usize;
        self.charge_room();
        if self.held.is_empty() {
            self.held = permits;
            return;
        }
        for (held, permit) in self.held.iter_mut().zip(permits) {
            held.merge(permit);
        }
    }

    fn hold(&mut self, bytes: usize) {
        self.sent = bytes;
        let step = self.step() as usize;
        let surplus = self.room.saturating_sub(bytes.max(self.free())) / step * step;
        if surplus > 0 {
            self.room -= surplus;
            self.charge_room();
            for held in &mut self.held {
                drop(held.split(surplus));
            }
            if self.room == self.free() {
                self.held = Vec::new();
            }
        }
        if self.sent < self.room {
            self.growing = None;
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl fmt::Debug for PreAuthPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreAuthPermit").finish_non_exhaustive()
    }
}

/// Free bytes of each unauthenticated client; most CONNECT packets are smaller.
const FREE_BYTES: usize = 4 * 1024;
/// Bytes that it acquires at once beyond that.
pub(super) const STEP_BYTES: u32 = 16 * 1024;
/// The same for authenticated clients.
const KNOWN_FREE_BYTES: usize = 16 * 1024;
const KNOWN_STEP_BYTES: u32 = 64 * 1024;
/// How long an authenticated client waits; longer than the shipped timeout of a request body.
const WAIT_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Instant};

    use futures_util::FutureExt;

    use super::*;
    use crate::{admission::principals::Principals, config::RoleLimits};

    const STEP: usize = STEP_BYTES as usize;

    fn budget(steps: usize) -> Budget {
        Budget::new(steps * STEP)
    }

    /// Sends as much as is read at once; `None`: nothing is.
    fn send(client: &PreAuthPermit) -> Option<Option<usize>> {
        let room = poll_fn(|context| client.poll_room(context)).now_or_never();
        let room = room.map(|room| room.expect("it has not waited long"));
        room.flatten().into_iter().for_each(|room| client.count(room));
        room
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_comes_back() {
        let all = budget(2);
        let [first, second] = [(); 2].map(|()| PreAuthPermit::new(vec![all.clone()]));
        assert_eq!([(); 4].map(|()| send(&first)), [Some(Some(FREE_BYTES)), Some(Some(STEP)), Some(Some(STEP)), None]);
        assert_eq!([(); 2].map(|()| send(&second)), [Some(Some(FREE_BYTES)), None]);
        assert!(first.waits() && second.waits());
        first.release();
        assert!(!first.waits());
        assert_eq!([(); 3].map(|()| send(&second)), [Some(Some(STEP)), Some(Some(STEP)), None]);
        assert_eq!([(); 2].map(|()| send(&first)), [Some(Some(FREE_BYTES)), None]);
        second.settle();
        assert_eq!((send(&first), send(&second)), (Some(Some(STEP)), Some(None)));
        drop((first, second));
        assert_eq!(all.left.available_permits(), 2 * STEP);
    }

    #[tokio::test]
    async fn an_address_has_a_part_of_it() {
        let (all, here, there) = (budget(3), budget(2), budget(2));
        let of = |own: &Budget| PreAuthPermit::new(vec![own.clone(), all.clone()]);
        let (greedy, neighbour, other) = (of(&here), of(&here), of(&there));
        let sent = [&greedy, &neighbour, &other].map(|client| std::iter::from_fn(|| send(client)).count());
        assert_eq!(sent, [3, 1, 2], "what each has, and two, none and one more");
    }

    const KNOWN_STEP: usize = KNOWN_STEP_BYTES as usize;

    fn principals(own: usize, all: usize) -> Principals {
        Principals::new(own * KNOWN_STEP, 100, Budget::new(all * KNOWN_STEP), 1 << 30)
    }

    fn known(principals: &Principals, name: &str) -> PreAuthPermit {
        let client = PreAuthPermit::new(vec![budget(0)]);
        client.count(FREE_BYTES);
        client.know(&principals.of(&name.into(), &RoleLimits::UNLIMITED, Instant::now()));
        client
    }

    #[tokio::test]
    async fn who_is_known_takes_from_its_principal_and_from_all() {
        let principals = principals(2, 3);
        let [first, second, other, last] = ["a", "a", "b", "c"].map(|name| known(&principals, name));
        let steps = |client: &PreAuthPermit| std::iter::from_fn(|| send(client)).count();
        assert_eq!([&first, &second].map(steps), [3, 1], "what each has, and two, and none");
        assert!(second.waits());
        first.hold(KNOWN_FREE_BYTES + 1);
        assert_eq!(send(&second), Some(Some(KNOWN_STEP)), "one step of two came back");
        assert_eq!(principals.memory().used(), 2 * KNOWN_STEP, "charged to the principal");
        first.know(&principals.of(&"a".into(), &RoleLimits::UNLIMITED, Instant::now()));
        assert_eq!(send(&first), Some(Some(KNOWN_STEP - 1)), "to know it again changes nothing");
        assert_eq!([&other, &last].map(steps), [2, 1], "there are three for all");
        drop((first, second));
        assert_eq!([&other, &last].map(steps), [1, 1]);
    }

    #[tokio::test]
    async fn half_is_left_for_packets_that_are_not_whole() {
        let principals = principals(5, 100);
        let [throttled, whole] = ["a"; 2].map(|name| known(&principals, name));
        let mut ahead = 0;
        while throttled.has_spare_room() {
            ahead += 1;
            send(&throttled);
        }
        assert_eq!(ahead, 3, "what it has, and two steps");
        assert_eq!(std::iter::from_fn(|| send(&whole)).count(), 4);
    }
}
