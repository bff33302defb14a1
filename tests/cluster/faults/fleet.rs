//! State that the clients of a round share.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use serde_json::Value;

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    server::Server,
};

/// Devices that all writers update.
pub const SHARED_DEVICES: usize = 4;
pub const RETAINED_TOPICS: usize = 3;

/// The clients of a round; dropped or not, they end when [`EndFleet`] is dropped.
pub struct Fleet {
    pub seed: u64,
    pub begun: Instant,
    processes: Vec<Mutex<Process>>,
    is_ending: AtomicBool,
    writers_end: AtomicBool,
    /// The time of the last accepted update that was sent, of each writer.
    accepted: Mutex<HashMap<usize, Instant>>,
    /// The newest version that each subscriber has seen since it subscribed; `None` while it is not subscribed.
    seen: Vec<Mutex<Option<HashMap<String, u64>>>>,
    /// The number of subscriptions of each subscriber so far.
    subscriptions: Vec<AtomicUsize>,
    pub published: Mutex<Vec<Publication>>,
    observations: Mutex<Vec<Observation>>,
}

/// The addresses of a process that is a node: no other process of the round has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub mqtt: SocketAddr,
    pub web: SocketAddr,
}

impl Process {
    fn of(node: &Server) -> Self {
        Self { mqtt: node.address, web: node.address_of("web") }
    }
}

/// A version that a client saw of a device.
#[derive(Clone, Debug)]
pub struct Observation {
    pub device: String,
    pub process: Process,
    pub kind: Kind,
    /// Version 0: there was no shadow.
    pub version: u64,
    pub received: Instant,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Read {
        sent: Instant,
        is_consistent: bool,
        /// The section `desired`, `null` if there was no shadow.
        desired: Value,
    },
    /// An event for a subscriber.
    Event,
}

/// A retained message that a client published.
#[derive(Clone, Debug)]
pub struct Publication {
    pub topic: String,
    pub payload: String,
    pub sent: Instant,
    /// The time of its PUBACK.
    pub acknowledged: Option<Instant>,
    pub is_refused: bool,
}

/// Ends the clients when dropped.
pub struct EndFleet<'a>(&'a Fleet);

impl Drop for EndFleet<'_> {
    fn drop(&mut self) {
        self.0.writers_end.store(true, Ordering::Relaxed);
        self.0.is_ending.store(true, Ordering::Relaxed);
    }
}

impl Fleet {
    pub fn new(cluster: &Cluster, seed: u64) -> Self {
        Self {
            seed,
            begun: Instant::now(),
            processes: cluster.nodes.iter().map(|node| Mutex::new(Process::of(node))).collect(),
            is_ending: AtomicBool::new(false),
            writers_end: AtomicBool::new(false),
            accepted: Mutex::default(),
            seen: (0..NODES).map(|_| Mutex::default()).collect(),
            subscriptions: (0..NODES).map(|_| AtomicUsize::default()).collect(),
            published: Mutex::default(),
            observations: Mutex::default(),
        }
    }

    pub fn end_when_dropped(&self) -> EndFleet<'_> {
        EndFleet(self)
    }

    pub fn shared_device(&self, number: usize) -> String {
        format!("round-{}-{number}", self.seed)
    }

    /// A device at which a writer uses idempotency keys. A shadow remembers only the newest, so a request that a former node applied
    /// late would have its effect twice.
    pub fn own_device(&self, writer: usize) -> String {
        format!("round-{}-of-{writer}", self.seed)
    }

    pub fn retained_topics(&self) -> Vec<String> {
        (0..RETAINED_TOPICS).map(|number| format!("plant/{}/{number}", self.seed)).collect()
    }

    pub fn process(&self, node: usize) -> Process {
        *self.processes[node].lock().unwrap()
    }

    /// Notes that a node was started again.
    pub fn moved(&self, node: usize, server: &Server) {
        *self.processes[node].lock().unwrap() = Process::of(server);
    }

    pub fn observed(&self, observation: Observation) {
        self.observations.lock().unwrap().push(observation);
    }

    pub fn take_observations(&self) -> Vec<Observation> {
        std::mem::take(&mut self.observations.lock().unwrap())
    }

    pub fn stop_writers(&self) {
        self.writers_end.store(true, Ordering::Relaxed);
    }

    pub fn do_writers_end(&self) -> bool {
        self.writers_end.load(Ordering::Relaxed)
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    pub fn accepted(&self, writer: usize, sent: Instant) {
        self.accepted.lock().unwrap().insert(writer, sent);
    }

    pub fn has_recovered(&self, since: Instant) -> Option<()> {
        let accepted = self.accepted.lock().unwrap();
        (accepted.len() >= super::WRITERS && accepted.values().all(|sent| *sent > since)).then_some(())
    }

    pub fn are_all_subscribed(&self) -> Option<()> {
        self.seen.iter().all(|seen| seen.lock().unwrap().is_some()).then_some(())
    }

    /// A subscriber has subscribed, or its connection has ended.
    pub fn subscribed(&self, node: usize, is_subscribed: bool) {
        self.subscriptions[node].fetch_add(usize::from(is_subscribed), Ordering::Relaxed);
        *self.seen[node].lock().unwrap() = is_subscribed.then(HashMap::new);
    }

    /// The number of subscriptions of each subscriber: one, and another for each connection that it lost.
    pub fn subscriptions(&self) -> Vec<usize> {
        self.subscriptions.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// A subscriber has seen a version. Returns the one before on this connection.
    pub fn saw(&self, node: usize, device: &str, version: u64) -> Option<u64> {
        let mut seen = self.seen[node].lock().unwrap();
        seen.as_mut().expect("it is subscribed").insert(device.to_owned(), version)
    }

    /// Waits until all subscribers have seen a version.
    pub fn wait_until_seen(&self, device: &str, version: u64) {
        for (node, seen) in self.seen.iter().enumerate() {
            let newest = || seen.lock().unwrap().as_ref().and_then(|seen| seen.get(device).copied());
            eventually(&format!("version {version} of {device} at node {}: {:?}", node + 1, newest()), || {
                newest().filter(|newest| *newest == version)
            });
        }
    }
}
