//! QoS 0, 1 and 2, in and out.

use crate::harness::{
    client::Client,
    packet::Packet,
    server::Server,
    wire::{self, BOTH, Connect, Publish, V5},
};

/// Every pair of publish and subscription QoS arrives at the smaller of the two.
#[test]
fn a_message_arrives_at_the_smaller_qos() {
    let server = Server::start();
    for publisher in BOTH {
        for subscriber in BOTH {
            let mut sender = Client::connect(&server, publisher, "sender");
            for granted in 0..3 {
                let mut receiver = Client::connect(&server, subscriber, "receiver");
                receiver.subscribe(&[("q/t", granted)]);
                for qos in 0..3 {
                    let payload = format!("{qos} to {granted}");
                    assert!(sender.publish("q/t", &payload, qos) < 0x80);
                    let message = receiver.message();
                    assert_eq!(
                        (message.topic.as_str(), message.text(), message.qos, message.dup, message.retain),
                        ("q/t", payload.as_str(), qos.min(granted), false, false),
                        "{publisher:?} to {subscriber:?}"
                    );
                }
                receiver.disconnect();
            }
        }
    }
}

/// The order of one publisher's messages, with many under way at once.
#[test]
fn messages_arrive_in_the_order_they_were_sent() {
    let server = Server::start();
    for protocol in BOTH {
        for qos in 0..3 {
            let mut sender = Client::connect(&server, protocol, "sender");
            let mut receiver = Client::connect(&server, protocol, "receiver");
            receiver.subscribe(&[("order/#", qos)]);
            for number in 1..=20u16 {
                sender.send(Publish::new("order/t", number.to_string()).encode(protocol, qos, number));
            }
            for number in 1..=20u16 {
                match qos {
                    0 => {}
                    1 => assert!(sender.puback(number).code < 0x80),
                    _ => {
                        assert!(sender.pubrec(number).code < 0x80);
                        sender.send(wire::ack(0x62, number));
                        assert_eq!(sender.pubcomp(number).code, 0);
                    }
                }
            }
            for number in 1..=20u16 {
                assert_eq!(receiver.message().text(), number.to_string(), "{protocol:?} QoS {qos}");
            }
        }
    }
}

/// A resend before PUBREL is the same message; the identifier used again after PUBCOMP is another.
#[test]
fn a_qos_2_resend_is_delivered_once() {
    let server = Server::start();
    for protocol in BOTH {
        let mut receiver = Client::connect(&server, protocol, "receiver");
        receiver.subscribe(&[("two/#", 2)]);
        let connect = Connect::persistent(protocol, &format!("sender-{protocol:?}"));
        let (mut sender, _) = Client::connect_as(&server, &connect);
        let message = Publish::new("two/t", "once");

        sender.send(message.encode(protocol, 2, 7));
        sender.pubrec(7);
        sender.send(message.clone().dup().encode(protocol, 2, 7));
        assert!(sender.pubrec(7).code < 0x80, "the same PUBREC again");
        sender.abandon();

        let (mut sender, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        sender.send(message.clone().dup().encode(protocol, 2, 7));
        assert!(sender.pubrec(7).code < 0x80, "also after the session was resumed");
        sender.send(wire::ack(0x62, 7));
        sender.pubcomp(7);
        assert!(sender.publish("two/t", "marker", 2) < 0x80);
        sender.send(Publish::new("two/t", "another").encode(protocol, 2, 7));
        sender.pubrec(7);
        sender.send(wire::ack(0x62, 7));
        sender.pubcomp(7);

        let heard: Vec<_> = receiver.messages(3).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(heard, ["once", "marker", "another"], "{protocol:?}");
        sender.disconnect();
    }
}

/// Exactly the unacknowledged messages come again, marked as resends and under their first identifiers.
#[test]
fn unacknowledged_messages_are_resent_after_a_resume() {
    let server = Server::start();
    for protocol in BOTH {
        let connect = Connect::persistent(protocol, &format!("receiver-{protocol:?}"));
        let (mut receiver, _) = Client::connect_as(&server, &connect);
        receiver.subscribe(&[("again/#", 2)]);
        let mut sender = Client::connect(&server, protocol, "sender");
        for (payload, qos) in [("one", 1), ("acknowledged", 1), ("two", 2), ("received", 2)] {
            sender.publish("again/t", payload, qos);
        }
        let first: Vec<_> = (0..4).map(|_| receiver.peek_message()).collect();
        receiver.send(wire::ack(0x40, first[1].id));
        receiver.send(wire::ack(0x50, first[3].id));
        receiver.pubrel(first[3].id);
        receiver.abandon();

        let (mut receiver, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        let mut seen = Vec::new();
        for _ in 0..3 {
            match receiver.recv() {
                Packet::Publish(message) => {
                    assert!(message.dup, "{message:?}");
                    seen.push((message.id, message.text().to_owned()));
                }
                Packet::PubRel(ack) => seen.push((ack.id, "PUBREL".to_owned())),
                other => panic!("{other:?}"),
            }
        }
        seen.sort();
        let mut expected = [(first[0].id, "one"), (first[2].id, "two"), (first[3].id, "PUBREL")];
        expected.sort();
        assert_eq!(seen, expected.map(|(id, text)| (id, text.to_owned())), "{protocol:?}");
        receiver.send(wire::ack(0x70, first[3].id));
        receiver.ping();
    }
}

/// A subscriber that refuses a QoS 2 message with its PUBREC is done with it: no PUBREL, no resend.
#[test]
fn a_message_refused_by_its_receiver_is_complete() {
    let server = Server::start();
    let connect = Connect::persistent(V5, "refuses");
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.subscribe(&[("refuse", 2)]);
    client.publish("refuse", "unwanted", 2);
    let message = client.peek_message();
    let [high, low] = message.id.to_be_bytes();
    client.send(wire::frame(0x50, &[high, low, 0x80]));
    client.ping();
    client.abandon();
    let (mut client, answer) = Client::connect_as(&server, &connect);
    assert!(answer.session_present);
    client.publish("refuse", "next", 1);
    assert_eq!(client.message().text(), "next");
}

/// [MQTT-4.3.3]: what the server does not know is completed, and MQTT 5 says so.
#[test]
fn an_unknown_pubrel_is_completed() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        client.send(wire::ack(0x62, 99));
        assert_eq!(client.pubcomp(99).code, if protocol == V5 { 0x92 } else { 0 });
        client.ping();
    }
}

/// Acknowledgements of messages that were never sent change nothing.
#[test]
fn unexpected_acknowledgements_are_ignored() {
    let server = Server::start();
    for protocol in BOTH {
        for first in [0x40, 0x70] {
            let mut client = Client::connect(&server, protocol, "client");
            let _ = client.try_send(wire::ack(first, 4711));
            let _ = client.try_send(wire::DISCONNECT);
            client.closed();
        }
        let mut client = Client::connect(&server, protocol, "client");
        client.subscribe(&[("fine", 1)]);
        client.publish("fine", "still", 1);
        assert_eq!(client.message().text(), "still");
    }
}

/// Identifiers of what the server sends are unique among what is under way, beyond 65,535 messages.
#[test]
fn packet_identifiers_wrap_around() {
    let server = Server::with(crate::harness::server::UNLIMITED);
    let mut receiver = Client::connect(&server, V5, "receiver");
    receiver.subscribe(&[("wrap", 1)]);
    let mut sender = Client::connect(&server, V5, "sender");
    sender.publish("wrap", "held", 1);
    let held = receiver.peek_message();
    let total = 66_000u32;
    let batch = 50;
    for start in (0..total).step_by(batch) {
        let frames: Vec<u8> = (start..start + batch as u32)
            .flat_map(|number| Publish::new("wrap", number.to_string()).encode(V5, 1, (number % 60_000 + 1) as u16))
            .collect();
        sender.send(frames);
        let mut acks = Vec::new();
        for number in start..start + batch as u32 {
            let message = receiver.peek_message();
            assert_eq!(message.text(), number.to_string());
            assert_ne!(message.id, held.id, "the identifier of a message still under way is used again");
            acks.extend(wire::ack(0x40, message.id));
            sender.puback((number % 60_000 + 1) as u16);
        }
        receiver.send(acks);
    }
    receiver.send(wire::ack(0x40, held.id));
    receiver.ping();
    println!("{total} messages past one that was never acknowledged");
}
