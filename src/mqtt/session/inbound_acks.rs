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
//!
//! In a session that outlives the server, a QoS 2 identifier has a row in the store, which is removed at PUBREL. PUBCOMP
//! waits until that is on disk: the client may use the identifier for another message then, which a restart must not take
//! for a resend.

use std::{collections::VecDeque, sync::Arc};

use crate::mqtt::{
    protocol::{
        message::Row,
        packet::{PacketId, Protocol, QoS, Reason},
        violation::Violation,
    },
    session::{AckResult, Ticket},
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

/// The effect of a PUBREL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The identifier was in use; it is free now.
    Known,
    /// The identifier was in use; its row is removed.
    Unsaved,
    /// The removal of its row is not on disk yet.
    Waits,
    /// The identifier is not in use.
    Unknown,
}

/// The pending acknowledgements of one client.
#[derive(Debug, Default)]
pub(crate) struct InboundAcks {
    /// Unacknowledged messages of this connection, in the order of arrival.
    waiting: VecDeque<InboundAck>,
    /// Unacknowledged messages of earlier connections that were not resent on this one.
    earlier: Vec<InboundAck>,
    /// QoS 2 messages whose PUBREC was sent and whose PUBREL is awaited.
    unreleased: Vec<Unreleased>,
    /// The number of first entries of `unreleased` that are from earlier connections.
    unreleased_earlier: usize,
    /// The last [`REFUSALS_MAX`] QoS 2 messages that a PUBREC refused.
    refused: VecDeque<(PacketId, AckResult)>,
    /// Identifiers whose rows are being removed.
    releasing: Vec<Releasing>,
    last_ack_id: u32,
}

/// A QoS 2 message whose PUBREC was sent.
#[derive(Debug)]
struct Unreleased {
    id: PacketId,
    reason: Reason,
    row: Option<Arc<dyn Row>>,
}

/// A QoS 2 identifier whose PUBREL was received.
#[derive(Debug)]
struct Releasing {
    ticket: Ticket,
    id: PacketId,
    /// True if the present connection waits for PUBCOMP.
    is_awaited: bool,
}

#[derive(Debug)]
struct InboundAck {
    id: PacketId,
    qos: QoS,
    ack_id: AckId,
    result: Option<AckResult>,
    row: Option<Arc<dyn Row>>,
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
            && let Some(result) = self.sent_before(id, dup, protocol)
        {
            return Ok(PublishOutcome::Repeat(result));
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
            && self.unreleased.len() + self.releasing.len() + self.earlier.len() + self.waiting.len()
                >= QOS_2_PENDING_MAX
        {
            return Err(Violation::TooManyUnreleased);
        }
        self.last_ack_id = self.last_ack_id.wrapping_add(1);
        let ack_id = AckId(self.last_ack_id);
        self.waiting.push_back(InboundAck { id, qos, ack_id, result: None, row: None });
        Ok(PublishOutcome::New(ack_id))
    }

    /// Sets the result of a request, unless it has one.
    pub(crate) fn decide(&mut self, ack_id: AckId, result: AckResult) {
        let mut acks = self.waiting.iter_mut().chain(&mut self.earlier);
        if let Some(ack) = acks.find(|ack| ack.ack_id == ack_id && ack.result.is_none()) {
            ack.result = Some(result);
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

    /// Removes a request that was not decided and will not be, so that a resend is a new request.
    pub(crate) fn withdraw(&mut self, ack_id: AckId) {
        let acks = self.waiting.iter().chain(&self.earlier);
        let rows = acks.filter(|ack| ack.ack_id == ack_id).filter_map(|ack| ack.row.as_ref());
        rows.for_each(|row| row.forget());
        self.abandon(ack_id);
    }

    /// Takes the next acknowledgement to write, if the oldest request has a result.
    pub(crate) fn next(&mut self, protocol: Protocol) -> Option<(PacketId, QoS, AckResult)> {
        self.waiting.front()?.result.as_ref()?;
        let InboundAck { id, qos, result, row, .. } = self.waiting.pop_front()?;
        let result = result?;
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = VecDeque::new();
        }
        if qos == QoS::ExactlyOnce {
            if ends_the_exchange(protocol, result.reason) {
                // A refused request has no row, and the client may use the identifier at once.
                row.iter().for_each(|row| if result.unknown { row.remove() } else { row.forget() });
                self.refuse(id, result.clone());
            } else {
                self.unreleased.push(Unreleased { id, reason: result.reason, row });
            }
        }
        Some((id, qos, result))
    }

    /// Returns true if a PUBREC was sent that waits for this PUBREL.
    pub(crate) fn awaits_pubrel(&self, id: PacketId) -> bool {
        self.unreleased.iter().any(|unreleased| unreleased.id == id)
    }

    /// Takes the row of a QoS 2 identifier.
    pub(crate) fn keep(&mut self, ack_id: AckId, row: Arc<dyn Row>) {
        if let Some(ack) = self.waiting.iter_mut().find(|ack| ack.ack_id == ack_id) {
            ack.row = Some(row);
        }
    }

    /// Adds an identifier that was received before a restart.
    pub(crate) fn restore(&mut self, id: PacketId, reason: Reason, row: Arc<dyn Row>) {
        self.unreleased.push(Unreleased { id, reason, row: Some(row) });
        self.unreleased_earlier = self.unreleased.len();
    }

    /// Handles PUBREL. If it removes a row, `ticket` has to be given to [`InboundAcks::saved`].
    pub(crate) fn release(&mut self, id: PacketId, ticket: Ticket) -> Result<Release, Violation> {
        if let Some(Unreleased { row, .. }) = self.take_unreleased(id) {
            let Some(row) = row else { return Ok(Release::Known) };
            // Not by its drop: the request that came with it may not be disposed of yet.
            row.remove();
            self.releasing.push(Releasing { ticket, id, is_awaited: true });
            return Ok(Release::Unsaved);
        }
        let undecided = |ack: &InboundAck| ack.id == id && ack.qos == QoS::ExactlyOnce;
        if self.waiting.iter().chain(&self.earlier).any(undecided) {
            // PUBCOMP would claim that the request is complete.
            return Err(Violation::ReleasedTooEarly(id.get()));
        }
        if let Some(releasing) = self.releasing.iter_mut().find(|releasing| releasing.id == id) {
            releasing.is_awaited = true;
            return Ok(Release::Waits);
        }
        Ok(Release::Unknown)
    }

    /// Handles a ticket: the removal of its row is on disk. Returns the identifier if PUBCOMP is due.
    pub(crate) fn saved(&mut self, ticket: Ticket) -> Option<PacketId> {
        let at = self.releasing.iter().position(|releasing| releasing.ticket == ticket)?;
        let Releasing { id, is_awaited, .. } = self.releasing.remove(at);
        if self.releasing.is_empty() {
            self.releasing = Vec::new();
        }
        is_awaited.then_some(id)
    }

    /// Ends the connection. Its unacknowledged messages wait for a resend on the next one.
    pub(crate) fn detach(&mut self) {
        // A message that the client did not resend on this connection will never be resent [MQTT-4.4.0-1]. At QoS 2
        // its identifier remains in use.
        self.earlier.retain(|ack| ack.qos == QoS::ExactlyOnce);
        self.earlier.extend(std::mem::take(&mut self.waiting));
        self.unreleased_earlier = self.unreleased.len();
        self.releasing.iter_mut().for_each(|releasing| releasing.is_awaited = false);
    }

    /// Returns the result of the PUBREC that was sent for a QoS 2 identifier, if this is a resend.
    fn sent_before(&mut self, id: PacketId, dup: bool, protocol: Protocol) -> Option<AckResult> {
        if let Some(Unreleased { reason, .. }) = self.unreleased.iter().find(|unreleased| unreleased.id == id) {
            let result = AckResult { reason: *reason, ..AckResult::SUCCESS };
            // The client may have used 3.1.1 before, where it had to send PUBREL; in MQTT 5 this PUBREC ends the
            // exchange.
            if ends_the_exchange(protocol, result.reason) {
                let refused = self.take_unreleased(id);
                refused.and_then(|refused| refused.row).iter().for_each(|row| row.forget());
                self.refuse(id, result.clone());
            }
            return Some(result);
        }
        let at = self.refused.iter().position(|(refused, _)| *refused == id)?;
        if dup {
            return self.refused.get(at).map(|(_, result)| result.clone());
        }
        self.refused.remove(at);
        None
    }

    /// Removes and returns the message that waits for this PUBREL.
    fn take_unreleased(&mut self, id: PacketId) -> Option<Unreleased> {
        let at = self.unreleased.iter().position(|unreleased| unreleased.id == id)?;
        let taken = self.unreleased.remove(at);
        if at < self.unreleased_earlier {
            self.unreleased_earlier -= 1;
        }
        if self.unreleased.is_empty() && self.unreleased.capacity() > KEPT_CAPACITY {
            self.unreleased = Vec::new();
        }
        Some(taken)
    }

    /// Returns the QoS 2 identifiers whose messages are decided, as a restart has to restore them.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<(PacketId, Reason)> {
        let decided = self.waiting.iter().chain(&self.earlier);
        let decided = decided.filter_map(|ack| Some((ack.id, ack.result.as_ref()?.reason)));
        let mut kept: Vec<_> = self.unreleased.iter().map(|it| (it.id, it.reason)).chain(decided).collect();
        kept.sort_unstable_by_key(|(id, _)| *id);
        kept
    }

    fn refuse(&mut self, id: PacketId, result: AckResult) {
        self.refused.retain(|(refused, _)| *refused != id);
        if self.refused.len() == REFUSALS_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back((id, result));
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct KnownRow {
        is_removed: AtomicBool,
        is_forgotten: AtomicBool,
    }

    impl Row for KnownRow {
        fn remove(&self) {
            self.is_removed.store(true, Ordering::Relaxed);
        }

        fn forget(&self) {
            self.is_forgotten.store(true, Ordering::Relaxed);
        }
    }

    /// A request had the row of its identifier until it was disposed of, which may be after the client released the identifier. PUBCOMP
    /// did not wait for the removal of the row then: after a power cut, the next message with the identifier was taken for a resend and
    /// lost.
    #[test]
    fn a_released_identifier_has_no_row_whoever_else_has_a_handle_to_it() {
        let (mut acks, id) = (InboundAcks::default(), PacketId::new(1).unwrap());
        let taken = acks.take(id, QoS::ExactlyOnce, false, Protocol::V5, 10);
        let Ok(PublishOutcome::New(ack_id)) = taken else { panic!("{taken:?}") };
        let row = Arc::new(KnownRow::default());
        acks.keep(ack_id, row.clone());
        acks.decide(ack_id, AckResult::SUCCESS);
        assert!(acks.next(Protocol::V5).is_some());
        assert!(!row.is_removed.load(Ordering::Relaxed));
        assert_eq!(acks.release(id, Ticket(1)), Ok(Release::Unsaved));
        assert!(row.is_removed.load(Ordering::Relaxed));
        assert_eq!(acks.saved(Ticket(1)), Some(id));
    }

    /// A refused request had a row that was never written, whose removal was written when the last handle to it was dropped: in a cluster
    /// after the row of the next message with the identifier, which was decided twice then if the client resent it at another node.
    #[test]
    fn a_request_that_was_not_accepted_has_no_row_to_remove() {
        let refusal = AckResult { reason: Reason::NOT_AUTHORIZED, ..AckResult::SUCCESS };
        let unknown = AckResult { unknown: true, ..refusal.clone() };
        for (protocol, result, expected) in [
            (Protocol::V5, Some(AckResult::SUCCESS), (false, false)),
            (Protocol::V5, Some(refusal.clone()), (false, true)),
            (Protocol::V5, Some(unknown), (true, false)),
            // PUBREL follows, and the identifier is in use until then.
            (Protocol::V4, Some(refusal), (false, false)),
            (Protocol::V4, None, (false, true)),
        ] {
            let (mut acks, id) = (InboundAcks::default(), PacketId::new(1).unwrap());
            let taken = acks.take(id, QoS::ExactlyOnce, false, protocol, 10);
            let Ok(PublishOutcome::New(ack_id)) = taken else { panic!("{taken:?}") };
            let row = Arc::new(KnownRow::default());
            acks.keep(ack_id, row.clone());
            match &result {
                Some(result) => acks.decide(ack_id, result.clone()),
                None => acks.withdraw(ack_id),
            }
            assert_eq!(acks.next(protocol).is_some(), result.is_some());
            let found = (row.is_removed.load(Ordering::Relaxed), row.is_forgotten.load(Ordering::Relaxed));
            assert_eq!(found, expected, "{protocol:?} {result:?}");
        }
    }
}
