//! Sessions whose clients change between the nodes of a cluster.

use std::sync::Arc;

use crate::{
    auth::Authority,
    mqtt::{
        broker::{
            outbox::{Outbox, SessionId},
            sessions::{ClientSession, ClosedSession, PreviousLoss, SessionKey, SessionSlot, Sessions},
        },
        protocol::packet::Reason,
    },
};

impl SessionSlot {
    fn outbox(&self) -> &Arc<Outbox> {
        match self {
            Self::Connected(connected) => &connected.outbox,
            Self::Disconnected(disconnected) => &disconnected.lost.client.outbox,
        }
    }
}

impl Sessions {
    /// Returns the id of the session of `key`, if there is one.
    pub(in crate::mqtt::broker) fn id_of(&self, key: &SessionKey) -> Option<SessionId> {
        Some(self.table.lock().entries.get(key)?.outbox().id())
    }

    /// Notes that the connection of `key` has another session from now on.
    pub(in crate::mqtt::broker) fn exchange(&self, key: &SessionKey, client: &ClientSession) {
        if let Some(SessionSlot::Connected(connected)) = self.table.lock().entries.get_mut(key) {
            connected.outbox = client.outbox.clone();
            connected.view = client.filters.view().clone();
        }
    }

    /// Notes that session `id` of `key` has another id in the log, if it is the one here: nothing that its client still does here
    /// is acknowledged, and it goes on with its rows and its messages where it is now.
    pub(in crate::mqtt::broker) fn leave(&self, key: &SessionKey, id: SessionId) {
        if let Some(outbox) = self.outbox_of(key, id) {
            outbox.leave();
        }
    }

    /// Notes that session `id` of `key` has ended in the log, if it is the one here: nothing that its client still does here is
    /// acknowledged.
    pub(in crate::mqtt::broker) fn end_in_log(&self, key: &SessionKey, id: SessionId) {
        if let Some(outbox) = self.outbox_of(key, id) {
            outbox.end_in_log();
        }
    }

    fn outbox_of(&self, key: &SessionKey, id: SessionId) -> Option<Arc<Outbox>> {
        let table = self.table.lock();
        table.entries.get(key).map(SessionSlot::outbox).filter(|outbox| outbox.id() == id).cloned()
    }

    /// Ends the session of a client that has opened one at another node. Its will is not published, since the client is there.
    pub(in crate::mqtt::broker) fn end_moved(&self, key: &SessionKey) -> Option<ClosedSession> {
        let mut table = self.table.lock();
        if let SessionSlot::Connected(connected) = table.entries.get_mut(key)? {
            (connected.ends, connected.has_moved) = (true, true);
            connected.disconnect(Reason::SESSION_TAKEN_OVER);
            return None;
        }
        Some(table.take_disconnected(key)?.into_closed(key.clone()).without_will())
    }

    /// Takes back the session of a connection that is refused: one that was away stays as it was, with its will and the rest of its
    /// expiry, and a new one ends. Returns what has to be disposed of now.
    pub(in crate::mqtt) fn put_back(
        &self,
        key: &SessionKey,
        client: ClientSession,
        previous: Option<Box<PreviousLoss>>,
        authority: &Authority,
    ) -> ClosedSession {
        let Some(previous) = previous else { return self.release(key, client, 0, None, authority) };
        let (access, from, has_left) = (client.outbox.access(), client.outbox.id(), client.outbox.has_left());
        let mut table = self.table.lock();
        let Some(SessionSlot::Connected(connected)) = table.remove(key) else {
            return ClosedSession::session(key.clone(), client, None);
        };
        let lost = previous.of(client);
        let (released, disposed) = (Some(connected.released), connected.disposed);
        if connected.ends || has_left {
            let will = lost.will.map(|will| will.1).filter(|_| !connected.has_moved && !has_left);
            return ClosedSession { released, disposed, ..ClosedSession::session(key.clone(), lost.client, will) };
        }
        table.park(key, lost);
        drop(table);
        self.timers_changed.notify_one();
        ClosedSession { released, disposed, ..ClosedSession::will(key.clone(), access, from, None) }
    }
}
