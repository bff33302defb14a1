//! The filters of one session's subscriptions, counted against the quota of its principal.

use std::sync::Arc;

use crate::{
    admission::{PrincipalQuota, QuotaKind},
    mqtt::{
        broker::session_view::SessionView,
        protocol::{packet::Subscription, topic::TopicFilter},
    },
};

/// The filters of one session. Dropping them releases them from the principal's quota.
#[derive(Debug)]
pub struct Filters {
    /// Has the filters.
    view: Arc<SessionView>,
    /// The memory of the filters, here and in the router.
    bytes: usize,
    quota: Arc<PrincipalQuota>,
}

impl Filters {
    /// Returns an empty list for a session whose principal has this quota.
    #[must_use]
    pub fn new(quota: Arc<PrincipalQuota>) -> Self {
        Self { view: Arc::default(), bytes: 0, quota }
    }

    /// Returns the quota of the principal.
    #[must_use]
    pub fn quota(&self) -> &Arc<PrincipalQuota> {
        &self.quota
    }

    /// Returns the part of the session that operators see.
    #[must_use]
    pub fn view(&self) -> &Arc<SessionView> {
        &self.view
    }

    /// Returns true if the session has `filter`.
    #[must_use]
    pub fn contains(&self, filter: &TopicFilter) -> bool {
        self.view.contains(filter)
    }

    /// Adds `filter`, which the session does not have yet.
    ///
    /// # Errors
    ///
    /// - [`QuotaKind::Subscriptions`]: the session has `max` filters.
    /// - [`QuotaKind::PrincipalFilters`]: the principal has reached its quota.
    /// - [`QuotaKind::PrincipalMemory`] or [`QuotaKind::Memory`]: there is no memory for it.
    pub fn add(&mut self, filter: &TopicFilter, max: usize) -> Result<(), QuotaKind> {
        if self.view.filter_count() >= max {
            return Err(QuotaKind::Subscriptions);
        }
        self.quota.check_memory(cost(filter))?;
        if !self.quota.add_filter() {
            return Err(QuotaKind::PrincipalFilters);
        }
        self.insert(filter);
        Ok(())
    }

    /// Records the QoS that was granted with `subscription`.
    pub fn grant(&mut self, subscription: &Subscription) {
        self.view.set_qos(&subscription.filter, subscription.qos);
    }

    /// Adds the filter of `subscription`, which was granted before a restart, whatever the limits are now.
    pub fn restore(&mut self, subscription: &Subscription) {
        if !self.contains(&subscription.filter) {
            self.quota.restore_filter();
            self.insert(&subscription.filter);
        }
        self.grant(subscription);
    }

    /// Removes `filter`. Returns true if the session had it.
    pub fn remove(&mut self, filter: &TopicFilter) -> bool {
        let existed = self.view.remove(filter);
        if existed {
            self.bytes -= cost(filter);
            self.quota.remove_filters(1);
        }
        existed
    }

    /// Returns the memory of the filters in bytes, here and in the router.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of filters.
    #[must_use]
    pub fn count(&self) -> usize {
        self.view.filter_count()
    }

    fn insert(&mut self, filter: &TopicFilter) {
        if self.view.insert(filter) {
            self.bytes += cost(filter);
        }
    }

    /// Iterates over the filters.
    pub fn iter(&self) -> impl Iterator<Item = TopicFilter> {
        self.view.filters().into_iter().map(|granted| granted.filter)
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.quota.remove_filters(self.count());
    }
}

/// Returns the memory of a filter in bytes: in the tables of its session and of the router, and while it waits for its
/// retained messages. One with wildcards has a node in the router for each of its levels.
pub(super) fn cost(filter: &TopicFilter) -> usize {
    let text = filter.as_str();
    let levels = if text.contains(['+', '#']) { text.split('/').count() } else { 0 };
    FILTER_BYTES + 2 * text.len() + levels * LEVEL_BYTES
}

const FILTER_BYTES: usize = 320;
const LEVEL_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::mqtt::protocol::topic::comparisons;

    /// Each filter of a SUBSCRIBE or UNSUBSCRIBE was compared with all filters of its session.
    #[test]
    fn a_filter_is_not_compared_with_all_of_its_session() {
        const FILTERS: usize = 2_000;
        let quota = PrincipalQuota::unlimited("p");
        let mut filters = Filters::new(quota.clone());
        let filter = |number: usize| TopicFilter::new(&format!("t/{number}")).unwrap();
        let compared = comparisons::of(|| {
            for number in 0..FILTERS {
                assert!(!filters.contains(&filter(number)));
                filters.add(&filter(number), FILTERS).unwrap();
                assert!(filters.contains(&filter(number)));
            }
            assert_eq!(filters.add(&filter(FILTERS), FILTERS), Err(QuotaKind::Subscriptions));
            assert!((0..FILTERS).all(|number| filters.remove(&filter(number))));
            assert!(!filters.remove(&filter(0)), "it has it no more");
        });
        assert!(compared <= 10 * FILTERS, "{compared} comparisons");
        assert_eq!((filters.bytes(), filters.iter().count()), (0, 0));
    }
}
