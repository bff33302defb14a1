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
    engine::RefusalPosition,
    http::{
        api::{
            Api,
            problem::Problem,
            query::{BadParameter, Query, bad},
            shadows::JSON,
            target::Target,
        },
        auth::caller::Caller,
        operation::{AFTER, BEFORE, HISTORY_CURSOR, LIMIT, Operation},
    },
    shadow::{Rejection, Version},
    store::{HistoryEnd, JournalEntry, Seq},
    wire::{self, ChangeEntry, RefusedEntry},
};

/// Entries in a page, and names in a list, if nothing else is asked for.
pub(in crate::http) const PAGE: usize = 25;

/// Answers with a document that is made anew each time.
pub(in crate::http) fn fresh(body: Bytes) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (headers, body).into_response()
}

/// `GET S/history`
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
) -> Result<Response, Problem> {
    let projection = caller.history_projection(&key, &api)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let HistoryPage { from, before, limit } = HistoryPage::read(&uri).map_err(invalid)?;
    let refused = |rejection: Rejection| caller.refused(&rejection, &key, &api);
    let _admitted = api.service.admit(caller.principal(), &key).map_err(refused)?;
    let held = api.service.read(&key).await.map_err(refused)?;
    if !held.is_recorded() {
        return Err(refused(Rejection::NotFound));
    }
    let turn = api.read_turn(&caller).await;
    let history = api.service.history(&key, from, before, limit, turn).await.map_err(refused)?;
    let history = history.ok_or_else(|| invalid(bad(HISTORY_CURSOR.name, "is no 'next' of this shadow's history")))?;
    let (end, next) = match history.end {
        HistoryEnd::First => (wire::HistoryEnd::First, None),
        HistoryEnd::More(next) => (wire::HistoryEnd::More, Some(cursor(next, before))),
        HistoryEnd::Gone => (wire::HistoryEnd::Gone, None),
    };
    let mut response = fresh(wire::history(history.entries.iter().map(entry), end, next.as_deref(), &projection));
    if let Some(next) = next {
        link(&mut response, &format!("{}?cursor={next}&limit={limit}", uri.path()));
    }
    Ok(response)
}

/// A page of history that is asked for.
#[derive(Debug, PartialEq, Eq)]
struct HistoryPage {
    /// The entry to begin with; `None`: the newest.
    from: Option<Seq>,
    /// Only versions below this one.
    before: Version,
    limit: usize,
}

/// No version is as high.
const ALL: Version = Version(u64::MAX);

/// Returns the text that stands for the page that begins with the entry at `from`. It holds `before` too: the walk may
/// not have got there yet.
fn cursor(from: Seq, before: Version) -> String {
    format!("{:x}.{:x}", from.0, if before == ALL { 0 } else { before.0 })
}

fn read_cursor(text: &str) -> Option<(Seq, Version)> {
    let (from, before) = text.split_once('.')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
    Some((Seq(number(from)?), Some(Version(number(before)?)).filter(|before| before.0 > 0).unwrap_or(ALL)))
}

/// `GET S/rejections`
pub(in crate::http) async fn rejections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
) -> Result<Response, Problem> {
    let projection = caller.read_projection(&key, &api)?;
    let query = Query::read(uri.query(), Operation::GetRejections.parameters());
    query.map_err(|bad| Problem::parameter(&bad.name, &bad.reason, api.now()))?;
    let admitted = api.service.admit(caller.principal(), &key);
    let _admitted = admitted.map_err(|rejection| caller.refused(&rejection, &key, &api))?;
    let shown = |entry| shown(entry, &caller, &projection);
    Ok(fresh(wire::refusals(api.service.refusals(&key).into_iter().filter_map(shown))))
}

/// `GET /v1/rejections`
pub(in crate::http) async fn all_rejections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, Problem> {
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
pub(in crate::http) fn link(response: &mut Response, next: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("<{next}>; rel=\"next\"")) {
        response.headers_mut().insert(header::LINK, value);
    }
}

impl HistoryPage {
    fn read(uri: &Uri) -> Result<Self, BadParameter> {
        let query = Query::read(uri.query(), Operation::GetHistory.parameters())?;
        let limit = query.integer(&LIMIT)?.and_then(|limit| limit.try_into().ok()).unwrap_or(PAGE);
        let before = query.integer(&BEFORE)?.map(Version);
        match query.text(&HISTORY_CURSOR)? {
            None => Ok(Self { from: None, before: before.unwrap_or(ALL), limit }),
            Some(_) if before.is_some() => Err(bad(BEFORE.name, "is part of the cursor; leave it out")),
            Some(text) => {
                let read = read_cursor(&text).ok_or_else(|| bad(HISTORY_CURSOR.name, "is no 'next' of a history"))?;
                Ok(Self { from: Some(read.0), before: read.1, limit })
            }
        }
    }
}

fn entry(entry: &JournalEntry) -> ChangeEntry<'_> {
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
