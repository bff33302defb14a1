//! The section `[cluster]` in a running node, and the start of one.

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    proxy::Fault,
};

#[test]
fn a_node_logs_no_credentials() {
    let mut cluster = Cluster::start("");
    for node in &mut cluster.nodes {
        node.assert_alive();
        let log = node.log();
        assert!(!log.contains("secret"), "{log}");
        node.stop();
    }
}

/// SIGTERM ends a node while it connects, and while it finds out if its number is taken and where the log ends.
#[test]
fn a_node_that_starts_can_be_ended() {
    let mut cluster = Cluster::start("");
    let node = (cluster.decider() + 1) % NODES;
    cluster.nodes[node].stop();
    for (fault, mark) in [(Fault::Refused, "answers /readyz"), (Fault::None, "the store is open")] {
        cluster.set_fault(node, fault);
        let server = &mut cluster.nodes[node];
        server.begin_restart(&[]);
        eventually(mark, || server.log().contains(mark).then_some(()));
        server.stop();
    }
    cluster.nodes[node].restart();
    cluster.wait_until_ready(node);
}
