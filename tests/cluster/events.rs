//! Event streams that go on at another node.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    http::{Http, Reply},
    program::{ended, umbrad},
    proxy::Fault,
    server::{Server, UNLIMITED, store_path},
};
use crate::seeding::lose_disk;

/// A reader of events at a node.
struct Events {
    client: Http,
    text: String,
}

impl Events {
    fn follow(cluster: &Cluster, node: usize, query: &str, last: &str) -> Result<Self, Reply> {
        let mut client = Http::connect(cluster.nodes[node].address_of("web"));
        client.write(&format!("GET /v1/events{query} HTTP/1.1\nLast-Event-ID: {last}"), b"");
        let head = client.head();
        if head.status != 200 {
            return Err(client.body_of(head));
        }
        Ok(Self { client, text: String::new() })
    }

    /// Returns the id of the next event, and the version of its change.
    fn next(&mut self) -> (String, u64) {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (id, data) = (field("id: "), field("data: "));
                self.text = rest.to_owned();
                if let (Some(id), Some(data)) = (id, data) {
                    let change: Value = serde_json::from_str(&data).unwrap();
                    return (id, change["version"].as_u64().unwrap());
                }
            }
            let chunk = self.client.chunk().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// Returns a stream; `None` if the log did not answer in time, as on a busy machine.
fn follow_soon(cluster: &Cluster, node: usize, query: &str, last: &str) -> Option<Events> {
    match Events::follow(cluster, node, query, last) {
        Err(reply) if reply.status == 503 => None,
        stream => Some(stream.unwrap_or_else(|reply| panic!("{}", reply.text()))),
    }
}

/// Returns the problem with which a node refuses a stream.
fn refusal(cluster: &Cluster, node: usize, last: &str) -> Option<(u16, Value)> {
    Events::follow(cluster, node, "", last).err().map(|reply| (reply.status, reply.json()))
}

/// The whole cluster goes back to a backup. The id of a lost change was taken for that of another one, as at a single node.
#[test]
fn the_id_of_a_change_that_the_cluster_has_lost_is_gone_at_each_node() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let put = |cluster: &Cluster, n: u64| drop(cluster.put(0, "lamp", &json!({ "n": n })));
    let run = |arguments: &[&str]| {
        let (code, _, error) = ended(umbrad(arguments).output().unwrap());
        assert_eq!(code, 0, "{error}");
    };
    (1..=3).for_each(|n| put(&cluster, n));
    let mut stream = Events::follow(&cluster, 0, "", "j0").unwrap_or_else(|reply| panic!("{}", reply.text()));
    let kept: Vec<_> = (0..3).map(|_| stream.next().0).collect();
    let copy = cluster.nats.file("copy");
    let copy = copy.to_str().unwrap();
    run(&["backup", "--to", copy, "--url", &format!("http://{}", cluster.nodes[0].address_of("web"))]);
    (4..=6).for_each(|n| put(&cluster, n));
    let lost: Vec<_> = (0..3).map(|_| stream.next().0).collect();

    cluster.nodes.iter_mut().for_each(Server::kill);
    (0..NODES).for_each(|server| cluster.nats.kill(server));
    (0..NODES).for_each(|server| cluster.nats.empty(server));
    (0..NODES).for_each(|server| cluster.nats.launch(server));
    (0..NODES).for_each(|node| lose_disk(&cluster, node));
    let directory = cluster.nodes[0].directory().to_owned();
    run(&["restore", copy, "--store", store_path(&directory).to_str().unwrap()]);
    run(&["cluster", "restore-log", "--config", directory.join("broker.toml").to_str().unwrap()]);
    (0..NODES).for_each(|node| cluster.nodes[node].restart());
    (0..NODES).for_each(|node| cluster.wait_until_ready(node));
    for n in 11..=16 {
        put(&cluster, n);
    }
    let expected: Vec<_> = (0..NODES)
        .map(|node| {
            for id in &lost {
                let (status, problem) = eventually("the log to answer", || {
                    let refused = refusal(&cluster, node, id).unwrap_or_else(|| panic!("{id} goes on at node {node}"));
                    (refused.0 != 503).then_some(refused)
                });
                assert_eq!((status, &problem["error"]), (410, &json!("gone")), "node {node}: {problem}");
            }
            let mut stream = eventually("the log to answer", || follow_soon(&cluster, node, "", &kept[1]));
            assert_eq!(stream.next(), (kept[2].clone(), 3));
            (4..=9)
                .map(|version| (stream.next(), version))
                .map(|(event, version)| {
                    assert_eq!(event.1, version);
                    event
                })
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(expected.iter().all(|events| *events == expected[0]), "the ids are the same at all nodes: {expected:?}");
}

/// A node that had not applied the last event of a client answered that it was gone, or sent it again.
#[test]
fn an_event_stream_goes_on_at_a_node_that_lags() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let ahead = cluster.decider();
    let behind = (ahead + 1) % cluster.nodes.len();
    let put = |n: u64| assert!(matches!(cluster.put(ahead, "lamp", &json!({ "n": n })).status, 200 | 201));
    put(1);
    let mut first = Events::follow(&cluster, ahead, "", "j0").unwrap_or_else(|reply| panic!("{}", reply.text()));
    assert_eq!(first.next().1, 1);
    eventually("the other node to have it", || cluster.document(behind, "lamp"));

    cluster.set_fault(behind, Fault::Delay(Duration::from_millis(600)));
    put(2);
    let (last, version) = first.next();
    assert_eq!(version, 2);
    let mut others: Vec<_> = ["", "?device=lamp"]
        .iter()
        .map(|query| eventually("the log to answer", || follow_soon(&cluster, behind, query, &last)))
        .collect();
    put(3);
    let next = first.next();
    assert_eq!(next.1, 3);
    for stream in &mut others {
        assert_eq!(stream.next(), next, "no event is sent again");
    }
    cluster.set_fault(behind, Fault::None);

    // No node has sent this one.
    let (status, problem) =
        eventually("the log to answer", || refusal(&cluster, behind, "jffffffff").filter(|(status, _)| *status != 503));
    assert_eq!((status, &problem["error"]), (410, &json!("gone")), "{problem}");
    // Without the log, nobody knows.
    cluster.set_fault(behind, Fault::Refused);
    let problem = eventually("the log to be out of reach", || {
        let (status, problem) = refusal(&cluster, behind, "jffffffff").unwrap();
        (status == 503).then_some(problem)
    });
    assert_eq!(problem["error"], "unavailable", "{problem}");
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("cluster's log") && message.contains("Last-Event-ID"), "{problem}");
    assert!(refusal(&cluster, behind, &next.0).is_none(), "what it has, it sends");
}
