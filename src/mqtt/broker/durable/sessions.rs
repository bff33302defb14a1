//! The rows of a session while it is connected, and their end.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    auth::AuthContext,
    mqtt::{
        broker::{
            Broker,
            durable::{
                Removal,
                clock_row::{self, Stop},
                session_row::{self, SessionState},
                subscription_row,
            },
            outbox::SessionId,
            sessions::{ClientSession, SessionKey},
        },
        protocol::{packet::Will, topic::TopicFilter},
    },
    store::RowEdit,
};

impl Broker {
    /// Writes a session that has a connection now, if it outlives the connection or has a will. Should the server stop
    /// without notice, the session continues after the next start as one that lost its connection then.
    pub(in crate::mqtt) fn record_connected(
        &self,
        key: &SessionKey,
        auth_context: &Arc<AuthContext>,
        client: &mut ClientSession,
        expiry: u32,
        will: Option<&Will>,
    ) {
        client.outbox.set_kept(expiry > 0);
        client.is_recorded |= expiry > 0 || will.is_some();
        client.was_kept |= expiry > 0;
        if !client.is_recorded {
            return;
        }
        let value = self.connected_row(key, auth_context, client, expiry, will);
        self.recorder.write(vec![RowEdit::Put(session_row::key(client.outbox.id()), value)]);
    }

    /// Returns the value of the row of a session that has a connection now.
    fn connected_row(
        &self,
        key: &SessionKey,
        auth_context: &Arc<AuthContext>,
        client: &ClientSession,
        expiry: u32,
        will: Option<&Will>,
    ) -> Bytes {
        let finished = self.events.fan_out_position().finished();
        let state = SessionState {
            id: client.outbox.id(),
            client_id: &key.client_id,
            auth_context,
            expiry,
            disconnected_ms: None,
            since: client.outbox.delivered_up_to(finished),
            will: will.map(|will| (will, None)),
        };
        session_row::value(&state, self.recorder.now())
    }

    /// Returns the value of the row of a session that is being opened, if it is to have one.
    pub(in crate::mqtt) fn opened_row(
        &self,
        key: &SessionKey,
        auth_context: &Arc<AuthContext>,
        client: &ClientSession,
        expiry: u32,
        will: Option<&Will>,
    ) -> Option<Bytes> {
        let has_row = client.is_recorded || expiry > 0 || will.is_some();
        has_row.then(|| self.connected_row(key, auth_context, client, expiry, will))
    }

    /// Writes the date and the progress of sessions now and then, until the broker closes.
    pub async fn watch_clock(self: Arc<Self>) {
        let mut finished = 0;
        loop {
            // Those that were here before are as far as the clock of then says.
            if self.sessions.count() > 0 && self.has_taken_over() {
                let delivered = std::mem::replace(&mut finished, self.events.fan_out_position().finished());
                self.write_clock(delivered);
            }
            tokio::select! {
                () = tokio::time::sleep(clock_row::INTERVAL) => {}
                () = self.closed() => break,
            }
        }
        if self.has_taken_over() {
            self.write_clock(finished);
        }
    }

    /// Writes the date, and that connected clients have the messages of shadows up to `delivered`, with the exceptions.
    fn write_clock(&self, delivered: u64) {
        // Before it looks for sessions: one that connects meanwhile is not among them.
        let date_ms = self.recorder.now().date_ms;
        let outboxes = self.sessions.kept_outboxes();
        let behind = outboxes.iter().filter_map(|outbox| Some((outbox.id(), outbox.advance_delivered(delivered)?)));
        let stop = Stop { date_ms, delivered, behind: behind.collect() };
        self.recorder.write(vec![clock_row::put(&stop)]);
    }

    /// Removes the rows of a session that ends. `removal` is done when that is on disk.
    pub(in crate::mqtt::broker) fn remove_rows(&self, client: &ClientSession, removal: Option<Removal>) {
        if client.is_recorded {
            let edits = removals_of(client.outbox.id(), client.filters.iter());
            match removal {
                Some(removal) => self.recorder.remove(edits, removal),
                None => self.recorder.write(edits),
            }
            // Its client may be opening the next one at another node.
            self.recorder.flush();
        }
    }

    /// Removes the row of a session, and those of its subscriptions.
    pub(super) fn remove_rows_of(&self, id: SessionId, filters: impl Iterator<Item = TopicFilter>) {
        self.recorder.write(removals_of(id, filters));
    }
}

/// Returns the edits that remove the row of a session, and those of its subscriptions.
fn removals_of(id: SessionId, filters: impl Iterator<Item = TopicFilter>) -> Vec<RowEdit> {
    let filters = filters.map(|filter| subscription_row::remove(id, &filter));
    filters.chain([session_row::remove(id)]).collect()
}
