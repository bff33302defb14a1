//! Quotas for the updates and deletions of one shadow by all principals together.
//!
//! Only authorized writes count, so a principal without rights on a shadow cannot use up its quota.

use std::time::{Duration, Instant};

use super::{
    rate::{Meter, Rate},
    table::{Entry, Table},
};
use crate::shadow::ShadowKey;

/// The write rate of every shadow.
#[derive(Debug)]
pub(super) struct Shadows {
    pub(super) rate: Rate,
    writes: Table<ShadowKey, Meter>,
}

impl Shadows {
    /// Returns the quotas of at most `entries_max` shadows, each with `rate`.
    pub(super) fn new(rate: Rate, entries_max: usize) -> Self {
        Self { rate, writes: Table::new(entries_max) }
    }

    /// Counts one write.
    ///
    /// # Errors
    ///
    /// The time to wait; nothing was counted.
    pub(super) fn admit(&self, key: &ShadowKey, now: Instant) -> Result<(), Duration> {
        self.writes.with(key, now, Clone::clone, || Meter::new(now), |meter| meter.take(self.rate, now))
    }
}

impl Entry for Meter {
    fn is_idle(&self, now: Instant) -> bool {
        Meter::is_idle(self, now)
    }
}
