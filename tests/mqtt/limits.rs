//! The limits that both sides notify: receive maximum, packet size, topic aliases.

use std::collections::VecDeque;

use crate::harness::{
    client::Client,
    packet::Packet,
    server::{Server, Setup},
    wire::{self, BOTH, Connect, Properties, Protocol, Publish, V5, Value, prop},
};

const SMALL: Setup = Setup { listener: "", limits: "receive_maximum = 4\npacket_bytes_max = \"24 KiB\"", store: "" };

/// The topic of a will was not measured.
#[test]
fn accepts_topics_up_to_the_maximum() {
    let server = Server::start();
    let topic = |length: usize| "t".repeat(length);
    let will = |protocol, length| Connect::new(protocol, "mortal").will(Publish::new(&topic(length), ""), 1).encode();
    let mut client = Client::connect(&server, V5, "client");
    assert_eq!(client.publish(&topic(512), "", 1), 0x10);
    client.send(Publish::new(&topic(513), "").encode(V5, 1, 9));
    assert_eq!(client.closed(), Some(0x90));
    let mut client = Client::open(&server, V5);
    client.send(will(V5, 512));
    assert_eq!(client.connack().code, 0);
    for protocol in BOTH {
        let mut client = Client::open(&server, protocol);
        client.send(will(protocol, 513));
        client.discard_until_closed();
    }
}

#[test]
fn connack_announces_the_limits() {
    let server = Server::with(SMALL);
    let (_, answer) = Client::connect_as(&server, &Connect::new(V5, "asks"));
    let announced = |id| answer.properties.number(id);
    assert_eq!(announced(prop::RECEIVE_MAXIMUM), Some(4));
    assert_eq!(announced(prop::TOPIC_ALIAS_MAXIMUM), Some(16));
    assert_eq!(announced(prop::MAXIMUM_PACKET_SIZE), Some(24 * 1024));
}

/// A client requests more than the server grants, and CONNACK names the granted values.
#[test]
fn connack_announces_reduced_limits() {
    let server =
        Server::with(Setup { limits: "session_expiry_max = \"1h\"\nkeep_alive_max = \"30s\"", ..Setup::default() });
    let ask = |keep_alive: u16, expiry: u32| {
        let connect =
            Connect::new(V5, "asks").keep_alive(keep_alive).property(prop::SESSION_EXPIRY, Value::Four(expiry));
        let (client, answer) = Client::connect_as(&server, &connect);
        client.disconnect();
        (answer.properties.number(prop::SERVER_KEEP_ALIVE), answer.properties.number(prop::SESSION_EXPIRY))
    };
    assert_eq!(ask(60, 7_200), (Some(30), Some(3_600)));
    assert_eq!(ask(0, u32::MAX), (Some(30), Some(3_600)));
    assert_eq!(ask(30, 3_600), (None, None));
    assert_eq!(ask(1, 0), (None, None));
}

/// A QoS 2 message is under way until PUBCOMP, so one more than the maximum is one too many.
#[test]
fn exceeding_the_servers_receive_maximum_disconnects() {
    let server = Server::with(SMALL);
    let (mut client, answer) = Client::connect_as(&server, &Connect::new(V5, "greedy"));
    let maximum = answer.properties.number(prop::RECEIVE_MAXIMUM).unwrap_or(65_535) as u16;
    for id in 1..=maximum {
        client.send(Publish::new("in/t", "held").encode(V5, 2, id));
        assert!(client.pubrec(id).code < 0x80);
    }
    client.ping();
    client.send(Publish::new("in/t", "too many").encode(V5, 2, maximum + 1));
    assert_eq!(client.closed(), Some(0x93));
}

#[test]
fn the_server_keeps_to_the_clients_receive_maximum() {
    let server = Server::start();
    let two = Connect::new(V5, "receiver").property(prop::RECEIVE_MAXIMUM, Value::Two(2));
    let (mut receiver, _) = Client::connect_as(&server, &two);
    receiver.subscribe(&[("out/#", 2)]);
    let mut sender = Client::connect(&server, V5, "sender");
    for number in 1..=6 {
        sender.publish("out/t", number.to_string(), 1 + number % 2);
    }
    let mut held: Vec<_> = (0..2).map(|_| receiver.peek_message()).collect();
    for expected in 1..=6 {
        // Nothing more comes while two are under way.
        receiver.send(wire::PINGREQ);
        assert_eq!(receiver.recv(), Packet::PingResp);
        let message = held.remove(0);
        assert_eq!(message.text(), expected.to_string());
        receiver.acknowledge(&message);
        if expected <= 4 {
            held.push(receiver.peek_message());
        }
    }
    // QoS 0 does not count.
    sender.publish("out/t", "free", 0);
    assert_eq!(receiver.message().text(), "free");
}

/// A session kept what its client did not acknowledge by number alone: 64 messages of 128 KiB, also once it was away.
#[test]
fn unacknowledged_messages_are_limited_by_bytes() {
    let limits = "outbox_bytes_max = \"64 KiB\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    for (protocol, qos) in BOTH.into_iter().zip([1, 2]) {
        let mut receiver = Client::connect(&server, protocol, "receiver");
        receiver.subscribe(&[("out/#", qos)]);
        let mut sender = Client::connect(&server, V5, "sender");
        let mut send = |payload: &str, bytes: usize| {
            sender.publish("out/t", payload.to_owned() + &" ".repeat(bytes), qos);
        };
        let mut held = VecDeque::new();
        for number in ["0", "1", "2", "3"] {
            send(number, 20 * 1024);
            held.push_back(receiver.peek_message());
        }
        send("4", 20 * 1024);
        send("5", 20 * 1024);
        for expected in 0..6 {
            // Nothing more comes while that much is under way.
            receiver.send(wire::PINGREQ);
            assert_eq!(receiver.recv(), Packet::PingResp);
            let message = held.pop_front().unwrap();
            assert_eq!(message.text().trim_end(), expected.to_string());
            receiver.acknowledge(&message);
            if expected < 2 {
                held.push_back(receiver.peek_message());
            }
        }
        // One always goes, however large.
        send("large", 100 * 1024);
        assert_eq!(receiver.message().text().trim_end(), "large");
        receiver.disconnect();
    }
}

/// Unacknowledged messages took the room of the queue of a disconnected client, so that a client that only changed its
/// connection lost the whole queue.
#[test]
fn a_take_over_loses_no_queued_message() {
    let limits = "outbox_bytes_max = \"64 KiB\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    let persistent = Connect::persistent(V5, "receiver");
    let (mut receiver, _) = Client::connect_as(&server, &persistent);
    receiver.subscribe(&[("out/#", 1)]);
    let mut sender = Client::connect(&server, V5, "sender");
    let mut send = |number: usize| sender.publish("out/t", number.to_string() + &" ".repeat(20 * 1024), 1);
    for number in 0..4 {
        send(number);
        receiver.peek_message();
    }
    (4..7).for_each(|number| {
        send(number);
    });
    let (mut next, _) = Client::connect_as(&server, &persistent);
    for expected in 0..7 {
        let message = next.message();
        assert_eq!((message.dup, message.text().trim_end()), (expected < 4, expected.to_string().as_str()));
    }
    receiver.discard_until_closed();
}

#[test]
fn a_packet_above_the_servers_maximum_ends_the_connection() {
    let server = Server::with(SMALL);
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "large");
        // Decided by the header; the rest need not arrive.
        client.send(&Publish::new("large/t", vec![b'x'; 24 * 1024]).encode(protocol, 0, 0)[..64]);
        assert_eq!(client.closed(), (protocol == V5).then_some(0x95), "{protocol:?}");
    }
    let mut client = Client::connect(&server, V5, "fits");
    client.subscribe(&[("fits", 0)]);
    client.publish("fits", vec![b'x'; 24 * 1024 - 16], 1);
    assert_eq!(client.message().payload.len(), 24 * 1024 - 16);
}

/// [MQTT-3.1.2-25]: what is too large for a subscriber is not sent to it, as if it had been.
#[test]
fn a_message_above_the_clients_maximum_is_skipped() {
    let server = Server::start();
    let hundred = Connect::new(V5, "small").property(prop::MAXIMUM_PACKET_SIZE, Value::Four(100));
    let (mut small, _) = Client::connect_as(&server, &hundred);
    let mut other = Client::connect(&server, V5, "other");
    for client in [&mut small, &mut other] {
        client.subscribe(&[("size/#", 1)]);
    }
    for qos in [0, 1] {
        other.publish("size/t", vec![b'x'; 101], qos);
    }
    other.publish("size/t", "small", 1);
    assert_eq!(small.message().text(), "small");
    assert_eq!(other.message().payload.len(), 101);
    assert_eq!(other.message().payload.len(), 101);
    small.ping();
}

/// [MQTT-3.4.2-2]: a reason string that would make a packet too large for the client is left out; the reason stays.
#[test]
fn a_reason_string_above_the_clients_maximum_is_omitted() {
    let server = Server::start();
    let small = Connect::new(V5, "small").property(prop::MAXIMUM_PACKET_SIZE, Value::Four(24));
    let (mut client, _) = Client::connect_as(&server, &small);
    let ack = client.publish_message(&Publish::new("shadow/small/update", r#"{"state": {}, "version": 7}"#), 1);
    assert_eq!((ack.code, ack.properties.text(prop::REASON_STRING)), (0x83, None));
    client.ping();
}

/// [MQTT-3.1.2-24]: nothing larger than the client's maximum leaves. What may be left out is; where the rest is still
/// too large, the connection ends.
#[test]
fn no_packet_exceeds_the_clients_maximum() {
    let server = Server::with(SMALL);
    let small = |bytes| Connect::new(V5, "small").property(prop::MAXIMUM_PACKET_SIZE, Value::Four(bytes));
    let filters: Vec<String> = (0..40).map(|n| format!("f/{n}")).collect();
    let subscribe = |filters: &[String]| {
        let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 1)).collect();
        wire::subscribe(V5, 7, &filters, &Properties::none())
    };
    let unsubscribe = |filters: &[String]| {
        let filters: Vec<_> = filters.iter().map(String::as_str).collect();
        wire::unsubscribe(V5, 8, &filters)
    };
    // SUBACK and UNSUBACK have five bytes beside the codes.
    let (mut client, _) = Client::connect_as(&server, &small(25));
    assert!(client.is_answered(&subscribe(&filters[..20])), "a SUBACK of 25 bytes");
    for packet in [subscribe(&filters[..21]), unsubscribe(&filters[..21])] {
        let (mut client, _) = Client::connect_as(&server, &small(25));
        client.send(packet);
        assert_eq!(client.closed(), Some(0x95));
    }
    // A DISCONNECT goes without its reason string.
    for (bytes, explained) in [(25, false), (200, true)] {
        let (mut client, _) = Client::connect_as(&server, &small(bytes));
        client.send(wire::frame(0x60, &[0, 1])); // wrong flags
        let disconnect = client.wait("DISCONNECT", |packet| match packet {
            Packet::Disconnect { code, properties } => Some((*code, properties.text(prop::REASON_STRING).is_some())),
            _ => None,
        });
        assert_eq!(disconnect, (0x81, explained), "{bytes}");
    }
    // A CONNACK goes without its reason string, too.
    for (bytes, code, explained) in [(5, 0x95, false), (20, 0x90, false), (200, 0x90, true)] {
        let mut client = Client::open(&server, V5);
        client.send(small(bytes).will(Publish::new("shadow/d/x", ""), 0).encode());
        let connack = client.connack();
        assert_eq!(
            (connack.code, connack.properties.text(prop::REASON_STRING).is_some()),
            (code, explained),
            "{bytes}"
        );
    }
    // Not even the shortest answer fits, be the CONNECT well formed or not.
    for connect in [small(4), small(4).will(Publish::new("w/#", ""), 0)] {
        assert!(!Client::open(&server, V5).is_answered(&connect.encode()), "{connect:?}");
    }
    // The CONNACK of an accepted client has the limits.
    let mut client = Client::open(&server, V5);
    client.send(small(12).encode());
    assert_eq!(client.connack().code, 0x95);
    client.discard_until_closed();
}

fn aliased(topic: &str, payload: &str, alias: u16) -> Vec<u8> {
    Publish::new(topic, payload).property(prop::TOPIC_ALIAS, Value::Two(alias)).encode(V5, 0, 0)
}

#[test]
fn an_alias_stands_for_its_topic() {
    let server = Server::with(SMALL);
    let mut receiver = Client::connect(&server, V5, "receiver");
    receiver.subscribe(&[("alias/#", 0)]);
    let mut sender = Client::connect(&server, V5, "sender");
    sender.send(aliased("alias/a", "1", 1));
    sender.send(aliased("alias/b", "2", 3));
    sender.send(aliased("", "3", 1));
    sender.send(aliased("", "4", 3));
    sender.send(aliased("alias/c", "5", 1));
    sender.send(aliased("", "6", 1));
    let expected = [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("c", "5"), ("c", "6")];
    for (topic, payload) in expected {
        let message = receiver.message();
        assert_eq!((message.topic, &*message.payload), (format!("alias/{topic}"), payload.as_bytes()));
        // [MQTT-3.3.2-10]: this receiver allows none.
        assert_eq!(message.properties.number(prop::TOPIC_ALIAS), None);
    }
}

#[test]
fn a_bad_alias_ends_the_connection() {
    let server = Server::with(SMALL);
    // An alias out of range, one never set, one of an earlier connection, and no topic at all.
    let rows = [
        aliased("t", "", 0),
        aliased("t", "", 17),
        aliased("", "", 2),
        aliased("", "", 1),
        Publish::new("", "").encode(V5, 0, 0),
    ];
    let mut earlier = Client::connect(&server, V5, "bad");
    earlier.send(aliased("t", "", 1));
    earlier.ping();
    for bytes in rows {
        let mut client = Client::connect(&server, V5, "bad");
        client.send(&bytes);
        let reason = client.closed();
        assert!(matches!(reason, Some(0x81 | 0x82 | 0x94)), "{bytes:02x?}: {reason:02x?}");
    }
}

/// Above its rate a client is read more slowly, but it is read: a server once set the time to go on only after it had
/// gone to sleep for good.
#[test]
fn a_client_above_its_rate_is_throttled() {
    let limits = "publishes_rate = \"200/s burst 200\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "hasty");
        client.subscribe(&[("rate/t", 0)]);
        let frames: Vec<u8> =
            (0..500).flat_map(|number| Publish::new("rate/t", number.to_string()).encode(protocol, 0, 0)).collect();
        client.send(frames);
        for number in 0..500 {
            assert_eq!(client.message().text(), number.to_string());
        }
        client.ping();
    }
}

/// More filters than a SUBSCRIBE may hold are refused, those within are granted.
#[test]
fn filters_above_the_maximum_are_refused() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "many");
        let subscribe = |client: &mut Client, names: std::ops::Range<u32>| {
            let filters: Vec<String> = names.map(|name| format!("many/{name}")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
            client.subscribe_with(&filters, &Properties::none())
        };
        let refused = if protocol == V5 { 0x97 } else { 0x80 };
        let granted = |granted: usize, all: usize| [vec![0; granted], vec![refused; all - granted]].concat();
        assert_eq!(subscribe(&mut client, 0..514), granted(512, 514), "{protocol:?}");
        for part in 1..8 {
            assert_eq!(subscribe(&mut client, part * 1_000..part * 1_000 + 511), [0; 511], "{protocol:?}");
        }
        assert_eq!(subscribe(&mut client, 10_000..10_010), granted(7, 10), "{protocol:?}");
        // Those it has may be renewed.
        assert_eq!(subscribe(&mut client, 0..3), [0, 0, 0], "{protocol:?}");
        assert_eq!(refused_before_unsubscribing(&mut client, protocol), 0);
    }
}

/// Home Assistant, as shipped, subscribes at its start to 2,000 filters, 500 in each SUBSCRIBE.
#[test]
fn the_subscriptions_of_home_assistant_are_granted() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "home");
        for part in 0..4 {
            let filters: Vec<String> = (0..500).map(|name| format!("homeassistant/{part}/{name}/config")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
            assert_eq!(client.subscribe_with(&filters, &Properties::none()), [0; 500], "{protocol:?}");
        }
        client.publish("homeassistant/3/499/config", "last", 1);
        assert_eq!(client.message().text(), "last");
    }
}

/// As shipped a message may be nearly 1 MiB, whoever is behind in reading gets it all the same.
#[test]
fn a_large_message_arrives() {
    let server = Server::start();
    let payload = "x".repeat(1_000_000);
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "large");
        client.subscribe(&[("large", 1)]);
        for _ in 0..2 {
            client.publish("large", &payload, 1);
            assert_eq!(client.message().payload.len(), payload.len());
        }
    }
}

/// Gives one filter back and takes another in its place; the code for that one.
fn refused_before_unsubscribing(client: &mut Client, protocol: Protocol) -> u8 {
    let codes = client.unsubscribe(&["many/0"]);
    assert_eq!(codes, if protocol == V5 { vec![0] } else { vec![] });
    client.subscribe_with(&[("many/new", 0)], &Properties::none())[0]
}
