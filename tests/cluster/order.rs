//! One order of updates for the clients of all nodes.

use serde_json::json;

use crate::harness::{
    client::Client,
    cluster::{Cluster, NODES},
    server::UNLIMITED,
    shadow::{Requester, version},
    wire::V5,
};

const UPDATES: u64 = 60;
const SHADOW: &str = "shadow/lamp";

#[test]
fn updates_at_all_nodes_have_one_order_everywhere() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let mut subscribers: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| {
            let mut client = Client::connect(node, V5, &format!("subscriber-{}", node.address.port()));
            client.subscribe(&[("shadow/+/update/accepted", 1)]);
            client
        })
        .collect();
    let mut writers: Vec<_> = (1..)
        .zip(&cluster.nodes)
        .map(|(number, node)| Requester::private(node, &format!("writer-{number}"), SHADOW))
        .collect();
    for expected in 1..=UPDATES {
        let writer = &mut writers[expected as usize % NODES];
        let accepted = writer.update(json!({"state": {"desired": {"step": expected}}}));
        assert_eq!(version(&accepted), expected);
    }
    for (node, subscriber) in subscribers.iter_mut().enumerate() {
        for expected in 1..=UPDATES {
            let message = subscriber.message();
            let body = message.json();
            assert_eq!(
                (version(&body), &body["state"]["desired"]["step"]),
                (expected, &json!(expected)),
                "node {node}"
            );
        }
        // Nothing comes twice: the next message is one that is sent now.
        subscriber.subscribe(&[("end", 1)]);
        subscriber.publish("end", "", 1);
        assert_eq!(subscriber.message().topic, "end", "node {node}");
    }
    let documents: Vec<_> = (0..NODES).map(|node| cluster.document(node, "lamp")).collect();
    assert!(documents.iter().all(|document| *document == documents[0] && document.is_some()), "{documents:?}");
}
