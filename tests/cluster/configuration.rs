//! The section `[cluster]` in a running node.

use crate::harness::cluster::Cluster;

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
