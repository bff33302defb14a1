//! The purge of tombstones in a cluster, asked for at one node.

use serde_json::{Value, json};

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    server::UNLIMITED,
};

/// Documents of about 200 kB: the journal keeps less than a hundred of their changes.
const LARGE_BYTES: usize = 200_000;

fn delete(cluster: &Cluster, node: usize, device: &str) {
    let reply = cluster.send(node, &format!("DELETE /v1/devices/{device}/shadow\nIf-Match: *"), &Value::Null);
    assert!([200, 204].contains(&reply.status), "{}", reply.text());
}

/// The tombstones that a node has dropped, and kept, for all devices.
fn purge(cluster: &Cluster, node: usize, dry_run: bool) -> (u64, u64) {
    let reply = cluster.send(node, &format!("POST /v1/purge?deleted=true&dry_run={dry_run}"), &Value::Null);
    assert!([200, 201].contains(&reply.status), "{}", reply.text());
    let purged = reply.json();
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
        cluster.put(asked, device, &json!({ "n": 1 }));
        delete(&cluster, asked, device);
    }
    assert_eq!(purge(&cluster, asked, false), (0, 2), "their changes are in the journal");
    cluster.nodes[away].kill();
    let mut number = 0;
    eventually("the deletions to leave the journal", || {
        number += 1;
        // Another text each time: the journal has what changes.
        cluster.put(asked, "large", &json!({ "text": format!("{number}{}", "x".repeat(LARGE_BYTES)) }));
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
    let created = cluster.put(away, "gone-1", &json!({ "n": 2 })).json();
    assert_eq!(created["version"], 3, "{created}");
    for node in 0..NODES {
        let document = eventually("the shadow at each node", || cluster.document(node, "gone-1"));
        assert_eq!(document["version"], 3, "node {}", node + 1);
    }
}
