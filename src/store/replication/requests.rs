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
    collections::{HashMap, VecDeque},
    mem,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::store::{
    batch::{Envelope, QueuedCommand},
    codec::{DecodeError, Decoder, put_len, put_u64},
    frame,
    replication::{
        command_codec,
        record::{Claim, Epoch, NodeId},
    },
};

/// The kind of value, part of each checksum.
const BUS: &str = "bus";

const REQUESTS: u8 = 1;
const HAND_OVER: u8 = 2;

/// Bytes of requests in one message, unless a single one has more.
const MESSAGE_BYTES: usize = 256 << 10;

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
        /// The oldest request of this node that the log does not answer.
        oldest: u64,
        /// The number of the first of `envelopes`.
        first: u64,
        envelopes: Vec<Bytes>,
    },
    /// The node that decides in this epoch ends.
    HandOver(Epoch),
}

/// The requests of this node's clients that the log does not answer yet.
pub(in crate::store) struct OwnRequests<C> {
    waiting: VecDeque<OwnRequest<C>>,
    /// The number of the first that waits.
    first: u64,
    /// The first that was not sent to the decider, or that this node has not decided.
    next: u64,
    /// The time of the last change of `waiting` at its front, or of sending it again.
    progress: Duration,
}

struct OwnRequest<C> {
    queued: QueuedCommand<C>,
    permit: OwnedSemaphorePermit,
    since: Duration,
}

/// The requests of other nodes that wait to be decided by this one.
#[derive(Default)]
pub(in crate::store) struct ReceivedRequests {
    queue: VecDeque<(RequestNumber, Bytes)>,
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
        match self {
            Self::Requests { epoch, origin, oldest, first, envelopes } => {
                out.push(REQUESTS);
                for number in [epoch.0, origin.node.0, origin.incarnation, *oldest, *first] {
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
        }
        frame::finish(&mut out, BUS, &[]);
        out.into()
    }

    /// Decodes a message.
    pub(in crate::store) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, BUS, &[])?;
        let message = match payload.u8()? {
            REQUESTS => Self::Requests {
                epoch: Epoch(payload.u64()?),
                origin: Claim { node: NodeId(payload.u64()?), incarnation: payload.u64()? },
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
            _ => return Err(DecodeError::Invalid("the kind of a message")),
        };
        payload.finish()?;
        Ok(message)
    }
}

impl<C> OwnRequests<C> {
    pub(in crate::store) fn new() -> Self {
        Self { waiting: VecDeque::new(), first: 1, next: 1, progress: Duration::ZERO }
    }

    /// Adds the request of a client at `now`.
    pub(in crate::store) fn add(&mut self, queued: QueuedCommand<C>, permit: OwnedSemaphorePermit, now: Duration) {
        if self.waiting.is_empty() {
            self.progress = now;
        }
        self.waiting.push_back(OwnRequest { queued, permit, since: now });
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the request `number`, which the log answers at `now`, with its queue bytes. `None` if its client was answered.
    pub(in crate::store) fn answered(
        &mut self,
        number: u64,
        now: Duration,
    ) -> Option<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        // A node's requests are decided in order.
        if number != self.first {
            return None;
        }
        self.progress = now;
        self.take()
    }

    /// Takes the oldest request if it has waited since before `before`.
    pub(in crate::store) fn expired(&mut self, before: Duration) -> Option<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        if self.waiting.front()?.since < before { self.take() } else { None }
    }

    fn take(&mut self) -> Option<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        let OwnRequest { queued, permit, .. } = self.waiting.pop_front()?;
        self.first += 1;
        self.next = self.next.max(self.first);
        Some((queued, permit))
    }

    /// Begins again with the first request that waits: another node decides, or the former messages may be lost.
    pub(in crate::store) fn restart(&mut self, now: Duration) {
        (self.next, self.progress) = (self.first, now);
    }

    /// Returns true if requests were sent before `before` and none was answered since.
    pub(in crate::store) fn is_stalled(&self, before: Duration) -> bool {
        self.next > self.first && self.progress < before
    }

    /// Returns the next request for a decision at this node.
    pub(in crate::store) fn next(&mut self) -> Option<(u64, &QueuedCommand<C>)> {
        let number = self.next;
        let request = self.waiting.get(usize::try_from(number.checked_sub(self.first)?).ok()?)?;
        self.next += 1;
        Some((number, &request.queued))
    }

    /// Returns the message with the next requests for the node that decides in `epoch`.
    pub(in crate::store) fn message(&mut self, epoch: Epoch, origin: Claim) -> Option<BusMessage> {
        let (oldest, first) = (self.first, self.next);
        let (mut envelopes, mut bytes) = (Vec::new(), 0);
        while bytes < MESSAGE_BYTES
            && let Some((_, queued)) = self.next()
        {
            let mut encoded = Vec::with_capacity(256);
            command_codec::put_envelope(&mut encoded, &queued.envelope);
            bytes += encoded.len();
            envelopes.push(encoded.into());
        }
        (!envelopes.is_empty()).then_some(BusMessage::Requests { epoch, origin, oldest, first, envelopes })
    }
}

impl ReceivedRequests {
    /// Adds requests of `origin`, as far as they follow those before.
    pub(in crate::store) fn add(&mut self, origin: Claim, oldest: u64, first: u64, envelopes: Vec<Bytes>) {
        let next = self.next.entry(origin).or_insert(oldest);
        for (number, encoded) in (first..).zip(envelopes) {
            if number == *next {
                self.queue.push_back((RequestNumber { origin, number }, encoded));
                *next += 1;
            }
        }
    }

    /// Forgets all requests: their nodes send them to the next decider.
    pub(in crate::store) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the next request, until it is [`settled`](Self::settle).
    pub(in crate::store) fn next(&mut self) -> Option<(RequestNumber, Result<Envelope, DecodeError>)> {
        let (request, encoded) = self.queue.get(self.taken)?;
        self.taken += 1;
        let mut payload = Decoder::new(encoded);
        let envelope = command_codec::envelope(&mut payload).and_then(|envelope| payload.finish().map(|()| envelope));
        Some((*request, envelope))
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
