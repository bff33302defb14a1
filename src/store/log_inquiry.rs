//! Questions about the log of a cluster, for operators. The engine that stores the log answers them.

use std::{pin::Pin, time::Duration};

/// The log, as those see it who only ask about it.
pub trait LogInquiry: Send + Sync {
    /// Asks for the state of the log and of its servers.
    fn status(&self) -> LogAnswer<LogStatus>;
}

/// The answer to a question, or the reason why there is none.
pub type LogAnswer<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// The state of the log and of its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// The first record; one more than the last if there is none.
    pub first: u64,
    /// The last record.
    pub last: u64,
    /// The number of records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The servers that have the log.
    pub servers: Vec<LogServer>,
    /// The least `max_payload` that a server needs.
    pub payload_bytes_min: usize,
    /// True if the node accepts servers that may lose what they acknowledged.
    pub allows_unsafe_sync: bool,
}

/// A server that has the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogServer {
    /// Its name.
    pub name: String,
    /// True if it leads the others.
    pub is_leader: bool,
    /// True if it was heard of lately, and is not far behind the leader; without a leader, if it answers.
    pub is_current: bool,
    /// Its settings; `None` if it did not answer.
    pub settings: Option<LogServerSettings>,
}

/// The settings of a server that matter for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogServerSettings {
    /// The version of the server.
    pub version: String,
    /// Most bytes of a message.
    pub payload_bytes_max: usize,
    /// The interval between two syncs; `None` if it syncs before it acknowledges.
    pub sync_interval: Option<Duration>,
}
