//! Administration of principals: the end of all connections of one.
//!
//! It is not in the table of [`crate::http::operation`], which has the operations on shadows.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::Response,
    routing::delete,
};

use crate::{
    http::{
        api::{
            Api,
            history::no_store,
            problem::Problem,
            query::{Kind, Parameter, ParameterLocation, Query},
        },
        auth::caller::Caller,
    },
    wire::{self, EndedConnections},
};

/// The connections of principals, provided by the broker.
pub trait Principals: Send + Sync {
    /// Ends the MQTT connections of `principal`, and its sessions unless `keep_sessions` is set. Returns the numbers of
    /// both.
    fn end_connections(&self, principal: &str, keep_sessions: bool) -> (usize, usize);
}

pub(in crate::http) static KEEP_SESSIONS: Parameter = Parameter {
    name: "keep_sessions",
    location: ParameterLocation::Query,
    kind: Kind::Flag,
    about: "`true`: end the connections only; MQTT sessions wait for their clients as after any lost connection",
};

pub(in crate::http) fn router() -> Router<Arc<Api>> {
    Router::new().route("/v1/principals/{name}/connections", delete(end_connections))
}

/// `DELETE /v1/principals/{name}/connections`
async fn end_connections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let invalid = |bad: crate::http::api::query::BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let query = Query::read(uri.query(), &[&KEEP_SESSIONS]).map_err(invalid)?;
    let keep_sessions = query.flag(&KEEP_SESSIONS).map_err(invalid)?.unwrap_or(false);
    if !caller.has_all_rights() {
        let message = "Forbidden: to end connections needs all rights";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", message, api.now()));
    }
    let sign_ins = api.sessions.end_of(&name);
    let streams = api.kicks.kick(&name);
    let (principals, principal) = (api.principals.clone(), name.clone());
    let ended = tokio::task::spawn_blocking(move || principals.end_connections(&principal, keep_sessions)).await;
    let (connections, sessions) = ended.map_err(|error| {
        tracing::error!(%error, "cannot end connections");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal service failure", api.now())
    })?;
    let by = caller.principal();
    tracing::info!(principal = name, %by, connections, sessions, streams, sign_ins, "connections of a principal ended");
    Ok(no_store(wire::ended_connections(&EndedConnections { connections, sessions, streams, sign_ins })))
}
