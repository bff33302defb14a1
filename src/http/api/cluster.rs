//! `GET /v1/cluster`: this node's part in its cluster, for operators.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    http::{
        api::{Api, problem::Problem},
        auth::caller::Caller,
    },
    store::{MemberHealth, OtherNode},
};

/// `GET /v1/cluster`
pub(in crate::http) async fn get(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
    if !caller.has_all_rights() {
        let message = "Forbidden: the state of the cluster needs all rights";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", message, api.now()));
    }
    let Some(member) = api.service.health().member else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", "This server is a single node", api.now()));
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body(&member).to_string()).into_response())
}

fn body(member: &MemberHealth) -> Value {
    let this = json!({ "node": member.node, "applied": member.applied, "alive": member.latched.is_none() });
    let other = |other: &OtherNode| json!({ "node": other.node, "applied": other.applied, "alive": other.is_alive });
    let mut nodes: Vec<_> = [this].into_iter().chain(member.others.iter().map(other)).collect();
    nodes.sort_by_key(|node| node.get("node").and_then(Value::as_u64));
    let mut body = json!({
        "node": member.node,
        "epoch": member.epoch,
        "applied": member.applied,
        "waiting": member.waiting_requests,
        "silentMs": u64::try_from(member.silence.as_millis()).unwrap_or(u64::MAX),
        "nodes": nodes,
    });
    let optional = [("decider", member.decider.map(Value::from)), ("left", member.latched.clone().map(Value::from))];
    for (key, value) in optional {
        if let (Some(value), Some(members)) = (value, body.as_object_mut()) {
            members.insert(key.to_owned(), value);
        }
    }
    body
}
