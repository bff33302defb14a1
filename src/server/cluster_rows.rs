//! The rows that the log of a cluster changes: those of sessions, which are the broker's, and those of rollouts.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    engine::{Notifier, Outcome, Requester},
    http::rollouts::RolloutBroadcasts,
    mqtt::broker::{
        peers::PeerBroadcasts,
        replicated::{ReplicatedRows, ReplicatedSessions},
    },
    store::{Broadcast, BroadcastRows, RowEdit},
};

/// The rows, each of which belongs to the front end that knows its kind.
pub(super) struct ClusterRows {
    sessions: ReplicatedRows,
    rollouts: RolloutBroadcasts,
}

impl ClusterRows {
    pub(super) fn new(sessions: Arc<ReplicatedSessions>, rollouts: RolloutBroadcasts) -> Self {
        Self { sessions: ReplicatedRows(sessions), rollouts }
    }
}

impl BroadcastRows for ClusterRows {
    fn restore(&mut self, key: &[u8], value: Bytes) {
        // Rollouts are restored with the server, before the first record is applied.
        self.sessions.restore(key, value);
    }

    fn apply(&mut self, number: u64, bytes: &Bytes) -> Vec<RowEdit> {
        match RolloutBroadcasts::is_message(bytes) {
            true => self.rollouts.apply(bytes),
            false => self.sessions.apply(number, bytes),
        }
    }

    fn edit(&mut self, edit: RowEdit) -> Vec<RowEdit> {
        match RolloutBroadcasts::is_row(edit.key()) {
            true => self.rollouts.edit(edit),
            false => self.sessions.edit(edit),
        }
    }

    fn permits(&self, edit: &RowEdit, undecided: &[Bytes]) -> bool {
        match RolloutBroadcasts::is_row(edit.key()) {
            true => self.rollouts.permits(edit, undecided),
            false => self.sessions.permits(edit, undecided),
        }
    }
}

/// Passes the broadcasts of brokers to the broker, in their order.
pub(super) struct BrokerBroadcasts(pub(super) PeerBroadcasts);

impl Notifier for BrokerBroadcasts {
    fn notify(&mut self, _: Outcome<'_>, _: &dyn Requester) {}

    fn broadcast(&mut self, broadcast: &Broadcast) {
        if !RolloutBroadcasts::is_message(&broadcast.bytes) {
            self.0.broadcast(broadcast);
        }
    }
}
