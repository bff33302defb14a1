//! Messages at QoS 1 and 2 on their way to one client: sent, and not acknowledged to the end.
//!
//! *Invariants:* entries stay in the order in which they were first sent, so that a resend keeps it [MQTT-4.6.0-1].
//! Entries sent on the present connection come before those not sent on it yet. A message's bytes are let go with
//! the acknowledgement that makes a resend needless: PUBACK or PUBREC.
//!
//! How many may be under way is told by [`crate::mqtt::session`]; what waits before it is sent at all is in the outbox.

use std::{collections::VecDeque, time::Instant};

use crate::mqtt::protocol::{
    codec::{self, TooLarge},
    message::Delivery,
    packet::{PacketId, Protocol, QoS, Reason, ServerPacket},
};

/// What a PUBREC found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message to release: PUBREL is due.
    Release,
    /// A message that its client refused; it is forgotten.
    Refused,
    /// No message.
    Unknown,
}

/// The messages under way to one client.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    entries: VecDeque<InflightEntry>,
    /// How many entries, the last ones, wait to be sent on the present connection.
    unsent: usize,
    /// Of the messages kept for a resend.
    bytes: usize,
    last_id: u16,
}

#[derive(Debug)]
struct InflightEntry {
    id: PacketId,
    stage: InflightState,
}

#[derive(Debug)]
enum InflightState {
    /// PUBLISH was sent.
    Published(Delivery),
    /// QoS 2: PUBREC came, PUBREL was sent.
    Released,
}

impl Inflight {
    /// Whether another message may be sent when `window` may be under way, and none be added to `bytes_max`. What waits
    /// to be sent again counts, so that nothing new overtakes it.
    pub(crate) fn is_open(&self, window: u16, bytes_max: usize) -> bool {
        self.entries.len() < window.into() && self.bytes < bytes_max
    }

    /// How many more messages may be sent, by the rules of [`Inflight::is_open`].
    pub(crate) fn room(&self, window: u16, bytes_max: usize) -> u16 {
        let under_way = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        if self.bytes < bytes_max { window.saturating_sub(under_way) } else { 0 }
    }

    /// Takes out the deliveries of shared subscriptions at QoS 1, oldest first; for the end of the session. One at QoS 2
    /// that was sent goes to nobody else [MQTT-4.8.2-5].
    pub(crate) fn take_shared(&mut self) -> Vec<Delivery> {
        let entries = std::mem::take(&mut self.entries);
        (self.unsent, self.bytes) = (0, 0);
        let deliveries = entries.into_iter().filter_map(|entry| match entry.stage {
            InflightState::Published(delivery) => Some(delivery),
            InflightState::Released => None,
        });
        deliveries.filter(|delivery| delivery.share.is_some() && delivery.qos == QoS::AtLeastOnce).collect()
    }

    /// Bytes of the messages kept for a resend.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A packet identifier that no message under way has [MQTT-2.2.1-4].
    pub(crate) fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let free = |id: &PacketId| self.entries.iter().all(|entry| entry.id != *id);
            if let Some(id) = PacketId::new(self.last_id).filter(free) {
                return id;
            }
        }
    }

    /// Remembers a message as sent.
    pub(crate) fn push(&mut self, id: PacketId, delivery: Delivery) {
        let stage = InflightState::Published(delivery);
        self.bytes += stage.weight();
        self.entries.push_back(InflightEntry { id, stage });
    }

    /// Whether a message waits for this PUBACK.
    pub(crate) fn awaits_puback(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.stage.is_published(QoS::AtLeastOnce))
    }

    /// Whether a message waits for this PUBREC, and had none yet.
    pub(crate) fn awaits_pubrec(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.stage.is_published(QoS::ExactlyOnce))
    }

    /// Whether a message waits for this PUBCOMP.
    pub(crate) fn awaits_pubcomp(&self, id: PacketId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && matches!(entry.stage, InflightState::Released))
    }

    /// PUBACK; one that fits no message is let go.
    pub(crate) fn acknowledge(&mut self, id: PacketId) {
        self.remove(id, |stage| stage.is_published(QoS::AtLeastOnce));
    }

    /// PUBREC.
    pub(crate) fn receive(&mut self, id: PacketId, reason: Reason) -> Received {
        let fits =
            |stage: &InflightState| stage.is_published(QoS::ExactlyOnce) || matches!(stage, InflightState::Released);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id && fits(&entry.stage)) else {
            return Received::Unknown;
        };
        if reason.is_failure() {
            self.remove(id, fits);
            return Received::Refused;
        }
        self.bytes -= entry.stage.weight();
        entry.stage = InflightState::Released;
        Received::Release
    }

    /// PUBCOMP; one that fits no message is let go.
    pub(crate) fn complete(&mut self, id: PacketId) {
        self.remove(id, |stage| matches!(stage, InflightState::Released));
    }

    /// The connection is gone: all has to be sent again on the next one.
    pub(crate) fn detach(&mut self) {
        self.unsent = self.entries.len();
    }

    /// Sends again, in the first order, what `window` allows: PUBLISH with DUP, or PUBREL [MQTT-4.4.0-1].
    ///
    /// A message larger than the client now takes is dropped as if it had been sent [MQTT-3.1.2-25].
    ///
    /// # Errors
    ///
    /// [`TooLarge`]: a PUBREL is.
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
                InflightState::Released => {
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
            Self::Released => 0,
        }
    }
}

/// Room for this many entries is kept when none is left; a session that had a burst gives the rest back.
const KEPT_CAPACITY: usize = 8;
