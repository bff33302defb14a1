//! Clients with sessions that move between the nodes of the cluster in memory of [`super::clusters`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    cluster_node::Sent,
    clusters::{Cluster, NODES},
    count,
    fault_counts::Fault,
    key,
};
use crate::{
    shadow::Rejection,
    store::{BroadcastKind, LogEvent, QueuedCommand, Seq, SessionClient},
};

const CLIENTS: usize = 3;
const PRINCIPAL: &str = "app-1";
const TAKEOVER: &str = "takeover";

/// Returns the kind of a broadcast: its text is the client whose session it opens, or [`TAKEOVER`].
pub(super) fn kind_of(bytes: &Bytes) -> BroadcastKind {
    match std::str::from_utf8(bytes) {
        Ok(TAKEOVER) => BroadcastKind::Takeover,
        Ok(client_id) => {
            let (principal, client_id) = (PRINCIPAL.into(), client_id.into());
            BroadcastKind::Opening(SessionClient { principal, client_id })
        }
        Err(_) => BroadcastKind::Other,
    }
}

/// The sessions of all clients.
#[derive(Default)]
pub(super) struct Sessions {
    /// The last session of each client at each node, also if its client is elsewhere by now: the node may not know that.
    open: BTreeMap<(usize, usize), Session>,
    /// The number of sessions so far.
    count: u64,
    /// The number of the session of each client that is to be the next.
    opening: BTreeMap<usize, u64>,
    /// The openings that are in the log: the number, the client, the node and its start.
    opened: Arc<Mutex<Vec<Opened>>>,
    /// The node at which each client has opened its last session.
    last: BTreeMap<usize, usize>,
    /// The session in which a request was made.
    made_in: BTreeMap<u64, (usize, u64)>,
}

#[derive(Clone, Copy)]
struct Session {
    number: u64,
    incarnation: u64,
}

#[derive(Clone, Copy)]
struct Opened {
    client: usize,
    node: usize,
    session: Session,
}

impl Cluster {
    /// Lets a client open a session at `node`, and leave any other.
    pub(super) fn move_client(&mut self, node: usize) {
        let client = self.below(CLIENTS);
        self.open_session(client, node);
    }

    pub(super) fn open_session(&mut self, client: usize, node: usize) {
        self.sessions.count += 1;
        let session = Session { number: self.sessions.count, incarnation: self.nodes[node].incarnation };
        self.sessions.opening.insert(client, session.number);
        // A node ends a former session of the client before it opens another one.
        self.sessions.open.remove(&(client, node));
        let opened = Arc::clone(&self.sessions.opened);
        let on_applied = move || opened.lock().push(Opened { client, node, session });
        let store = &self.nodes[node].stepped.store;
        let bytes = Bytes::from(format!("s-{client}"));
        let permit = store.reserve_broadcast(bytes.len()).unwrap();
        store.broadcast(bytes, Some(Box::new(on_applied)), permit);
        self.run(node);
    }

    /// Notes which sessions are open. A client that has gone on to another node does not use one that opens late.
    fn note_opened(&mut self) {
        let opened: Vec<_> = self.sessions.opened.lock().drain(..).collect();
        for Opened { client, node, session } in opened {
            self.faults.note(Fault::SessionOpened);
            if self.sessions.last.insert(client, node).is_some_and(|last| last != node) {
                self.faults.note(Fault::SessionMoved);
            }
            if self.sessions.opening.get(&client) == Some(&session.number) {
                self.sessions.opening.remove(&client);
                self.sessions.open.insert((client, node), session);
            }
        }
    }

    /// Lets a node take a request that a client has sent in its last session there. The client may have left it since, but sends
    /// nothing more to it then: the node only reads late.
    pub(super) fn submit_in_session(&mut self) {
        let (client, node) = (self.below(CLIENTS), self.below(NODES));
        if let Some(queued) = self.session_request(client, node) {
            self.submit_queued(node, queued);
        }
    }

    /// Returns a request of the last session of `client` at `node`; `None` if there is none.
    fn session_request(&mut self, client: usize, node: usize) -> Option<QueuedCommand<u64>> {
        self.note_opened();
        let session = self.sessions.open.get(&(client, node)).copied()?;
        if session.incarnation != self.nodes[node].incarnation {
            return None;
        }
        let id = self.requests.len() as u64;
        let mut queued = self.request(id);
        queued.envelope.author.by = PRINCIPAL.into();
        queued.envelope.client = format!("s-{client}").into();
        queued.envelope.is_of_session = true;
        self.sessions.made_in.insert(id, (client, session.number));
        Some(queued)
    }

    /// Checks that no update of an earlier session was applied after one of a later session of the same client.
    pub(super) fn check_sessions(&self, about: &str) {
        let mut made: Vec<(Seq, usize, u64, u64)> = Vec::new();
        for (id, (client, session)) in &self.sessions.made_in {
            made.extend(self.requests[id].made.map(|seq| (seq, *client, *session, *id)));
        }
        made.sort_unstable();
        let mut newest = BTreeMap::new();
        for (seq, client, session, id) in made {
            let newest = newest.entry(client).or_insert(session);
            assert!(session >= *newest, "{about}: request {id} of an earlier session was applied late, as {seq}");
            *newest = session;
        }
    }

    /// Opens a session of `client` at `node`, and waits for it; nothing happens at `quiet`.
    pub(super) fn opened_session(&mut self, client: usize, node: usize, quiet: Option<usize>) {
        self.open_session(client, node);
        while self.sessions.opening.contains_key(&client) {
            self.turn_without(quiet);
            self.note_opened();
        }
    }

    /// Lets `node` take an update of `client` that has no condition. Returns its number.
    fn update_of(&mut self, client: usize, node: usize) -> u64 {
        let mut queued = self.session_request(client, node).expect("an open session");
        let id = queued.context;
        queued.envelope.key = key("d1");
        queued.envelope.command = count(1000 + id);
        self.submit_queued(node, queued);
        id
    }

    pub(super) fn answer_of(&mut self, id: u64, quiet: Option<usize>) -> Result<Option<Seq>, Rejection> {
        loop {
            if let Some(answer) = &self.requests[&id].answer {
                return answer.clone();
            }
            self.turn_without(quiet);
        }
    }

    fn turn_without(&mut self, quiet: Option<usize>) {
        let others: Vec<_> = (0..NODES).filter(|node| Some(*node) != quiet).collect();
        others.iter().for_each(|node| while self.pass(*node) {});
        others.iter().for_each(|node| self.read_at(*node));
    }
}

pub(super) fn is_superseded(answer: &Result<Option<Seq>, Rejection>) -> bool {
    matches!(answer, Err(Rejection::Unavailable(text)) if text.contains("another node"))
}

/// The messages of a node arrived late. An update in them was applied after its client had gone to another node and written there.
#[test]
fn a_message_that_arrives_late_changes_nothing() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let (slow, other) = ((decider + 1) % NODES, (decider + 2) % NODES);
    for (client, later) in [(0, other), (1, decider)] {
        cluster.opened_session(client, slow, None);
        let early = cluster.update_of(client, slow);
        cluster.opened_session(client, later, Some(slow));
        let late = cluster.update_of(client, later);
        assert!(matches!(cluster.answer_of(late, Some(slow)), Ok(Some(_))));
        // The decider takes the message before its node reads the log.
        while cluster.pass(slow) {}
        cluster.turn_without(Some(slow));
        let answer = cluster.answer_of(early, None);
        assert!(is_superseded(&answer), "{answer:?}");
        assert_eq!(cluster.requests[&early].made, None);
    }
    assert_eq!(cluster.decider(), decider, "no claim was necessary");
    // The client comes back.
    cluster.opened_session(0, slow, None);
    let again = cluster.update_of(0, slow);
    assert!(matches!(cluster.answer_of(again, None), Ok(Some(_))));
    cluster.check_sessions("at the end");
}

/// The opening at another node and the late update became one record.
#[test]
fn an_opening_and_a_late_update_in_one_record() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let (slow, other) = ((decider + 1) % NODES, (decider + 2) % NODES);
    cluster.opened_session(0, slow, None);
    let early = cluster.update_of(0, slow);
    // Its append is under way while the others' messages come.
    cluster.submit(decider);
    cluster.open_session(0, other);
    while cluster.pass(other) {}
    while cluster.pass(slow) {}
    let answer = cluster.answer_of(early, None);
    assert!(is_superseded(&answer), "{answer:?}");
}

/// A node whose messages are lost refuses the requests of clients that went to another node as soon as it reads that in the log.
#[test]
fn a_node_gives_up_requests_of_clients_that_have_left() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let (cut_off, other) = ((decider + 1) % NODES, (decider + 2) % NODES);
    cluster.opened_session(0, cut_off, None);
    cluster.opened_session(1, cut_off, None);
    cluster.cut = Some(cut_off);
    let (left, stays) = (cluster.update_of(0, cut_off), cluster.update_of(1, cut_off));
    let begun = cluster.now;
    cluster.opened_session(0, other, None);
    let answer = cluster.answer_of(left, None);
    assert!(is_superseded(&answer) && cluster.now - begun < Duration::from_secs(2), "{answer:?}");
    // What its connection reads late is not taken any more.
    let late = cluster.update_of(0, cut_off);
    assert!(cluster.requests[&late].answer.as_ref().is_some_and(is_superseded));
    assert_eq!(cluster.requests[&stays].answer, None);
    cluster.cut = None;
    assert!(matches!(cluster.answer_of(stays, None), Ok(Some(_))));
    cluster.opened_session(0, cut_off, None);
    let again = cluster.update_of(0, cut_off);
    assert!(matches!(cluster.answer_of(again, None), Ok(Some(_))));
}

/// A node that was cut off passed on an opening for which nobody waited any more: the session left the node at which its client was by
/// then, and one without clean start was lost.
#[test]
fn an_opening_that_waited_for_long_does_not_follow_the_next_one() {
    for (seconds, reads, is_applied) in [(2, true, true), (2, false, true), (10, true, false), (10, false, false)] {
        let mut cluster = Cluster::open(1);
        let decider = cluster.decider();
        let (cut_off, other) = ((decider + 1) % NODES, (decider + 2) % NODES);
        (0..20).for_each(|_| cluster.turn());
        cluster.open_session(0, cut_off);
        // Its messages arrive late. It may read the log meanwhile.
        let mut waiting = Vec::new();
        while let Some(sent) = cluster.nodes[cut_off].take_sent(true) {
            waiting.extend(match sent {
                Sent::Message(to, message) if to.0 as usize == decider => Some(message),
                _ => None,
            });
        }
        cluster.cut = Some(cut_off);
        let until = cluster.now + Duration::from_secs(seconds);
        while cluster.now < until {
            cluster.turn_without(Some(cut_off));
        }
        cluster.opened_session(0, other, Some(cut_off));
        if reads {
            cluster.turn();
        } else {
            for message in waiting {
                cluster.event(decider, LogEvent::Received(message, None));
            }
        }
        cluster.cut = None;
        (0..100).for_each(|_| cluster.turn());
        cluster.note_opened();
        let expected = if is_applied { cut_off } else { other };
        assert_eq!(cluster.sessions.last[&0], expected, "after {seconds} s, reads: {reads}");
        // The client comes back.
        cluster.opened_session(0, cut_off, None);
        let id = cluster.update_of(0, cut_off);
        assert!(matches!(cluster.answer_of(id, None), Ok(Some(_))));
    }
}

/// A node that decided and was cut off took the others for gone, and took over their sessions when it was back.
#[test]
fn only_the_node_that_decides_takes_over() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    for node in 0..NODES {
        let is_applied = Arc::new(AtomicBool::new(false));
        let on_applied = Arc::clone(&is_applied);
        let store = &cluster.nodes[node].stepped.store;
        let permit = store.reserve_broadcast(TAKEOVER.len()).unwrap();
        let on_applied = move || on_applied.store(true, Ordering::Relaxed);
        store.broadcast(Bytes::from_static(TAKEOVER.as_bytes()), Some(Box::new(on_applied)), permit);
        cluster.run(node);
        (0..20).for_each(|_| cluster.turn());
        assert_eq!(is_applied.load(Ordering::Relaxed), node == decider, "{node}");
        assert_eq!(Arc::strong_count(&is_applied), 1, "nobody waits for it");
    }
}
