//! The sessions of nodes that are gone, and those that this node had before it started: a node that is there takes them over.
//!
//! It restores them as a node that was alone would after a restart: their delayed wills and expiries go on, their messages
//! wait for their clients. It also has all nodes disconnect the devices of such a node, which says again what is connected to it if
//! it is alive after all.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    mqtt::{
        broker::{
            Broker,
            outbox::SessionId,
            peers::{Peers, SILENCE_MAX, message},
            replicated::Snapshot,
            sessions::ClientSession,
        },
        protocol::packet::Reason,
    },
    store::MemberHealth,
};

/// The pause between two looks at the other nodes.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time after which the sessions of a node that is not alive are taken over.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The time without a record after which this node may be cut off: the node that decides appends one at least every half second.
const HEARD_WITHIN: Duration = Duration::from_millis(1_500);
/// Most sessions that are taken over at one time.
const AT_ONCE: usize = 1024;
/// The time after which the devices of a node of which nothing is heard are disconnected again.
const DISCONNECT_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Most takeovers that wait for the log.
const WAITING_MAX: usize = 8 * AT_ONCE;

/// The time after which this node takes over a session that it has in the log and not in memory.
const MISSING_AFTER: Duration = Duration::from_secs(10);

/// The node whose sessions were there before the cluster.
const NO_NODE: u64 = 0;

/// The state of [`Broker::watch_nodes`].
struct Watch {
    begun: Instant,
    /// The times when other nodes were alive last.
    alive: HashMap<u64, Instant>,
    /// The nodes whose devices were disconnected, and when.
    disconnected: HashMap<u64, Instant>,
    /// The sessions for which the log was asked, until it has answered or refused.
    asked: Arc<Mutex<HashSet<SessionId>>>,
    /// The sessions that this node has in the log and not in memory, with the time when it noticed.
    missing: HashMap<SessionId, Instant>,
    /// The last session that it looked for.
    last: Option<SessionId>,
}

/// A takeover for which the log was asked.
struct Asked {
    all: Arc<Mutex<HashSet<SessionId>>>,
    session: SessionId,
}

impl Watch {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            alive: HashMap::new(),
            disconnected: HashMap::new(),
            asked: Arc::default(),
            missing: HashMap::new(),
            last: None,
        }
    }

    /// Notes which nodes are alive at `now`.
    fn look(&mut self, health: &MemberHealth, now: Instant) {
        for other in health.others.iter().filter(|other| other.takes_part()) {
            self.alive.insert(other.node, now);
            self.disconnected.remove(&other.node);
        }
        if health.silence > HEARD_WITHIN {
            // This node may be the one that is cut off, and may decide no more.
            self.alive.clear();
            self.begun = now;
        }
    }

    /// Returns true if nothing was heard of another node for some time, in which this node has heard of the log.
    fn is_gone(&self, node: u64, now: Instant) -> bool {
        now.duration_since(self.alive.get(&node).copied().unwrap_or(self.begun)) > GONE_AFTER
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.all.lock().remove(&self.session);
    }
}

impl Broker {
    /// Takes over the sessions that this node had before it started, and while it decides, those of nodes that are gone, until the
    /// broker closes.
    pub async fn watch_nodes(self: Arc<Self>) {
        let Some(peers) = self.peers.get() else { return self.closed().await };
        let mut watch = Watch::new(Instant::now());
        loop {
            self.announce_start();
            self.take_over(peers, &mut watch);
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = peers.has_former.notified() => {}
                () = self.closed() => return,
            }
        }
    }

    /// Broadcasts the start of this node in a cluster, once: before it has connections, since it ends those of before. Nothing happens if
    /// too much waits for the log.
    pub fn announce_start(&self) {
        let Some(peers) = self.peers.get() else { return };
        let bytes = message::started(peers.node, peers.first);
        if !peers.is_start_sent.load(Ordering::Relaxed)
            && let Some(permit) = self.service.reserve_broadcast(bytes.len())
        {
            self.service.broadcast(bytes, None, permit);
            peers.is_start_sent.store(true, Ordering::Relaxed);
        }
    }

    fn take_over(&self, peers: &Peers, watch: &mut Watch) {
        let gone = self.gone_nodes(peers, watch);
        if peers.is_cut_off.load(Ordering::Relaxed) {
            return; // what was asked for waits
        }
        let mut sessions = std::mem::take(&mut *peers.former.lock());
        for node in gone {
            sessions.extend(peers.replicated.sessions_of(node, None, AT_ONCE));
            self.disconnect_all_of(peers, watch, node);
        }
        sessions.extend(self.missing_sessions(peers, watch));
        let waiting = {
            let asked = watch.asked.lock();
            sessions.retain(|session| !asked.contains(session));
            asked.len()
        };
        if let Some(more) = sessions.len().checked_sub(WAITING_MAX.saturating_sub(waiting)) {
            peers.former.lock().extend(sessions.drain(sessions.len() - more..));
        }
        for (at, former) in sessions.iter().enumerate() {
            let bytes = message::adopted(peers.node, *former, self.next_session_id());
            let Some(permit) = self.service.reserve_broadcast(bytes.len()) else {
                peers.former.lock().extend_from_slice(sessions.get(at..).unwrap_or_default());
                return;
            };
            watch.asked.lock().insert(*former);
            let asked = Asked { all: Arc::clone(&watch.asked), session: *former };
            self.service.broadcast(bytes, Some(Box::new(move || drop(asked))), permit);
        }
        if !sessions.is_empty() {
            tracing::info!(sessions = sessions.len(), "this node takes over sessions of nodes that are gone");
        }
    }

    /// Has all nodes disconnect what was connected to a node that is gone. If there is no room for that, it is tried again.
    ///
    /// A node that follows the log, although nothing else is heard of it, then writes what is connected: not over and over again.
    fn disconnect_all_of(&self, peers: &Peers, watch: &mut Watch, node: u64) {
        let (bytes, now) = (message::gone(peers.node, node), Instant::now());
        let was_asked = |at: &Instant| now.duration_since(*at) < DISCONNECT_AGAIN_AFTER;
        if peers.replicated.has_connected(node)
            && !watch.disconnected.get(&node).is_some_and(was_asked)
            && let Some(permit) = self.service.reserve_broadcast(bytes.len())
        {
            self.service.broadcast(bytes, None, permit);
            watch.disconnected.insert(node, now);
        }
    }

    /// Returns sessions that this node has in the log, and for some time not in memory: their clients were refused since the log
    /// did not answer in time. Looks at a part of all at each call.
    fn missing_sessions(&self, peers: &Peers, watch: &mut Watch) -> Vec<SessionId> {
        let now = Instant::now();
        Self::drop_unclaimed(peers);
        let looked = peers.replicated.sessions_of(peers.node, watch.last, AT_ONCE);
        watch.last = looked.last().copied();
        if watch.last.is_none() {
            peers.adopted.lock().retain(|session| peers.replicated.key_of(*session).is_some());
            watch.missing.retain(|session, _| peers.replicated.key_of(*session).is_some());
        }
        let mut missing = Vec::new();
        for session in looked {
            if self.has_session(session) {
                watch.missing.remove(&session);
            } else if now.duration_since(*watch.missing.entry(session).or_insert(now)) > MISSING_AFTER {
                missing.push(session);
            }
        }
        missing
    }

    /// Drops the sessions that nobody waited for, as far as the log has them under other ids: what they still write has no effect then.
    pub(super) fn drop_unclaimed(peers: &Peers) {
        let has_moved = |client: &mut ClientSession| peers.replicated.key_of(client.outbox.id()).is_none();
        let moved: Vec<_> = peers.unclaimed.lock().extract_if(.., has_moved).collect();
        drop(moved); // without the lock
    }

    /// Returns the nodes whose sessions this node has to take over.
    fn gone_nodes(&self, peers: &Peers, watch: &mut Watch) -> Vec<u64> {
        let (now, health) = (Instant::now(), self.service.health().member.unwrap_or_default());
        watch.look(&health, now);
        let is_cut_off = health.silence > SILENCE_MAX || health.latched.is_some();
        peers.is_cut_off.store(is_cut_off, Ordering::Relaxed);
        if health.latched.is_some() {
            peers.has_left.store(true, Ordering::Relaxed);
            self.sessions.end_connections(Reason::USE_ANOTHER_SERVER);
        }
        if !health.is_deciding || health.latched.is_some() {
            return Vec::new();
        }
        let is_gone = |node: &u64| *node == NO_NODE || (*node != peers.node && watch.is_gone(*node, now));
        peers.replicated.nodes().into_iter().filter(is_gone).collect()
    }

    /// Restores a session that this node takes over.
    pub(super) fn adopt(self: &Arc<Self>, peers: &Peers, snapshot: Snapshot) {
        // A client cannot begin to open it meanwhile.
        let opening = peers.opening.lock();
        // The client is opening it, which comes later in the log and moves it to its connection.
        if opening.contains_key(&snapshot.key) {
            return;
        }
        // One with another id is not in the log: its client comes back to this one.
        match self.sessions.id_of(&snapshot.key) {
            Some(other) => {
                self.sessions.leave(&snapshot.key, other);
                self.end_moved(&snapshot.key);
            }
            None => {
                peers.adopted.lock().insert(snapshot.id);
                self.restore_moved(snapshot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OtherNode;

    /// A node that decided and was cut off, or all nodes without NATS for ten seconds, took the others for gone: their connected clients
    /// were disconnected, and their wills published.
    #[test]
    fn nobody_is_gone_while_nothing_is_heard_of_the_log() {
        let second = Duration::from_secs;
        // When the other node is heard of last, the time in which nothing is heard of the log, and when the other is taken for gone first.
        for (heard_until, cut, expected) in [
            (60, 60..60, None),
            (10, 60..60, Some(15)),
            (10, 10..30, None),
            (10, 10..12, Some(17)),
            (10, 11..14, Some(19)),
        ] {
            let begun = Instant::now();
            let (mut watch, mut gone) = (Watch::new(begun), None);
            for now in 0..30_u64 {
                let silence = if cut.contains(&now) { second(now + 1 - cut.start) } else { Duration::ZERO };
                // A status of another node is believed for five seconds.
                let is_alive = now < heard_until || (cut.contains(&now) && now < heard_until + 5);
                let (has_left, profile) = (false, Arc::default());
                let other = OtherNode { node: 2, applied: 1, lag: 0, is_alive, has_left, clock_ahead: 0, profile };
                watch.look(&MemberHealth { silence, others: vec![other], ..Default::default() }, begun + second(now));
                gone = gone.or(watch.is_gone(2, begun + second(now)).then_some(now));
            }
            assert_eq!(gone, expected, "heard until {heard_until}, cut {cut:?}");
        }
    }
}
