//! The section `[cluster]` in a running node.

use crate::harness::cluster::Cluster;

/// The section is accepted, and nothing of it used yet.
#[test]
fn nodes_start_with_the_section() {
    let mut cluster = Cluster::start("");
    for node in &mut cluster.nodes {
        node.assert_alive();
        let log = node.log();
        assert!(log.contains("[cluster] has no effect yet") && !log.contains("secret"), "{log}");
        node.stop();
    }
}
