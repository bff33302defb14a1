//! Tests: a client's packets as bytes, and the session's answers as bytes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{sync::Arc, time::Duration};

use super::*;
use crate::mqtt::protocol::{
    codec::corpus::{self, Decoded, bytes, samples},
    message::Message,
};

const V4: &str = r#"10 0E 00 04 "MQTT" 04 00 00 3C 00 02 "c1""#;
const V5: &str = r#"10 14 00 04 "MQTT" 05 00 00 3C 05 11 FF FF FF FF 00 02 "c1""#;

struct Peer {
    session: Session,
    protocol: Protocol,
    now: Instant,
    /// The bytes that the session sent when the connection opened.
    greeting: Vec<u8>,
}

impl Peer {
    fn new(connect: &str) -> Self {
        let mut session = Session::new(SessionLimits { inbound_window: 4, ..SessionLimits::default() });
        session.limits.outbound_window = 3;
        let mut peer = Self { session, protocol: Protocol::V4, now: Instant::now(), greeting: Vec::new() };
        peer.connect(connect);
        peer
    }

    fn connect(&mut self, connect: &str) {
        let Decoded::Connect(connect) = corpus::run(Protocol::V4, true, &bytes(connect)) else { panic!("{connect}") };
        self.protocol = connect.protocol;
        self.greeting.clear();
        self.session.attach(&connect, self.now, &mut self.greeting);
    }

    fn reconnect(&mut self) {
        self.session.detach();
        self.connect(if self.protocol == Protocol::V4 { V4 } else { V5 });
    }

    fn send(&mut self, packet: &str) -> (Result<Option<Action>, Violation>, Vec<u8>) {
        let Decoded::Packet(decoded) = corpus::run(self.protocol, false, &bytes(packet)) else { panic!("{packet}") };
        let mut out = Vec::new();
        (self.session.receive(decoded, self.now, &mut out), out)
    }

    /// Sends a PUBLISH to topic `a`. Returns its ack id if it became a request, and the immediate answer.
    fn publish(&mut self, qos: u8, dup: bool, id: u8) -> (Result<Option<AckId>, Violation>, Vec<u8>) {
        let first_byte = 0x30 | qos << 1 | u8::from(dup) << 3;
        let (length, properties) = if self.protocol == Protocol::V4 { (5, "") } else { (6, "00") };
        let (action, out) = self.send(&format!(r#"{first_byte:02X} {length:02X} 00 01 "a" 00 {id:02X} {properties}"#));
        let ack_id = |action| match action {
            Some(Action::Publish(inbound)) => inbound.ack_id,
            None => None,
            other => panic!("{other:?}"),
        };
        (action.map(ack_id), out)
    }

    /// Sends a PUBLISH that must become a request.
    fn request(&mut self, qos: u8, dup: bool, id: u8) -> AckId {
        let (ack_id, out) = self.publish(qos, dup, id);
        assert!(out.is_empty(), "{out:02x?}");
        ack_id.unwrap().expect("a request")
    }

    /// Sends a PUBLISH that must be recognized as a resend.
    fn resend(&mut self, qos: u8, id: u8) -> Vec<u8> {
        let (ack_id, out) = self.publish(qos, true, id);
        assert_eq!(ack_id, Ok(None));
        out
    }

    fn decide(&mut self, ack_id: AckId, reason: Reason) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.complete(ack_id, AckResult { reason, ..AckResult::SUCCESS }, &mut out);
        out
    }

    /// Checks the answer to a packet, which must require no action.
    fn answers(&mut self, packet: &str, answer: &str) {
        let (action, out) = self.send(packet);
        assert_eq!((action, out), (Ok(None), bytes(answer)), "{packet}");
    }

    /// Delivers a message with payload `text` on topic `t`. Returns the bytes sent.
    fn deliver(&mut self, qos: QoS, text: &str) -> Option<Vec<u8>> {
        let topic = TopicName::new("t").unwrap();
        let message = Arc::new(Message::new(topic, Bytes::from(text.to_owned()), qos, false, None, self.now));
        let delivery = Delivery::new(message, qos);
        let mut out = Vec::new();
        match self.session.deliver(delivery, self.now, &mut out) {
            Delivered::Sent => Some(out),
            Delivered::NotNow(_) => None,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn acknowledgements_keep_the_order_of_the_publishes() {
    for connect in [V4, V5] {
        let mut peer = Peer::new(connect);
        let (first, second, third) = (peer.request(1, false, 1), peer.request(2, false, 2), peer.request(1, false, 3));
        assert_eq!(peer.session.inbound_pending(), 3);
        assert!(peer.decide(third, Reason::SUCCESS).is_empty());
        assert_eq!(peer.decide(first, Reason::SUCCESS), bytes("40 02 00 01"));
        assert_eq!(peer.decide(second, Reason::SUCCESS), bytes("50 02 00 02 40 02 00 03"));
        assert_eq!(peer.session.inbound_pending(), 0);
        assert!(peer.decide(second, Reason::SUCCESS).is_empty(), "a result counts once");
    }
}

#[test]
fn a_qos_2_message_becomes_one_request_while_the_session_lives() {
    for connect in [V4, V5] {
        let mut peer = Peer::new(connect);
        let ack_id = peer.request(2, false, 7);
        assert!(peer.resend(2, 7).is_empty(), "undecided: it waits");
        peer.reconnect();
        assert!(peer.resend(2, 7).is_empty(), "undecided, after a resume: it waits");
        assert_eq!(peer.decide(ack_id, Reason::SUCCESS), bytes("50 02 00 07"));
        assert_eq!(peer.resend(2, 7), bytes("50 02 00 07"));
        assert_eq!(peer.publish(2, false, 7), (Ok(None), bytes("50 02 00 07")), "without DUP too");
        peer.reconnect();
        assert_eq!(peer.resend(2, 7), bytes("50 02 00 07"));
        peer.answers("62 02 00 07", "70 02 00 07");
        assert_ne!(peer.request(2, false, 7), ack_id, "released: the identifier is free");
    }
}

#[test]
fn a_resend_gets_the_result_that_was_set_while_the_client_was_away() {
    for (qos, ack) in [(1, "40 03 00 01 97"), (2, "50 03 00 01 97")] {
        let mut peer = Peer::new(V5);
        let (first, second) = (peer.request(qos, false, 1), peer.request(qos, false, 2));
        peer.session.detach();
        assert!(peer.decide(first, Reason::QUOTA_EXCEEDED).is_empty());
        peer.connect(V5);
        assert_eq!(peer.resend(qos, 1), bytes(ack));
        assert!(peer.resend(qos, 2).is_empty());
        assert_eq!(peer.decide(second, Reason::QUOTA_EXCEEDED), bytes(&ack.replace("01 97", "02 97")));
    }
}

#[test]
fn without_dup_a_reused_qos_1_identifier_is_a_new_request() {
    let mut peer = Peer::new(V4);
    let old = peer.request(1, false, 1);
    peer.reconnect();
    let new = peer.request(1, false, 1);
    assert!(peer.decide(old, Reason::SUCCESS).is_empty(), "the old result is not that of the new message");
    assert_eq!(peer.decide(new, Reason::SUCCESS), bytes("40 02 00 01"));
}

#[test]
fn a_refused_qos_2_message_is_refused_again_or_requested_anew() {
    let mut peer = Peer::new(V5);
    let refused = bytes("50 03 00 07 83");
    let ack_id = peer.request(2, false, 7);
    assert_eq!(peer.decide(ack_id, Reason::IMPLEMENTATION_SPECIFIC), refused);
    peer.reconnect();
    assert_eq!(peer.resend(2, 7), refused, "a resend");
    assert_eq!(peer.resend(2, 7), refused, "and another");
    let ack_id = peer.request(2, false, 7);
    assert_eq!(peer.decide(ack_id, Reason::SUCCESS), bytes("50 02 00 07"), "a new one");
    assert_eq!(peer.resend(2, 7), bytes("50 02 00 07"));
    // The number of remembered refusals is bounded.
    for id in 10..40 {
        let ack_id = peer.request(2, false, id);
        peer.decide(ack_id, Reason::NOT_AUTHORIZED);
    }
    assert_eq!(peer.resend(2, 39), bytes("50 03 00 27 87"));
    peer.request(2, true, 10);
}

#[test]
fn a_3_1_1_client_releases_a_refused_message() {
    let mut peer = Peer::new(V4);
    let ack_id = peer.request(2, false, 7);
    assert_eq!(peer.decide(ack_id, Reason::NOT_AUTHORIZED), bytes("50 02 00 07"));
    assert_eq!(peer.publish(2, false, 7), (Ok(None), bytes("50 02 00 07")));
    peer.answers("62 02 00 07", "70 02 00 07");
}

/// A request refused over 3.1.1 waited for its PUBREL. Its client resent it over MQTT 5, which has no PUBREL after a
/// refusal. The identifier stayed in use, and every later message with it was refused as a resend.
#[test]
fn a_refusal_sent_to_a_client_that_changed_to_mqtt_5_frees_the_identifier() {
    let mut peer = Peer::new(V4);
    let ack_id = peer.request(2, false, 7);
    assert_eq!(peer.decide(ack_id, Reason::NOT_AUTHORIZED), bytes("50 02 00 07"));
    peer.session.detach();
    peer.connect(V5);
    let refused = bytes("50 03 00 07 87");
    assert_eq!(peer.resend(2, 7), refused);
    assert_eq!(peer.resend(2, 7), refused, "that resend again");
    peer.request(2, false, 7);
}

#[test]
fn a_packet_identifier_in_use_is_refused_for_a_new_message() {
    let mut peer = Peer::new(V5);
    peer.request(1, false, 1);
    assert!(peer.resend(1, 1).is_empty());
    assert_eq!(peer.publish(1, false, 1).0, Err(Violation::PacketIdInUse(1)));
    assert_eq!(peer.publish(2, false, 1).0, Err(Violation::PacketIdInUse(1)));
    peer.request(2, false, 2);
    assert_eq!(peer.send("62 02 00 02").0, Err(Violation::ReleasedTooEarly(2)));
}

#[test]
fn the_resend_of_an_abandoned_message_is_a_new_request() {
    for qos in [1, 2] {
        let mut peer = Peer::new(V4);
        let (first, second) = (peer.request(qos, false, 1), peer.request(qos, false, 2));
        peer.session.abandon(first);
        peer.reconnect();
        peer.request(qos, true, 1);
        peer.session.detach();
        peer.session.abandon(second);
        peer.connect(V4);
        peer.request(qos, true, 2);
    }
}

#[test]
fn the_receive_maximum_applies_to_mqtt_5_only() {
    let mut peer = Peer::new(V4);
    for id in 1..10 {
        peer.request(1, false, id);
    }
    assert_eq!(peer.session.inbound_pending(), 9);

    let mut peer = Peer::new(V5);
    let ack_ids: Vec<_> = (1..=4).map(|id| peer.request(2, false, id)).collect();
    assert_eq!(peer.publish(1, false, 5).0, Err(Violation::ReceiveMaximumExceeded));
    for ack_id in ack_ids {
        peer.decide(ack_id, Reason::SUCCESS);
    }
    assert_eq!(peer.publish(1, false, 5).0, Err(Violation::ReceiveMaximumExceeded), "PUBREC alone frees nothing");
    peer.answers("62 02 00 01", "70 02 00 01");
    peer.request(1, false, 5);
    assert_eq!(peer.publish(1, false, 6).0, Err(Violation::ReceiveMaximumExceeded));
    // A new connection starts with the whole window, regardless of messages that wait for their PUBREL.
    peer.reconnect();
    for id in 10..14 {
        peer.request(1, false, id);
    }
    peer.answers("62 02 00 02", "70 02 00 02");
    assert_eq!(peer.publish(1, false, 14).0, Err(Violation::ReceiveMaximumExceeded));
}

#[test]
fn qos_2_identifiers_in_use_over_many_connections_are_bounded() {
    let mut peer = Peer::new(V4);
    for id in 1..=1024_u16 {
        let [high, low] = id.to_be_bytes();
        assert!(peer.send(&format!(r#"34 05 00 01 "a" {high:02X} {low:02X}"#)).0.is_ok());
        if id % 50 == 0 {
            peer.reconnect();
        }
    }
    assert_eq!(peer.send(r#"34 05 00 01 "a" 7F FF"#).0, Err(Violation::TooManyUnreleased));
}

#[test]
fn messages_are_sent_within_the_window_and_resent_in_order() {
    for (connect, properties) in [(V4, 0), (V5, 1)] {
        let sent = |first_byte: u8, id: u8, text: u8| match properties {
            0 => vec![first_byte, 6, 0, 1, b't', 0, id, text],
            _ => vec![first_byte, 7, 0, 1, b't', 0, id, 0, text],
        };
        let mut peer = Peer::new(connect);
        assert!(peer.session.window_open());
        assert_eq!(peer.deliver(QoS::AtLeastOnce, "1"), Some(sent(0x32, 1, b'1')));
        assert_eq!(peer.deliver(QoS::ExactlyOnce, "2"), Some(sent(0x34, 2, b'2')));
        assert_eq!(peer.deliver(QoS::ExactlyOnce, "3"), Some(sent(0x34, 3, b'3')));
        assert!(!peer.session.window_open());
        assert_eq!(peer.session.inflight_bytes(), 6);
        assert_eq!(peer.deliver(QoS::AtLeastOnce, "4"), None);
        assert!(peer.deliver(QoS::AtMostOnce, "0").is_some(), "QoS 0 needs no window");

        peer.answers("50 02 00 02", "62 02 00 02");
        peer.answers("70 02 00 03", ""); // Not released yet.
        assert!(!peer.session.window_open(), "released is not complete");
        peer.reconnect();
        assert_eq!(peer.greeting, [sent(0x3A, 1, b'1'), bytes("62 02 00 02"), sent(0x3C, 3, b'3')].concat());
        peer.answers("50 02 00 02", "62 02 00 02");
        peer.answers("40 02 00 03", ""); // PUBACK for a message at QoS 2.
        peer.answers("40 02 00 01", "");
        peer.answers("70 02 00 02", "");
        assert_eq!(peer.session.inflight_bytes(), 2);
        assert_eq!(peer.deliver(QoS::AtLeastOnce, "4"), Some(sent(0x32, 4, b'4')));
        peer.session.detach();
        assert!(!peer.session.window_open());
        assert_eq!(peer.deliver(QoS::AtMostOnce, "0"), None);
    }
}

#[test]
fn a_resend_respects_the_receive_maximum_of_the_new_connection() {
    let mut peer = Peer::new(V5);
    for text in ["one", "a message above the limit", "two"] {
        peer.deliver(QoS::AtLeastOnce, text).unwrap();
    }
    peer.session.detach();
    // Receive maximum 1, maximum packet size 16.
    peer.connect(r#"10 17 00 04 "MQTT" 05 00 00 3C 08 21 00 01 27 00 00 00 10 00 02 "c1""#);
    assert_eq!(peer.greeting, bytes(r#"3A 09 00 01 "t" 00 01 00 "one""#));
    assert!(!peer.session.window_open());
    peer.answers("40 02 00 01", r#"3A 09 00 01 "t" 00 03 00 "two""#);
    assert!(!peer.session.window_open());
    peer.answers("40 02 00 03", "");
    assert!(peer.session.window_open());
}

#[test]
fn an_acknowledgement_may_come_before_the_resend() {
    let mut peer = Peer::new(V4);
    peer.deliver(QoS::AtLeastOnce, "1").unwrap();
    peer.deliver(QoS::AtLeastOnce, "2").unwrap();
    peer.session.detach();
    peer.session.limits.outbound_window = 1;
    peer.connect(V4);
    peer.answers("40 02 00 02", "");
    peer.answers("40 02 00 01", "");
    assert!(peer.session.window_open());
    assert_eq!(peer.deliver(QoS::AtLeastOnce, "3"), Some(bytes(r#"32 06 00 01 "t" 00 03 "3""#)));
}

#[test]
fn a_refused_message_is_not_released() {
    let mut peer = Peer::new(V5);
    peer.deliver(QoS::ExactlyOnce, "1").unwrap();
    peer.answers("50 03 00 01 97", "");
    assert_eq!(peer.session.inflight_bytes(), 0);
    peer.answers("50 02 00 01", "62 03 00 01 92");
}

#[test]
fn packet_identifiers_wrap_around_those_in_use() {
    let mut peer = Peer::new(V4);
    peer.deliver(QoS::AtLeastOnce, "stays").unwrap();
    for _ in 0..65_533 {
        let sent = peer.deliver(QoS::AtLeastOnce, "x").unwrap();
        let id = PacketId::new(u16::from_be_bytes([sent[5], sent[6]])).unwrap();
        peer.session.receive(ClientPacket::PubAck(id, Reason::SUCCESS), peer.now, &mut Vec::new()).unwrap();
    }
    let ids: Vec<_> = (0..2).map(|_| peer.deliver(QoS::AtLeastOnce, "x").unwrap()[5..7].to_vec()).collect();
    assert_eq!(ids, [[0xFF, 0xFF], [0, 2]], "neither 0 nor 1");
}

#[test]
fn expired_and_oversized_messages_are_not_sent() {
    let mut peer = Peer::new(V5);
    peer.connect(r#"10 14 00 04 "MQTT" 05 00 00 3C 05 27 00 00 00 10 00 02 "c1""#);
    let properties = Properties { message_expiry: Some(1), ..Properties::default() };
    let delivery = |text: &'static str, properties| {
        let (topic, payload) = (TopicName::new("t").unwrap(), Bytes::from(text));
        let message = Message::new(topic, payload, QoS::AtLeastOnce, false, properties, peer.now);
        Delivery::new(Arc::new(message), QoS::AtLeastOnce)
    };
    let later = peer.now + Duration::from_secs(1);
    let mut out = Vec::new();
    let outcome = peer.session.deliver(delivery("1", Some(Box::new(properties))), later, &mut out);
    assert!(matches!(outcome, Delivered::Expired));
    assert!(matches!(peer.session.deliver(delivery("seventeen", None), later, &mut out), Delivered::TooLarge));
    assert!(out.is_empty() && peer.session.inflight_bytes() == 0);
    assert!(matches!(peer.session.deliver(delivery("sixteen.", None), later, &mut out), Delivered::Sent));
    assert_eq!(out.len(), 16);
}

#[test]
fn a_topic_alias_lives_as_long_as_the_connection() {
    let mut peer = Peer::new(V5);
    let topic = |action| match action {
        Ok(Some(Action::Publish(inbound))) => inbound.topic.to_string(),
        other => panic!("{other:?}"),
    };
    let by_alias = "30 06 00 00 03 23 00 10";
    assert_eq!(peer.send(by_alias).0, Err(Violation::TopicAliasUnset(16)));
    assert_eq!(topic(peer.send(r#"30 07 00 01 "a" 03 23 00 10"#).0), "a");
    assert_eq!(topic(peer.send(by_alias).0), "a");
    assert_eq!(topic(peer.send(r#"30 07 00 01 "b" 03 23 00 10"#).0), "b");
    assert_eq!(topic(peer.send(by_alias).0), "b");
    assert_eq!(peer.send(r#"30 07 00 01 "a" 03 23 00 11"#).0, Err(Violation::TopicAliasRange(17)));
    peer.reconnect();
    assert_eq!(peer.send(by_alias).0, Err(Violation::TopicAliasUnset(16)));
}

#[test]
fn reason_strings_are_sent_if_the_client_accepts_them() {
    let short = "40 03 00 01 87";
    // label, CONNECT, answer
    let table = [
        ("wanted", V5, r#"40 09 00 01 87 05 1F 00 02 "no""#),
        ("not wanted", r#"10 11 00 04 "MQTT" 05 02 00 3C 02 17 00 00 02 "c1""#, short),
        ("too large", r#"10 14 00 04 "MQTT" 05 02 00 3C 05 27 00 00 00 0A 00 02 "c1""#, short),
        (
            "just fits",
            r#"10 14 00 04 "MQTT" 05 02 00 3C 05 27 00 00 00 0B 00 02 "c1""#,
            r#"40 09 00 01 87 05 1F 00 02 "no""#,
        ),
        ("3.1.1", V4, "40 02 00 01"),
    ];
    for (label, connect, answer) in table {
        let mut peer = Peer::new(connect);
        let ack_id = peer.request(1, false, 1);
        let mut out = Vec::new();
        let result = AckResult { reason: Reason::NOT_AUTHORIZED, reason_string: Some("no".into()), unknown: false };
        peer.session.complete(ack_id, result, &mut out);
        assert_eq!(out, bytes(answer), "{label}");
    }
}

#[test]
fn disconnect_decides_about_will_and_session_expiry() {
    let brief = r#"10 0F 00 04 "MQTT" 05 02 00 3C 00 00 02 "c1""#;
    // label, CONNECT, DISCONNECT, will published, session expiry
    let table = [
        ("3.1.1", V4, "E0 00", false, None),
        ("normal", V5, "E0 00", false, None),
        ("with will", V5, "E0 01 04", true, None),
        ("an error of the client", V5, "E0 01 81", true, None),
        ("other expiry", V5, "E0 07 00 05 11 00 00 00 05", false, Some(5)),
        ("none stays none", brief, "E0 07 00 05 11 00 00 00 00", false, Some(0)),
    ];
    for (label, connect, disconnect, with_will, session_expiry) in table {
        let action = Peer::new(connect).send(disconnect).0;
        assert_eq!(action, Ok(Some(Action::Disconnect { with_will, session_expiry })), "{label}");
    }
    let raised = Peer::new(brief).send("E0 07 00 05 11 00 00 00 05").0;
    assert_eq!(raised, Err(Violation::SessionExpiryRaised));
}

#[test]
fn filters_above_the_limit_are_refused_one_by_one() {
    let mut peer = Peer::new(V4);
    peer.session.limits.filters_per_subscribe = 1;
    let Ok(Some(Action::Subscribe(subscribe))) = peer.send(r#"82 0A 00 07 00 01 "a" 00 00 01 "b" 00"#).0 else {
        panic!("no SUBSCRIBE")
    };
    assert!(subscribe.filters[0].is_ok());
    assert_eq!(subscribe.filters[1], Err(Reason::QUOTA_EXCEEDED));
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 320, "{}", size_of::<Session>());
}

/// Sends the whole corpus through codec and session, against a server that accepts everything.
#[test]
fn the_corpus_gets_its_expected_answers() {
    for sample in samples("good").into_iter().chain(samples("bad")).filter(|sample| !sample.first) {
        let clean = r#"10 0F 00 04 "MQTT" 05 02 00 3C 00 00 02 "c1""#;
        let mut peer = Peer::new(if sample.protocol == Protocol::V4 { V4 } else { clean });
        let mut out = Vec::new();
        let answer = match corpus::run(sample.protocol, false, &sample.bytes) {
            Decoded::Packet(packet) => match peer.session.receive(packet, peer.now, &mut out) {
                Ok(action) => {
                    show(action.and_then(|action| accept(&mut peer.session, action, &mut out)), &out, peer.protocol)
                }
                Err(violation) => format!("disconnect {:#04x}", violation.reason().0),
            },
            Decoded::Violated(violation) => format!("disconnect {:#04x}", violation.reason().0),
            other => panic!("{}: {other:?}", sample.name),
        };
        assert_eq!(answer, sample.expect.to_lowercase(), "{} {:?}", sample.name, sample.protocol);
    }
}

#[test]
fn a_mutated_packet_leaves_no_pending_acknowledgement() {
    for sample in samples("good").into_iter().filter(|sample| !sample.first) {
        for connect in [V4, V5] {
            let mut peer = Peer::new(connect);
            corpus::mutate(&sample.bytes, |bytes| {
                let Decoded::Packet(packet) = corpus::run(peer.protocol, false, bytes) else { return };
                let mut out = Vec::new();
                match peer.session.receive(packet, peer.now, &mut out) {
                    Ok(Some(action)) => drop(accept(&mut peer.session, action, &mut out)),
                    Ok(None) => {}
                    Err(Violation::TooManyUnreleased | Violation::ReceiveMaximumExceeded) => peer = Peer::new(connect),
                    Err(_) => peer.reconnect(),
                }
                assert_eq!(peer.session.inbound_pending(), 0);
            });
        }
    }
}

/// Accepts the action. Returns "close" for a DISCONNECT.
fn accept(session: &mut Session, action: Action, out: &mut Vec<u8>) -> Option<&'static str> {
    match action {
        Action::Publish(Inbound { ack_id, .. }) => {
            if let Some(ack_id) = ack_id {
                session.complete(ack_id, AckResult::SUCCESS, out);
            }
        }
        Action::Subscribe(Subscribe { id, filters, .. }) => {
            let granted = |filter: Result<_, Reason>| filter.map_or_else(|reason| reason, granted_qos);
            session.subscribed(id, filters.into_iter().map(granted).collect(), out);
        }
        Action::Unsubscribe(id, filters) => {
            let none =
                |filter: Result<_, Reason>| filter.map_or_else(|reason| reason, |_| Reason::NO_SUBSCRIPTION_EXISTED);
            session.unsubscribed(id, filters.into_iter().map(none).collect(), out);
        }
        Action::Save(_) | Action::Release(_) => panic!("the session has no rows"),
        Action::Disconnect { .. } => return Some("close"),
    }
    None
}

fn granted_qos(subscription: crate::mqtt::protocol::packet::Subscription) -> Reason {
    Reason(subscription.qos as u8)
}

/// Formats an answer as in the corpus.
fn show(close: Option<&str>, out: &[u8], protocol: Protocol) -> String {
    let name = match out.first() {
        None => return close.unwrap_or("nothing").to_owned(),
        Some(0xD0) => return "pingresp".to_owned(),
        Some(0x40) => "puback",
        Some(0x50) => "pubrec",
        Some(0x62) => "pubrel",
        Some(0x70) => "pubcomp",
        Some(0x90) => "suback",
        Some(0xB0) => "unsuback",
        Some(other) => panic!("{other:#x}"),
    };
    let id = u16::from_be_bytes([out[2], out[3]]);
    let listed = matches!(name, "suback" | "unsuback") && protocol == Protocol::V5;
    let codes = out[if listed { 5 } else { 4 }..].iter().map(|code| format!(" {code:#04x}"));
    format!("{name} {id}{}", codes.collect::<String>())
}
