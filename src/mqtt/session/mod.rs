//! The MQTT session of one client: a state machine from packets to bytes and actions, without I/O.
//!
//! A session outlives its connections. [`Session::attach`] begins a connection and [`Session::detach`] ends it. In
//! between, [`Session::receive`] takes packets from the client, and [`Session::deliver`] takes messages for it.
//! Everything for the client is appended to the caller's buffer, in order.
//!
//! *Invariants:* a PUBLISH at QoS 1 or 2 becomes one [`Action::Publish`] and is acknowledged only by
//! [`Session::complete`]. Acknowledgements are written in the order of the PUBLISHes. A QoS 2 identifier never becomes
//! a second request. [`SessionLimits`] bounds the memory that a client can make a session use.
//!
//! A session that outlives the server has rows in the store: those of its deliveries ([`DeliveryRow`]) and of received
//! QoS 2 identifiers ([`Session::keep`]). A step that has to be on disk before its packet is sent returns a [`Ticket`];
//! the caller gives it to [`Session::saved`] afterwards.
//!
//! [`DeliveryRow`]: crate::mqtt::protocol::message::DeliveryRow
//!
//! Not here: sockets and keep-alive ([`crate::mqtt::connection`]), session takeover, expiry and wills
//! ([`crate::mqtt::broker`]), rights, and the selection of messages by subscriptions.

mod inbound_acks;
pub mod inflight;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use self::inbound_acks::{InboundAcks, PublishOutcome, Release};
pub use self::{inbound_acks::AckId, inflight::Unsaved};
pub use crate::mqtt::protocol::violation::Violation;
use crate::mqtt::{
    protocol::{
        codec,
        message::{Delivery, Row},
        packet::{
            ClientPacket, Connect, PacketId, Properties, Protocol, Publish, QoS, Reason, ServerPacket, Subscribe,
        },
        topic::{TopicFilter, TopicName},
    },
    session::inflight::{Inflight, Received, RestoredInflight},
};

/// Limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Unacknowledged QoS 1 and 2 PUBLISHes from the client: the receive maximum of CONNACK. 3.1.1 has no such field;
    /// the connection stops reading while [`Session::inbound_pending`] has reached it.
    pub inbound_window: u16,
    /// Unacknowledged QoS 1 and 2 messages to the client, unless its own receive maximum is lower.
    pub outbound_window: u16,
    /// Unacknowledged bytes to the client from which on no further message is sent; at least 1.
    pub outbound_bytes: usize,
    /// The highest topic alias a client may set: the topic alias maximum of CONNACK.
    pub topic_alias_max: u16,
    /// Filters accepted per SUBSCRIBE; the others are refused in the SUBACK.
    pub filters_per_subscribe: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            inbound_window: 64,
            outbound_window: 64,
            outbound_bytes: 256 * 1024,
            topic_alias_max: 16,
            filters_per_subscribe: 64,
        }
    }
}

/// A number for a step that has to be on disk before its packet is sent; unique within one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// An action that a packet requires from the caller.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Handle a message; if it has an ack id, answer with [`Session::complete`].
    Publish(Inbound),
    /// Answer with [`Session::subscribed`].
    Subscribe(Subscribe),
    /// Answer with [`Session::unsubscribed`].
    Unsubscribe(PacketId, Vec<Result<TopicFilter, Reason>>),
    /// PUBREL is due when the row is on disk: then call [`Session::saved`].
    Save(Unsaved),
    /// PUBCOMP is due when the removal of the identifier's row is on disk: then call [`Session::saved`].
    Release(Ticket),
    /// End the connection.
    Disconnect {
        /// True if the will has to be published.
        with_will: bool,
        /// New session expiry interval in seconds, if the client sets one.
        session_expiry: Option<u32>,
    },
}

/// A message from the client.
#[derive(Debug, PartialEq)]
pub struct Inbound {
    /// The topic, with an alias resolved.
    pub topic: TopicName,
    /// The payload, which shares the memory of the read buffer.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// The retain flag.
    pub retain: bool,
    /// The acknowledgement to complete; `Some` exactly for QoS 1 and 2.
    pub ack_id: Option<AckId>,
    /// The packet identifier; `Some` exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// MQTT 5 properties other than the alias.
    pub properties: Option<Box<Properties>>,
}

/// The result of a message from the client, for its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckResult {
    /// The reason code of PUBACK or PUBREC for an MQTT 5 client.
    pub reason: Reason,
    /// The reason string, for a client that accepts reason strings.
    pub reason_string: Option<Box<str>>,
    /// True if it is unknown whether the request took effect. A 3.1.1 client, whose acknowledgements have no reason
    /// code, then gets none.
    pub unknown: bool,
}

impl AckResult {
    /// The message was accepted.
    pub const SUCCESS: Self = Self { reason: Reason::SUCCESS, reason_string: None, unknown: false };
}

/// The outcome of a delivery to the client.
#[derive(Debug)]
#[must_use]
pub enum Delivered {
    /// The message is in the buffer, or follows an earlier one that is [`Delivered::Unsaved`].
    Sent,
    /// The message will be sent when its row is on disk: then call [`Session::saved`].
    Unsaved(Unsaved),
    /// The message was dropped: its message expiry interval had passed.
    Expired,
    /// The message was dropped: it exceeds the client's Maximum Packet Size.
    TooLarge,
    /// The delivery is returned: there is no connection, or [`Session::window_open`] is false for its QoS.
    NotNow(Delivery),
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    limits: SessionLimits,
    link: Option<Link>,
    inbound_acks: InboundAcks,
    inflight: Inflight,
    last_ticket: u64,
}

/// The state of one connection.
#[derive(Debug)]
struct Link {
    protocol: Protocol,
    /// The lower of the server's outbound window and the client's receive maximum.
    window: u16,
    /// The client's Maximum Packet Size.
    bytes_max: usize,
    /// True if the client accepts reason strings.
    explain: bool,
    /// True if a packet that had to be sent exceeds `bytes_max`.
    is_stuck: bool,
    session_expiry: u32,
    /// The topics of the aliases, from alias 1 on.
    aliases: Vec<Option<TopicName>>,
}

impl Session {
    /// Returns a session without connection.
    #[must_use]
    pub fn new(limits: SessionLimits) -> Self {
        Self { limits, link: None, inbound_acks: InboundAcks::default(), inflight: Inflight::default(), last_ticket: 0 }
    }

    /// Begins a connection, and appends the packets that have to be resent. Called when CONNACK is in `out`.
    pub fn attach(&mut self, connect: &Connect, now: Instant, out: &mut Vec<u8>) {
        self.detach();
        let window_max = if connect.bridge { BRIDGE_WINDOW_MAX } else { u16::MAX };
        self.link = Some(Link {
            protocol: connect.protocol,
            window: self.limits.outbound_window.min(connect.receive_maximum.get()).min(window_max),
            bytes_max: codec::bytes_max(connect.maximum_packet_size),
            explain: connect.request_problem_information,
            is_stuck: false,
            session_expiry: connect.session_expiry,
            aliases: Vec::new(),
        });
        self.send_inflight(now, out);
    }

    /// Adds an in-flight message of the time before a restart, after those that were sent before it.
    pub fn restore_inflight(&mut self, id: PacketId, message: RestoredInflight) {
        self.inflight.restore(id, message);
    }

    /// Adds a QoS 2 identifier that was received before a restart, with the reason of its PUBREC.
    pub fn restore_received(&mut self, id: PacketId, reason: Reason, row: Arc<dyn Row>) {
        self.inbound_acks.restore(id, reason, row);
    }

    /// Ends the connection and drops its state.
    pub fn detach(&mut self) {
        if self.link.take().is_some() {
            self.inbound_acks.detach();
            self.inflight.detach();
        }
    }

    /// Handles a packet from the client. `now` determines the remaining expiry interval of resent messages.
    ///
    /// # Errors
    ///
    /// The connection has to end: send DISCONNECT with the reason, then call [`Session::detach`].
    pub fn receive(
        &mut self,
        packet: ClientPacket,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Option<Action>, Violation> {
        let ticket = self.next_ticket();
        let Some(link) = &mut self.link else { return Err(Violation::NotConnected) };
        match packet {
            ClientPacket::Connect(_) => return Err(Violation::SecondConnect), // [MQTT-3.1.0-2]
            ClientPacket::Publish(publish) => return self.publish(publish, out),
            ClientPacket::Subscribe(mut subscribe) => {
                for filter in subscribe.filters.iter_mut().skip(self.limits.filters_per_subscribe) {
                    *filter = Err(Reason::QUOTA_EXCEEDED);
                }
                return Ok(Some(Action::Subscribe(subscribe)));
            }
            ClientPacket::Unsubscribe(id, filters) => return Ok(Some(Action::Unsubscribe(id, filters))),
            ClientPacket::Disconnect(reason, session_expiry) => {
                if link.session_expiry == 0 && session_expiry.is_some_and(|seconds| seconds != 0) {
                    return Err(Violation::SessionExpiryRaised); // [MQTT-3.14.2-2]
                }
                // [MQTT-3.14.4-3]
                return Ok(Some(Action::Disconnect { with_will: reason != Reason::SUCCESS, session_expiry }));
            }
            ClientPacket::PingReq => link.send(&ServerPacket::PingResp, out), // [MQTT-3.12.4-1]
            ClientPacket::PubRel(id) => match self.inbound_acks.release(id, ticket)? {
                Release::Unsaved => return Ok(Some(Action::Release(ticket))),
                Release::Waits => {}
                known => link.send(&ServerPacket::PubComp(id, release_reason(known == Release::Known)), out),
            },
            ClientPacket::PubAck(id, _) => self.inflight.acknowledge(id),
            ClientPacket::PubRec(id, reason) => match self.inflight.receive(id, reason, ticket) {
                Received::Refused | Received::Waits => {}
                Received::Unsaved(unsaved) => return Ok(Some(Action::Save(unsaved))),
                received => {
                    let reason = release_reason(matches!(received, Received::Release));
                    link.send(&ServerPacket::PubRel(id, reason), out);
                }
            },
            ClientPacket::PubComp(id) => self.inflight.complete(id),
        }
        self.send_inflight(now, out);
        Ok(None)
    }

    /// Continues with the step of `ticket`, which is on disk. Nothing happens if its packet is not needed any more.
    pub fn saved(&mut self, ticket: Ticket, now: Instant, out: &mut Vec<u8>) {
        if let Some(id) = self.inbound_acks.saved(ticket) {
            self.send(&ServerPacket::PubComp(id, Reason::SUCCESS), out);
        }
        if let Some(id) = self.inflight.saved(ticket) {
            self.send(&ServerPacket::PubRel(id, Reason::SUCCESS), out);
        }
        self.send_inflight(now, out);
    }

    /// Returns true if `packet` is an acknowledgement that the session expects. A client can send any number of others.
    #[must_use]
    pub fn awaits(&self, packet: &ClientPacket) -> bool {
        match packet {
            ClientPacket::PubAck(id, _) => self.inflight.awaits_puback(*id),
            ClientPacket::PubRec(id, _) => self.inflight.awaits_pubrec(*id),
            ClientPacket::PubComp(id) => self.inflight.awaits_pubcomp(*id),
            ClientPacket::PubRel(id) => self.inbound_acks.awaits_pubrel(*id),
            _ => false,
        }
    }

    /// Returns true if a message at QoS 1 or 2 may be delivered now.
    #[must_use]
    pub fn window_open(&self) -> bool {
        self.window() > 0
    }

    /// Returns the number of messages at QoS 1 or 2 that may be delivered before the next acknowledgement.
    #[must_use]
    pub fn window(&self) -> u16 {
        self.link.as_ref().map_or(0, |link| self.inflight.capacity(link.window, self.limits.outbound_bytes))
    }

    /// Removes and returns the unacknowledged deliveries for other members of their groups, when the session ends.
    #[must_use]
    pub fn take_shared(&mut self) -> Vec<Delivery> {
        self.inflight.take_shared()
    }

    /// Returns true if the byte limit, not the count limit, blocks the next delivery.
    #[must_use]
    pub fn over_byte_limit(&self) -> bool {
        !self.window_open() && self.link.as_ref().is_some_and(|link| self.inflight.is_open(link.window, usize::MAX))
    }

    /// Sends a message if the window allows it.
    pub fn deliver(&mut self, delivery: Delivery, now: Instant, out: &mut Vec<u8>) -> Delivered {
        if delivery.message.is_expired(now) {
            return Delivered::Expired; // [MQTT-3.3.2-5]
        }
        let ticket = self.next_ticket();
        let Some(link) = &self.link else { return Delivered::NotNow(delivery) };
        let (protocol, bytes_max) = (link.protocol, link.bytes_max);
        if delivery.qos == QoS::AtMostOnce {
            let is_sent = delivery.write(protocol, None, false, now, bytes_max, out);
            return if is_sent { Delivered::Sent } else { Delivered::TooLarge };
        }
        if !self.inflight.is_open(link.window, self.limits.outbound_bytes) {
            return Delivered::NotNow(delivery); // [MQTT-3.3.4-9]
        }
        if !delivery.fits(protocol, now, bytes_max) {
            return Delivered::TooLarge; // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
        }
        let id = self.inflight.free_id();
        let unsaved = self.inflight.push(id, delivery, ticket);
        self.send_inflight(now, out);
        unsaved.map_or(Delivered::Sent, Delivered::Unsaved)
    }

    /// Gives the row of a received QoS 2 identifier to the session, which drops it when the identifier is free again, or
    /// the message is refused.
    pub fn keep(&mut self, ack_id: AckId, row: Arc<dyn Row>) {
        self.inbound_acks.keep(ack_id, row);
    }

    /// Sets the result of a message from the client. Its PUBACK or PUBREC is written when all earlier ones are.
    ///
    /// Without a connection the result is kept for the resend. An unknown ack id is ignored.
    pub fn complete(&mut self, ack_id: AckId, result: AckResult, out: &mut Vec<u8>) {
        self.inbound_acks.decide(ack_id, result);
        self.acknowledge(out);
    }

    /// Drops a message from the client that gets no result, because its outcome is unknown or it was not tried. A
    /// resend is a new request. Returns true if the present connection waits for the result and therefore has to end.
    pub fn abandon(&mut self, ack_id: AckId) -> bool {
        self.inbound_acks.abandon(ack_id)
    }

    /// Removes a request that was not decided and will not be, so that a resend is a new request.
    pub fn withdraw(&mut self, ack_id: AckId) {
        self.inbound_acks.withdraw(ack_id);
    }

    /// Answers a SUBSCRIBE with one reason per filter.
    pub fn subscribed(&mut self, id: PacketId, reasons: Vec<Reason>, out: &mut Vec<u8>) {
        self.send(&ServerPacket::SubAck(id, reasons), out);
    }

    /// Answers an UNSUBSCRIBE with one reason per filter.
    pub fn unsubscribed(&mut self, id: PacketId, reasons: Vec<Reason>, out: &mut Vec<u8>) {
        self.send(&ServerPacket::UnsubAck(id, reasons), out);
    }

    /// Sends DISCONNECT, the last packet of the connection, unless its shortest form exceeds the client's Maximum
    /// Packet Size.
    pub fn disconnect(&self, reason: Reason, text: Option<String>, out: &mut Vec<u8>) {
        if let Some(link) = &self.link {
            let _ = codec::encode(link.protocol, &ServerPacket::Disconnect(reason, text), link.bytes_max, out);
        }
    }

    /// Returns true if the connection has to end, since a required packet exceeds the client's Maximum Packet Size.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_stuck)
    }

    /// Returns the number of unacknowledged messages from the client on this connection.
    #[must_use]
    pub fn inbound_pending(&self) -> usize {
        self.inbound_acks.waiting()
    }

    /// Returns the bytes of the messages that are kept for a resend.
    #[must_use]
    pub fn inflight_bytes(&self) -> usize {
        self.inflight.bytes()
    }

    /// Returns true if a message in flight has no row in the store, such as an event.
    #[must_use]
    pub fn has_unkept(&self) -> bool {
        self.inflight.has_unkept()
    }

    /// Returns the number of messages to the client that it has not acknowledged.
    #[must_use]
    pub fn inflight_count(&self) -> usize {
        self.inflight.count()
    }

    /// Returns the protocol version of the present connection.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.link.as_ref().map(|link| link.protocol)
    }

    fn publish(&mut self, publish: Publish, out: &mut Vec<u8>) -> Result<Option<Action>, Violation> {
        let Some(link) = &mut self.link else { return Err(Violation::NotConnected) };
        let Publish { topic, alias, payload, qos, id, dup, retain, properties } = publish;
        let topic = match alias {
            None => topic.ok_or(Violation::NoTopic)?,
            Some(alias) => link.resolve(alias.get(), topic, self.limits.topic_alias_max)?,
        };
        let (protocol, window) = (link.protocol, self.limits.inbound_window);
        let ack_id = match id.map(|id| self.inbound_acks.take(id, qos, dup, protocol, window)).transpose()? {
            None => None,
            Some(PublishOutcome::New(ack_id)) => Some(ack_id),
            Some(PublishOutcome::Waits) => {
                self.acknowledge(out);
                return Ok(None);
            }
            Some(PublishOutcome::Repeat(result)) => {
                if let Some(id) = id {
                    link.acknowledge(id, qos, result, out);
                }
                return Ok(None);
            }
        };
        Ok(Some(Action::Publish(Inbound { topic, payload, qos, retain, ack_id, packet_id: id, properties })))
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        let Some(link) = &mut self.link else { return };
        while let Some((id, qos, result)) = self.inbound_acks.next(link.protocol) {
            link.acknowledge(id, qos, result, out);
        }
    }

    fn send_inflight(&mut self, now: Instant, out: &mut Vec<u8>) {
        if let Some(link) = &mut self.link
            && !link.is_stuck
        {
            let sent = self.inflight.send(link.protocol, link.window, link.bytes_max, now, out);
            link.is_stuck |= sent.is_err();
        }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn send(&mut self, packet: &ServerPacket, out: &mut Vec<u8>) {
        if let Some(link) = &mut self.link {
            link.send(packet, out);
        }
    }
}

impl Link {
    /// Returns the topic of an alias; `topic` sets it.
    fn resolve(&mut self, alias: u16, topic: Option<TopicName>, max: u16) -> Result<TopicName, Violation> {
        if alias > max {
            return Err(Violation::TopicAliasRange(alias)); // [MQTT-3.3.2-9]
        }
        let at = usize::from(alias).checked_sub(1).ok_or(Violation::TopicAliasRange(alias))?;
        let Some(topic) = topic else {
            return self.aliases.get(at).cloned().flatten().ok_or(Violation::TopicAliasUnset(alias));
        };
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        if let Some(slot) = self.aliases.get_mut(at) {
            *slot = Some(topic.clone());
        }
        Ok(topic)
    }

    /// Writes a packet. After one that does not fit, nothing is written any more.
    fn send(&mut self, packet: &ServerPacket, out: &mut Vec<u8>) {
        self.is_stuck = self.is_stuck || codec::encode(self.protocol, packet, self.bytes_max, out).is_err();
    }

    /// Writes PUBACK or PUBREC, with its reason string only if the client accepts it [MQTT-3.1.2-29].
    fn acknowledge(&mut self, id: PacketId, qos: QoS, result: AckResult, out: &mut Vec<u8>) {
        let AckResult { reason, reason_string, .. } = result;
        let text = reason_string.filter(|_| self.explain).map(String::from);
        let packet = match qos {
            QoS::ExactlyOnce => ServerPacket::PubRec(id, reason, text),
            _ => ServerPacket::PubAck(id, reason, text),
        };
        self.send(&packet, out);
    }
}

/// Returns the reason code of a PUBREL or PUBCOMP.
fn release_reason(known: bool) -> Reason {
    if known { Reason::SUCCESS } else { Reason::PACKET_IDENTIFIER_NOT_FOUND }
}

/// Most unacknowledged messages to a bridge. Mosquitto takes no more at QoS 2 by default (`max_inflight_messages`), and
/// before MQTT 5 it cannot say so: it drops a message above that and closes the connection.
const BRIDGE_WINDOW_MAX: u16 = 20;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
mod model_inbound;
#[cfg(any(test, feature = "fuzzing"))]
mod model_outbound;
#[cfg(test)]
mod model_restart;
#[cfg(test)]
mod tests;
