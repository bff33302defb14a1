//! Three nodes and the three NATS servers with their log, on loopback. Each of the six is a child process, and can be killed,
//! stopped for some time, ended, and started again. There is a proxy between each node and each server.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::{
    client::{Client, ConnAck},
    eventually,
    http::{Http, Reply},
    nats::{NatsServers, SOUND},
    proxy::{Fault, Proxy},
    server::{Server, Setup},
    wire::Connect,
};

pub const NODES: usize = 3;
const SERVER_UNAVAILABLE: u8 = 0x88;

/// The cluster; node `nodes[0]` has the number 1.
pub struct Cluster {
    pub nodes: Vec<Server>,
    pub nats: NatsServers,
    links: Links,
}

/// The proxies of each node.
struct Links {
    proxies: Vec<Vec<Proxy>>,
    _runtime: Runtime,
}

/// Connects a client to a node of a cluster, which may have to wait for another node to decide.
pub fn connect_at(address: SocketAddr, connect: &Connect) -> (Client, ConnAck) {
    eventually("a connection", || {
        let mut client = Client::open_at(address, connect.protocol);
        client.send(connect.encode());
        let answer = client.connack();
        match answer.code {
            0 => Some((client, answer)),
            3 | SERVER_UNAVAILABLE => None,
            code => panic!("{code}"),
        }
    })
}

impl Cluster {
    /// Starts the servers and the nodes, with `limits` as in [`Setup`], and waits until all nodes are ready.
    pub fn start(limits: &'static str) -> Self {
        Self::with(|_| limits)
    }

    /// Starts the servers and the nodes, each with its own `limits`, and waits until all nodes are ready.
    pub fn with(limits: impl Fn(usize) -> &'static str + Sync) -> Self {
        Self::of(limits, "")
    }

    /// As [`Cluster::start`], with lines of the section `[store]`.
    pub fn with_store(limits: &'static str, store: &'static str) -> Self {
        Self::of(|_| limits, store)
    }

    fn of(limits: impl Fn(usize) -> &'static str + Sync, store: &'static str) -> Self {
        let nats = NatsServers::start(SOUND);
        let links = Links::to(&nats);
        let start = |node| Server::with(Setup { store, ..setup(&nats, &links.urls(node), node + 1, limits(node)) });
        // At once: a node without a store waits for others that may have one.
        let nodes = thread::scope(|scope| {
            let starting: Vec<_> = (0..NODES).map(|node| scope.spawn(move || start(node))).collect();
            starting.into_iter().map(|node| node.join().expect("a node starts")).collect()
        });
        let cluster = Self { nodes, nats, links };
        (0..NODES).for_each(|node| cluster.wait_until_ready(node));
        (0..NODES).for_each(|node| cluster.wait_until_all_are_heard_of(node));
        cluster
    }

    /// Starts another process with the number of a node, and a store of its own.
    pub fn namesake(&self, node: usize) -> Server {
        Server::with(setup(&self.nats, &self.links.urls(node), node + 1, ""))
    }

    /// Sets the fault of all connections between a node and NATS.
    pub fn set_fault(&self, node: usize, fault: Fault) {
        self.links.proxies[node].iter().for_each(|proxy| proxy.set(fault));
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

    /// Waits until the node hears of all others.
    fn wait_until_all_are_heard_of(&self, node: usize) {
        eventually(&format!("node {} to hear of all", node + 1), || {
            let page = self.get(node, "/metrics").text();
            let alive =
                page.lines().filter(|line| line.starts_with("umbra_cluster_node_alive{") && line.ends_with(" 1"));
            (alive.count() == NODES).then_some(())
        });
    }

    /// The document of a device at a node, over HTTP; `None` if there is none.
    pub fn document(&self, node: usize, device: &str) -> Option<Value> {
        let reply = self.get(node, &format!("/v1/devices/{device}/shadow"));
        match reply.status {
            200 => Some(reply.json()),
            404 => None,
            status => panic!("{status} {}", reply.text()),
        }
    }

    /// The reply of a node to a GET.
    pub fn get(&self, node: usize, path: &str) -> Reply {
        get(self.nodes[node].address_of("web"), path)
    }

    /// The reply of a node to a request with a JSON body, or none: `head` is its method and target, and its headers on further lines.
    pub fn send(&self, node: usize, head: &str, body: &Value) -> Reply {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let media = if body.is_empty() { "" } else { "\nContent-Type: application/json" };
        let mut client = Http::connect(self.nodes[node].address_of("web"));
        client.send(&format!("{line} HTTP/1.1{media}\n{headers}"), &body)
    }

    /// Has a node change `desired` of a device, or create it.
    pub fn put(&self, node: usize, device: &str, desired: &Value) -> Reply {
        let head = format!("PUT /v1/devices/{device}/shadow?upsert=true");
        let reply = self.send(node, &head, &json!({ "desired": desired }));
        assert!([200, 201].contains(&reply.status), "{}", reply.text());
        reply
    }

    /// The cluster as a node knows it.
    pub fn state(&self, node: usize) -> Value {
        let reply = self.get(node, "/v1/cluster");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// The node that decides.
    pub fn decider(&self) -> usize {
        eventually("a node that decides", || {
            (0..NODES).find(|node| self.get(*node, "/metrics").text().contains("\numbra_cluster_deciding 1\n"))
        })
    }

    /// The NATS server that leads the log.
    pub fn leader(&self) -> usize {
        eventually("a leader of the log", || {
            let info = self.nats.ports().find_map(|port| request(port, "$JS.API.STREAM.INFO.umbra-test", ""))?;
            info["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse().ok()
        })
    }

    /// Removes the records of the log before `first`, or all but the last one, as age does. Returns the first one that is left.
    pub fn trim_log(&self, first: Option<u64>) -> u64 {
        eventually("the log to be trimmed", || {
            let info = self.nats.ports().find_map(|port| request(port, "$JS.API.STREAM.INFO.umbra-test", ""))?;
            let first = first.or(info["state"]["last_seq"].as_u64())?;
            let body = format!("{{\"seq\":{first}}}");
            let purged = self.nats.ports().find_map(|port| request(port, "$JS.API.STREAM.PURGE.umbra-test", &body))?;
            (purged["success"] == true).then_some(first)
        })
    }
}

impl Links {
    fn to(nats: &NatsServers) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let proxies = |_| nats.ports().map(|port| runtime.block_on(Proxy::to(port))).collect();
        Self { proxies: (0..NODES).map(proxies).collect(), _runtime: runtime }
    }

    fn urls(&self, node: usize) -> Vec<String> {
        self.proxies[node].iter().map(|proxy| format!("nats://127.0.0.1:{}", proxy.port)).collect()
    }
}

/// The lines are of other sections than the field says: a test has no other way to add a section.
fn setup(nats: &NatsServers, urls: &[String], node: usize, limits: &'static str) -> Setup {
    let credentials = nats.file("credentials");
    let listener = format!(
        "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nmetrics = true\n\
         [cluster]\nname = \"test\"\nnode = {node}\nnats = {urls:?}\ncredentials_file = {credentials:?}\n"
    );
    Setup { listener: listener.leak(), limits, store: "" }
}

fn get(address: SocketAddr, path: &str) -> Reply {
    Http::connect(address).send(&format!("GET {path} HTTP/1.1"), b"")
}

/// The reply to a request to a NATS server, in JSON; `None` if it does not answer.
fn request(port: u16, subject: &str, body: &str) -> Option<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let options = r#"{"verbose":false,"pedantic":false,"user":"node","pass":"secret"}"#;
    let length = body.len();
    write!(stream, "CONNECT {options}\r\nSUB answer 1\r\nPUB {subject} answer {length}\r\n{body}\r\n").ok()?;
    let mut lines = BufReader::new(stream).lines();
    lines.find(|line| line.as_ref().map_or(true, |line| line.starts_with("MSG answer ")))?.ok()?;
    serde_json::from_str(&lines.next()?.ok()?).ok()
}
