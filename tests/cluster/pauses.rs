//! The time for which writes pause after a failure, at nodes that do not fail. It is printed and decides nothing.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    server::UNLIMITED,
    shadow::Requester,
};

/// Updates of each client before the failure, and after it.
const UPDATES: u64 = 100;

#[test]
fn writes_go_on_after_each_failure() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let all: Vec<usize> = (0..NODES).collect();

    let leader = cluster.leader();
    let pause = longest_answer(&mut cluster, &all, "leader", |cluster| cluster.nats.kill(leader));
    println!("kill -9 of the log's leader: writes paused for {pause:.2?}");
    cluster.nats.launch(leader);
    all.iter().for_each(|node| cluster.wait_until_ready(*node));

    let decider = cluster.decider();
    let pause = longest_answer(&mut cluster, &others(decider), "killed", |cluster| cluster.nodes[decider].kill());
    println!("kill -9 of the node that decides: writes paused for {pause:.2?}");
    cluster.nodes[decider].restart();
    cluster.wait_until_ready(decider);

    let decider = cluster.decider();
    let pause = longest_answer(&mut cluster, &others(decider), "ended", |cluster| {
        let begun = Instant::now();
        cluster.nodes[decider].stop();
        println!("the node that decides ended {:.2?} after SIGTERM", begun.elapsed());
    });
    println!("SIGTERM of the node that decides: writes paused for {pause:.2?}");
}

fn others(node: usize) -> Vec<usize> {
    (0..NODES).filter(|other| *other != node).collect()
}

/// Returns the longest time for which a client at one of `nodes` waited for an answer while `fail` happened. All are accepted.
fn longest_answer(cluster: &mut Cluster, nodes: &[usize], name: &str, fail: impl FnOnce(&mut Cluster)) -> Duration {
    let mut clients: Vec<_> = nodes
        .iter()
        .map(|node| Requester::private(&cluster.nodes[*node], &format!("{name}-{node}"), &format!("shadow/{name}")))
        .collect();
    let (is_ending, answered) = (AtomicBool::new(false), clients.iter().map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
    let have_all = |count: u64| answered.iter().all(|answered| answered.load(Ordering::Relaxed) >= count).then_some(());
    thread::scope(|scope| {
        let writers: Vec<_> = clients
            .iter_mut()
            .zip(&answered)
            .map(|(client, answered)| {
                let is_ending = &is_ending;
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    while !is_ending.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        client.update(json!({"state": {"reported": {"count": answered.load(Ordering::Relaxed)}}}));
                        longest = longest.max(begun.elapsed());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    longest
                })
            })
            .collect();
        eventually("updates before the failure", || have_all(UPDATES));
        fail(cluster);
        let after = answered.iter().map(|answered| answered.load(Ordering::Relaxed)).max().unwrap_or_default();
        eventually("updates after the failure", || have_all(after + UPDATES));
        is_ending.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).max().unwrap_or_default()
    })
}
