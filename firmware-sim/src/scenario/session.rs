//! The MQTT 5 session of a device or gateway: packets in, packets out.
//!
//! Pure: it fills a buffer for the socket and is fed from one. Unacknowledged publications at QoS 1 survive the connection
//! and are sent again, with DUP, once the service has resumed the session; so does the service with its own. A session
//! that was lost on either side starts clean, and then the caller decides again.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{
        ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, Login,
        Packet, PingReq, PubAck, Publish, Subscribe, SubscribeReasonCode,
    },
};
use umbra_client::Credentials;

/// An MQTT session.
pub(crate) struct Session {
    connect: Connect,
    login: Option<Login>,
    filters: Vec<Filter>,
    persistent: bool,
    /// False before the first subscriptions were granted, and after the client has lost its part of the session.
    has_state: bool,
    received: BytesMut,
    output: BytesMut,
    /// Sent and not acknowledged.
    unacknowledged: BTreeMap<u16, Publish>,
    /// In the order of sending, for the resend.
    order: VecDeque<u16>,
    /// Not sent yet: the service takes no more at once, or there is no connection.
    waiting: VecDeque<Publish>,
    receive_maximum: usize,
    next_id: u16,
    /// SUBSCRIBE packets without an answer.
    subscribing: usize,
    phase: Phase,
    /// Publications sent again with DUP.
    resent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Connecting,
    Subscribing,
    Up,
}

/// A message for the caller.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    /// The session is up. `resumed`: both sides had kept it.
    Up { resumed: bool },
    /// A message of a subscription.
    Message { topic: String, payload: Bytes },
}

impl Session {
    /// Returns a session without a connection; if it is not `persistent`, it ends with each connection.
    pub(crate) fn new(
        client_id: &str,
        credentials: Option<&Credentials>,
        filters: Vec<String>,
        persistent: bool,
    ) -> Self {
        let expiry = persistent.then_some(EXPIRY);
        let properties = ConnectProperties { session_expiry_interval: expiry, ..ConnectProperties::new() };
        let connect = Connect {
            keep_alive: KEEP_ALIVE,
            client_id: client_id.to_owned(),
            clean_start: true,
            properties: Some(properties),
        };
        let login = credentials.and_then(|credentials| match credentials {
            Credentials::Password(user, password) => Some(Login::new(user.as_str(), password.as_str())),
            Credentials::Token(token) => Some(Login::new("token", token.as_str())),
            _ => None,
        });
        Self {
            connect,
            login,
            filters: filters.into_iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce)).collect(),
            persistent,
            has_state: false,
            received: BytesMut::new(),
            output: BytesMut::new(),
            unacknowledged: BTreeMap::new(),
            order: VecDeque::new(),
            waiting: VecDeque::new(),
            receive_maximum: 0,
            next_id: 0,
            subscribing: 0,
            phase: Phase::Down,
            resent: 0,
        }
    }

    /// Returns true if messages are delivered and publications sent.
    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Returns the number of publications that were sent again with DUP.
    pub(crate) fn resent(&self) -> u64 {
        self.resent
    }

    /// Begins a connection.
    pub(crate) fn connect(&mut self) {
        self.connect.clean_start = !self.has_state;
        self.phase = Phase::Connecting;
        self.write(&Packet::Connect(self.connect.clone(), None, self.login.clone()));
    }

    /// Ends the connection gracefully; the session is kept.
    pub(crate) fn disconnect(&mut self) {
        self.write(&Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)));
        self.phase = Phase::Down;
    }

    /// Records that the connection has ended.
    pub(crate) fn lost(&mut self) {
        self.phase = Phase::Down;
        self.received.clear();
        self.output.clear();
        self.subscribing = 0;
    }

    /// Forgets the session, as a client does that had it in RAM and lost its power.
    pub(crate) fn forget(&mut self) {
        self.lost();
        self.has_state = false;
        self.drop_publications();
    }

    /// Publishes at QoS 1; while the session is down, once it is up again.
    pub(crate) fn publish(&mut self, topic: String, payload: impl Into<Bytes>) {
        self.waiting.push_back(Publish::new(topic, QoS::AtLeastOnce, payload, None));
        self.send_waiting();
    }

    /// Sends a PINGREQ.
    pub(crate) fn ping(&mut self) {
        if self.is_up() {
            self.write(&Packet::PingReq(PingReq));
        }
    }

    /// Returns the bytes to send.
    pub(crate) fn take_output(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    /// Takes received bytes.
    ///
    /// # Errors
    ///
    /// The service refused or closed the connection, or broke the protocol.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Incoming>, String> {
        self.received.extend_from_slice(bytes);
        let mut incoming = Vec::new();
        loop {
            match Packet::read(&mut self.received, Some(PACKET_MAX)) {
                Ok(packet) => incoming.extend(self.handle(packet)?),
                Err(Error::InsufficientBytes(_)) => return Ok(incoming),
                Err(error) => return Err(format!("malformed packet: {error}")),
            }
        }
    }

    fn handle(&mut self, packet: Packet) -> Result<Option<Incoming>, String> {
        match packet {
            Packet::ConnAck(connack) => return self.connected(&connack),
            Packet::SubAck(suback) => {
                if let Some(code) =
                    suback.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)))
                {
                    return Err(format!("a subscription was refused: {code:?}"));
                }
                self.subscribing = self.subscribing.saturating_sub(1);
                if self.subscribing == 0 && self.phase == Phase::Subscribing {
                    return Ok(Some(self.up(false)));
                }
            }
            Packet::PubAck(ack) => {
                self.unacknowledged.remove(&ack.pkid);
                self.order.retain(|id| *id != ack.pkid);
                self.send_waiting();
            }
            Packet::Publish(publish) => {
                if publish.qos == QoS::AtLeastOnce {
                    self.write(&Packet::PubAck(PubAck::new(publish.pkid, None)));
                }
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                return Ok(Some(Incoming::Message { topic, payload: publish.payload }));
            }
            Packet::Disconnect(disconnect) => return Err(format!("DISCONNECT {:?}", disconnect.reason_code)),
            _ => {}
        }
        Ok(None)
    }

    fn connected(&mut self, connack: &ConnAck) -> Result<Option<Incoming>, String> {
        if connack.code != ConnectReturnCode::Success {
            return Err(format!("the connection was refused: {:?}", connack.code));
        }
        let maximum = connack.properties.as_ref().and_then(|properties| properties.receive_max);
        self.receive_maximum = usize::from(maximum.unwrap_or(u16::MAX));
        let resumed = connack.session_present && self.has_state;
        if resumed {
            // [MQTT-4.4.0-1]: the same packet ids, in the order of sending.
            for id in self.order.clone() {
                if let Some(publish) = self.unacknowledged.get(&id) {
                    let again = Publish { dup: true, ..publish.clone() };
                    self.resent += 1;
                    self.write(&Packet::Publish(again));
                }
            }
            return Ok(Some(self.up(true)));
        }
        self.drop_publications();
        self.has_state = false;
        self.phase = Phase::Subscribing;
        for filters in self.filters.clone().chunks(FILTERS_PER_PACKET) {
            self.subscribing += 1;
            let mut subscribe = Subscribe::new_many(filters.iter().cloned(), None);
            subscribe.pkid = self.new_id();
            self.write(&Packet::Subscribe(subscribe));
        }
        Ok(None)
    }

    fn up(&mut self, resumed: bool) -> Incoming {
        self.phase = Phase::Up;
        // Not before: the service may have a session without the subscriptions.
        self.has_state = self.persistent;
        self.send_waiting();
        Incoming::Up { resumed }
    }

    fn drop_publications(&mut self) {
        self.unacknowledged.clear();
        self.order.clear();
        self.waiting.clear();
    }

    fn send_waiting(&mut self) {
        while self.is_up() && self.unacknowledged.len() < self.receive_maximum {
            let Some(mut publish) = self.waiting.pop_front() else { return };
            publish.pkid = self.new_id();
            self.write(&Packet::Publish(publish.clone()));
            self.order.push_back(publish.pkid);
            self.unacknowledged.insert(publish.pkid, publish);
        }
    }

    /// Returns a packet id that is not in use.
    fn new_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.unacknowledged.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    fn write(&mut self, packet: &Packet) {
        // It fails only for a packet above a maximum size, and none is given.
        let _ = packet.write(&mut self.output, None);
    }
}

/// Seconds without a packet after which the client sends a PINGREQ; the service waits half as long again.
pub(crate) const KEEP_ALIVE: u16 = 20;
/// Seconds that the service keeps the session of an absent client.
const EXPIRY: u32 = 3_600;
const FILTERS_PER_PACKET: usize = 60;
const PACKET_MAX: u32 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The packets that a session has sent.
    fn sent(session: &mut Session) -> Vec<Packet> {
        let mut bytes = BytesMut::from(session.take_output());
        std::iter::from_fn(|| Packet::read(&mut bytes, None).ok()).collect()
    }

    fn publications(session: &mut Session) -> Vec<(u16, bool)> {
        let packets = sent(session).into_iter();
        packets
            .filter_map(|packet| if let Packet::Publish(p) = packet { Some((p.pkid, p.dup)) } else { None })
            .collect()
    }

    const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];
    const RESUMED: [u8; 5] = [0x20, 3, 1, 0, 0];

    fn connected(persistent: bool) -> Session {
        let mut session = Session::new("pump-1", None, vec!["shadow/pump-1/#".to_owned()], persistent);
        session.connect();
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Connect(connect, None, None)] if connect.clean_start));
        assert_eq!(session.receive(&CONNACK), Ok(vec![]));
        let packets = sent(&mut session);
        assert!(matches!(packets.as_slice(), [Packet::Subscribe(subscribe)] if subscribe.pkid == 1), "{packets:?}");
        assert_eq!(session.receive(&[0x90, 4, 0]), Ok(vec![]), "half a packet");
        assert_eq!(session.receive(&[1, 0, 1]), Ok(vec![Incoming::Up { resumed: false }]));
        session
    }

    #[test]
    fn unacknowledged_publications_are_sent_again_with_dup_when_the_session_is_resumed() {
        let mut session = connected(true);
        for payload in ["a", "b", "c"] {
            session.publish("t".into(), payload);
        }
        assert_eq!(publications(&mut session), [(2, false), (3, false), (4, false)]);
        session.receive(&[0x40, 2, 0, 3]).expect("a PUBACK");
        session.lost();
        session.publish("t".into(), "d");
        session.connect();
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Connect(connect, ..)] if !connect.clean_start));
        assert_eq!(session.receive(&RESUMED), Ok(vec![Incoming::Up { resumed: true }]));
        assert_eq!(publications(&mut session), [(2, true), (4, true), (5, false)]);
        assert_eq!(session.resent(), 2);
    }

    #[test]
    fn a_session_that_one_side_has_lost_starts_clean() {
        let mut session = connected(true);
        session.publish("t".into(), "a");
        session.lost();
        session.connect();
        sent(&mut session);
        assert_eq!(session.receive(&CONNACK), Ok(vec![]), "the service has lost it");
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Subscribe(_)]));
        session.publish("t".into(), "a");
        session.forget();
        session.connect();
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Connect(connect, ..)] if connect.clean_start));
    }

    /// A device whose connection broke before the SUBACK resumed a session without subscriptions, and waited for ever.
    #[test]
    fn a_session_without_granted_subscriptions_starts_clean_again() {
        let mut session = Session::new("pump-1", None, vec!["shadow/pump-1/#".to_owned()], true);
        session.connect();
        session.receive(&CONNACK).expect("a CONNACK");
        sent(&mut session);
        session.lost();
        session.connect();
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Connect(connect, ..)] if connect.clean_start));
    }

    #[test]
    fn a_session_that_is_not_persistent_always_starts_clean() {
        let mut session = connected(false);
        session.publish("t".into(), "a");
        session.lost();
        session.connect();
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Connect(connect, ..)] if connect.clean_start));
        session.receive(&CONNACK).expect("a CONNACK");
        assert!(matches!(sent(&mut session).as_slice(), [Packet::Subscribe(_)]), "nothing is sent again");
    }

    #[test]
    fn messages_are_acknowledged_and_refusals_are_errors() {
        let mut session = connected(true);
        let message = [0x32, 7, 0, 1, b't', 0, 9, 0, b'x'];
        let expected = Incoming::Message { topic: "t".into(), payload: "x".into() };
        assert_eq!(session.receive(&message), Ok(vec![expected]));
        assert!(matches!(sent(&mut session).as_slice(), [Packet::PubAck(ack)] if ack.pkid == 9));
        assert_eq!(session.receive(&[0xe0, 2, 0x8e, 0]), Err("DISCONNECT SessionTakenOver".into()));
        session.lost();
        session.connect();
        let refused = session.receive(&[0x20, 3, 0, 0x87, 0]);
        assert_eq!(refused, Err("the connection was refused: NotAuthorized".into()));
    }
}
