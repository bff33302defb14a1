//! The servers of a test, and the nodes that use them.

use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

#[path = "../../../../tests/harness/nats.rs"]
#[allow(dead_code, unreachable_pub, clippy::indexing_slicing, reason = "shared with the tests of the program")]
mod processes;

pub(super) use processes::{SOUND, Variation, free_port, write_private};

use super::{NatsLog, api, within};
use crate::{cluster::ClusterError, config::ClusterSettings};

/// As many sets of servers as the machine can run at a time.
static PLACES: Semaphore = Semaphore::const_new(4);

pub(super) struct Servers {
    processes: processes::NatsServers,
    _place: SemaphorePermit<'static>,
}

impl Servers {
    pub(super) async fn start(variation: Variation) -> Self {
        let place = PLACES.acquire().await.expect("it is never closed");
        Self { processes: processes::NatsServers::start(variation), _place: place }
    }

    pub(super) fn launch(&mut self, number: usize) {
        self.processes.launch(number);
    }

    pub(super) fn kill(&mut self, number: usize) {
        self.processes.kill(number);
    }

    pub(super) fn signal(&self, number: usize, signal: Signal) {
        self.processes.signal(number, signal);
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.processes.ports()
    }

    /// The path of a file beside those of the servers.
    pub(super) fn file(&self, name: &str) -> std::path::PathBuf {
        self.processes.file(name)
    }

    /// The settings of a node with the servers as they are.
    pub(super) fn settings(&self, node: u64) -> ClusterSettings {
        ClusterSettings {
            name: "test".into(),
            node,
            servers: self.processes.urls(),
            tls: false,
            credentials_file: Some(self.file("credentials")),
            ca_file: None,
            log_bytes_max: 256 << 20,
            log_age_max: Duration::from_secs(3_600),
            allow_unsafe_sync: false,
            record_bytes_max: 2 << 20,
        }
    }

    pub(super) async fn connect(&self, node: u64) -> NatsLog {
        let connected = self.try_connect(&self.settings(node)).await;
        connected.unwrap_or_else(|error| unreachable!("{error}\n{}", self.processes.logs()))
    }

    pub(super) async fn try_connect(&self, settings: &ClusterSettings) -> Result<NatsLog, ClusterError> {
        within("a connection", NatsLog::connect(settings, 0, &watch::Sender::default())).await
    }
}

/// The number of the server that leads the stream.
pub(super) async fn leader(log: &NatsLog) -> usize {
    let leader = async {
        loop {
            if let Ok(info) = api::stream_info(log).await
                && let Some(leader) = info.cluster.and_then(|cluster| cluster.leader)
            {
                return leader;
            }
        }
    };
    number(&within("a leader", leader).await)
}

/// The number of the server that `log` is connected to.
pub(super) fn connected_to(log: &NatsLog) -> usize {
    number(&log.shared.client.server_info().server_name)
}

fn number(name: &str) -> usize {
    name.trim_start_matches('n').parse().expect("a name such as n1")
}
