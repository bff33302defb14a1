//! The purge of tombstones in a cluster, asked for at one node.

use serde_json::{Value, json};

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    http::Http,
    server::UNLIMITED,
};

/// Documents of about 200 kB: the journal keeps less than a hundred of their changes.
const LARGE_BYTES: usize = 200_000;

fn send(cluster: &Cluster, node: usize, head: &str, body: &str) -> Value {
    let reply = Http::connect(cluster.nodes[node].address_of("web")).send(head, body.as_bytes());
    assert!([200, 201].contains(&reply.status), "{head}: {}", reply.text());
    reply.json()
}

fn put(cluster: &Cluster, node: usize, device: &str, desired: &Value) -> Value {
    let head = format!("PUT /v1/devices/{device}/shadow?upsert=true HTTP/1.1\nContent-Type: application/json");
    send(cluster, node, &head, &json!({ "desired": desired }).to_string())
}

fn delete(cluster: &Cluster, node: usize, device: &str) {
    let head = format!("DELETE /v1/devices/{device}/shadow HTTP/1.1\nIf-Match: *");
    let reply = Http::connect(cluster.nodes[node].address_of("web")).send(&head, b"");
    assert!([200, 204].contains(&reply.status), "{}", reply.text());
}

/// The tombstones that a node has dropped, and kept, for all devices.
fn purge(cluster: &Cluster, node: usize, dry_run: bool) -> (u64, u64) {
    let purged = send(cluster, node, &format!("POST /v1/purge?deleted=true&dry_run={dry_run} HTTP/1.1"), "");
    (purged["purged"].as_u64().unwrap(), purged["kept"].as_u64().unwrap())
}

/// The tombstones of a node.
fn tombstones(cluster: &Cluster, node: usize) -> u64 {
    eventually("the number of tombstones", || {
        let metrics = cluster.get(node, "/metrics").text();
        metrics.lines().find_map(|line| line.strip_prefix("umbra_shadows{state=\"deleted\"} ")?.parse().ok())
    })
}

#[test]
fn all_nodes_drop_the_tombstones_that_one_is_asked_to() {
    let limits = format!("{}\ndocument_bytes_max = \"256 KiB\"", UNLIMITED.limits);
    let mut cluster = Cluster::with_store(limits.leak(), "journal_bytes_max = \"16 MiB\"");
    let decider = cluster.decider();
    let (asked, away) = ((decider + 1) % NODES, (decider + 2) % NODES);
    for device in ["gone-1", "gone-2"] {
        put(&cluster, asked, device, &json!({ "n": 1 }));
        delete(&cluster, asked, device);
    }
    assert_eq!(purge(&cluster, asked, false), (0, 2), "their changes are in the journal");
    cluster.nodes[away].kill();
    let mut number = 0;
    eventually("the deletions to leave the journal", || {
        number += 1;
        // Another text each time: the journal has what changes.
        put(&cluster, asked, "large", &json!({ "text": format!("{number}{}", "x".repeat(LARGE_BYTES)) }));
        (purge(&cluster, asked, true) == (2, 0)).then_some(())
    });
    assert_eq!([asked, decider].map(|node| tombstones(&cluster, node)), [2, 2]);
    assert_eq!(purge(&cluster, asked, false), (2, 0));
    assert_eq!(purge(&cluster, decider, false), (0, 0));
    assert_eq!([asked, decider].map(|node| tombstones(&cluster, node)), [0, 0]);
    // A node that was away drops them when it reads the record.
    cluster.nodes[away].restart();
    cluster.wait_until_ready(away);
    assert_eq!(tombstones(&cluster, away), 0);
    // Versions go on at all nodes.
    let created = put(&cluster, away, "gone-1", &json!({ "n": 2 }));
    assert_eq!(created["version"], 3, "{created}");
    for node in 0..NODES {
        let document = eventually("the shadow at each node", || cluster.document(node, "gone-1"));
        assert_eq!(document["version"], 3, "node {}", node + 1);
    }
}
