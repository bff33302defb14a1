//! The presence of devices, as every node shows it while they go from node to node and nodes die.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    client::{Client, ConnAck},
    cluster::{Cluster, NODES, connect_at},
    eventually,
    http::Http,
    server::Server,
    wire::{Connect, V5},
};

/// A listener whose clients are the devices that their client ids name, from their CONNECT on.
const DEVICES: &str = r#"requests_rate = "1000000/s burst 1000000"
publishes_rate = "10000000/s burst 5000"

[[listener]]
name = "devices"
bind = "127.0.0.1:0"
anonymous_role = "sensor"

[[rule]]
role = "sensor"
devices = ["{client}"]
read = ["/desired", "/reported"]
write = ["/desired", "/reported"]
"#;

const SESSION_TAKEN_OVER: u8 = 0x8E;

/// Connects a device at a node, which may have to wait for another node to decide.
fn connect(cluster: &Cluster, node: usize, connect: &Connect) -> (Client, ConnAck) {
    connect_at(cluster.nodes[node].address_of("devices"), connect)
}

fn device(cluster: &Cluster, node: usize, id: &str) -> Client {
    connect(cluster, node, &Connect::persistent(V5, id)).0
}

/// Returns clients that follow the presence of all devices, one at each of `nodes`.
fn watchers(cluster: &Cluster, nodes: &[usize]) -> Vec<Client> {
    let watcher = |node: &usize| {
        let mut client = Client::connect(&cluster.nodes[*node], V5, &format!("watcher/{node}"));
        client.subscribe(&[("shadow/+/presence", 1)]);
        client
    };
    nodes.iter().map(watcher).collect()
}

/// The next presence message of each watcher is this.
fn expect(watchers: &mut [Client], label: &str, id: &str, connected: bool) {
    for (at, watcher) in watchers.iter_mut().enumerate() {
        let message = watcher.message();
        let found = (message.topic.clone(), message.json()["connected"].clone());
        assert_eq!(found, (format!("shadow/{id}/presence"), json!(connected)), "{label}, watcher {at}: {message:?}");
    }
}

/// Makes a shadow, so that the device is in lists.
fn create(cluster: &Cluster, id: &str) {
    let head = format!("PUT /v1/devices/{id}/shadow?upsert=true HTTP/1.1\nContent-Type: application/json");
    let reply = Http::connect(cluster.nodes[0].address_of("web")).send(&head, br#"{"reported":{"n":1}}"#);
    assert!(reply.status < 300, "{}", reply.text());
}

fn shown(cluster: &Cluster, node: usize, id: &str) -> Value {
    cluster.get(node, &format!("/v1/devices/{id}")).json()
}

/// Returns the connected devices by a search and by a list at a node; `None` if these differ.
fn connected(cluster: &Cluster, node: usize) -> Option<Vec<String>> {
    let ids = |path: &str| {
        let reply = cluster.get(node, path).json();
        let devices = reply["devices"].as_array().unwrap_or_else(|| panic!("{reply}"));
        devices.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (searched, listed) = (ids("/v1/search?q=connected%3Atrue"), ids("/v1/devices?connected=true"));
    (searched == listed).then_some(searched)
}

/// Waits until all `nodes` show that exactly the devices `ids` are connected.
fn wait_for(cluster: &Cluster, nodes: &[usize], ids: &[&str]) {
    for node in nodes {
        eventually(&format!("node {} to show {ids:?}", node + 1), || {
            (connected(cluster, *node)?.iter().eq(ids)).then_some(())
        });
    }
}

const ALL: [usize; NODES] = [0, 1, 2];

#[test]
fn every_node_shows_a_device_that_goes_from_node_to_node_and_is_never_gone() {
    let cluster = Cluster::start(DEVICES);
    create(&cluster, "lamp");
    let mut watchers = watchers(&cluster, &ALL);
    let mut lamp = device(&cluster, 0, "lamp");
    expect(&mut watchers, "it connects", "lamp", true);
    wait_for(&cluster, &ALL, &["lamp"]);
    let mut node = 0;
    for turn in 0..6 {
        let former = node;
        node = (node + 1 + turn % 2) % NODES;
        let mut moved = std::mem::replace(&mut lamp, device(&cluster, node, "lamp"));
        assert_eq!(moved.closed(), Some(SESSION_TAKEN_OVER), "turn {turn}");
        // Its former node has noted that its connection ended. What that node notes of another one comes with it or later.
        let label = format!("turn {turn}");
        let other = connect(&cluster, former, &Connect::new(V5, "other")).0;
        expect(&mut watchers, &label, "other", true);
        other.disconnect();
        expect(&mut watchers, &label, "other", false);
        for shown in ALL.map(|at| shown(&cluster, at, "lamp")) {
            assert_eq!(shown["connected"], true, "turn {turn}: {shown}");
        }
    }
    lamp.disconnect();
    expect(&mut watchers, "it disconnects", "lamp", false);
    wait_for(&cluster, &ALL, &[]);
    let seen = ALL.map(|node| shown(&cluster, node, "lamp")["lastSeen"].clone());
    assert!(seen[0].is_u64() && seen.iter().all(|other| *other == seen[0]), "{seen:?}");
}

#[test]
fn devices_of_a_node_that_dies_are_gone_and_come_back_elsewhere() {
    let mut cluster = Cluster::start(DEVICES);
    ["clean", "kept", "stays"].iter().for_each(|id| create(&cluster, id));
    let (dead, others) = (2, [0, 1]);
    let _kept = device(&cluster, dead, "kept");
    let _clean = connect(&cluster, dead, &Connect::new(V5, "clean"));
    let _stays = device(&cluster, 0, "stays");
    wait_for(&cluster, &ALL, &["clean", "kept", "stays"]);
    // From here on, each change comes once.
    let mut watchers: Vec<_> =
        others.iter().map(|node| Client::connect(&cluster.nodes[*node], V5, &format!("watcher-{node}"))).collect();
    for watcher in &mut watchers {
        watcher.subscribe(&[("shadow/+/presence", 1)]);
        (0..3).for_each(|_| assert_eq!(watcher.message().json()["connected"], true));
    }
    cluster.nodes[dead].kill();
    for watcher in &mut watchers {
        let mut gone: Vec<_> = (0..2).map(|_| watcher.message()).collect();
        gone.sort_by(|a, b| a.topic.cmp(&b.topic));
        let found: Vec<_> = gone.iter().map(|it| (&*it.topic, it.json()["connected"].clone())).collect();
        let expected = ["shadow/clean/presence", "shadow/kept/presence"].map(|topic| (topic, json!(false)));
        assert_eq!(found, expected);
    }
    wait_for(&cluster, &others, &["stays"]);
    let back = device(&cluster, 1, "kept");
    expect(&mut watchers, "it comes back", "kept", true);
    cluster.nodes[dead].restart();
    cluster.wait_until_ready(dead);
    wait_for(&cluster, &ALL, &["kept", "stays"]);
    back.disconnect();
    expect(&mut watchers, "it disconnects", "kept", false);
    wait_for(&cluster, &ALL, &["stays"]);
    // All nodes die: each continues with what the log has, and with no connections.
    cluster.nodes.iter_mut().for_each(Server::kill);
    cluster.nodes.iter_mut().for_each(Server::restart);
    ALL.iter().for_each(|node| cluster.wait_until_ready(*node));
    wait_for(&cluster, &ALL, &[]);
    let seen = ALL.map(|node| shown(&cluster, node, "kept")["lastSeen"].clone());
    assert!(seen[0].is_u64() && seen.iter().all(|other| *other == seen[0]), "{seen:?}");
}

#[test]
fn a_node_that_was_taken_for_dead_shows_its_devices_again() {
    let cluster = Cluster::start(DEVICES);
    create(&cluster, "lamp");
    let node = ALL.into_iter().find(|node| *node != cluster.decider()).unwrap();
    let others: Vec<_> = ALL.into_iter().filter(|other| *other != node).collect();
    // A session that ends with its connection is taken over by nobody.
    let (mut lamp, _) = connect(&cluster, node, &Connect::new(V5, "lamp").keep_alive(0));
    wait_for(&cluster, &ALL, &["lamp"]);
    cluster.nodes[node].signal(Signal::STOP);
    wait_for(&cluster, &others, &[]);
    cluster.nodes[node].signal(Signal::CONT);
    wait_for(&cluster, &ALL, &["lamp"]);
    lamp.ping();
}
