//! The opening of a session at this node, and the end of one whose client has opened it at another.
//!
//! *Invariant:* of two nodes at which a client has opened its session, that of the later opening in the log keeps it.

use std::{collections::hash_map::Entry, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    auth::Access,
    mqtt::broker::{
        Broker,
        durable::{presence_row, restore::MovedSession},
        outbox::SessionId,
        peers::{Peers, message::Opened},
        presence::Announced,
        replicated::Effect,
        sessions::{Arrival, Attached, CONNECTION_BYTES, SessionKey},
    },
};

/// The longest wait of a connection for the log.
const OPENING_WAIT: Duration = Duration::from_secs(5);

/// The openings of one session that are under way at this node.
#[derive(Default)]
pub(super) struct PendingOpenings {
    count: usize,
    /// The client has opened a session at another node since, so that must end the one here unless an opening follows.
    has_moved: bool,
    pub(super) waiting: Vec<WaitingOpening>,
}

/// An opening that waits for the log.
pub(super) struct WaitingOpening {
    /// The id of the session that comes to this node.
    pub(super) fresh: SessionId,
    pub(super) access: Access,
    /// Receives the session, unless the connection has the right one.
    pub(super) moved: oneshot::Sender<Option<Box<MovedSession>>>,
}

/// The opening of a session at this node, from before the session has its connection. If dropped, it was refused.
pub(in crate::mqtt) struct Opening {
    broker: Arc<Broker>,
    key: SessionKey,
    fresh: Option<SessionId>,
}

impl Broker {
    /// Begins to open the session of `key` at this node: until the opening is in the log, those at other nodes do not end
    /// the session here. `None` if there are no other nodes.
    pub(in crate::mqtt) fn begin_opening(self: &Arc<Self>, key: &SessionKey) -> Option<Opening> {
        self.peers.get()?.opening.lock().entry(key.clone()).or_default().count += 1;
        Some(Opening { broker: Arc::clone(self), key: key.clone(), fresh: None })
    }

    /// An opening of this node is in the log.
    pub(super) fn opened_here(self: &Arc<Self>, peers: &Peers, opened: &Opened, effect: Option<Effect>) {
        let waiting = peers.opening.lock().get_mut(&opened.key).and_then(|pending| {
            pending.has_moved = false;
            let at = pending.waiting.iter().position(|waiting| waiting.fresh == opened.fresh)?;
            Some(pending.waiting.swap_remove(at))
        });
        let Some(Effect::Moved(snapshot)) = effect else {
            if let Some(waiting) = waiting {
                let _nobody_waits_any_more = waiting.moved.send(None);
            }
            return;
        };
        let unsent = waiting.map(|WaitingOpening { access, moved, .. }| {
            moved.send(Some(Box::new(self.moved_session(*snapshot, &access))))
        });
        match unsent {
            Some(Ok(())) => return,
            Some(Err(Some(session))) => {
                self.router.remove(session.client.outbox.id(), session.client.filters.iter());
                peers.unclaimed.lock().push(session.client);
            }
            Some(Err(None)) | None => {}
        }
        // The connection goes on with another session: its client comes back to this one.
        if opened.is_present {
            self.sessions.leave(&opened.key, opened.current);
        }
        self.left(peers, &opened.key);
    }

    /// The session of `key` is at another node.
    pub(super) fn left(self: &Arc<Self>, peers: &Peers, key: &SessionKey) {
        let mut opening = peers.opening.lock();
        match opening.get_mut(key) {
            // The opening that is under way here will be the later one.
            Some(pending) => pending.has_moved = true,
            None => self.end_moved(key),
        }
    }

    /// Ends a session whose client has opened one at another node. The caller has the lock of `opening`, so that no session
    /// that opens later is taken for it.
    pub(super) fn end_moved(self: &Arc<Self>, key: &SessionKey) {
        // A connection disposes of its session itself.
        if let Some(closed) = self.sessions.end_moved(key) {
            self.dispose_apart(closed);
        }
    }
}

impl Opening {
    /// Moves the session from any other node to this one, and ends it there; a session that was new at this node has `row` then.
    /// Waits until the log has that: so a client that was accepted here and then connects elsewhere is the later one there.
    /// Returns false if it takes too long to know which session the client has. Without a log, clients may still begin a new one.
    pub(in crate::mqtt) async fn share(
        mut self,
        arrival: &Arrival<'_>,
        attached: &mut Attached,
        row: Option<Bytes>,
    ) -> bool {
        let broker = Arc::clone(&self.broker);
        let Some(peers) = broker.peers.get() else { return true };
        let (key, clean_start, outlives) = (self.key.clone(), arrival.clean_start, row.is_some());
        let (current, is_present) = (attached.client.outbox.id(), attached.present);
        let fresh = broker.next_session_id();
        let presence = attached.announced.as_ref().map(Announced::of_device);
        let row_of_device = presence.as_ref().map(|(device, _)| presence_row::key(device, Some(peers.node)));
        let node = peers.node;
        let opened = Opened { node, key: key.clone(), current, is_present, fresh, clean_start, presence, row };
        let bytes = opened.encode();
        let quota = attached.client.filters.quota();
        let reserve = || {
            // The former session may have ended just now, of which the log has to know first.
            let former = peers.replicated.size_of(&key).map(|(id, _)| id);
            former.is_none_or(|id| peers.rows.flush_session(id)).then_some(())?;
            broker.reserve_for(quota, &peers.opening_room, bytes.len())
        };
        let Some((permit, waits)) = reserve() else {
            tracing::debug!(client = %key.client_id, "too many connections wait for the log");
            return !outlives;
        };
        // What the opening has is newer.
        row_of_device.iter().for_each(|key| peers.rows.forget(key));
        if let Some(announced) = &mut attached.announced {
            announced.is_sent = true;
        }
        let (moved, mut is_moved) = oneshot::channel();
        let waiting = WaitingOpening { fresh, access: attached.client.outbox.access(), moved };
        peers.opening.lock().entry(key).or_default().waiting.push(waiting);
        self.fresh = Some(fresh);
        broker.service.broadcast(bytes, Some(Box::new(move || drop((self, waits)))), permit);
        let session = timeout(OPENING_WAIT, &mut is_moved).await.or_else(|elapsed| {
            is_moved.close();
            is_moved.try_recv().map(Ok).map_err(|_| elapsed)
        });
        match session {
            Ok(Ok(Some(session))) => broker.exchange(arrival, attached, *session),
            Ok(Ok(None)) => {}
            // It was refused. If the client has opened its session elsewhere since, its connection here ends by that.
            Ok(Err(_)) => attached.announced.iter_mut().for_each(|announced| announced.is_sent = false),
            Err(_) => return clean_start || !outlives,
        }
        true
    }
}

impl Broker {
    /// Gives a connection the session that has moved to this node in the place of the one that it has.
    fn exchange(&self, arrival: &Arrival<'_>, attached: &mut Attached, session: MovedSession) {
        let MovedSession { mut client, is_present } = session;
        client.charge(CONNECTION_BYTES + arrival.will_bytes);
        self.sessions.exchange(arrival.key, &client);
        let former = mem::replace(&mut attached.client, client);
        attached.present = is_present;
        // What is left of a former one concerns no session any more.
        if former.outbox.id() != attached.client.outbox.id() {
            self.router.remove(former.outbox.id(), former.filters.iter());
        }
        if let Some(access) = self.authority.review(arrival.auth_context) {
            attached.client.outbox.set_access(access);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(peers) = self.broker.peers.get() else { return };
        let mut opening = peers.opening.lock();
        let Entry::Occupied(mut pending) = opening.entry(self.key.clone()) else { return };
        pending.get_mut().count -= 1;
        pending.get_mut().waiting.retain(|waiting| Some(waiting.fresh) != self.fresh);
        if pending.get().count == 0 && pending.remove().has_moved {
            self.broker.end_moved(&self.key);
        }
    }
}
