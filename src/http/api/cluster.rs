//! `GET /v1/cluster`: the nodes of the cluster as this one knows them, and its log, for operators.

mod problems;

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::{Map, Value, json};

use self::problems::ClusterProblem;
use crate::{
    http::{api::history::no_store, auth::caller::Caller, problem::Problem, state::Api},
    store::{LogServer, LogStatus, MemberHealth, OtherNode, SeedingStatus},
};

/// `GET /v1/cluster`
pub(in crate::http) async fn get(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
    caller.require_all_rights("the state of the cluster needs all rights", &api)?;
    let Some(log) = api.service.log_status().await else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", "This server is a single node", api.now()));
    };
    // After the log, so that no record of it seems to be missing here.
    let member = api.service.health().member.unwrap_or_default();
    Ok(no_store(body(&member, &log).to_string().into()))
}

fn body(member: &MemberHealth, log: &Result<LogStatus, String>) -> Value {
    let this = OtherNode {
        node: member.node,
        applied: member.applied,
        lag: member.lag,
        is_alive: true,
        has_left: member.latched.is_some(),
        clock_ahead: 0,
        profile: Arc::clone(&member.profile),
    };
    let mut nodes: Vec<_> = member.others.iter().chain([&this]).collect();
    nodes.sort_by_key(|node| node.node);
    let differences = member.differences.iter();
    let differences = differences.map(|difference| json!({ "name": difference.name, "nodes": difference.nodes }));
    let problems = problems::of(member, log).into_iter();
    let problems =
        problems.map(|ClusterProblem { severity, message }| json!({ "severity": severity.name(), "message": message }));
    let members = [
        ("node", Some(json!(member.node))),
        ("decider", member.decider.map(Value::from)),
        ("deciderSince", member.decider_since.map(|date| json!(date.0))),
        ("epoch", Some(json!(member.epoch))),
        ("applied", Some(json!(member.applied))),
        ("waiting", Some(json!(member.waiting_requests))),
        ("silentMs", Some(json!(u64::try_from(member.silence.as_millis()).unwrap_or(u64::MAX)))),
        ("left", member.latched.clone().map(Value::from)),
        ("nodes", Some(nodes.into_iter().map(node_body).collect())),
        ("differences", Some(differences.collect())),
        ("seedings", Some(member.seedings.iter().map(seeding_body).collect())),
        ("problems", Some(problems.collect())),
        ("log", log.as_ref().ok().map(log_body)),
    ];
    object(members)
}

fn node_body(node: &OtherNode) -> Value {
    json!({
        "node": node.node,
        "alive": node.takes_part(),
        "left": node.has_left,
        "applied": node.applied,
        "lag": node.lag,
        "version": node.profile.version,
    })
}

fn seeding_body(status: &SeedingStatus) -> Value {
    let SeedingStatus { node, source, needed, bytes } = status;
    json!({ "node": node.0, "source": source.0, "logNeeded": needed, "bytes": bytes })
}

fn log_body(log: &LogStatus) -> Value {
    json!({
        "first": log.first,
        "last": log.last,
        "records": log.records,
        "bytes": log.bytes,
        "servers": log.servers.iter().map(server_body).collect::<Value>(),
        "maxPayloadMin": log.payload_bytes_min,
        "allowUnsafeSync": log.allows_unsafe_sync,
    })
}

/// Returns a server with its settings, if it answered.
fn server_body(server: &LogServer) -> Value {
    let settings = server.settings.as_ref();
    let sync_interval = |interval| match interval {
        None => json!("always"),
        Some(interval) => json!(format!("{interval:?}")),
    };
    object([
        ("name", Some(json!(server.name))),
        ("leader", Some(json!(server.is_leader))),
        ("current", Some(json!(server.is_current))),
        ("version", settings.map(|settings| json!(settings.version))),
        ("syncInterval", settings.map(|settings| sync_interval(settings.sync_interval))),
        ("maxPayload", settings.map(|settings| json!(settings.payload_bytes_max))),
    ])
}

/// Returns an object of the members that have values.
pub(super) fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(members.collect::<Map<_, _>>())
}
