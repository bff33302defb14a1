//! Pending acknowledgements for a client's PUBLISHes at QoS 1 and 2.
//!
//! A PUBLISH becomes one request. Its PUBACK or PUBREC is written when it and all earlier ones have a result, so in the
//! order of the PUBLISHes [MQTT-4.6.0-2] [MQTT-4.6.0-3]. The treatment of a resend:
//!
//! | state of the original | QoS 1 | QoS 2 |
//! |---|---|---|
//! | no result yet | waits for the result | waits for the result |
//! | result, not acknowledged (the connection had ended) | gets the result | gets the result |
//! | acknowledged | is a new request [MQTT-4.3.2-5] | gets the same PUBREC until PUBREL, or while the refusal is kept |
//!
//! At QoS 2 an equal identifier makes a PUBLISH a resend [MQTT-4.3.3-10]. The exception is a refused message, whose
//! identifier is free for a PUBLISH without DUP. At QoS 1 the DUP flag decides: a client that has lost its session
//! reuses identifiers, and its new message must not be mistaken for the old one.

use std::collections::VecDeque;

use crate::mqtt::{
    protocol::{
        packet::{PacketId, Protocol, QoS, Reason},
        violation::Violation,
    },
    session::AckResult,
};

/// The id of a pending acknowledgement, unique within one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AckId(pub(crate) u32);

/// The outcome of a PUBLISH at QoS 1 or 2.
#[derive(Debug)]
pub(crate) enum PublishOutcome {
    /// The PUBLISH is a new request.
    New(AckId),
    /// The PUBLISH is a resend, whose acknowledgement is written in its turn.
    Waits,
    /// The PUBLISH is a resend of a message whose PUBREC was sent, and has to be sent again.
    Repeat(AckResult),
}

/// The pending acknowledgements of one client.
#[derive(Debug, Default)]
pub(crate) struct InboundAcks {
    /// Unacknowledged messages of this connection, in the order of arrival.
    waiting: VecDeque<InboundAck>,
    /// Unacknowledged messages of earlier connections that were not resent on this one.
    earlier: Vec<InboundAck>,
    /// QoS 2 messages whose PUBREC was sent and whose PUBREL is awaited.
    unreleased: Vec<(PacketId, Reason)>,
    /// The number of first entries of `unreleased` that are from earlier connections.
    unreleased_earlier: usize,
    /// The last [`REFUSALS_MAX`] QoS 2 messages that a PUBREC refused.
    refused: VecDeque<(PacketId, AckResult)>,
    last_ack_id: u32,
}

#[derive(Debug)]
struct InboundAck {
    id: PacketId,
    qos: QoS,
    ack_id: AckId,
    verdict: Option<AckResult>,
}

impl InboundAcks {
    /// Returns the number of unacknowledged requests of this connection.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Records a PUBLISH at QoS 1 or 2. `window` is the receive maximum, which only MQTT 5 clients have to respect.
    pub(crate) fn take(
        &mut self,
        id: PacketId,
        qos: QoS,
        dup: bool,
        protocol: Protocol,
        window: u16,
    ) -> Result<PublishOutcome, Violation> {
        if let Some(first) = self.waiting.iter().find(|ack| ack.id == id) {
            let resend = first.qos == qos && (dup || qos == QoS::ExactlyOnce);
            return if resend { Ok(PublishOutcome::Waits) } else { Err(Violation::PacketIdInUse(id.get())) };
        }
        if qos == QoS::ExactlyOnce
            && let Some(verdict) = self.sent_before(id, dup, protocol)
        {
            return Ok(PublishOutcome::Repeat(verdict));
        }
        // Section 3.1.2.11.3: messages that the client sent on this connection and that are not completed.
        let open = self.waiting.len() + self.unreleased.len() - self.unreleased_earlier;
        if protocol == Protocol::V5 && open >= window.into() {
            return Err(Violation::ReceiveMaximumExceeded);
        }
        if let Some(at) = self.earlier.iter().position(|ack| ack.id == id) {
            let first = self.earlier.remove(at);
            if first.qos == qos && (dup || qos == QoS::ExactlyOnce) {
                self.waiting.push_back(first);
                return Ok(PublishOutcome::Waits);
            }
        }
        if qos == QoS::ExactlyOnce
            && self.unreleased.len() + self.earlier.len() + self.waiting.len() >= QOS_2_PENDING_MAX
        {
            return Err(Violation::TooManyUnreleased);
        }
        self.last_ack_id = self.last_ack_id.wrapping_add(1);
        let ack_id = AckId(self.last_ack_id);
        self.waiting.push_back(InboundAck { id, qos, ack_id, verdict: None });
        Ok(PublishOutcome::New(ack_id))
    }

    /// Sets the result of a request, unless it has one.
    pub(crate) fn decide(&mut self, ack_id: AckId, verdict: AckResult) {
        let mut acks = self.waiting.iter_mut().chain(&mut self.earlier);
        if let Some(ack) = acks.find(|ack| ack.ack_id == ack_id && ack.verdict.is_none()) {
            ack.verdict = Some(verdict);
        }
    }

    /// Removes a request that gets no result, so that a resend is a new request. Returns true if it was sent or resent
    /// on this connection.
    pub(crate) fn abandon(&mut self, ack_id: AckId) -> bool {
        let waiting = self.waiting.len();
        self.waiting.retain(|ack| ack.ack_id != ack_id);
        self.earlier.retain(|ack| ack.ack_id != ack_id);
        self.waiting.len() < waiting
    }

    /// Takes the next acknowledgement to write, if the oldest request has a result.
    pub(crate) fn next(&mut self, protocol: Protocol) -> Option<(PacketId, QoS, AckResult)> {
        self.waiting.front()?.verdict.as_ref()?;
        let InboundAck { id, qos, verdict, .. } = self.waiting.pop_front()?;
        let verdict = verdict?;
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = VecDeque::new();
        }
        if qos == QoS::ExactlyOnce {
            if ends_the_exchange(protocol, verdict.reason) {
                self.refuse(id, verdict.clone());
            } else {
                self.unreleased.push((id, verdict.reason));
            }
        }
        Some((id, qos, verdict))
    }

    /// Returns true if a PUBREC was sent that waits for this PUBREL.
    pub(crate) fn awaits_pubrel(&self, id: PacketId) -> bool {
        self.unreleased.iter().any(|(unreleased, _)| *unreleased == id)
    }

    /// Handles PUBREL. Returns true if the identifier was in use; it is free now.
    pub(crate) fn release(&mut self, id: PacketId) -> Result<bool, Violation> {
        if self.forget_unreleased(id) {
            return Ok(true);
        }
        let undecided = |ack: &InboundAck| ack.id == id && ack.qos == QoS::ExactlyOnce;
        if self.waiting.iter().chain(&self.earlier).any(undecided) {
            // PUBCOMP would claim that the request is complete.
            return Err(Violation::ReleasedTooEarly(id.get()));
        }
        Ok(false)
    }

    /// Ends the connection. Its unacknowledged messages wait for a resend on the next one.
    pub(crate) fn detach(&mut self) {
        // A message that the client did not resend on this connection will never be resent [MQTT-4.4.0-1]. At QoS 2
        // its identifier remains in use.
        self.earlier.retain(|ack| ack.qos == QoS::ExactlyOnce);
        self.earlier.extend(std::mem::take(&mut self.waiting));
        self.unreleased_earlier = self.unreleased.len();
    }

    /// Returns the result of the PUBREC that was sent for a QoS 2 identifier, if this is a resend.
    fn sent_before(&mut self, id: PacketId, dup: bool, protocol: Protocol) -> Option<AckResult> {
        if let Some((_, reason)) = self.unreleased.iter().find(|(unreleased, _)| *unreleased == id) {
            let verdict = AckResult { reason: *reason, ..AckResult::SUCCESS };
            // The client may have used 3.1.1 before, where it had to send PUBREL; in MQTT 5 this PUBREC ends the
            // exchange.
            if ends_the_exchange(protocol, verdict.reason) {
                self.forget_unreleased(id);
                self.refuse(id, verdict.clone());
            }
            return Some(verdict);
        }
        let at = self.refused.iter().position(|(refused, _)| *refused == id)?;
        if dup {
            return self.refused.get(at).map(|(_, verdict)| verdict.clone());
        }
        self.refused.remove(at);
        None
    }

    /// Frees an identifier that waits for its PUBREL. Returns true if it did.
    fn forget_unreleased(&mut self, id: PacketId) -> bool {
        let Some(at) = self.unreleased.iter().position(|(unreleased, _)| *unreleased == id) else { return false };
        self.unreleased.remove(at);
        if at < self.unreleased_earlier {
            self.unreleased_earlier -= 1;
        }
        if self.unreleased.is_empty() && self.unreleased.capacity() > KEPT_CAPACITY {
            self.unreleased = Vec::new();
        }
        true
    }

    fn refuse(&mut self, id: PacketId, verdict: AckResult) {
        self.refused.retain(|(refused, _)| *refused != id);
        if self.refused.len() == REFUSALS_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back((id, verdict));
    }
}

/// Returns true if a PUBREC with this reason ends the exchange, which only MQTT 5 has (section 4.3.3).
fn ends_the_exchange(protocol: Protocol, reason: Reason) -> bool {
    protocol == Protocol::V5 && reason.is_failure()
}

/// Refused QoS 2 messages that are remembered for their resend.
const REFUSALS_MAX: usize = 16;

/// QoS 2 identifiers that a session keeps in use, over all its connections.
const QOS_2_PENDING_MAX: usize = 1024;

/// Capacity, in entries, that an empty list keeps, so that a burst does not stay allocated.
const KEPT_CAPACITY: usize = 8;
