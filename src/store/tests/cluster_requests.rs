//! Requests of nodes whose messages were lost, and of nodes whose decider ends, in the cluster in memory of [`super::clusters`].

use std::time::Duration;

use super::clusters::{Cluster, NODES};
use crate::shadow::Rejection;

/// A node's requests were withdrawn after its messages had been lost for some time. The decider waited for those requests, and took
/// none of that node any more.
#[test]
fn requests_are_decided_after_earlier_ones_were_lost() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.turn();
    // The decider has taken a request of this node before.
    cluster.submit(node);
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    cluster.cut = Some(node);
    (0..3).for_each(|_| cluster.submit(node));
    let lost: Vec<u64> = cluster.nodes[node].waiting.iter().copied().collect();
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    for id in &lost {
        assert_eq!(cluster.requests[id].answer, Some(Err(Rejection::OutcomeUnknown)));
    }
    cluster.cut = None;
    cluster.submit(node);
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    let last = cluster.requests.values().next_back().unwrap();
    assert_ne!(last.answer, Some(Err(Rejection::OutcomeUnknown)));
    assert_eq!(cluster.decider(), decider, "no claim was necessary");
}

/// While a node's requests find no answer, it refuses more of them instead of keeping ever more.
#[test]
fn refuses_requests_while_the_decider_does_not_answer() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.cut = Some(node);
    cluster.submit(node);
    let until = cluster.now + Duration::from_secs(11);
    while cluster.now < until {
        cluster.turn();
    }
    cluster.submit(node);
    let refused = cluster.requests.values().next_back().unwrap();
    assert!(matches!(&refused.answer, Some(Err(Rejection::Unavailable(text))) if text.contains("has not answered")));
    assert_eq!(cluster.nodes[node].waiting.len(), 1, "the first waits on");
}

/// The decider decided requests of other nodes for as long as they came, and so ended late, with an append under way.
#[test]
fn hands_over_at_once_under_load() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let others = [(decider + 1) % NODES, (decider + 2) % NODES];
    cluster.nodes[decider].stepped.writer.member.as_mut().unwrap().close();
    let ended = cluster.now;
    while !others.iter().any(|node| cluster.nodes[*node].is_deciding()) {
        // Requests come while the append of those before is under way.
        for node in others {
            cluster.submit(node);
            cluster.pass_all(node);
        }
        cluster.pass(decider);
        cluster.read_all();
        assert!(cluster.now - ended < Duration::from_secs(1), "nobody decides after {:?}", cluster.now - ended);
    }
    while others.iter().any(|node| !cluster.nodes[*node].waiting.is_empty()) {
        cluster.turn();
    }
}
