//! Server-sent events: every change that the caller may see, as it happens, from where it left off.
//!
//! The `id` of an event is its place in the journal, in a form that clients cannot take for a number ([`event_id`]). It
//! moves on with the head of the journal in heartbeats, whatever the filter lets through, so that a reader of rare
//! changes does not come back for entries that are no longer kept. A stream begins after the last event its reader has, from the
//! journal, and goes on with the feed of changes where the journal meets it. A reader that is too slow is cut off
//! rather than remembered: it comes back with the last event it had, and the journal has the rest.

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
    auth,
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

/// How long nothing may be sent before a comment shows that both ends are there, and how far the reader has come.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Entries of the journal read at once.
const BATCH: usize = 200;

/// How long a reader that was cut off waits before it comes back, in milliseconds.
const RETRY: u32 = 2000;

/// A reader of events.
struct Reader {
    api: Arc<Api>,
    caller: Caller,
    interest: FeedFilter,
    following: FollowHandle,
    /// What was found in the journal and not sent yet.
    ready: VecDeque<Arc<ChangeEvent>>,
    /// The last entry of the journal that was looked at.
    at: Seq,
    begun: bool,
    /// When a heartbeat is due: nothing was sent for a while then.
    silent_until: Instant,
    _place: StreamPermit,
}

/// `GET /v1/events`
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    api.admit(&caller)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let interest = interest(&uri).map_err(invalid)?;
    let last = last_event(&headers).map_err(invalid)?;
    let place = api.stream(&caller)?;
    let keep = QueueContent::All { bytes_max: api.event_bytes_max };
    let following = api.changes.follow(interest.clone(), keep);
    // Asked now, while there is a status to say it with.
    let at = match last {
        None => following.since,
        Some(last) => begin(&api, &caller, &interest, last).await?,
    };
    let silent_until = Instant::now() + HEARTBEAT;
    let ready = VecDeque::new();
    let reader = Reader { api, caller, interest, following, ready, at, begun: false, silent_until, _place: place };
    let events = stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        reader.silent_until = Instant::now() + HEARTBEAT;
        Some((Ok::<_, std::convert::Infallible>(bytes), reader))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx passes each event on at once.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Returns the place from which a reader whose last event is `last` misses nothing: `last` itself, or a later one if
/// none of the removed entries were of the device that it follows.
async fn begin(api: &Api, caller: &Caller, interest: &FeedFilter, last: Seq) -> Result<Seq, Problem> {
    let gone = || {
        let message = "The events after Last-Event-ID are not kept any more, or never were; begin with the documents";
        Problem::new(StatusCode::GONE, "gone", message, api.now())
    };
    if !journal(api, last, 1).await?.gone {
        return Ok(last);
    }
    let Some(device) = interest.device.clone() else { return Err(gone()) };
    let turn = api.read_turn(caller).await;
    let resumed =
        api.service.resume(device, interest.name.clone(), last, turn).await.map_err(|error| failed(&error, api))?;
    resumed.ok_or_else(gone)
}

async fn journal(api: &Api, after: Seq, limit: usize) -> Result<JournalPage, Problem> {
    let page = api.service.journal(after, limit).await;
    page.map_err(|rejection| failed(&rejection, api))
}

fn failed(rejection: &Rejection, api: &Api) -> Problem {
    Problem::new(status(rejection), rejection.error(), "The journal cannot be read", api.now())
}

impl Reader {
    /// The next bytes to send; `None`: the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            // So that the headers leave at once, and who loses the connection before the first event knows where it
            // was.
            self.begun = true;
            return Some(format!("retry: {RETRY}\nid: {}\n\n", event_id(self.at)).into());
        }
        loop {
            // Rights may have been read anew since the last event, and a token ends.
            if !self.caller.renew(&self.api) {
                return None;
            }
            if let Some(told) = self.ready.pop_front() {
                if let Some(event) = self.event(&told) {
                    return Some(event);
                }
            } else if Instant::now() >= self.silent_until {
                return Some(self.heartbeat());
            } else if self.at < self.following.since {
                self.catch_up().await?;
            } else {
                // Changes that the filter holds back do not put the heartbeat off.
                let next = tokio::select! {
                    () = self.caller.in_question(&self.api) => continue,
                    next = timeout_at(self.silent_until.into(), self.following.next()) => next,
                };
                match next {
                    Err(_) => return Some(self.heartbeat()),
                    Ok(Next::Change(told)) => {
                        if told.seq > self.at {
                            self.at = told.seq;
                            self.ready.extend(self.interest.cares(&told).then_some(told));
                        }
                    }
                    Ok(Next::Newest(_)) => {} // for who waits for one shadow
                    Ok(Next::Cut | Next::Closed) => return None,
                }
            }
        }
    }

    /// Returns a block without an event: the place up to which the reader has everything.
    fn heartbeat(&mut self) -> Bytes {
        if self.at >= self.following.since
            && let Some(position) = self.following.position()
        {
            self.at = self.at.max(position);
        }
        format!(":\nid: {}\n\n", event_id(self.at)).into()
    }

    /// Reads on in the journal, up to where the feed begins.
    async fn catch_up(&mut self) -> Option<()> {
        let _turn = self.api.read_turn(&self.caller).await;
        let page = journal(&self.api, self.at, BATCH).await.ok()?;
        // A reader that retention has overtaken comes back and is told so.
        if page.gone || page.entries.is_empty() {
            return None;
        }
        for entry in page.entries {
            if entry.seq > self.following.since {
                break;
            }
            self.at = entry.seq;
            let told = ChangeEvent::from(entry);
            if self.interest.cares(&told) {
                self.ready.push_back(Arc::new(told));
            }
        }
        Some(())
    }

    /// What the caller is told of a change, by what it may see now; `None`: nothing.
    fn event(&self, told: &ChangeEvent) -> Option<Bytes> {
        let reader = self.caller.projection_of(&told.key, auth::Operation::Subscribe)?;
        if !self.interest.cares_as(told, &reader) {
            return None;
        }
        Some(told.rendered(&reader, |told| {
            let data = wire::change_entry(&told.entry(), &reader);
            let mut event = format!("id: {}\nevent: change\ndata: ", event_id(told.seq)).into_bytes();
            // JSON has no line ends but escaped ones.
            event.extend_from_slice(&data);
            event.extend_from_slice(b"\n\n");
            event.into()
        }))
    }
}

fn interest(uri: &Uri) -> Result<FeedFilter, BadParameter> {
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

/// Returns the id of the event at `seq`. Clients only send it back: it begins with a letter, so that nobody computes
/// with it.
fn event_id(seq: Seq) -> String {
    format!("{ID_PREFIX}{:x}", seq.0)
}

const ID_PREFIX: char = 'j';

/// Reads an id, or the bare number that older servers sent. `None`: no server sent it.
fn read_event_id(text: &str) -> Option<Seq> {
    let (digits, radix) = text.strip_prefix(ID_PREFIX).map_or((text, 10), |digits| (digits, 16));
    u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+')).map(Seq)
}

/// Reads the last event that the reader has. Browsers leave the header out if there was none.
fn last_event(headers: &HeaderMap) -> Result<Option<Seq>, BadParameter> {
    let Some(value) = headers.get(LAST_EVENT_ID.name) else { return Ok(None) };
    let seq = read_event_id(value.to_str().unwrap_or_default());
    seq.map(Some).ok_or_else(|| bad(LAST_EVENT_ID.name, "must be the id of an event"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_and_are_no_numbers() {
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
