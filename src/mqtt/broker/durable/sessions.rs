//! The rows of a session while it is connected, and their end.

use std::sync::Arc;

use crate::{
    auth::AuthContext,
    mqtt::{
        broker::{
            Broker,
            durable::{
                clock_row,
                session_row::{self, SessionState},
                subscription_row,
            },
            sessions::{ClientSession, SessionKey},
        },
        protocol::packet::Will,
    },
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
        if !client.is_recorded {
            return;
        }
        let finished = self.events.fan_out_position().finished();
        let state = SessionState {
            id: client.outbox.id(),
            client_id: &key.client_id,
            auth_context,
            expiry,
            disconnected_ms: None,
            since: client.outbox.resync_since().unwrap_or(finished),
            will: will.map(|will| (will, None)),
        };
        self.recorder.write(vec![session_row::put(&state, self.recorder.now())]);
    }

    /// Writes the date now and then while there are sessions, until the broker closes.
    pub async fn watch_clock(self: Arc<Self>) {
        loop {
            if self.sessions.count() > 0 {
                self.recorder.write(vec![clock_row::put(self.recorder.now().date_ms)]);
            }
            tokio::select! {
                () = tokio::time::sleep(clock_row::INTERVAL) => {}
                () = self.closed() => break,
            }
        }
        self.recorder.write(vec![clock_row::put(self.recorder.now().date_ms)]);
    }

    /// Removes the rows of a session that ends.
    pub(in crate::mqtt::broker) fn remove_rows(&self, client: &ClientSession) {
        if !client.is_recorded {
            return;
        }
        let id = client.outbox.id();
        let filters = client.filters.iter().map(|filter| subscription_row::remove(id, filter));
        self.recorder.write(filters.chain([session_row::remove(id)]).collect());
    }
}
