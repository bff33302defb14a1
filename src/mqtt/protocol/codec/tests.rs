//! Tests: the decoded fields of packets, and the bytes of server packets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};

use crate::mqtt::protocol::codec::{
    corpus::{self, Decoded, bytes, samples},
    *,
};
use crate::mqtt::protocol::{
    packet::{
        ClientPacket, ConnAck, ConnAckLimits, Connect, PacketId, Properties, Protocol, Publish, QoS, Reason,
        RetainHandling, ServerPacket, Subscribe, Subscription, Will,
    },
    topic::{TopicFilter, TopicName},
    violation::Violation,
};

fn good(name: &str) -> Decoded {
    let sample = samples("good").into_iter().find(|sample| sample.name == name).unwrap();
    corpus::run(sample.protocol, sample.first, &sample.bytes)
}

fn connect(name: &str) -> Connect {
    let Decoded::Connect(connect) = good(name) else { panic!("{name}") };
    *connect
}

fn packet(name: &str) -> ClientPacket {
    let Decoded::Packet(packet) = good(name) else { panic!("{name}") };
    packet
}

fn user() -> (String, String) {
    ("k".into(), "v".into())
}

#[test]
fn a_minimal_connect_has_the_defaults() {
    let plain = Connect { client_id: "c1".into(), keep_alive: 60, ..Connect::minimal(Protocol::V5) };
    assert_eq!(connect("v5-connect"), plain);
    assert_eq!(connect("v4-connect"), Connect { protocol: Protocol::V4, ..plain.clone() });
    let password = Some(Bytes::from_static(b"\xff\0\xfe"));
    assert_eq!(connect("v5-connect-binary-password"), Connect { password, ..plain.clone() });
    let username = Some(String::new());
    let protocol = Protocol::V4;
    assert_eq!(connect("v4-connect-empty-user-name"), Connect { protocol, username, ..plain.clone() });
    assert_eq!(connect("v4-connect-bridge"), Connect { protocol, bridge: true, ..plain.clone() });
    assert_eq!(connect("v4-connect-mqtt-3-1-flags-alone"), Connect { protocol, is_3_1: true, ..plain.clone() });
    let client_id = "a-client-id-of-28-characters".into();
    assert_eq!(connect("v4-connect-mqtt-3-1"), Connect { protocol, is_3_1: true, client_id, ..plain });
    let bridge = connect("v4-connect-mqtt-3-1-bridge");
    assert_eq!(
        (bridge.bridge, bridge.username.as_deref(), bridge.password.as_deref()),
        (true, Some("u"), Some(&b"p"[..]))
    );
}

#[test]
fn all_fields_of_a_connect_are_decoded() {
    let topic = TopicName::new("w/t").unwrap();
    let payload = Bytes::from_static(b"gone");
    let v4 = connect("v4-connect-will-and-login");
    let will = Will { topic, payload, qos: QoS::AtLeastOnce, retain: true, delay: 0, properties: None };
    assert_eq!(v4.will, Some(will.clone()));
    assert_eq!((v4.username.as_deref(), v4.password.as_deref()), (Some("user"), Some(b"pass".as_slice())));

    let v5 = connect("v5-connect-all-properties");
    let properties = Properties {
        payload_format_indicator: Some(1),
        message_expiry: Some(10),
        content_type: Some("text".into()),
        response_topic: TopicName::new("r/t").ok(),
        correlation_data: Some(Bytes::from_static(b"\xff\0")),
        user: vec![user()],
    };
    let will = Will { retain: false, delay: 5, properties: Some(Box::new(properties)), ..will };
    assert_eq!(v5.will, Some(will));
    assert_eq!((v5.session_expiry, v5.receive_maximum.get(), v5.maximum_packet_size), (60, 10, Some(0x4000)));
    assert!(v5.request_problem_information);
}

#[test]
fn a_3_1_1_session_never_expires_unless_it_is_clean() {
    let Decoded::Connect(lasting) =
        corpus::run(Protocol::V4, true, &bytes(r#"10 0E 00 04 "MQTT" 04 00 00 00 00 02 "c1""#))
    else {
        panic!("no CONNECT")
    };
    assert_eq!((lasting.session_expiry, lasting.clean_start), (u32::MAX, false));
    assert_eq!(connect("v4-connect").session_expiry, 0);
}

#[test]
fn all_fields_of_a_publish_are_decoded() {
    let properties = Properties {
        payload_format_indicator: Some(1),
        message_expiry: Some(60),
        content_type: Some("application/json".into()),
        response_topic: TopicName::new("r/t").ok(),
        correlation_data: Some(Bytes::from_static(b"\xff\0")),
        user: vec![user(), user()],
    };
    let publish = Publish {
        topic: TopicName::new("a/b").ok(),
        alias: NonZeroU16::new(1),
        payload: Bytes::from_static(b"{}"),
        qos: QoS::AtLeastOnce,
        id: PacketId::new(7),
        dup: false,
        retain: false,
        properties: Some(Box::new(properties)),
    };
    assert_eq!(packet("v5-publish-all-properties"), ClientPacket::Publish(publish.clone()));
    let plain = Publish { alias: None, payload: Bytes::from_static(b"hi"), properties: None, ..publish };
    assert_eq!(packet("v4-publish-qos-1"), ClientPacket::Publish(plain.clone()));
    let resend = Publish { qos: QoS::ExactlyOnce, dup: true, ..plain };
    assert_eq!(packet("v5-publish-qos-2-dup"), ClientPacket::Publish(resend));
    let retained = corpus::run(Protocol::V4, false, &bytes(r#"31 04 00 01 "a" "x""#));
    assert!(matches!(retained, Decoded::Packet(ClientPacket::Publish(Publish { retain: true, id: None, .. }))));
}

#[test]
fn subscriptions_keep_their_options_and_errors() {
    let id = PacketId::new(7).unwrap();
    let subscription = Subscription {
        filter: TopicFilter::new("a/+").unwrap(),
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let subscribe = Subscribe { id, subscription_id: Some(200), filters: vec![Ok(subscription)] };
    assert_eq!(packet("v5-subscribe"), ClientPacket::Subscribe(subscribe));
    let filters = vec![TopicFilter::new("a").map_err(|_| Reason::SUCCESS), Err(Reason::TOPIC_FILTER_INVALID)];
    assert_eq!(packet("v5-unsubscribe"), ClientPacket::Unsubscribe(id, filters));
    assert_eq!(packet("v5-disconnect-reason-only"), ClientPacket::Disconnect(Reason::DISCONNECT_WITH_WILL, None));
    assert_eq!(packet("v5-disconnect-properties"), ClientPacket::Disconnect(Reason::SUCCESS, Some(0)));
    assert_eq!(packet("v5-puback-reason-only"), ClientPacket::PubAck(id, Reason::NO_MATCHING_SUBSCRIBERS));
}

#[test]
fn frames_that_arrive_in_pieces_are_split_one_by_one() {
    let limits = FrameLimits { packet_bytes_max: 10, dup_on_control: false };
    let stream = bytes(r#"C0 00 30 08 00 03 "a/b" "123" E0 00"#);
    let mut buffer = BytesMut::new();
    let mut sizes = Vec::new();
    for byte in stream {
        buffer.extend_from_slice(&[byte]);
        while let Some(frame) = split_frame(&mut buffer, limits).unwrap() {
            sizes.push(frame.bytes.len());
        }
    }
    assert_eq!(sizes, [2, 10, 2]);
    let too_large = Err(Violation::PacketTooLarge { bytes: 11, max: 10 });
    assert_eq!(split_frame(&mut BytesMut::from([0x30, 9].as_slice()), limits).map(drop), too_large);
}

/// MQTT 3.1 has DUP in more packets than 3.1.1; such a resend ended the connection.
#[test]
fn mqtt_3_1_may_resend_control_packets_with_dup() {
    for (sent, first_byte) in
        [("6A 02 00 01", 0x62), ("8A 06 00 01 00 01 \"a\" 00", 0x82), ("AA 05 00 01 00 01 \"a\"", 0xA2)]
    {
        let split = |dup_on_control| {
            let limits = FrameLimits { packet_bytes_max: 10, dup_on_control };
            assert_eq!(whole_packet(&bytes(sent), limits).is_some(), dup_on_control, "{sent}");
            split_frame(&mut BytesMut::from(&*bytes(sent)), limits)
        };
        assert_eq!(split(true).unwrap().map(|frame| frame.first_byte()), Some(first_byte));
        assert_eq!(split(false).map(drop), Err(Violation::ReservedBits("the fixed header")));
    }
    // The other flags stay reserved.
    let limits = FrameLimits { packet_bytes_max: 10, dup_on_control: true };
    assert!(split_frame(&mut BytesMut::from([0x8C, 0].as_slice()), limits).is_err());
}

#[test]
fn server_packets_are_encoded_as_the_standard_prescribes() {
    let id = PacketId::new(7).unwrap();
    let limits = ConnAckLimits {
        receive_maximum: NonZeroU16::new(64).unwrap(),
        maximum_packet_size: 0x2_0000,
        topic_alias_maximum: 16,
        session_expiry: Some(1),
        server_keep_alive: Some(2),
    };
    let welcome = ConnAck {
        session_present: false,
        reason: Reason::SUCCESS,
        reason_string: None,
        assigned_client_id: Some("x".into()),
        limits: Some(limits),
    };
    let resumed = ConnAck { session_present: true, assigned_client_id: None, limits: None, ..welcome.clone() };
    let text = || Some("no".to_owned());
    let connack = |connack: &ConnAck| ServerPacket::ConnAck(Box::new(connack.clone()));
    // packet, bytes to 3.1.1, bytes to 5
    let table = [
        (
            connack(&welcome),
            "20 02 00 00",
            r#"20 1A 00 00 17 21 00 40 27 00 02 00 00 22 00 10 11 00 00 00 01 13 00 02 12 00 01 "x""#,
        ),
        (connack(&resumed), "20 02 01 00", "20 03 01 00 00"),
        (connack(&ConnAck { reason: Reason::NOT_AUTHORIZED, ..resumed }), "20 02 00 05", "20 03 00 87 00"),
        (connack(&ConnAck::refused(Reason::MALFORMED_PACKET)), "", "20 03 00 81 00"),
        (
            connack(&ConnAck { reason_string: text(), ..ConnAck::refused(Reason::NOT_AUTHORIZED) }),
            "20 02 00 05",
            r#"20 08 00 87 05 1F 00 02 "no""#,
        ),
        (ServerPacket::PubAck(id, Reason::SUCCESS, None), "40 02 00 07", "40 02 00 07"),
        (ServerPacket::PubAck(id, Reason(0x10), None), "40 02 00 07", "40 03 00 07 10"),
        (ServerPacket::PubAck(id, Reason(0x83), text()), "40 02 00 07", r#"40 09 00 07 83 05 1F 00 02 "no""#),
        (ServerPacket::PubRec(id, Reason(0x83), None), "50 02 00 07", "50 03 00 07 83"),
        (ServerPacket::PubRel(id, Reason::SUCCESS), "62 02 00 07", "62 02 00 07"),
        (ServerPacket::PubComp(id, Reason(0x92)), "70 02 00 07", "70 03 00 07 92"),
        (ServerPacket::SubAck(id, vec![Reason(1), Reason(0x87)]), "90 04 00 07 01 80", "90 05 00 07 00 01 87"),
        (ServerPacket::UnsubAck(id, vec![Reason(0), Reason(0x11)]), "B0 02 00 07", "B0 05 00 07 00 00 11"),
        (ServerPacket::PingResp, "D0 00", "D0 00"),
        (ServerPacket::Disconnect(Reason::SUCCESS, None), "", "E0 00"),
        (ServerPacket::Disconnect(Reason(0x8E), None), "", "E0 01 8E"),
        (ServerPacket::Disconnect(Reason(0x97), text()), "", r#"E0 07 97 05 1F 00 02 "no""#),
    ];
    for (packet, v4, v5) in table {
        for (protocol, expected) in [(Protocol::V4, v4), (Protocol::V5, v5)] {
            let mut out = Vec::new();
            encode(protocol, &packet, usize::MAX, &mut out).unwrap();
            assert_eq!(out, bytes(expected), "{packet:?} {protocol:?}");
            respects_the_size_limit(protocol, &packet, &out);
        }
    }
}

/// Checks that a packet is written in full, without its reason string, or not at all, as the limit allows.
fn respects_the_size_limit(protocol: Protocol, packet: &ServerPacket, whole: &[u8]) {
    let mut plain = packet.clone();
    match &mut plain {
        ServerPacket::ConnAck(connack) => connack.reason_string = None,
        ServerPacket::PubAck(_, _, text) | ServerPacket::PubRec(_, _, text) | ServerPacket::Disconnect(_, text) => {
            *text = None;
        }
        _ => {}
    }
    let mut short = Vec::new();
    encode(protocol, &plain, usize::MAX, &mut short).unwrap();
    for bytes_max in 0..=whole.len() {
        let mut out = b"before".to_vec();
        let fits = encode(protocol, packet, bytes_max, &mut out).is_ok();
        let expected = [whole, &short].into_iter().find(|form| form.len() <= bytes_max);
        assert_eq!(fits, expected.is_some(), "{packet:?} in {bytes_max}");
        assert_eq!(out.strip_prefix(b"before"), Some(expected.unwrap_or_default()), "{packet:?} in {bytes_max}");
    }
}

#[test]
fn reason_strings_quote_no_control_characters() {
    let mut out = Vec::new();
    let packet = ServerPacket::Disconnect(Reason::UNSPECIFIED, Some("a\u{1}b\u{85}c\u{FFFF}d".into()));
    encode(Protocol::V5, &packet, usize::MAX, &mut out).unwrap();
    assert_eq!(std::str::from_utf8(&out[7..]).unwrap(), "a\u{FFFD}b\u{FFFD}c\u{FFFD}d");
}

#[test]
fn long_reason_strings_are_truncated_between_characters() {
    let mut out = Vec::new();
    let packet = ServerPacket::Disconnect(Reason::UNSPECIFIED, Some(format!("x{}", "é".repeat(600))));
    encode(Protocol::V5, &packet, usize::MAX, &mut out).unwrap();
    let text = std::str::from_utf8(&out[9..]).unwrap();
    assert_eq!((out[7], out[8], text.len()), (3, 0xFF, 1023));
}
