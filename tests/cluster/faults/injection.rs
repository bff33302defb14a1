//! The faults of a round, by its seed.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::fleet::Fleet;
use crate::harness::{
    Seed,
    cluster::{Cluster, NODES},
    proxy,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Node(usize),
    Nats(usize),
    /// The connections of a node to NATS.
    Link(usize),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGTERM, and a new start.
    Terminate,
    /// SIGSTOP, and SIGCONT.
    Stop,
    Cut(proxy::Fault),
}

#[derive(Clone, Copy, Debug)]
pub struct Injection {
    target: Target,
    kind: Kind,
    after: Duration,
    lasts: Duration,
}

/// One fault, or two of different targets.
pub fn plan(random: &mut Seed) -> Vec<Injection> {
    let mut faults: Vec<Injection> = Vec::new();
    let count = 1 + random.below(2) as usize;
    while faults.len() < count {
        let number = random.below(NODES as u64) as usize;
        let target = match random.below(5) {
            0 | 1 => Target::Node(number),
            2 | 3 => Target::Nats(number),
            _ => Target::Link(number),
        };
        if faults.iter().any(|fault| fault.target == target) {
            continue;
        }
        let kind = match (target, random.below(4)) {
            (Target::Link(_), 0) => Kind::Cut(proxy::Fault::Refused),
            (Target::Link(_), 1) => Kind::Cut(proxy::Fault::NothingSent),
            (Target::Link(_), 2) => Kind::Cut(proxy::Fault::NothingReceived),
            (Target::Link(_), _) => Kind::Cut(proxy::Fault::Delay(Duration::from_millis(20 + random.below(200)))),
            (_, 0 | 1) => Kind::Kill,
            (_, 2) => Kind::Terminate,
            (_, _) => Kind::Stop,
        };
        let lasts = match kind {
            Kind::Kill | Kind::Terminate => 500 + random.below(6_000),
            Kind::Stop => 5_000 + random.below(15_000),
            Kind::Cut(_) => 2_000 + random.below(12_000),
        };
        let after = Duration::from_millis(if faults.is_empty() { 0 } else { random.below(3_000) });
        faults.push(Injection { target, kind, after, lasts: Duration::from_millis(lasts) });
    }
    faults
}

/// Makes the faults, and mends them. Nodes start last: they need NATS for that.
pub fn run(cluster: &mut Cluster, fleet: &Fleet, faults: &[Injection]) {
    let begun = Instant::now();
    let mut steps: Vec<_> = faults.iter().map(|fault| (fault.after, false, fault)).collect();
    for fault in faults {
        let at = fault.after + fault.lasts;
        let starts_node = matches!((fault.target, fault.kind), (Target::Node(_), Kind::Kill | Kind::Terminate));
        let latest = steps.iter().map(|(at, ..)| *at).max().unwrap_or_default();
        steps.push((if starts_node { at.max(latest + Duration::from_millis(1)) } else { at }, true, fault));
    }
    steps.sort_by_key(|(at, is_end, fault)| {
        let starts_node =
            *is_end && matches!((fault.target, fault.kind), (Target::Node(_), Kind::Kill | Kind::Terminate));
        (starts_node, *at)
    });
    for (at, is_end, fault) in steps {
        sleep(at.saturating_sub(begun.elapsed()));
        if is_end { mend(cluster, fleet, fault) } else { inject(cluster, fault) }
    }
}

fn inject(cluster: &mut Cluster, fault: &Injection) {
    match (fault.target, fault.kind) {
        (Target::Node(node), Kind::Kill) => cluster.nodes[node].kill(),
        (Target::Node(node), Kind::Terminate) => {
            let begun = Instant::now();
            cluster.nodes[node].stop();
            println!("  node {} ended {:.1?} after SIGTERM", node + 1, begun.elapsed());
        }
        (Target::Node(node), _) => cluster.nodes[node].signal(Signal::STOP),
        (Target::Nats(server), Kind::Kill) => cluster.nats.kill(server),
        (Target::Nats(server), Kind::Terminate) => cluster.nats.terminate(server),
        (Target::Nats(server), _) => cluster.nats.signal(server, Signal::STOP),
        (Target::Link(node), Kind::Cut(cut)) => cluster.set_fault(node, cut),
        (Target::Link(_), _) => unreachable!("a connection is no process"),
    }
}

fn mend(cluster: &mut Cluster, fleet: &Fleet, fault: &Injection) {
    match (fault.target, fault.kind) {
        (Target::Node(node), Kind::Kill | Kind::Terminate) => {
            cluster.nodes[node].restart();
            fleet.moved(node, &cluster.nodes[node]);
        }
        (Target::Node(node), _) => cluster.nodes[node].signal(Signal::CONT),
        (Target::Nats(server), Kind::Kill | Kind::Terminate) => cluster.nats.launch(server),
        (Target::Nats(server), _) => cluster.nats.signal(server, Signal::CONT),
        (Target::Link(node), _) => cluster.set_fault(node, proxy::Fault::None),
    }
}
