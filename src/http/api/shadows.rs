//! Reads of a shadow: its current version, an older one, or a wait.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    engine::AtVersion,
    http::{
        api::{
            conditional::{ConditionResult, Conditions},
            query::Query,
            target::Target,
            wait::Wait,
        },
        auth::caller::Caller,
        operation::{CONSISTENT, FIELDS, Operation, VERSION},
        parameter::{BadParameter, bad},
        problem::{Problem, etag_value},
        state::Api,
    },
    shadow::{Document, Etag, Projection, Rejection, ShadowKey, Timestamp, Version, excerpt},
    wire::{self, Selection},
};

/// Caches must revalidate a response, and may reuse it only for the same client. PROTOCOL section 5.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
/// The headers that distinguish clients, who may see different parts of a shadow under the same tag.
const VARY: HeaderValue = HeaderValue::from_static("authorization, cookie");

pub(in crate::http) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The parameters of a read.
#[derive(Debug, Default)]
struct ParsedRead {
    fields: Option<Selection>,
    version: Option<Version>,
    wait: Option<Wait>,
    is_consistent: bool,
}

/// `GET S`
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    Target(key): Target,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut projection = caller.read_projection(&key, &api)?;
    let refused = |caller: &Caller, rejection: Rejection| caller.refused(&rejection, &key, &api);
    let read = ParsedRead::read(&uri).map_err(|bad| api.invalid(&bad))?;
    let conditions = Conditions::read(&headers).map_err(|bad| api.invalid(&bad))?;
    let admitted = api.service.admit(&caller.quota(&api), &key).map_err(|rejection| refused(&caller, rejection))?;
    if read.is_consistent {
        let reached = api.service.reach_log_end("without consistent=true the answer is what this node has").await;
        reached.map_err(|rejection| refused(&caller, rejection))?;
    }
    let (document, met) = match (read.wait, read.version) {
        (None, None) => {
            let stored = caller.read(&key, &api).await.map_err(|rejection| refused(&caller, rejection))?;
            (stored.document, None)
        }
        (None, Some(version)) => {
            let document;
            (document, projection) = read_version(&api, &caller, &key, version, projection).await?;
            (document, None)
        }
        (Some(wait), _) => {
            // A waiting request does not count as in flight.
            drop(admitted);
            let waited = wait.until(&api, &mut caller, &key, &headers).await?;
            projection = waited.projection;
            (waited.document, Some(waited.met))
        }
    };
    if !document.exists() {
        return Err(refused(&caller, Rejection::NotFound));
    }
    let render = || match (&read.fields, read.version) {
        (Some(fields), version) => wire::get_selected(&document, &projection, fields, version.is_none()),
        (None, None) => wire::get_accepted(&document, &projection, None),
        (None, Some(_)) => wire::former(&document, &projection),
    };
    let etag = projection.etag(&document);
    let conflict = || conflict(&api, &key, &document, &projection, &conditions);
    let mut response = answer(&document, etag, &conditions, render, conflict);
    caller.charge_rendered(&response, &api);
    if let Some(met) = met {
        let result = if met { "met" } else { "timeout" };
        response.headers_mut().insert("umbra-wait", HeaderValue::from_static(result));
    }
    Ok(response)
}

impl ParsedRead {
    fn read(uri: &Uri) -> Result<Self, BadParameter> {
        if uri.query().is_none() {
            return Ok(Self::default());
        }
        let query = Query::read(uri.query(), Operation::GetShadow.parameters())?;
        let read = Self {
            fields: fields(&query)?,
            version: query.integer(&VERSION)?.map(Version),
            wait: Wait::read(&query)?,
            is_consistent: query.flag(&CONSISTENT)?.unwrap_or_default(),
        };
        match read.version {
            Some(_) if read.wait.is_some() => Err(bad(VERSION.name, "cannot be combined with 'wait'")),
            _ => Ok(read),
        }
    }
}

fn fields(query: &Query<'_>) -> Result<Option<Selection>, BadParameter> {
    let paths = query.pointers(&FIELDS)?;
    if paths.is_empty() {
        return Ok(None);
    }
    let mut selection = Selection::default();
    for path in paths {
        selection.add(&path).map_err(|_| {
            let path = excerpt(&path, 64);
            bad(FIELDS.name, format!("'{path}' is no JSON Pointer to /desired, /reported, /tags or /delta"))
        })?;
    }
    Ok(Some(selection))
}

/// Returns the shadow at a version, and the projection of that version for `caller`. `read_projection` is the caller's
/// projection of the current version.
async fn read_version(
    api: &Api,
    caller: &Caller,
    key: &ShadowKey,
    version: Version,
    read_projection: Projection,
) -> Result<(Arc<Document>, Projection), Problem> {
    let refused = |rejection: Rejection| caller.refused(&rejection, key, api);
    let current = caller.read(key, api).await.map_err(refused)?.document.version;
    let projection = if version < current { caller.history_projection(key, api)? } else { read_projection };
    let permit = caller.read_turn(api).await;
    let now = api.now();
    let (found, units) = api.service.at_version(key, version, permit).await.map_err(refused)?;
    let _delays_the_next = caller.quota(api).charge_work(units, Instant::now());
    match found {
        AtVersion::Found(document) if document.exists() => Ok((document, projection)),
        AtVersion::Found(document) => {
            let message = format!("Version {} is a deletion", document.version.0);
            Err(Problem::new(StatusCode::NOT_FOUND, "not-found", &message, now))
        }
        AtVersion::Later(current) => {
            let message = format!("Version {} does not exist yet; the current version is {}", version.0, current.0);
            Err(Problem::new(StatusCode::NOT_FOUND, "not-found", &message, now))
        }
        AtVersion::Gone => {
            let message = format!("The journal no longer has version {}", version.0);
            Err(Problem::new(StatusCode::GONE, "gone", &message, now))
        }
    }
}

/// Returns the response of `render`, or 304 or 412 by the conditions.
fn answer(
    document: &Document,
    etag: Etag,
    conditions: &Conditions,
    render: impl FnOnce() -> Bytes,
    conflict: impl FnOnce() -> Problem,
) -> Response {
    let etag = etag_value(etag);
    let mut response = match conditions.of_read(etag.as_bytes(), document.timestamp) {
        ConditionResult::Failed => return conflict().into_response(),
        ConditionResult::NotModified => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        ConditionResult::Proceed => {
            let mut response = Response::new(Body::from(render()));
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::LAST_MODIFIED, http_date(document.timestamp));
    headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    headers.insert(header::VARY, VARY);
    response
}

/// Returns the 412 of a read.
fn conflict(
    api: &Api,
    key: &ShadowKey,
    document: &Document,
    projection: &Projection,
    conditions: &Conditions,
) -> Problem {
    let (version, etag) = (document.version, Some(projection.etag(document)));
    let rejection = Rejection::VersionConflict { expected: None, version, etag, collisions: None };
    let note = conditions.has_weak_if_match().then_some(WEAK);
    Problem::rejection(&rejection, StatusCode::PRECONDITION_FAILED, key, api.now(), projection, note)
}

/// The note of a 412 about weak tags. RFC 9110 section 13.1.1.
pub(in crate::http) const WEAK: &str = "If-Match compares strongly: a weak tag (W/) never matches";

fn http_date(time: Timestamp) -> HeaderValue {
    // Years have four digits in a date.
    let seconds = time.0.min(253_402_300_799);
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::try_from(text).expect("a date is valid in a header")
}
