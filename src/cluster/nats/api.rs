//! The requests of JetStream's API that the log needs: JSON, by request and reply.
//!
//! The JetStream part of `async-nats` is not used (decision 0021): it retries and recreates at its own times, and its types leave out
//! keys of a stream's configuration that the check must see.

use std::time::Duration;

use async_nats::Request;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::NatsLog;
use crate::cluster::LogUnavailable;

/// The time in which a leader hears from each replica: it sends heartbeats every second, and nobody else is elected in less.
const HEARD_WITHIN: Duration = Duration::from_secs(4);
/// The entries by which a replica may be behind its leader. There are some hundred each second.
const LAG_MAX: u64 = 1_000;
/// No server leads JetStream, or this one is cut off from it.
const UNAVAILABLE: u64 = 10_008;
const MESSAGE_NOT_FOUND: u64 = 10_037;
pub(super) const STREAM_NOT_FOUND: u64 = 10_059;

/// An error in an answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ErrorReply {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// The configuration, the state and the servers of the stream.
#[derive(Debug, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: Value,
    pub(super) state: StreamState,
    pub(super) cluster: Option<StreamCluster>,
}

/// The first and the last message of the stream, their number and bytes. Of an empty one, the last is the last that was there, and the first one more.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct StreamState {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    #[serde(default)]
    pub(super) messages: u64,
    #[serde(default)]
    pub(super) bytes: u64,
}

/// The servers that have the stream.
#[derive(Debug, Deserialize)]
pub(super) struct StreamCluster {
    pub(super) leader: Option<String>,
    #[serde(default)]
    pub(super) replicas: Vec<StreamPeer>,
}

/// A server besides the leader.
#[derive(Debug, Deserialize)]
pub(super) struct StreamPeer {
    pub(super) name: String,
    /// Nanoseconds since the leader heard from it.
    #[serde(default)]
    active: u64,
    /// The entries by which it is behind the leader.
    #[serde(default)]
    lag: u64,
    #[serde(default)]
    offline: bool,
}

impl StreamPeer {
    /// Returns true if the leader has lately heard from it.
    fn is_heard(&self) -> bool {
        Duration::from_nanos(self.active) < HEARD_WITHIN
    }

    /// Returns true if it is heard of, and not behind by more than a busy log may be for a moment.
    pub(super) fn is_current(&self) -> bool {
        !self.offline && self.is_heard() && self.lag <= LAG_MAX
    }
}

impl StreamInfo {
    /// Returns true if the leader answered, and has lately heard from a majority: one that was cut off or paused may not know
    /// that another was elected, for a minute and longer.
    pub(super) fn is_of_a_majority(&self) -> bool {
        let Some(StreamCluster { leader, replicas }) = &self.cluster else { return true };
        let heard = replicas.iter().filter(|replica| replica.is_heard()).count();
        leader.is_some() && 2 * (heard + 1) > replicas.len() + 1
    }
}

pub(super) async fn stream_info(log: &NatsLog) -> Result<StreamInfo, LogUnavailable> {
    request(log, "STREAM.INFO", "", Value::Null).await
}

pub(super) async fn create_stream(log: &NatsLog, config: &Value) -> Result<StreamInfo, LogUnavailable> {
    request(log, "STREAM.CREATE", "", config.clone()).await
}

pub(super) async fn update_stream(log: &NatsLog, config: &Value) -> Result<StreamInfo, LogUnavailable> {
    request(log, "STREAM.UPDATE", "", config.clone()).await
}

pub(super) async fn delete_stream(log: &NatsLog) -> Result<(), LogUnavailable> {
    request::<Value>(log, "STREAM.DELETE", "", Value::Null).await.map(|_| ())
}

/// Removes the messages before `first_kept`.
pub(super) async fn purge(log: &NatsLog, first_kept: u64) -> Result<(), LogUnavailable> {
    request::<Value>(log, "STREAM.PURGE", "", json!({ "seq": first_kept })).await.map(|_| ())
}

/// Reads a message, from the leader; `None` if there is none.
pub(super) async fn message(log: &NatsLog, sequence: u64) -> Result<Option<Bytes>, LogUnavailable> {
    #[derive(Deserialize)]
    struct Found {
        message: Stored,
    }
    #[derive(Deserialize)]
    struct Stored {
        #[serde(default)]
        data: String,
    }
    if sequence == 0 {
        return Ok(None);
    }
    match request::<Found>(log, "STREAM.MSG.GET", "", json!({ "seq": sequence })).await {
        Ok(Found { message }) => match BASE64_STANDARD.decode(message.data) {
            Ok(data) => Ok(Some(data.into())),
            Err(error) => Err(LogUnavailable::Failed(format!("message {sequence} is not base64: {error}"))),
        },
        Err(LogUnavailable::Answered { code: MESSAGE_NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a consumer that sends the messages from `from` on to `subject`, as long as somebody listens there.
pub(super) async fn create_consumer(
    log: &NatsLog,
    name: &str,
    subject: &str,
    from: u64,
    heartbeat: Duration,
) -> Result<(), LogUnavailable> {
    let stream = &log.shared.names.stream;
    let config = json!({
        "name": name,
        "deliver_subject": subject,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": from,
        "ack_policy": "none",
        "replay_policy": "instant",
        "flow_control": true,
        "idle_heartbeat": heartbeat.as_nanos() as u64,
        "inactive_threshold": (10 * heartbeat).as_nanos() as u64,
        "mem_storage": true,
        "num_replicas": 1,
    });
    let body = json!({ "stream_name": stream, "config": config });
    request::<Value>(log, "CONSUMER.CREATE", &format!(".{name}"), body).await.map(|_| ())
}

/// Sends a request about the stream.
async fn request<T: DeserializeOwned>(
    log: &NatsLog,
    operation: &str,
    rest: &str,
    body: Value,
) -> Result<T, LogUnavailable> {
    let subject = format!("$JS.API.{operation}.{}{rest}", log.shared.names.stream);
    let payload = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let begun = Instant::now();
    let message = log.request(subject, Request::new().payload(payload)).await?;
    let answer = answer(&message.payload);
    if matches!(answer, Err(LogUnavailable::Answered { code: UNAVAILABLE, .. })) {
        log.failed(begun).await;
    }
    answer
}

fn answer<T: DeserializeOwned>(payload: &[u8]) -> Result<T, LogUnavailable> {
    #[derive(Deserialize)]
    struct Failure {
        error: Option<ErrorReply>,
    }
    let unreadable = |error: serde_json::Error| LogUnavailable::Failed(format!("an answer cannot be read: {error}"));
    match serde_json::from_slice::<Failure>(payload).map_err(unreadable)?.error {
        Some(ErrorReply { err_code: code @ STREAM_NOT_FOUND, .. }) => {
            let description = "there is no stream. If NATS has lost it, stop all nodes and run `umbrad cluster restore-log` on \
                               the one that has applied the most";
            Err(LogUnavailable::Answered { code, description: description.to_owned() })
        }
        Some(ErrorReply { err_code, description }) => Err(LogUnavailable::Answered { code: err_code, description }),
        None => serde_json::from_slice(payload).map_err(unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_hears_from_no_majority_is_not_believed() {
        let (now, late) =
            (json!({"name": "n", "active": 900_000_000}), json!({"name": "n", "active": 5_000_000_000_u64}));
        for (cluster, expected) in [
            (Value::Null, true),
            (json!({"leader": "n0"}), true),
            (json!({"leader": "n0", "replicas": [now, now]}), true),
            (json!({"leader": "n0", "replicas": [late, now]}), true),
            (json!({"leader": "n0", "replicas": [late, late]}), false),
            (json!({"replicas": [now, now]}), false),
            (json!({"leader": "n0", "replicas": [late, late, now, now]}), true),
            (json!({"leader": "n0", "replicas": [late, late, late, now]}), false),
        ] {
            let info = json!({"config": {}, "state": {"first_seq": 1, "last_seq": 2}, "cluster": cluster});
            let info = serde_json::from_value::<StreamInfo>(info).expect("an answer");
            assert_eq!(info.is_of_a_majority(), expected, "{cluster}");
        }
    }

    #[test]
    fn a_replica_that_is_away_or_far_behind_is_not_current() {
        for (peer, expected) in [
            (json!({"name": "n", "current": false, "active": 10, "lag": 3}), true),
            (json!({"name": "n", "current": true, "active": 900_000_000}), true),
            (json!({"name": "n", "active": 5_000_000_000_u64}), false),
            (json!({"name": "n", "active": 10, "lag": 1_001}), false),
            (json!({"name": "n", "active": 10, "offline": true}), false),
        ] {
            let found = serde_json::from_value::<StreamPeer>(peer.clone()).expect("a replica");
            assert_eq!(found.is_current(), expected, "{peer}");
        }
    }
}
