//! The filters of one session's subscriptions, counted against the quota of its principal.

use std::sync::Arc;

use crate::{
    admission::{PrincipalQuota, QuotaKind},
    mqtt::protocol::topic::TopicFilter,
};

/// The filters of one session. Dropping them releases them from the principal's quota.
#[derive(Debug)]
pub struct Filters {
    filters: Vec<TopicFilter>,
    /// The memory of the filters, here and in the router.
    bytes: usize,
    quota: Arc<PrincipalQuota>,
}

impl Filters {
    /// Returns an empty list for a session whose principal has this quota.
    #[must_use]
    pub fn new(quota: Arc<PrincipalQuota>) -> Self {
        Self { filters: Vec::new(), bytes: 0, quota }
    }

    /// Returns the quota of the principal.
    #[must_use]
    pub fn quota(&self) -> &Arc<PrincipalQuota> {
        &self.quota
    }

    /// Returns true if the session has `filter`.
    #[must_use]
    pub fn contains(&self, filter: &TopicFilter) -> bool {
        self.filters.contains(filter)
    }

    /// Adds `filter`, which the session does not have yet.
    ///
    /// # Errors
    ///
    /// - [`QuotaKind::Subscriptions`]: the session has `max` filters.
    /// - [`QuotaKind::PrincipalFilters`]: the principal has reached its quota.
    /// - [`QuotaKind::PrincipalMemory`] or [`QuotaKind::Memory`]: there is no memory for it.
    pub fn add(&mut self, filter: &TopicFilter, max: usize) -> Result<(), QuotaKind> {
        if self.filters.len() >= max {
            return Err(QuotaKind::Subscriptions);
        }
        self.quota.check_memory(cost(filter))?;
        if !self.quota.add_filter() {
            return Err(QuotaKind::PrincipalFilters);
        }
        self.filters.push(filter.clone());
        self.bytes += cost(filter);
        Ok(())
    }

    /// Removes `filter` if the session has it.
    pub fn remove(&mut self, filter: &TopicFilter) {
        if let Some(at) = self.filters.iter().position(|own| own == filter) {
            self.filters.remove(at);
            self.bytes -= cost(filter);
            self.quota.remove_filters(1);
        }
    }

    /// Returns the memory of the filters in bytes, here and in the router.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Iterates over the filters.
    pub fn iter(&self) -> std::slice::Iter<'_, TopicFilter> {
        self.filters.iter()
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.quota.remove_filters(self.filters.len());
    }
}

/// Returns the memory of a filter in bytes. One with wildcards has a node in the router for each of its levels.
pub(super) fn cost(filter: &TopicFilter) -> usize {
    let text = filter.as_str();
    let levels = if text.contains(['+', '#']) { text.split('/').count() } else { 0 };
    FILTER_BYTES + 2 * text.len() + levels * LEVEL_BYTES
}

const FILTER_BYTES: usize = 192;
const LEVEL_BYTES: usize = 128;
