//! The brokers of the other nodes of a cluster: ordinary messages, retained messages and the opening of sessions.
//!
//! Retained messages and openings are broadcast in the log: every node receives them in one order, so all retain the same, and
//! the session of a client ends at every other node when it opens at one. Other messages go over the bus, which is faster and
//! may lose them.
//!
//! *Invariant:* of two nodes at which a client has opened its session, that of the later opening in the log keeps it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use crate::{
    admission::{PrincipalPermit, PrincipalQuota, QuotaKind},
    auth::Principal,
    engine::Notifier,
    mqtt::{
        broker::{
            Broker,
            durable::{
                message_row::Now,
                retained_row::{self, RestoredRetained},
            },
            outbox::SessionId,
            router::DeliveryKind,
            sessions::SessionKey,
        },
        protocol::message::Message,
    },
    store::{BROADCAST_BYTES_MAX, Broadcast, BroadcastPermit, OnDurable, RowEdit, SessionClient},
};

/// Bytes of retained messages that may wait for the log, of which a principal may have those of its part of a queue.
const MESSAGE_BYTES_MAX: usize = BROADCAST_BYTES_MAX / 4 * 3;

const OPENED: u8 = b'o';
const PUBLISHED: u8 = b'p';

/// The longest wait of a connection for the log.
const OPENING_WAIT: Duration = Duration::from_secs(5);

/// The number of no session.
const NO_SESSION: u64 = u64::MAX;

/// The other nodes; see the module.
pub(in crate::mqtt) struct Peers {
    node: u64,
    /// Passes bytes to the other nodes; false if too many wait.
    send: Box<dyn Fn(Bytes) -> bool + Send + Sync>,
    /// The openings of this node that are not in the log yet.
    opening: Mutex<HashMap<SessionKey, PendingOpenings>>,
    /// Bytes of retained messages that may wait for the log. Openings have the rest of the memory for broadcasts.
    message_room: Arc<Semaphore>,
    runtime: Handle,
}

/// The openings of one session that are under way at this node.
#[derive(Default)]
struct PendingOpenings {
    count: usize,
    /// The client has opened a session at another node since, so that must end the one here unless an opening follows.
    has_moved: bool,
}

/// The opening of a session at this node, from before the session has its connection. If dropped, it was refused.
pub(in crate::mqtt) struct Opening {
    broker: Arc<Broker>,
    key: SessionKey,
}

/// A retained message for all nodes.
pub(in crate::mqtt) struct SharedMessage {
    bytes: Bytes,
    permit: BroadcastPermit,
    /// The memory of its kind and of its publisher, until this node has applied it.
    waits: (OwnedSemaphorePermit, PrincipalPermit),
}

/// A decoded message of a node.
enum PeerMessage {
    Opened {
        node: u64,
        key: SessionKey,
    },
    /// `from` is the session of the publisher at its node.
    Published {
        node: u64,
        from: SessionId,
        by: Arc<str>,
        message: Box<Message>,
    },
}

impl PeerMessage {
    /// Decodes a message; `None` if it is damaged or of a later program.
    fn decode(mut bytes: Bytes, now: Now) -> Option<Self> {
        let (kind, node, from) =
            (bytes.try_get_u8().ok()?, bytes.try_get_u64().ok()?, SessionId(bytes.try_get_u64().ok()?));
        match kind {
            OPENED => {
                let principal = Principal::of_known(&retained_row::text(&mut bytes)?);
                Some(Self::Opened { node, key: SessionKey { principal, client_id: retained_row::text(&mut bytes)? } })
            }
            PUBLISHED => {
                let RestoredRetained { message, by } = retained_row::read(bytes, now)?;
                Some(Self::Published { node, from, by, message: Box::new(message.message) })
            }
            _ => None,
        }
    }
}

impl Broker {
    /// Makes this broker one of a cluster: that of the node with this number, whose `send` passes bytes to all others and
    /// returns false if too many wait. Called once, inside the runtime, before the first connection.
    pub fn join_cluster(&self, node: u64, send: impl Fn(Bytes) -> bool + Send + Sync + 'static) {
        let (send, runtime) = (Box::new(send), Handle::current());
        let message_room = Arc::new(Semaphore::new(MESSAGE_BYTES_MAX));
        let _is_the_first = self.peers.set(Peers { node, send, opening: Mutex::default(), message_room, runtime });
    }

    /// Returns true if other nodes may have receivers of a message.
    pub(in crate::mqtt) fn has_peers(&self) -> bool {
        self.peers.get().is_some()
    }

    /// Passes a message that is not retained to the other nodes.
    pub(in crate::mqtt) fn pass_on(&self, message: &Arc<Message>, by: &PrincipalQuota) {
        let Some(peers) = self.peers.get() else { return };
        if !(peers.send)(encode_message(peers.node, None, message, by, self.recorder.now())) {
            self.counters.peer_messages_dropped.add(1);
        }
    }

    /// Reserves memory to share a retained message with the other nodes; `None` if there are none.
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
        self.router.check_retained(message, by)?;
        let bytes = encode_message(peers.node, from, message, by, self.recorder.now());
        let reserve = || {
            let room = u32::try_from(bytes.len()).ok()?;
            let room = Arc::clone(&peers.message_room).try_acquire_many_owned(room).ok()?;
            Some((self.service.reserve_broadcast(bytes.len())?, (room, by.try_queue(bytes.len())?)))
        };
        let (permit, waits) = reserve().ok_or(QuotaKind::Disk)?;
        Ok(Some(SharedMessage { bytes, permit, waits }))
    }

    /// Shares a retained message. `on_kept` is called when the log has it and this node has applied it.
    pub(in crate::mqtt) fn share(&self, message: SharedMessage, on_kept: Option<OnDurable>) {
        let SharedMessage { bytes, permit, waits } = message;
        let on_applied = move || {
            drop(waits);
            if let Some(on_kept) = on_kept {
                on_kept();
            }
        };
        self.service.broadcast(bytes, Some(Box::new(on_applied)), permit);
    }

    /// Begins to open the session of `key` at this node: until the opening is in the log, those at other nodes do not end
    /// the session here. `None` if there are no other nodes.
    pub(in crate::mqtt) fn begin_opening(self: &Arc<Self>, key: &SessionKey) -> Option<Opening> {
        self.peers.get()?.opening.lock().entry(key.clone()).or_default().count += 1;
        Some(Opening { broker: Arc::clone(self), key: key.clone() })
    }

    /// Receives a message over the bus.
    pub fn receive_from_peer(&self, bytes: Bytes) {
        let Some(peers) = self.peers.get() else { return };
        if let Some(PeerMessage::Published { node, message, .. }) = PeerMessage::decode(bytes, self.recorder.now())
            && node != peers.node
        {
            self.router.publish(&Arc::new(*message), DeliveryKind::Ordinary { from: None });
        }
    }

    fn receive_broadcast(self: &Arc<Self>, Broadcast { is_own, bytes }: &Broadcast) {
        let Some(peers) = self.peers.get() else { return };
        match PeerMessage::decode(bytes.clone(), self.recorder.now()) {
            Some(PeerMessage::Opened { key, .. }) if *is_own => {
                if let Some(pending) = peers.opening.lock().get_mut(&key) {
                    pending.has_moved = false;
                }
            }
            // Of an earlier run of this node, whose session this one may have restored.
            Some(PeerMessage::Opened { node, .. }) if node == peers.node => {}
            Some(PeerMessage::Opened { key, .. }) => {
                let mut opening = peers.opening.lock();
                match opening.get_mut(&key) {
                    // The opening that is under way here will be the later one.
                    Some(pending) => pending.has_moved = true,
                    None => self.end_moved(&key),
                }
            }
            Some(PeerMessage::Published { node, from, by, message }) => {
                let message = Arc::new(*message);
                // Its row is in the commit of the record. The limits of its publisher were applied by its node.
                let known = self.service.quotas().principals.known(&by);
                let quota = known.unwrap_or_else(|| PrincipalQuota::unlimited(&by));
                self.router.retain_shared(&message, self.recorder.now().date_ms, quota);
                let from = Some(from).filter(|_| node == peers.node);
                self.router.publish(&message, DeliveryKind::Ordinary { from });
            }
            None => tracing::error!("a message of another node cannot be read"),
        }
    }

    /// Ends a session whose client has opened one at another node. The caller has the lock of `opening`, so that no session
    /// that opens later is taken for it.
    fn end_moved(self: &Arc<Self>, key: &SessionKey) {
        let Some(peers) = self.peers.get() else { return };
        // A connection disposes of its session itself.
        if let Some(closed) = self.sessions.end_moved(key) {
            let broker = Arc::clone(self);
            peers.runtime.spawn(async move { broker.dispose(closed) });
        }
    }
}

impl Opening {
    /// Ends the session at all other nodes. Waits until the log has that, or for some time: so a client that was accepted
    /// here and then connects elsewhere is the later one there. Without a log, clients may still connect.
    pub(in crate::mqtt) async fn share(self) {
        let Some(peers) = self.broker.peers.get() else { return };
        let bytes = encode_opened(peers.node, &self.key);
        let service = Arc::clone(&self.broker.service);
        let Some(permit) = service.reserve_broadcast(bytes.len()) else {
            tracing::warn!(client = %self.key.client_id, "too many connections wait for the log: an earlier session may go on");
            return;
        };
        let (applied, is_applied) = oneshot::channel();
        let on_applied = move || {
            drop(self);
            let _nobody_waits_any_more = applied.send(());
        };
        service.broadcast(bytes.into(), Some(Box::new(on_applied)), permit);
        let _goes_on_without = timeout(OPENING_WAIT, is_applied).await;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(peers) = self.broker.peers.get() else { return };
        let mut opening = peers.opening.lock();
        let Entry::Occupied(mut pending) = opening.entry(self.key.clone()) else { return };
        pending.get_mut().count -= 1;
        if pending.get().count == 0 && pending.remove().has_moved {
            self.broker.end_moved(&self.key);
        }
    }
}

fn encode_opened(node: u64, key: &SessionKey) -> Vec<u8> {
    let mut bytes = vec![OPENED];
    bytes.put_u64(node);
    bytes.put_u64(NO_SESSION);
    retained_row::put_text(key.principal.name(), &mut bytes);
    retained_row::put_text(&key.client_id, &mut bytes);
    bytes
}

fn encode_message(node: u64, from: Option<SessionId>, message: &Arc<Message>, by: &PrincipalQuota, now: Now) -> Bytes {
    let mut bytes = Vec::with_capacity(64 + message.weight());
    bytes.push(PUBLISHED);
    bytes.put_u64(node);
    bytes.put_u64(from.map_or(NO_SESSION, |from| from.0));
    retained_row::put_value(message, by.name(), now, &mut bytes);
    bytes.into()
}

/// Returns the edit of the row of a retained message that is broadcast as `bytes`.
pub fn row_of(bytes: &Bytes) -> Option<RowEdit> {
    let now = Now { date_ms: 0, instant: Instant::now() };
    let Some(PeerMessage::Published { message, .. }) = PeerMessage::decode(bytes.clone(), now) else { return None };
    let topic = message.topic.as_str();
    Some(match message.clears_topic() {
        true => retained_row::remove(topic),
        false => retained_row::of_value(topic, bytes.slice(HEAD_BYTES..)),
    })
}

/// Returns the client whose session a broadcast of `bytes` opens.
pub fn opens(bytes: &Bytes) -> Option<SessionClient> {
    if bytes.first() != Some(&OPENED) {
        return None;
    }
    let now = Now { date_ms: 0, instant: Instant::now() };
    let Some(PeerMessage::Opened { key, .. }) = PeerMessage::decode(bytes.clone(), now) else { return None };
    Some(SessionClient { principal: key.principal.name().clone(), client_id: key.client_id })
}

/// The bytes before the value of the row: the kind, the node and the session.
const HEAD_BYTES: usize = 17;

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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::mqtt::connection::tests::{broker, connect};

    const PINGREQ: [u8; 2] = [0xc0, 0];
    const PINGRESP: [u8; 2] = [0xd0, 0];

    fn key() -> SessionKey {
        SessionKey { principal: Principal::of_known(&"anonymous/c".into()), client_id: "c".into() }
    }

    fn opened_at(broker: &Arc<Broker>, node: u64) {
        let bytes = encode_opened(node, &key()).into();
        broker.receive_broadcast(&Broadcast { is_own: node == 1, bytes });
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
        broker.join_cluster(1, |_| true);

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
}
