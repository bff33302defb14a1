//! Retained messages across restarts and kills.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use crate::harness::{
    client::Client,
    server::Server,
    wire::{BOTH, Connect, Publish, V4, V5, Value, prop},
};

/// Returns the retained messages that `filter` selects, by topic.
fn retained(server: &Server, filter: &str) -> BTreeMap<String, String> {
    let mut client = Client::connect(server, V5, "reader");
    client.subscribe(&[("marker", 1), (filter, 1)]);
    client.publish("marker", "", 1);
    let mut messages = BTreeMap::new();
    loop {
        let message = client.message();
        if message.topic == "marker" {
            return messages;
        }
        messages.insert(message.topic.clone(), message.text().to_owned());
    }
}

#[test]
fn acknowledged_retained_messages_survive_sigkill() {
    let mut server = Server::start();
    let mut expected = BTreeMap::new();
    for round in 0..3 {
        for (protocol, qos) in BOTH.into_iter().flat_map(|protocol| [(protocol, 1), (protocol, 2)]) {
            let mut client = Client::connect(&server, protocol, "writer");
            for n in 0..10 {
                let (topic, payload) = (format!("r/{qos}/{n}"), format!("round {round} of {protocol:?}"));
                client.publish_message(&Publish::new(&topic, &payload).retain(), qos);
                expected.insert(topic, payload);
            }
            // Cleared in one round, set again in the next.
            let topic = format!("r/{qos}/{round}");
            client.publish_message(&Publish::new(&topic, "").retain(), qos);
            expected.remove(&topic);
        }
        server.kill();
        server.restart();
        assert_eq!(retained(&server, "r/#"), expected, "round {round}");
    }
}

#[test]
fn retained_messages_at_qos_0_survive_a_clean_stop() {
    let mut server = Server::start();
    let mut client = Client::connect(&server, V4, "writer");
    for n in 0..100 {
        client.send(Publish::new(&format!("r/{n}"), n.to_string()).retain().encode(V4, 0, 0));
    }
    client.publish("marker", "", 1);
    server.stop();
    server.restart();
    assert_eq!(retained(&server, "r/+").len(), 100);
}

#[test]
fn properties_and_expiry_of_a_retained_message_survive() {
    let mut server = Server::start();
    let mut client = Client::connect(&server, V5, "writer");
    let publish = |topic, expiry| {
        let publish = Publish::new(topic, "21").retain().property(prop::MESSAGE_EXPIRY, Value::Four(expiry));
        publish.property(prop::CONTENT_TYPE, Value::Text("text/plain".into()))
    };
    client.publish_message(&publish("r/long", 10_000), 1);
    client.publish_message(&publish("r/short", 1), 1);
    server.kill();
    // The interval passes while no server runs.
    thread::sleep(Duration::from_millis(2_100));
    server.restart();
    let mut reader = Client::connect(&server, V5, "reader");
    reader.subscribe(&[("marker", 1), ("r/#", 1)]);
    reader.publish("marker", "", 1);
    let message = reader.message();
    assert_eq!((message.topic.as_str(), message.text()), ("r/long", "21"));
    assert!(message.retain);
    assert_eq!(message.properties.text(prop::CONTENT_TYPE), Some("text/plain"));
    let left = message.properties.number(prop::MESSAGE_EXPIRY).unwrap();
    assert!((1..=9_998).contains(&left), "{left} seconds are left");
    assert_eq!(reader.message().topic, "marker", "the other one has expired");
}

/// A kill lost the retained messages that a new subscription had not been sent, and the client, which finds its session present, does not
/// subscribe again.
#[test]
fn the_rest_of_the_retained_messages_comes_after_a_kill() {
    let mut server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    let expected: BTreeSet<_> = (0..20).map(|number| format!("r/{number}")).collect();
    for topic in &expected {
        sender.publish_message(&Publish::new(topic, topic).retain(), 1);
    }
    let slow = Connect::persistent(V5, "slow").property(prop::RECEIVE_MAXIMUM, Value::Two(2));
    let (mut reader, _) = Client::connect_as(&server, &slow);
    reader.subscribe(&[("r/#", 1)]);
    (0..2).for_each(|_| drop(reader.peek_message()));
    server.kill();
    server.restart();
    let (mut reader, connack) = Client::connect_as(&server, &slow);
    assert!(connack.session_present);
    let mut received = BTreeSet::new();
    while received != expected {
        received.insert(reader.message().topic);
    }
    // All that comes twice as well, and the note that all were sent is on disk with the SUBACK.
    reader.subscribe(&[("marker", 1)]);
    reader.publish("marker", "", 1);
    while reader.message().topic != "marker" {}
    reader.subscribe(&[("other", 1)]);
    server.kill();
    server.restart();
    let (mut reader, connack) = Client::connect_as(&server, &slow);
    assert!(connack.session_present);
    reader.publish("marker", "again", 1);
    assert_eq!(reader.message().text(), "again", "nothing is due any more");
}
