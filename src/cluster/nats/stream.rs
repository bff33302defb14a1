//! The stream of the log: how it is created, and what one that is there must be.

use serde_json::{Value, json};

use super::{
    NatsLog,
    api::{self, STREAM_NOT_FOUND, StreamInfo},
};
use crate::{
    cluster::{ClusterError, LogUnavailable},
    config::ClusterSettings,
};

/// The replicas of the log: one may be lost.
const REPLICAS: u64 = 3;
/// The shortest window in which NATS remembers ids of messages. Records have none.
const DUPLICATE_WINDOW_NANOS: u64 = 100_000_000;

/// Keys whose values are adjusted to those of this node.
const ADJUSTED: [&str; 3] = ["max_bytes", "max_age", "duplicate_window"];

/// Keys that must be missing, or false: each would store a message otherwise than as it was appended, or give it another sequence.
const ABSENT: [&str; 14] = [
    "mirror",
    "sources",
    "republish",
    "subject_transform",
    "no_ack",
    "sealed",
    "deny_purge",
    "allow_direct",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
    "discard_new_per_subject",
    "subject_delete_marker_ttl",
];

/// Creates the stream if there is none, and adjusts its limits. A node that has `applied` records creates none: they are lost. The inner error may pass: servers may just start.
pub(super) async fn ensure(
    log: &NatsLog,
    settings: &ClusterSettings,
    is_clustered: bool,
    applied: u64,
) -> Result<Result<StreamInfo, LogUnavailable>, ClusterError> {
    let wanted = config(log, settings, if is_clustered { REPLICAS } else { 1 });
    let info = match api::stream_info(log).await {
        Err(LogUnavailable::Answered { code: STREAM_NOT_FOUND, .. }) if applied > 0 => {
            return Err(ClusterError::NoLog { stream: log.shared.names.stream.clone(), applied });
        }
        Err(LogUnavailable::Answered { code: STREAM_NOT_FOUND, .. }) => api::create_stream(log, &wanted).await,
        other => other,
    };
    let info = match info {
        Ok(info) => info,
        Err(error) => return Ok(Err(error)),
    };
    check(&log.shared.names.stream, &info.config, &wanted, settings.allow_unsafe_sync)?;
    if ADJUSTED.iter().all(|key| info.config.get(key).or(Some(&json!(0))) == wanted.get(key)) {
        return Ok(Ok(info));
    }
    let mut adjusted = info.config;
    for key in ADJUSTED {
        if let (Some(value), Some(config)) = (wanted.get(key), adjusted.as_object_mut()) {
            config.insert(key.to_owned(), value.clone());
        }
    }
    Ok(api::update_stream(log, &adjusted).await)
}

/// Creates the stream as if it had the records up to `applied` and all were trimmed. The inner error may pass.
pub(super) async fn restore(
    log: &NatsLog,
    settings: &ClusterSettings,
    is_clustered: bool,
    applied: u64,
) -> Result<Result<(), LogUnavailable>, ClusterError> {
    match api::stream_info(log).await {
        Err(LogUnavailable::Answered { code: STREAM_NOT_FOUND, .. }) => {}
        Err(error) => return Ok(Err(error)),
        // A node without a store may have created it since.
        Ok(info) if info.state.last_seq == 0 => {
            if let Err(error) = api::delete_stream(log).await {
                return Ok(Err(error));
            }
        }
        Ok(info) => {
            let stream = log.shared.names.stream.clone();
            return Err(ClusterError::LogExists { stream, last: info.state.last_seq });
        }
    }
    let mut wanted = config(log, settings, if is_clustered { REPLICAS } else { 1 });
    if let Some(config) = wanted.as_object_mut() {
        config.insert("first_seq".to_owned(), json!(applied + 1));
    }
    Ok(api::create_stream(log, &wanted).await.map(|_| ()))
}

/// Returns the configuration of the stream. It has no age: NATS would remove the last record too, and a log without it cannot be
/// compared with a node. The decider trims by age.
fn config(log: &NatsLog, settings: &ClusterSettings, replicas: u64) -> Value {
    let names = &log.shared.names;
    json!({
        "name": names.stream,
        "subjects": [names.subject],
        "storage": "file",
        "num_replicas": replicas,
        "retention": "limits",
        "discard": "old",
        "max_bytes": settings.log_bytes_max,
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": DUPLICATE_WINDOW_NANOS,
        "deny_delete": true,
    })
}

/// Checks the configuration that a stream has.
fn check(stream: &str, found: &Value, wanted: &Value, allow_unsafe: bool) -> Result<(), ClusterError> {
    let error = |key, found: &Value, needed: String, advice| ClusterError::Stream {
        stream: stream.to_owned(),
        key,
        found: found.to_string(),
        needed,
        advice,
    };
    let of = |key: &str| found.get(key).unwrap_or(&Value::Null);
    if !allow_unsafe && of("num_replicas").as_u64().is_none_or(|replicas| replicas < REPLICAS) {
        let advice = "raise it (`nats stream edit --replicas=3`), or for a try set cluster.allow_unsafe_sync = true";
        return Err(error("num_replicas", of("num_replicas"), REPLICAS.to_string(), advice));
    }
    const OTHER: &str = "it was not made by umbrad; remove or rename it, or set another cluster.name";
    for key in [
        "subjects",
        "storage",
        "retention",
        "discard",
        "max_msgs",
        "max_msgs_per_subject",
        "max_msg_size",
        "deny_delete",
    ] {
        let needed = wanted.get(key).unwrap_or(&Value::Null);
        if of(key) != needed {
            return Err(error(key, of(key), needed.to_string(), OTHER));
        }
    }
    if of("persist_mode").as_str().is_some_and(|mode| mode != "default") {
        return Err(error("persist_mode", of("persist_mode"), "\"default\"".into(), OTHER));
    }
    match ABSENT.into_iter().find(|key| !matches!(of(key), Value::Null | Value::Bool(false))) {
        Some(key) => Err(error(key, of(key), "none".into(), OTHER)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_would_change_or_lose_records_is_refused() {
        let sound = json!({
            "subjects": ["umbra.x.log"], "storage": "file", "num_replicas": 3, "retention": "limits", "discard": "old",
            "max_bytes": 1, "max_msgs": -1, "max_msgs_per_subject": -1, "max_msg_size": -1, "deny_delete": true,
            "allow_direct": false, "sealed": false, "compression": "none", "consumer_limits": {},
        });
        // the key, its value, the end of the error with and without allow_unsafe_sync
        let table = [
            ("num_replicas", json!(5), None, None),
            ("num_replicas", json!(1), Some("needs 3"), None),
            ("storage", json!("memory"), Some("needs \"file\""), Some("needs \"file\"")),
            ("subjects", json!(["umbra.x.log", "x"]), Some("needs [\"umbra.x.log\"]"), Some("needs [\"umbra.x.log\"]")),
            ("retention", json!("interest"), Some("needs \"limits\""), Some("needs \"limits\"")),
            ("discard", json!("new"), Some("needs \"old\""), Some("needs \"old\"")),
            ("max_msgs_per_subject", json!(1), Some("needs -1"), Some("needs -1")),
            ("deny_delete", json!(false), Some("needs true"), Some("needs true")),
            ("allow_rollup_hdrs", json!(true), Some("needs none"), Some("needs none")),
            ("allow_msg_ttl", json!(true), Some("needs none"), Some("needs none")),
            ("mirror", json!({"name": "y"}), Some("needs none"), Some("needs none")),
            ("persist_mode", json!("async"), Some("needs \"default\""), Some("needs \"default\"")),
            ("persist_mode", json!("default"), None, None),
            ("compression", json!("s2"), None, None),
        ];
        for (key, value, safe, unsafe_sync) in table {
            let mut found = sound.clone();
            found.as_object_mut().expect("it is an object").insert(key.to_owned(), value);
            for (allow_unsafe, expected) in [(false, safe), (true, unsafe_sync)] {
                let error = check("umbra-x", &found, &sound, allow_unsafe).err().map(|error| error.to_string());
                let is_as_expected = match (&error, expected) {
                    (Some(error), Some(part)) => error.contains(part) && error.contains(key),
                    (error, expected) => error.is_none() && expected.is_none(),
                };
                assert!(is_as_expected, "{key} {allow_unsafe}: {error:?}, not {expected:?}");
            }
        }
    }
}
