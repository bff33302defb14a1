//! Server-sent events: every change that the caller may see, as it happens, from where it left off.
//!
//! The `id` of an event is its sequence in the journal. A stream begins after the last event its reader has, from the
//! journal, and goes on with the feed of changes where the journal meets it. A reader that is too slow is cut off
//! rather than remembered: it comes back with the last event it had, and the journal has the rest.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout;

use crate::{
    auth,
    changes::{Following, Interest, Keep, Next, Told},
    http::{
        api::{Api, Place},
        caller::Caller,
        operation::{DEVICE, LAST_EVENT_ID, Operation, PATH, SHADOW_NAME},
        problem::{Problem, status},
        query::{BadParameter, Query, bad},
    },
    shadow::{DeviceId, Rejection, ShadowName},
    store::{Page, Seq},
    wire,
};

/// How long nothing may be sent before a comment shows that both ends are there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Entries of the journal read at once.
const BATCH: usize = 200;

/// How long a reader that was cut off waits before it comes back, in milliseconds.
const RETRY: u32 = 2000;

/// A reader of events.
struct Reader {
    api: Arc<Api>,
    caller: Caller,
    interest: Interest,
    following: Following,
    /// What was found in the journal and not sent yet.
    ready: VecDeque<Arc<Told>>,
    /// The last entry of the journal that was looked at.
    at: Seq,
    begun: bool,
    _place: Place,
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
    let keep = Keep::All { bytes_max: api.event_bytes_max };
    let following = api.changes.follow(interest.clone(), keep);
    let at = last.unwrap_or(following.since);
    // Asked now, while there is a status to say it with.
    if let Page { gone: true, .. } = journal(&api, at, 1).await? {
        let message =
            format!("What came after event {} is not kept any more, or never was; begin with what is there", at.0);
        return Err(Problem::new(StatusCode::GONE, "gone", &message, api.now()));
    }
    let ready = VecDeque::new();
    let reader = Reader { api, caller, interest, following, ready, at, begun: false, _place: place };
    let events = stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), reader))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

async fn journal(api: &Api, after: Seq, limit: usize) -> Result<Page, Problem> {
    let page = api.service.journal(after, limit).await;
    page.map_err(|rejection: Rejection| {
        Problem::new(status(&rejection), rejection.error(), "The journal cannot be read", api.now())
    })
}

impl Reader {
    /// The next bytes to send; `None`: the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            // So that the headers leave at once, and who loses the connection before the first event knows where it
            // was.
            self.begun = true;
            return Some(format!("retry: {RETRY}\nid: {}\n\n", self.at.0).into());
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
            } else if self.at < self.following.since {
                self.catch_up().await?;
            } else {
                let next = tokio::select! {
                    () = self.caller.in_question(&self.api) => continue,
                    next = timeout(HEARTBEAT, self.following.next()) => next,
                };
                match next {
                    // No event, but the place up to which there was none. It moves on, so that a reader of what is
                    // rare does not come back for what is no longer kept.
                    Err(_) => return Some(format!(":\nid: {}\n\n", self.at.0).into()),
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
            let told = Told::from(entry);
            if self.interest.cares(&told) {
                self.ready.push_back(Arc::new(told));
            }
        }
        Some(())
    }

    /// What the caller is told of a change, by what it may see now; `None`: nothing.
    fn event(&self, told: &Told) -> Option<Bytes> {
        let reader = self.caller.projection_of(&told.key, auth::Operation::Subscribe)?;
        if !self.interest.cares_as(told, &reader) {
            return None;
        }
        Some(told.rendered(&reader, |told| {
            let data = wire::change_entry(&told.entry(), &reader);
            let mut event = format!("id: {}\nevent: change\ndata: ", told.seq.0).into_bytes();
            // JSON has no line ends but escaped ones.
            event.extend_from_slice(&data);
            event.extend_from_slice(b"\n\n");
            event.into()
        }))
    }
}

fn interest(uri: &Uri) -> Result<Interest, BadParameter> {
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
    Ok(Interest {
        device: device.map_err(|error| bad(DEVICE.name, error.to_string()))?,
        name,
        paths: paths.collect::<Result<_, _>>()?,
    })
}

/// The last event that the reader had. One it was never sent one has none: browsers leave the header out then.
fn last_event(headers: &HeaderMap) -> Result<Option<Seq>, BadParameter> {
    let Some(value) = headers.get(LAST_EVENT_ID.name) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seq = text.parse().ok().filter(|_| digits).map(Seq);
    seq.map(Some).ok_or_else(|| bad(LAST_EVENT_ID.name, "must be the id of an event"))
}
