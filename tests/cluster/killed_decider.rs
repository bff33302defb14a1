//! kill -9 of the node that decides, under the load of clients of the two others.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    server::UNLIMITED,
    shadow::{Requester, version},
    wire::V5,
};

const WRITERS: usize = 8;
/// Updates of each writer before the kill, while it is noticed, and afterwards.
const UPDATES: u64 = 200;

#[test]
fn clients_of_other_nodes_lose_nothing_and_see_no_error() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let decider = cluster.decider();
    let others: Vec<usize> = (0..NODES).filter(|node| *node != decider).collect();
    let accepted = AtomicU64::new(0);
    // Each pair of writers, one at each node, shares a device.
    let device = |writer: usize| format!("device-{}", writer / 2);
    let mut clients: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let node = &cluster.nodes[others[writer % 2]];
            Requester::private(node, &format!("writer-{writer}"), &format!("shadow/{}", device(writer)))
        })
        .collect();
    let versions: Vec<Vec<(u64, Value)>> = thread::scope(|scope| {
        let accepted = &accepted;
        let writers: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(writer, client)| {
                scope.spawn(move || {
                    let update = |number| {
                        let desired = json!({format!("writer-{writer}"): number});
                        // A rejection, a PUBACK with a reason, or a lost connection fails the test here.
                        let body = client.update(json!({"state": {"desired": desired}}));
                        accepted.fetch_add(1, Ordering::Relaxed);
                        (version(&body), body["state"].clone())
                    };
                    (1..=UPDATES).map(update).collect()
                })
            })
            .collect();
        eventually("some load", || (accepted.load(Ordering::Relaxed) > WRITERS as u64 * UPDATES / 4).then_some(()));
        cluster.nodes[decider].kill();
        assert!(accepted.load(Ordering::Relaxed) < WRITERS as u64 * UPDATES, "the kill came after the load");
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for (index, pair) in versions.chunks(2).enumerate() {
        let mut seen: Vec<u64> = pair.iter().flatten().map(|(version, _)| *version).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=2 * UPDATES).collect::<Vec<_>>(), "device {index}: one version for each update");
    }
    cluster.nodes[decider].restart();
    (0..NODES).for_each(|node| cluster.wait_until_ready(node));
    for writer in (0..WRITERS).step_by(2) {
        let expected = 2 * UPDATES;
        let documents: Vec<_> = (0..NODES)
            .map(|node| {
                eventually("the newest document at each node", || {
                    cluster.document(node, &device(writer)).filter(|document| version(document) == expected)
                })
            })
            .collect();
        assert!(documents.iter().all(|document| *document == documents[0]), "{documents:?}");
        let desired = &documents[0]["state"]["desired"];
        for writer in [writer, writer + 1] {
            assert_eq!(desired[format!("writer-{writer}")], json!(UPDATES), "{desired}");
        }
    }
    // They were connected all the time, also that of a node which decides now.
    clients.iter_mut().for_each(|client| client.client.ping());
    drop(Requester::new(&cluster.nodes[decider], V5, "again", "shadow/device-0").get());
}
