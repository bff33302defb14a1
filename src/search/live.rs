//! Live queries: the devices for which a query is true, and which of them enter and leave.
//!
//! A live query keeps the set of its devices. It follows the change feed and the changes of presence from before a scan of all
//! devices, so the scan and the changes after it miss nothing. A change that may matter to the query costs one evaluation
//! of its device, in the newest state and with the present rights; several changes of a device that wait cost one. When its
//! rights change, or it was too slow for the feed, it scans all devices again and the difference is its next events.
//!
//! Nothing is read ahead: as long as nobody asks for the next event, only the set of changed shadows grows, up to a limit.
//!
//! The id of an event names the set after it ([`members`]). A client that comes back with the id of the present set has
//! missed nothing, whatever happened meanwhile; any other receives the complete set again.
//!
//! *Not here:* predicates that become true by time alone. [`parse`] refuses such a query.

pub(crate) mod members;

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use futures_util::FutureExt;
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

use self::members::Members;
use crate::{
    admission::{Charge, PrincipalQuota, work},
    auth::{self, Access, DeviceRange},
    engine::changes::{FeedFilter, FollowHandle, Next, QueueContent},
    fleet::{Device, Needs, Query},
    search::{
        FleetSearch, Reader,
        scan::{DeviceScan, DeviceVisitor, ScanEnd, ScanFailure, WHOLE_TIME, scan},
        visible::is_match,
    },
    shadow::{DeviceId, Rejection, Timestamp},
};

/// Most devices of a live query.
const MEMBERS_MAX: usize = 10_000;
/// Most devices in one event.
const EVENT_DEVICES_MAX: usize = 500;
/// Most changes of shadows, and of presence, that are taken at once.
const BATCH: usize = 200;
/// Most shadows that may change while a live query reads devices or rests; after more, it reads all devices again.
const CHANGED_MAX: usize = 2_000;
/// The memory of as many keys, of the longest names, which every live query is charged.
const CHANGED_BYTES: usize = CHANGED_MAX * 192;
/// Most ranges of devices by which the changes for a live query are selected.
const RANGES_MAX: usize = 256;

/// A live query of one reader.
pub(crate) struct LiveQuery<R> {
    search: Arc<FleetSearch>,
    reader: R,
    query: Arc<Query>,
    members: Members,
    charge: Charge,
    source: Source,
    /// Devices that changed and were not evaluated yet.
    changed: BTreeSet<DeviceId>,
    /// The time before which nothing is evaluated, since the reader is above its rate of work.
    throttled_until: Instant,
    /// True if changes were missed.
    is_cut: bool,
    /// Events that were not taken yet.
    ready: VecDeque<LiveEvent>,
    is_over: bool,
}

/// An event of a live query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveEvent {
    /// The content.
    pub(crate) change: LiveChange,
    /// The id of the set after it.
    pub(crate) id: String,
    /// The number of devices in this set.
    pub(crate) count: usize,
}

/// The content of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LiveChange {
    /// The complete set follows.
    Start,
    /// These devices enter.
    Enter(Vec<DeviceId>),
    /// These devices leave.
    Leave(Vec<DeviceId>),
    /// The set is complete.
    Complete,
    /// The live query ends.
    End {
        /// The name of the reason.
        error: &'static str,
        /// The reason.
        message: String,
    },
}

/// The next thing of a live query.
#[derive(Debug)]
pub(crate) enum LiveNext {
    /// An event. `is_last` is true if none follows it for now, so the set after it is the present one.
    Event {
        /// The event.
        event: LiveEvent,
        /// True if no other follows for now.
        is_last: bool,
    },
    /// The time was over first.
    TimeOver,
    /// It cannot go on: the reader has no rights any more or other ones, the shadows cannot be read, or the server ends. A reader
    /// that begins it again learns the reason, if it is still there.
    Broken,
}

/// The source of changes for a reader with some rights.
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
#[derive(Debug)]
pub(crate) enum LiveFailure {
    /// The shadows cannot be read.
    Scan(ScanFailure),
    /// The memory of the reader is used up.
    Memory(Rejection),
    /// The scan took too long.
    TooLong,
    /// The query is true for too many devices.
    TooMany,
}

/// The devices for which a query is true.
struct LiveVisitor {
    search: Arc<FleetSearch>,
    query: Arc<Query>,
    now: Timestamp,
    members: Members,
    charge: Charge,
    refused: Option<Rejection>,
}

/// Parses a query, which must not depend on the time.
///
/// # Errors
///
/// The reason, which names the column or the field.
pub(crate) fn parse(text: &str) -> Result<Query, String> {
    let parsed = text.parse::<Query>().map_err(|error| error.to_string())?;
    match parsed.changes_by_time() {
        Some(field) => {
            Err(format!("'{field}' changes with time, which a live query does not follow; use GET /v1/search"))
        }
        None => Ok(parsed),
    }
}

impl LiveFailure {
    /// Returns the name of the reason and the reason.
    pub(crate) fn reason(&self) -> (&'static str, String) {
        match self {
            Self::TooMany => {
                ("too-many-matches", format!("The query is true for more than {MEMBERS_MAX} devices; follow fewer"))
            }
            Self::Memory(rejection) => (rejection.error(), "The memory of the principal is used up".to_owned()),
            Self::TooLong | Self::Scan(_) => {
                ("search-too-long", format!("The devices were not read within {} s", WHOLE_TIME.as_secs()))
            }
        }
    }
}

impl LiveEvent {
    /// Returns the name.
    pub(crate) fn name(&self) -> &'static str {
        match self.change {
            LiveChange::Start => "start",
            LiveChange::Enter(_) => "enter",
            LiveChange::Leave(_) => "leave",
            LiveChange::Complete => "complete",
            LiveChange::End { .. } => "end",
        }
    }

    /// Returns the content in JSON.
    pub(crate) fn data(&self) -> Map<String, Value> {
        let data = match &self.change {
            LiveChange::Start => json!({}),
            LiveChange::Enter(devices) | LiveChange::Leave(devices) => {
                let ids: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
                json!({ "devices": ids, "count": self.count })
            }
            LiveChange::Complete => json!({ "count": self.count }),
            LiveChange::End { error, message } => json!({ "error": error, "message": message }),
        };
        match data {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

/// Returns all devices that the reader may see and for which the query is true, and the charge for their memory.
async fn all_members(
    search: &Arc<FleetSearch>,
    reader: &mut impl Reader,
    query: &Arc<Query>,
) -> Result<(Members, Charge), LiveFailure> {
    let visitor = LiveVisitor::new(search, reader.access(), query);
    let all = DeviceScan { query: Some(query), devices: None, after: None, until: Instant::now() + WHOLE_TIME };
    let scanned = scan(search, reader, all, visitor).await.map_err(LiveFailure::Scan)?;
    match (scanned.visitor, scanned.end) {
        (LiveVisitor { refused: Some(rejection), .. }, _) => Err(LiveFailure::Memory(rejection)),
        (LiveVisitor { members, .. }, _) if members.len() > MEMBERS_MAX => Err(LiveFailure::TooMany),
        (_, ScanEnd::TimeOver) => Err(LiveFailure::TooLong),
        (LiveVisitor { members, charge, .. }, _) => Ok((members, charge)),
    }
}

impl Source {
    /// Subscribes to the changes of the devices that a reader with `access` may see.
    fn new(search: &FleetSearch, access: &Access, query: &Query) -> Self {
        let visible = access.devices(auth::Operation::Get, RANGES_MAX);
        let content = QueueContent::Shadows { max: CHANGED_MAX };
        let presence = query.reads_presence().then(|| search.presence.changes());
        Self {
            rights: access.clone(),
            following: search.changes.follow(FeedFilter::default(), visible.clone(), content),
            visible,
            presence,
            presence_taken: search.presence.newest_change(),
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

impl<R: Reader> LiveQuery<R> {
    /// Begins to follow the devices for which `query` is true. It has no event yet.
    ///
    /// # Errors
    ///
    /// A [`LiveFailure`].
    pub(crate) async fn begin(
        search: &Arc<FleetSearch>,
        mut reader: R,
        query: Arc<Query>,
    ) -> Result<Self, LiveFailure> {
        let source = Source::new(search, reader.access(), &query);
        let (members, mut charge) = all_members(search, &mut reader, &query).await?;
        let memory = CHANGED_BYTES + members.memory();
        search.service.quotas().grow(&mut charge, memory).map_err(LiveFailure::Memory)?;
        Ok(Self {
            search: search.clone(),
            reader,
            query,
            members,
            charge,
            source,
            changed: BTreeSet::new(),
            throttled_until: Instant::now(),
            is_cut: false,
            ready: VecDeque::new(),
            is_over: false,
        })
    }

    /// Adds the complete set to the events, unless the reader has the set with the id `last` and that is the present one.
    pub(crate) fn send_all(&mut self, last: Option<&str>) {
        let id = self.members.id();
        if last != Some(&*id) {
            let mut sent = Members::default();
            self.ready.push_back(event(LiveChange::Start, &sent));
            let devices: Vec<DeviceId> = self.members.iter().cloned().collect();
            self.ready.extend(changes(LiveChange::Enter, &devices, &mut sent));
        }
        self.ready.push_back(event(LiveChange::Complete, &self.members));
    }

    /// Waits for the next event, about until `until`.
    pub(crate) async fn next(&mut self, until: Instant) -> LiveNext {
        loop {
            // Since the last event, rights may have been reloaded or a token may have expired.
            if !self.reader.renew(&self.search.authority) {
                return LiveNext::Broken;
            }
            let has_same_rights = self.reader.access().is_same(&self.source.rights);
            match self.ready.pop_front() {
                // The client comes back, and receives the set of its present rights.
                Some(_) if !has_same_rights => return LiveNext::Broken,
                Some(event) => return LiveNext::Event { event, is_last: self.ready.is_empty() },
                None if self.is_over => return LiveNext::Broken,
                None => {}
            }
            if Instant::now() >= until {
                return LiveNext::TimeOver;
            }
            let worked = match Instant::now() < self.throttled_until {
                true => {
                    self.rest(until).await;
                    Ok(())
                }
                false if self.is_cut || !has_same_rights => self.refresh().await,
                false if !self.changed.is_empty() => self.evaluate().await,
                false => match self.wait(until).await {
                    Some(waited) => waited,
                    None => return LiveNext::Broken,
                },
            };
            match worked {
                Ok(()) => {}
                // The client comes back, and is answered by a status.
                Err(LiveFailure::Scan(_)) => return LiveNext::Broken,
                Err(failure) => self.end(&failure),
            }
        }
    }

    /// Waits while the reader is above its rate of work.
    async fn rest(&self, until: Instant) {
        tokio::select! {
            () = self.reader.rights_may_change(&self.search.authority) => {}
            () = sleep_until(self.throttled_until.min(until).into()) => {}
        }
    }

    /// Waits for changes and takes those that are there. Returns `None` at the end of the stream.
    async fn wait(&mut self, until: Instant) -> Option<Result<(), LiveFailure>> {
        let Source { following, presence, presence_taken, .. } = &mut self.source;
        let first = tokio::select! {
            () = self.reader.rights_may_change(&self.search.authority) => return Some(Ok(())),
            () = Source::presence_changed(presence, *presence_taken) => None,
            next = timeout_at(until.into(), following.next()) => match next {
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

    /// Takes the next changes of presence. Each is charged, also one of a device that the reader may not see.
    fn take_presence(&mut self) {
        let taken = self.search.presence.changed_after(self.source.presence_taken, BATCH);
        let work = work::times(taken.len(), work::DELIVERY);
        let now = Instant::now();
        self.throttled_until = now + self.quota().charge_work(work, now).unwrap_or_default();
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
        let visitor = LiveVisitor::new(&self.search, self.reader.access(), &self.query);
        let ranges = changed.iter().cloned().map(DeviceRange::One).collect();
        let until = Instant::now() + WHOLE_TIME;
        let of_changed = DeviceScan { query: Some(&self.query), devices: Some(ranges), after: None, until };
        let scanned = scan(&self.search, &mut self.reader, of_changed, visitor).await.map_err(LiveFailure::Scan)?;
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
        self.source = Source::new(&self.search, self.reader.access(), &self.query);
        (self.is_cut, self.changed) = (false, BTreeSet::new());
        let (members, _charge) = all_members(&self.search, &mut self.reader, &self.query).await?;
        let difference = self.members.difference(&members);
        self.apply(&difference.entered, &difference.left)
    }

    /// Changes the set and queues the events.
    fn apply(&mut self, entered: &[DeviceId], left: &[DeviceId]) -> Result<(), LiveFailure> {
        self.ready.extend(changes(LiveChange::Leave, left, &mut self.members));
        self.ready.extend(changes(LiveChange::Enter, entered, &mut self.members));
        if self.members.len() > MEMBERS_MAX {
            return Err(LiveFailure::TooMany);
        }
        let memory = CHANGED_BYTES + self.members.memory();
        self.search.service.quotas().grow(&mut self.charge, memory).map_err(LiveFailure::Memory)
    }

    /// Adds the last event: the reason of the end.
    fn end(&mut self, failure: &LiveFailure) {
        let (error, message) = failure.reason();
        self.is_over = true;
        self.ready.push_back(event(LiveChange::End { error, message }, &self.members));
    }

    fn quota(&self) -> Arc<PrincipalQuota> {
        self.search.quota(self.reader.access())
    }
}

impl LiveVisitor {
    fn new(search: &Arc<FleetSearch>, access: &Access, query: &Arc<Query>) -> Self {
        Self {
            search: search.clone(),
            query: query.clone(),
            now: search.service.now(),
            members: Members::default(),
            charge: Charge::new(search.quota(access), 0),
            refused: None,
        }
    }
}

impl DeviceVisitor for LiveVisitor {
    fn needs(&self) -> Arc<Needs> {
        Arc::new(Needs::default().with_query(Some(&self.query)))
    }

    fn visit(&mut self, reader: &Access, mut device: Device, _again: &mut dyn FnMut(&Needs) -> Device) {
        if is_match(&self.query, &mut device, reader, &*self.search.presence, self.now) {
            self.members.add(device.id);
            self.refused = self.search.service.quotas().grow(&mut self.charge, self.members.memory()).err();
        }
    }

    fn has_enough(&self) -> bool {
        self.refused.is_some() || self.members.len() > MEMBERS_MAX
    }

    fn needs_all(&self) -> bool {
        true
    }
}

/// Adds or removes `devices`, and returns the events that say so.
fn changes(change: fn(Vec<DeviceId>) -> LiveChange, devices: &[DeviceId], members: &mut Members) -> Vec<LiveEvent> {
    let event_of = |part: &[DeviceId]| {
        let change = change(part.to_vec());
        for device in part {
            match change {
                LiveChange::Leave(_) => members.remove(device),
                _ => members.add(device.clone()),
            }
        }
        event(change, members)
    };
    devices.chunks(EVENT_DEVICES_MAX).map(event_of).collect()
}

/// Returns the event after which the set is `members`.
fn event(change: LiveChange, members: &Members) -> LiveEvent {
    LiveEvent { change, id: members.id(), count: members.len() }
}
