//! MQTT sessions and retained messages of all clients, for operators: lists, one session, and the end of one.
//!
//! Each operation has a right of its own ([`Administration`]), which a role that allows everything includes.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};

use crate::{
    admission::work,
    auth::Administration,
    http::{
        api::{
            devices::limit,
            history::{link, no_store},
            query::Query,
            text_cursor,
        },
        auth::caller::Caller,
        broker::{FoundSessions, MqttSession, NoSession, RetainedSummary, SessionName, SessionPage},
        operation::{Operation, SESSION_CONNECTED, SESSION_PREFIX, TOPIC_PREFIX},
        parameter::{BadParameter, Parameter, bad},
        problem::Problem,
        state::Api,
    },
    observability::logging::limited,
    wire::{self, GrantedFilter, RetainedEntry, SessionDetail, SessionEntry},
};

/// `GET /v1/sessions`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    admit(Administration::ListSessions, &caller, &api)?;
    let page = page(&uri).map_err(|bad| api.invalid(&bad))?;
    // The turn is not kept while other nodes are asked.
    drop(caller.read_turn(&api).await);
    let FoundSessions { sessions, next, unreachable } = api.mqtt_sessions.page(page).await;
    let next = next.map(|name| text_cursor::encode(&format!("{}{SEPARATOR}{}", name.principal, name.client)));
    let entries: Vec<_> = sessions.iter().map(entry).collect();
    Ok(answer(wire::mqtt_sessions(&entries, next.as_deref(), &unreachable), next.as_deref(), &caller, &api, &uri))
}

/// `GET /v1/sessions/{principal}/{client}`
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((principal, client)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    admit(Administration::ListSessions, &caller, &api)?;
    Query::read(uri.query(), Operation::GetSession.parameters()).map_err(|bad| api.invalid(&bad))?;
    let found = api.mqtt_sessions.session(&SessionName { principal, client }).await;
    let (session, filters) = found.map_err(|none| not_found(&none, &api))?;
    let filters: Vec<_> = filters.iter().map(|(filter, qos)| GrantedFilter { filter, qos: *qos }).collect();
    let body = wire::mqtt_session(&SessionDetail { entry: entry(&session), filters: &filters });
    Ok(answer(body, None, &caller, &api, &uri))
}

/// `DELETE /v1/sessions/{principal}/{client}`
pub(in crate::http) async fn end(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((principal, client)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    admit(Administration::EndSessions, &caller, &api)?;
    Query::read(uri.query(), Operation::EndSession.parameters()).map_err(|bad| api.invalid(&bad))?;
    let name = SessionName { principal, client };
    let ended = api.mqtt_sessions.end(&name).await.map_err(|none| not_found(&none, &api))?;
    let SessionName { principal, client } = name;
    match ended {
        true => {
            let by = caller.principal();
            limited!(info, caller.quota(&api).lines(), principal, client, %by, "session ended by an operator");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        false => {
            let message = "Unavailable: the end of the session was requested, and the disk has not confirmed it in time; \
                           repeat the request";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, api.now()))
        }
    }
}

/// `GET /v1/retained`
pub(in crate::http) async fn retained(
    State(api): State<Arc<Api>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, Problem> {
    admit(Administration::ListRetained, &caller, &api)?;
    let (limit, after, prefix) = topics(&uri).map_err(|bad| api.invalid(&bad))?;
    let _permit = caller.read_turn(&api).await;
    let mut found = api.mqtt_sessions.retained(after.as_deref(), &prefix, limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|message| text_cursor::encode(&message.topic));
    let entries: Vec<_> = found.iter().map(retained_entry).collect();
    Ok(answer(wire::retained(&entries, next.as_deref()), next.as_deref(), &caller, &api, &uri))
}

/// Charges a page to the caller, and checks its right to `operation`.
fn admit(operation: Administration, caller: &Caller, api: &Api) -> Result<(), Problem> {
    caller.admit(work::PAGE, api)?;
    if caller.access().may_administer(operation) {
        return Ok(());
    }
    let reason = format!("this needs the right to administer {}", operation.name());
    Err(Problem::forbidden(&reason, api.now()))
}

fn not_found(none: &NoSession, api: &Api) -> Problem {
    match none {
        NoSession::Unknown => {
            let message = "The principal has no session with this client id";
            Problem::new(StatusCode::NOT_FOUND, "not-found", message, api.now())
        }
        NoSession::Unreachable(nodes) => {
            let message = format!("Unavailable: {}, and may have the session; repeat the request", silent(nodes));
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message, api.now())
        }
    }
}

/// Returns the beginning of a sentence about nodes that have not answered.
pub(super) fn silent(nodes: &[u64]) -> String {
    let (plural, have) = if nodes.len() == 1 { ("", "has") } else { ("s", "have") };
    let nodes = nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    format!("node{plural} {nodes} of the cluster {have} not answered")
}

/// Returns a response, with a link to the next page.
fn answer(body: bytes::Bytes, next: Option<&str>, caller: &Caller, api: &Api, uri: &Uri) -> Response {
    let mut response = no_store(body);
    caller.charge_rendered(&response, api);
    if let Some(next) = next {
        let query = uri.query().unwrap_or_default();
        let others = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query: String = others.map(|pair| format!("{pair}&")).collect();
        link(&mut response, &format!("{}?{query}cursor={next}", uri.path()));
    }
    response
}

fn page(uri: &Uri) -> Result<SessionPage, BadParameter> {
    let query = Query::read(uri.query(), Operation::ListSessions.parameters())?;
    let after = match text_cursor::read(&query)? {
        None => None,
        Some(text) => {
            let (principal, client) = text.split_once(SEPARATOR).ok_or_else(text_cursor::unknown)?;
            Some(SessionName { principal: principal.to_owned(), client: client.to_owned() })
        }
    };
    Ok(SessionPage {
        prefix: prefix(&query, &SESSION_PREFIX)?,
        connected: query.flag(&SESSION_CONNECTED)?,
        after,
        limit: limit(&query)?,
    })
}

/// Returns the limit, the topic of the cursor and the prefix of a list of retained messages.
fn topics(uri: &Uri) -> Result<(usize, Option<String>, String), BadParameter> {
    let query = Query::read(uri.query(), Operation::ListRetained.parameters())?;
    Ok((limit(&query)?, text_cursor::read(&query)?, prefix(&query, &TOPIC_PREFIX)?))
}

pub(super) fn prefix(query: &Query<'_>, parameter: &'static Parameter) -> Result<String, BadParameter> {
    let text = query.text(parameter)?.unwrap_or_default();
    match text.chars().any(char::is_control) {
        true => Err(bad(parameter.name, "must not contain control characters")),
        false => Ok(text.into_owned()),
    }
}

/// The character between the names in a cursor, which neither of them has.
const SEPARATOR: char = '\0';

fn entry(session: &MqttSession) -> SessionEntry<'_> {
    SessionEntry {
        principal: &session.name.principal,
        client: &session.name.client,
        node: session.node,
        connected: session.lost.is_none(),
        address: session.connection.map(|connection| connection.address),
        protocol: session.connection.map(|connection| connection.protocol),
        connected_since: session.connection.map(|connection| connection.since),
        session_expiry: session.connection.map(|connection| connection.session_expiry),
        disconnected_since: session.lost.map(|(since, _)| since),
        expires: session.lost.map(|(_, expires)| expires),
        filters: session.filter_count,
        queued: session.queued.0,
        queued_bytes: session.queued.1,
        inflight: session.inflight,
    }
}

fn retained_entry(message: &RetainedSummary) -> RetainedEntry<'_> {
    let RetainedSummary { topic, bytes, qos, by, since } = message;
    RetainedEntry { topic, bytes: *bytes, qos: *qos, by, since: *since }
}
