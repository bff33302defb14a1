//! The log and the bus on NATS JetStream.
//!
//! The log is one stream with one subject and nothing else in it, so the sequence of a message is the number of its record. An
//! append is a publication under `Nats-Expected-Last-Sequence`: the leader of the stream checks it, and again every replica when it
//! stores the message.
//!
//! - `connection`: connects, and changes the server.
//! - `patience`: how long a start waits for the servers, and the reason that it gives meanwhile.
//! - `api`: requests of JetStream's API.
//! - `stream`: creates the stream, and checks one that is there.
//! - `servers`: checks the servers' versions and settings.
//! - `follow`: records in order, for ever.
//! - `bus`: messages between nodes.
//! - `inquiry`: what readers and operators ask.
//! - `echo`: changes a server that passes nothing on.
//!
//! Each request is sent once and waits [`REQUEST_TIMEOUT`] at most. Commands of the client that are queued while it reconnects are sent
//! afterwards, so an append may be stored after it was reported as unknown; its condition makes that harmless. Few can be, since
//! a request is not queued while the connection is known to be lost.

mod api;
pub(crate) mod bus;
pub(crate) mod connection;
mod echo;
pub(crate) mod follow;
mod inquiry;
mod patience;
mod servers;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Request};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    cluster::{ClusterError, LogUnavailable, seeding::LogExtent},
    config::ClusterSettings,
    store::{Appended, NodeId},
};
use api::{ErrorReply, StreamState};
use patience::Patience;

/// The longest wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a failure that came at once, so that a caller who tries again does not spin.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The time without a successful request after which the connection changes to another server: this one may be cut off from the
/// others. A new leader of the log is elected in less.
const SWITCH_AFTER: Duration = Duration::from_secs(8);
/// The time for a start: servers that start at the same moment are ready in less.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The bytes around a record in a message: headers and subjects.
const HEAD_BYTES: usize = 64 << 10;

/// The error codes of an append whose condition is false.
const WRONG_LAST_SEQUENCE: [u64; 2] = [10_071, 10_164];

/// The log and the bus of one cluster, as one node uses them. Clones share a connection.
#[derive(Clone)]
pub(crate) struct NatsLog {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    names: Names,
    node: NodeId,
    record_bytes_max: usize,
    allows_unsafe_sync: bool,
    /// The first failure since the last success or change of server.
    failing_since: Mutex<Option<Instant>>,
    /// The number whose append was refused last.
    refused: AtomicU64,
}

/// The names in NATS of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    stream: String,
    subject: String,
    /// The prefix of the subjects of the bus.
    bus: String,
}

impl Names {
    fn of(cluster: &str) -> Self {
        Self {
            stream: format!("umbra-{cluster}"),
            subject: format!("umbra.{cluster}.log"),
            bus: format!("umbra.{cluster}.bus"),
        }
    }
}

/// The answer to an append.
#[derive(Debug, Deserialize)]
struct AppendReply {
    error: Option<ErrorReply>,
    #[serde(default)]
    seq: u64,
}

impl NatsLog {
    /// Connects, checks the servers, and creates the stream if there is none and this node has `applied` nothing of one. Sends the reason
    /// for which it waits to `state`.
    ///
    /// # Errors
    ///
    /// - [`ClusterError::Unreachable`]: no server can be used, after some time in which servers may start.
    /// - the others, at once: the servers are not as they have to be.
    pub(crate) async fn connect(
        settings: &ClusterSettings,
        applied: u64,
        state: &watch::Sender<String>,
    ) -> Result<Self, ClusterError> {
        Self::connect_within(settings, applied, Patience::new(settings, START_TIMEOUT, state)).await
    }

    async fn connect_within(
        settings: &ClusterSettings,
        applied: u64,
        mut patience: Patience<'_>,
    ) -> Result<Self, ClusterError> {
        let client = connection::connect(settings, &mut patience).await?;
        let log = Self::of(client, settings, Names::of(&settings.name));
        let is_clustered = servers::check_connected(&log.shared.client.server_info(), settings)?;
        loop {
            let error = match stream::ensure(&log, settings, is_clustered, applied).await? {
                Ok(stream) if settings.allow_unsafe_sync => {
                    tracing::warn!(
                        stream = log.shared.names.stream,
                        "the log may lose records: allow_unsafe_sync is set"
                    );
                    drop(stream);
                    return Ok(log);
                }
                Ok(stream) => match servers::check_all(&log, &stream).await? {
                    Ok(()) => return Ok(log),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let missing = servers::missing(&log, settings.servers.len()).await;
            patience.wait("the log is not ready", missing.unwrap_or_else(|| error.to_string())).await?;
        }
    }

    /// Creates the stream anew, as if it had the records up to `applied` and all were trimmed.
    ///
    /// # Errors
    ///
    /// As [`NatsLog::connect`]; [`ClusterError::LogExists`]: there is a stream with records.
    pub(crate) async fn restore(settings: &ClusterSettings, applied: u64) -> Result<(), ClusterError> {
        let nobody = watch::Sender::default();
        let mut patience = Patience::new(settings, START_TIMEOUT, &nobody);
        let client = connection::connect(settings, &mut patience).await?;
        let log = Self::of(client, settings, Names::of(&settings.name));
        let is_clustered = servers::check_connected(&log.shared.client.server_info(), settings)?;
        while let Err(error) = stream::restore(&log, settings, is_clustered, applied).await? {
            patience.wait("the log is not ready", error.to_string()).await?;
        }
        Ok(())
    }

    /// Returns a bus for `kind` on a connection of its own, for messages of which there may be more than a node can take: the server
    /// closes a connection that is too slow for them.
    ///
    /// # Errors
    ///
    /// As [`NatsLog::connect`].
    pub(crate) async fn connect_bus(
        settings: &ClusterSettings,
        kind: &str,
        state: &watch::Sender<String>,
    ) -> Result<Self, ClusterError> {
        let client = connection::connect(settings, &mut Patience::new(settings, START_TIMEOUT, state)).await?;
        let mut names = Names::of(&settings.name);
        names.bus = format!("umbra.{}.{kind}", settings.name);
        Ok(Self::of(client, settings, names))
    }

    fn of(client: Client, settings: &ClusterSettings, names: Names) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                names,
                node: NodeId(settings.node),
                record_bytes_max: settings.record_bytes_max,
                allows_unsafe_sync: settings.allow_unsafe_sync,
                failing_since: Mutex::new(None),
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// Returns the most bytes of a record, or of a message on the bus.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.shared.record_bytes_max
    }

    /// Appends `record` if the last record of the log is `expected`. Sends it once, and takes about [`REQUEST_TIMEOUT`] at most. A
    /// caller that tries again at once does not spin: failures that need no time are delayed.
    pub(crate) async fn append(&self, expected: u64, record: Bytes) -> Appended {
        let Shared { names, record_bytes_max, refused, .. } = &*self.shared;
        if record.len() > *record_bytes_max {
            tracing::error!(bytes = record.len(), most = record_bytes_max, "a record is too large for the log");
            sleep(REQUEST_TIMEOUT).await;
            return Appended::Unknown;
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", expected.to_string());
        // Another stream with this subject would acknowledge as well.
        headers.insert("Nats-Expected-Stream", names.stream.as_str());
        let request = Request::new().payload(record).headers(headers);
        let begun = Instant::now();
        let reply = match self.request(names.subject.clone(), request).await {
            Ok(message) => serde_json::from_slice::<AppendReply>(&message.payload),
            Err(error) => {
                tracing::debug!(expected, %error, "the outcome of an append is unknown");
                return Appended::Unknown;
            }
        };
        match reply {
            Ok(AppendReply { error: None, seq }) if seq == expected + 1 => {
                self.succeeded();
                Appended::Stored
            }
            Ok(AppendReply { error: Some(error), .. }) if WRONG_LAST_SEQUENCE.contains(&error.err_code) => {
                // A leader refuses also because of an append that is not decided yet.
                if refused.swap(expected + 1, Ordering::Relaxed) == expected + 1 {
                    sleep(RETRY_PAUSE).await;
                }
                Appended::Refused
            }
            other => {
                tracing::warn!(expected, answer = ?other, "NATS did not append a record");
                self.failed(begun).await;
                Appended::Unknown
            }
        }
    }

    /// Reads the record with this number; `None` if the log has none: it ends before, or the record was trimmed. The leader of the
    /// stream answers, so that appends reported before are seen, unless it was deposed and does not know it yet. [`NatsLog::tail`], or an
    /// append under the condition of what was read, finds that out.
    pub(crate) async fn read(&self, number: u64) -> Result<Option<Bytes>, LogUnavailable> {
        api::message(self, number).await
    }

    /// Returns the number of the last record, 0 for an empty log. It is answered by a leader that has heard from a majority in the last
    /// seconds. In these, another may have been elected only if a server voted for it right after it had answered the former one.
    pub(crate) async fn tail(&self) -> Result<u64, LogUnavailable> {
        self.state().await.map(|state| state.last_seq)
    }

    /// Returns the numbers of the first and the last record, as [`NatsLog::tail`] does.
    pub(crate) async fn extent(&self) -> Result<LogExtent, LogUnavailable> {
        let StreamState { first_seq, last_seq, .. } = self.state().await?;
        Ok(LogExtent { first: first_seq.max(1), last: last_seq })
    }

    /// Removes the records up to the number `to`, except for the last of the log.
    pub(crate) async fn trim(&self, to: u64) -> Result<(), LogUnavailable> {
        let last = self.tail().await?;
        match to.saturating_add(1).min(last) {
            0 | 1 => Ok(()),
            first_kept => api::purge(self, first_kept).await,
        }
    }

    async fn state(&self) -> Result<StreamState, LogUnavailable> {
        let begun = Instant::now();
        let info = api::stream_info(self).await?;
        if info.is_of_a_majority() {
            return Ok(info.state);
        }
        self.failed(begun).await;
        Err(LogUnavailable::Failed("the leader of the log hears from no majority".into()))
    }

    /// Sends a request once, and waits for the answer.
    async fn request(&self, subject: String, request: Request) -> Result<Message, LogUnavailable> {
        let begun = Instant::now();
        let sent = async {
            self.connected().await;
            self.shared.client.send_request(subject, request.timeout(None)).await
        };
        let answer = match timeout(REQUEST_TIMEOUT, sent).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => Err(LogUnavailable::Failed(error.to_string())),
            Err(_) => Err(LogUnavailable::TimedOut),
        };
        if answer.is_err() {
            self.failed(begun).await;
        }
        answer
    }

    /// Waits until the connection is there. Nothing is queued while it is lost: that would be sent later.
    async fn connected(&self) {
        while self.shared.client.connection_state() != async_nats::connection::State::Connected {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Notes that the server is one of a majority: a record was appended or came, or a consumer was made. Answers about the stream show
    /// nothing: one that is cut off has them as well.
    fn succeeded(&self) {
        *self.shared.failing_since.lock() = None;
    }

    /// Notes a failure of a request that was sent at `begun`, and changes the server after some time of them. Pauses if the failure
    /// came at once.
    async fn failed(&self, begun: Instant) {
        let change = {
            let mut since = self.shared.failing_since.lock();
            let change = since.get_or_insert(begun).elapsed() > SWITCH_AFTER;
            if change {
                *since = None;
            }
            change
        };
        if change {
            tracing::warn!("requests to NATS fail; trying another server");
            // With a full queue of commands the connection is stuck, and ends by its own pings.
            let _ = timeout(RETRY_PAUSE, self.shared.client.force_reconnect()).await;
        }
        sleep_until(begun + RETRY_PAUSE).await;
    }
}
