//! The account of bytes that the server keeps on behalf of each principal, and of all of them together.
//!
//! Whoever keeps something for a client holds a [`Charge`]; dropping it releases the bytes. Before something new is
//! kept, [`Account::check`] decides if there is room:
//!
//! - below the limit of the principal's role and the limit of all: yes;
//! - above the limit of the principal: no ([`QuotaKind::PrincipalMemory`]);
//! - above the limit of all: only for a principal within its fair share, up to a reserve ([`QuotaKind::Memory`]).
//!
//! A refusal, or a total that comes close to its limit, wakes the task that ends disconnected sessions
//! ([`Memory::shortage`]). Sizes are estimates by constants: the code that keeps something knows its cost.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::admission::{cause::QuotaKind, principals::PrincipalQuota};

/// The bytes kept for all principals.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    used: AtomicUsize,
    /// The number of accounts with a charge.
    accounts: AtomicUsize,
    /// The principals at their limit since the last [`Memory::take_full`].
    full: Mutex<BTreeSet<Arc<str>>>,
    shortage: Notify,
}

/// The bytes kept for one principal.
#[derive(Debug)]
pub(super) struct Account {
    used: AtomicUsize,
    all: Arc<Memory>,
}

/// Bytes charged to a principal; dropping it releases them.
#[derive(Debug)]
pub struct Charge {
    quota: Arc<PrincipalQuota>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            accounts: AtomicUsize::new(0),
            full: Mutex::default(),
            shortage: Notify::new(),
        }
    }

    /// Returns the bytes in use by all principals.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Returns the limit of all principals together.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the bytes that each principal with a charge may use at least.
    #[must_use]
    pub fn fair_share(&self) -> usize {
        self.limit / self.accounts.load(Relaxed).max(1)
    }

    /// Returns true if less than an eighth of the limit is left.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.used() > self.limit - self.limit / 8
    }

    /// Waits until a principal is at its limit, or memory is short. It may return spuriously.
    pub async fn shortage(&self) {
        self.shortage.notified().await;
    }

    /// Returns the principals that reached their limit since the last call.
    #[must_use]
    pub fn take_full(&self) -> BTreeSet<Arc<str>> {
        mem::take(&mut self.full.lock())
    }

    fn report_full(&self, principal: &Arc<str>) {
        let mut full = self.full.lock();
        if full.len() < FULL_MAX {
            full.insert(principal.clone());
        }
        drop(full);
        self.shortage.notify_one();
    }
}

impl Account {
    pub(super) fn new(all: Arc<Memory>) -> Self {
        Self { used: AtomicUsize::new(0), all }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Checks that `more` bytes may be kept for `principal`, whose limit is `limit`.
    pub(super) fn check(&self, principal: &Arc<str>, limit: usize, more: usize) -> Result<(), QuotaKind> {
        let own = self.used().saturating_add(more);
        if own > limit {
            self.all.report_full(principal);
            return Err(QuotaKind::PrincipalMemory);
        }
        let all = self.all.used().saturating_add(more);
        if all <= self.all.limit {
            return Ok(());
        }
        self.all.shortage.notify_one();
        let reserve = self.all.limit / 8;
        if own <= self.all.fair_share() && all <= self.all.limit + reserve { Ok(()) } else { Err(QuotaKind::Memory) }
    }

    fn add(&self, bytes: usize) {
        if self.used.fetch_add(bytes, Relaxed) == 0 && bytes > 0 {
            self.all.accounts.fetch_add(1, Relaxed);
        }
        let was_short = self.all.is_short();
        self.all.used.fetch_add(bytes, Relaxed);
        if !was_short && self.all.is_short() {
            self.all.shortage.notify_one();
        }
    }

    fn subtract(&self, bytes: usize) {
        self.all.used.fetch_sub(bytes, Relaxed);
        if self.used.fetch_sub(bytes, Relaxed) == bytes && bytes > 0 {
            self.all.accounts.fetch_sub(1, Relaxed);
        }
    }
}

impl Charge {
    /// Charges `bytes` to the principal with this quota, which [`PrincipalQuota::check_memory`] may have allowed.
    #[must_use]
    pub fn new(quota: Arc<PrincipalQuota>, bytes: usize) -> Self {
        quota.account().add(bytes);
        Self { quota, bytes }
    }

    /// Returns the quota of the principal.
    #[must_use]
    pub fn quota(&self) -> &Arc<PrincipalQuota> {
        &self.quota
    }

    /// Returns the charged bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to `bytes`.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.quota.account().add(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.quota.account().subtract(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// Changes the charge to about `bytes`: in steps, so that a size that goes up and down costs little.
    pub fn follow(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.resize(bytes.next_multiple_of(STEP));
        } else if bytes == 0 || self.bytes - bytes >= 2 * STEP {
            self.resize(bytes.next_multiple_of(STEP).min(self.bytes));
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// Most principals whose sessions are reviewed at once.
const FULL_MAX: usize = 1_024;
/// The step of [`Charge::follow`].
const STEP: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        admission::{preauth_budget::Budget, principals::Principals},
        config::RoleLimits,
    };

    fn principals(all: usize) -> Principals {
        Principals::new(0, 100, Budget::new(0), all)
    }

    fn of(principals: &Principals, name: &str, memory: usize) -> Arc<PrincipalQuota> {
        let limits = RoleLimits { memory, ..RoleLimits::UNLIMITED };
        principals.of(&name.into(), &limits, Instant::now())
    }

    #[tokio::test]
    async fn a_principal_has_a_limit_of_its_own() {
        let principals = principals(10_000);
        let (a, b) = (of(&principals, "a", 1_000), of(&principals, "b", 1_000));
        let mut charge = Charge::new(a.clone(), 900);
        assert_eq!(a.check_memory(100), Ok(()));
        assert_eq!(a.check_memory(101), Err(QuotaKind::PrincipalMemory));
        principals.memory().shortage().await;
        assert_eq!(principals.memory().take_full(), BTreeSet::from(["a".into()]));
        assert_eq!(b.check_memory(1_000), Ok(()));
        charge.resize(100);
        assert_eq!(a.check_memory(900), Ok(()));
        drop(charge);
        assert_eq!((a.memory_used(), principals.memory().used()), (0, 0));
    }

    /// A principal that keeps the total at its limit cannot keep out one that uses less than its share.
    #[test]
    fn above_the_limit_of_all_a_fair_share_is_left() {
        let principals = principals(8_000);
        let (large, small) = (of(&principals, "large", 9_000), of(&principals, "small", 9_000));
        let _large = Charge::new(large.clone(), 8_000);
        assert!(principals.memory().is_short());
        assert_eq!(large.check_memory(1), Err(QuotaKind::Memory));
        assert_eq!(small.check_memory(1_000), Ok(()));
        let _small = Charge::new(small.clone(), 500);
        assert_eq!(principals.memory().fair_share(), 4_000);
        assert_eq!(small.check_memory(500), Ok(()));
        assert_eq!(small.check_memory(501), Err(QuotaKind::Memory), "the reserve of an eighth is used up");
    }

    #[test]
    fn follows_in_steps() {
        let quota = of(&principals(1 << 20), "a", 1 << 20);
        let mut charge = Charge::new(quota.clone(), 0);
        // size, charged
        for (bytes, charged) in [(1, STEP), (STEP, STEP), (STEP + 1, 2 * STEP), (1, 2 * STEP), (0, 0)] {
            charge.follow(bytes);
            assert_eq!((charge.bytes(), quota.memory_used()), (charged, charged), "{bytes}");
        }
    }
}
