//! The queues of all sessions: their numbers and bytes for the metrics, and those whose progress is written.

use std::sync::Arc;

use crate::mqtt::broker::{
    outbox::Outbox,
    sessions::{SessionSlot, Sessions},
};

/// Numbers of sessions and queued bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions with a connection.
    pub connected: usize,
    /// Sessions without a connection.
    pub disconnected: usize,
    /// Connected sessions that resync from the journal.
    pub resyncing: usize,
    /// Bytes queued in all outboxes.
    pub queued_bytes: usize,
    /// Bytes queued in the fullest outbox.
    pub queued_bytes_largest: usize,
}

impl Sessions {
    /// Counts the sessions and their queued bytes. The outboxes are read without the lock of the table.
    #[must_use]
    pub fn load(&self) -> Load {
        let entries: Vec<(bool, Arc<Outbox>)> = {
            let table = self.table.lock();
            let outboxes = table.entries.values().map(|entry| match entry {
                SessionSlot::Connected(connected) => (true, connected.outbox.clone()),
                SessionSlot::Disconnected(disconnected) => (false, disconnected.lost.client.outbox.clone()),
            });
            outboxes.collect()
        };
        let mut load = Load::default();
        for (connected, outbox) in entries {
            let bytes = outbox.queued_bytes();
            load.queued_bytes += bytes;
            load.queued_bytes_largest = load.queued_bytes_largest.max(bytes);
            match connected {
                true => load.connected += 1,
                false => load.disconnected += 1,
            }
            load.resyncing += usize::from(connected && outbox.resync_since().is_some());
        }
        load
    }

    /// Returns the queues of the connected sessions that outlive their connections.
    pub(in crate::mqtt::broker) fn kept_outboxes(&self) -> Vec<Arc<Outbox>> {
        let connected = |entry: &SessionSlot| match entry {
            SessionSlot::Connected(connected) => Some(connected.outbox.clone()),
            SessionSlot::Disconnected(_) => None,
        };
        let all: Vec<_> = self.table.lock().entries.values().filter_map(connected).collect();
        all.into_iter().filter(|outbox| outbox.is_kept()).collect()
    }
}
