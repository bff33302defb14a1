//! Quotas for the updates and deletions of one shadow by all principals together.
//!
//! Only authorized writes count, so a principal without rights on a shadow cannot use up its quota.

use std::time::{Duration, Instant};

use crate::shadow::ShadowKey;
use crate::{
    admission::rate_table::{RateEntry, RateTable},
    rate::{Gcra, Rate},
};

/// The write rate of every shadow.
#[derive(Debug)]
pub(super) struct Shadows {
    pub(super) rate: Rate,
    writes: RateTable<ShadowKey, Gcra>,
}

impl Shadows {
    /// Returns the quotas of at most `entries_max` shadows, each with `rate`.
    pub(super) fn new(rate: Rate, entries_max: usize) -> Self {
        Self { rate, writes: RateTable::new(entries_max) }
    }

    /// Counts one write.
    ///
    /// # Errors
    ///
    /// The time to wait; nothing was counted.
    pub(super) fn admit(&self, key: &ShadowKey, now: Instant) -> Result<(), Duration> {
        self.writes.with(key, now, Clone::clone, || Gcra::new(now), |meter| meter.take(self.rate, now))
    }
}

impl RateEntry for Gcra {
    fn is_idle(&self, now: Instant) -> bool {
        Gcra::is_idle(self, now)
    }
}
