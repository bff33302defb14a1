//! Server-sent events: a stream of the changes that the caller may see, resumable after any event.
//!
//! The `id` of an event is its journal position and the lineage of the entry there ([`EventId`]), in a form that clients cannot mistake
//! for a number. An id of a history that the store does not have, since it was restored, is gone.
//! Heartbeats advance it to the head of the journal even if the filter passes no changes. Otherwise a client with rare
//! changes could only resume from entries that retention has removed. A stream first reads the journal after the
//! client's last event, then continues with the change feed. A client that reads too slowly is disconnected. It
//! reconnects with its last event, and reads the rest from the journal. A stream of few devices reads only their entries
//! ([`Backlog`]), not those of the whole fleet.

use std::{
    collections::VecDeque,
    fmt,
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
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{sleep_until, timeout_at};

use crate::{
    admission::{Charge, work},
    auth::{self, Access},
    engine::{
        ENTRIES_PER_LOOKUP,
        changes::{ChangeEvent, FeedFilter, FollowHandle, Next, QueueContent},
    },
    http::{
        api::{query::Query, replicated::reach_log_end},
        auth::caller::Caller,
        operation::{DEVICE, LAST_EVENT_ID, Operation, PATH, SHADOW_NAME},
        parameter::{BadParameter, bad},
        problem::{Problem, status},
        state::Api,
    },
    search::StreamPermit,
    shadow::{DeviceId, Rejection, ShadowName},
    store::{DeviceChanges, JournalEntry, JournalPage, Lineage, Seq},
    wire,
};

/// Time without an event after which a comment is sent, with the current position as `id`.
pub(in crate::http) const HEARTBEAT: Duration = Duration::from_secs(15);

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
    /// The memory of those that were read from the journal for this stream alone.
    held: Charge,
    /// The journal position up to which changes were read.
    position: Seq,
    backlog: Option<Backlog>,
    begun: bool,
    /// The time of the next heartbeat.
    heartbeat_at: Instant,
    /// The time at which the caller is within its rate of work again.
    throttled_until: Instant,
    _permit: StreamPermit,
}

/// The opaque id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EventId {
    seq: Seq,
    /// `None` for an event of a program that knew no lineages.
    lineage: Option<Lineage>,
}

/// The positions of all changes of a few devices in a part of the journal, which need no other entry to be read.
struct Backlog {
    /// The changes that were not read yet.
    positions: VecDeque<Seq>,
    /// The end of that part.
    through: Seq,
}

/// `GET /v1/events`
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let filter = parse_filter(&uri).map_err(|bad| api.invalid(&bad))?;
    let last = last_event(&headers).map_err(|bad| api.invalid(&bad))?;
    let permit = caller.stream_permit(&api)?;
    let last = match last {
        None => None,
        Some(last) => Some(reach(&api, last).await?),
    };
    let following = subscribe(&api, &caller, &filter);
    let rights = caller.access().clone();
    // Checked before the response begins, so that a failure has a status.
    let (position, backlog) = match last {
        None => (following.since, None),
        Some(last) => (last, begin(&api, &caller, &filter, last, following.since).await?),
    };
    let now = Instant::now();
    let (heartbeat_at, throttled_until) = (now + HEARTBEAT, now);
    let (ready, held) = (VecDeque::new(), Charge::new(caller.quota(&api), 0));
    let events = EventStream {
        api,
        caller,
        rights,
        filter,
        following,
        ready,
        held,
        position,
        backlog,
        begun: false,
        heartbeat_at,
        throttled_until,
        _permit: permit,
    };
    let body = stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        events.heartbeat_at = Instant::now() + HEARTBEAT;
        Some((bytes, events))
    });
    Ok(response(body))
}

/// Returns the response with a stream of blocks.
pub(in crate::http) fn response(blocks: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Makes nginx forward each event at once.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    let blocks = blocks.map(Ok::<_, std::convert::Infallible>);
    (headers, Body::from_stream(blocks)).into_response()
}

/// Returns the block with the time before a disconnected client reconnects.
pub(in crate::http) fn retry() -> Bytes {
    format!("retry: {RETRY}\n\n").into()
}

/// Returns a block that only shows that the stream is alive; `None` at a node that has left its cluster.
pub(in crate::http) fn heartbeat(api: &Api) -> Option<Bytes> {
    (!api.service.has_left()).then_some(Bytes::from_static(b":\n\n"))
}

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Subscribes to the changes of the devices that `caller` may see.
fn subscribe(api: &Api, caller: &Caller, filter: &FeedFilter) -> FollowHandle {
    let visible = caller.access().devices(auth::Operation::Subscribe, DEVICES_MAX);
    api.changes.follow(filter.clone(), visible, QueueContent::All { bytes_max: api.event_bytes_max })
}

/// Waits until this node has the event `last`, which another node of the cluster may have sent that has applied more. Returns its
/// position.
async fn reach(api: &Api, last: EventId) -> Result<Seq, Problem> {
    let EventId { seq, lineage } = last;
    if seq > api.service.head() {
        reach_log_end("the event Last-Event-ID is not at this node yet", api).await?;
    }
    if seq > api.service.head() {
        return Err(gone("There is no event Last-Event-ID", api));
    }
    match api.service.has_lineage_at(seq, lineage) {
        true => Ok(seq),
        false => Err(gone("Another event has the position of Last-Event-ID since the store was restored", api)),
    }
}

fn gone(why: &str, api: &Api) -> Problem {
    Problem::new(StatusCode::GONE, "gone", &format!("{why}; read the documents again"), api.now())
}

/// Returns the backlog of a client with the last event `last`, if it follows few devices and the journal has many entries
/// up to `through`, or has lost some. Returns `None` if the client can read the journal from `last`.
async fn begin(
    api: &Api,
    caller: &Caller,
    filter: &FeedFilter,
    last: Seq,
    through: Seq,
) -> Result<Option<Backlog>, Problem> {
    let is_gone = journal(api, last, 1).await?.gone;
    let devices = few_devices(caller, filter).filter(|devices| {
        let lookups = devices.len() as u64 * ENTRIES_PER_LOOKUP;
        is_gone || through.0.saturating_sub(last.0) > lookups.max(BATCH as u64)
    });
    if let Some(devices) = devices {
        let permit = caller.read_turn(api).await;
        let found = api.service.positions_of(devices, filter.name.clone(), last, permit).await;
        let DeviceChanges { positions, read } = found.map_err(|error| failed(&error, api))?;
        let work = work::times(read, work::SCANNED_SHADOW);
        let _delays_the_next = caller.quota(api).charge_work(work, Instant::now());
        if let Some(positions) = positions {
            let positions = positions.into_iter().take_while(|position| *position <= through).collect();
            // Events that the client has from a node that was ahead are not sent again.
            return Ok(Some(Backlog { positions, through: through.max(last) }));
        }
    }
    if is_gone {
        return Err(gone("The journal no longer has the events after Last-Event-ID", api));
    }
    Ok(None)
}

/// Returns the devices whose changes `caller` may receive, if they are few.
fn few_devices(caller: &Caller, filter: &FeedFilter) -> Option<Vec<DeviceId>> {
    if let Some(device) = &filter.device {
        return Some(vec![device.clone()]);
    }
    let visible = caller.access().devices(auth::Operation::Subscribe, DEVICES_MAX)?;
    visible.iter().map(|range| range.device().cloned()).collect()
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
            return Some(format!("retry: {RETRY}\nid: {}\n\n", self.id_at(self.position)).into());
        }
        loop {
            // Since the last event, rights may have been reloaded or a token may have expired.
            if !self.caller.renew(&self.api) {
                return None;
            }
            self.follow_visible();
            if let Some(change) = self.ready.pop_front() {
                let held = self.held.bytes().saturating_sub(change.bytes());
                // The account counts in steps.
                self.held.resize(if self.ready.is_empty() { 0 } else { held });
                let event = self.event(&change);
                self.charge(work::DELIVERY + event.as_ref().map_or(0, |event| work::rendered(event.len() as u64)));
                if event.is_some() {
                    return event;
                }
            } else if Instant::now() >= self.heartbeat_at {
                return self.heartbeat();
            } else if Instant::now() < self.throttled_until {
                self.rest().await;
            } else if self.backlog.is_some() {
                self.read_backlog().await?;
            } else if self.position < self.following.since {
                self.read_journal().await?;
            } else {
                // Filtered changes do not delay the heartbeat.
                let next = tokio::select! {
                    () = self.caller.rights_may_change(&self.api) => continue,
                    next = timeout_at(self.heartbeat_at.into(), self.following.next()) => next,
                };
                match next {
                    Err(_) => return self.heartbeat(),
                    Ok(Next::Change(change)) => {
                        let is_new = change.seq > self.position;
                        self.position = self.position.max(change.seq);
                        match is_new && self.filter.selects(&change) {
                            true => self.ready.push_back(change),
                            // It has woken this stream.
                            false => self.charge(work::DELIVERY),
                        }
                    }
                    Ok(Next::Newest(_) | Next::Shadow(..)) => {} // only for others
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

    /// Returns a block without an event, whose `id` is the position up to which the client has all events. `None` at a node that has left
    /// its cluster: the client comes back, and may reach another one.
    fn heartbeat(&mut self) -> Option<Bytes> {
        self.advance();
        (!self.api.service.has_left()).then(|| format!(":\nid: {}\n\n", self.id_at(self.position)).into())
    }

    /// Returns the id of the event at `seq`.
    fn id_at(&self, seq: Seq) -> EventId {
        EventId { seq, lineage: self.api.service.lineage_at(seq) }
    }

    /// Charges work to the caller, also for changes that it may not see. The next ones wait while it is above its rate.
    fn charge(&mut self, units: u64) {
        let now = Instant::now();
        let wait = self.caller.quota(&self.api).charge_work(units, now).unwrap_or_default();
        self.throttled_until = now + wait;
    }

    /// Waits while the caller is above its rate of work.
    async fn rest(&self) {
        tokio::select! {
            () = self.caller.rights_may_change(&self.api) => {}
            () = sleep_until(self.throttled_until.min(self.heartbeat_at).into()) => {}
        }
    }

    /// Reads the next journal entries, up to the beginning of the feed. Returns `None` if the stream must end.
    async fn read_journal(&mut self) -> Option<()> {
        let _permit = self.caller.read_turn(&self.api).await;
        let page = journal(&self.api, self.position, BATCH).await.ok()?;
        // Retention has overtaken the client. It reconnects and receives 410.
        if page.gone || page.entries.is_empty() {
            return None;
        }
        self.charge(work::PAGE + read_work(&page.entries));
        let begin = self.position;
        for entry in page.entries {
            if entry.seq > self.following.since {
                break;
            }
            let seq = entry.seq;
            if !self.hold(ChangeEvent::from(entry)) {
                break;
            }
            self.position = seq;
        }
        // Without memory for one change, the stream ends. The client comes back as if its connection had failed.
        (self.position > begin).then_some(())
    }

    /// Keeps a change that was read from the journal, if the stream selects it. Returns false if the caller has no memory for it.
    fn hold(&mut self, change: ChangeEvent) -> bool {
        if !self.filter.selects(&change) {
            return true;
        }
        let bytes = self.held.bytes() + change.bytes();
        let has_memory = self.api.service.quotas().grow(&mut self.held, bytes).is_ok();
        if has_memory {
            self.ready.push_back(Arc::new(change));
        }
        has_memory
    }

    /// Reads the next changes of the backlog. Returns `None` if the stream must end.
    async fn read_backlog(&mut self) -> Option<()> {
        let page: Vec<_> = self.backlog.as_ref()?.positions.iter().take(BATCH).copied().collect();
        let _permit = self.caller.read_turn(&self.api).await;
        // As in `read_journal`.
        let entries = self.api.service.entries_at(page).await.ok()??;
        self.charge(work::PAGE + read_work(&entries));
        let mut read = 0;
        for entry in entries {
            let seq = entry.seq;
            if !self.hold(ChangeEvent::from(entry)) {
                break;
            }
            (self.position, read) = (seq, read + 1);
        }
        let backlog = self.backlog.as_mut()?;
        backlog.positions.drain(..read);
        if backlog.positions.is_empty() {
            self.position = backlog.through;
            self.backlog = None;
        }
        (read > 0 || self.backlog.is_none()).then_some(())
    }

    /// Returns the event for a change, as far as the caller may see it now; `None` if it may see nothing of it.
    fn event(&self, change: &ChangeEvent) -> Option<Bytes> {
        let projection = self.caller.projection_of(&change.key, auth::Operation::Subscribe)?;
        if !self.filter.selects_for(change, &projection) {
            return None;
        }
        Some(change.rendered(&projection, |change| {
            let data = wire::change_entry(&change.entry(), &projection);
            let mut event = format!("id: {}\nevent: change\ndata: ", self.id_at(change.seq)).into_bytes();
            // Line ends are escaped in JSON.
            event.extend_from_slice(&data);
            event.extend_from_slice(b"\n\n");
            event.into()
        }))
    }
}

/// Returns the work of reading `entries` beyond that of a page.
fn read_work(entries: &[JournalEntry]) -> u64 {
    work::journal_read(entries.iter().map(|entry| entry.bytes).sum())
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

impl EventId {
    const PREFIX: char = 'j';

    /// Parses an id, or a plain number as older servers sent. Returns `None` for any other text.
    fn parse(text: &str) -> Option<Self> {
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
        let Some(id) = text.strip_prefix(Self::PREFIX) else {
            let seq = text.parse().ok().filter(|_| !text.starts_with('+')).map(Seq)?;
            return Some(Self { seq, lineage: None });
        };
        match id.split_once('-') {
            None => Some(Self { seq: Seq(hex(id)?), lineage: None }),
            Some((seq, lineage)) => {
                let number = hex(lineage).filter(|_| lineage.len() == 8)?;
                Some(Self { seq: Seq(hex(seq)?), lineage: Some(Lineage(u32::try_from(number).ok()?)) })
            }
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:x}", Self::PREFIX, self.seq.0)?;
        self.lineage.map_or(Ok(()), |lineage| write!(f, "-{:08x}", lineage.0))
    }
}

/// Returns the client's last event. Browsers omit the header if they have none.
fn last_event(headers: &HeaderMap) -> Result<Option<EventId>, BadParameter> {
    let Some(value) = headers.get(LAST_EVENT_ID.name) else { return Ok(None) };
    let id = EventId::parse(value.to_str().unwrap_or_default());
    id.map(Some).ok_or_else(|| bad(LAST_EVENT_ID.name, "must be the id of an event"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_round_trip_and_are_not_numbers() {
        for seq in [0, 1, 9, 10, 0xe5, 4096, u64::MAX].map(Seq) {
            for lineage in [None, Some(Lineage(0)), Some(Lineage(0xe5)), Some(Lineage(u32::MAX))] {
                let (id, text) = (EventId { seq, lineage }, EventId { seq, lineage }.to_string());
                assert_eq!(EventId::parse(&text), Some(id), "{text}");
                assert!(text.parse::<f64>().is_err(), "{text}");
            }
            let former = Some(EventId { seq, lineage: None });
            assert_eq!(EventId::parse(&seq.to_string()), former, "as older servers sent it");
        }
        for unknown in ["j", "+1", "j+1", "jg", "-1", "1.5", "x1", "99999999999999999999", "j11111111111111111"] {
            assert_eq!(EventId::parse(unknown), None, "{unknown}");
        }
        for unknown in
            ["j1-", "j-00000001", "j1-1", "j1-000000001", "j1-+0000001", "j1-0000000g", "1-00000001", "j1-00000001-"]
        {
            assert_eq!(EventId::parse(unknown), None, "{unknown}");
        }
    }
}
