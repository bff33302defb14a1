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
    quota: Arc<PrincipalQuota>,
}

impl Filters {
    /// Returns an empty list for a session whose principal has this quota.
    #[must_use]
    pub fn new(quota: Arc<PrincipalQuota>) -> Self {
        Self { filters: Vec::new(), quota }
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
    /// - [`QuotaKind::PrincipalSubscriptions`]: the principal has reached its quota.
    pub fn add(&mut self, filter: &TopicFilter, max: usize) -> Result<(), QuotaKind> {
        if self.filters.len() >= max {
            return Err(QuotaKind::Subscriptions);
        }
        if !self.quota.subscribe() {
            return Err(QuotaKind::PrincipalSubscriptions);
        }
        self.filters.push(filter.clone());
        Ok(())
    }

    /// Removes `filter` if the session has it.
    pub fn remove(&mut self, filter: &TopicFilter) {
        if let Some(at) = self.filters.iter().position(|own| own == filter) {
            self.filters.remove(at);
            self.quota.unsubscribe(1);
        }
    }

    /// Iterates over the filters.
    pub fn iter(&self) -> std::slice::Iter<'_, TopicFilter> {
        self.filters.iter()
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.quota.unsubscribe(self.filters.len());
    }
}
