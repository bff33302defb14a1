//! The filters that one session subscribed to, counted for its principal.

use std::sync::Arc;

use crate::{
    admission::{PrincipalQuota, QuotaKind},
    mqtt::protocol::topic::TopicFilter,
};

/// The filters of one session. Dropped, they are given back to the principal's allowance.
#[derive(Debug)]
pub struct Filters {
    held: Vec<TopicFilter>,
    allowance: Arc<PrincipalQuota>,
}

impl Filters {
    /// None yet, of a session whose principal has this allowance.
    #[must_use]
    pub fn new(allowance: Arc<PrincipalQuota>) -> Self {
        Self { held: Vec::new(), allowance }
    }

    /// What the principal may use.
    #[must_use]
    pub fn allowance(&self) -> &Arc<PrincipalQuota> {
        &self.allowance
    }

    /// Whether `filter` is one of them.
    #[must_use]
    pub fn contains(&self, filter: &TopicFilter) -> bool {
        self.held.contains(filter)
    }

    /// Adds `filter`, which is not one of them.
    ///
    /// # Errors
    ///
    /// The session has `max` already, or its principal as many as it may.
    pub fn add(&mut self, filter: &TopicFilter, max: usize) -> Result<(), QuotaKind> {
        if self.held.len() >= max {
            return Err(QuotaKind::Subscriptions);
        }
        if !self.allowance.subscribe() {
            return Err(QuotaKind::PrincipalSubscriptions);
        }
        self.held.push(filter.clone());
        Ok(())
    }

    /// Removes `filter`, if it is one of them.
    pub fn remove(&mut self, filter: &TopicFilter) {
        if let Some(at) = self.held.iter().position(|held| held == filter) {
            self.held.remove(at);
            self.allowance.unsubscribe(1);
        }
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, TopicFilter> {
        self.held.iter()
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.allowance.unsubscribe(self.held.len());
    }
}
