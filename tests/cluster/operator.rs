//! The views of operators on several nodes: `GET /v1/cluster`, `/readyz`, and the commands.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    cluster::{Cluster, NODES},
    eventually,
    http::{Http, Reply},
    program::{ended, umbrad},
    proxy::Fault,
    server::UNLIMITED,
    wire::{Connect, V5},
};

const USE_ANOTHER_SERVER: u8 = 0x9C;
const LAMP: &str = "/v1/devices/lamp/shadow";

fn url(cluster: &Cluster, node: usize) -> String {
    format!("http://{}", cluster.nodes[node].address_of("web"))
}

/// Runs `umbrad`. Returns its exit code and standard output.
fn run(arguments: &[&str]) -> (i32, String) {
    let (code, out, err) = ended(umbrad(arguments).output().unwrap());
    assert!(err.is_empty() || code != 0, "{arguments:?}: {err}");
    (code, out + &err)
}

fn put(cluster: &Cluster, node: usize, number: usize) -> Reply {
    let body = json!({ "desired": { "n": number } }).to_string();
    let head = format!("PUT {LAMP}?upsert=true HTTP/1.1\nContent-Type: application/json");
    Http::connect(cluster.nodes[node].address_of("web")).send(&head, body.as_bytes())
}

#[test]
fn every_node_shows_all_nodes_and_the_log() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    for node in 0..NODES {
        let found = eventually("all nodes to know of each other", || {
            let found = cluster.state(node);
            let nodes = found["nodes"].as_array()?;
            let is_known = nodes.len() == NODES && nodes.iter().all(|node| node["alive"] == true);
            // The date of the claim is that of the first record after it. A node that received its store later may not know it.
            (is_known && (node > 0 || found["deciderSince"].is_u64())).then_some(found)
        });
        assert_eq!((&found["problems"], &found["differences"]), (&json!([]), &json!([])), "{found}");
        let versions: Vec<_> = found["nodes"].as_array().unwrap().iter().map(|node| node["version"].clone()).collect();
        assert_eq!(versions, [env!("CARGO_PKG_VERSION"); NODES], "{found}");
        assert!(found["deciderSince"].as_u64().is_none_or(|since| since > 1_700_000_000), "{found}");
        let log = &found["log"];
        assert!(log["bytes"].as_u64() > Some(0) && log["last"].as_u64() > Some(0), "{found}");
        let servers = log["servers"].as_array().unwrap();
        assert_eq!(servers.len(), 3, "{found}");
        assert!(
            servers.iter().all(|server| server["syncInterval"] == "always" && server["current"] == true),
            "{found}"
        );
        assert!(servers.iter().all(|server| server["maxPayload"] == 8 << 20), "{found}");
        assert_eq!(servers.iter().filter(|server| server["leader"] == true).count(), 1, "{found}");
    }
    // Browsers see that there is a page for it.
    assert_eq!(cluster.get(0, "/session").json()["cluster"], true);
    let others = [1, 2].map(|node| url(&cluster, node));
    let arguments = ["cluster", "check", &others[0], &others[1]];
    let (code, out) = run(&arguments);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("\nNothing is wrong.") && out.contains("always") && out.contains("8388608"), "{out}");

    cluster.nodes[2].kill();
    let found = eventually("a node to be missed", || {
        let found = cluster.state(0);
        let problem = found["problems"].as_array()?.first()?["message"].as_str()?.starts_with("Node 3 is not heard of");
        problem.then_some(found)
    });
    assert_eq!(found["nodes"][2]["alive"], false, "{found}");
    let (code, out) = run(&["cluster", "check", "--http-url", &url(&cluster, 0)]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("\nwarning: Node 3 is not heard of"), "{out}");
    let (code, out) = run(&["cluster", "check", "--json", &url(&cluster, 0), "http://127.0.0.1:1"]);
    let problems = serde_json::from_str::<Value>(&out).unwrap()["problems"].to_string();
    assert_eq!(code, 1, "{out}");
    assert!(problems.contains("http://127.0.0.1:1 cannot be asked") && problems.contains("Node 3"), "{out}");

    // A NATS server that is away is named; the others have a majority.
    let follower = (0..3).find(|server| *server != cluster.leader()).unwrap();
    cluster.nats.kill(follower);
    eventually("a NATS server to be missed", || {
        let problems = cluster.state(0)["problems"].to_string();
        problems.contains(&format!("NATS server n{follower} is away")).then_some(())
    });
}

fn write_bans(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[test]
fn files_that_are_not_the_same_are_named_and_logged_once() {
    let folder = tempfile::tempdir().unwrap();
    let bans = |node: usize| folder.path().join(format!("banned-{node}"));
    (0..NODES).for_each(|node| write_bans(&bans(node), "stolen-1\n"));
    let limits = |node: usize| format!("{}\n[auth]\nbanned = {:?}\n", UNLIMITED.limits, bans(node));
    let cluster = Cluster::with(|node| limits(node).leak());
    let ready = |node: usize| {
        let reply = cluster.get(node, "/readyz");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.text()
    };
    assert_eq!(ready(0), "ready\n");
    write_bans(&bans(1), "stolen-1\nstolen-2\n");
    cluster.nodes[1].hangup(1, "sessions reviewed");
    let difference = "auth.banned is not the same at nodes 1, 3 and at node 2";
    for node in 0..NODES {
        let warning = format!("ready\nwarning: {difference}\n");
        eventually(&format!("node {node} to warn"), || (ready(node) == warning).then_some(()));
        let found = cluster.state(node);
        assert_eq!(found["differences"], json!([{ "name": "auth.banned", "nodes": [[1, 3], [2]] }]), "{found}");
    }
    // It is logged once, however many statuses have come since.
    let applied = cluster.state(0)["applied"].as_u64().unwrap();
    eventually("some more seconds", || (cluster.state(0)["applied"].as_u64()? > applied + 8).then_some(()));
    for node in &cluster.nodes {
        assert_eq!(node.log().matches(difference).count(), 1, "{}", node.log());
    }
    write_bans(&bans(1), "stolen-1\n");
    cluster.nodes[1].hangup(2, "sessions reviewed");
    for node in 0..NODES {
        eventually(&format!("node {node} to be content"), || (ready(node) == "ready\n").then_some(()));
    }
}

#[test]
fn a_second_process_with_the_number_of_a_node_leaves() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    assert_eq!(put(&cluster, 0, 1).status, 201);
    let mut client = Client::connect(&cluster.nodes[0], V5, "lamp");
    let mut later = cluster.namesake(0);
    let web = later.address_of("web");
    let problem = eventually("the later process to leave", || {
        let reply = Http::connect(web).send("GET /readyz HTTP/1.1", b"");
        (reply.status == 503).then(|| reply.text())
    });
    let reason =
        "another process that was started earlier is node 1 of this cluster: give each its own number (cluster.node)";
    eventually("the reason", || {
        let reply = Http::connect(web).send("GET /readyz HTTP/1.1", b"");
        reply.text().contains(reason).then_some(())
    });
    later.assert_alive();
    assert!(later.log().contains(reason), "{problem} {}", later.log());
    let refused = eventually("the later process to refuse clients", || {
        let mut client = Client::open(&later, V5);
        client.send(Connect::new(V5, "other").encode());
        Some(client.connack().code).filter(|code| *code != 0)
    });
    assert_eq!(refused, USE_ANOTHER_SERVER);
    // The cluster goes on with the first, and so do its clients.
    client.ping();
    for (node, number) in (0..NODES).zip(2..) {
        assert_eq!(put(&cluster, node, number).status, 200, "node {node}");
        cluster.nodes[node].assert_alive();
        assert_eq!(cluster.get(node, "/readyz").status, 200, "node {node}");
    }
    let log = cluster.nodes[0].log();
    assert_eq!(log.matches("another process was started with the number of this node").count(), 1, "{log}");
}

#[test]
fn a_consistent_read_sees_what_any_node_has_answered() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let mut readers: Vec<_> = (0..NODES).map(|node| Http::connect(cluster.nodes[node].address_of("web"))).collect();
    for number in 0..300 {
        let node = number % NODES;
        let reply = put(&cluster, node, number);
        assert!([200, 201].contains(&reply.status), "{}", reply.text());
        // At a node that has not answered, and has other things to do than the one that has.
        let reader = &mut readers[(node + 1 + number % 2) % NODES];
        let reply = reader.send(&format!("GET {LAMP}?consistent=true HTTP/1.1"), b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["state"]["desired"]["n"], number, "{}", reply.text());
    }
    let address = url(&cluster, 1);
    let (code, out) = run(&["get", "lamp", "--consistent", "--http-url", &address]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()["version"].as_u64()), (0, Some(300)), "{out}");

    // Without the log nobody knows what the newest is.
    cluster.set_fault(1, Fault::Refused);
    let reply = eventually("the log to be out of reach", || {
        let reply = cluster.get(1, &format!("{LAMP}?consistent=true"));
        (reply.status == 503).then_some(reply)
    });
    let problem = reply.json();
    assert_eq!(problem["error"], "unavailable", "{problem}");
    assert!(problem["message"].as_str().unwrap().contains("cluster's log"), "{problem}");
    assert_eq!(cluster.get(1, LAMP).status, 200, "what it has, it shows");
    let (code, out) = run(&["get", "lamp", "--consistent", "--http-url", &address]);
    assert_eq!(code, 3, "{out}");
    let found = cluster.state(1);
    assert!(found["problems"].to_string().contains("The log cannot be asked"), "{found}");
    cluster.set_fault(1, Fault::None);
    eventually("the log to be back", || {
        (cluster.get(1, &format!("{LAMP}?consistent=true")).status == 200).then_some(())
    });
}
