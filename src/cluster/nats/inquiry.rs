//! Answers to questions about the log: its end, its size, and the state of its servers.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    HEAD_BYTES, NatsLog,
    api::{self, StreamInfo},
    servers::{self, ServerSettings},
};
use crate::store::{LogAnswer, LogInquiry, LogServer, LogServerSettings, LogStatus};

/// The longest wait for the state of the stream: who asks for it looks at it.
const STREAM_WITHIN: Duration = Duration::from_secs(1);
/// The longest wait for the settings of all servers. One that is away costs this time.
const SERVERS_WITHIN: Duration = Duration::from_millis(500);

impl LogInquiry for NatsLog {
    fn status(&self) -> LogAnswer<LogStatus> {
        let log = self.clone();
        Box::pin(async move { status(&log).await })
    }
}

async fn status(log: &NatsLog) -> Result<LogStatus, String> {
    let info = timeout(STREAM_WITHIN, api::stream_info(log)).await;
    let info = info.map_err(|_| format!("NATS did not answer within {STREAM_WITHIN:?}"))?;
    let info = info.map_err(|error| error.to_string())?;
    let alone = log.shared.client.server_info().server_name;
    let servers = log_servers(&info, &alone);
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let mut found = BTreeMap::new();
    servers::ask(log, &names, &mut found, Instant::now() + SERVERS_WITHIN).await;
    let has_leader = servers.iter().any(|server| server.is_leader);
    let settings = |server: LogServer| {
        let settings = found.get(&server.name).map(settings);
        // What the last leader had heard is past: only an answer shows now that a server is there.
        LogServer { is_current: if has_leader { server.is_current } else { settings.is_some() }, settings, ..server }
    };
    Ok(LogStatus {
        first: info.state.first_seq,
        last: info.state.last_seq,
        records: info.state.messages,
        bytes: info.state.bytes,
        payload_bytes_min: log.shared.record_bytes_max + HEAD_BYTES,
        allows_unsafe_sync: log.shared.allows_unsafe_sync,
        servers: servers.into_iter().map(settings).collect(),
    })
}

/// Returns the servers that have the stream, without their settings. One that is in no NATS cluster is `alone`.
fn log_servers(info: &StreamInfo, alone: &str) -> Vec<LogServer> {
    let server =
        |name: &str, is_leader, is_current| LogServer { name: name.to_owned(), is_leader, is_current, settings: None };
    let Some(cluster) = &info.cluster else { return vec![server(alone, true, true)] };
    let leader = cluster.leader.iter().map(|name| server(name, true, true));
    let replicas = cluster.replicas.iter().map(|peer| server(&peer.name, false, peer.is_current()));
    let mut servers: Vec<_> = leader.chain(replicas).collect();
    servers.sort_by(|one, other| one.name.cmp(&other.name));
    servers
}

fn settings(found: &ServerSettings) -> LogServerSettings {
    let config = found.jetstream.config.clone().unwrap_or_default();
    LogServerSettings {
        version: found.version.clone(),
        payload_bytes_max: found.max_payload,
        sync_interval: (!config.sync_always).then(|| Duration::from_nanos(config.sync_interval)),
    }
}
