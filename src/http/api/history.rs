//! The history of a shadow: its accepted changes and its latest refusals.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    admission::work,
    engine::RefusalPosition,
    http::{
        api::{query::Query, shadows::JSON, target::Target},
        auth::caller::Caller,
        operation::{AFTER, BEFORE, HISTORY_CURSOR, LIMIT, Operation},
        parameter::{BadParameter, bad},
        problem::Problem,
        state::Api,
    },
    shadow::{Projection, Rejection, Version},
    store::{HistoryEnd, JournalEntry, Seq},
    wire::{self, ChangeEntry, RefusedEntry},
};

/// Default number of entries in a page and of names in a list.
pub(in crate::http) const PAGE: usize = 25;

/// Returns a JSON response that must not be cached.
pub(in crate::http) fn no_store(body: Bytes) -> Response {
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
    let HistoryPage { from, before, limit } = HistoryPage::read(&uri).map_err(|bad| api.invalid(&bad))?;
    let refused = |rejection: Rejection| caller.refused(&rejection, &key, &api);
    caller.admit(work::PAGE, &api)?;
    let _admitted = api.service.admit(&caller.quota(&api), &key).map_err(refused)?;
    let stored = caller.read(&key, &api).await.map_err(refused)?;
    if !stored.is_recorded() {
        return Err(refused(Rejection::NotFound));
    }
    let permit = caller.read_turn(&api).await;
    let history = api.service.history(&key, from, before, limit, permit).await.map_err(refused)?;
    let history =
        history.ok_or_else(|| api.invalid(&bad(HISTORY_CURSOR.name, "is not a 'next' of this shadow's history")))?;
    let (end, next) = match history.end {
        HistoryEnd::First => (wire::HistoryEnd::First, None),
        HistoryEnd::More(next) => (wire::HistoryEnd::More, Some(cursor(next, before))),
        HistoryEnd::Gone => (wire::HistoryEnd::Gone, None),
    };
    let units = work::times(history.skipped, work::VERSION_BACK) + work::journal_read(history.bytes);
    let _delays_the_next = caller.quota(&api).charge_work(units, Instant::now());
    let mut response = no_store(wire::history(history.entries.iter().map(entry), end, next.as_deref(), &projection));
    caller.charge_rendered(&response, &api);
    if let Some(next) = next {
        link(&mut response, &format!("{}?cursor={next}&limit={limit}", uri.path()));
    }
    Ok(response)
}

/// A requested page of history.
#[derive(Debug, PartialEq, Eq)]
struct HistoryPage {
    /// The first entry; `None` for the newest.
    from: Option<Seq>,
    /// Only versions below this one.
    before: Version,
    limit: usize,
}

/// A bound above every version.
const ALL: Version = Version(u64::MAX);

/// Returns the cursor of the page that begins with the entry at `from`. It contains `before` too, as the pages may not
/// have reached that version yet.
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
    query.map_err(|bad| api.invalid(&bad))?;
    let admitted = api.service.admit(&caller.quota(&api), &key);
    let _admitted = admitted.map_err(|rejection| caller.refused(&rejection, &key, &api))?;
    let visible = |entry| visible_refusal(entry, &caller, &projection);
    Ok(no_store(wire::refusals(api.service.refusals(&key).into_iter().filter_map(visible))))
}

/// `GET /v1/rejections`
pub(in crate::http) async fn all_rejections(
    State(api): State<Arc<Api>>,
    caller: Caller,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let (after, limit) = followed(&uri).map_err(|bad| api.invalid(&bad))?;
    let (kept, end) = api.service.refusals_after(after);
    let visible = kept.into_iter().filter_map(|(position, key, entry)| {
        let projection = caller.projection(&key)?;
        Some((position, key, visible_refusal(Arc::unwrap_or_clone(entry), &caller, &projection)?))
    });
    let mut visible: Vec<_> = visible.collect();
    let mut next = end;
    if after.is_none() {
        visible.drain(..visible.len().saturating_sub(limit));
    } else if visible.len() > limit {
        visible.truncate(limit);
        next = visible.last().map_or(end, |(position, ..)| *position);
    }
    let entries = visible.into_iter().map(|(_, key, entry)| (key, entry));
    Ok(no_store(wire::followed_refusals(entries, &next.to_string())))
}

/// Returns the refusal as far as `caller` may see it; `None` if it may not.
///
/// A caller sees its own refusals whole. It sees those of others if it may read all of `desired` and `reported`, except
/// those for missing rights. Their path names are included only if it may see the whole shadow.
fn visible_refusal(entry: RefusedEntry, caller: &Caller, projection: &Projection) -> Option<RefusedEntry> {
    match projection {
        _ if *entry.by == **caller.principal().name() => Some(entry),
        _ if entry.code == 403 => None,
        all if *all == Projection::ALL => Some(entry),
        part => part.reads_state().then(|| entry.for_others()),
    }
}

fn followed(uri: &Uri) -> Result<(Option<RefusalPosition>, usize), BadParameter> {
    let query = Query::read(uri.query(), Operation::FollowRejections.parameters())?;
    let after = query.text(&AFTER)?.map(|text| text.parse().map_err(|()| bad(AFTER.name, "is not a `next` of a page")));
    let limit = query.integer(&LIMIT)?.and_then(|limit| limit.try_into().ok());
    Ok((after.transpose()?, limit.unwrap_or(PAGE)))
}

/// Adds a `Link` to the next page. RFC 8288.
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
            Some(_) if before.is_some() => Err(bad(BEFORE.name, "is part of the cursor; omit it")),
            Some(text) => {
                let read =
                    read_cursor(&text).ok_or_else(|| bad(HISTORY_CURSOR.name, "is not a 'next' of a history"))?;
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
