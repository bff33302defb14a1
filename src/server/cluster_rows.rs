//! The rows that the log of a cluster changes: those of sessions, which are the broker's, those of rollouts, those of named queries, and the
//! secret of cursors.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    engine::{Notifier, Outcome, Requester},
    http::Cursors,
    mqtt::broker::{
        peers::PeerBroadcasts,
        replicated::{ReplicatedRows, ReplicatedSessions},
    },
    rollouts::RolloutBroadcasts,
    search::named::NamedQueries,
    store::{Broadcast, BroadcastRows, RowEdit},
};

/// The rows, each of which belongs to the front end that knows its kind.
pub(super) struct ClusterRows {
    sessions: ReplicatedRows,
    rollouts: RolloutBroadcasts,
    queries: Arc<NamedQueries>,
    cursors: Arc<Cursors>,
}

impl ClusterRows {
    pub(super) fn new(
        sessions: Arc<ReplicatedSessions>,
        rollouts: RolloutBroadcasts,
        queries: Arc<NamedQueries>,
        cursors: Arc<Cursors>,
    ) -> Self {
        Self { sessions: ReplicatedRows(sessions), rollouts, queries, cursors }
    }
}

impl BroadcastRows for ClusterRows {
    fn restore(&mut self, key: &[u8], value: Bytes) {
        // The others are restored with the server, before the first record is applied.
        self.sessions.restore(key, value);
    }

    fn apply(&mut self, number: u64, bytes: &Bytes) -> Vec<RowEdit> {
        if RolloutBroadcasts::is_message(bytes) {
            self.rollouts.apply(bytes)
        } else if NamedQueries::is_message(bytes) {
            self.queries.apply(number, bytes)
        } else if Cursors::is_message(bytes) {
            self.cursors.apply(bytes)
        } else {
            self.sessions.apply(number, bytes)
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
    fn notify(&mut self, _: Outcome<'_>, _: &dyn Requester) -> usize {
        0
    }

    fn broadcast(&mut self, broadcast: &Broadcast) {
        let is_of = [RolloutBroadcasts::is_message, NamedQueries::is_message, Cursors::is_message];
        if !is_of.iter().any(|is_message| is_message(&broadcast.bytes)) {
            self.0.broadcast(broadcast);
        }
    }
}
