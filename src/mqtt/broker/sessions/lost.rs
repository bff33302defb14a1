//! A session that lost its connection, and its row in the store.

use std::{sync::Arc, time::Instant};

use crate::{
    auth::AuthContext,
    mqtt::{
        broker::{
            durable::{
                message_row::Now,
                session_row::{self, SessionState},
            },
            sessions::{ClientSession, DisconnectedSession, SessionKey, SessionSlot, SessionTable, Sessions},
        },
        protocol::packet::Will,
    },
    store::RowEdit,
};

/// A session that lost its connection.
#[derive(Debug)]
pub(in crate::mqtt::broker) struct LostConnection {
    pub(in crate::mqtt::broker) auth_context: Arc<AuthContext>,
    pub(in crate::mqtt::broker) client: ClientSession,
    /// Seconds that it outlives its connection.
    pub(in crate::mqtt::broker) expiry: u32,
    pub(in crate::mqtt::broker) expires: Instant,
    /// The delayed will and when it is due.
    pub(in crate::mqtt::broker) will: Option<Box<(Instant, Will)>>,
    /// The date of the loss, in milliseconds.
    pub(in crate::mqtt::broker) at_ms: u64,
}

/// The loss of a connection by a session that a new one has.
#[derive(Debug)]
pub struct PreviousLoss {
    auth_context: Arc<AuthContext>,
    expiry: u32,
    expires: Instant,
    will: Option<Box<(Instant, Will)>>,
    at_ms: u64,
}

impl PreviousLoss {
    /// Returns the loss, of the session that it was of.
    pub(super) fn of(self, client: ClientSession) -> LostConnection {
        let Self { auth_context, expiry, expires, will, at_ms } = self;
        LostConnection { auth_context, client, expiry, expires, will, at_ms }
    }
}

impl LostConnection {
    /// Returns the session, and what is known of its absence.
    pub(super) fn split(self) -> (ClientSession, PreviousLoss) {
        let Self { auth_context, client, expiry, expires, will, at_ms } = self;
        (client, PreviousLoss { auth_context, expiry, expires, will, at_ms })
    }

    /// Returns the edit that writes the session. A will that is being `published` stays in its row until it is.
    pub(in crate::mqtt::broker) fn row(&self, key: &SessionKey, published: Option<&Will>, now: Now) -> RowEdit {
        let due_ms = |at: &Instant| {
            let left = at.saturating_duration_since(now.instant).as_millis();
            now.date_ms.saturating_add(u64::try_from(left).unwrap_or(u64::MAX))
        };
        let state = SessionState {
            id: self.client.outbox.id(),
            client_id: &key.client_id,
            auth_context: &self.auth_context,
            expiry: self.expiry,
            disconnected_ms: Some(self.at_ms),
            since: self.client.outbox.delivered_up_to(0),
            will: published
                .map(|will| (will, Some(now.date_ms)))
                .or_else(|| self.will.as_deref().map(|(at, will)| (will, Some(due_ms(at))))),
        };
        session_row::put(&state, now)
    }
}

impl Sessions {
    /// Writes the session of `key`, whose will was published, unless it has a connection again or has ended.
    pub(in crate::mqtt::broker) fn will_published(&self, key: &SessionKey) {
        let table = self.table.lock();
        if let Some(SessionSlot::Disconnected(disconnected)) = table.entries.get(key) {
            self.recorder.write(vec![disconnected.lost.row(key, None, self.recorder.now())]);
        }
    }
}

impl SessionTable {
    /// Adds a session that lost its connection.
    pub(super) fn park(&mut self, key: &SessionKey, mut lost: LostConnection) {
        let will_at = lost.will.as_ref().map(|will| will.0);
        let first = [will_at, lost.auth_context.revoked_at()].into_iter().flatten().fold(lost.expires, Instant::min);
        let timer = self.set_timer(key, first);
        let will_bytes = lost.will.as_ref().map_or(0, |will| will.1.bytes());
        lost.client.charge(lost.auth_context.kept_bytes() + will_bytes);
        let _ends_the_longest_away = lost.client.filters.quota().check_memory(0);
        let away = self.away.add(key);
        self.session_counts.add(&key.principal, false);
        let disconnected = DisconnectedSession { lost, timer, away };
        self.entries.insert(key.clone(), SessionSlot::Disconnected(Box::new(disconnected)));
    }
}
