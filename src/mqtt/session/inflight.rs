//! In-flight messages at QoS 1 and 2 to one client: sent, and not completely acknowledged.
//!
//! *Invariants:* entries stay in the order in which they were first sent, so that a resend keeps it [MQTT-4.6.0-1].
//! Entries sent on the present connection precede those not sent on it yet. A message is freed by the acknowledgement
//! after which no resend is needed: PUBACK or PUBREC.
//!
//! At QoS 2, PUBLISH and PUBREL of a message with a row wait until the row on disk says that they were sent
//! ([`Unsaved`]), so that a restart neither sends the message with a second identifier nor forgets the first. Later
//! entries wait too.
//!
//! Not here: the limits ([`crate::mqtt::session`]), and messages not sent yet ([`crate::mqtt::broker::outbox`]).

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::mqtt::{
    protocol::{
        codec::{self, TooLarge},
        message::{Delivery, DeliveryRow},
        packet::{PacketId, Protocol, QoS, Reason, ServerPacket},
    },
    session::Ticket,
};

/// A packet that waits until a row is on disk.
#[derive(Debug)]
pub struct Unsaved {
    /// The ticket for [`Session::saved`](super::Session::saved).
    pub ticket: Ticket,
    /// The row.
    pub row: Arc<dyn DeliveryRow>,
}

impl PartialEq for Unsaved {
    fn eq(&self, other: &Self) -> bool {
        self.ticket == other.ticket
    }
}

/// The effect of a PUBREC.
#[derive(Debug)]
pub(crate) enum Received {
    /// The message is released: PUBREL is due.
    Release,
    /// The message is released: PUBREL is due when that is on disk.
    Unsaved(Unsaved),
    /// PUBREL follows as soon as an earlier PUBREC is on disk.
    Waits,
    /// The client refused the message; it was removed.
    Refused,
    /// No message has the packet identifier.
    Unknown,
}

/// The in-flight messages to one client.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    entries: VecDeque<InflightEntry>,
    /// The number of last entries that have yet to be sent on the present connection.
    unsent: usize,
    /// Bytes of the messages kept for a resend.
    bytes: usize,
    last_id: u16,
}

#[derive(Debug)]
struct InflightEntry {
    id: PacketId,
    stage: InflightState,
    /// Set while the next packet waits until the row is on disk.
    unsaved: Option<Ticket>,
    /// True if PUBLISH was sent, on any connection.
    was_sent: bool,
}

/// A message that was in flight when the server stopped.
#[derive(Debug)]
pub enum RestoredInflight {
    /// PUBLISH was sent.
    Published(Delivery),
    /// QoS 2: PUBREC was received.
    Released(Arc<dyn DeliveryRow>),
}

#[derive(Debug)]
enum InflightState {
    /// PUBLISH was sent.
    Published(Delivery),
    /// QoS 2: PUBREC was received and PUBREL was sent.
    Released(#[expect(dead_code, reason = "for its drop")] Option<Arc<dyn DeliveryRow>>),
}

impl Inflight {
    /// Returns true if fewer than `window` messages and fewer than `bytes_max` bytes are in flight.
    ///
    /// Messages that wait to be resent count, so that no new one overtakes them.
    pub(crate) fn is_open(&self, window: u16, bytes_max: usize) -> bool {
        self.entries.len() < window.into() && self.bytes < bytes_max
    }

    /// Returns the number of further messages that may be sent, by the rules of [`Inflight::is_open`].
    pub(crate) fn capacity(&self, window: u16, bytes_max: usize) -> u16 {
        let in_flight = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        if self.bytes < bytes_max { window.saturating_sub(in_flight) } else { 0 }
    }

    /// Removes and returns the deliveries of shared subscriptions at QoS 1, oldest first, when the session ends. One at
    /// QoS 2 that was sent goes to no other member [MQTT-4.8.2-5].
    pub(crate) fn take_shared(&mut self) -> Vec<Delivery> {
        let entries = std::mem::take(&mut self.entries);
        (self.unsent, self.bytes) = (0, 0);
        let deliveries = entries.into_iter().filter_map(|entry| match entry.stage {
            InflightState::Published(delivery) => {
                let may_move = delivery.qos == QoS::AtLeastOnce || !entry.was_sent;
                (delivery.share.is_some() && may_move).then_some(delivery)
            }
            InflightState::Released(_) => None,
        });
        deliveries.collect()
    }

    /// Returns true if a restart would lose one of the messages.
    pub(crate) fn has_unkept(&self) -> bool {
        self.entries.iter().any(|entry| match &entry.stage {
            InflightState::Published(delivery) => delivery.row.is_none(),
            InflightState::Released(_) => false,
        })
    }

    /// Returns the bytes of the messages kept for a resend.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of messages.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Returns a packet identifier that no in-flight message has [MQTT-2.2.1-4].
    pub(crate) fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let free = |id: &PacketId| self.entries.iter().all(|entry| entry.id != *id);
            if let Some(id) = PacketId::new(self.last_id).filter(free) {
                return id;
            }
        }
    }

    /// Adds a message of a session that continues after a restart, behind those that were sent before it.
    pub(crate) fn restore(&mut self, id: PacketId, message: RestoredInflight) {
        let stage = match message {
            RestoredInflight::Published(delivery) => InflightState::Published(delivery),
            RestoredInflight::Released(row) => InflightState::Released(Some(row)),
        };
        self.bytes += stage.weight();
        self.entries.push_back(InflightEntry { id, stage, unsaved: None, was_sent: true });
        self.unsent = self.entries.len();
        self.last_id = id.get();
    }

    /// Adds a message, which [`Inflight::send`] sends. Returns its row if that has to be on disk first: then `ticket`
    /// has to be given to [`Inflight::saved`].
    pub(crate) fn push(&mut self, id: PacketId, delivery: Delivery, ticket: Ticket) -> Option<Unsaved> {
        let mut unsaved = None;
        if let Some(row) = &delivery.row {
            row.sent(id);
            unsaved = (delivery.qos == QoS::ExactlyOnce).then(|| Unsaved { ticket, row: row.clone() });
        }
        let stage = InflightState::Published(delivery);
        self.bytes += stage.weight();
        let waits_for = unsaved.as_ref().map(|unsaved| unsaved.ticket);
        self.entries.push_back(InflightEntry { id, stage, unsaved: waits_for, was_sent: false });
        self.unsent += 1;
        unsaved
    }

    /// Handles a ticket: its row is on disk. Returns the identifier of a PUBREL that is due out of turn.
    pub(crate) fn saved(&mut self, ticket: Ticket) -> Option<PacketId> {
        let sent = self.entries.len() - self.unsent;
        let waits = |entry: &InflightEntry| entry.unsaved == Some(ticket);
        let at = self.entries.iter().position(waits)?;
        let entry = self.entries.get_mut(at)?;
        entry.unsaved = None;
        (at < sent && matches!(entry.stage, InflightState::Released(_))).then_some(entry.id)
    }

    /// Returns true if a message waits for this PUBACK.
    pub(crate) fn awaits_puback(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.stage.is_published(QoS::AtLeastOnce))
    }

    /// Returns true if a message waits for its first PUBREC with this identifier.
    pub(crate) fn awaits_pubrec(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.was_sent && entry.stage.is_published(QoS::ExactlyOnce))
    }

    /// Returns true if a message waits for this PUBCOMP.
    pub(crate) fn awaits_pubcomp(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.is_released())
    }

    /// Handles PUBACK; one without a message is ignored.
    pub(crate) fn acknowledge(&mut self, id: PacketId) {
        self.remove(id, |entry| entry.was_sent && entry.stage.is_published(QoS::AtLeastOnce));
    }

    /// Handles PUBREC. If its effect has to be on disk first, `ticket` has to be given to [`Inflight::saved`].
    pub(crate) fn receive(&mut self, id: PacketId, reason: Reason, ticket: Ticket) -> Received {
        let fits = |entry: &InflightEntry| {
            let is_released = matches!(entry.stage, InflightState::Released(_));
            is_released || entry.was_sent && entry.stage.is_published(QoS::ExactlyOnce)
        };
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id && fits(entry)) else {
            return Received::Unknown;
        };
        if reason.is_failure() {
            self.remove(id, fits);
            return Received::Refused;
        }
        self.bytes -= entry.stage.weight();
        let InflightState::Published(delivery) = &mut entry.stage else {
            return if entry.unsaved.is_none() { Received::Release } else { Received::Waits };
        };
        let row = delivery.row.take();
        entry.stage = InflightState::Released(row.clone());
        let Some(row) = row else { return Received::Release };
        row.released();
        entry.unsaved = Some(ticket);
        Received::Unsaved(Unsaved { ticket, row })
    }

    /// Handles PUBCOMP; one without a message is ignored.
    pub(crate) fn complete(&mut self, id: PacketId) {
        self.remove(id, InflightEntry::is_released);
    }

    /// Ends the connection: all entries have to be resent on the next one.
    pub(crate) fn detach(&mut self) {
        self.unsent = self.entries.len();
    }

    /// Sends, in the original order, the entries that `window` allows, up to the first that has to be on disk first:
    /// PUBLISH, with DUP if it was sent before, or PUBREL [MQTT-4.4.0-1].
    ///
    /// A message above the present Maximum Packet Size is dropped as if it had been sent [MQTT-3.1.2-25].
    ///
    /// # Errors
    ///
    /// [`TooLarge`]: a PUBREL exceeds the Maximum Packet Size.
    pub(crate) fn send(
        &mut self,
        protocol: Protocol,
        window: u16,
        bytes_max: usize,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        while self.unsent > 0 && self.entries.len() - self.unsent < window.into() {
            let next = self.entries.len() - self.unsent;
            let Some(InflightEntry { id, stage, unsaved: None, was_sent }) = self.entries.get_mut(next) else { break };
            self.unsent -= 1;
            match stage {
                InflightState::Published(delivery) => {
                    if !delivery.write(protocol, Some(*id), *was_sent, now, bytes_max, out) {
                        self.bytes -= stage.weight();
                        self.entries.remove(next);
                    } else {
                        *was_sent = true;
                    }
                }
                InflightState::Released(_) => {
                    codec::encode(protocol, &ServerPacket::PubRel(*id, Reason::SUCCESS), bytes_max, out)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the identifiers and stages of the entries, as a restart has to restore them.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<(PacketId, Option<bytes::Bytes>)> {
        let kept = |entry: &InflightEntry| match &entry.stage {
            InflightState::Published(delivery) => (entry.id, Some(delivery.message.payload.clone())),
            InflightState::Released(_) => (entry.id, None),
        };
        self.entries.iter().map(kept).collect()
    }

    fn remove(&mut self, id: PacketId, fits: impl Fn(&InflightEntry) -> bool) {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id && fits(entry)) else { return };
        if at >= self.entries.len() - self.unsent {
            self.unsent -= 1;
        }
        if let Some(entry) = self.entries.remove(at) {
            self.bytes -= entry.stage.weight();
        }
        if self.entries.is_empty() && self.entries.capacity() > KEPT_CAPACITY {
            self.entries = VecDeque::new();
        }
    }
}

impl InflightEntry {
    /// Returns true if PUBREL was sent, or is due without further condition.
    fn is_released(&self) -> bool {
        matches!(self.stage, InflightState::Released(_)) && self.unsaved.is_none()
    }
}

impl InflightState {
    fn is_published(&self, qos: QoS) -> bool {
        matches!(self, Self::Published(delivery) if delivery.qos == qos)
    }

    fn weight(&self) -> usize {
        match self {
            Self::Published(delivery) => delivery.message.weight(),
            Self::Released(_) => 0,
        }
    }
}

/// Capacity, in entries, that an empty queue keeps, so that a burst does not stay allocated.
const KEPT_CAPACITY: usize = 8;
