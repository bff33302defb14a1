//! The subscriptions of a session whose retained messages have yet to be sent, in the order of their arrival.
//!
//! There is one for each filter. A session may have thousands, and each SUBSCRIBE and UNSUBSCRIBE replaces those of its
//! filters, so they are also found by filter.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    mqtt::{broker::router::Cursor, protocol::topic::TopicFilter, shadow::resync::step::RetainedSelection},
    shadow::{DeviceId, ShadowKey},
};

/// A subscription that waits for its retained messages.
#[derive(Debug)]
pub(super) struct PendingRetained {
    pub(super) selection: Arc<RetainedSelection>,
    pub(super) stage: ResyncStage,
    /// The number of the SUBSCRIBE packet with the filter.
    pub(super) packet: u32,
    /// Number of times the packet has the filter.
    pub(super) times: u16,
}

/// The messages that are read next.
#[derive(Debug)]
pub(super) enum ResyncStage {
    Ordinary(Cursor),
    Documents(Option<ShadowKey>),
    Presence(Option<DeviceId>),
}

/// The waiting subscriptions.
#[derive(Debug, Default)]
pub(super) struct PendingQueue {
    in_order: BTreeMap<u64, PendingRetained>,
    by_filter: HashMap<TopicFilter, u64>,
    last: u64,
}

impl PendingQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// Adds a subscription at the end. The queue has none with its filter.
    pub(super) fn push_back(&mut self, pending: PendingRetained) {
        self.last += 1;
        self.by_filter.insert(pending.selection.filter().clone(), self.last);
        self.in_order.insert(self.last, pending);
    }

    /// Returns the subscription with `filter`.
    pub(super) fn of(&mut self, filter: &TopicFilter) -> Option<&mut PendingRetained> {
        self.in_order.get_mut(self.by_filter.get(filter)?)
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut PendingRetained> {
        Some(self.in_order.first_entry()?.into_mut())
    }

    pub(super) fn pop_front(&mut self) {
        if let Some((_, first)) = self.in_order.pop_first() {
            self.by_filter.remove(first.selection.filter());
        }
    }

    /// Removes the subscription with `filter`, if there is one.
    pub(super) fn remove(&mut self, filter: &TopicFilter) {
        if let Some(number) = self.by_filter.remove(filter) {
            self.in_order.remove(&number);
        }
    }
}

impl Default for ResyncStage {
    fn default() -> Self {
        Self::Ordinary(Cursor::default())
    }
}
