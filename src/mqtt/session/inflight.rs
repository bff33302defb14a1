//! In-flight messages at QoS 1 and 2 to one client: sent, and not completely acknowledged.
//!
//! *Invariants:* entries stay in the order in which they were first sent, so that a resend keeps it [MQTT-4.6.0-1].
//! Entries sent on the present connection precede those not sent on it yet. A message is freed by the acknowledgement
//! after which no resend is needed: PUBACK or PUBREC.
//!
//! Not here: the limits ([`crate::mqtt::session`]), and messages not sent yet ([`crate::mqtt::broker::outbox`]).

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::mqtt::protocol::{
    codec::{self, TooLarge},
    message::{Delivery, DeliveryRow},
    packet::{PacketId, Protocol, QoS, Reason, ServerPacket},
};

/// The effect of a PUBREC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The message is released: PUBREL is due.
    Release,
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
            InflightState::Published(delivery) => Some(delivery),
            InflightState::Released(_) => None,
        });
        deliveries.filter(|delivery| delivery.share.is_some() && delivery.qos == QoS::AtLeastOnce).collect()
    }

    /// Returns the bytes of the messages kept for a resend.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
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
        self.entries.push_back(InflightEntry { id, stage });
        self.unsent = self.entries.len();
        self.last_id = id.get();
    }

    /// Records a message as sent.
    pub(crate) fn push(&mut self, id: PacketId, delivery: Delivery) {
        if let Some(row) = &delivery.row {
            row.sent(id);
        }
        let stage = InflightState::Published(delivery);
        self.bytes += stage.weight();
        self.entries.push_back(InflightEntry { id, stage });
    }

    /// Returns true if a message waits for this PUBACK.
    pub(crate) fn awaits_puback(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.stage.is_published(QoS::AtLeastOnce))
    }

    /// Returns true if a message waits for its first PUBREC with this identifier.
    pub(crate) fn awaits_pubrec(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.stage.is_published(QoS::ExactlyOnce))
    }

    /// Returns true if a message waits for this PUBCOMP.
    pub(crate) fn awaits_pubcomp(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && matches!(entry.stage, InflightState::Released(_)))
    }

    /// Handles PUBACK; one without a message is ignored.
    pub(crate) fn acknowledge(&mut self, id: PacketId) {
        self.remove(id, |stage| stage.is_published(QoS::AtLeastOnce));
    }

    /// Handles PUBREC.
    pub(crate) fn receive(&mut self, id: PacketId, reason: Reason) -> Received {
        let fits =
            |stage: &InflightState| stage.is_published(QoS::ExactlyOnce) || matches!(stage, InflightState::Released(_));
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id && fits(&entry.stage)) else {
            return Received::Unknown;
        };
        if reason.is_failure() {
            self.remove(id, fits);
            return Received::Refused;
        }
        self.bytes -= entry.stage.weight();
        if let InflightState::Published(delivery) = &mut entry.stage {
            let row = delivery.row.take();
            if let Some(row) = &row {
                row.released();
            }
            entry.stage = InflightState::Released(row);
        }
        Received::Release
    }

    /// Handles PUBCOMP; one without a message is ignored.
    pub(crate) fn complete(&mut self, id: PacketId) {
        self.remove(id, |stage| matches!(stage, InflightState::Released(_)));
    }

    /// Ends the connection: all entries have to be resent on the next one.
    pub(crate) fn detach(&mut self) {
        self.unsent = self.entries.len();
    }

    /// Resends, in the original order, the entries that `window` allows: PUBLISH with DUP, or PUBREL [MQTT-4.4.0-1].
    ///
    /// A message above the present Maximum Packet Size is dropped as if it had been sent [MQTT-3.1.2-25].
    ///
    /// # Errors
    ///
    /// [`TooLarge`]: a PUBREL exceeds the Maximum Packet Size.
    pub(crate) fn resend(
        &mut self,
        protocol: Protocol,
        window: u16,
        bytes_max: usize,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        while self.unsent > 0 && self.entries.len() - self.unsent < window.into() {
            let next = self.entries.len() - self.unsent;
            self.unsent -= 1;
            let Some(InflightEntry { id, stage }) = self.entries.get(next) else { break };
            match stage {
                InflightState::Published(delivery) => {
                    if !delivery.write(protocol, Some(*id), true, now, bytes_max, out) {
                        self.bytes -= stage.weight();
                        self.entries.remove(next);
                    }
                }
                InflightState::Released(_) => {
                    codec::encode(protocol, &ServerPacket::PubRel(*id, Reason::SUCCESS), bytes_max, out)?;
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: PacketId, fits: impl Fn(&InflightState) -> bool) {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id && fits(&entry.stage)) else { return };
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
