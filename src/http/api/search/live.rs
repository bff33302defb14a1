//! `GET /v1/search/live`: the devices for which a query is true, and which of them enter and leave, as server-sent events.
//!
//! A stream keeps the set of its devices. It follows the change feed and the changes of presence from before a scan of all
//! devices, so the scan and the changes after it miss nothing. A change that may matter to the query costs one evaluation
//! of its device, in the newest state and with the present rights; several changes of a device that wait cost one. When its
//! rights change, or it was too slow for the feed, the stream scans all devices again and sends the difference.
//!
//! The `id` of an event names the set after it ([`members`]). A client that comes back with the id of the present set has
//! missed nothing, whatever happened meanwhile; any other receives the complete set again.
//!
//! *Not here:* predicates that become true by time alone. Such a query is refused.

mod members;

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

use self::members::{Members, is_id};
use super::{too_long, unread};
use crate::{
    admission::{Charge, work},
    auth::{self, Access, DeviceRange},
    engine::changes::{FeedFilter, FollowHandle, Next, QueueContent},
    fleet::{Device, Query as DeviceQuery},
    http::{
        api::{
            Api, StreamPermit,
            problem::Problem,
            query::{BadParameter, Query, bad},
            scan::{DeviceScan, DeviceVisitor, ScanEnd, ScanFailure, WHOLE_TIME, scan},
            visible::is_match,
        },
        auth::caller::Caller,
        operation::{LIVE_EVENT_ID, Operation, SEARCH},
        sse::{self, HEARTBEAT},
    },
    shadow::{DeviceId, Rejection, ShadowName, Timestamp},
};

/// Most devices of a live query.
const MEMBERS_MAX: usize = 10_000;
/// Most devices in one event.
const EVENT_DEVICES_MAX: usize = 500;
/// Most changes of shadows, and of presence, that are taken at once.
const BATCH: usize = 200;
/// Most shadows that may change while a stream reads devices or rests; after more, it reads all devices again.
const CHANGED_MAX: usize = 10_000;
/// Most ranges of devices by which the changes for a stream are selected.
const RANGES_MAX: usize = 256;

/// The state of a stream.
struct LiveStream {
    api: Arc<Api>,
    caller: Caller,
    query: Arc<DeviceQuery>,
    members: Members,
    charge: Charge,
    source: Source,
    /// Devices that changed and were not evaluated yet.
    changed: BTreeSet<DeviceId>,
    /// The time before which nothing is evaluated, since the caller is above its rate of work.
    throttled_until: Instant,
    /// True if changes were missed.
    is_cut: bool,
    /// Events that were not sent yet.
    ready: VecDeque<Bytes>,
    is_over: bool,
    heartbeat_at: Instant,
    _permit: StreamPermit,
}

/// The source of changes for a caller with some rights.
struct Source {
    rights: Access,
    /// The ranges of the devices that it may see; `None` for all.
    visible: Option<Vec<DeviceRange>>,
    following: FollowHandle,
    /// Wakes at a change of presence, if the query is about it.
    presence: Option<watch::Receiver<u64>>,
    /// The number of the last change of presence that was taken.
    presence_taken: u64,
}

/// The reason for which a live query ends.
enum LiveFailure {
    Scan(ScanFailure),
    Memory(Rejection),
    TooLong,
    TooMany,
}

/// The devices for which a query is true.
struct LiveVisitor {
    api: Arc<Api>,
    query: Arc<DeviceQuery>,
    now: Timestamp,
    members: Members,
    charge: Charge,
    refused: Option<Rejection>,
}

/// `GET /v1/search/live`
pub(in crate::http) async fn follow(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let query = Arc::new(parse(&uri).map_err(invalid)?);
    let last = last_event(&headers).map_err(invalid)?;
    let permit = api.stream_permit(&mut caller)?;
    let source = Source::new(&api, &caller, &query);
    // Before the response begins, so that a failure has a status.
    let first = all_members(&api, &mut caller, &query).await;
    let (members, charge) = first.map_err(|failure| match failure {
        LiveFailure::Scan(failure) => unread(&failure, &headers, &api),
        LiveFailure::Memory(rejection) => Problem::general(&rejection, api.now()),
        LiveFailure::TooLong => too_long("follow fewer devices", &api),
        LiveFailure::TooMany => Problem::new(StatusCode::BAD_REQUEST, TOO_MANY, &too_many(), api.now()),
    })?;
    let mut live = LiveStream {
        api,
        caller,
        query,
        members,
        charge,
        source,
        changed: BTreeSet::new(),
        throttled_until: Instant::now(),
        is_cut: false,
        ready: VecDeque::new(),
        is_over: false,
        heartbeat_at: Instant::now() + HEARTBEAT,
        _permit: permit,
    };
    live.begin(last.as_deref());
    Ok(sse::response(futures_util::stream::unfold(live, |mut live| async move {
        let bytes = live.next().await?;
        live.heartbeat_at = Instant::now() + HEARTBEAT;
        Some((bytes, live))
    })))
}

const TOO_MANY: &str = "too-many-matches";

fn too_many() -> String {
    format!("The query is true for more than {MEMBERS_MAX} devices; follow fewer")
}

/// Returns all devices that the caller may see and for which the query is true, and the charge for their memory.
async fn all_members(
    api: &Arc<Api>,
    caller: &mut Caller,
    query: &Arc<DeviceQuery>,
) -> Result<(Members, Charge), LiveFailure> {
    let visitor = LiveVisitor::new(api, caller, query);
    let all = DeviceScan { query: Some(query), devices: None, after: None, until: Instant::now() + WHOLE_TIME };
    let scanned = scan(api, caller, all, visitor).await.map_err(LiveFailure::Scan)?;
    match (scanned.visitor, scanned.end) {
        (LiveVisitor { refused: Some(rejection), .. }, _) => Err(LiveFailure::Memory(rejection)),
        (LiveVisitor { members, .. }, _) if members.len() > MEMBERS_MAX => Err(LiveFailure::TooMany),
        (_, ScanEnd::TimeOver) => Err(LiveFailure::TooLong),
        (LiveVisitor { members, charge, .. }, _) => Ok((members, charge)),
    }
}

impl Source {
    /// Subscribes to the changes of the devices that `caller` may see now.
    fn new(api: &Api, caller: &Caller, query: &DeviceQuery) -> Self {
        let visible = caller.access().devices(auth::Operation::Get, RANGES_MAX);
        let content = QueueContent::Shadows { max: CHANGED_MAX };
        let presence = query.reads_presence().then(|| api.presence.changes());
        Self {
            rights: caller.access().clone(),
            following: api.changes.follow(FeedFilter::default(), visible.clone(), content),
            visible,
            presence,
            presence_taken: api.presence.newest_change(),
        }
    }

    /// Waits for a change of presence after those that were taken.
    async fn presence_changed(presence: &mut Option<watch::Receiver<u64>>, taken: u64) {
        let waiting = match presence {
            Some(presence) => presence.wait_for(|newest| *newest > taken).await.is_ok(),
            None => false,
        };
        if !waiting {
            std::future::pending::<()>().await;
        }
    }

    fn may_see(&self, device: &DeviceId) -> bool {
        self.visible.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.has(device)))
    }
}

impl LiveStream {
    /// Queues the complete set, unless the client has it already.
    fn begin(&mut self, last: Option<&str>) {
        let id = self.members.id();
        self.ready.push_back(sse::retry());
        if last != Some(&*id) {
            let mut sent = Members::default();
            self.ready.push_back(event("start", &sent.id(), &json!({})));
            let devices: Vec<DeviceId> = self.members.iter().cloned().collect();
            self.ready.extend(changes("enter", &devices, &mut sent));
        }
        self.ready.push_back(event("complete", &id, &json!({ "count": self.members.len() })));
    }

    /// Returns the next bytes to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Since the last event, rights may have been reloaded or a token may have expired.
            if !self.caller.renew(&self.api) {
                return None;
            }
            let has_same_rights = self.caller.access().is_same(&self.source.rights);
            match self.ready.pop_front() {
                // The client comes back, and receives the set of its present rights.
                Some(_) if !has_same_rights => return None,
                Some(bytes) => return Some(bytes),
                None if self.is_over => return None,
                None => {}
            }
            if Instant::now() >= self.heartbeat_at {
                return Some(sse::heartbeat());
            }
            let worked = match Instant::now() < self.throttled_until {
                true => {
                    self.rest().await;
                    Ok(())
                }
                false if self.is_cut || !has_same_rights => self.refresh().await,
                false if !self.changed.is_empty() => self.evaluate().await,
                false => self.wait().await?,
            };
            match worked {
                Ok(()) => {}
                // The client comes back, and is answered by a status.
                Err(LiveFailure::Scan(_)) => return None,
                Err(failure) => self.end(&failure),
            }
        }
    }

    /// Waits while the caller is above its rate of work.
    async fn rest(&self) {
        tokio::select! {
            () = self.caller.rights_may_change(&self.api) => {}
            () = sleep_until(self.throttled_until.min(self.heartbeat_at).into()) => {}
        }
    }

    /// Waits for changes and takes those that are there. Returns `None` at the end of the stream.
    async fn wait(&mut self) -> Option<Result<(), LiveFailure>> {
        let Source { following, presence, presence_taken, .. } = &mut self.source;
        let first = tokio::select! {
            () = self.caller.rights_may_change(&self.api) => return Some(Ok(())),
            () = Source::presence_changed(presence, *presence_taken) => None,
            next = timeout_at(self.heartbeat_at.into(), following.next()) => match next {
                Err(_) => return Some(Ok(())),
                Ok(next) => Some(next),
            },
        };
        let (mut next, mut count) = (first, 0);
        while let Some(taken) = next {
            count += 1;
            match taken {
                Next::Shadow(key, concerns_existence) => {
                    if concerns_existence || self.query.depends_on(key.name.as_ref()) {
                        self.changed.insert(key.device);
                    }
                }
                Next::Change(_) | Next::Newest(_) => {} // only for others
                Next::Cut => self.is_cut = true,
                Next::Closed => return None,
            }
            let may_take = count < BATCH && !self.is_cut;
            next = if may_take { self.source.following.next().now_or_never() } else { None };
        }
        if self.source.presence.is_some() {
            self.take_presence();
        }
        Some(Ok(()))
    }

    /// Takes the next changes of presence. Each is charged, also one of a device that the caller may not see.
    fn take_presence(&mut self) {
        let taken = self.api.presence.changed_after(self.source.presence_taken, BATCH);
        let work = work::times(taken.len(), work::DELIVERY);
        let now = Instant::now();
        self.throttled_until = now + self.caller.quota(&self.api).charge_work(work, now).unwrap_or_default();
        for (number, device) in taken {
            self.source.presence_taken = number;
            if self.source.may_see(&device) {
                self.changed.insert(device);
            }
        }
    }

    /// Evaluates the query for the devices that changed.
    async fn evaluate(&mut self) -> Result<(), LiveFailure> {
        let changed = mem::take(&mut self.changed);
        let visitor = LiveVisitor::new(&self.api, &self.caller, &self.query);
        let ranges = changed.iter().cloned().map(DeviceRange::One).collect();
        let until = Instant::now() + WHOLE_TIME;
        let of_changed = DeviceScan { query: Some(&self.query), devices: Some(ranges), after: None, until };
        let scanned = scan(&self.api, &mut self.caller, of_changed, visitor).await.map_err(LiveFailure::Scan)?;
        self.throttled_until = Instant::now() + scanned.wait;
        if let Some(rejection) = scanned.visitor.refused {
            return Err(LiveFailure::Memory(rejection));
        }
        if scanned.end == ScanEnd::TimeOver {
            self.is_cut = true;
            return Ok(());
        }
        let found = scanned.visitor.members;
        let (entered, left): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .filter(|device| found.has(device) != self.members.has(device))
            .partition(|device| found.has(device));
        self.apply(&entered, &left)
    }

    /// Reads all devices again, and sends the difference.
    async fn refresh(&mut self) -> Result<(), LiveFailure> {
        self.source = Source::new(&self.api, &self.caller, &self.query);
        (self.is_cut, self.changed) = (false, BTreeSet::new());
        let (members, _charge) = all_members(&self.api, &mut self.caller, &self.query).await?;
        let difference = self.members.difference(&members);
        self.apply(&difference.entered, &difference.left)
    }

    /// Changes the set and queues the events.
    fn apply(&mut self, entered: &[DeviceId], left: &[DeviceId]) -> Result<(), LiveFailure> {
        self.ready.extend(changes("leave", left, &mut self.members));
        self.ready.extend(changes("enter", entered, &mut self.members));
        if self.members.len() > MEMBERS_MAX {
            return Err(LiveFailure::TooMany);
        }
        let memory = self.members.memory();
        self.api.service.quotas().grow(&mut self.charge, memory).map_err(LiveFailure::Memory)
    }

    /// Queues the last event: the reason of the end.
    fn end(&mut self, failure: &LiveFailure) {
        let (error, message) = match failure {
            LiveFailure::TooMany => (TOO_MANY, too_many()),
            LiveFailure::Memory(rejection) => (rejection.error(), "The memory of the principal is used up".to_owned()),
            LiveFailure::TooLong | LiveFailure::Scan(_) => {
                ("search-too-long", format!("The devices were not read within {} s", WHOLE_TIME.as_secs()))
            }
        };
        self.is_over = true;
        self.ready.push_back(event("end", &self.members.id(), &json!({ "error": error, "message": message })));
    }
}

impl LiveVisitor {
    fn new(api: &Arc<Api>, caller: &Caller, query: &Arc<DeviceQuery>) -> Self {
        Self {
            api: api.clone(),
            query: query.clone(),
            now: api.now(),
            members: Members::default(),
            charge: Charge::new(caller.quota(api), 0),
            refused: None,
        }
    }
}

impl DeviceVisitor for LiveVisitor {
    fn reads_shadow(&self, name: Option<&ShadowName>) -> bool {
        self.query.reads_shadow(name)
    }

    fn visit(&mut self, reader: &Caller, mut device: Device) {
        if is_match(&self.query, &mut device, reader, &self.api, self.now) {
            self.members.add(device.id);
            self.refused = self.api.service.quotas().grow(&mut self.charge, self.members.memory()).err();
        }
    }

    fn has_enough(&self) -> bool {
        self.refused.is_some() || self.members.len() > MEMBERS_MAX
    }
}

/// Adds or removes `devices`, and returns the events that say so.
fn changes(name: &str, devices: &[DeviceId], members: &mut Members) -> Vec<Bytes> {
    let event_of = |part: &[DeviceId]| {
        for device in part {
            match name {
                "enter" => members.add(device.clone()),
                _ => members.remove(device),
            }
        }
        let ids: Vec<&str> = part.iter().map(DeviceId::as_str).collect();
        event(name, &members.id(), &json!({ "devices": ids, "count": members.len() }))
    };
    devices.chunks(EVENT_DEVICES_MAX).map(event_of).collect()
}

fn event(name: &str, id: &str, data: &Value) -> Bytes {
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into()
}

/// Parses the query, which must not depend on the time.
fn parse(uri: &Uri) -> Result<DeviceQuery, BadParameter> {
    let query = Query::read(uri.query(), Operation::FollowSearch.parameters())?;
    let text = query.text(&SEARCH)?.unwrap_or("*".into());
    let parsed = text.parse::<DeviceQuery>().map_err(|error| bad(SEARCH.name, error.to_string()))?;
    match parsed.changes_by_time() {
        Some(field) => {
            let reason = format!("'{field}' changes with time, which a live query does not follow; use GET /v1/search");
            Err(bad(SEARCH.name, reason))
        }
        None => Ok(parsed),
    }
}

/// Returns the client's last event. Browsers omit the header if they have none.
fn last_event(headers: &HeaderMap) -> Result<Option<String>, BadParameter> {
    let Some(value) = headers.get(LIVE_EVENT_ID.name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| is_id(text)).map(str::to_owned);
    text.map(Some).ok_or_else(|| bad(LIVE_EVENT_ID.name, "must be the id of an event"))
}
