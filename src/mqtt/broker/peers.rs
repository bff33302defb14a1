//! The brokers of the other nodes of a cluster: messages for their sessions, and sessions that move between nodes.
//!
//! Everything that all nodes must agree on is broadcast in the log, so every node receives it in one order: retained messages, those at
//! QoS 1 and 2 for sessions that outlive their connections, the rows of these sessions, and the opening of sessions. Other messages go
//! over the bus, which is faster and may lose them.
//!
//! A client that opens its session at a node takes it along from any other ([`opening`]). The sessions of a node that is gone
//! are taken over by the node that decides ([`adoption`]).

mod adoption;
mod groups;
pub(in crate::mqtt::broker) mod message;
mod opening;
mod operators;
mod questions;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

pub use self::operators::{EndedEverything, SessionPage};
use self::{
    message::{GroupRoute, Opened, PeerMessage, Published},
    opening::PendingOpenings,
    questions::Questions,
};
use crate::{
    admission::{PrincipalPermit, PrincipalQuota, QuotaKind, work},
    engine::Notifier,
    mqtt::{
        broker::{
            Broker,
            durable::row_log::RowLog,
            outbox::SessionId,
            replicated::{Effect, Effects, ReplicatedSessions, numbers},
            sessions::{ClientSession, SessionKey},
        },
        protocol::{
            message::Message,
            packet::{PacketId, QoS, Reason},
        },
    },
    store::{
        BROADCAST_BYTES_MAX, Broadcast, BroadcastKind, BroadcastPermit, OnDurable, SessionClient, broadcast_memory,
    },
};

/// The time without a record of the log after which this node may not know of all sessions.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Bytes of messages that may wait for the log, of which a principal may have those of its part of a queue.
const MESSAGE_BYTES_MAX: usize = BROADCAST_BYTES_MAX / 4 * 3;
/// Bytes of openings that may wait for the log, of which a principal may have those of its part of a queue.
const OPENING_BYTES_MAX: usize = BROADCAST_BYTES_MAX / 8;

/// The other nodes; see the module.
pub(in crate::mqtt) struct Peers {
    node: u64,
    /// The first id of a session that this node makes.
    first: SessionId,
    /// Passes bytes to the other nodes; false if too many wait.
    send: Box<dyn Fn(Bytes) -> bool + Send + Sync>,
    replicated: Arc<ReplicatedSessions>,
    rows: Arc<RowLog>,
    /// The openings of this node that are not in the log yet.
    opening: Mutex<HashMap<SessionKey, PendingOpenings>>,
    /// The sessions that this node had before it started, and that it has not taken over yet.
    former: Mutex<Vec<SessionId>>,
    has_former: Notify,
    /// The sessions that this node has taken over, without a client that has opened them here.
    adopted: Mutex<HashSet<SessionId>>,
    /// The sessions that came to this node for a connection that did not wait for them any more. Their rows go with them when they are
    /// dropped, so each stays until the log has it under another id.
    unclaimed: Mutex<Vec<ClientSession>>,
    /// Bytes of messages, and of openings, that may wait for the log. Edits have the rest of the memory for broadcasts.
    message_room: Arc<Semaphore>,
    opening_room: Arc<Semaphore>,
    /// True while this node may not have the latest records of the log.
    is_cut_off: AtomicBool,
    /// True when this node has left its cluster.
    has_left: AtomicBool,
    /// True when the start of this node was broadcast.
    is_start_sent: AtomicBool,
    /// True when this node has met its own start in the log, and so all that it did before.
    has_started: AtomicBool,
    questions: Questions,
    /// The number of messages to groups that do not go through the log.
    messages: AtomicU64,
    runtime: Handle,
}

/// A message for all nodes, to be published in the log.
pub(in crate::mqtt) struct SharedMessage {
    bytes: Vec<u8>,
    /// The number of subscriptions, of sessions that outlive their connections, that select it.
    pub(in crate::mqtt) receivers: usize,
    permit: BroadcastPermit,
    /// The memory of its kind and of its publisher, until this node has applied it.
    waits: Room,
}

/// Memory for a broadcast, as one of its kind and of its principal.
type Room = (OwnedSemaphorePermit, PrincipalPermit);

impl Peers {
    /// Returns the runtime of the server, for threads outside of it.
    pub(in crate::mqtt::broker) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl SharedMessage {
    /// Has the session of the publisher keep the QoS 2 identifier of the message, with the reason of its PUBREC.
    pub(in crate::mqtt) fn keep_identifier(&mut self, id: PacketId, reason: Reason) {
        Published::set_identifier(&mut self.bytes, id, reason);
    }

    /// Returns the message as the will of its session.
    pub(in crate::mqtt) fn of_will(mut self) -> Self {
        Published::set_will(&mut self.bytes);
        self
    }
}

/// Returns memory for a broadcast of `bytes`, of that for its kind; `None` if too many wait for the log.
fn take_room_of(kind: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    Arc::clone(kind).try_acquire_many_owned(u32::try_from(broadcast_memory(bytes)).ok()?).ok()
}

impl Broker {
    /// Makes this broker one of a cluster, whose sessions are `replicated`, and whose log has records of at most `record_bytes_max`. `send` passes bytes to all other nodes and returns false
    /// if too many wait. Called once, inside the runtime, before the first connection.
    pub fn join_cluster(
        &self,
        replicated: Arc<ReplicatedSessions>,
        record_bytes_max: usize,
        send: impl Fn(Bytes) -> bool + Send + Sync + 'static,
    ) {
        let node = replicated.node();
        self.presence.join_cluster(node);
        self.router.join_cluster(Arc::clone(&replicated));
        let first = replicated.first_number(self.recorder.now().date_ms);
        self.number_sessions_from(first);
        let rows = RowLog::new(Arc::clone(&self.service), node, record_bytes_max);
        self.recorder.join(Arc::clone(&rows), first);
        let _is_the_first = self.peers.set(Peers {
            node,
            first: SessionId(first),
            send: Box::new(send),
            replicated,
            rows,
            opening: Mutex::default(),
            former: Mutex::default(),
            has_former: Notify::new(),
            adopted: Mutex::default(),
            unclaimed: Mutex::default(),
            message_room: Arc::new(Semaphore::new(MESSAGE_BYTES_MAX)),
            opening_room: Arc::new(Semaphore::new(OPENING_BYTES_MAX)),
            is_cut_off: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            is_start_sent: AtomicBool::new(false),
            has_started: AtomicBool::new(false),
            questions: Questions::new(first),
            messages: AtomicU64::new(0),
            runtime: Handle::current(),
        });
    }

    /// Returns true if other nodes may have receivers of a message.
    pub(in crate::mqtt) fn has_peers(&self) -> bool {
        self.peers.get().is_some()
    }

    /// Returns true if this node has left its cluster, so that its clients miss what others do.
    pub(in crate::mqtt) fn has_left(&self) -> bool {
        self.peers.get().is_some_and(|peers| peers.has_left.load(Ordering::Relaxed))
    }

    /// Returns the sessions of all nodes; `None` for a single node.
    pub(in crate::mqtt::broker) fn replicated(&self) -> Option<&ReplicatedSessions> {
        Some(&self.peers.get()?.replicated)
    }

    /// Broadcasts the edits of sessions until the broker closes.
    pub async fn send_rows(self: Arc<Self>) {
        let Some(peers) = self.peers.get() else { return self.closed().await };
        tokio::select! {
            () = Arc::clone(&peers.rows).run() => {}
            () = self.closed() => {}
        }
    }

    /// Returns true if a message that is acknowledged may miss sessions of other nodes: this one is cut off from the log, and knows of
    /// none.
    pub(in crate::mqtt) fn may_miss_sessions(&self, message: &Message) -> bool {
        let may_miss = |peers: &Peers| {
            peers.is_cut_off.load(Ordering::Relaxed)
                && message.qos != QoS::AtMostOnce
                && !message.retain
                && peers.replicated.selecting(message.topic.as_str()) == 0
        };
        self.peers.get().is_some_and(may_miss)
    }

    /// Reserves memory to share a message with the other nodes if all have to keep it: one to retain, or one for sessions that
    /// outlive their connections.
    ///
    /// # Errors
    ///
    /// Too many such messages wait, or too many of this principal.
    pub(in crate::mqtt) fn prepare(
        &self,
        message: &Arc<Message>,
        by: &Arc<PrincipalQuota>,
        from: Option<SessionId>,
    ) -> Result<Option<SharedMessage>, QuotaKind> {
        let Some(peers) = self.peers.get() else { return Ok(None) };
        let receivers = match message.qos {
            QoS::AtMostOnce => 0,
            _ => peers.replicated.selecting(message.topic.as_str()),
        };
        if message.retain {
            self.router.check_retained(message, by)?;
        } else if receivers == 0 {
            return Ok(None);
        }
        let (now, route) = (self.recorder.now(), GroupRoute::default());
        let bytes = Published::encode((peers.node, from), message, by, self.queue_bytes_max(), now, &route);
        let reserved = self.reserve_for(by, &peers.message_room, bytes.len());
        let (permit, waits) = reserved.ok_or(QuotaKind::Disk)?;
        Ok(Some(SharedMessage { bytes, receivers, permit, waits }))
    }

    /// Returns memory for a broadcast of `bytes` made for `by`, of that for its kind; `None` if too many wait for the log.
    fn reserve_for(
        &self,
        by: &Arc<PrincipalQuota>,
        kind: &Arc<Semaphore>,
        bytes: usize,
    ) -> Option<(BroadcastPermit, Room)> {
        let waits = (take_room_of(kind, bytes)?, by.try_queue(broadcast_memory(bytes))?);
        Some((self.service.reserve_broadcast(bytes)?, waits))
    }

    /// Shares a message. `on_kept` is called when the log has it and this node has applied it.
    pub(in crate::mqtt) fn share(&self, message: SharedMessage, on_kept: Option<OnDurable>) {
        let SharedMessage { bytes, permit, waits, .. } = message;
        let on_applied = move || {
            drop(waits);
            if let Some(on_kept) = on_kept {
                on_kept();
            }
        };
        self.service.broadcast(bytes.into(), Some(Box::new(on_applied)), permit);
    }

    /// Receives a message over the bus.
    pub fn receive_from_peer(self: &Arc<Self>, bytes: Bytes) {
        let Some(peers) = self.peers.get() else { return };
        match PeerMessage::decode(bytes, self.recorder.now()) {
            Some(PeerMessage::Published(published)) if published.node != peers.node => {
                let Published { message, route, .. } = *published;
                let groups = route.of_node(peers.node);
                self.publish_received(&Arc::new(message), None, &groups, route.is_only, false);
            }
            Some(PeerMessage::Asked { node, number, question }) if node != peers.node => {
                self.answer_node(peers, node, number, &question);
            }
            Some(PeerMessage::Answered(part)) if part.asker == peers.node => peers.questions.take(&part),
            _ => {}
        }
    }

    fn receive_broadcast(self: &Arc<Self>, Broadcast { is_own, number, bytes }: &Broadcast) {
        let Some(peers) = self.peers.get() else { return };
        let Effects { session: effect, presence } = peers.replicated.effects(*number);
        // Before the connection of a device ends that is at another node now.
        self.presence.receive(presence);
        if message::is_edited(bytes) {
            return; // what other nodes did to their sessions
        }
        // Before those are called who wait for what has no effect on it any more.
        match &effect {
            Some(Effect::Left { key, id }) => self.sessions.leave(key, *id),
            Some(Effect::Ended { key, id }) => self.sessions.end_in_log(key, *id),
            _ => {}
        }
        match (PeerMessage::decode(bytes.clone(), self.recorder.now()), effect) {
            (Some(PeerMessage::Opened(opened)), effect) if *is_own => self.opened_here(peers, &opened, effect),
            // Of an earlier run of this node, which takes its former sessions over when it has started.
            (Some(PeerMessage::Opened(opened)), _) if opened.node == peers.node => {}
            (Some(PeerMessage::Opened(Opened { key, .. })), _)
            | (Some(PeerMessage::Adopted { .. }), Some(Effect::Left { key, .. })) => self.left(peers, &key),
            (Some(PeerMessage::Adopted { .. }), Some(Effect::Moved(snapshot))) => self.adopt(peers, *snapshot),
            (Some(PeerMessage::Published(_)), Some(Effect::Void)) => {}
            (Some(PeerMessage::Published(published)), effect) => self.receive_published(*published, *number, effect),
            (Some(PeerMessage::Started { first, .. }), Some(Effect::Started(former))) => {
                // Not of an earlier run.
                peers.has_started.fetch_or(first == peers.first, Ordering::Relaxed);
                self.assert_connected();
                *peers.former.lock() = former;
                peers.has_former.notify_one();
            }
            // It is alive after all.
            (Some(PeerMessage::Gone { node }), _) if node == peers.node => self.assert_connected(),
            (Some(_), _) => {}
            (None, _) => tracing::error!("a message of another node cannot be read"),
        }
    }

    fn receive_published(&self, published: Published, number: u64, effect: Option<Effect>) {
        let Published { from, by, message, route, .. } = published;
        let message = Arc::new(message);
        // The rows are in the commit of the record. The limits of its publisher were applied by its node.
        if message.retain && !route.is_only {
            let known = self.service.quotas().principals.known(&by);
            let quota = known.unwrap_or_else(|| PrincipalQuota::unlimited(&by));
            self.router.retain_shared(&message, self.recorder.now().date_ms, quota);
        }
        let Some(Effect::Published { kept, groups }) = effect else { return };
        // Of a session that is not here yet it waits in its row; before the start of this node, it was received in an earlier run.
        let is_kept = || kept.iter().flatten().any(|session| !self.has_session(*session));
        let stays = !self.peers.get().is_some_and(|peers| peers.has_started.load(Ordering::Relaxed)) || is_kept();
        let rows = kept.map(|own| self.recorder.open_logged(&message, numbers::of_broadcast(number), own));
        self.publish_received(&message, from, &groups, route.is_only, stays);
        if let Some(rows) = rows {
            rows.close_logged(|session| self.has_session(session));
        }
    }

    /// Writes again what is connected to this node.
    fn assert_connected(&self) {
        self.presence.assert_connected();
        self.router.assert_members();
    }

    /// Returns true if this node has taken over the session of a client that has opened it at another node last.
    pub(in crate::mqtt::broker) fn is_adopted(&self, id: SessionId) -> bool {
        self.peers.get().is_some_and(|peers| peers.adopted.lock().contains(&id))
    }

    /// Returns true if this node has taken over all sessions that it had before it started, so that what it wrote of them then is not
    /// needed any more.
    pub(in crate::mqtt::broker) fn has_taken_over(&self) -> bool {
        let Some(peers) = self.peers.get() else { return true };
        let oldest = || peers.replicated.sessions_of(peers.node, None, 1).first().copied();
        peers.has_started.load(Ordering::Relaxed) && oldest().is_none_or(|oldest| oldest >= peers.first)
    }

    /// Returns the work of moving the session of a client that connects here: nothing if it is here.
    pub(in crate::mqtt) fn work_of_move(&self, key: &SessionKey) -> u64 {
        let Some((id, rows)) = self.replicated().and_then(|replicated| replicated.size_of(key)) else { return 0 };
        if self.sessions.id_of(key) == Some(id) { 0 } else { work::times(rows, work::FILTER) }
    }

    /// Returns true if this node has the session in memory.
    fn has_session(&self, id: SessionId) -> bool {
        let key = self.replicated().and_then(|replicated| replicated.key_of(id));
        key.is_some_and(|key| self.sessions.id_of(&key) == Some(id))
    }
}

/// Returns the kind of a broadcast of `bytes`.
pub fn kind_of(bytes: &Bytes) -> BroadcastKind {
    match message::key_of_opened(bytes) {
        Some(SessionKey { principal, client_id }) => {
            BroadcastKind::Opening(SessionClient { principal: principal.name().clone(), client_id })
        }
        None if message::takes_over(bytes) => BroadcastKind::Takeover,
        None => BroadcastKind::Other,
    }
}

/// Receives the broadcasts of a cluster, in their order.
pub struct PeerBroadcasts(pub Arc<Broker>);

impl Notifier for PeerBroadcasts {
    fn notify(&mut self, _: crate::engine::Outcome<'_>, _: &dyn crate::engine::Requester) -> usize {
        0
    }

    fn broadcast(&mut self, broadcast: &Broadcast) {
        self.0.receive_broadcast(broadcast);
    }
}
