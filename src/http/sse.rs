//! Server-sent events: a stream of the changes that the caller may see, resumable after any event.
//!
//! The `id` of an event is its journal position, in a form that clients cannot mistake for a number ([`event_id`]).
//! Heartbeats advance it to the head of the journal even if the filter passes no changes. Otherwise a client with rare
//! changes could only resume from entries that retention has removed. A stream first reads the journal after the
//! client's last event, then continues with the change feed. A client that reads too slowly is disconnected. It
//! reconnects with its last event, and reads the rest from the journal.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout_at;

use crate::{
    admission::work,
    auth::{self, Access},
    engine::changes::{ChangeEvent, FeedFilter, FollowHandle, Next, QueueContent},
    http::{
        api::{
            Api, StreamPermit,
            problem::{Problem, status},
            query::{BadParameter, Query, bad},
        },
        auth::caller::Caller,
        operation::{DEVICE, LAST_EVENT_ID, Operation, PATH, SHADOW_NAME},
    },
    shadow::{DeviceId, Rejection, ShadowName},
    store::{JournalPage, Seq},
    wire,
};

/// Time without an event after which a comment is sent, with the current position as `id`.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Most ranges of devices by which the changes for a stream are selected.
const DEVICES_MAX: usize = 256;

/// Journal entries per read.
const BATCH: usize = 200;

/// Time before a disconnected client reconnects, in milliseconds.
const RETRY: u32 = 2000;

/// The state of an event stream.
struct EventStream {
    api: Arc<Api>,
    caller: Caller,
    filter: FeedFilter,
    /// The changes of the devices that `rights` cover.
    following: FollowHandle,
    rights: Access,
    /// Events that were read and not sent yet.
    ready: VecDeque<Arc<ChangeEvent>>,
    /// The journal position up to which changes were read.
    position: Seq,
    begun: bool,
    /// The time of the next heartbeat.
    heartbeat_at: Instant,
    _permit: StreamPermit,
}

/// `GET /v1/events`
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let filter = parse_filter(&uri).map_err(invalid)?;
    let last = last_event(&headers).map_err(invalid)?;
    let permit = api.stream_permit(&mut caller)?;
    let following = subscribe(&api, &caller, &filter);
    let rights = caller.access().clone();
    // Checked before the response begins, so that a failure has a status.
    let position = match last {
        None => following.since,
        Some(last) => begin(&api, &caller, &filter, last).await?,
    };
    let heartbeat_at = Instant::now() + HEARTBEAT;
    let ready = VecDeque::new();
    let events = EventStream {
        api,
        caller,
        rights,
        filter,
        following,
        ready,
        position,
        begun: false,
        heartbeat_at,
        _permit: permit,
    };
    let body = stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        events.heartbeat_at = Instant::now() + HEARTBEAT;
        Some((Ok::<_, std::convert::Infallible>(bytes), events))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Makes nginx forward each event at once.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Subscribes to the changes of the devices that `caller` may see.
fn subscribe(api: &Api, caller: &Caller, filter: &FeedFilter) -> FollowHandle {
    let visible = caller.access().devices(auth::Operation::Subscribe, DEVICES_MAX);
    api.changes.follow(filter.clone(), visible, QueueContent::All { bytes_max: api.event_bytes_max })
}

/// Returns the position after which a client with the last event `last` misses nothing. This is `last`, or a later
/// position if retention removed only entries of other devices than the followed one.
async fn begin(api: &Api, caller: &Caller, filter: &FeedFilter, last: Seq) -> Result<Seq, Problem> {
    let gone = || {
        let message = "The journal no longer has the events after Last-Event-ID; read the documents again";
        Problem::new(StatusCode::GONE, "gone", message, api.now())
    };
    if !journal(api, last, 1).await?.gone {
        return Ok(last);
    }
    let Some(device) = filter.device.clone() else { return Err(gone()) };
    let permit = api.read_turn(caller).await;
    let resumed =
        api.service.resume(device, filter.name.clone(), last, permit).await.map_err(|error| failed(&error, api))?;
    resumed.ok_or_else(gone)
}

async fn journal(api: &Api, after: Seq, limit: usize) -> Result<JournalPage, Problem> {
    let page = api.service.journal(after, limit).await;
    page.map_err(|rejection| failed(&rejection, api))
}

fn failed(rejection: &Rejection, api: &Api) -> Problem {
    Problem::new(status(rejection), rejection.error(), "The journal cannot be read", api.now())
}

impl EventStream {
    /// Returns the next bytes to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            // This sends the headers at once. A client that loses the connection before the first event can resume.
            self.begun = true;
            return Some(format!("retry: {RETRY}\nid: {}\n\n", event_id(self.position)).into());
        }
        loop {
            // Since the last event, rights may have been reloaded or a token may have expired.
            if !self.caller.renew(&self.api) {
                return None;
            }
            self.follow_visible();
            if let Some(change) = self.ready.pop_front() {
                if let Some(event) = self.event(&change) {
                    return Some(event);
                }
            } else if Instant::now() >= self.heartbeat_at {
                return Some(self.heartbeat());
            } else if self.position < self.following.since {
                self.read_journal().await?;
            } else {
                // Filtered changes do not delay the heartbeat.
                let next = tokio::select! {
                    () = self.caller.rights_may_change(&self.api) => continue,
                    next = timeout_at(self.heartbeat_at.into(), self.following.next()) => next,
                };
                match next {
                    Err(_) => return Some(self.heartbeat()),
                    Ok(Next::Change(change)) => {
                        if change.seq > self.position {
                            self.position = change.seq;
                            self.ready.extend(self.filter.cares(&change).then_some(change));
                        }
                    }
                    Ok(Next::Newest(_)) => {} // only for waits
                    Ok(Next::Cut | Next::Closed) => return None,
                }
            }
        }
    }

    /// Follows the devices that the caller may see now, if its rights have changed. What was not taken from the previous
    /// subscription is read from the journal.
    fn follow_visible(&mut self) {
        if self.caller.access().is_same(&self.rights) {
            return;
        }
        self.advance();
        self.rights = self.caller.access().clone();
        self.following = subscribe(&self.api, &self.caller, &self.filter);
    }

    /// Moves the position to the newest change, if nothing up to it is left to send.
    fn advance(&mut self) {
        if self.position >= self.following.since
            && let Some(position) = self.following.position()
        {
            self.position = self.position.max(position);
        }
    }

    /// Returns a block without an event, whose `id` is the position up to which the client has all events.
    fn heartbeat(&mut self) -> Bytes {
        self.advance();
        format!(":\nid: {}\n\n", event_id(self.position)).into()
    }

    /// Reads the next journal entries, up to the beginning of the feed. Returns `None` if the stream must end.
    async fn read_journal(&mut self) -> Option<()> {
        let _permit = self.api.read_turn(&self.caller).await;
        let page = journal(&self.api, self.position, BATCH).await.ok()?;
        // Retention has overtaken the client. It reconnects and receives 410.
        if page.gone || page.entries.is_empty() {
            return None;
        }
        for entry in page.entries {
            if entry.seq > self.following.since {
                break;
            }
            self.position = entry.seq;
            let change = ChangeEvent::from(entry);
            if self.filter.cares(&change) {
                self.ready.push_back(Arc::new(change));
            }
        }
        Some(())
    }

    /// Returns the event for a change, as far as the caller may see it now; `None` if it may see nothing of it.
    fn event(&self, change: &ChangeEvent) -> Option<Bytes> {
        let projection = self.caller.projection_of(&change.key, auth::Operation::Subscribe)?;
        if !self.filter.cares_as(change, &projection) {
            return None;
        }
        Some(change.rendered(&projection, |change| {
            let data = wire::change_entry(&change.entry(), &projection);
            let mut event = format!("id: {}\nevent: change\ndata: ", event_id(change.seq)).into_bytes();
            // Line ends are escaped in JSON.
            event.extend_from_slice(&data);
            event.extend_from_slice(b"\n\n");
            event.into()
        }))
    }
}

fn parse_filter(uri: &Uri) -> Result<FeedFilter, BadParameter> {
    let query = Query::read(uri.query(), Operation::FollowEvents.parameters())?;
    let device = query.text(&DEVICE)?.map(|text| DeviceId::new(&text)).transpose();
    let name = match query.text(&SHADOW_NAME)?.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(name) => Some(Some(ShadowName::new(name).map_err(|error| bad(SHADOW_NAME.name, error.to_string()))?)),
    };
    let paths = query.pointers(&PATH)?.into_iter().map(|path| {
        path.parse().map_err(|error: crate::shadow::pointer::NotAPointer| bad(PATH.name, error.to_string()))
    });
    Ok(FeedFilter {
        device: device.map_err(|error| bad(DEVICE.name, error.to_string()))?,
        name,
        paths: paths.collect::<Result<_, _>>()?,
    })
}

/// Returns the id of the event at `seq`. It is opaque, and begins with a letter so that no client computes with it.
fn event_id(seq: Seq) -> String {
    format!("{ID_PREFIX}{:x}", seq.0)
}

const ID_PREFIX: char = 'j';

/// Parses an id, or a plain number as older servers sent. Returns `None` for any other text.
fn read_event_id(text: &str) -> Option<Seq> {
    let (digits, radix) = text.strip_prefix(ID_PREFIX).map_or((text, 10), |digits| (digits, 16));
    u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+')).map(Seq)
}

/// Returns the client's last event. Browsers omit the header if they have none.
fn last_event(headers: &HeaderMap) -> Result<Option<Seq>, BadParameter> {
    let Some(value) = headers.get(LAST_EVENT_ID.name) else { return Ok(None) };
    let seq = read_event_id(value.to_str().unwrap_or_default());
    seq.map(Some).ok_or_else(|| bad(LAST_EVENT_ID.name, "must be the id of an event"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_round_trip_and_are_not_numbers() {
        for seq in [0, 1, 9, 10, 0xe5, 4096, u64::MAX] {
            let id = event_id(Seq(seq));
            assert_eq!(read_event_id(&id), Some(Seq(seq)));
            assert!(id.parse::<f64>().is_err(), "{id}");
            assert_eq!(read_event_id(&seq.to_string()), Some(Seq(seq)), "as older servers sent it");
        }
        for unknown in ["j", "+1", "j+1", "jg", "-1", "1.5", "x1", "99999999999999999999", "j11111111111111111"] {
            assert_eq!(read_event_id(unknown), None, "{unknown}");
        }
    }
}
