//! Messages at QoS 1 and 2 on their way to a client that answers what it likes: which of them a session has to keep,
//! and when it has to send them again.

use umbrad::mqtt::protocol::packet::{PacketId, Properties, Protocol, QoS, Reason};

use crate::server_packet::Sent;

/// The sent messages whose acknowledgement is not complete.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// In the order in which they were first sent; the last `unsent` not yet on this connection.
    entries: Vec<JournalEntry>,
    unsent: usize,
}

#[derive(Debug)]
struct JournalEntry {
    id: PacketId,
    qos: QoS,
    payload: Vec<u8>,
    expires: bool,
    released: bool,
}

/// The limits that a client has set.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The version it speaks.
    pub protocol: Protocol,
    /// Messages at once.
    pub window: usize,
    /// Bytes of those from which on there is to be no further one.
    pub window_bytes: usize,
    /// Bytes of a packet.
    pub bytes_max: usize,
}

impl Client {
    /// Returns true if a PUBLISH to the topic [`TOPIC`] is small enough.
    #[must_use]
    pub fn takes(&self, qos: QoS, payload: &[u8], expires: bool) -> bool {
        let id = if qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = match (self.protocol, expires) {
            (Protocol::V4, _) => 0,
            (Protocol::V5, false) => 1,
            (Protocol::V5, true) => 6,
        };
        // A fixed header of two bytes: no message here has 128.
        2 + 2 + TOPIC.len() + id + properties + payload.len() <= self.bytes_max
    }
}

/// Where all messages here are published.
pub const TOPIC: &str = "t";

impl Deliveries {
    /// Returns true if another message may be sent.
    #[must_use]
    pub fn is_open(&self, client: &Client) -> bool {
        self.entries.len() < client.window && self.bytes() < client.window_bytes
    }

    /// Bytes of what is kept for a resend, topic and properties counted with each.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let kept = self.entries.iter().filter(|entry| !entry.released);
        let properties = |entry: &JournalEntry| if entry.expires { size_of::<Properties>() } else { 0 };
        kept.map(|entry| TOPIC.len() + entry.payload.len() + properties(entry)).sum()
    }

    /// A message was sent for the first time.
    pub fn sent(&mut self, id: PacketId, qos: QoS, payload: Vec<u8>, expires: bool) {
        assert!(self.entries.iter().all(|entry| entry.id != id), "{id} is in use");
        assert_eq!(self.unsent, 0, "a new message overtakes one to be sent again");
        self.entries.push(JournalEntry { id, qos, payload, expires, released: false });
    }

    /// PUBACK.
    pub fn acknowledge(&mut self, id: PacketId) {
        self.remove(|entry| entry.id == id && entry.qos == QoS::AtLeastOnce);
    }

    /// PUBREC: the PUBREL that has to follow.
    pub fn receive(&mut self, id: PacketId, reason: Reason) -> Option<Sent> {
        let fits = |entry: &JournalEntry| entry.id == id && entry.qos == QoS::ExactlyOnce;
        let Some(entry) = self.entries.iter_mut().find(|entry| fits(entry)) else {
            return Some(Sent::PubRel(id, Reason::PACKET_IDENTIFIER_NOT_FOUND));
        };
        if reason.is_failure() {
            self.remove(fits);
            return None;
        }
        entry.released = true;
        Some(Sent::PubRel(id, Reason::SUCCESS))
    }

    /// PUBCOMP.
    pub fn complete(&mut self, id: PacketId) {
        self.remove(|entry| entry.id == id && entry.released);
    }

    /// The connection ends.
    pub fn detach(&mut self) {
        self.unsent = self.entries.len();
    }

    /// Returns the packets to send again now.
    pub fn resend(&mut self, client: &Client) -> Vec<Sent> {
        let mut sent = Vec::new();
        while self.unsent > 0 && self.entries.len() - self.unsent < client.window {
            let at = self.entries.len() - self.unsent;
            self.unsent -= 1;
            let JournalEntry { id, qos, ref payload, expires, released } = self.entries[at];
            if released {
                sent.push(Sent::PubRel(id, Reason::SUCCESS));
            } else if client.takes(qos, payload, expires) {
                sent.push(Sent::Publish { qos, id: Some(id), dup: true, payload: payload.clone() });
            } else {
                self.entries.remove(at);
            }
        }
        sent
    }

    fn remove(&mut self, fits: impl Fn(&JournalEntry) -> bool) {
        let Some(at) = self.entries.iter().position(fits) else { return };
        if at >= self.entries.len() - self.unsent {
            self.unsent -= 1;
        }
        self.entries.remove(at);
    }
}
