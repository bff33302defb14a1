//! CONNECT and what ends a connection.

use crate::harness::{
    client::{Client, disconnect_with},
    packet::Packet,
    server::{Server, Setup},
    wire::{self, BOTH, Connect, Properties, V4, V5, Value, prop},
};

#[test]
fn an_empty_client_id_is_assigned_one() {
    let server = Server::start();
    let (_, first) = Client::connect_as(&server, &Connect::new(V5, ""));
    let (_, second) = Client::connect_as(&server, &Connect::new(V5, ""));
    let ids = [first, second].map(|answer| answer.properties.text(prop::ASSIGNED_CLIENT_ID).unwrap().to_owned());
    assert_ne!(ids[0], ids[1]);
    assert!(!ids[0].is_empty());
    let (mut client, _) = Client::connect_as(&server, &Connect::new(V4, ""));
    client.ping();

    // [MQTT-3.1.3-8]: without clean session there is nothing to find the session by.
    let mut client = Client::open(&server, V4);
    client.send(Connect::new(V4, "").clean(false).encode());
    assert_eq!(client.connack().code, 2);
    assert_eq!(client.closed(), None);
}

#[test]
fn an_unknown_protocol_is_refused() {
    let server = Server::start();
    for (name, level) in [("MQTT", 3), ("MQTT", 6), ("MQIsdp", 4), ("HTTP", 4), ("", 5), ("MQTT", 0x85)] {
        let mut client = Client::open(&server, V4);
        client.send(wire::frame(0x10, &[wire::string(name), vec![level, 2, 0, 0], wire::string("c")].concat()));
        // A server may answer before it closes; what it says then is of a version the client does not speak.
        client.discard_until_closed();
    }
    Client::connect(&server, V5, "fine").ping();
}

/// A resend of a SUBSCRIBE, which MQTT 3.1 marks with DUP and 3.1.1 must not.
#[test]
fn mqtt_3_1_may_resend_a_subscribe_with_dup() {
    let server = Server::start();
    let subscribe = wire::frame(0x8A, &[vec![0, 7], wire::string("a"), vec![0]].concat());
    for (name, level, accepted) in [("MQIsdp", 3, true), ("MQTT", 4, false)] {
        let mut client = Client::open(&server, V4);
        client.send(wire::frame(0x10, &[wire::string(name), vec![level, 2, 0, 0], wire::string("old")].concat()));
        assert_eq!(client.connack().code, 0);
        client.send(&subscribe);
        match accepted {
            true => assert!(matches!(client.recv(), Packet::SubAck { .. })),
            false => assert_eq!(client.closed(), None),
        }
    }
}

#[test]
fn a_second_connection_takes_the_session_over() {
    let server = Server::start();
    for (old, new) in [(V5, V5), (V5, V4), (V4, V5), (V4, V4)] {
        let mut first = Client::connect(&server, old, "twice");
        let mut second = Client::connect(&server, new, "twice");
        assert_eq!(first.closed(), (old == V5).then_some(0x8E), "{old:?} then {new:?}");
        second.ping();
        second.disconnect();
    }
}

#[test]
fn a_second_connect_is_an_error() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "again");
        client.send(Connect::new(protocol, "again").encode());
        assert_eq!(client.closed(), (protocol == V5).then_some(0x82));
    }
}

#[test]
fn the_first_packet_must_be_connect() {
    let server = Server::start();
    for bytes in [wire::PINGREQ.to_vec(), wire::DISCONNECT.to_vec(), wire::Publish::new("t", "p").encode(V4, 0, 0)] {
        let mut client = Client::open(&server, V4);
        client.send(&bytes);
        client.discard_until_closed();
    }
}

#[test]
fn a_silent_client_is_disconnected() {
    let server = Server::start();
    for protocol in BOTH {
        let (mut client, answer) = Client::connect_as(&server, &Connect::new(protocol, "silent").keep_alive(1));
        assert_eq!(answer.properties.number(prop::SERVER_KEEP_ALIVE), None, "one second is granted");
        assert_eq!(client.closed(), (protocol == V5).then_some(0x8D), "{protocol:?}");
    }
}

#[test]
fn a_silent_connection_is_closed_before_connect() {
    let server = Server::with(Setup { listener: "connect_timeout = \"200ms\"", ..Setup::default() });
    let mut nothing = Client::open(&server, V5);
    let mut half = Client::open(&server, V5);
    half.send(&Connect::new(V5, "half").encode()[..7]);
    nothing.discard_until_closed();
    half.discard_until_closed();
    // The deadline is CONNECT's alone.
    let mut client = Client::connect(&server, V5, "whole");
    Client::open(&server, V5).discard_until_closed();
    client.ping();
}

#[test]
fn a_reserved_flag_or_unknown_packet_ends_the_connection() {
    let server = Server::start();
    let rows: [&[u8]; 8] = [
        &[0x00, 0x00],
        &[0xF0, 0x00],
        &[0xC1, 0x00],
        &[0x80, 0x08, 0, 1, 0, 3, b'a', b'/', b'b', 0],
        &[0xA0, 0x05, 0, 1, 0, 1, b'a'],
        &[0x60, 0x02, 0, 1],
        &[0x36, 0x06, 0, 1, b't', 0, 1, 0],
        &[0xC0, 0x80, 0x80, 0x80, 0x80, 0x01],
    ];
    for protocol in BOTH {
        for bytes in rows {
            let mut client = Client::connect(&server, protocol, "broken");
            client.send(bytes);
            let reason = client.closed();
            assert!(matches!(reason, None | Some(0x81 | 0x82)), "{bytes:02x?}: {reason:02x?}");
        }
    }
}

#[test]
fn a_packet_may_come_one_byte_at_a_time() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::open(&server, protocol);
        let mut bytes = Connect::new(protocol, "slow").encode();
        bytes.extend(wire::subscribe(protocol, 1, &[("slow/#", 1)], &Properties::none()));
        bytes.extend(wire::Publish::new("slow/t", "arrived").encode(protocol, 1, 2));
        for byte in bytes {
            client.send([byte]);
        }
        assert_eq!(client.connack().code, 0);
        assert_eq!(client.message().text(), "arrived");
        client.puback(2);
    }
}

#[test]
fn a_zero_session_expiry_cannot_be_raised_at_disconnect() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "grow");
    client.send(disconnect_with(0, &Properties::none().with(prop::SESSION_EXPIRY, Value::Four(60))));
    assert!(matches!(client.closed(), None | Some(0x82)));
    let (_, answer) = Client::connect_as(&server, &Connect::persistent(V5, "grow"));
    assert!(!answer.session_present);
}

#[test]
fn enhanced_authentication_is_refused() {
    let server = Server::start();
    let mut client = Client::open(&server, V5);
    let method = Value::Text("SCRAM-SHA-256".to_owned());
    client.send(Connect::new(V5, "auth").property(prop::AUTHENTICATION_METHOD, method).encode());
    assert_eq!(client.connack().code, 0x8C);
    assert_eq!(client.closed(), None);
}
