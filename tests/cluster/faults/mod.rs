//! Clients at all nodes while the six processes are killed, stopped for some time and ended, and connections between nodes and NATS
//! are cut, delayed, or cut one way: nothing accepted is lost, nothing has an effect twice, every node has one history, and what clients
//! saw of each shadow is linearizable.
//!
//! `UMBRA_TEST_CLUSTER_ROUNDS` is the number of rounds. Each has the seed that follows the last; the first is `UMBRA_TEST_CLUSTER_SEED`.

pub mod fleet;
mod injection;
mod linearizable;
mod reader;
mod subscriber;
mod verdict;
pub mod writer;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Seed,
    cluster::{Cluster, NODES},
    eventually,
    server::UNLIMITED,
};
use fleet::{Fleet, RETAINED_TOPICS};
use writer::{Update, Writer};

const WRITERS: usize = 9;
/// Load before the first fault.
const BEFORE: Duration = Duration::from_secs(1);

#[test]
fn nothing_is_lost_or_repeated_under_faults() {
    // A subscriber whose node was stopped receives all it missed.
    let mut cluster = Cluster::start(format!("{}\noutbox_bytes_max = \"64 MiB\"", UNLIMITED.limits).leak());
    let first = number_from("UMBRA_TEST_CLUSTER_SEED", 1);
    for seed in first..first + number_from("UMBRA_TEST_CLUSTER_ROUNDS", 3) {
        play(&mut cluster, seed);
    }
}

fn play(cluster: &mut Cluster, seed: u64) {
    let faults = injection::plan(&mut Seed(seed));
    println!("seed {seed}: {faults:?}");
    round(cluster, seed, |cluster, fleet| injection::run(cluster, fleet, &faults));
}

/// One round, with devices of its own: `disturb` is called under load. Returns the updates of the writers.
pub fn round(cluster: &mut Cluster, seed: u64, disturb: impl FnOnce(&mut Cluster, &Fleet)) -> Vec<Update> {
    let fleet = &Fleet::new(cluster, seed);
    let updates = thread::scope(|scope| {
        // Also after a failure: the scope waits for all threads.
        let _ends = fleet.end_when_dropped();
        for node in 0..NODES {
            thread::Builder::new()
                .name(format!("subscriber {}", node + 1))
                .spawn_scoped(scope, move || subscriber::run(fleet, node))
                .unwrap();
            thread::Builder::new()
                .name(format!("reader {}", node + 1))
                .spawn_scoped(scope, move || reader::run(fleet, node))
                .unwrap();
        }
        let writers: Vec<_> = (0..WRITERS).map(|number| Writer::new(fleet, number, seed)).collect();
        let writers: Vec<_> = writers.into_iter().map(|writer| scope.spawn(move || writer.run())).collect();
        thread::sleep(BEFORE);
        disturb(cluster, fleet);
        let mended = Instant::now();
        (0..NODES).for_each(|node| cluster.wait_until_ready(node));
        let ready = mended.elapsed();
        eventually("every writer to have an accepted update after the faults", || fleet.has_recovered(mended));
        fleet.stop_writers();
        let mut updates: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        eventually("all subscriptions", || fleet.are_all_subscribed());
        eventually("no request that waits at a node", || {
            let is_idle = |node| cluster.get(node, "/metrics").text().contains("\numbra_cluster_waiting_requests 0\n");
            (0..NODES).all(is_idle).then_some(())
        });
        // Every subscriber sees these, and all changes between those before and these.
        let devices: BTreeSet<_> = updates.iter().map(|update| update.device.clone()).collect();
        updates.extend(Writer::new(fleet, WRITERS, seed).close(devices.iter().map(String::as_str)));
        let reads = verdict::check(cluster, fleet, &updates);
        let sizes: Vec<_> = cluster.nodes.iter().map(|node| node.resident_bytes() >> 20).collect();
        println!(
            "  {} updates, {reads}; ready {ready:.1?} after the last fault; longest answer {:.1?}; MiB of the nodes: {sizes:?}",
            updates.len(),
            updates.iter().map(|update| update.answered - update.sent).max().unwrap_or_default(),
        );
        updates
    });
    cluster.nodes.iter_mut().for_each(|node| node.assert_alive());
    assert_eq!(RETAINED_TOPICS, fleet.retained_topics().len());
    updates
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
