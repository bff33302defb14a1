//! A store as a member of a cluster: it follows the log, passes its clients' requests to the node that decides, and
//! decides when it is that node.
//!
//! The writer never waits for the log. It gives actions to a [`Link`], and the results come back in its queue as
//! [`LogEvent`]s. So do the records of the log, messages of other nodes, and the time.
//!
//! The node that decides makes a batch of its own requests and those it received, appends the record, and applies it when the
//! log has it. Every node answers the requests of its clients when it applies the record that decides them: from the entry
//! of an accepted change; else by deciding again, without an effect, in the state in which the request was decided.
//!
//! *Invariant:* a batch is decided only when all records that were read are applied, and while no append is under way.
//!
//! *Invariant:* a client is answered after the record that decides its request is applied, so no answer overtakes an event.

mod answers;
mod applying;
mod broadcasts;
mod deciding;
mod health;
mod neighbours;
mod purges;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

pub use self::broadcasts::{Broadcast, BroadcastKind, BroadcastRows};
pub use self::health::{Difference, MemberHealth, OtherNode};
use self::{answers::Answered, deciding::claim_after, neighbours::Neighbours};
use crate::{
    shadow::{Rejection, Timestamp},
    store::{
        batch::{Envelope, Outcome, QueuedCommand},
        changes::Changes,
        codec::DecodeError,
        replication::{
            applied_position::AppliedPosition,
            chain::{Chain, ReadRecord},
            openings::{Openings, SessionClient, superseded},
            record::{Claim, NodeId},
            record_ages::RecordAges,
            replica::{Action, Appended, KeptRecords, Reaction, Replica},
            requests::{
                Barrier, BusMessage, OwnBroadcast, OwnRequest, OwnRequests, ReceivedRequests, RequestNumber,
                RequestToDecide,
            },
            status::NodeProfile,
        },
        rows::sent::OnDurable,
    },
};

/// Bytes of journal entries in a record, unless a single command makes more.
const RECORD_BYTES: u64 = 256 << 10;
/// The time after which the node that decides appends a record without changes.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The time without a record after which a node claims, with up to as much again.
const CLAIM_AFTER: Duration = Duration::from_secs(2);
/// The time without an answer after which requests are sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// The time after which a request without an answer ends with an unknown outcome.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The time in which an opening of a session is passed on, if its client has opened one elsewhere meanwhile. The connection that waits for
/// it is refused before.
const OPENING_WITHIN: Duration = Duration::from_secs(6);
/// The time without a record, or without an answer of the node that decides, after which new commands are refused.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The interval at which a node sends its status to the others.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The interval at which messages that cannot be read are logged.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// The time without a status after which another node is taken for gone.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The interval at which a node looks again if a log that lacks records has them.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// The time for the last requests when the store is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The connection of a member to the log and the other nodes. Its methods return at once.
///
/// The log promises: a record is appended if and only if the log ends at the expected number; it is on the disks of a majority
/// before [`Appended::Stored`]; a read sees every append that was reported before it began.
pub trait Link: Send {
    /// Carries out `action`, and reports its result as a [`LogEvent`]. A read is tried until it has a result.
    fn carry_out(&mut self, action: Action);

    /// Sends `message` to `node`. It may be lost.
    fn send(&mut self, node: NodeId, message: Bytes);

    /// Sends `message` to all other nodes. It may be lost.
    fn send_to_all(&mut self, message: Bytes);
}

/// An event for a member.
#[derive(Debug)]
pub enum LogEvent {
    /// A record of the log, in order.
    Record {
        /// Its number.
        number: u64,
        /// Its encoded form.
        record: Bytes,
        /// Memory of the reader, released when the record is applied.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// The outcome of an append.
    Appended {
        /// The number of the record.
        number: u64,
        /// The outcome.
        outcome: Appended,
    },
    /// The record with a number; `None` if the log has none.
    Found {
        /// The number.
        number: u64,
        /// The record.
        record: Option<Bytes>,
    },
    /// The number of the last record of the log.
    EndsAt(u64),
    /// The log does not have the records any more that follow those of this node.
    Trimmed {
        /// The first record that it has.
        first: u64,
    },
    /// A message of another node, with memory of its receiver.
    Received(Bytes, Option<OwnedSemaphorePermit>),
    /// The version and the files of this node, at its start and when they were read again.
    Profile(NodeProfile),
    /// The time, from an arbitrary start.
    Tick(Duration),
}

/// The options of a member.
pub struct MemberOptions {
    /// This node.
    pub node: NodeId,
    /// A random number of this start of the node.
    pub incarnation: u64,
    /// Most bytes of a record.
    pub record_bytes_max: usize,
    /// The rows that broadcasts change.
    pub rows: Box<dyn BroadcastRows>,
    /// Returns the kind of a broadcast of these bytes.
    pub kind_of: fn(&Bytes) -> BroadcastKind,
    /// The connection to the log and the other nodes.
    pub link: Box<dyn Link>,
}

/// The state of a member; see the module.
pub(in crate::store) struct Member<C> {
    replica: Replica,
    link: Box<dyn Link>,
    origin: Claim,
    record_bytes_max: usize,
    /// True if the store had neither shadows nor rows at this start.
    began_empty: bool,
    rows: Box<dyn BroadcastRows>,
    /// The number of the last broadcast.
    last_broadcast: u64,
    kind_of: fn(&Bytes) -> BroadcastKind,
    openings: Openings,
    own: OwnRequests<C>,
    received: ReceivedRequests,
    /// The records that follow those that are applied.
    records: Vec<ReceivedRecord>,
    /// The memory of the reader for records that are read and not in the file.
    unapplied: Vec<OwnedSemaphorePermit>,
    /// The batch whose record is appended.
    decided: Option<DecidedBatch>,
    /// The outcomes of requests that are not known to be applied.
    held: Answered<C>,
    /// The record, and the number of its requests, up to which outcomes were made.
    answered: (u64, usize),
    /// Set after a failed commit, to the last record that had been applied before: the others are to be read again.
    behind_at: Option<u64>,
    now: Duration,
    date: Timestamp,
    last_record: Duration,
    ages: RecordAges,
    last_append: Duration,
    last_comparison: Duration,
    claim_after: Duration,
    is_turn_of_own: bool,
    last_unreadable: Option<Duration>,
    /// The date of this start.
    started: Timestamp,
    profile: Arc<NodeProfile>,
    neighbours: Neighbours,
    /// True if another process has the number of this node.
    is_namesake: bool,
    decider_since: DeciderSince,
    closing: Option<Duration>,
    latched: Option<String>,
}

/// The date of the newest claim. Claims have none, so it is that of the first batch after it.
#[derive(Clone, Copy)]
enum DeciderSince {
    /// The claim was made before this start.
    Unknown,
    /// The next batch has it.
    Next,
    Known(Timestamp),
}

struct ReceivedRecord {
    chain: Chain,
    read: ReadRecord,
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

/// A batch that this node has decided, and whose record is not known to be in the log.
struct DecidedBatch {
    number: u64,
    /// Without the record of the batch, which comes from the log.
    changes: Changes,
    outcomes: Vec<Outcome<RequestNumber>>,
}

impl<C> Member<C> {
    /// Returns the member that has applied the log up to `position`, at the date `started`, at which its store has no data if it
    /// `began_empty`.
    pub(in crate::store) fn new(
        options: MemberOptions,
        position: Option<&AppliedPosition>,
        started: Timestamp,
        began_empty: bool,
    ) -> Self {
        let MemberOptions { node, incarnation, record_bytes_max, rows, kind_of, mut link } = options;
        let origin = Claim { node, incarnation };
        let chain = position.map(|position| position.chain).unwrap_or_default();
        let mut replica = Replica::new(origin, chain, KeptRecords::default());
        // The log may have lost what this node has applied.
        replica.check().into_iter().for_each(|action| link.carry_out(action));
        Self {
            replica,
            link,
            origin,
            record_bytes_max,
            began_empty,
            rows,
            last_broadcast: 0,
            kind_of,
            openings: Openings::after(origin, chain.position.number),
            own: OwnRequests::new(),
            received: ReceivedRequests::default(),
            records: Vec::new(),
            unapplied: Vec::new(),
            decided: None,
            held: Answered::default(),
            answered: (0, 0),
            behind_at: None,
            now: Duration::ZERO,
            date: started,
            last_record: Duration::ZERO,
            ages: RecordAges::default(),
            last_append: Duration::ZERO,
            last_comparison: Duration::ZERO,
            claim_after: claim_after(origin, 0),
            is_turn_of_own: false,
            last_unreadable: None,
            started,
            profile: Arc::default(),
            neighbours: Neighbours::default(),
            is_namesake: false,
            decider_since: DeciderSince::Unknown,
            closing: None,
            latched: None,
        }
    }

    /// Returns true if this node decides.
    pub(in crate::store) fn is_deciding(&self) -> bool {
        self.replica.is_deciding()
    }

    /// Returns the reason for refusing new commands of clients.
    pub(in crate::store) fn refusal(&self) -> Option<Rejection> {
        if self.closing.is_some() {
            return Some(Rejection::Unavailable("the service is ending; try again when it is back".to_owned()));
        }
        let is_late = self.silence() > SILENCE_MAX || self.longest_wait() > SILENCE_MAX;
        if self.latched.is_none() && self.replica.short().is_none() && !is_late {
            return None;
        }
        self.health().obstacle().map(Rejection::Unavailable)
    }

    /// Compares the log again with what this node has applied.
    fn compare_again(&mut self) {
        if self.now.saturating_sub(self.last_comparison) >= COMPARE_EVERY {
            self.last_comparison = self.now;
            self.replica.check().into_iter().for_each(|action| self.link.carry_out(action));
        }
    }

    /// Returns true if this node ends, and its own requests are answered.
    fn has_ended_own(&self) -> bool {
        self.closing.is_some() && self.own.is_empty()
    }

    fn is_ending(&self) -> bool {
        let is_late = |since| self.now.saturating_sub(since) > CLOSE_WITHIN;
        let is_idle = self.own.is_empty() && self.decided.is_none() && self.records.is_empty();
        self.closing.is_some_and(|since| is_idle || is_late(since) || self.latched.is_some())
    }

    /// Adds a command of a client of this node.
    pub(in crate::store) fn add(&mut self, queued: Box<QueuedCommand<C>>, permit: OwnedSemaphorePermit) {
        self.own.add(OwnRequest::Command(queued, permit), self.now);
    }

    /// Adds bytes for every node, which are withdrawn if they wait for too long and `may_expire`.
    pub(in crate::store) fn add_broadcast(
        &mut self,
        bytes: Bytes,
        on_applied: Option<OnDurable>,
        may_expire: bool,
        permit: OwnedSemaphorePermit,
    ) {
        let opens = (self.kind_of)(&bytes).opens();
        self.openings.waits_here(opens.as_ref());
        let broadcast = OwnBroadcast { bytes, opens, on_applied, may_expire, _permit: permit };
        self.own.add(OwnRequest::Broadcast(broadcast), self.now);
    }

    /// Adds a barrier.
    pub(in crate::store) fn add_barrier(&mut self, barrier: Barrier) {
        self.own.add(OwnRequest::Barrier(barrier), self.now);
    }

    /// Returns the reason for refusing a command of a session whose client is at another node by now.
    pub(in crate::store) fn refusal_of(&self, envelope: &Envelope) -> Option<Rejection> {
        let client = SessionClient::of(envelope)?;
        self.openings.has_left(&client, self.now).then(superseded)
    }

    /// Notes that the file was opened again, which has the log up to `applied` and may lack records after it: they are to be read again. A batch that was
    /// decided after them is applied by its record, if the log has that.
    pub(in crate::store) fn reopened(&mut self, applied: u64) {
        self.behind_at = Some(applied);
        self.decided = None;
        self.held.committed(applied);
    }

    /// Takes no more commands, and ends when the last one is answered.
    pub(in crate::store) fn close(&mut self) {
        self.closing.get_or_insert(self.now);
    }

    /// Takes an event. Records are applied later.
    pub(in crate::store) fn take(&mut self, event: LogEvent) {
        let reaction = match (event, self.replica.action()) {
            (LogEvent::Record { number, record, permit }, _) => return self.take_record(number, &record, permit),
            // It would ask for the next one, without an end if the log does not have it any more.
            (LogEvent::Appended { .. } | LogEvent::Found { .. } | LogEvent::EndsAt(_), _) if self.latched.is_some() => {
                return;
            }
            (LogEvent::Appended { number, outcome }, Some(Action::Append { expected, .. }))
                if expected + 1 == number =>
            {
                self.replica.appended(outcome)
            }
            (LogEvent::Found { number, record }, Some(Action::Read(asked))) if asked == number => {
                self.replica.found(record.as_ref())
            }
            (LogEvent::EndsAt(tail), Some(Action::Tail)) => self.replica.ends_at(tail),
            (LogEvent::Trimmed { first }, _) => {
                let applied = self.replica.chain().position.number;
                let reason = format!(
                    "the log begins at record {first}, and this node has applied {applied}: start it with --reseed, and it receives \
                     a copy of the store of another node"
                );
                return self.latch(reason);
            }
            (LogEvent::Received(message, _permit), _) => return self.take_message(&message),
            (LogEvent::Profile(profile), _) => {
                self.profile = Arc::new(profile);
                return;
            }
            (LogEvent::Tick(now), _) => {
                self.now = now;
                self.ages.note(now, self.replica.chain().position.number, ANSWER_WITHIN);
                return;
            }
            // The answer to an action that is not awaited any more.
            (LogEvent::Appended { .. } | LogEvent::Found { .. } | LogEvent::EndsAt(_), _) => return,
        };
        self.react(reaction, None);
    }

    fn take_record(&mut self, number: u64, record: &Bytes, permit: Option<OwnedSemaphorePermit>) {
        let applied = self.replica.chain().position.number;
        if number <= applied || self.latched.is_some() {
            return;
        }
        if number > applied + 1 {
            return self.latch(format!("record {number} of the log came after record {applied}"));
        }
        let reaction = self.replica.observe(record);
        self.react(reaction, permit);
    }

    fn react(&mut self, reaction: Reaction, permit: Option<OwnedSemaphorePermit>) {
        let Reaction { action, record, is_own } = reaction;
        if let Some(read) = record {
            self.last_record = self.now;
            let chain = *self.replica.chain();
            if is_own {
                self.received.settle();
            } else if self.decided.take().is_some() {
                self.restart_requests();
            }
            match &read {
                ReadRecord::Claim(_) => self.follow_claim(&chain),
                ReadRecord::Batch(batch) if matches!(self.decider_since, DeciderSince::Next) => {
                    self.decider_since = DeciderSince::Known(batch.now.date);
                }
                ReadRecord::Batch(_) | ReadRecord::NodeGone(_) | ReadRecord::Void => {}
            }
            let bytes = self.replica.kept().record(chain.position.number).map_or(0, Bytes::len);
            self.records.push(ReceivedRecord { chain, read, bytes, permit });
        }
        if self.replica.short().is_some() && self.decided.take().is_some() {
            // Its append was given up. Another record has its number later, perhaps a claim of this node.
            self.restart_requests();
        }
        if let Some(error) = self.replica.latched() {
            let reason = error.to_string();
            self.latch(reason);
        }
        action.into_iter().for_each(|action| self.link.carry_out(action));
    }

    /// Another node decides from here on, or this one does.
    fn follow_claim(&mut self, chain: &Chain) {
        let (epoch, node) = (chain.epoch.0, chain.claim.node.0);
        tracing::info!(epoch, node, is_this = chain.claim == self.origin, "a node of the cluster decides from here on");
        self.decider_since = DeciderSince::Next;
        self.claim_after = claim_after(self.origin, epoch);
        self.own.restart(self.now);
        self.received.clear();
    }

    fn take_message(&mut self, message: &Bytes) {
        match BusMessage::decode(message) {
            Ok(BusMessage::Requests { epoch, origin, applied, oldest, first, envelopes }) => {
                // A node sends again what is not taken, with what it has applied by then.
                if self.is_deciding() && epoch == self.replica.chain().epoch && self.openings.are_known_after(applied) {
                    self.received.add((origin, applied), oldest, first, envelopes);
                }
            }
            Ok(BusMessage::HandOver(epoch)) => {
                if epoch == self.replica.chain().epoch {
                    self.claim_after = Duration::ZERO;
                }
            }
            Ok(BusMessage::Status(status)) => self.hear(status),
            Ok(BusMessage::NumberTaken(start)) => self.leave_number(start),
            Ok(BusMessage::Seeding(status)) => self.neighbours.hear_seeding(status, self.now),
            Err(error) => self.report_unreadable(&error),
        }
    }

    /// Logs, not too often, that a message is of another format. It is not taken: a record of that format would end this node's part.
    fn report_unreadable(&mut self, error: &DecodeError) {
        if self.last_unreadable.is_none_or(|last| self.now.saturating_sub(last) >= REPORT_EVERY) {
            self.last_unreadable = Some(self.now);
            tracing::error!(%error, "a message of another node cannot be read; all nodes need programs that fit together");
        }
    }

    /// Ends the requests whose record may not be applied.
    fn give_up(&mut self) {
        self.held.broadcasts.clear();
        self.held.calls.clear();
        self.held.outcomes.retain(|outcome| outcome.context.is_some());
        self.held.outcomes.iter_mut().for_each(|outcome| outcome.result = Err(Rejection::OutcomeUnknown));
    }

    fn latch(&mut self, reason: String) {
        if self.latched.is_none() {
            tracing::error!(reason, "this node leaves its cluster: it takes no writes any more");
            self.latched = Some(reason);
            // The file stays as it is: a start, of a program that can, goes on from there.
            self.records.clear();
        }
    }

    /// Returns the node to which requests are sent; `None` if this one decides or nobody is known to.
    fn decider(&self) -> Option<NodeId> {
        let chain = self.replica.chain();
        // Another process may have this number by mistake.
        let is_other = chain.epoch.0 > 0 && chain.claim != self.origin;
        is_other.then_some(chain.claim.node)
    }

    /// Takes the next request to decide: of this node's clients and of others in turn.
    fn next_request(&mut self) -> Option<RequestToDecide> {
        self.is_turn_of_own = !self.is_turn_of_own;
        if self.is_turn_of_own {
            self.next_own().or_else(|| self.received.next())
        } else {
            self.received.next().or_else(|| self.next_own())
        }
    }

    fn next_own(&mut self) -> Option<RequestToDecide> {
        let applied = self.replica.chain().position.number;
        let (number, request) = self.own.next()?;
        let content = Ok(request.content());
        Some(RequestToDecide { request: RequestNumber { origin: self.origin, number }, applied, content })
    }

    /// Begins again with the first requests that are not in the log.
    fn restart_requests(&mut self) {
        self.own.restart(self.now);
        self.received.restart();
    }
}
