//! What happened to a shadow: its accepted changes, and its last refusals.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    auth::Projection,
    http::{
        api::Api,
        caller::Caller,
        operation::{AFTER, BEFORE, LIMIT, Operation},
        problem::Problem,
        query::{BadParameter, Query, bad},
        shadows::JSON,
        target::Target,
    },
    service::RefusalPosition,
    shadow::{Rejection, Version},
    store::{Entry, HistoryEnd},
    wire::{self, ChangeEntry, RefusedEntry},
};

/// Entries in a page, and names in a list, if nothing else is asked for.
pub(super) const PAGE: usize = 25;

/// Answers with a document that is made anew each time.
pub(super) fn fresh(body: Bytes) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (headers, body).into_response()
}

/// `GET S/history`
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
) -> Result<Response, Problem> {
    let projection = caller.hindsight(&key, &api)?;
    let (before, limit) = page(&uri).map_err(|bad| Problem::parameter(&bad.name, &bad.reason, api.now()))?;
    let refused = |rejection: Rejection| caller.refused(&rejection, &key, &api);
    let _admitted = api.service.admit(caller.principal(), &key).map_err(refused)?;
    let held = api.service.read(&key).await.map_err(refused)?;
    if held.document.version == Version(0) {
        return Err(refused(Rejection::NotFound));
    }
    let turn = api.read_turn(&caller).await;
    let history = api.service.history(&key, before, limit, turn).await.map_err(refused)?;
    let end = match history.end {
        HistoryEnd::First => wire::HistoryEnd::First,
        HistoryEnd::More => wire::HistoryEnd::More,
        HistoryEnd::Gone => wire::HistoryEnd::Gone,
    };
    let mut response = fresh(wire::history(history.entries.iter().map(entry), end, &projection));
    if let (wire::HistoryEnd::More, Some(last)) = (end, history.entries.last()) {
        let next = format!("{}?before={}&limit={limit}", uri.path(), last.version.0);
        link(&mut response, &next);
    }
    Ok(response)
}

/// `GET S/rejections`
pub(super) async fn rejections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
) -> Result<Response, Problem> {
    let projection = caller.sight(&key, &api)?;
    let query = Query::read(uri.query(), Operation::GetRejections.parameters());
    query.map_err(|bad| Problem::parameter(&bad.name, &bad.reason, api.now()))?;
    let admitted = api.service.admit(caller.principal(), &key);
    let _admitted = admitted.map_err(|rejection| caller.refused(&rejection, &key, &api))?;
    let shown = |entry| shown(entry, &caller, &projection);
    Ok(fresh(wire::refusals(api.service.refusals(&key).into_iter().filter_map(shown))))
}

/// `GET /v1/rejections`
pub(super) async fn all_rejections(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    api.admit(&caller)?;
    let (after, limit) = followed(&uri).map_err(|bad| Problem::parameter(&bad.name, &bad.reason, api.now()))?;
    let (kept, end) = api.service.refusals_after(after);
    let shown = kept.into_iter().filter_map(|(position, key, entry)| {
        let projection = caller.projection(&key)?;
        Some((position, key, shown(Arc::unwrap_or_clone(entry), &caller, &projection)?))
    });
    let mut shown: Vec<_> = shown.collect();
    let mut next = end;
    if after.is_none() {
        shown.drain(..shown.len().saturating_sub(limit));
    } else if shown.len() > limit {
        shown.truncate(limit);
        next = shown.last().map_or(end, |(position, ..)| *position);
    }
    let entries = shown.into_iter().map(|(_, key, entry)| (key, entry));
    Ok(fresh(wire::followed_refusals(entries, &next.to_string())))
}

/// The refusal as `caller` is shown it; `None`: not at all.
///
/// Of others it is shown what was announced to all who see the whole state: no lack of rights, and names of paths only
/// where all of them may be seen.
fn shown(entry: RefusedEntry, caller: &Caller, projection: &Projection) -> Option<RefusedEntry> {
    match projection {
        _ if *entry.by == **caller.principal().name() => Some(entry),
        _ if entry.code == 403 => None,
        all if *all == Projection::ALL => Some(entry),
        part => part.reads_state().then(|| entry.for_others()),
    }
}

fn followed(uri: &Uri) -> Result<(Option<RefusalPosition>, usize), BadParameter> {
    let query = Query::read(uri.query(), Operation::FollowRejections.parameters())?;
    let after = query.text(&AFTER)?.map(|text| text.parse().map_err(|()| bad(AFTER.name, "is no `next` of a page")));
    let limit = query.integer(&LIMIT)?.and_then(|limit| limit.try_into().ok());
    Ok((after.transpose()?, limit.unwrap_or(PAGE)))
}

/// Tells where the next page is. RFC 8288.
pub(super) fn link(response: &mut Response, next: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("<{next}>; rel=\"next\"")) {
        response.headers_mut().insert(header::LINK, value);
    }
}

fn page(uri: &Uri) -> Result<(Version, usize), BadParameter> {
    let query = Query::read(uri.query(), Operation::GetHistory.parameters())?;
    let before = query.integer(&BEFORE)?.map_or(Version(u64::MAX), Version);
    let limit = query.integer(&LIMIT)?.and_then(|limit| limit.try_into().ok());
    Ok((before, limit.unwrap_or(PAGE)))
}

fn entry(entry: &Entry) -> ChangeEntry<'_> {
    ChangeEntry {
        key: &entry.key,
        version: entry.version,
        etag: entry.etag,
        timestamp: entry.timestamp,
        by: &entry.principal,
        client: &entry.client,
        deleted: entry.deleted,
        changes: &entry.changes,
    }
}
