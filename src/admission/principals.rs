//! Quotas of one principal: memory, work, filters, HTTP streams, new shadows, and bytes in the engine queue.
//!
//! The limits are those of its roles ([`RoleLimits`]), which whoever knows its rights passes to [`Principals::of`]. Its
//! sessions are counted where they are held, in [`crate::mqtt::broker::sessions`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    admission::{
        cause::QuotaKind,
        counter::{Counter, Permit},
        day_count::{DAY, DayCount},
        memory::{Account, Charge, Memory},
        preauth_budget::{Budget, Budgets},
        rate_table::{RateEntry, RateTable},
        work::WorkMeter,
    },
    config::RoleLimits,
    observability::logging::LineLimit,
    rate::{Gcra, Rate},
};

/// The usage of every principal.
#[derive(Debug)]
pub struct Principals {
    known: RateTable<Arc<str>, Arc<PrincipalQuota>>,
    memory: Arc<Memory>,
    /// The number of streams of all principals.
    streams: Arc<AtomicUsize>,
    /// The budget of received bytes of all principals that are not handled yet.
    input: Budget,
    /// The part of it for one principal.
    input_bytes_max: usize,
}

/// The usage of one principal. Connections and sessions keep a reference, which saves the lookup.
#[derive(Debug)]
pub struct PrincipalQuota {
    /// The name; empty if principals share this entry because the table is full.
    name: Arc<str>,
    limits: RwLock<RoleLimits>,
    account: Account,
    work: Mutex<WorkMeter>,
    filters: AtomicUsize,
    streams: AtomicUsize,
    new_shadows: Mutex<Gcra>,
    /// The shadows that it created, whether they are limited or not.
    created: Mutex<DayCount>,
    /// Waits and refusals for work and memory, for the metrics.
    throttled: AtomicUsize,
    reads: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Refusals that wait for a lookup of their conflicts.
    lookups: Counter,
    lines: LineLimit,
    connection_lines: LineLimit,
    /// The budget of the principal and that of all principals.
    input: Budgets,
}

/// The usage of one principal at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalUsage {
    /// The name of the principal.
    pub name: Arc<str>,
    /// Its limits.
    pub limits: RoleLimits,
    /// Bytes kept on its behalf.
    pub memory: usize,
    /// The time until it is within its rate of work; zero if it is.
    pub throttled_for: Duration,
    /// Times that it was throttled or refused for work or memory since its entry was made.
    pub throttled: usize,
    /// Filters of all its sessions.
    pub filters: usize,
    /// Shadows that it created in the last 24 hours.
    pub new_shadows: usize,
    /// Event streams and waits over HTTP.
    pub streams: usize,
    /// Most of them.
    pub streams_max: usize,
}

/// A permit for a scan of the store, or for queue bytes of a command, within the limits of its principal. Dropping it
/// releases them.
#[derive(Debug)]
pub struct PrincipalPermit {
    _permit: OwnedSemaphorePermit,
    own: Arc<PrincipalQuota>,
}

/// A permit for an event stream or a wait of a principal; dropping it releases the stream.
#[derive(Debug)]
pub struct Streaming {
    charge: Charge,
    all: Arc<AtomicUsize>,
}

impl Principals {
    /// Returns the quotas of at most `entries_max` principals with `memory` bytes together. Each may use
    /// `input_bytes_max` bytes of `input`.
    pub(super) fn new(input_bytes_max: usize, entries_max: usize, input: Budget, memory: usize) -> Self {
        let memory = Arc::new(Memory::new(memory));
        Self { known: RateTable::new(entries_max), memory, streams: Arc::default(), input, input_bytes_max }
    }

    /// Returns the usage of `principal`, whose limits are now `limits`.
    #[must_use]
    pub fn of(&self, principal: &Arc<str>, limits: &RoleLimits, now: Instant) -> Arc<PrincipalQuota> {
        let quota = self.known_or_new(principal, limits, now);
        quota.set_limits(limits);
        quota
    }

    /// Returns the usage of `principal`, whose limits are `limits` if it is not known.
    #[must_use]
    pub fn known_or_new(&self, principal: &Arc<str>, limits: &RoleLimits, now: Instant) -> Arc<PrincipalQuota> {
        let new = || Arc::new(PrincipalQuota::new(principal, limits, self, now));
        self.known.with(principal, now, Clone::clone, new, |known| known.clone())
    }

    /// Returns the quota of `principal`; `None` if it is not known.
    #[must_use]
    pub fn known(&self, principal: &str) -> Option<Arc<PrincipalQuota>> {
        self.known.get(principal)
    }

    /// Returns the usage of `principal`; `None` if it has none.
    #[must_use]
    pub fn usage(&self, principal: &str, now: Instant) -> Option<PrincipalUsage> {
        self.known.get(principal).map(|quota| quota.usage(now))
    }

    /// Returns the usage of the `count` principals with the most memory, largest first.
    #[must_use]
    pub fn largest(&self, count: usize, now: Instant) -> Vec<PrincipalUsage> {
        self.top(count, PrincipalQuota::memory_used, now)
    }

    /// Returns the usage of the `count` principals that were throttled or refused most often, most first.
    #[must_use]
    pub fn most_throttled(&self, count: usize, now: Instant) -> Vec<PrincipalUsage> {
        self.top(count, |quota| quota.throttled.load(Ordering::Relaxed), now)
    }

    /// Returns the usage of the `count` principals with the most new shadows, most first.
    #[must_use]
    pub fn most_new_shadows(&self, count: usize, now: Instant) -> Vec<PrincipalUsage> {
        self.top(count, |quota| quota.new_shadows_used(now), now)
    }

    /// Returns the usage of the `count` principals with the largest amount that is not zero.
    fn top(&self, count: usize, amount: impl Fn(&PrincipalQuota) -> usize, now: Instant) -> Vec<PrincipalUsage> {
        let mut top: Vec<(usize, Arc<PrincipalQuota>)> = Vec::new();
        self.known.for_each(|quota| {
            let amount = amount(quota);
            if amount == 0 || top.len() == count && top.last().is_some_and(|(least, _)| *least >= amount) {
                return;
            }
            let at = top.partition_point(|(more, _)| *more >= amount);
            top.insert(at, (amount, quota.clone()));
            top.truncate(count);
        });
        top.into_iter().map(|(_, quota)| quota.usage(now)).collect()
    }

    /// Returns the memory of all principals.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Waits for a permit to scan the store. [`READS_MAX`] scans of one principal run at once; the others wait for
    /// these, not for scans of other principals.
    pub async fn reading(&self, quota: &Arc<PrincipalQuota>) -> PrincipalPermit {
        quota.wait(&quota.reads, 1).await
    }

    /// Counts one more event stream or wait of the principal with this quota.
    ///
    /// # Errors
    ///
    /// The quota that it would exceed; nothing was counted.
    pub(super) fn stream(&self, quota: &Arc<PrincipalQuota>) -> Result<Streaming, QuotaKind> {
        quota.check_memory(STREAM_BYTES)?;
        let max = quota.streams_max();
        let one_more = |count: usize| (count < max).then_some(count + 1);
        let counted = quota.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.map_err(|_| QuotaKind::PrincipalStreams)?;
        self.streams.fetch_add(1, Ordering::Relaxed);
        Ok(Streaming { charge: Charge::new(quota.clone(), STREAM_BYTES), all: self.streams.clone() })
    }

    /// Returns the number of event streams and waits of all principals.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

impl PrincipalQuota {
    fn new(name: &Arc<str>, limits: &RoleLimits, of: &Principals, now: Instant) -> Self {
        let none = || AtomicUsize::new(0);
        Self {
            name: name.clone(),
            limits: RwLock::new(*limits),
            account: Account::new(of.memory.clone()),
            work: Mutex::new(WorkMeter::new(now)),
            filters: none(),
            streams: none(),
            new_shadows: Mutex::new(Gcra::new(now)),
            created: Mutex::new(DayCount::new(now)),
            throttled: none(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            queue: Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize)),
            lookups: Counter::default(),
            lines: LineLimit::default(),
            connection_lines: LineLimit::new(Rate::new(CONNECTION_LINES_PER_SECOND, CONNECTION_LINES_BURST)),
            input: [Budget::new(of.input_bytes_max), of.input.clone()].into(),
        }
    }

    /// Returns the quota of a principal without limits, for messages that another node has admitted, for benchmarks and tests.
    #[must_use]
    pub fn unlimited(name: &str) -> Arc<Self> {
        let all = Principals::new(usize::MAX, 1, Budget::new(usize::MAX), usize::MAX);
        Arc::new(Self::new(&name.into(), &RoleLimits::UNLIMITED, &all, Instant::now()))
    }

    /// Returns the name of the principal.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the limits of the principal.
    #[must_use]
    pub fn limits(&self) -> RoleLimits {
        *self.limits.read()
    }

    /// Replaces the limits, which change when roles are reloaded.
    pub fn set_limits(&self, limits: &RoleLimits) {
        if *self.limits.read() != *limits {
            *self.limits.write() = *limits;
        }
    }

    /// Returns the usage at `now`.
    #[must_use]
    pub fn usage(&self, now: Instant) -> PrincipalUsage {
        let limits = self.limits();
        PrincipalUsage {
            name: self.name.clone(),
            limits,
            memory: self.memory_used(),
            throttled_for: self.work.lock().excess(limits.work, now).unwrap_or_default(),
            throttled: self.throttled.load(Ordering::Relaxed),
            filters: self.filters.load(Ordering::Relaxed),
            new_shadows: self.new_shadows_used(now),
            streams: self.streams.load(Ordering::Relaxed),
            streams_max: self.streams_max(),
        }
    }

    /// Checks that `more` bytes may be kept for the principal.
    ///
    /// # Errors
    ///
    /// [`QuotaKind::PrincipalMemory`] or [`QuotaKind::Memory`].
    pub fn check_memory(&self, more: usize) -> Result<(), QuotaKind> {
        let checked = self.account.check(&self.name, self.limits.read().memory, more);
        checked.inspect_err(|_| self.count_throttled())
    }

    /// Returns the bytes kept for the principal.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.account.used()
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Charges work that was done. Returns the time to wait before the principal may cause more.
    pub fn charge_work(&self, units: u64, now: Instant) -> Option<Duration> {
        let per_second = self.limits.read().work;
        let wait = self.work.lock().charge(per_second, units, now);
        wait.inspect(|_| self.count_throttled())
    }

    /// Charges work that is about to be done, unless the principal is above the rate of its role.
    ///
    /// # Errors
    ///
    /// The time to wait; nothing was charged.
    pub(super) fn admit_work(&self, units: u64, now: Instant) -> Result<(), Duration> {
        let per_second = self.limits.read().work;
        let mut work = self.work.lock();
        match work.excess(per_second, now) {
            Some(wait) => {
                self.count_throttled();
                Err(wait)
            }
            None => {
                work.charge(per_second, units, now);
                Ok(())
            }
        }
    }

    fn count_throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns true if the principal may create a shadow now.
    #[must_use]
    pub fn may_create_shadow(&self, now: Instant) -> bool {
        self.new_shadows_rate().is_some_and(|rate| self.new_shadows.lock().wait(rate, now).is_none())
    }

    /// Counts a shadow that the principal created.
    pub fn count_new_shadow(&self, now: Instant) {
        self.created.lock().add(now);
        if let Some(rate) = self.new_shadows_rate() {
            self.new_shadows.lock().charge(rate, 1, now);
        }
    }

    fn new_shadows_used(&self, now: Instant) -> usize {
        self.created.lock().get(now)
    }

    /// `None`: the principal may create none.
    fn new_shadows_rate(&self) -> Option<Rate> {
        let per_day = self.limits.read().new_shadows_per_day;
        (per_day > 0).then(|| Rate::within(per_day.into(), DAY, per_day.into()))
    }

    /// Returns the most event streams and waits of the principal.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        self.limits.read().sessions.min(STREAMS_MAX)
    }

    /// Returns the budgets of received bytes that are not handled yet.
    pub(super) fn input(&self) -> &Budgets {
        &self.input
    }

    /// Returns a permit for a refusal to wait for a lookup of its conflicts; `None` if [`LOOKUPS_MAX`] of the principal
    /// wait.
    #[must_use]
    pub fn conflict_lookup(&self) -> Option<Permit> {
        (self.lookups.count() < LOOKUPS_MAX).then(|| self.lookups.take())
    }

    /// Returns the limit of the lines about what the principal does, such as storing named queries.
    #[must_use]
    pub fn lines(&self) -> &LineLimit {
        &self.lines
    }

    /// Returns the limit of the lines about the beginning and end of its connections.
    #[must_use]
    pub fn connection_lines(&self) -> &LineLimit {
        &self.connection_lines
    }

    /// Reserves queue bytes for a command; `None` if the principal has too few left.
    #[must_use]
    pub fn try_queue(self: &Arc<Self>, bytes: usize) -> Option<PrincipalPermit> {
        let permit = self.queue.clone().try_acquire_many_owned(queue_share(bytes)).ok()?;
        Some(PrincipalPermit { _permit: permit, own: self.clone() })
    }

    /// Waits until the principal has queue bytes for a command. Commands of one principal share a part of the engine
    /// queue and wait for each other, so commands of other principals need not wait.
    pub async fn queue(self: &Arc<Self>, bytes: usize) -> PrincipalPermit {
        self.wait(&self.queue, queue_share(bytes)).await
    }

    async fn wait(self: &Arc<Self>, of: &Arc<Semaphore>, count: u32) -> PrincipalPermit {
        let permit = of.clone().acquire_many_owned(count).await.expect("this semaphore is never closed");
        PrincipalPermit { _permit: permit, own: self.clone() }
    }

    /// Counts one more filter; false if the principal is at its maximum.
    #[must_use]
    pub fn add_filter(&self) -> bool {
        let max = self.limits.read().filters;
        let one_more = |count: usize| (count < max).then_some(count + 1);
        self.filters.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Counts one more filter, whatever the limit is.
    pub fn restore_filter(&self) {
        self.filters.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases `count` filters.
    pub fn remove_filters(&self, count: usize) {
        self.filters.fetch_sub(count, Ordering::Relaxed);
    }
}

impl PrincipalPermit {
    /// Returns the quota of the principal.
    #[must_use]
    pub fn quota(&self) -> &Arc<PrincipalQuota> {
        &self.own
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.charge.quota().streams.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RateEntry for Arc<PrincipalQuota> {
    /// An entry in use must stay in the table, or its principal would get a second one.
    fn is_idle(&self, now: Instant) -> bool {
        Arc::strong_count(self) == 1
            && Arc::strong_count(&self.input) == 1
            && self.work.lock().is_idle(now)
            && self.new_shadows.lock().is_idle(now)
            && self.new_shadows_used(now) == 0
    }
}

/// Most concurrent scans of the store by one principal; all principals together have twice as many.
const READS_MAX: usize = 4;

/// Most refusals of one principal that wait for a lookup of their conflicts, a quarter of all.
const LOOKUPS_MAX: usize = 64;

/// Lines a second about the connections of one principal.
const CONNECTION_LINES_PER_SECOND: u32 = 10;
/// Lines at once: of a fleet with one login that comes back.
const CONNECTION_LINES_BURST: u32 = 20_000;

/// Most queue bytes of the commands of one principal, a quarter of the engine queue. A larger command takes all of
/// them.
const QUEUE_BYTES_MAX: u32 = 16 << 20;

/// Most event streams and waits of one principal: an eighth of those of all.
const STREAMS_MAX: usize = crate::config::limits::STREAMS_MAX as usize / 8;
/// The memory of an event stream with its buffers.
const STREAM_BYTES: usize = 32 << 10;

fn queue_share(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES_MAX)
}

#[cfg(test)]
mod tests;
