//! Three nodes and the three NATS servers with their log, on loopback. Each of the six is a child process, and can be killed,
//! stopped for some time, ended, and started again.

use serde_json::Value;

use super::{
    eventually,
    http::{Http, Reply},
    nats::{NatsServers, SOUND},
    server::{Server, Setup},
};

pub const NODES: usize = 3;

/// The cluster; node `nodes[0]` has the number 1.
pub struct Cluster {
    pub nodes: Vec<Server>,
    pub nats: NatsServers,
}

impl Cluster {
    /// Starts the servers and the nodes, with `limits` as in [`Setup`], and waits until all nodes are ready.
    pub fn start(limits: &'static str) -> Self {
        let nats = NatsServers::start(SOUND);
        let nodes = (1..=NODES).map(|node| Server::with(setup(&nats, node, limits))).collect();
        let cluster = Self { nodes, nats };
        (0..NODES).for_each(|node| cluster.wait_until_ready(node));
        cluster
    }

    /// Waits until the node answers that it takes updates.
    pub fn wait_until_ready(&self, node: usize) {
        let server = &self.nodes[node];
        let web = server.address_of("web");
        eventually(&format!("node {} to be ready", node + 1), || {
            let reply = get(web, "/readyz");
            (reply.status == 200).then_some(())
        });
    }

    /// The document of a device at a node, over HTTP; `None` if there is none.
    pub fn document(&self, node: usize, device: &str) -> Option<Value> {
        let reply = get(self.nodes[node].address_of("web"), &format!("/v1/devices/{device}/shadow"));
        match reply.status {
            200 => Some(reply.json()),
            404 => None,
            status => panic!("{status} {}", reply.text()),
        }
    }

    /// The node that decides.
    pub fn decider(&self) -> usize {
        eventually("a node that decides", || {
            (0..NODES).find(|node| {
                let metrics = get(self.nodes[*node].address_of("web"), "/metrics").text();
                metrics.contains("\numbra_cluster_deciding 1\n")
            })
        })
    }
}

/// The lines are of other sections than the field says: a test has no other way to add a section.
fn setup(nats: &NatsServers, node: usize, limits: &'static str) -> Setup {
    let (urls, credentials) = (nats.urls(), nats.file("credentials"));
    let listener = format!(
        "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nmetrics = true\n\
         [cluster]\nname = \"test\"\nnode = {node}\nnats = {urls:?}\ncredentials_file = {credentials:?}\n"
    );
    Setup { listener: listener.leak(), limits, store: "" }
}

fn get(address: std::net::SocketAddr, path: &str) -> Reply {
    Http::connect(address).send(&format!("GET {path} HTTP/1.1"), b"")
}
