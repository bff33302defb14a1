//! Named queries over HTTP ([`crate::search::named`]).

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admission::work,
    http::{
        api::{
            conditional::Conditions,
            devices::{limit, without_cursor},
            history::{link, no_store},
            payload::{self, BodyError},
            query::Query,
            replicated::{confirmed, find_applied, unconfirmed_by_log},
            text_cursor,
        },
        auth::caller::Caller,
        operation::{IF_NONE_MATCH, Operation, QUERY},
        parameter::{BadParameter, bad},
        problem::Problem,
        state::Api,
    },
    observability::logging::limited,
    search::named::{NamedQuery, NotStored, QueryDefinition, QueryName, QueryOrigin, QueryRights, may_store},
    shadow::excerpt,
};

/// The subject of these operations.
const THING: &str = "query";

/// The body of a PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParsedQuery {
    q: String,
    #[serde(default)]
    description: Option<String>,
}

/// `GET /v1/queries`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let (limit, after) = page(&uri).map_err(|bad| api.invalid(&bad))?;
    let mut found = api.search.queries.list(after.as_deref(), limit + 1, caller.access());
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|query| text_cursor::encode(query.name.as_str()));
    let mut body = json!({ "queries": found.iter().map(|query| shown(query)).collect::<Vec<_>>() });
    if let (Some(next), Value::Object(members)) = (&next, &mut body) {
        members.insert("next".to_owned(), next.as_str().into());
    }
    let mut response = no_store(body.to_string().into());
    caller.charge_rendered(&response, &api);
    if let Some(next) = next {
        let kept = uri.query().map(without_cursor).unwrap_or_default();
        link(&mut response, &format!("{}?{kept}cursor={next}", uri.path()));
    }
    Ok(response)
}

/// `GET /v1/queries/{query}`
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::read(uri.query(), Operation::GetQuery.parameters()).map_err(|bad| api.invalid(&bad))?;
    let name = read_name(&name).map_err(|bad| api.invalid(&bad))?;
    let found = find_applied(THING, || api.search.queries.get(&name), &api).await?;
    let rights = QueryRights::of(caller.access());
    let found = found.filter(|query| query.is_visible_to(&rights));
    let found = found.ok_or_else(|| refusal(&NotStored::NotFound, &name, &api))?;
    Ok(answer(StatusCode::OK, &found, &caller, &api))
}

/// `PUT /v1/queries/{query}`
pub(in crate::http) async fn put(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE + api.search.queries.work_of_change(), &api)?;
    Query::read(uri.query(), Operation::PutQuery.parameters()).map_err(|bad| api.invalid(&bad))?;
    Conditions::read(&headers).map_err(|bad| api.invalid(&bad))?;
    let name = read_name(&name).map_err(|bad| api.invalid(&bad))?;
    if !may_store(caller.access()) {
        return Err(Problem::forbidden("this needs the right to read more than single devices", api.now()));
    }
    let is_new_only = headers.get(IF_NONE_MATCH.name).is_some_and(|value| value.as_bytes() == b"*");
    let definition = read_definition(&headers, body, &caller, &api).await?;
    if !api.service.may_add_rows() {
        let message = "Unavailable: the disk is nearly full, or too much waits for it";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, api.now()));
    }
    let named = (name.clone(), definition);
    let stored = api.search.queries.store(&api.service, caller.access(), named, is_new_only).await;
    let (query, is_new) = stored.map_err(|refused| refusal(&refused, &name, &api))?;
    confirmed(THING, &api).await?;
    limited!(info, caller.quota(&api).lines(), query = %name, by = %caller.principal(), is_new, "named query stored");
    Ok(answer(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &query, &caller, &api))
}

/// `DELETE /v1/queries/{query}`
pub(in crate::http) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE + api.search.queries.work_of_change(), &api)?;
    Query::read(uri.query(), Operation::DeleteQuery.parameters()).map_err(|bad| api.invalid(&bad))?;
    let name = read_name(&name).map_err(|bad| api.invalid(&bad))?;
    let deleted = api.search.queries.delete(&api.service, caller.access(), &name).await;
    deleted.map_err(|refused| refusal(&refused, &name, &api))?;
    confirmed(THING, &api).await?;
    limited!(info, caller.quota(&api).lines(), query = %name, by = %caller.principal(), "named query deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Reads the body of a PUT and charges it.
async fn read_definition(
    headers: &HeaderMap,
    body: Body,
    caller: &Caller,
    api: &Api,
) -> Result<QueryDefinition, Problem> {
    payload::check_encoding(headers, api)?;
    let body = payload::read(headers, body, api.body_bytes_max, api).await.map_err(|unread| match unread {
        BodyError::Rejected(rejection) => Problem::general(&rejection, api.now()),
        BodyError::Failed(problem) => problem,
    })?;
    caller.admit(work::bytes(body.len()), api)?;
    let invalid = |error: &str, message: String| Problem::new(StatusCode::BAD_REQUEST, error, &message, api.now());
    let parsed: ParsedQuery = serde_json::from_slice(&body).map_err(|error| {
        let kind = if error.is_data() { "invalid-field" } else { "invalid-json" };
        invalid(kind, format!("Invalid named query: {error}"))
    })?;
    QueryDefinition::read(&parsed.q, parsed.description.as_deref())
        .map_err(|(member, reason)| invalid("invalid-field", format!("Invalid field '{member}': {reason}")))
}

fn read_name(text: &str) -> Result<QueryName, BadParameter> {
    QueryName::new(text).map_err(|error| bad(QUERY.name, error.to_string()))
}

fn page(uri: &Uri) -> Result<(usize, Option<String>), BadParameter> {
    let query = Query::read(uri.query(), Operation::ListQueries.parameters())?;
    Ok((limit(&query)?, text_cursor::read(&query)?))
}

/// Returns the problem for a query `name` that is not stored, deleted or shown.
fn refusal(refused: &NotStored, name: &QueryName, api: &Api) -> Problem {
    let (status, error, message) = match refused {
        NotStored::Configured => {
            let message = format!("The query '{name}' is in the configuration, and is changed there");
            (StatusCode::CONFLICT, "query-configured", message)
        }
        NotStored::Exists => {
            (StatusCode::CONFLICT, "query-exists", format!("There is a query '{name}' that this request cannot change"))
        }
        NotStored::NotFound => {
            (StatusCode::NOT_FOUND, "not-found", format!("There is no query '{}'", excerpt(name.as_str(), 64)))
        }
        NotStored::TooMany(text) => (StatusCode::CONFLICT, "too-many-queries", format!("Too many queries: {text}")),
        NotStored::Memory(rejection) => return Problem::general(rejection, api.now()),
        NotStored::Unconfirmed => return unconfirmed_by_log(THING, api),
    };
    Problem::new(status, error, &message, api.now())
}

/// Returns a response with the query.
fn answer(status: StatusCode, query: &NamedQuery, caller: &Caller, api: &Api) -> Response {
    let mut response = no_store(shown(query).to_string().into());
    *response.status_mut() = status;
    caller.charge_rendered(&response, api);
    response
}

/// Returns a query in JSON.
fn shown(query: &NamedQuery) -> Value {
    let mut shown = json!({ "name": query.name.as_str(), "q": query.definition.text });
    if let (Some(description), Value::Object(members)) = (&query.definition.description, &mut shown) {
        members.insert("description".to_owned(), description.as_str().into());
    }
    let more = match &query.origin {
        QueryOrigin::Configuration => json!({ "origin": "configuration" }),
        QueryOrigin::Stored { created_by, created_at, updated_at, .. } => json!({
            "origin": "stored", "createdBy": &**created_by, "createdAt": created_at.0, "updatedAt": updated_at.0,
        }),
    };
    if let (Value::Object(members), Value::Object(more)) = (&mut shown, more) {
        members.extend(more);
    }
    shown
}
