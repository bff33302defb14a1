//! Reads that wait for a barrier, in the cluster in memory of [`super::clusters`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    cluster_requests::count_at,
    clusters::{Cluster, NODES},
};

/// The barriers of all nodes.
#[derive(Default)]
pub(super) struct Barriers {
    /// The number that was passed.
    passed: Arc<AtomicUsize>,
    /// Held by each that waits.
    waits: Arc<()>,
}

impl Barriers {
    /// Returns the number that was passed.
    pub(super) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }

    /// Returns true if none waits.
    pub(super) fn are_over(&self) -> bool {
        Arc::strong_count(&self.waits) == 1
    }
}

impl Cluster {
    /// Adds a barrier to the queue of `node`, and checks when it is passed that the node has all that any client had been answered.
    pub(super) fn send_barrier(&mut self, node: usize) {
        let answered = self.newest_answer;
        let (passed, waits) = (Arc::clone(&self.barriers.passed), Arc::clone(&self.barriers.waits));
        let store = self.nodes[node].stepped.store.clone();
        let permit = store.reserve_broadcast(0).unwrap();
        let reader = store.clone();
        let on_applied = move || {
            assert!(reader.head() >= answered, "node {node} has {:?}, and {answered:?} was answered", reader.head());
            passed.fetch_add(1, Ordering::Relaxed);
            drop(waits);
        };
        store.send_barrier(Box::new(on_applied), permit);
    }
}

/// A consistent read asked NATS for the end of the log, and was one update old: the server that leads reported a record later than another
/// one had delivered it to the node that answered.
#[test]
fn a_barrier_waits_for_what_another_node_has_answered() {
    for reads_at in 0..NODES {
        let mut cluster = Cluster::open(1);
        let decider = cluster.decider();
        let answers_at = (0..NODES).find(|node| ![decider, reads_at].contains(node)).unwrap();
        let id = count_at(&mut cluster, answers_at);
        while cluster.requests[&id].answer.is_none() {
            cluster.pass_all(answers_at);
            cluster.pass_all(decider);
            cluster.read_records(answers_at);
            if reads_at != decider {
                cluster.read_records(decider);
            }
        }
        assert!(cluster.requests[&id].made.is_some());
        cluster.send_barrier(reads_at);
        cluster.run(reads_at);
        assert_eq!(cluster.barriers.passed(), 0, "{reads_at}: the record with it is not applied");
        (0..20).for_each(|_| cluster.turn());
        assert_eq!((cluster.barriers.passed(), cluster.barriers.are_over()), (1, true), "{reads_at}");
    }
}

/// Nobody waits in vain at a node that has not heard of the log for long.
#[test]
fn a_barrier_ends_without_the_log() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.nodes[node].log_cut_until = usize::MAX;
    cluster.send_barrier(node);
    cluster.run(node);
    assert!(!cluster.barriers.are_over());
    // It claims meanwhile, and hears no answer.
    for _ in 0..3 {
        cluster.now += Duration::from_secs(11);
        cluster.read_at(node);
    }
    assert_eq!((cluster.barriers.passed(), cluster.barriers.are_over()), (0, true), "as long as a command may wait");
    cluster.send_barrier(node);
    cluster.run(node);
    assert!(cluster.barriers.are_over(), "at once");
}
