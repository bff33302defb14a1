//! Quotas of one principal over all its connections and sessions: requests, bytes, subscriptions, HTTP streams, and
//! bytes in the engine queue.
//!
//! Its connections and sessions are counted where they are held, in [`crate::mqtt::broker::sessions`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    admission::{
        preauth_budget::{Budget, Budgets},
        rate_table::{RateEntry, RateTable},
    },
    rate::{Gcra, Rate},
};

/// The usage of every principal.
#[derive(Debug)]
pub struct Principals {
    limits: Arc<PrincipalLimits>,
    known: RateTable<Arc<str>, Arc<PrincipalQuota>>,
    /// The number of streams of all principals.
    streams: Arc<AtomicUsize>,
    /// The budget of received bytes of all principals that are not handled yet.
    input: Budget,
}

/// The limits of one principal.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrincipalLimits {
    /// The rate of requests to all shadows.
    pub(super) requests: Rate,
    /// The rate of bytes over all connections.
    pub(super) bytes: Rate,
    /// Most filters over all sessions.
    pub(super) subscriptions_max: usize,
    /// Most event streams and waits over HTTP.
    pub(super) streams_max: usize,
    /// Bytes that were received and not handled yet.
    pub(super) input_bytes_max: usize,
}

/// The usage of one principal. Connections and sessions keep a reference, which saves the lookup.
#[derive(Debug)]
pub struct PrincipalQuota {
    limits: Arc<PrincipalLimits>,
    requests: Mutex<Gcra>,
    bytes: Mutex<Gcra>,
    subscriptions: AtomicUsize,
    streams: AtomicUsize,
    reads: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// The budget of the principal and that of all principals.
    input: Budgets,
}

/// A permit for a scan of the store, or for queue bytes of a command, within the limits of its principal. Dropping it
/// releases them.
#[derive(Debug)]
pub struct PrincipalPermit {
    _permit: OwnedSemaphorePermit,
    _own: Arc<PrincipalQuota>,
}

/// A permit for an event stream or a wait of a principal; dropping it releases the stream.
#[derive(Debug)]
pub struct Streaming {
    own: Arc<PrincipalQuota>,
    all: Arc<AtomicUsize>,
}

impl Principals {
    /// Returns the quotas of at most `entries_max` principals, each with `limits`.
    pub(super) fn new(limits: PrincipalLimits, entries_max: usize, input: Budget) -> Self {
        Self { limits: Arc::new(limits), known: RateTable::new(entries_max), streams: Arc::default(), input }
    }

    /// Returns the usage of `principal`.
    #[must_use]
    pub fn of(&self, principal: &Arc<str>, now: Instant) -> Arc<PrincipalQuota> {
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

    /// Counts one more event stream or wait; `None` if the principal is at its maximum.
    pub(super) fn stream(&self, principal: &Arc<str>, now: Instant) -> Option<Streaming> {
        let allowance = self.of(principal, now);
        let one_more = |count: usize| (count < self.limits.streams_max).then_some(count + 1);
        let counted = allowance.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok()?;
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(Streaming { own: allowance, all: self.streams.clone() })
    }

    /// Waits for a permit to scan the store. [`READS_MAX`] scans of one principal run at once; the others wait for
    /// these, not for scans of other principals.
    pub async fn reading(&self, principal: &Arc<str>, now: Instant) -> PrincipalPermit {
        let own = self.of(principal, now);
        own.wait(&own.reads, 1).await
    }

    /// Returns the number of event streams and waits of all principals.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Returns the maximum of event streams and waits per principal.
    pub(super) fn streams_max(&self) -> usize {
        self.limits.streams_max
    }

    /// Returns the rate of bytes per principal.
    pub(super) fn bytes(&self) -> Rate {
        self.limits.bytes
    }

    /// Returns the rate of requests per principal.
    pub(super) fn requests(&self) -> Rate {
        self.limits.requests
    }

    fn with<T>(&self, principal: &Arc<str>, now: Instant, with: impl FnOnce(&Arc<PrincipalQuota>) -> T) -> T {
        let new = || Arc::new(PrincipalQuota::new(self.limits.clone(), self.input.clone(), now));
        self.known.with(principal, now, Clone::clone, new, |known| with(known))
    }
}

impl PrincipalQuota {
    fn new(limits: Arc<PrincipalLimits>, input: Budget, now: Instant) -> Self {
        let nothing = || Mutex::new(Gcra::new(now));
        let (subscriptions, streams) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (reads, queue) = (Arc::new(Semaphore::new(READS_MAX)), Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize)));
        let input = [Budget::new(limits.input_bytes_max), input].into();
        Self { limits, requests: nothing(), bytes: nothing(), subscriptions, streams, reads, queue, input }
    }

    /// Returns the budgets of received bytes that are not handled yet.
    pub(super) fn input(&self) -> &Budgets {
        &self.input
    }

    /// Counts received bytes. Returns the time to wait before receiving more, if any.
    pub fn received(&self, bytes: u64, now: Instant) -> Option<Duration> {
        self.bytes.lock().charge(self.limits.bytes, bytes, now)
    }

    /// Counts received bytes, unless the principal already exceeds its rate.
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

    /// Reserves queue bytes for a command; `None` if the principal has too few left.
    #[must_use]
    pub fn try_queue(self: &Arc<Self>, bytes: usize) -> Option<PrincipalPermit> {
        let permit = self.queue.clone().try_acquire_many_owned(queue_share(bytes)).ok()?;
        Some(PrincipalPermit { _permit: permit, _own: self.clone() })
    }

    /// Waits until the principal has queue bytes for a command. Commands of one principal share a part of the engine
    /// queue and wait for each other, so commands of other principals need not wait.
    pub async fn queue(self: &Arc<Self>, bytes: usize) -> PrincipalPermit {
        self.wait(&self.queue, queue_share(bytes)).await
    }

    async fn wait(self: &Arc<Self>, of: &Arc<Semaphore>, count: u32) -> PrincipalPermit {
        let permit = of.clone().acquire_many_owned(count).await.expect("this semaphore is never closed");
        PrincipalPermit { _permit: permit, _own: self.clone() }
    }

    /// Counts one more subscription; false if the principal is at its maximum.
    #[must_use]
    pub fn subscribe(&self) -> bool {
        let one_more = |count: usize| (count < self.limits.subscriptions_max).then_some(count + 1);
        self.subscriptions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Releases `count` subscriptions.
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

impl RateEntry for Arc<PrincipalQuota> {
    /// An entry in use must stay in the table, or its principal would get a second one.
    fn is_idle(&self, now: Instant) -> bool {
        Arc::strong_count(self) == 1
            && Arc::strong_count(&self.input) == 1
            && self.requests.lock().is_idle(now)
            && self.bytes.lock().is_idle(now)
    }
}

/// Most concurrent scans of the store by one principal; all principals together have twice as many.
const READS_MAX: usize = 4;

/// Most queue bytes of the commands of one principal, a quarter of the engine queue. A larger command takes all of
/// them.
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
        let limits =
            PrincipalLimits { requests: rate, bytes: rate, subscriptions_max: 3, streams_max: 2, input_bytes_max: 0 };
        Principals::new(limits, entries_max, Budget::new(0))
    }

    #[test]
    fn connections_of_a_principal_share_its_quota() {
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

    /// A hundred scans of one principal wait for each other and delay no other principal.
    #[test]
    fn scans_of_a_principal_wait_for_each_other() {
        let (principals, now) = (principals(1_000), Instant::now());
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let mut permits: Vec<_> =
            (0..READS_MAX).map(|_| principals.reading(&a, now).now_or_never().expect("a turn")).collect();
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(principals.reading(&a, now))).collect();
        assert!(waiting.iter_mut().all(|reading| reading.now_or_never().is_none()));
        assert!(principals.reading(&b, now).now_or_never().is_some());
        permits.pop();
        let resumed = waiting.iter_mut().filter_map(|reading| reading.now_or_never()).collect::<Vec<_>>();
        assert_eq!(resumed.len(), 1);
    }

    /// Commands of one principal beyond the capacity of the engine wait for each other and delay no other principal.
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

    /// An entry that a session holds stays in the table, however many other entries come and go.
    #[test]
    fn an_entry_in_use_is_not_evicted() {
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
