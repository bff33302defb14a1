//! The reasons why a node cannot be a member of its cluster, and why the log cannot be used at the moment.

use std::{path::PathBuf, time::Duration};

use crate::config::ClusterSettings;

/// A reason why a node does not start as a member of its cluster. The operator can remove it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The credentials cannot be read.
    #[error("cluster.credentials_file {path:?} {problem}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The problem with it, without its content.
        problem: String,
    },
    /// No server could be reached.
    #[error("no NATS server of cluster.nats ({servers}) could be used within {seconds} s: {problem}")]
    Unreachable {
        /// The addresses.
        servers: String,
        /// The time.
        seconds: u64,
        /// The problem with the last one.
        problem: String,
    },
    /// The servers do not accept the credentials.
    #[error(
        "the NATS servers ({servers}) refuse this node: check cluster.credentials_file, and the user in their configuration"
    )]
    Refused {
        /// The addresses.
        servers: String,
    },
    /// A server is too old, or its version is not known.
    #[error("NATS server {server} has version {found}, but 2.15.0 or newer is needed")]
    OldServer {
        /// The name of the server.
        server: String,
        /// Its version.
        found: String,
    },
    /// A server has no JetStream.
    #[error("NATS server {server} has no JetStream: add `jetstream {{ sync_interval: always }}` to its configuration")]
    NoJetStream {
        /// The name of the server.
        server: String,
    },
    /// A server does not take the largest record.
    #[error(
        "NATS server {server} has max_payload = {found} bytes, but {needed} are needed for limits.packet_bytes_max: raise \
         max_payload to that at least, or lower limits.packet_bytes_max"
    )]
    SmallPayload {
        /// The name of the server.
        server: String,
        /// Its limit.
        found: usize,
        /// The least limit.
        needed: usize,
    },
    /// A server is a single one.
    #[error(
        "NATS server {server} is not in a NATS cluster, but three servers are needed to lose nothing with one: configure \
         `cluster {{ … }}`, or for a try set cluster.allow_unsafe_sync = true"
    )]
    SingleServer {
        /// The name of the server.
        server: String,
    },
    /// The stream is not as it has to be.
    #[error("the stream {stream:?} has {key} = {found}, but needs {needed}: {advice}")]
    Stream {
        /// The name of the stream.
        stream: String,
        /// The key of its configuration.
        key: &'static str,
        /// The value.
        found: String,
        /// The value that is needed.
        needed: String,
        /// The remedy.
        advice: &'static str,
    },
    /// The log is lost.
    #[error(
        "the stream {stream:?} is missing, but this node has applied {applied} records of it: if NATS has lost it, stop all nodes and run \
         `umbrad cluster restore-log` on the one that has applied the most"
    )]
    NoLog {
        /// The name of the stream.
        stream: String,
        /// The records that this node has applied.
        applied: u64,
    },
    /// There is a log, which must not be replaced.
    #[error(
        "the stream {stream:?} exists and ends at record {last}: nothing is to be restored. If its content is useless, delete it \
         first (`nats stream rm`)"
    )]
    LogExists {
        /// The name of the stream.
        stream: String,
        /// Its last record.
        last: u64,
    },
    /// A server does not sync before it acknowledges.
    #[error(
        "NATS server {server} has sync_interval = {found}, so it may lose what it has acknowledged when it loses power: set \
         `jetstream {{ sync_interval: always }}`, or for a try cluster.allow_unsafe_sync = true"
    )]
    UnsafeSync {
        /// The name of the server.
        server: String,
        /// The interval.
        found: String,
    },
    /// The configuration of the servers cannot be seen.
    #[error(
        "this node cannot see if the NATS servers sync before they acknowledge: none of {servers} answered to \
         $SYS.REQ.SERVER.PING.VARZ. Export that service from the system account and import it into the account of this node, \
         with response_type: stream, or for a try set cluster.allow_unsafe_sync = true"
    )]
    UnknownSync {
        /// The names of the servers.
        servers: String,
    },
}

impl ClusterError {
    /// Returns [`Self::Unreachable`] for a node with these settings.
    pub(crate) fn unreachable(settings: &ClusterSettings, limit: Duration, problem: String) -> Self {
        Self::Unreachable { servers: settings.servers.join(", "), seconds: limit.as_secs(), problem }
    }
}

/// The log, or the bus, cannot be used at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogUnavailable {
    /// There was no answer in time.
    #[error("NATS did not answer in time")]
    TimedOut,
    /// There is no connection, or nobody who could answer.
    #[error("NATS cannot be used: {0}")]
    Failed(String),
    /// The server answered with an error.
    #[error("NATS answered with error {code}: {description}")]
    Answered {
        /// The code.
        code: u64,
        /// The text.
        description: String,
    },
    /// The message is larger than any that is accepted.
    #[error("a message of {bytes} bytes is larger than {most}")]
    TooLarge {
        /// The size.
        bytes: usize,
        /// The largest.
        most: usize,
    },
}
