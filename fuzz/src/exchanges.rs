//! A model of the replies that a session owes a client for its PUBLISHes at QoS 1 and 2.
//!
//! It follows the table in `mqtt/session/inbound_acks.rs` and the standard: one list, walked from end to end at every
//! question.

use umbrad::mqtt::{
    protocol::packet::{PacketId, Protocol, QoS, Reason},
    session::AckId,
};

use crate::server_packet::Sent;

/// The exchanges a client has begun and not ended.
#[derive(Debug, Default)]
pub struct Exchanges {
    /// In the order in which they have to be acknowledged.
    known: Vec<Exchange>,
    /// QoS 2, ended by a PUBREC that refused, oldest first.
    refused: Vec<(PacketId, Reason)>,
    /// Counts connections.
    now: usize,
}

#[derive(Debug)]
struct Exchange {
    id: PacketId,
    qos: QoS,
    ack_id: AckId,
    verdict: Option<Reason>,
    /// The connection that it was last published on.
    published: usize,
    /// The connection that its PUBREC went out on.
    received: Option<usize>,
}

/// The required outcome of a PUBLISH.
#[derive(Debug, PartialEq)]
pub enum PublishOutcome {
    /// It is asked for.
    New,
    /// Nothing yet.
    Waits,
    /// Its PUBREC is repeated.
    Repeat(Sent),
    /// It breaks the protocol.
    Violation,
}

impl Exchanges {
    /// A PUBLISH, with the receive maximum, which only MQTT 5 clients receive.
    pub fn publish(&mut self, id: PacketId, qos: QoS, dup: bool, protocol: Protocol, window: usize) -> PublishOutcome {
        let now = self.now;
        let is_resend = |first: &Exchange| first.qos == qos && (dup || qos == QoS::ExactlyOnce);
        if let Some(first) = self.waiting().find(|exchange| exchange.id == id) {
            return if is_resend(first) { PublishOutcome::Waits } else { PublishOutcome::Violation };
        }
        if qos == QoS::ExactlyOnce {
            let held = self.known.iter().position(|exchange| exchange.received.is_some() && exchange.id == id);
            if let Some((at, reason)) = held.and_then(|at| Some((at, self.known[at].verdict?))) {
                let shown = sent_reason(protocol, reason);
                if shown.is_failure() {
                    self.known.remove(at);
                    self.refuse(id, reason);
                }
                return PublishOutcome::Repeat(Sent::PubRec(id, shown));
            }
            match self.refused.iter().position(|(refused, _)| *refused == id) {
                Some(at) if dup => {
                    return PublishOutcome::Repeat(Sent::PubRec(id, sent_reason(protocol, self.refused[at].1)));
                }
                Some(at) => _ = self.refused.remove(at),
                None => {}
            }
        }
        let open = self.waiting().count() + self.known.iter().filter(|known| known.received == Some(now)).count();
        if protocol == Protocol::V5 && open >= window {
            return PublishOutcome::Violation;
        }
        let earlier = |exchange: &Exchange| exchange.received.is_none() && exchange.id == id;
        if let Some(at) = self.known.iter().position(earlier) {
            let first = self.known.remove(at);
            if is_resend(&first) {
                self.known.push(Exchange { published: now, ..first });
                return PublishOutcome::Waits;
            }
        }
        PublishOutcome::New
    }

    /// A PUBLISH that is new was asked for.
    pub fn asked(&mut self, id: PacketId, qos: QoS, ack_id: AckId) {
        assert!(self.known.iter().all(|known| known.ack_id != ack_id), "one ticket for two requests");
        self.known.push(Exchange { id, qos, ack_id, verdict: None, published: self.now, received: None });
    }

    /// A request is decided; the first verdict stands.
    pub fn decide(&mut self, ack_id: AckId, reason: Reason) {
        if let Some(known) = self.known.iter_mut().find(|known| known.ack_id == ack_id) {
            known.verdict.get_or_insert(reason);
        }
    }

    /// A request will not be decided. Returns whether the connection waits for it.
    pub fn abandon(&mut self, ack_id: AckId) -> bool {
        let waits = self.waiting().any(|exchange| exchange.ack_id == ack_id);
        self.known.retain(|known| known.ack_id != ack_id || known.received.is_some());
        waits
    }

    /// The acknowledgements whose turn it is.
    pub fn acknowledge(&mut self, protocol: Protocol) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(at) = self.known.iter().position(|exchange| self.is_waiting(exchange)) {
            let Some(reason) = self.known[at].verdict else { break };
            let Exchange { id, qos, .. } = self.known[at];
            let shown = sent_reason(protocol, reason);
            if qos == QoS::AtLeastOnce {
                sent.push(Sent::PubAck(id, shown));
                self.known.remove(at);
                continue;
            }
            sent.push(Sent::PubRec(id, shown));
            if shown.is_failure() {
                self.known.remove(at);
                self.refuse(id, reason);
            } else {
                self.known[at].received = Some(self.now);
            }
        }
        sent
    }

    /// A PUBREL: its PUBCOMP, or none for one that comes before the PUBREC.
    pub fn release(&mut self, id: PacketId) -> Option<Sent> {
        let qos_2 = |known: &Exchange| known.id == id && known.qos == QoS::ExactlyOnce;
        match self.known.iter().position(|known| qos_2(known) && known.received.is_some()) {
            Some(at) => {
                self.known.remove(at);
                Some(Sent::PubComp(id, Reason::SUCCESS))
            }
            None if self.known.iter().any(qos_2) => None,
            None => Some(Sent::PubComp(id, Reason::PACKET_IDENTIFIER_NOT_FOUND)),
        }
    }

    /// The connection ends. What a client did not send again on it at QoS 1, it has given up.
    pub fn detach(&mut self) {
        let now = self.now;
        self.known.retain(|known| known.qos == QoS::ExactlyOnce || known.published == now);
        self.now += 1;
    }

    /// How many acknowledgements the connection waits for.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.waiting().count()
    }

    /// Returns true if a QoS 2 identifier is in an exchange, so that a PUBLISH with it is no new message.
    #[must_use]
    pub fn holds(&self, id: PacketId) -> bool {
        self.known.iter().any(|known| known.id == id && known.qos == QoS::ExactlyOnce)
    }

    fn refuse(&mut self, id: PacketId, reason: Reason) {
        self.refused.retain(|(refused, _)| *refused != id);
        self.refused.push((id, reason));
        let excess = self.refused.len().saturating_sub(REFUSED_MAX);
        self.refused.drain(..excess);
    }

    fn is_waiting(&self, exchange: &Exchange) -> bool {
        exchange.received.is_none() && exchange.published == self.now
    }

    fn waiting(&self) -> impl Iterator<Item = &Exchange> {
        self.known.iter().filter(|exchange| self.is_waiting(exchange))
    }
}

/// Returns the reason as it is sent: a 3.1.1 client receives none, and so cannot be refused.
fn sent_reason(protocol: Protocol, reason: Reason) -> Reason {
    if protocol == Protocol::V5 { reason } else { Reason::SUCCESS }
}

/// How many refusals a session remembers.
const REFUSED_MAX: usize = 16;
