//! A rolling upgrade: each node is ended with SIGTERM and started again by another program, one after the other, under load.
//!
//! There is one version of the program so far. So the other program is a copy of it, as a package's upgrade replaces the file, and what is
//! tested is the procedure. `UMBRA_TEST_UPGRADED_BINARY` names the program to upgrade to, beside `UMBRA_TEST_BINARY`, from which.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    faults::{
        fleet::Fleet,
        round,
        writer::{Outcome, Update},
    },
    harness::{
        cluster::{Cluster, NODES},
        eventually,
        program::program,
        server::UNLIMITED,
    },
};

/// The number of the round, in the names of its devices.
const ROUND: u64 = 1_000_000;

/// [`round`] checks that nothing is lost or has an effect twice, and that each subscriber sees the versions rise by one.
#[test]
fn a_rolling_upgrade_loses_and_repeats_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let upgraded = env::var_os("UMBRA_TEST_UPGRADED_BINARY").map_or_else(
        || {
            let copy = directory.path().join("umbrad");
            fs::copy(program(), &copy).unwrap();
            copy
        },
        PathBuf::from,
    );
    let upgraded = upgraded.canonicalize().unwrap();
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let (mut subscriptions, mut ended) = (Vec::new(), Instant::now());
    let updates = round(&mut cluster, ROUND, |cluster, fleet| {
        eventually("all subscribers", || fleet.are_all_subscribed());
        for node in 0..NODES {
            upgrade(cluster, fleet, node, &upgraded);
        }
        (subscriptions, ended) = (fleet.subscriptions(), Instant::now());
    });
    for node in &cluster.nodes {
        assert_eq!(node.running_program(), upgraded);
    }
    assert_eq!(subscriptions, [2; NODES], "each subscriber lost its connection once, with its own node");
    println!("writes paused for at most {:.2?} in a rolling upgrade", longest_pause(&updates, ended));
}

fn upgrade(cluster: &mut Cluster, fleet: &Fleet, node: usize, upgraded: &Path) {
    let begun = Instant::now();
    let was_decider = cluster.decider() == node;
    cluster.nodes[node].stop();
    let ended = begun.elapsed();
    cluster.nodes[node].restart_as(upgraded);
    fleet.moved(node, &cluster.nodes[node]);
    // A load balancer sends clients there again, and the next node may be upgraded.
    cluster.wait_until_ready(node);
    let ready = begun.elapsed();
    eventually("all subscribers", || fleet.are_all_subscribed());
    println!(
        "  node {}: ended {ended:.1?} after SIGTERM, ready after {ready:.1?}; did it decide: {was_decider}",
        node + 1
    );
}

/// The longest time before `ended` in which no update was accepted.
fn longest_pause(updates: &[Update], ended: Instant) -> Duration {
    let accepted = updates.iter().filter(|update| matches!(update.outcome, Outcome::Accepted(_)));
    let mut accepted: Vec<_> = accepted.map(|update| update.answered).filter(|answered| *answered < ended).collect();
    accepted.sort_unstable();
    accepted.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
