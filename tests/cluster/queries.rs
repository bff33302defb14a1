//! Named queries in a cluster: stored, changed and deleted at every node, and followed at each, while nodes die.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    harness::{
        client::Client,
        cluster::{Cluster, NODES, connect_at},
        eventually,
        http::Reply,
        proxy::Fault,
        server::{Server, UNLIMITED},
        wire::{Connect, V5},
    },
    matches::Matches,
    seeding::lose_disk,
};

/// Most queries of one principal.
const BY_ONE_MAX: usize = 100;

/// A subscriber of a query at a node, with the set that it has from the messages.
struct Follower {
    client: Client,
    prefix: String,
    matches: Matches,
}

impl Follower {
    fn at(cluster: &Cluster, node: usize, query: &str) -> Self {
        static FOLLOWERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLLOWERS.fetch_add(1, Ordering::Relaxed);
        let connect = Connect::new(V5, &format!("follower-{number}"));
        let (mut client, _) = connect_at(cluster.nodes[node].address, &connect);
        let prefix = format!("shadow/$query/{query}/");
        client.subscribe(&[(&format!("{prefix}#"), 1)]);
        Self { client, prefix, matches: Matches::default() }
    }

    fn read(&mut self) {
        let message = self.client.message();
        let event = message.topic.strip_prefix(&self.prefix).expect("a topic of the query");
        self.matches.apply(event, &message.json());
    }

    /// Reads until this is the set, complete and counted.
    fn expect(&mut self, devices: &str) {
        let is_counted = |found: &Matches| found.is_complete && found.counted == Some(found.devices.len());
        while !is_counted(&self.matches) || self.matches.ids() != devices {
            self.read();
        }
    }

    /// Reads until there is no such query.
    fn expect_end(&mut self) {
        let end = loop {
            match self.matches.end.take() {
                Some(end) => break end,
                None => self.read(),
            }
        };
        assert_eq!(end["error"], "not-found", "{end}");
    }
}

/// Sends a request for queries to a node, as the client `app`.
fn request(cluster: &Cluster, node: usize, line: &str, body: &Value) -> Reply {
    let (method, path) = line.split_once(' ').unwrap();
    let (path, headers) = path.split_once('\n').unwrap_or((path, ""));
    cluster.send(node, format!("{method} /v1/queries{path}\nUmbra-Client: app\n{headers}").trim_end(), body)
}

fn store(cluster: &Cluster, node: usize, name: &str, q: &str) -> Reply {
    request(cluster, node, &format!("PUT /{name}"), &json!({ "q": q }))
}

fn create(cluster: &Cluster, node: usize, name: &str) -> Reply {
    request(cluster, node, &format!("PUT /{name}\nIf-None-Match: *"), &json!({"q": "reported.n:1"}))
}

fn delete(cluster: &Cluster, node: usize, name: &str) -> u16 {
    request(cluster, node, &format!("DELETE /{name}"), &Value::Null).status
}

fn get(cluster: &Cluster, node: usize, name: &str) -> Reply {
    request(cluster, node, &format!("GET /{name}"), &Value::Null)
}

/// Stores a query, again while no node decides.
fn store_eventually(cluster: &Cluster, node: usize, name: &str, q: &str) -> Value {
    eventually("a stored query", || {
        let reply = store(cluster, node, name, q);
        assert!(matches!(reply.status, 200 | 201 | 503), "{}", reply.text());
        (reply.status != 503).then(|| reply.json())
    })
}

fn write(cluster: &Cluster, node: usize, device: &str, n: u64) {
    eventually("an update", || {
        let head = format!("PUT /v1/devices/{device}/shadow?upsert=true");
        let reply = cluster.send(node, &head, &json!({"reported": {"n": n}}));
        assert!(matches!(reply.status, 200 | 201 | 503), "{}", reply.text());
        (reply.status != 503).then_some(())
    });
}

/// The queries that a node lists.
fn list(cluster: &Cluster, node: usize) -> Vec<Value> {
    let (mut queries, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = request(cluster, node, &format!("GET ?limit=100{cursor}"), &Value::Null).json();
        queries.extend(page["queries"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return queries,
        }
    }
}

/// Waits until all nodes list the same queries, and returns them.
fn same_lists(cluster: &Cluster) -> Vec<Value> {
    eventually("the same at all nodes", || {
        let lists: Vec<_> = (0..NODES).map(|node| list(cluster, node)).collect();
        lists.windows(2).all(|pair| pair[0] == pair[1]).then(|| lists[0].clone())
    })
}

#[test]
fn a_query_is_stored_changed_and_followed_at_any_node_while_nodes_die() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    for n in 0..6 {
        write(&cluster, n % NODES, &format!("d{n}"), n as u64);
    }
    let decider = cluster.decider();
    let (first, second) = ((decider + 1) % NODES, (decider + 2) % NODES);
    let mut follower = Follower::at(&cluster, second, "q");
    follower.expect_end();

    let created = store(&cluster, first, "q", "reported.n:>3");
    assert_eq!((created.status, &created.json()["createdBy"]), (201, &json!("anonymous/app")), "{}", created.text());
    // At once, though the others may not have applied it yet.
    assert_eq!(get(&cluster, second, "q").json(), created.json());
    assert_eq!(get(&cluster, decider, "q").json(), created.json());
    follower.expect("d4 d5");
    let exists = create(&cluster, second, "q");
    assert_eq!((exists.status, &exists.json()["error"]), (409, &json!("query-exists")));
    let again = store(&cluster, decider, "q", "reported.n:>3");
    assert_eq!((again.status, again.json()), (200, created.json()), "the same again");
    write(&cluster, first, "d1", 9);
    follower.expect("d1 d4 d5");

    let changed = store(&cluster, decider, "q", "reported.n:<3");
    assert_eq!((changed.status, &changed.json()["createdAt"]), (200, &created.json()["createdAt"]));
    follower.expect("d0 d2");
    let followers = (0..NODES).map(|node| Follower::at(&cluster, node, "q"));
    followers.for_each(|mut follower| follower.expect("d0 d2"));

    // The node that decides dies when it has answered.
    let last = store(&cluster, decider, "last", "reported.n:9");
    assert_eq!(last.status, 201, "{}", last.text());
    cluster.nodes[decider].kill();
    assert_eq!(get(&cluster, first, "last").json(), last.json());
    let changed = store_eventually(&cluster, first, "q", "reported.n:9");
    follower.expect("d1");
    write(&cluster, first, "d0", 9);
    follower.expect("d0 d1");
    assert_eq!(get(&cluster, second, "q").json(), changed);
    assert_eq!(delete(&cluster, second, "last"), 204);
    // It comes back without its store, and receives that of another node.
    lose_disk(&cluster, decider);
    cluster.nodes[decider].restart();
    cluster.wait_until_ready(decider);
    let before = same_lists(&cluster);
    assert_eq!(get(&cluster, decider, "last").status, 404);

    // All nodes die, and have it again.
    cluster.nodes.iter_mut().for_each(Server::kill);
    cluster.nodes.iter_mut().for_each(Server::restart);
    (0..NODES).for_each(|node| cluster.wait_until_ready(node));
    assert_eq!(same_lists(&cluster), before);
    let mut follower = Follower::at(&cluster, first, "q");
    follower.expect("d0 d1");
    assert_eq!(delete(&cluster, decider, "q"), 204);
    follower.expect_end();
    assert_eq!(delete(&cluster, second, "q"), 404, "it is gone at once");
    for node in 0..NODES {
        eventually("the removal", || (get(&cluster, node, "q").status == 404).then_some(()));
    }
}

/// Clients of all nodes ask at the same time; one of them is the first in the log.
#[test]
fn limits_and_conditions_hold_for_all_nodes_together() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let race = |names: [&str; NODES]| {
        let start = Barrier::new(NODES);
        let mut statuses: Vec<u16> = thread::scope(|scope| {
            let clients = names.into_iter().enumerate().map(|(node, name)| {
                let (cluster, start) = (&cluster, &start);
                scope.spawn(move || {
                    start.wait();
                    create(cluster, node, name).status
                })
            });
            let clients: Vec<_> = clients.collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409], "{names:?}");
    };
    let shared = 30;
    (0..shared).for_each(|n| race([&*format!("q{n}"); NODES]));
    for n in shared..BY_ONE_MAX - 1 {
        let reply = store(&cluster, n % NODES, &format!("q{n}"), "reported.n:1");
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    // For the last place.
    race(["x0", "x1", "x2"]);
    for node in 0..NODES {
        let refused = store(&cluster, node, "more", "reported.n:1");
        let expected = "Too many queries: 'anonymous/app' has 100, the most for one principal";
        assert_eq!((refused.status, &refused.json()["error"]), (409, &json!("too-many-queries")));
        assert_eq!(refused.json()["message"], expected);
        assert_eq!(store(&cluster, node, "q5", &format!("reported.n:{node}")).status, 200, "one that is there");
        let deleted = format!("q{}", 40 + node);
        assert_eq!(delete(&cluster, (node + 1) % NODES, &deleted), 204);
        assert_eq!(store(&cluster, node, &deleted, "reported.n:2").status, 201);
    }
    let all = same_lists(&cluster);
    assert_eq!(all.iter().filter(|query| query["createdBy"] == "anonymous/app").count(), BY_ONE_MAX);
}

/// A node that is slow knows what another one has just answered. When it is cut off, it answers that a change is not confirmed; its client
/// makes another one elsewhere, and then the node passes the first one on.
#[test]
fn a_node_that_lags_or_is_cut_off_denies_and_undoes_nothing() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let cut = (cluster.decider() + 1) % NODES;
    let other = (cut + 1) % NODES;
    cluster.set_fault(cut, Fault::Delay(Duration::from_millis(200)));
    for name in ["changed", "deleted"] {
        let stored = store(&cluster, other, name, "reported.n:1");
        assert_eq!(stored.status, 201, "{}", stored.text());
        assert_eq!(get(&cluster, cut, name).json(), stored.json());
    }
    let known = same_lists(&cluster);
    assert_eq!(known.iter().filter(|query| query["q"] == "reported.n:1").count(), 2);
    cluster.set_fault(cut, Fault::Refused);
    thread::scope(|scope| {
        let late = scope.spawn(|| store(&cluster, cut, "changed", "reported.n:2"));
        let removal = scope.spawn(|| delete(&cluster, cut, "deleted"));
        let reply = late.join().unwrap();
        assert_eq!(reply.status, 503, "{}", reply.text());
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("the log of the cluster has not confirmed it in time"), "{message}");
        assert_eq!(removal.join().unwrap(), 503);
    });
    for name in ["changed", "deleted"] {
        assert_eq!(store(&cluster, other, name, "reported.n:3").status, 200);
    }
    cluster.set_fault(cut, Fault::None);
    // Whatever it had sent is decided before what its clients ask for now.
    cluster.wait_until_ready(cut);
    write(&cluster, cut, "end", 1);
    let last = store_eventually(&cluster, cut, "end", "reported.n:1");
    assert_eq!(last["q"], "reported.n:1");
    for name in ["changed", "deleted"] {
        for node in 0..NODES {
            eventually("the last change", || (get(&cluster, node, name).json()["q"] == "reported.n:3").then_some(()));
        }
    }
    same_lists(&cluster);
}
