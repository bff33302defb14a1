//! The updates and deletions of one shadow by everybody together.
//!
//! Only what may be done is counted, so that nobody without rights to a shadow can use up its quota.

use std::time::{Duration, Instant};

use super::{
    rate::{Meter, Rate},
    table::{Entry, Table},
};
use crate::shadow::ShadowKey;

/// The writes to every shadow, counted.
#[derive(Debug)]
pub(super) struct Shadows {
    pub(super) rate: Rate,
    writes: Table<ShadowKey, Meter>,
}

impl Shadows {
    /// `rate` per shadow; `entries_max` of these are known.
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
