//! What one principal has over all its connections and sessions: requests, bytes, subscriptions, streams over HTTP, and
//! what waits for the engine.
//!
//! How many connections and sessions it has is counted where those are, in [`crate::mqtt::sessions`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    rate::{Meter, Rate},
    table::{Entry, Table},
};

/// What every principal has used.
#[derive(Debug)]
pub struct Principals {
    limits: Arc<PrincipalLimits>,
    known: Table<Arc<str>, Arc<Allowance>>,
    /// Streams of all of them.
    streams: Arc<AtomicUsize>,
}

/// What one principal may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrincipalLimits {
    /// Requests to all shadows.
    pub(super) requests: Rate,
    /// Bytes on all connections.
    pub(super) bytes: Rate,
    /// Filters of all sessions.
    pub(super) subscriptions_max: usize,
    /// Streams of events and waits over HTTP.
    pub(super) streams_max: usize,
}

/// What one principal has used. Whoever acts for it holds this, so that it need not be looked up.
#[derive(Debug)]
pub struct Allowance {
    limits: Arc<PrincipalLimits>,
    requests: Mutex<Meter>,
    bytes: Mutex<Meter>,
    subscriptions: AtomicUsize,
    streams: AtomicUsize,
    reads: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

/// What a walk through the store, or a command on its way to the engine, takes of what its principal may have at once;
/// it counts until it is dropped.
#[derive(Debug)]
pub struct Share {
    _permit: OwnedSemaphorePermit,
    _own: Arc<Allowance>,
}

/// A stream of events or a wait of a principal, which counts until it is dropped.
#[derive(Debug)]
pub struct Streaming {
    own: Arc<Allowance>,
    all: Arc<AtomicUsize>,
}

impl Principals {
    /// Principals that may each use `limits`; `entries_max` of them are known.
    pub(super) fn new(limits: PrincipalLimits, entries_max: usize) -> Self {
        Self { limits: Arc::new(limits), known: Table::new(entries_max), streams: Arc::default() }
    }

    /// What `principal` has used.
    #[must_use]
    pub fn of(&self, principal: &Arc<str>, now: Instant) -> Arc<Allowance> {
        self.with(principal, now, Arc::clone)
    }

    /// Counts one request.
    ///
    /// # Errors
    ///
    /// The time to wait; nothing was counted.
    pub(super) fn request(&self, principal: &Arc<str>, now: Instant) -> Result<(), Duration> {
        self.with(principal, now, |known| known.requests.lock().take(self.limits.requests, now))
    }

    /// Counts one more stream of events or wait; `None`: there may be no more.
    pub(super) fn stream(&self, principal: &Arc<str>, now: Instant) -> Option<Streaming> {
        let allowance = self.of(principal, now);
        let one_more = |count: usize| (count < self.limits.streams_max).then_some(count + 1);
        let counted = allowance.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok()?;
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(Streaming { own: allowance, all: self.streams.clone() })
    }

    /// Waits until `principal` may make one more walk through the store: [`READS_MAX`] of its own go on at once, and
    /// the others wait for these and for nobody else.
    pub async fn reading(&self, principal: &Arc<str>, now: Instant) -> Share {
        let own = self.of(principal, now);
        own.wait(&own.reads, 1).await
    }

    /// How many streams of events and waits there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// How many streams of events and waits a principal may have.
    pub(super) fn streams_max(&self) -> usize {
        self.limits.streams_max
    }

    /// How many bytes a principal may send.
    pub(super) fn bytes(&self) -> Rate {
        self.limits.bytes
    }

    /// How many requests a principal may make.
    pub(super) fn requests(&self) -> Rate {
        self.limits.requests
    }

    fn with<T>(&self, principal: &Arc<str>, now: Instant, with: impl FnOnce(&Arc<Allowance>) -> T) -> T {
        let new = || Arc::new(Allowance::new(self.limits.clone(), now));
        self.known.with(principal, now, Clone::clone, new, |known| with(known))
    }
}

impl Allowance {
    fn new(limits: Arc<PrincipalLimits>, now: Instant) -> Self {
        let nothing = || Mutex::new(Meter::new(now));
        let (subscriptions, streams) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (reads, queue) = (Arc::new(Semaphore::new(READS_MAX)), Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize)));
        Self { limits, requests: nothing(), bytes: nothing(), subscriptions, streams, reads, queue }
    }

    /// Counts bytes that were received, and tells how long to wait before receiving more.
    pub fn received(&self, bytes: u64, now: Instant) -> Option<Duration> {
        self.bytes.lock().charge(self.limits.bytes, bytes, now)
    }

    /// Counts bytes that were received, unless there were too many already; then tells how long to wait.
    ///
    /// # Errors
    ///
    /// The time to wait; nothing was counted.
    pub(super) fn receive(&self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let mut meter = self.bytes.lock();
        match meter.excess(self.limits.bytes, now) {
            Some(wait) => Err(wait),
            None => {
                meter.charge(self.limits.bytes, bytes, now);
                Ok(())
            }
        }
    }

    /// Room for a command that takes `bytes`, if the principal has some now.
    #[must_use]
    pub fn try_queue(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let permit = self.queue.clone().try_acquire_many_owned(queue_share(bytes)).ok()?;
        Some(Share { _permit: permit, _own: self.clone() })
    }

    /// Waits until the principal has room for a command that takes `bytes`: its own have so much of the engine's queue
    /// at once, and the others wait for these, so that those of other principals need not.
    pub async fn queue(self: &Arc<Self>, bytes: usize) -> Share {
        self.wait(&self.queue, queue_share(bytes)).await
    }

    async fn wait(self: &Arc<Self>, of: &Arc<Semaphore>, count: u32) -> Share {
        let permit = of.clone().acquire_many_owned(count).await.expect("this semaphore is never closed");
        Share { _permit: permit, _own: self.clone() }
    }

    /// Counts one more subscription, if there may be one.
    #[must_use]
    pub fn subscribe(&self) -> bool {
        let one_more = |count: usize| (count < self.limits.subscriptions_max).then_some(count + 1);
        self.subscriptions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives `count` subscriptions back that were counted.
    pub fn unsubscribe(&self, count: usize) {
        self.subscriptions.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.own.streams.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry for Arc<Allowance> {
    /// While somebody holds it, it must be found again, or there would be two of one principal.
    fn is_idle(&self, now: Instant) -> bool {
        Arc::strong_count(self) == 1 && self.requests.lock().is_idle(now) && self.bytes.lock().is_idle(now)
    }
}

/// Walks through the store that one principal makes at once; there are twice as many for all.
const READS_MAX: usize = 4;

/// Bytes of the engine's queue that the commands of one principal take at once: a quarter. A larger one takes all of
/// these.
const QUEUE_BYTES_MAX: u32 = 16 << 20;

fn queue_share(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn principals(entries_max: usize) -> Principals {
        let rate = Rate::new(10, 10);
        let limits = PrincipalLimits { requests: rate, bytes: rate, subscriptions_max: 3, streams_max: 2 };
        Principals::new(limits, entries_max)
    }

    #[test]
    fn all_that_act_for_a_principal_share() {
        let (principals, now) = (principals(1_000), Instant::now());
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let (first, second) = (principals.of(&a, now), principals.of(&a, now));
        assert!(first.subscribe() && second.subscribe() && first.subscribe() && !second.subscribe());
        second.unsubscribe(2);
        assert!(first.subscribe());
        assert_eq!(first.received(10, now), None);
        assert_eq!(second.received(10, now), Some(Duration::from_secs(1)));
        assert_eq!(principals.of(&b, now).received(10, now), None, "another has its own");
        assert_eq!(second.receive(1, now), Err(Duration::from_secs(1)), "and this is not counted");
        assert_eq!(second.receive(10, now + Duration::from_secs(1)), Ok(()));
        assert_eq!(second.receive(1, now + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        for _ in 0..10 {
            assert_eq!(principals.request(&a, now), Ok(()));
        }
        assert_eq!(principals.request(&a, now), Err(Duration::from_millis(100)));
        assert_eq!(principals.request(&b, now), Ok(()));
        let (one, two) = (principals.stream(&a, now), principals.stream(&a, now));
        assert!(one.is_some() && two.is_some() && principals.stream(&a, now).is_none());
        assert!(principals.stream(&b, now).is_some());
        drop(one);
        assert_eq!(principals.streams(), 1);
        assert!(principals.stream(&a, now).is_some());
    }

    /// One that asks for a hundred has its own waiting for it, and nobody else's.
    #[test]
    fn walks_of_a_principal_wait_for_each_other() {
        let (principals, now) = (principals(1_000), Instant::now());
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let mut turns: Vec<_> =
            (0..READS_MAX).map(|_| principals.reading(&a, now).now_or_never().expect("a turn")).collect();
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(principals.reading(&a, now))).collect();
        assert!(waiting.iter_mut().all(|reading| reading.now_or_never().is_none()));
        assert!(principals.reading(&b, now).now_or_never().is_some());
        turns.pop();
        let went_on = waiting.iter_mut().filter_map(|reading| reading.now_or_never()).collect::<Vec<_>>();
        assert_eq!(went_on.len(), 1);
    }

    /// One that sends more than the engine can decide has its own waiting for it, and nobody else's.
    #[test]
    fn commands_of_a_principal_wait_for_each_other() {
        let (principals, now) = (principals(1_000), Instant::now());
        let (a, b) = (principals.of(&Arc::from("a"), now), principals.of(&Arc::from("b"), now));
        let large = QUEUE_BYTES_MAX as usize / 4;
        let mut queued: Vec<_> = (0..4).map(|_| a.try_queue(large).expect("room")).collect();
        let mut waiting = Box::pin(a.queue(1));
        assert!(a.try_queue(1).is_none() && waiting.as_mut().now_or_never().is_none());
        let other = b.try_queue(usize::MAX).expect("as large as can be, and another's");
        assert!(b.try_queue(1).is_none());
        queued.pop();
        assert!(waiting.now_or_never().is_some());
        drop(other);
        assert!(b.try_queue(1).is_some());
    }

    /// An allowance that a session holds is the one that is found, however many others came and went.
    #[test]
    fn what_is_held_is_not_forgotten() {
        let (principals, start) = (principals(1 << 20), Instant::now());
        let (held, name) = (principals.of(&Arc::from("held"), start), Arc::from("held"));
        for n in 0..20_000_u32 {
            let now = start + Duration::from_millis(n.into());
            assert_eq!(principals.request(&Arc::from(format!("p{n}")), now), Ok(()));
        }
        assert!(principals.known.len() < 10_000, "{} known", principals.known.len());
        assert!(Arc::ptr_eq(&held, &principals.of(&name, start + Duration::from_secs(60))));
    }
}
