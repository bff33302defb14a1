//! The newest openings of sessions in the log: they say which updates of a client came too late.
//!
//! A client that opens a session at another node has given up what it has sent to the former one. That node may be cut off, and send
//! such an update much later: it must not be applied after what the client has written since. So each node refuses the waiting
//! requests of a client when it applies an opening elsewhere, and says with its requests how far it has applied the log. The
//! node that decides refuses a request whose node had not applied the newest opening of the client at that time.
//!
//! Only openings that a message may have missed on its way are needed, so a bounded number is kept. Messages from before them are not
//! taken; their nodes send again what is still valid.
//!
//! Requests without a session, of HTTP and of rollouts, have nobody who could have left. Those of rollouts are refused if the rollout
//! does not permit them any more ([`BroadcastRows::permits`]).
//!
//! [`BroadcastRows::permits`]: crate::store::BroadcastRows::permits

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use crate::{
    shadow::Rejection,
    store::{batch::Envelope, replication::record::Claim},
};

/// Bytes of the openings that a node keeps: some ten thousand.
const OPENINGS_BYTES_MAX: usize = 4 << 20;
/// The memory of an opening besides its texts, in both collections.
const OPENING_OVERHEAD_BYTES: usize = 192;
/// The time for which a former session may still pass on what its client has sent: it ends as soon as its connection reads that it shall.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// The name of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionClient {
    /// The principal.
    pub principal: Arc<str>,
    /// The client id.
    pub client_id: Arc<str>,
}

/// The newest openings; see the module.
pub(in crate::store) struct Openings {
    /// This node.
    origin: Claim,
    newest: HashMap<SessionClient, Opening>,
    /// All openings that are kept, oldest first, with their records.
    order: VecDeque<(u64, SessionClient)>,
    bytes: usize,
    /// All openings after this record are known.
    known_after: u64,
    /// The openings of this node that are not in the log yet, with their number.
    waiting: HashMap<SessionClient, usize>,
    /// The clients that have opened a session elsewhere since they were taken last.
    moved: HashSet<SessionClient>,
}

struct Opening {
    origin: Claim,
    record: u64,
    /// The time when this node applied it.
    at: Duration,
}

impl SessionClient {
    /// Returns the client whose session made a command; `None` if none did.
    pub(in crate::store) fn of(envelope: &Envelope) -> Option<Self> {
        let Envelope { author, client, is_of_session, .. } = envelope;
        is_of_session.then(|| Self { principal: Arc::clone(&author.by), client_id: Arc::clone(client) })
    }

    fn bytes(&self) -> usize {
        self.principal.len() + self.client_id.len() + OPENING_OVERHEAD_BYTES
    }
}

impl Openings {
    /// Returns the openings of the node `origin` that has applied `record` at its start.
    pub(in crate::store) fn after(origin: Claim, record: u64) -> Self {
        Self {
            origin,
            newest: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            known_after: record,
            waiting: HashMap::new(),
            moved: HashSet::new(),
        }
    }

    /// Notes an opening of this node that waits for the log.
    pub(in crate::store) fn waits_here(&mut self, client: Option<&SessionClient>) {
        if let Some(client) = client {
            *self.waiting.entry(client.clone()).or_default() += 1;
        }
    }

    /// Notes that an opening of this node is in the log.
    pub(in crate::store) fn waits_no_more(&mut self, client: Option<&SessionClient>) {
        if let Some(client) = client
            && let Some(waiting) = self.waiting.get_mut(client)
        {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting.remove(client);
            }
        }
    }

    /// Notes an opening at the node `origin` in `record`, which this node applies at `now`.
    pub(in crate::store) fn add(&mut self, client: SessionClient, origin: Claim, record: u64, now: Duration) {
        self.bytes += client.bytes();
        self.order.push_back((record, client.clone()));
        if origin.node == self.origin.node {
            self.moved.remove(&client);
        } else {
            self.moved.insert(client.clone());
        }
        self.newest.insert(client, Opening { origin, record, at: now });
        while self.bytes > OPENINGS_BYTES_MAX
            && let Some((record, oldest)) = self.order.pop_front()
        {
            self.bytes -= oldest.bytes();
            if self.newest.get(&oldest).is_some_and(|newest| newest.record == record) {
                self.newest.remove(&oldest);
                self.known_after = record;
            }
        }
    }

    /// Returns true if all openings after `record` are known.
    pub(in crate::store) fn are_known_after(&self, record: u64) -> bool {
        record >= self.known_after
    }

    /// Returns true if a command of a node that had `applied` the log came too late: its client has opened a session elsewhere since.
    /// `undecided` are openings that precede it, in the record that is being made.
    pub(in crate::store) fn supersede(
        &self,
        envelope: &Envelope,
        origin: Claim,
        applied: u64,
        undecided: &HashMap<SessionClient, Claim>,
    ) -> bool {
        let Some(client) = SessionClient::of(envelope) else { return false };
        if let Some(opened_at) = undecided.get(&client) {
            return *opened_at != origin;
        }
        self.has_newer(&client, origin, applied)
    }

    /// Returns true if `client` has opened a session at another node than `origin` since that had `applied` the log.
    pub(in crate::store) fn has_newer(&self, client: &SessionClient, origin: Claim, applied: u64) -> bool {
        let is_newer = |opening: &Opening| opening.record > applied && opening.origin != origin;
        !self.are_known_after(applied) || self.newest.get(client).is_some_and(is_newer)
    }

    /// Returns true if a session of `client` at this node is to end, since there is a newer one at another node.
    pub(in crate::store) fn has_left(&self, client: &SessionClient, now: Duration) -> bool {
        let is_elsewhere =
            |opening: &Opening| opening.origin.node != self.origin.node && now.saturating_sub(opening.at) < ENDS_WITHIN;
        !self.waiting.contains_key(client) && self.newest.get(client).is_some_and(is_elsewhere)
    }

    /// Takes the clients that have opened a session at another node.
    pub(in crate::store) fn take_moved(&mut self) -> HashSet<SessionClient> {
        mem::take(&mut self.moved)
    }
}

/// Returns the refusal of a request of a session that came too late.
pub(in crate::store) fn superseded() -> Rejection {
    Rejection::Unavailable("the client has opened a session at another node of the cluster since".to_owned())
}

/// Returns the refusal of a request that came too late: its client is elsewhere, its row is not permitted any more, or its node had not
/// followed the log for too long.
pub(in crate::store) fn too_late(envelope: &Envelope) -> Rejection {
    match envelope.is_of_session {
        true => superseded(),
        false => Rejection::Unavailable(
            "the rollout does not permit the update any more, or the node that passed it on was far behind the log"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NodeId;

    const NOW: Duration = Duration::from_secs(5);

    fn node(node: u64) -> Claim {
        Claim { node: NodeId(node), incarnation: 7 }
    }

    fn client(number: usize) -> SessionClient {
        SessionClient { principal: "p".into(), client_id: format!("{number:04}{}", "x".repeat(800)).into() }
    }

    /// A flood of openings costs no more memory than the limit, and makes no late message valid.
    #[test]
    fn forgets_the_oldest_openings_and_takes_no_message_from_before_them() {
        let mut openings = Openings::after(node(1), 3);
        assert!(!openings.are_known_after(2) && openings.are_known_after(3));
        let count = 3 * OPENINGS_BYTES_MAX / client(0).bytes();
        for number in 0..count {
            openings.add(client(number), node(2), 4 + number as u64, NOW);
            assert!(openings.bytes <= OPENINGS_BYTES_MAX && openings.order.len() == openings.newest.len());
        }
        let first = count - openings.order.len();
        assert!(!openings.newest.contains_key(&client(first - 1)) && openings.newest.contains_key(&client(first)));
        let forgotten = 4 + first as u64 - 1;
        assert!(!openings.are_known_after(forgotten - 1) && openings.are_known_after(forgotten));
    }

    #[test]
    fn a_client_that_opens_again_and_again_is_kept_once() {
        let mut openings = Openings::after(node(1), 0);
        openings.add(client(0), node(2), 1, NOW);
        let count = 2 * OPENINGS_BYTES_MAX / client(0).bytes();
        (0..count).for_each(|number| openings.add(client(1), node(2), 2 + number as u64, NOW));
        assert!(openings.bytes <= OPENINGS_BYTES_MAX);
        assert_eq!((openings.newest.len(), openings.known_after), (1, 1), "its earlier openings are not needed");
    }

    #[test]
    fn a_session_has_left_until_it_opens_here_again() {
        let mut openings = Openings::after(node(1), 0);
        let client = client(0);
        openings.add(client.clone(), node(2), 1, NOW);
        assert!(openings.has_left(&client, NOW) && !openings.has_left(&client, NOW + ENDS_WITHIN));
        assert_eq!(openings.take_moved(), [client.clone()].into());
        openings.waits_here(Some(&client));
        openings.waits_here(Some(&client));
        openings.waits_no_more(Some(&client));
        assert!(!openings.has_left(&client, NOW), "one waits still");
        openings.add(client.clone(), node(1), 2, NOW);
        openings.waits_no_more(Some(&client));
        assert!(!openings.has_left(&client, NOW) && openings.take_moved().is_empty());
    }
}
