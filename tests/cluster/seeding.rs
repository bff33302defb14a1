//! Nodes that have lost their disks, or were away for longer than the log goes back: they receive the store of another node.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::json;

use crate::harness::{
    client::Client,
    cluster::{Cluster, NODES},
    eventually,
    http::{Http, Reply},
    proxy::Fault,
    server::{UNLIMITED, store_path},
    shadow::{Requester, version},
    wire::{Connect, Publish, V5},
};

/// Documents of about 200 kB: with their changes, several times what may be under way.
const LARGE: usize = 30;
const LARGE_BYTES: usize = 200_000;

fn start() -> Cluster {
    let limits = format!("{}\ndocument_bytes_max = \"256 KiB\"", UNLIMITED.limits);
    Cluster::start(limits.leak())
}

/// Writes documents that make the store large.
fn fill(cluster: &Cluster) {
    for number in 0..LARGE {
        cluster.put(0, &format!("large-{number}"), &json!({ "text": "x".repeat(LARGE_BYTES), "number": number }));
    }
}

/// Removes the files of a node that has ended.
pub(crate) fn lose_disk(cluster: &Cluster, node: usize) {
    let store = store_path(cluster.nodes[node].directory());
    for entry in fs::read_dir(cluster.nodes[node].directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().starts_with(&*store.to_string_lossy()) {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The files of a node's store, by the ends of their names.
fn stores(cluster: &Cluster, node: usize) -> Vec<String> {
    let entries = fs::read_dir(cluster.nodes[node].directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut ends: Vec<_> = names.filter_map(|name| Some(name.strip_prefix("umbra.redb")?.to_owned())).collect();
    ends.sort();
    ends
}

/// The last record that a node has applied.
fn applied(cluster: &Cluster, node: usize) -> u64 {
    cluster.state(node)["applied"].as_u64().unwrap()
}

/// Checks that all nodes have the same documents and history of `devices`.
fn check_equal(cluster: &Cluster, devices: &[String]) {
    let all = |node: usize| {
        let of_device = |device: &String| {
            let history = cluster.get(node, &format!("/v1/devices/{device}/shadow/history")).json();
            (cluster.document(node, device), history)
        };
        devices.iter().map(of_device).collect::<Vec<_>>()
    };
    // What all have answered is in the log up to here.
    let newest = (0..NODES).map(|node| applied(cluster, node)).max().unwrap();
    for node in 0..NODES {
        eventually("a node to have all", || (applied(cluster, node) >= newest).then_some(()));
    }
    let first = all(0);
    assert!(first.iter().all(|(document, _)| document.is_some()));
    for node in 1..NODES {
        assert_eq!(all(node), first, "node {}", node + 1);
    }
}

fn large() -> Vec<String> {
    (0..LARGE).map(|number| format!("large-{number}")).collect()
}

/// The address at which a node that has no store yet answers over HTTP.
fn early_address(cluster: &Cluster, node: usize) -> SocketAddr {
    eventually("a node to answer without a store", || {
        let log = cluster.nodes[node].log();
        let line = log.lines().find(|line| line.contains("answers /readyz while this node joins its cluster"))?;
        // With a terminal's colours or without.
        let address = line.split("address").nth(1)?;
        let begin = address.find(|character: char| character.is_ascii_digit() && address.contains("127.0.0.1"))?;
        let begin = address[begin..].find("127.0.0.1").map(|more| begin + more)?;
        let end = address[begin..].find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
        address[begin..].get(..end.unwrap_or(address.len() - begin))?.parse().ok()
    })
}

fn get(address: SocketAddr, path: &str) -> Reply {
    Http::connect(address).send(&format!("GET {path} HTTP/1.1"), b"")
}

/// Ends the writers also if the test fails.
struct StopWriters<'a>(&'a AtomicBool);

impl Drop for StopWriters<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_node_that_lost_its_disk_under_load_is_equal_to_the_others_at_the_end() {
    let mut cluster = start();
    let retained = Publish { retain: true, ..Publish::new("plant/state", "kept") };
    assert_eq!(Client::connect(&cluster.nodes[0], V5, "publisher").publish_message(&retained, 1).code, 0);
    for number in 0..LARGE / 3 {
        cluster.put(0, &format!("large-{number}"), &json!({ "text": "x".repeat(LARGE_BYTES) }));
    }
    let (stop, accepted) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut clients: Vec<_> = (0..2)
        .map(|node| Requester::private(&cluster.nodes[node], &format!("writer-{node}"), &format!("shadow/busy-{node}")))
        .collect();
    let versions: Vec<u64> = thread::scope(|scope| {
        let (stop, accepted) = (&stop, &accepted);
        let _stopped = StopWriters(stop);
        let writers: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        last = version(&client.update(json!({"state": {"desired": {"n": last}}})));
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    last
                })
            })
            .collect();
        let more = |count: u64| {
            let before = accepted.load(Ordering::Relaxed);
            eventually("some load", || (accepted.load(Ordering::Relaxed) > before + count).then_some(()));
        };
        more(50);
        cluster.nodes[2].kill();
        lose_disk(&cluster, 2);
        more(50);
        let first = cluster.trim_log(None);
        assert!(first > 1, "the log has lost its beginning: it begins at {first}");
        cluster.nodes[2].restart();
        cluster.wait_until_ready(2);
        more(50);
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let log = cluster.nodes[2].log();
    assert!(log.contains("received the store of another node"), "{log}");
    assert_eq!(stores(&cluster, 2), [""]);
    let devices = (0..LARGE / 3).map(|number| format!("large-{number}"));
    check_equal(&cluster, &devices.chain(["busy-0".to_owned(), "busy-1".to_owned()]).collect::<Vec<_>>());
    for (node, expected) in versions.into_iter().enumerate() {
        let document = cluster.document(2, &format!("busy-{node}")).unwrap();
        assert_eq!(version(&document), expected, "no accepted update is missing");
    }
    let mut reader = Client::connect(&cluster.nodes[2], V5, "reader");
    reader.subscribe(&[("plant/state", 1)]);
    assert_eq!(reader.message().payload, b"kept");
    // It takes part as before.
    cluster.put(2, "busy-0", &json!({ "end": true }));
    check_equal(&cluster, &["busy-0".to_owned()]);
}

#[test]
fn a_seed_survives_the_end_of_its_receiver_and_of_its_source() {
    let mut cluster = start();
    fill(&cluster);
    cluster.nodes[2].kill();
    lose_disk(&cluster, 2);
    cluster.trim_log(Some(2));
    // So that the stream takes some seconds.
    cluster.set_fault(2, Fault::Delay(Duration::from_millis(100)));
    let middle = |cluster: &Cluster| {
        let log = cluster.nodes[2].log();
        assert!(!log.contains("received the store of another node"), "{log}");
        let seedings = cluster.state(0)["seedings"].clone();
        let seeding = seedings.as_array().unwrap().iter().find(|seeding| seeding["node"] == 3)?;
        let (source, bytes) = (seeding["source"].as_u64()?, seeding["bytes"].as_u64()?);
        assert!([1, 2].contains(&source), "{seeding}");
        (bytes > 0).then_some(())
    };
    cluster.nodes[2].begin_restart(&[]);
    eventually("the middle of the stream", || middle(&cluster));
    let ready = get(early_address(&cluster, 2), "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("This node receives the store of node "), "{}", ready.text());
    cluster.nodes[2].kill();
    assert!(!stores(&cluster, 2).contains(&String::new()), "a store that is not complete is none");

    cluster.nodes[2].begin_restart(&[]);
    let address = early_address(&cluster, 2);
    let source = eventually("the middle of the stream", || {
        let ready = get(address, "/readyz").text();
        let source = ready.split("This node receives the store of node ").nth(1)?.split(':').next()?;
        Some(source.parse::<usize>().unwrap() - 1)
    });
    let other = 1 - source;
    cluster.nodes[source].kill();
    cluster.set_fault(2, Fault::None);
    cluster.nodes[2].await_start();
    cluster.wait_until_ready(2);
    let log = cluster.nodes[2].log();
    assert!(log.contains("the store of another node was not received"), "{log}");
    assert!(log.contains("received the store of another node"), "{log}");
    assert_eq!(stores(&cluster, 2), [""]);
    cluster.put(other, "large-0", &json!({ "number": "new" }));
    cluster.nodes[source].restart();
    cluster.wait_until_ready(source);
    check_equal(&cluster, &large());
}

#[test]
fn a_node_without_a_store_waits_for_others_and_one_that_is_too_old_is_replaced_if_allowed() {
    let mut cluster = start();
    cluster.put(0, "lamp", &json!({ "n": 1 }));
    let will = Connect::new(V5, "door").will(Publish::new("plant/door", "gone"), 1);
    let (door, _) = Client::connect_as(&cluster.nodes[2], &will);
    let mut reader = Client::connect(&cluster.nodes[0], V5, "reader");
    reader.subscribe(&[("plant/door", 1)]);
    cluster.nodes[2].kill();
    drop(door);
    // Each is a record, so that some are missing.
    (2..5).for_each(|number| drop(cluster.put(0, "lamp", &json!({ "n": number }))));
    cluster.trim_log(None);

    // A store that is too old is not replaced unless that is allowed.
    cluster.nodes[2].restart();
    let web = cluster.nodes[2].address_of("web");
    let reason = eventually("the node to leave", || {
        let reply = get(web, "/readyz").text();
        reply.contains("This node has left its cluster").then_some(reply)
    });
    assert!(reason.contains("start it with --reseed"), "{reason}");
    // It runs, and is gone for the others, which take over what was connected to it.
    assert_eq!(reader.message().payload, b"gone");
    assert_eq!(stores(&cluster, 2), [""]);
    cluster.nodes[2].kill();
    cluster.nodes[2].begin_restart(&["--reseed"]);
    cluster.nodes[2].await_start();
    cluster.wait_until_ready(2);
    assert_eq!(stores(&cluster, 2), ["", ".old-1"]);
    check_equal(&cluster, &["lamp".to_owned()]);
    // One that can go on is kept also then.
    cluster.nodes[2].stop();
    cluster.put(0, "lamp", &json!({ "n": 5 }));
    cluster.nodes[2].begin_restart(&["--reseed"]);
    cluster.nodes[2].await_start();
    cluster.wait_until_ready(2);
    assert_eq!(stores(&cluster, 2), ["", ".old-1"]);
    check_equal(&cluster, &["lamp".to_owned()]);

    // Without the others there is nobody to receive a store from.
    (0..NODES).for_each(|node| drop(cluster.nodes[node].stop()));
    lose_disk(&cluster, 2);
    cluster.nodes[2].begin_restart(&[]);
    let address = early_address(&cluster, 2);
    let waits = eventually("the node to wait", || {
        let reply = get(address, "/readyz");
        assert_eq!(reply.status, 503);
        reply.text().contains("no other node offers its store").then(|| reply.text())
    });
    assert!(waits.contains("not-ready"), "{waits}");
    assert_eq!(get(address, "/healthz").status, 200);
    assert_eq!(get(address, "/v1/devices/lamp/shadow").status, 503);
    let upgrade = "GET /mqtt HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: mqtt";
    assert_eq!(Http::connect(address).send(upgrade, b"").status, 503, "a WebSocket, too");
    // Two at once, and a third that has a store.
    lose_disk(&cluster, 1);
    cluster.nodes[1].begin_restart(&[]);
    early_address(&cluster, 1);
    cluster.nodes[0].restart();
    for node in [1, 2] {
        cluster.nodes[node].await_start();
        cluster.wait_until_ready(node);
        assert!(cluster.nodes[node].log().contains("received the store of another node"), "node {}", node + 1);
    }
    check_equal(&cluster, &["lamp".to_owned()]);
}
