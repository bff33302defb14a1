//! The brokers of the other nodes of a cluster: messages for their sessions, and sessions that move between nodes.
//!
//! Everything that all nodes must agree on is broadcast in the log, so every node receives it in one order: retained messages, those at
//! QoS 1 and 2 for sessions that outlive their connections, the rows of these sessions, and the opening of sessions. Other messages go
//! over the bus, which is faster and may lose them.
//!
//! A client that opens its session at a node takes it along from any other ([`opening`]). The sessions of a node that is gone
//! are taken over by the node that decides ([`adoption`]).

mod adoption;
pub(in crate::mqtt::broker) mod message;
mod opening;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

use self::{
    message::{Opened, PeerMessage, Published},
    opening::PendingOpenings,
};
use crate::{
    admission::{PrincipalPermit, PrincipalQuota, QuotaKind},
    engine::Notifier,
    mqtt::{
        broker::{
            Broker,
            durable::row_log::RowLog,
            outbox::SessionId,
            replicated::{Effect, ReplicatedSessions, numbers},
            router::DeliveryKind,
            sessions::SessionKey,
        },
        protocol::{
            message::Message,
            packet::{PacketId, QoS, Reason},
        },
    },
    store::{BROADCAST_BYTES_MAX, Broadcast, BroadcastPermit, OnDurable, SessionClient},
};

/// Bytes of messages that may wait for the log, of which a principal may have those of its part of a queue.
const MESSAGE_BYTES_MAX: usize = BROADCAST_BYTES_MAX / 4 * 3;

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
    /// Bytes of messages that may wait for the log. Openings have the rest of the memory for broadcasts.
    message_room: Arc<Semaphore>,
    runtime: Handle,
}

/// A message for all nodes, to be published in the log.
pub(in crate::mqtt) struct SharedMessage {
    bytes: Vec<u8>,
    /// The number of subscriptions, of sessions that outlive their connections, that select it.
    pub(in crate::mqtt) receivers: usize,
    permit: BroadcastPermit,
    /// The memory of its kind and of its publisher, until this node has applied it.
    waits: (OwnedSemaphorePermit, PrincipalPermit),
}

impl SharedMessage {
    /// Has the session of the publisher keep the QoS 2 identifier of the message, with the reason of its PUBREC.
    pub(in crate::mqtt) fn keep_identifier(&mut self, id: PacketId, reason: Reason) {
        Published::set_identifier(&mut self.bytes, id, reason);
    }
}

impl Broker {
    /// Makes this broker one of a cluster, whose sessions are `replicated`. `send` passes bytes to all other nodes and returns false
    /// if too many wait. Called once, inside the runtime, before the first connection.
    pub fn join_cluster(
        &self,
        replicated: Arc<ReplicatedSessions>,
        send: impl Fn(Bytes) -> bool + Send + Sync + 'static,
    ) {
        let node = replicated.node();
        let first = replicated.first_number(self.recorder.now().date_ms);
        self.number_sessions_from(first);
        let rows = RowLog::new(Arc::clone(&self.service), node);
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
            message_room: Arc::new(Semaphore::new(MESSAGE_BYTES_MAX)),
            runtime: Handle::current(),
        });
    }

    /// Returns true if other nodes may have receivers of a message.
    pub(in crate::mqtt) fn has_peers(&self) -> bool {
        self.peers.get().is_some()
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

    /// Passes a message that is not shared to the other nodes.
    pub(in crate::mqtt) fn pass_on(&self, message: &Arc<Message>, by: &PrincipalQuota) {
        let Some(peers) = self.peers.get() else { return };
        let bytes = Published::encode((peers.node, None), message, by, 0, self.recorder.now());
        if !(peers.send)(bytes.into()) {
            self.counters.peer_messages_dropped.add(1);
        }
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
        let queue_bytes_max = 2 * self.limits.queue.bytes.max(self.limits.queue.offline_bytes) as u64;
        let bytes = Published::encode((peers.node, from), message, by, queue_bytes_max, self.recorder.now());
        let reserve = || {
            let room = u32::try_from(bytes.len()).ok()?;
            let room = Arc::clone(&peers.message_room).try_acquire_many_owned(room).ok()?;
            Some((self.service.reserve_broadcast(bytes.len())?, (room, by.try_queue(bytes.len())?)))
        };
        let (permit, waits) = reserve().ok_or(QuotaKind::Disk)?;
        Ok(Some(SharedMessage { bytes, receivers, permit, waits }))
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
    pub fn receive_from_peer(&self, bytes: Bytes) {
        let Some(peers) = self.peers.get() else { return };
        if let Some(PeerMessage::Published(published)) = PeerMessage::decode(bytes, self.recorder.now())
            && published.node != peers.node
        {
            self.router.publish(&Arc::new(published.message), DeliveryKind::Ordinary { from: None });
        }
    }

    fn receive_broadcast(self: &Arc<Self>, Broadcast { is_own, number, bytes }: &Broadcast) {
        let Some(peers) = self.peers.get() else { return };
        if message::is_edited(bytes) {
            return; // what other nodes did to their sessions
        }
        let effect = peers.replicated.effect(*number);
        match (PeerMessage::decode(bytes.clone(), self.recorder.now()), effect) {
            (Some(PeerMessage::Opened(opened)), effect) if *is_own => self.opened_here(peers, &opened, effect),
            // Of an earlier run of this node, which takes its former sessions over when it has started.
            (Some(PeerMessage::Opened(opened)), _) if opened.node == peers.node => {}
            (Some(PeerMessage::Opened(Opened { key, .. })), _)
            | (Some(PeerMessage::Adopted { .. }), Some(Effect::Left(key))) => self.left(peers, &key),
            (Some(PeerMessage::Adopted { .. }), Some(Effect::Moved(snapshot))) => self.adopt(peers, *snapshot),
            (Some(PeerMessage::Published(published)), effect) => self.receive_published(*published, *number, effect),
            (Some(PeerMessage::Started { .. }), Some(Effect::Started(former))) => {
                *peers.former.lock() = former;
                peers.has_former.notify_one();
            }
            (Some(PeerMessage::Adopted { .. } | PeerMessage::Edited(_) | PeerMessage::Started { .. }), _) => {}
            (None, _) => tracing::error!("a message of another node cannot be read"),
        }
    }

    fn receive_published(&self, published: Published, number: u64, effect: Option<Effect>) {
        let Published { from, by, message, .. } = published;
        let message = Arc::new(message);
        // The rows are in the commit of the record. The limits of its publisher were applied by its node.
        if message.retain {
            let known = self.service.quotas().principals.known(&by);
            let quota = known.unwrap_or_else(|| PrincipalQuota::unlimited(&by));
            self.router.retain_shared(&message, self.recorder.now().date_ms, quota);
        }
        let rows = match effect {
            Some(Effect::Kept(own)) => Some(self.recorder.open_logged(&message, numbers::of_broadcast(number), own)),
            _ => None,
        };
        self.router.publish(&message, DeliveryKind::Ordinary { from });
        if let Some(rows) = rows {
            rows.close_logged(|session| self.has_session(session));
        }
    }

    /// Returns true if this node has taken over the session of a client that has opened it at another node last.
    pub(in crate::mqtt::broker) fn is_adopted(&self, id: SessionId) -> bool {
        self.peers.get().is_some_and(|peers| peers.adopted.lock().contains(&id))
    }

    /// Returns true if this node has the session in memory.
    fn has_session(&self, id: SessionId) -> bool {
        let key = self.replicated().and_then(|replicated| replicated.key_of(id));
        key.is_some_and(|key| self.sessions.id_of(&key) == Some(id))
    }
}

/// Returns the client whose session a broadcast of `bytes` opens.
pub fn opens(bytes: &Bytes) -> Option<SessionClient> {
    let key = message::key_of_opened(bytes)?;
    Some(SessionClient { principal: key.principal.name().clone(), client_id: key.client_id })
}

/// Receives the broadcasts of a cluster, in their order.
pub struct PeerBroadcasts(pub Arc<Broker>);

impl Notifier for PeerBroadcasts {
    fn notify(&mut self, _: crate::engine::Outcome<'_>, _: &dyn crate::engine::Requester) {}

    fn broadcast(&mut self, broadcast: &Broadcast) {
        self.0.receive_broadcast(broadcast);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::timeout,
    };

    use super::*;
    use crate::{
        auth::Principal,
        mqtt::{
            broker::{
                durable::{message_row::Now, subscription_row},
                replicated::ReplicatedRows,
            },
            connection::tests::{broker, connect},
            protocol::{
                packet::{RetainHandling, Subscription},
                topic::{TopicFilter, TopicName},
            },
        },
        store::BroadcastRows,
    };

    const PINGREQ: [u8; 2] = [0xc0, 0];
    const PINGRESP: [u8; 2] = [0xd0, 0];

    fn key() -> SessionKey {
        SessionKey { principal: Principal::of_known(&"anonymous/c".into()), client_id: "c".into() }
    }

    fn opened_at(broker: &Arc<Broker>, node: u64) {
        let fresh = SessionId(numbers::first(node, 0));
        let opened = Opened { node, key: key(), current: None, fresh, clean_start: false, row: None };
        broker.receive_broadcast(&Broadcast { is_own: node == 1, number: 1, bytes: opened.encode() });
    }

    async fn wait_for_end(client: &mut DuplexStream) {
        let mut rest = Vec::new();
        let end = client.read_to_end(&mut rest);
        timeout(Duration::from_secs(60), end).await.expect("the end of the connection").unwrap();
    }

    /// Sends a PINGREQ. Returns true if it is answered, false if the connection ends.
    async fn is_connected(client: &mut DuplexStream) -> bool {
        let mut answer = [0; 2];
        client.write_all(&PINGREQ).await.is_ok()
            && client.read_exact(&mut answer).await.is_ok_and(|_| answer == PINGRESP)
    }

    #[tokio::test]
    async fn a_session_ends_by_an_opening_elsewhere_only_if_none_follows_here() {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker(directory.path());
        broker.join_cluster(ReplicatedSessions::new(1), |_| true);

        let mut former = connect(&broker, 0).await;
        opened_at(&broker, 2);
        // The former session ends before a later one can be found in its place.
        let mut later = connect(&broker, 0).await;
        wait_for_end(&mut former).await;
        assert!(is_connected(&mut later).await);

        let opening = broker.begin_opening(&key());
        opened_at(&broker, 2);
        assert!(is_connected(&mut later).await, "an opening is under way here");
        opened_at(&broker, 1);
        drop(opening);
        assert!(is_connected(&mut later).await, "the opening here is the later one");

        let refused = broker.begin_opening(&key());
        opened_at(&broker, 2);
        assert!(is_connected(&mut later).await);
        drop(refused);
        // No opening followed here.
        wait_for_end(&mut later).await;
    }

    /// Has the log, and then the notifier, of this node receive a broadcast.
    fn receive(broker: &Arc<Broker>, number: u64, bytes: Bytes) {
        let mut rows = ReplicatedRows(broker.peers.get().unwrap().replicated.clone());
        let _rows_of_the_commit = rows.apply(number, &bytes);
        broker.receive_broadcast(&Broadcast { is_own: false, number, bytes });
    }

    fn message(payload: &'static str) -> Bytes {
        let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from_static(payload.as_bytes()));
        let message = Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, false, None, Instant::now()));
        let now = Now { date_ms: 0, instant: Instant::now() };
        Published::encode((2, None), &message, &PrincipalQuota::unlimited("p"), 1 << 20, now).into()
    }

    #[tokio::test]
    async fn a_session_that_is_taken_over_gets_earlier_and_later_messages_once_and_leaves_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker(directory.path());
        broker.join_cluster(ReplicatedSessions::new(1), |_| true);
        let (former, id) = (SessionId(numbers::first(2, 0)), SessionId(numbers::first(1, 0) + 9));
        let head = br#"{"client":"c","login":{"principal":"anonymous/c","listener":"local","client":"c","method":"anonymous"},"expiry":60,"since":0}"#;
        let row = [&u32::try_from(head.len()).unwrap().to_be_bytes(), head.as_slice()].concat().into();
        let opened = Opened { node: 2, key: key(), current: None, fresh: former, clean_start: true, row: Some(row) };
        let mut subscribed = message::edited(2);
        let subscription = Subscription {
            filter: TopicFilter::new("a").unwrap(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::DoNotSend,
        };
        message::put_edit(&subscription_row::put(former, &subscription, None), &mut subscribed);
        let adopted = message::adopted(1, former, id);
        let all = [opened.encode(), subscribed.into(), message("1"), adopted, message("2")];
        (1..).zip(all).for_each(|(number, bytes)| receive(&broker, number, bytes));
        assert_eq!(broker.sessions.id_of(&key()), Some(id));

        let mut client = connect(&broker, 1).await;
        receive(&broker, 6, message("3"));
        for (packet_id, payload) in [(1, b'1'), (2, b'2'), (3, b'3')] {
            let mut publish = [0; 8];
            client.read_exact(&mut publish).await.unwrap();
            assert_eq!(publish, [0x32, 6, 0, 1, b'a', 0, packet_id, payload]);
        }
        let moved = message::adopted(2, id, SessionId(former.0 + 1));
        receive(&broker, 7, moved);
        wait_for_end(&mut client).await;
        assert_eq!(broker.sessions.id_of(&key()), None);
    }
}
