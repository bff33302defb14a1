//! The broker of several nodes: messages, retained messages and sessions.

use crate::harness::{
    client::Client,
    cluster::{Cluster, NODES},
    eventually,
    server::UNLIMITED,
    wire::{Publish, V5},
};

const SESSION_TAKEN_OVER: u8 = 0x8E;

#[test]
fn a_message_reaches_subscribers_at_all_nodes_once() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let mut subscribers: Vec<_> = (0..NODES)
        .map(|node| {
            let mut client = Client::connect(&cluster.nodes[node], V5, &format!("subscriber-{node}"));
            client.subscribe(&[("plant/+", 1)]);
            client
        })
        .collect();
    for from in 0..NODES {
        let mut publisher = Client::connect(&cluster.nodes[from], V5, "publisher");
        for number in 0..20 {
            assert_eq!(publisher.publish("plant/1", format!("{from}-{number}"), u8::from(number % 2 == 0)), 0);
        }
        for subscriber in &mut subscribers {
            for number in 0..20 {
                let message = subscriber.message();
                assert_eq!(String::from_utf8_lossy(&message.payload), format!("{from}-{number}"));
            }
        }
    }
    // Nothing comes twice: the next message is one that is sent now.
    for (node, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.subscribe(&[("end", 1)]);
        Client::connect(&cluster.nodes[(node + 1) % NODES], V5, "ender").publish("end", "", 1);
        assert_eq!(subscriber.message().topic, "end", "node {node}");
        subscriber.unsubscribe(&["end"]);
    }
}

#[test]
fn all_nodes_retain_the_same_message() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let mut publishers: Vec<_> =
        (0..NODES).map(|node| Client::connect(&cluster.nodes[node], V5, &format!("publisher-{node}"))).collect();
    for round in 0..20 {
        for (node, publisher) in publishers.iter_mut().enumerate() {
            let message = Publish { retain: true, ..Publish::new("plant/state", format!("{round}-{node}")) };
            assert_eq!(publisher.publish_message(&message, 1).code, 0);
        }
    }
    let retained = |cluster: &Cluster, node: usize| {
        let mut reader = Client::connect(&cluster.nodes[node], V5, &format!("reader-{node}"));
        reader.subscribe(&[("plant/state", 1)]);
        String::from_utf8_lossy(&reader.message().payload).into_owned()
    };
    // Each publisher waited for its own node. The last message is in the log after all others.
    let last = format!("19-{}", NODES - 1);
    for node in 0..NODES {
        eventually("the last message at each node", || (retained(&cluster, node) == last).then_some(()));
    }
    cluster.nodes[1].kill();
    let message = Publish { retain: true, ..Publish::new("plant/state", "while one is away") };
    publishers[0].publish_message(&message, 1);
    cluster.nodes[1].restart();
    cluster.wait_until_ready(1);
    eventually("the message that was missed", || (retained(&cluster, 1) == "while one is away").then_some(()));
}

#[test]
fn a_client_has_one_session() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let mut former: Option<Client> = None;
    for turn in 0..2 * NODES {
        let mut client = Client::connect(&cluster.nodes[turn % NODES], V5, "roamer");
        if let Some(mut former) = former.take() {
            assert_eq!(former.closed(), Some(SESSION_TAKEN_OVER), "turn {turn}");
        }
        client.ping();
        former = Some(client);
    }
    // The last one stays.
    former.unwrap().ping();
}
