//! Administration of principals: the use that one makes of its limits, and the end of all its connections.
//!
//! They are not in the table of [`crate::http::operation`], which has the operations on shadows.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::Response,
    routing::{delete, get},
};

use crate::{
    http::{
        api::{history::no_store, query::Query, sessions::silent},
        auth::caller::Caller,
        broker::PrincipalEnded,
        parameter::{Kind, Parameter, ParameterLocation},
        problem::Problem,
        state::Api,
    },
    wire::{self, EndedConnections, PrincipalUse, Used},
};

pub(in crate::http) static KEEP_SESSIONS: Parameter = Parameter {
    name: "keep_sessions",
    location: ParameterLocation::Query,
    kind: Kind::Flag,
    about: "`true`: end the connections only; MQTT sessions wait for their clients as after any lost connection",
};

pub(in crate::http) fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/principals/{name}", get(principal))
        .route("/v1/principals/{name}/connections", delete(end_connections))
}

/// `GET /v1/principals/{name}`
async fn principal(State(api): State<Arc<Api>>, caller: Caller, Path(name): Path<String>) -> Result<Response, Problem> {
    if **caller.principal().name() != *name {
        caller.require_all_rights("to see the use of another principal needs all rights", &api)?;
    }
    let Some(usage) = api.service.quotas().principals.usage(&name, Instant::now()) else {
        let message = "The principal has used nothing lately";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", message, api.now()));
    };
    let (sessions, connected) = api.principals.sessions_of(&name);
    let limits = usage.limits;
    let used = |used, limit| Used { used, limit };
    Ok(no_store(wire::principal_use(&PrincipalUse {
        principal: &name,
        memory: used(usage.memory, limits.memory),
        work_per_second: limits.work,
        throttled_for_ms: u64::try_from(usage.throttled_for.as_millis()).unwrap_or(u64::MAX),
        throttled: usage.throttled,
        sessions: used(sessions, limits.sessions),
        connected,
        filters: used(usage.filters, limits.filters),
        streams: used(usage.streams, usage.streams_max),
        new_shadows: used(usage.new_shadows, usize::try_from(limits.new_shadows_per_day).unwrap_or(usize::MAX)),
    })))
}

/// `DELETE /v1/principals/{name}/connections`
async fn end_connections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = Query::read(uri.query(), &[&KEEP_SESSIONS]).map_err(|bad| api.invalid(&bad))?;
    let keep_sessions = query.flag(&KEEP_SESSIONS).map_err(|bad| api.invalid(&bad))?.unwrap_or(false);
    caller.require_all_rights("to end connections needs all rights", &api)?;
    let PrincipalEnded { ended, is_durable, unreachable } = api.principals.end_connections(&name, keep_sessions).await;
    let (by, EndedConnections { connections, sessions, streams, sign_ins }) = (caller.principal(), ended);
    tracing::info!(principal = name, %by, connections, sessions, streams, sign_ins, "connections of a principal ended");
    let message = match (unreachable.as_slice(), is_durable) {
        ([], true) => return Ok(no_store(wire::ended_connections(&ended))),
        ([], false) => "Unavailable: the end of the connections was requested, and the disk has not confirmed it in time; repeat the \
                        request"
            .to_owned(),
        (unreachable, _) => format!(
            "Unavailable: {}; clients of the principal may be connected there still, and not to the other nodes; repeat the \
             request",
            silent(unreachable)
        ),
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message, api.now()))
}
