//! The requests of nodes: their numbers, those that wait for the log at their own node, and those that wait to be decided.
//!
//! A node numbers the requests of its clients, and sends them to the node that decides, in order. The answer is in the log.
//! The bus between nodes may lose messages: a node sends again what the log does not answer, and the decider takes only
//! the request that follows the last it took of that node. When another node decides, every node sends it all its
//! unanswered requests.
//!
//! *Invariant:* a node sends requests to a decider only after it has applied the claim of that decider, and all records before
//! it. So no request that the log has before the claim is decided again after it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    shadow::{Rejection, ShadowKey, SizeLimit},
    store::{
        batch::{Envelope, QueuedCommand},
        codec::{DecodeError, Decoder, put_len, put_u64},
        frame,
        purging::PurgeOrder,
        replication::{
            command_codec,
            openings::SessionClient,
            record::{Claim, Epoch, NodeId},
            status::{SeedingStatus, Status},
        },
        rows::sent::OnDurable,
    },
};

/// The kind of value, part of each checksum.
pub(in crate::store) const BUS: &str = "bus";
/// The format of messages that this program writes, and the only one it reads.
pub(in crate::store) const BUS_FORMAT: u64 = 1;

const REQUESTS: u8 = 1;
const HAND_OVER: u8 = 2;
const STATUS: u8 = 3;
const NUMBER_TAKEN: u8 = 4;
const SEEDING: u8 = 5;

const COMMAND: u8 = 1;
const BROADCAST: u8 = 2;
const WITHOUT_CONTENT: u8 = 3;
const PURGE: u8 = 4;

/// Most bytes of requests in one message.
const MESSAGE_BYTES: usize = 256 << 10;
/// Bytes of a message besides its requests, at most.
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Bytes of the length of a request.
const LENGTH_BYTES: usize = 8;

/// The number of a request: 1 for the first of a node since its start, then one more for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct RequestNumber {
    /// The node, and its start.
    pub(in crate::store) origin: Claim,
    pub(in crate::store) number: u64,
}

/// A message from node to node.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) enum BusMessage {
    /// Requests for the node that decides in `epoch`.
    Requests {
        epoch: Epoch,
        origin: Claim,
        /// The last record that this node has applied. A request that came too late as of it is not among these.
        applied: u64,
        /// The oldest request of this node that the log does not answer.
        oldest: u64,
        /// The number of the first of `envelopes`.
        first: u64,
        envelopes: Vec<Bytes>,
    },
    /// The node that decides in this epoch ends.
    HandOver(Epoch),
    /// The status of a node.
    Status(Status),
    /// The node with this start has the number of one that was started before it.
    NumberTaken(Claim),
    /// The status of a node that has no store yet.
    Seeding(SeedingStatus),
}

/// A request for the node that decides.
#[derive(Clone, Debug)]
pub(in crate::store) enum RequestContent {
    /// A command, to be decided.
    Command(Box<Envelope>),
    /// Bytes that every node receives, in one order for all.
    Broadcast(Bytes),
    /// The purge of the tombstones among these shadows; only their count in a dry run.
    Purge { keys: Vec<ShadowKey>, dry_run: bool },
    /// Nothing: the request was withdrawn, is a barrier, or has more bytes than a message may have. The log has it as refused.
    None,
}

/// A request of this node, with those who wait for its answer.
pub(in crate::store) enum OwnRequest<C> {
    Command(Box<QueuedCommand<C>>, OwnedSemaphorePermit),
    Broadcast(OwnBroadcast),
    Purge(PurgeOrder, OwnedSemaphorePermit),
    Barrier(Barrier),
    /// A command or purge for which nobody waits any more.
    Withdrawn,
}

/// Bytes for every node, from this one.
pub(in crate::store) struct OwnBroadcast {
    pub(in crate::store) bytes: Bytes,
    /// The client whose session they open here.
    pub(in crate::store) opens: Option<SessionClient>,
    pub(in crate::store) on_applied: Option<OnDurable>,
    /// True if they are withdrawn when they have waited for too long, as a command is.
    pub(in crate::store) may_expire: bool,
    /// Its memory.
    pub(in crate::store) _permit: OwnedSemaphorePermit,
}

/// A request without content. Once this node has applied the record with it, it has applied everything that any node had answered when the
/// request was made.
pub(in crate::store) struct Barrier {
    pub(in crate::store) on_applied: OnDurable,
    /// Its memory.
    pub(in crate::store) _permit: OwnedSemaphorePermit,
}

/// The requests of this node that the log does not answer yet.
pub(in crate::store) struct OwnRequests<C> {
    /// Each with the time when it was added.
    waiting: VecDeque<(OwnRequest<C>, Duration)>,
    /// The number of the first that waits.
    first: u64,
    /// The first that may have waited for too long.
    unexpired: u64,
    /// The first that was not sent to the decider, or that this node has not decided.
    next: u64,
    /// Commands that fit into no message, withdrawn.
    too_large: Vec<(QueuedCommand<C>, OwnedSemaphorePermit)>,
    /// The time of the last change of `waiting` at its front, or of sending it again.
    progress: Duration,
}

/// A request, of another node unless this one has it in [`OwnRequests`], that is to be decided.
pub(in crate::store) struct RequestToDecide {
    pub(in crate::store) request: RequestNumber,
    /// The last record that its node had applied when it sent the request.
    pub(in crate::store) applied: u64,
    pub(in crate::store) content: Result<RequestContent, DecodeError>,
}

struct ReceivedRequest {
    request: RequestNumber,
    applied: u64,
    encoded: Bytes,
}

/// The requests of other nodes that wait to be decided by this one.
#[derive(Default)]
pub(in crate::store) struct ReceivedRequests {
    queue: VecDeque<ReceivedRequest>,
    /// The number of requests at the front whose record is being appended.
    taken: usize,
    /// The number that follows the last received of each node.
    next: HashMap<Claim, u64>,
}

impl BusMessage {
    /// Returns the encoded message.
    pub(in crate::store) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        frame::begin(&mut out);
        put_u64(&mut out, BUS_FORMAT);
        match self {
            Self::Requests { epoch, origin, applied, oldest, first, envelopes } => {
                out.push(REQUESTS);
                for number in [epoch.0, origin.node.0, origin.incarnation, *applied, *oldest, *first] {
                    put_u64(&mut out, number);
                }
                put_len(&mut out, envelopes.len());
                for envelope in envelopes {
                    put_len(&mut out, envelope.len());
                    out.extend_from_slice(envelope);
                }
            }
            Self::HandOver(epoch) => {
                out.push(HAND_OVER);
                put_u64(&mut out, epoch.0);
            }
            Self::Status(status) => {
                out.push(STATUS);
                status.put(&mut out);
            }
            Self::NumberTaken(start) => {
                out.push(NUMBER_TAKEN);
                put_u64(&mut out, start.node.0);
                put_u64(&mut out, start.incarnation);
            }
            Self::Seeding(status) => {
                out.push(SEEDING);
                status.put(&mut out);
            }
        }
        frame::finish(&mut out, BUS, &[]);
        out.into()
    }

    /// Decodes a message.
    pub(in crate::store) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, BUS, &[])?;
        let format = payload.u64()?;
        if format != BUS_FORMAT {
            return Err(DecodeError::of_format(format, BUS_FORMAT));
        }
        let message = match payload.u8()? {
            REQUESTS => Self::Requests {
                epoch: Epoch(payload.u64()?),
                origin: Claim { node: NodeId(payload.u64()?), incarnation: payload.u64()? },
                applied: payload.u64()?,
                oldest: payload.u64()?,
                first: payload.u64()?,
                envelopes: (0..payload.count()?)
                    .map(|_| {
                        let length = payload.count()?;
                        payload.bytes(length).map(Bytes::copy_from_slice)
                    })
                    .collect::<Result<_, _>>()?,
            },
            HAND_OVER => Self::HandOver(Epoch(payload.u64()?)),
            // A later version may send more.
            STATUS => return Status::decode(&mut payload).map(Self::Status),
            NUMBER_TAKEN => Self::NumberTaken(Claim { node: NodeId(payload.u64()?), incarnation: payload.u64()? }),
            SEEDING => return SeedingStatus::decode(&mut payload).map(Self::Seeding),
            _ => return Err(DecodeError::Invalid("the kind of a message")),
        };
        payload.finish()?;
        Ok(message)
    }
}

impl<C> OwnRequests<C> {
    pub(in crate::store) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            first: 1,
            unexpired: 1,
            next: 1,
            too_large: Vec::new(),
            progress: Duration::ZERO,
        }
    }

    /// Adds a request at `now`.
    pub(in crate::store) fn add(&mut self, request: OwnRequest<C>, now: Duration) {
        if self.waiting.is_empty() {
            self.progress = now;
        }
        self.waiting.push_back((request, now));
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the time since which the oldest request waits.
    pub(in crate::store) fn oldest(&self) -> Option<Duration> {
        self.waiting.front().map(|(_, since)| *since)
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the request `number`, which the log answers at `now`. `None` if it was answered.
    pub(in crate::store) fn answered(&mut self, number: u64, now: Duration) -> Option<OwnRequest<C>> {
        // A node's requests are decided in order.
        if number != self.first {
            return None;
        }
        self.progress = now;
        self.take()
    }

    /// Withdraws the oldest command that has waited since before `before`, and the barriers and broadcasts before it that may expire. Other
    /// broadcasts wait on: this node may have published a message already that all have to retain.
    pub(in crate::store) fn expired(&mut self, before: Duration) -> Option<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        loop {
            let (request, since) = self.waiting.get_mut(usize::try_from(self.unexpired - self.first).ok()?)?;
            if *since >= before {
                return None;
            }
            self.unexpired += 1;
            let expired = match request {
                OwnRequest::Broadcast(OwnBroadcast { may_expire: false, .. }) | OwnRequest::Withdrawn => continue,
                OwnRequest::Command(..) | OwnRequest::Purge(..) | OwnRequest::Barrier(_) | OwnRequest::Broadcast(_) => {
                    mem::replace(request, OwnRequest::Withdrawn)
                }
            };
            self.forget_withdrawn();
            match expired {
                OwnRequest::Command(queued, permit) => return Some((*queued, permit)),
                OwnRequest::Purge(order, _) => order.answer(Err(Rejection::OutcomeUnknown)),
                OwnRequest::Broadcast(_) | OwnRequest::Barrier(_) | OwnRequest::Withdrawn => {}
            }
        }
    }

    /// Withdraws the commands of clients in `moved`, whose newest session is at another node, and returns them. What follows the opening
    /// of another session here is newer, and stays, unless that opening waits since before `before`: it is withdrawn, too.
    pub(in crate::store) fn withdraw(
        &mut self,
        moved: &HashSet<SessionClient>,
        before: Duration,
    ) -> Vec<OwnRequest<C>> {
        let (mut is_back, mut withdrawn) = (HashSet::new(), Vec::new());
        for (request, since) in &mut self.waiting {
            let client = match request {
                OwnRequest::Broadcast(OwnBroadcast { opens: Some(client), .. }) if moved.contains(client) => {
                    if *since < before {
                        withdrawn.push(mem::replace(request, OwnRequest::Withdrawn));
                    } else {
                        is_back.insert(client.clone());
                    }
                    continue;
                }
                OwnRequest::Broadcast(_) => continue,
                OwnRequest::Command(queued, _) => SessionClient::of(&queued.envelope),
                OwnRequest::Purge(..) | OwnRequest::Barrier(_) | OwnRequest::Withdrawn => None,
            };
            if client.is_some_and(|client| moved.contains(&client) && !is_back.contains(&client)) {
                withdrawn.push(mem::replace(request, OwnRequest::Withdrawn));
            }
        }
        self.forget_withdrawn();
        withdrawn
    }

    fn withdraw_too_large(&mut self, number: u64, record_bytes_max: usize) {
        let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        let Some((request, _)) = self.waiting.get_mut(index) else { return };
        if matches!(request, OwnRequest::Broadcast(_)) {
            return;
        }
        match mem::replace(request, OwnRequest::Withdrawn) {
            OwnRequest::Command(queued, permit) => self.too_large.push((*queued, permit)),
            OwnRequest::Purge(order, _) => order.answer(Err(too_large(record_bytes_max))),
            OwnRequest::Broadcast(_) | OwnRequest::Barrier(_) | OwnRequest::Withdrawn => {}
        }
    }

    /// Takes the commands that fit into no message: they are refused.
    pub(in crate::store) fn take_too_large(&mut self) -> Vec<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        mem::take(&mut self.too_large)
    }

    fn forget_withdrawn(&mut self) {
        while let Some((OwnRequest::Withdrawn, _)) = self.waiting.front() {
            self.take();
        }
    }

    fn take(&mut self) -> Option<OwnRequest<C>> {
        let (request, _) = self.waiting.pop_front()?;
        self.first += 1;
        self.next = self.next.max(self.first);
        self.unexpired = self.unexpired.max(self.first);
        Some(request)
    }

    /// Begins again with the first request that waits: another node decides, or the former messages may be lost.
    pub(in crate::store) fn restart(&mut self, now: Duration) {
        (self.next, self.progress) = (self.first, now);
    }

    /// Returns true if requests were sent before `before` and none was answered since.
    pub(in crate::store) fn is_stalled(&self, before: Duration) -> bool {
        self.next > self.first && self.progress < before
    }

    /// Returns true if the next request for a decision at this node is a purge.
    pub(in crate::store) fn is_purge_next(&self) -> bool {
        let index = usize::try_from(self.next - self.first).unwrap_or(usize::MAX);
        matches!(self.waiting.get(index), Some((OwnRequest::Purge(..), _)))
    }

    /// Returns the next request for a decision at this node.
    pub(in crate::store) fn next(&mut self) -> Option<(u64, &OwnRequest<C>)> {
        let number = self.next;
        let (request, _) = self.waiting.get(usize::try_from(number.checked_sub(self.first)?).ok()?)?;
        self.next += 1;
        Some((number, request))
    }

    /// Returns the message, of at most `bytes_max`, with the next requests for the node that decides in `epoch`. This node has
    /// `applied` the log.
    pub(in crate::store) fn message(
        &mut self,
        epoch: Epoch,
        (origin, applied): (Claim, u64),
        bytes_max: usize,
    ) -> Option<BusMessage> {
        let (oldest, first) = (self.first, self.next);
        let room = bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES);
        let (mut envelopes, mut bytes) = (Vec::new(), 0);
        while let Some((number, request)) = self.next() {
            let mut encoded = Vec::with_capacity(256);
            request.put(&mut encoded);
            if encoded.len() + LENGTH_BYTES > room {
                encoded = vec![WITHOUT_CONTENT];
                self.withdraw_too_large(number, bytes_max);
            }
            bytes += encoded.len() + LENGTH_BYTES;
            if bytes > room.min(MESSAGE_BYTES) && !envelopes.is_empty() {
                self.next = number;
                break;
            }
            envelopes.push(encoded.into());
        }
        (!envelopes.is_empty()).then_some(BusMessage::Requests { epoch, origin, applied, oldest, first, envelopes })
    }
}

impl<C> OwnRequest<C> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Command(queued, _) => {
                out.push(COMMAND);
                command_codec::put_envelope(out, &queued.envelope);
            }
            Self::Broadcast(broadcast) => {
                out.push(BROADCAST);
                out.extend_from_slice(&broadcast.bytes);
            }
            Self::Purge(order, _) => {
                out.push(PURGE);
                put_u64(out, u64::from(order.dry_run));
                put_len(out, order.keys.len());
                order.keys.iter().for_each(|key| command_codec::put_key(out, key));
            }
            Self::Barrier(_) | Self::Withdrawn => out.push(WITHOUT_CONTENT),
        }
    }

    /// Returns the content for a decision at this node. A row stays here, and is committed when the request is answered.
    pub(in crate::store) fn content(&self) -> RequestContent {
        match self {
            Self::Command(queued, _) => {
                RequestContent::Command(Box::new(Envelope { row: None, ..queued.envelope.clone() }))
            }
            Self::Broadcast(broadcast) => RequestContent::Broadcast(broadcast.bytes.clone()),
            Self::Purge(order, _) => RequestContent::Purge { keys: order.keys.clone(), dry_run: order.dry_run },
            Self::Barrier(_) | Self::Withdrawn => RequestContent::None,
        }
    }
}

/// Returns the refusal of a request that makes a message or record of more than `max` bytes. It stays refused however often it is repeated.
pub(in crate::store) fn too_large(max: usize) -> Rejection {
    Rejection::TooLarge { what: SizeLimit::Record, size: max + 1, max }
}

impl RequestContent {
    fn decode(encoded: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = Decoder::new(encoded);
        match payload.u8()? {
            COMMAND => {
                let envelope = command_codec::envelope(&mut payload)?;
                payload.finish()?;
                Ok(Self::Command(Box::new(envelope)))
            }
            BROADCAST => Ok(Self::Broadcast(Bytes::copy_from_slice(payload.rest()))),
            PURGE => {
                let dry_run = payload.u64()? != 0;
                let keys = (0..payload.count()?).map(|_| command_codec::key(&mut payload)).collect::<Result<_, _>>()?;
                payload.finish()?;
                Ok(Self::Purge { keys, dry_run })
            }
            WITHOUT_CONTENT => Ok(Self::None),
            _ => Err(DecodeError::Invalid("the kind of a request")),
        }
    }
}

impl ReceivedRequests {
    /// Adds requests of `origin`, as far as they follow those before. The requests before `oldest` are answered or withdrawn. The
    /// node had `applied` the log when it sent them.
    pub(in crate::store) fn add(
        &mut self,
        (origin, applied): (Claim, u64),
        oldest: u64,
        first: u64,
        envelopes: Vec<Bytes>,
    ) {
        let next = self.next.entry(origin).or_insert(oldest);
        *next = oldest.max(*next);
        for (number, encoded) in (first..).zip(envelopes) {
            if number == *next {
                self.queue.push_back(ReceivedRequest { request: RequestNumber { origin, number }, applied, encoded });
                *next += 1;
            }
        }
    }

    /// Forgets all requests: their nodes send them to the next decider.
    pub(in crate::store) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns true if the next request is a purge.
    pub(in crate::store) fn is_purge_next(&self) -> bool {
        self.queue.get(self.taken).is_some_and(|request| request.encoded.first() == Some(&PURGE))
    }

    /// Takes the next request, until it is [`settled`](Self::settle).
    pub(in crate::store) fn next(&mut self) -> Option<RequestToDecide> {
        let ReceivedRequest { request, applied, encoded } = self.queue.get(self.taken)?;
        self.taken += 1;
        Some(RequestToDecide { request: *request, applied: *applied, content: RequestContent::decode(encoded) })
    }

    /// Forgets the requests that were taken, whose record is in the log.
    pub(in crate::store) fn settle(&mut self) {
        self.queue.drain(..mem::take(&mut self.taken));
    }

    /// Begins again with the first request that is not settled.
    pub(in crate::store) fn restart(&mut self) {
        self.taken = 0;
    }
}
