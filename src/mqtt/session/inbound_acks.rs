//! The acknowledgements a client is owed for its PUBLISHes at QoS 1 and 2.
//!
//! A PUBLISH becomes a request once, and its PUBACK or PUBREC is written when it is decided and all before it are: in
//! the order in which the PUBLISHes came [MQTT-4.6.0-2] [MQTT-4.6.0-3]. What a resend finds:
//!
//! | the first is | QoS 1 | QoS 2 |
//! |---|---|---|
//! | undecided | waits for its verdict | waits for its verdict |
//! | decided, not acknowledged (the connection was gone) | gets its verdict | gets its verdict |
//! | acknowledged | is a new request [MQTT-4.3.2-5] | gets the same PUBREC until PUBREL, or while refusals are remembered |
//!
//! At QoS 2 the identifier alone makes a resend [MQTT-4.3.3-10], but for a refused one, whose identifier is free for a
//! PUBLISH without DUP. At QoS 1 it is DUP that makes it: a client that has forgotten its session uses its identifiers
//! anew, and must not have a second message taken for the first.

use std::collections::VecDeque;

use crate::mqtt::{
    protocol::{
        packet::{PacketId, Protocol, QoS, Reason},
        violation::Violation,
    },
    session::AckResult,
};

/// Which request a verdict is for; of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AckId(pub(crate) u32);

/// What became of a PUBLISH.
#[derive(Debug)]
pub(crate) enum PublishOutcome {
    /// It is a request.
    New(AckId),
    /// It is a resend, and its acknowledgement comes in its turn.
    Waits,
    /// It is a resend of one whose PUBREC was sent: this one, which is due again.
    Repeat(AckResult),
}

/// What one client is owed.
#[derive(Debug, Default)]
pub(crate) struct InboundAcks {
    /// Not acknowledged, in the order in which they came on this connection.
    waiting: VecDeque<InboundAck>,
    /// Not acknowledged, of earlier connections, and not resent on this one.
    earlier: Vec<InboundAck>,
    /// QoS 2, PUBREC sent, PUBREL awaited.
    unreleased: Vec<(PacketId, Reason)>,
    /// How many of `unreleased`, the first ones, are of earlier connections.
    unreleased_earlier: usize,
    /// QoS 2, refused by a PUBREC; the last [`REFUSALS_MAX`].
    refused: VecDeque<(PacketId, AckResult)>,
    last_ticket: u32,
}

#[derive(Debug)]
struct InboundAck {
    id: PacketId,
    qos: QoS,
    ack_id: AckId,
    verdict: Option<AckResult>,
}

impl InboundAcks {
    /// How many requests of this connection are not acknowledged yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a PUBLISH at QoS 1 or 2; `window` is the receive maximum, which only MQTT 5 clients are told.
    pub(crate) fn take(
        &mut self,
        id: PacketId,
        qos: QoS,
        dup: bool,
        protocol: Protocol,
        window: u16,
    ) -> Result<PublishOutcome, Violation> {
        if let Some(first) = self.waiting.iter().find(|receipt| receipt.id == id) {
            let resend = first.qos == qos && (dup || qos == QoS::ExactlyOnce);
            return if resend { Ok(PublishOutcome::Waits) } else { Err(Violation::PacketIdInUse(id.get())) };
        }
        if qos == QoS::ExactlyOnce
            && let Some(verdict) = self.sent_before(id, dup, protocol)
        {
            return Ok(PublishOutcome::Repeat(verdict));
        }
        // Section 3.1.2.11.3: what the client sent on this connection and has not seen the end of.
        let open = self.waiting.len() + self.unreleased.len() - self.unreleased_earlier;
        if protocol == Protocol::V5 && open >= window.into() {
            return Err(Violation::ReceiveMaximumExceeded);
        }
        if let Some(at) = self.earlier.iter().position(|receipt| receipt.id == id) {
            let first = self.earlier.remove(at);
            if first.qos == qos && (dup || qos == QoS::ExactlyOnce) {
                self.waiting.push_back(first);
                return Ok(PublishOutcome::Waits);
            }
        }
        if qos == QoS::ExactlyOnce && self.unreleased.len() + self.earlier.len() + self.waiting.len() >= HELD_MAX {
            return Err(Violation::TooManyUnreleased);
        }
        self.last_ticket = self.last_ticket.wrapping_add(1);
        let ack_id = AckId(self.last_ticket);
        self.waiting.push_back(InboundAck { id, qos, ack_id, verdict: None });
        Ok(PublishOutcome::New(ack_id))
    }

    /// Sets the verdict of a request; the first one stands.
    pub(crate) fn decide(&mut self, ack_id: AckId, verdict: AckResult) {
        let mut inbound_acks = self.waiting.iter_mut().chain(&mut self.earlier);
        if let Some(receipt) = inbound_acks.find(|receipt| receipt.ack_id == ack_id && receipt.verdict.is_none()) {
            receipt.verdict = Some(verdict);
        }
    }

    /// Forgets a request that will have no verdict: a resend of it is a new one. Returns whether it was sent or resent
    /// on this connection.
    pub(crate) fn abandon(&mut self, ack_id: AckId) -> bool {
        let waiting = self.waiting.len();
        self.waiting.retain(|receipt| receipt.ack_id != ack_id);
        self.earlier.retain(|receipt| receipt.ack_id != ack_id);
        self.waiting.len() < waiting
    }

    /// The next acknowledgement to write, if its turn has come.
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

    /// Whether a PUBREC was sent that waits for this PUBREL.
    pub(crate) fn awaits_pubrel(&self, id: PacketId) -> bool {
        self.unreleased.iter().any(|(held, _)| *held == id)
    }

    /// PUBREL: whether the identifier was held, and is free now.
    pub(crate) fn release(&mut self, id: PacketId) -> Result<bool, Violation> {
        if self.forget_unreleased(id) {
            return Ok(true);
        }
        let undecided = |receipt: &InboundAck| receipt.id == id && receipt.qos == QoS::ExactlyOnce;
        if self.waiting.iter().chain(&self.earlier).any(undecided) {
            // A PUBCOMP would tell that the request is settled.
            return Err(Violation::ReleasedTooEarly(id.get()));
        }
        Ok(false)
    }

    /// The connection is gone; what it did not acknowledge waits for a resend on the next one.
    pub(crate) fn detach(&mut self) {
        // What the client did not resend on this connection, it never will [MQTT-4.4.0-1]. At QoS 2 the identifier is
        // taken all the same.
        self.earlier.retain(|receipt| receipt.qos == QoS::ExactlyOnce);
        self.earlier.extend(std::mem::take(&mut self.waiting));
        self.unreleased_earlier = self.unreleased.len();
    }

    /// The PUBREC that was sent for a QoS 2 identifier, if this is a resend.
    fn sent_before(&mut self, id: PacketId, dup: bool, protocol: Protocol) -> Option<AckResult> {
        if let Some((_, reason)) = self.unreleased.iter().find(|(held, _)| *held == id) {
            let verdict = AckResult { reason: *reason, ..AckResult::SUCCESS };
            // A 3.1.1 client had to release it; as an MQTT 5 client it is told now that it need not.
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

    /// Whether the identifier waited for its PUBREL.
    fn forget_unreleased(&mut self, id: PacketId) -> bool {
        let Some(at) = self.unreleased.iter().position(|(held, _)| *held == id) else { return false };
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

/// Whether a PUBREC with this reason is the last word: only MQTT 5 has one that is (section 4.3.3).
fn ends_the_exchange(protocol: Protocol, reason: Reason) -> bool {
    protocol == Protocol::V5 && reason.is_failure()
}

/// How many refused QoS 2 messages are remembered for their resend.
const REFUSALS_MAX: usize = 16;

/// How many QoS 2 identifiers a session holds, over all its connections.
const HELD_MAX: usize = 1024;

/// Room for this many entries is kept when none is left; a session that had a burst gives the rest back.
const KEPT_CAPACITY: usize = 8;
