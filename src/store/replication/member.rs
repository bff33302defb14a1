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

use std::{collections::BTreeMap, mem, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    observability::request_id::RequestId,
    shadow::{Disposition, Rejection, Scope, Sender, SenderLogin},
    store::{
        batch::{Applied, Batch, DecideContext, Envelope, Outcome, QueuedCommand},
        changes::Changes,
        codec::DecodeError,
        error::StoreError,
        healing::UnknownCommit,
        health::Pages,
        replication::{
            applied_position::AppliedPosition,
            batch_record::{DecidedRequest, RequestDecision, SentCommand},
            chain::{Chain, ReadRecord},
            record::{Claim, NodeId, RecordContent},
            replay::{ReplayedChange, ReplayedRequests},
            replica::{Action, Appended, KeptRecords, Reaction, Replica},
            requests::{BusMessage, OwnRequest, OwnRequests, ReceivedRequests, RequestContent, RequestNumber},
        },
        rows::{edit::RowEdit, sent::OnDurable},
        state::names::NameCounts,
        writer::{QueueReservation, Writer},
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
/// The time without a record, or without an answer of the node that decides, after which new commands are refused.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The interval at which a node sends its status to the others.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The time without a status after which another node is taken for gone.
const GONE_AFTER: Duration = Duration::from_secs(5);
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
    /// The time, from an arbitrary start.
    Tick(Duration),
}

/// Bytes that every node of a cluster received, in one order for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// True if this node sent them.
    pub is_own: bool,
    /// The bytes.
    pub bytes: Bytes,
}

/// The options of a member.
pub struct MemberOptions {
    /// This node.
    pub node: NodeId,
    /// A random number of this start of the node.
    pub incarnation: u64,
    /// Most bytes of a record.
    pub record_bytes_max: usize,
    /// Returns the edit of a row that is committed together with a broadcast of these bytes, at every node.
    pub row_of: fn(&Bytes) -> Option<RowEdit>,
    /// The connection to the log and the other nodes.
    pub link: Box<dyn Link>,
}

/// The part of a node in its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberHealth {
    /// The number of this node.
    pub node: u64,
    /// The node that decides; `None` before the first claim.
    pub decider: Option<u64>,
    /// True if this node decides.
    pub is_deciding: bool,
    /// The number of claims so far.
    pub epoch: u64,
    /// The last record that this node has applied.
    pub applied: u64,
    /// Requests of this node's clients that wait for the log.
    pub waiting_requests: usize,
    /// The time since the last record.
    pub silence: Duration,
    /// The time since which the oldest request of this node's clients waits.
    pub longest_wait: Duration,
    /// The reason why this node takes no part any more.
    pub latched: Option<String>,
    /// The other nodes that this one has heard of since its start, by their numbers.
    pub others: Vec<OtherNode>,
}

/// Another node of the cluster, as this one knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherNode {
    /// Its number.
    pub node: u64,
    /// The last record that it has applied.
    pub applied: u64,
    /// True if it was heard of in the last seconds.
    pub is_alive: bool,
}

impl MemberHealth {
    /// Returns the reason that this node takes no updates now.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let Some(reason) = &self.latched {
            return Some(format!("This node has left its cluster: {reason}"));
        }
        if self.decider.is_none() {
            return Some("No node of the cluster decides yet".to_owned());
        }
        if self.silence > SILENCE_MAX {
            let seconds = self.silence.as_secs();
            return Some(format!("Nothing was heard of the cluster's log for {seconds} seconds"));
        }
        let seconds = self.longest_wait.as_secs();
        (self.longest_wait > SILENCE_MAX)
            .then(|| format!("The node that decides has not answered for {seconds} seconds"))
    }
}

/// The state of a member; see the module.
pub(in crate::store) struct Member<C> {
    replica: Replica,
    link: Box<dyn Link>,
    origin: Claim,
    record_bytes_max: usize,
    row_of: fn(&Bytes) -> Option<RowEdit>,
    own: OwnRequests<C>,
    received: ReceivedRequests,
    /// The records that follow those that are applied.
    records: Vec<ReceivedRecord>,
    /// The batch whose record is appended.
    decided: Option<DecidedBatch>,
    /// The outcomes of requests that are not known to be applied.
    held: Answered<C>,
    /// The record, and the number of its requests, up to which outcomes were made.
    answered: (u64, usize),
    /// Set after a failed commit: records are to be read again.
    is_behind: bool,
    now: Duration,
    last_record: Duration,
    last_append: Duration,
    claim_after: Duration,
    is_turn_of_own: bool,
    others: BTreeMap<NodeId, HeardOf>,
    last_status: Duration,
    closing: Option<Duration>,
    latched: Option<String>,
}

/// The last status of another node.
struct HeardOf {
    applied: u64,
    at: Duration,
}

impl HeardOf {
    fn health(&self, NodeId(node): NodeId, now: Duration) -> OtherNode {
        OtherNode { node, applied: self.applied, is_alive: now.saturating_sub(self.at) <= GONE_AFTER }
    }
}

struct ReceivedRecord {
    chain: Chain,
    read: ReadRecord,
    permit: Option<OwnedSemaphorePermit>,
}

/// A batch that this node has decided, and whose record is not known to be in the log.
struct DecidedBatch {
    number: u64,
    changes: Changes,
    outcomes: Vec<Outcome<RequestNumber>>,
}

/// Outcomes for clients and for those who follow the changes, with the queue bytes of the requests.
struct Answered<C> {
    outcomes: Vec<Outcome<C>>,
    /// The edits of rows that are committed with the accepted commands.
    rows: Vec<RowEdit>,
    broadcasts: Vec<Broadcast>,
    /// The calls for own broadcasts.
    calls: Vec<OnDurable>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<C> Default for Answered<C> {
    fn default() -> Self {
        Self { outcomes: Vec::new(), rows: Vec::new(), broadcasts: Vec::new(), calls: Vec::new(), permit: None }
    }
}

impl<C> Member<C> {
    /// Returns the member that has applied the log up to `position`.
    pub(in crate::store) fn new(options: MemberOptions, position: Option<&AppliedPosition>) -> Self {
        let MemberOptions { node, incarnation, record_bytes_max, row_of, mut link } = options;
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
            row_of,
            own: OwnRequests::new(),
            received: ReceivedRequests::default(),
            records: Vec::new(),
            decided: None,
            held: Answered::default(),
            answered: (0, 0),
            is_behind: false,
            now: Duration::ZERO,
            last_record: Duration::ZERO,
            last_append: Duration::ZERO,
            claim_after: claim_after(origin, 0),
            is_turn_of_own: false,
            others: BTreeMap::new(),
            last_status: Duration::ZERO,
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
        if self.latched.is_none() && self.silence() <= SILENCE_MAX && self.longest_wait() <= SILENCE_MAX {
            return None;
        }
        self.health().obstacle().map(Rejection::Unavailable)
    }

    /// Returns the health of this node.
    pub(in crate::store) fn health(&self) -> MemberHealth {
        let chain = self.replica.chain();
        MemberHealth {
            node: self.origin.node.0,
            decider: (chain.epoch.0 > 0).then_some(chain.claim.node.0),
            is_deciding: self.is_deciding(),
            epoch: chain.epoch.0,
            applied: chain.position.number - self.records.len() as u64,
            waiting_requests: self.own.len(),
            silence: self.silence(),
            longest_wait: self.longest_wait(),
            latched: self.latched.clone(),
            others: self.others.iter().map(|(node, other)| other.health(*node, self.now)).collect(),
        }
    }

    fn silence(&self) -> Duration {
        self.now.saturating_sub(self.last_record)
    }

    fn longest_wait(&self) -> Duration {
        self.own.oldest().map_or(Duration::ZERO, |since| self.now.saturating_sub(since))
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

    /// Adds a request of this node.
    pub(in crate::store) fn add(&mut self, request: OwnRequest<C>) {
        self.own.add(request, self.now);
    }

    /// Takes no more commands, and ends when the last one is answered.
    pub(in crate::store) fn close(&mut self) {
        self.closing.get_or_insert(self.now);
    }

    /// Takes an event. Records are applied later.
    pub(in crate::store) fn take(&mut self, event: LogEvent) {
        let reaction = match (event, self.replica.action()) {
            (LogEvent::Record { number, record, permit }, _) => return self.take_record(number, &record, permit),
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
                    "the log begins at record {first}, and this node has applied {applied}: start it from a backup of another node"
                );
                return self.latch(reason);
            }
            (LogEvent::Received(message, _permit), _) => return self.take_message(&message),
            (LogEvent::Tick(now), _) => {
                self.now = now;
                return;
            }
            // The answer to an action that is not awaited any more.
            (LogEvent::Appended { .. } | LogEvent::Found { .. } | LogEvent::EndsAt(_), _) => return,
        };
        self.react(reaction, None);
    }

    fn take_record(&mut self, number: u64, record: &Bytes, permit: Option<OwnedSemaphorePermit>) {
        let applied = self.replica.chain().position.number;
        if number <= applied {
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
            if matches!(read, ReadRecord::Claim(_)) {
                self.follow_claim(&chain);
            }
            self.records.push(ReceivedRecord { chain, read, permit });
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
        self.claim_after = claim_after(self.origin, epoch);
        self.own.restart(self.now);
        self.received.clear();
    }

    fn take_message(&mut self, message: &Bytes) {
        match BusMessage::decode(message) {
            Ok(BusMessage::Requests { epoch, origin, oldest, first, envelopes }) => {
                if self.is_deciding() && epoch == self.replica.chain().epoch {
                    self.received.add(origin, oldest, first, envelopes);
                }
            }
            Ok(BusMessage::HandOver(epoch)) => {
                if epoch == self.replica.chain().epoch {
                    self.claim_after = Duration::ZERO;
                }
            }
            Ok(BusMessage::Status(origin, _)) if origin.node == self.origin.node => {
                if origin != self.origin {
                    let node = origin.node.0;
                    tracing::error!(
                        node,
                        "another process has the number of this node: give each its own (cluster.node)"
                    );
                }
            }
            Ok(BusMessage::Status(origin, applied)) => {
                self.others.insert(origin.node, HeardOf { applied, at: self.now });
            }
            Err(error) => tracing::error!(%error, "a message of another node cannot be read"),
        }
    }

    /// Ends the requests whose record may not be applied.
    fn give_up(&mut self) {
        self.held.broadcasts.clear();
        self.held.outcomes.retain(|outcome| outcome.context.is_some());
        self.held.outcomes.iter_mut().for_each(|outcome| outcome.result = Err(Rejection::OutcomeUnknown));
    }

    fn send_status(&mut self) {
        if self.now.saturating_sub(self.last_status) >= STATUS_EVERY {
            self.last_status = self.now;
            let applied = self.replica.chain().position.number - self.records.len() as u64;
            self.link.send_to_all(BusMessage::Status(self.origin, applied).encode());
        }
    }

    fn latch(&mut self, reason: String) {
        if self.latched.is_none() {
            tracing::error!(reason, "this node leaves its cluster: it takes no writes any more");
            self.latched = Some(reason);
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
    fn next_request(&mut self) -> Option<(RequestNumber, Result<RequestContent, DecodeError>)> {
        self.is_turn_of_own = !self.is_turn_of_own;
        if self.is_turn_of_own {
            self.next_own().or_else(|| self.received.next())
        } else {
            self.received.next().or_else(|| self.next_own())
        }
    }

    fn next_own(&mut self) -> Option<(RequestNumber, Result<RequestContent, DecodeError>)> {
        let (number, request) = self.own.next()?;
        Some((RequestNumber { origin: self.origin, number }, Ok(request.content())))
    }

    /// Begins again with the first requests that are not in the log.
    fn restart_requests(&mut self) {
        self.own.restart(self.now);
        self.received.restart();
    }

    /// Takes the client of a request of this node, if it is not answered.
    fn client(&mut self, request: RequestNumber) -> Option<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        match self.own_request(request)? {
            OwnRequest::Command(queued, permit) => Some((*queued, permit)),
            OwnRequest::Broadcast(..) | OwnRequest::Withdrawn => None,
        }
    }

    fn own_request(&mut self, request: RequestNumber) -> Option<OwnRequest<C>> {
        if request.origin == self.origin { self.own.answered(request.number, self.now) } else { None }
    }

    /// Holds the outcome of a request that this node decided, if a client waits for it or others follow it.
    fn hold_outcome(&mut self, outcome: Outcome<RequestNumber>) {
        let Outcome { envelope, context, result, against } = outcome;
        let client = context.and_then(|request| self.client(request));
        let is_change = result.as_ref().is_ok_and(|applied| applied.seq.is_some());
        if client.is_some() || is_change {
            let is_accepted = result.is_ok();
            let context = client.map(|(queued, permit)| self.held.add(queued, permit, is_accepted));
            self.held.outcomes.push(Outcome { envelope, context, result, against });
        }
    }

    /// Holds what every node receives.
    fn hold_broadcast(&mut self, request: RequestNumber, bytes: Bytes) {
        let is_own = request.origin == self.origin;
        if let Some(OwnRequest::Broadcast(_, on_applied, permit)) = self.own_request(request) {
            drop(permit);
            self.held.calls.extend(on_applied);
        }
        // In the commit of the record, so that a start need not receive it again.
        self.held.rows.extend((self.row_of)(&bytes));
        self.held.broadcasts.push(Broadcast { is_own, bytes });
    }
}

impl<C> Writer<C> {
    /// Makes this store a member of a cluster, or a single node.
    pub(in crate::store) fn join(&mut self, options: Option<MemberOptions>) -> Result<(), StoreError> {
        match (options, &self.applied_position) {
            (None, Some(_)) => Err(StoreError::OfCluster { path: self.options.path.clone() }),
            (None, None) => Ok(()),
            (Some(options), position) => {
                let is_copy = position.as_ref().is_some_and(|position| position.node != options.node);
                self.shared.has_foreign_rows.store(is_copy, Ordering::Relaxed);
                let node = options.node;
                self.member = Some(Member::new(options, position.as_ref()));
                self.node = Some(node);
                self.set_applied_position(self.applied_position.clone());
                self.report();
                Ok(())
            }
        }
    }

    /// Sets the position as the file has it. The file is that of this node from the next commit on.
    pub(in crate::store) fn set_applied_position(&mut self, position: Option<AppliedPosition>) {
        self.applied_position = position;
        if let Some(node) = self.node {
            self.applied_position.get_or_insert_default().node = node;
        }
    }

    /// Does what a member of a cluster has to do after it took some events.
    pub(in crate::store) fn take_part(&mut self) {
        let Some(mut member) = self.member.take() else { return };
        self.is_deciding = member.is_deciding();
        if !self.is_failed() {
            self.apply_records(&mut member);
        }
        if member.latched.is_some() {
            member.give_up();
            self.deliver_held(&mut member);
        }
        self.expire(&mut member);
        member.send_status();
        if !self.is_failed() && member.latched.is_none() && member.records.is_empty() {
            self.claim_or_decide(&mut member);
        }
        if member.is_ending() {
            if member.is_deciding() {
                let message = BusMessage::HandOver(member.replica.chain().epoch);
                member.link.send_to_all(message.encode());
            }
            self.queue.close();
        }
        self.member = Some(member);
        self.report();
    }

    /// Applies the records that were read, and answers the requests that they decide.
    fn apply_records(&mut self, member: &mut Member<C>) {
        if member.is_behind && !self.read_again(member) {
            return;
        }
        if member.records.is_empty() || self.must_verify_first(&member.records) {
            return;
        }
        let mut records = mem::take(&mut member.records);
        let applied = match member.decided.take() {
            Some(decided) if records.first().is_some_and(|first| first.chain.position.number == decided.number) => {
                let own = records.remove(0);
                self.apply_decided(member, decided, &own)
            }
            decided => {
                member.decided = decided;
                Ok(())
            }
        };
        let applied = applied.and_then(|()| {
            if records.is_empty() {
                return Ok(());
            }
            let (followed, permits): (Vec<_>, Vec<_>) =
                records.into_iter().map(|record| ((record.chain, record.read), record.permit)).unzip();
            let applied = self.follow(followed, &mut Answers { member, position: (0, 0) });
            drop(permits);
            applied
        });
        match applied {
            Ok(()) => self.deliver_held(member),
            Err(_) if self.is_failed() => {
                // The file is opened again, and says how far it is.
                member.is_behind = true;
                member.decided = None;
            }
            Err(error) => member.latch(error.to_string()),
        }
    }

    /// Returns true if `records` purge tombstones while the pages of the file are not verified yet: they wait for that.
    fn must_verify_first(&self, records: &[ReceivedRecord]) -> bool {
        let purges =
            |record: &ReceivedRecord| matches!(&record.read, ReadRecord::Batch(batch) if !batch.purged.is_empty());
        let health = self.shared.database.pages().map_or(Pages::Sound, |pages| pages.health());
        health == Pages::Unverified && records.iter().any(purges)
    }

    /// Applies the batch that this node decided and the log has.
    fn apply_decided(
        &mut self,
        member: &mut Member<C>,
        decided: DecidedBatch,
        record: &ReceivedRecord,
    ) -> Result<(), StoreError> {
        let DecidedBatch { number, mut changes, outcomes } = decided;
        let position = self.applied_position.get_or_insert_default();
        position.add(&changes.record);
        position.chain = record.chain;
        let mut outcomes = outcomes.into_iter().peekable();
        for DecidedRequest { request, decision } in &changes.record.requests {
            if let RequestDecision::Broadcast(bytes) = decision {
                member.hold_broadcast(*request, bytes.clone());
                continue;
            }
            match outcomes.next_if(|outcome| outcome.context == Some(*request)) {
                Some(outcome) => member.hold_outcome(outcome),
                // It had no content that could be decided.
                None => drop(member.own_request(*request)),
            }
        }
        member.answered = (number, usize::MAX);
        if changes.is_without_effect() && !member.held.must_commit() && !self.must_write_position() {
            self.keep_loaded(changes.touched);
            return Ok(());
        }
        self.pending_rows.set_commands(member.held.rows.clone());
        changes.record.rows = self.pending_rows.records(self.progress.rows.head);
        let (head, counts) = (changes.head, changes.counts);
        if self.apply(changes).is_err() {
            self.healer.keep_unknown(UnknownCommit { head, changes: Vec::new(), counts });
            return Err(StoreError::Reopening);
        }
        Ok(())
    }

    /// Reads the records again that follow those in the file, after it was opened again. Returns false if the node no longer
    /// keeps them.
    fn read_again(&mut self, member: &mut Member<C>) -> bool {
        let mut chain = self.applied_position.as_ref().map(|applied| applied.chain).unwrap_or_default();
        let mut records = Vec::new();
        while chain.position.number < member.replica.chain().position.number {
            let number = chain.position.number + 1;
            let kept = member.replica.kept().record(number);
            let Some(Ok(read)) = kept.map(|record| chain.read(record)) else {
                member.latch(format!("record {number} is to be applied again, and is not kept: start the node again"));
                return false;
            };
            records.push(ReceivedRecord { chain, read, permit: None });
        }
        member.records = records;
        member.is_behind = false;
        if member.records.is_empty() {
            self.deliver_held(member);
        }
        true
    }

    fn deliver_held(&mut self, member: &mut Member<C>) {
        let Answered { outcomes, calls, broadcasts, permit, .. } = mem::take(&mut member.held);
        self.durable.extend(calls);
        self.broadcasts.extend(broadcasts);
        self.deliver(outcomes, QueueReservation::of(permit));
    }

    /// Ends requests that have waited for too long.
    fn expire(&mut self, member: &mut Member<C>) {
        let mut expired = Answered::default();
        let before = if member.latched.is_some() { Duration::MAX } else { member.now.saturating_sub(ANSWER_WITHIN) };
        while let Some((queued, permit)) = member.own.expired(before) {
            let QueuedCommand { envelope, context } = queued;
            let context = Some(expired.add(QueuedCommand { envelope: envelope.clone(), context }, permit, false));
            expired.outcomes.push(Outcome { envelope, context, result: Err(Rejection::OutcomeUnknown), against: None });
        }
        self.deliver(expired.outcomes, QueueReservation::of(expired.permit));
    }

    fn claim_or_decide(&mut self, member: &mut Member<C>) {
        if member.replica.action().is_some() {
            return;
        }
        if member.is_deciding() {
            // Requests that come while this node ends are for the next decider.
            if member.has_ended_own() {
                return;
            }
            // Another node claims if this one cannot write.
            if self.refusal().is_none() {
                self.decide_some(member);
            }
            return;
        }
        if member.silence() >= member.claim_after && member.closing.is_none() && self.refusal().is_none() {
            member.last_record = member.now;
            let action = member.replica.claim(self.progress.head);
            action.into_iter().for_each(|action| member.link.carry_out(action));
            return;
        }
        let Some(decider) = member.decider() else { return };
        if member.own.is_stalled(member.now.saturating_sub(RESEND_AFTER)) {
            member.own.restart(member.now);
        }
        let epoch = member.replica.chain().epoch;
        while let Some(message) = member.own.message(epoch, member.origin, member.record_bytes_max) {
            member.link.send(decider, message.encode());
        }
    }

    /// Decides some requests, and appends their record.
    fn decide_some(&mut self, member: &mut Member<C>) {
        let mut most = self.options.batch_commands_max.max(1);
        loop {
            let Some(batch) = self.decide_requests(member, most) else {
                if member.now.saturating_sub(member.last_append) >= HEARTBEAT {
                    let changes = self.no_changes();
                    let _always_fits = self.append_decided(member, changes, Vec::new());
                }
                return;
            };
            let Batch { changes, outcomes, .. } = batch;
            let requests: Vec<_> = changes.record.requests.iter().map(|decided| decided.request).collect();
            let Err(outcomes) = self.append_decided(member, changes, outcomes) else {
                self.shared.commits.batches.observe(requests.len() as u64);
                return;
            };
            self.names = NameCounts::new(self.options.shadow_names_max);
            if let [request] = *requests {
                // It is in the log that nothing came of it.
                let mut changes = self.no_changes();
                changes.record.requests = vec![DecidedRequest { request, decision: RequestDecision::Refused }];
                let refused = |outcome| Outcome { result: Err(too_large()), against: None, ..outcome };
                let _always_fits = self.append_decided(member, changes, outcomes.into_iter().map(refused).collect());
                return;
            }
            member.restart_requests();
            most = requests.len() / 2;
        }
    }

    /// Decides at most `most` requests; `None` if there is none.
    fn decide_requests(&mut self, member: &mut Member<C>, most: usize) -> Option<Batch<RequestNumber>> {
        let mut next = Some(member.next_request()?);
        self.names.shrink();
        let now = self.clock.now();
        let mut batch = Batch::new(self.no_changes_at(now), 16);
        let Self { shared, dirty_set, names, options, progress, .. } = self;
        let mut context = DecideContext { shared, dirty_set, names, limits: &options.document, now };
        let mut broadcast_bytes = 0;
        while let Some((request, content)) = next {
            let decision = match content {
                Ok(RequestContent::Command(envelope)) => {
                    batch.decide_request(QueuedCommand { envelope: *envelope, context: request }, &mut context)
                }
                Ok(RequestContent::Broadcast(bytes)) => RequestDecision::Broadcast(bytes),
                Ok(RequestContent::None) => RequestDecision::Refused,
                Err(error) => {
                    let node = request.origin.node.0;
                    tracing::error!(node, %error, "a request of another node cannot be read, and is refused");
                    RequestDecision::Refused
                }
            };
            if let RequestDecision::Broadcast(bytes) = &decision {
                broadcast_bytes += bytes.len() as u64;
            }
            let requests = &mut batch.changes.record.requests;
            requests.push(DecidedRequest { request, decision });
            let bytes = batch.changes.head.bytes - progress.head.bytes + broadcast_bytes;
            let is_full = requests.len() >= most || bytes >= RECORD_BYTES;
            next = if is_full { None } else { member.next_request() };
        }
        Some(batch)
    }

    /// Appends the record of `changes`.
    ///
    /// # Errors
    ///
    /// The outcomes, if the record is too large for the log.
    fn append_decided(
        &mut self,
        member: &mut Member<C>,
        changes: Changes,
        outcomes: Vec<Outcome<RequestNumber>>,
    ) -> Result<(), Vec<Outcome<RequestNumber>>> {
        let content = RecordContent::Batch(Box::new(changes.record.clone()));
        let Some(action) = member.replica.propose(content, member.record_bytes_max) else { return Err(outcomes) };
        member.last_append = member.now;
        if let Action::Append { expected, .. } = &action {
            member.decided = Some(DecidedBatch { number: expected + 1, changes, outcomes });
        }
        member.link.carry_out(action);
        Ok(())
    }
}

/// Returns the refusal of a change that makes too large a record.
fn too_large() -> Rejection {
    Rejection::Unavailable(
        "the change is larger than a record of the cluster's log may be; change less at once".to_owned(),
    )
}

impl Batch<RequestNumber> {
    /// Decides `queued` after all earlier ones. Returns the decision for the record.
    fn decide_request(
        &mut self,
        queued: QueuedCommand<RequestNumber>,
        context: &mut DecideContext<'_>,
    ) -> RequestDecision {
        let no_ops = self.changes.record.no_ops.len();
        self.decide(queued, context);
        let is_remembered = self.changes.record.no_ops.len() > no_ops;
        self.outcomes.last().map_or(RequestDecision::Refused, |outcome| decision(outcome, is_remembered))
    }
}

/// Returns the decision of `outcome` for the record.
fn decision(outcome: &Outcome<RequestNumber>, is_remembered: bool) -> RequestDecision {
    match &outcome.result {
        Ok(applied) if applied.seq.is_some() => {
            let Envelope { command, client_token, .. } = &outcome.envelope;
            let sent = SentCommand { command: command.clone(), client_token: client_token.clone() };
            RequestDecision::Changed(Box::new(sent))
        }
        Ok(_) if is_remembered => RequestDecision::Remembered,
        Ok(_) => RequestDecision::Unchanged,
        Err(_) => RequestDecision::Refused,
    }
}

/// Returns the time without a record after which a node claims, which differs between nodes and times.
fn claim_after(origin: Claim, epoch: u64) -> Duration {
    let mixed = (origin.incarnation ^ origin.node.0.rotate_left(32) ^ epoch).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    CLAIM_AFTER + CLAIM_AFTER.mul_f64(f64::from(u32::try_from(mixed >> 32).unwrap_or_default()) / f64::from(u32::MAX))
}

/// Makes the outcomes of the requests in records that are replayed.
struct Answers<'a, C> {
    member: &'a mut Member<C>,
    /// The record, and the number of its requests so far.
    position: (u64, usize),
}

impl<C> Answers<'_, C> {
    /// Takes the next request of the record. Returns true if its outcome was made before a commit failed.
    fn is_answered(&mut self) -> bool {
        self.position.1 += 1;
        let is_answered = self.position <= self.member.answered;
        self.member.answered = self.member.answered.max(self.position);
        is_answered
    }
}

impl<C> ReplayedRequests for Answers<'_, C> {
    fn begin(&mut self, number: u64) {
        self.position = (number, 0);
    }

    fn changed(&mut self, request: RequestNumber, sent: SentCommand, replayed: ReplayedChange) {
        if self.is_answered() {
            return;
        }
        let ReplayedChange { entry, before, after } = replayed;
        let SentCommand { command, client_token } = sent;
        let rebased_from = command.rebased_from(&before);
        let applied = Applied {
            seq: Some(entry.seq),
            before,
            after,
            changes: entry.changes,
            rebased_from,
            disposition: Disposition::Applied,
        };
        let (envelope, context) = match self.member.client(request) {
            Some((queued, permit)) => {
                let envelope = Envelope { command, ..queued.envelope.clone() };
                (envelope, Some(self.member.held.add(queued, permit, true)))
            }
            None => {
                // The rights of the author were checked by its node; events are cut for their readers.
                let author = Sender { by: entry.principal, scope: Scope::ALL, login: SenderLogin::default() };
                let (key, id, client) = (entry.key, RequestId::next(), entry.client);
                let envelope = Envelope { key, command, author, id, client, client_token, may_create: true, row: None };
                (envelope, None)
            }
        };
        self.member.held.outcomes.push(Outcome { envelope, context, result: Ok(applied), against: None });
    }

    fn unchanged(
        &mut self,
        request: RequestNumber,
        is_accepted: bool,
        changes: &mut Changes,
        context: &mut DecideContext<'_>,
    ) {
        if self.is_answered() {
            return;
        }
        let Some((queued, permit)) = self.member.client(request) else { return };
        let mut envelope = queued.envelope.clone();
        let (result, against) = changes.decide_again(&mut envelope, context, is_accepted);
        let client = Some(self.member.held.add(queued, permit, is_accepted));
        self.member.held.outcomes.push(Outcome { envelope, context: client, result, against });
    }

    fn broadcast(&mut self, request: RequestNumber, bytes: Bytes) {
        if !self.is_answered() {
            self.member.hold_broadcast(request, bytes);
        }
    }

    fn rows(&self) -> Option<Vec<RowEdit>> {
        self.member.held.must_commit().then(|| self.member.held.rows.clone())
    }
}

impl<C> Answered<C> {
    /// Returns true if the position must be written with what is held, which a start must not receive again.
    fn must_commit(&self) -> bool {
        !self.rows.is_empty() || !self.broadcasts.is_empty()
    }

    /// Adds the queue bytes of a request, and its row if it `is_accepted`. Returns its client.
    fn add(&mut self, queued: QueuedCommand<C>, permit: OwnedSemaphorePermit, is_accepted: bool) -> C {
        self.rows.extend(queued.envelope.row.filter(|_| is_accepted));
        match &mut self.permit {
            Some(all) => all.merge(permit),
            None => self.permit = Some(permit),
        }
        queued.context
    }
}
