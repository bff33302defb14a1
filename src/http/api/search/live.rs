//! `GET /v1/search/live`: a live query ([`crate::search::live`]) as server-sent events.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use bytes::Bytes;
use serde_json::Value;

use super::{too_long, unread};
use crate::{
    admission::work,
    fleet::Query as DeviceQuery,
    http::{
        api::query::Query,
        auth::caller::Caller,
        operation::{LIVE_EVENT_ID, Operation, SEARCH},
        parameter::{BadParameter, bad},
        problem::Problem,
        sse::{self, HEARTBEAT},
        state::Api,
    },
    search::{
        StreamPermit,
        live::{self, LiveEvent, LiveFailure, LiveNext, LiveQuery, members::is_id},
    },
};

/// The state of a stream.
struct LiveStream {
    api: Arc<Api>,
    live: LiveQuery<Caller>,
    has_begun: bool,
    _permit: StreamPermit,
}

/// `GET /v1/search/live`
pub(in crate::http) async fn follow(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let query = Arc::new(parse(&uri).map_err(|bad| api.invalid(&bad))?);
    let last = last_event(&headers).map_err(|bad| api.invalid(&bad))?;
    let permit = caller.stream_permit(&api)?;
    // Before the response begins, so that a failure has a status.
    let live = LiveQuery::begin(&api.search, caller, query).await;
    let mut live = live.map_err(|failure| refused(&failure, &headers, &api))?;
    live.send_all(last.as_deref());
    let stream = LiveStream { api, live, has_begun: false, _permit: permit };
    Ok(sse::response(futures_util::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((bytes, stream))
    })))
}

impl LiveStream {
    /// Returns the next bytes to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(sse::retry());
        }
        match self.live.next(Instant::now() + HEARTBEAT).await {
            LiveNext::Event { event, .. } => Some(block(&event)),
            LiveNext::TimeOver => sse::heartbeat(&self.api),
            // The client comes back, and is answered by a status.
            LiveNext::Broken => None,
        }
    }
}

/// Returns the problem of a live query that cannot begin.
fn refused(failure: &LiveFailure, headers: &HeaderMap, api: &Api) -> Problem {
    match failure {
        LiveFailure::Scan(failure) => unread(failure, headers, api),
        LiveFailure::Memory(rejection) => Problem::general(rejection, api.now()),
        LiveFailure::TooLong => too_long("follow fewer devices", api),
        LiveFailure::TooMany => {
            let (error, message) = failure.reason();
            Problem::new(StatusCode::BAD_REQUEST, error, &message, api.now())
        }
    }
}

/// Returns the block of an event.
fn block(event: &LiveEvent) -> Bytes {
    let (id, name, data) = (&event.id, event.name(), Value::Object(event.data()));
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into()
}

/// Parses the query, which must not depend on the time.
fn parse(uri: &Uri) -> Result<DeviceQuery, BadParameter> {
    let query = Query::read(uri.query(), Operation::FollowSearch.parameters())?;
    let text = query.text(&SEARCH)?.unwrap_or("*".into());
    live::parse(&text).map_err(|reason| bad(SEARCH.name, reason))
}

/// Returns the client's last event. Browsers omit the header if they have none.
fn last_event(headers: &HeaderMap) -> Result<Option<String>, BadParameter> {
    let Some(value) = headers.get(LIVE_EVENT_ID.name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| is_id(text)).map(str::to_owned);
    text.map(Some).ok_or_else(|| bad(LIVE_EVENT_ID.name, "must be the id of an event"))
}
