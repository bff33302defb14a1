//! Reading a shadow.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    auth::Projection,
    engine::AtVersion,
    http::{
        api::{
            Api,
            conditional::{ConditionResult, Conditions},
            problem::{Problem, etag_value},
            query::{BadParameter, Query, bad},
            target::Target,
            wait::Wait,
        },
        auth::caller::Caller,
        operation::{FIELDS, Operation, VERSION},
    },
    shadow::{Document, Etag, Rejection, ShadowKey, Timestamp, Version},
    wire::{self, Selection},
};

/// A stored answer may be used once it is found valid, and by its own reader alone. PROTOCOL section 5.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
/// What tells one reader from another: they may see different parts of a shadow under one tag.
const VARY: HeaderValue = HeaderValue::from_static("authorization, cookie");

pub(in crate::http) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a GET asks for.
#[derive(Debug, Default)]
struct ParsedRead {
    fields: Option<Selection>,
    version: Option<Version>,
    wait: Option<Wait>,
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
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let asked = ParsedRead::read(&uri).map_err(invalid)?;
    let conditions = Conditions::read(&headers).map_err(invalid)?;
    let admitted = api.service.admit(caller.principal(), &key).map_err(|rejection| refused(&caller, rejection))?;
    let (document, met) = match (asked.wait, asked.version) {
        (None, None) => {
            let held = api.service.read(&key).await.map_err(|rejection| refused(&caller, rejection))?;
            (held.document, None)
        }
        (None, Some(version)) => {
            let document;
            (document, projection) = former(&api, &caller, &key, version, projection).await?;
            (document, None)
        }
        (Some(wait), _) => {
            // It is no request in flight while it only waits.
            drop(admitted);
            let waited = wait.until(&api, &mut caller, &key, &headers).await?;
            projection = waited.projection;
            (waited.document, Some(waited.met))
        }
    };
    if !document.exists() {
        return Err(refused(&caller, Rejection::NotFound));
    }
    let render = || match (&asked.fields, asked.version) {
        (Some(fields), version) => wire::get_selected(&document, &projection, fields, version.is_none()),
        (None, None) => wire::get_accepted(&document, &projection, None),
        (None, Some(_)) => wire::former(&document, &projection),
    };
    let etag = projection.etag(&document);
    let conflict = || conflict(&api, &key, &document, &projection, &conditions);
    let mut response = answer(&document, etag, &conditions, render, conflict);
    if let Some(met) = met {
        let told = if met { "met" } else { "timeout" };
        response.headers_mut().insert("umbra-wait", HeaderValue::from_static(told));
    }
    Ok(response)
}

impl ParsedRead {
    fn read(uri: &Uri) -> Result<Self, BadParameter> {
        if uri.query().is_none() {
            return Ok(Self::default());
        }
        let query = Query::read(uri.query(), Operation::GetShadow.parameters())?;
        let asked =
            Self { fields: fields(&query)?, version: query.integer(&VERSION)?.map(Version), wait: Wait::read(&query)? };
        match asked.version {
            Some(_) if asked.wait.is_some() => {
                Err(bad(VERSION.name, "is in the past, so there is nothing to wait for"))
            }
            _ => Ok(asked),
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
            let path: String = path.chars().take(64).collect();
            bad(FIELDS.name, format!("'{path}' is no JSON Pointer to /desired, /reported, /tags or /delta"))
        })?;
    }
    Ok(Some(selection))
}

/// The shadow at a version, and what `caller`, which sees `read_projection` of it now, may see of that.
async fn former(
    api: &Api,
    caller: &Caller,
    key: &ShadowKey,
    version: Version,
    read_projection: Projection,
) -> Result<(Arc<Document>, Projection), Problem> {
    let refused = |rejection: Rejection| caller.refused(&rejection, key, api);
    let current = api.service.read(key).await.map_err(refused)?.document.version;
    let projection = if version < current { caller.history_projection(key, api)? } else { read_projection };
    let turn = api.read_turn(caller).await;
    let now = api.now();
    match api.service.at_version(key, version, turn).await.map_err(refused)? {
        AtVersion::Found(document) if document.exists() => Ok((document, projection)),
        AtVersion::Found(document) => {
            let message = format!("Version {} is that of a deletion", document.version.0);
            Err(Problem::new(StatusCode::NOT_FOUND, "not-found", &message, now))
        }
        AtVersion::Later(current) => {
            let message = format!("There is no version {} yet; the current one is {}", version.0, current.0);
            Err(Problem::new(StatusCode::NOT_FOUND, "not-found", &message, now))
        }
        AtVersion::Gone => {
            let message = format!("Version {} is not kept any more", version.0);
            Err(Problem::new(StatusCode::GONE, "gone", &message, now))
        }
    }
}

/// Answers with what `render` makes of `document`, or as the conditions have it.
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

/// 412 of a read.
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

/// What a 412 says of weak tags. RFC 9110 section 13.1.1.
pub(in crate::http) const WEAK: &str = "If-Match compares strongly: a weak tag (W/) never matches";

fn http_date(time: Timestamp) -> HeaderValue {
    // Years have four digits in a date.
    let seconds = time.0.min(253_402_300_799);
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::try_from(text).expect("a date is fit for a header")
}
