//! The servers: version, size of messages, and if they sync before they acknowledge.
//!
//! A client sees the first two in the greeting. `sync_interval` is in the answers to `$SYS.REQ.SERVER.PING.VARZ`, a service of the
//! system account, which has to be exported to the account of the nodes; every server of the NATS cluster answers.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{ServerInfo, StatusCode};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{
    HEAD_BYTES, NatsLog, REQUEST_TIMEOUT,
    api::{StreamCluster, StreamInfo},
};
use crate::{
    cluster::{ClusterError, LogUnavailable},
    config::ClusterSettings,
};

const SETTINGS_SUBJECT: &str = "$SYS.REQ.SERVER.PING.VARZ";
/// The first version that has the semantics of conditional appends which this was written for.
const VERSION: (u64, u64) = (2, 15);
/// The time in which servers answer that are reached.
const ROLL_CALL: Duration = Duration::from_millis(500);
/// The number of tries to hear from every server.
const TRIES: usize = 3;

/// The answer of one server about itself.
#[derive(Debug, Deserialize)]
struct ServerReply {
    data: ServerSettings,
}

/// The settings of a server.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServerSettings {
    server_name: String,
    pub(super) version: String,
    #[serde(default)]
    pub(super) max_payload: usize,
    #[serde(default)]
    pub(super) jetstream: JetStream,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct JetStream {
    pub(super) config: Option<JetStreamConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct JetStreamConfig {
    #[serde(default)]
    pub(super) sync_always: bool,
    /// Nanoseconds.
    #[serde(default)]
    pub(super) sync_interval: u64,
}

/// Checks the server that the node is connected to. Returns true if it is in a NATS cluster.
pub(super) fn check_connected(info: &ServerInfo, settings: &ClusterSettings) -> Result<bool, ClusterError> {
    let server = &info.server_name;
    check_server(server, &info.version, info.max_payload, settings.record_bytes_max)?;
    if !info.jetstream {
        return Err(ClusterError::NoJetStream { server: server.clone() });
    }
    let is_clustered = info.cluster.as_ref().is_some_and(|cluster| !cluster.is_empty());
    if !is_clustered && !settings.allow_unsafe_sync {
        return Err(ClusterError::SingleServer { server: server.clone() });
    }
    Ok(is_clustered)
}

/// Checks all servers that have the stream and answer. They must be a majority: if some answer and too few, the others are away.
pub(super) async fn check_all(log: &NatsLog, stream: &StreamInfo) -> Result<Result<(), LogUnavailable>, ClusterError> {
    let names = stream.cluster.as_ref().map(names).unwrap_or_default();
    let mut found = BTreeMap::new();
    for _ in 0..TRIES {
        ask(log, &names, &mut found, Instant::now() + REQUEST_TIMEOUT).await;
        if names.iter().all(|name| found.contains_key(*name)) {
            break;
        }
    }
    for (server, ServerSettings { version, max_payload, jetstream, .. }) in &found {
        check_server(server, version, *max_payload, log.shared.record_bytes_max)?;
        let Some(config) = &jetstream.config else {
            return Err(ClusterError::NoJetStream { server: server.clone() });
        };
        if !config.sync_always {
            let found = format!("{:?}", Duration::from_nanos(config.sync_interval));
            return Err(ClusterError::UnsafeSync { server: server.clone(), found });
        }
    }
    let (known, missing): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| found.contains_key(*name));
    if known.is_empty() {
        return Err(ClusterError::UnknownSync { servers: names.join(", ") });
    }
    if 2 * known.len() <= names.len() {
        let away = format!("the NATS servers {} are away or do not answer", missing.join(", "));
        return Ok(Err(LogUnavailable::Failed(away)));
    }
    if !missing.is_empty() {
        tracing::warn!(servers = missing.join(", "), "NATS servers that are away could not be checked");
    }
    Ok(Ok(()))
}

fn names(cluster: &StreamCluster) -> Vec<&str> {
    let replicas = cluster.replicas.iter().map(|replica| replica.name.as_str());
    cluster.leader.as_deref().into_iter().chain(replicas).collect()
}

/// Asks all servers about themselves, and waits until those with `names` have answered, or `deadline`.
pub(super) async fn ask(
    log: &NatsLog,
    names: &[&str],
    found: &mut BTreeMap<String, ServerSettings>,
    deadline: Instant,
) {
    collect(log, found, deadline, |found| names.iter().all(|name| found.contains_key(*name))).await;
    // Another server in the same system may have no part in the log, and any settings.
    found.retain(|name, _| names.contains(&name.as_str()));
}

/// Returns a sentence about servers that are missing, if no more than half of `configured` answer.
pub(super) async fn missing(log: &NatsLog, configured: usize) -> Option<String> {
    let mut found = BTreeMap::new();
    collect(log, &mut found, Instant::now() + ROLL_CALL, |found| found.len() >= configured).await;
    let names: Vec<_> = found.into_keys().collect();
    // None: the service that they answer with is not exported.
    let is_too_few = !names.is_empty() && 2 * names.len() <= configured;
    is_too_few.then(|| {
        let names = names.join(", ");
        format!("of {configured} NATS servers only {names} can be reached, but most must run and reach each other")
    })
}

/// Asks all servers about themselves, and adds their answers to `found` until that `is_enough`, or `deadline`.
async fn collect(
    log: &NatsLog,
    found: &mut BTreeMap<String, ServerSettings>,
    deadline: Instant,
    is_enough: impl Fn(&BTreeMap<String, ServerSettings>) -> bool,
) {
    let client = &log.shared.client;
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return };
    if client.publish_with_reply(SETTINGS_SUBJECT, inbox, bytes::Bytes::new()).await.is_err() {
        return;
    }
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return;
        }
        match serde_json::from_slice::<ServerReply>(&answer.payload) {
            Ok(ServerReply { data }) => _ = found.insert(data.server_name.clone(), data),
            Err(error) => tracing::debug!(%error, "an answer about a NATS server cannot be read"),
        }
        if is_enough(found) {
            return;
        }
    }
}

fn check_server(server: &str, version: &str, max_payload: usize, record_bytes_max: usize) -> Result<(), ClusterError> {
    if parse_version(version).is_none_or(|version| version < VERSION) {
        return Err(ClusterError::OldServer { server: server.to_owned(), found: version.to_owned() });
    }
    let needed = record_bytes_max + HEAD_BYTES;
    if max_payload < needed {
        return Err(ClusterError::SmallPayload { server: server.to_owned(), found: max_payload, needed });
    }
    Ok(())
}

/// Returns the first two numbers of a version such as `2.15.1` or `v2.15.0-RC.1`.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_small_messages_are_refused() {
        for (version, max_payload, expected) in [
            ("2.15.0", 200_000, None),
            ("2.15.1", 165_536, None),
            ("v3.0.0-RC.1", 200_000, None),
            ("2.100.0", 200_000, None),
            ("2.14.9", 200_000, Some("NATS server n1 has version 2.14.9, but 2.15.0 or newer is needed")),
            ("1.99.0", 200_000, Some("NATS server n1 has version 1.99.0, but 2.15.0 or newer is needed")),
            ("", 200_000, Some("NATS server n1 has version , but 2.15.0 or newer is needed")),
            (
                "2.15.0",
                165_535,
                Some(
                    "NATS server n1 has max_payload = 165535 bytes, but 165536 are needed for limits.packet_bytes_max: raise \
                     max_payload to that at least, or lower limits.packet_bytes_max",
                ),
            ),
        ] {
            let error = check_server("n1", version, max_payload, 100_000).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected, "{version} {max_payload}");
        }
    }
}
