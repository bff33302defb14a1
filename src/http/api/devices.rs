//! The list of devices, and the list of a device's shadows.
//!
//! Both read the keys in order, after the end of the previous page. A page examines a bounded number of shadows, so it
//! may be short or empty and still have a next page. If it ends at a device that the caller may not see, its cursor is
//! sealed ([`super::cursor`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{extract::State, http::Uri, response::Response};
use tokio::time::sleep;

use crate::{
    admission::work,
    fleet::{Device, Field, Needs, Query as DeviceQuery, QueryError},
    http::{
        api::{
            history::{PAGE, link, no_store},
            query::Query,
            target::Target,
        },
        auth::caller::Caller,
        cursor,
        operation::{CONNECTED, CURSOR, DRIFT, LIMIT, Operation, PREFIX, SEARCH, SHADOW_CURSOR},
        parameter::{BadParameter, bad},
        problem::{Problem, status},
        state::Api,
    },
    search::{
        scan::last_key,
        visible::{add_shadow, scan_work, set_presence},
    },
    shadow::{DeviceId, Rejection, ShadowKey, ShadowName, Timestamp},
    store::{Listed, Seq},
    wire::{self, DeviceEntry, ShadowEntry},
};

/// Keys per read of the store.
const BATCH: usize = 200;

/// Shadows after which a page ends with its current device.
const EXAMINED_MAX: usize = 2_000;

/// The longest pause before a page is sent, for the work of reading it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The reason that a sealed cursor is refused.
pub(super) const INVALID_CURSOR: &str =
    "is not a 'next' that this principal received since the server started; begin with the first page";

/// The parameters of a device list.
#[derive(Debug)]
struct ParsedList {
    prefix: String,
    connected: Option<bool>,
    drift: Option<bool>,
    /// The condition.
    query: Option<DeviceQuery>,
    /// The parts of a device that the condition and the entry of the list are about.
    needs: Needs,
    limit: usize,
    /// The last device of the previous page.
    cursor: Option<DeviceId>,
}

/// A page of devices under construction.
struct DevicePage<'a> {
    api: &'a Api,
    caller: &'a Caller,
    list: ParsedList,
    /// The time for which ages are computed, the same for all devices.
    now: Timestamp,
    found: Vec<DeviceEntry>,
    /// The device whose shadows are examined, and the keys of those that exist and that the caller may see.
    current: Option<(DeviceId, Vec<ShadowKey>)>,
    /// The last complete device, and true if the caller may see a shadow of it.
    last: Option<(DeviceId, bool)>,
    /// The number of examined shadows.
    examined: usize,
    /// The number of documents that were read.
    read: usize,
}

/// `GET /v1/devices`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let list = ParsedList::read(&uri, &caller, &api).map_err(|bad| api.invalid(&bad))?;
    let next = uri.query().map(without_cursor).unwrap_or_default();
    let permit = caller.read_turn(&api).await;
    let mut page = DevicePage {
        api: &api,
        caller: &caller,
        list,
        now: api.now(),
        found: Vec::new(),
        current: None,
        last: None,
        examined: 0,
        read: 0,
    };
    let more = page.fill().await.map_err(|rejection| failed(&rejection, &api))?;
    drop(permit);
    // A client that reads page after page is delayed rather than refused.
    let wait = caller.quota(&api).charge_work(page.work(), Instant::now()).unwrap_or_default();
    sleep(wait.min(PAUSE_MAX)).await;
    let cursor = page.last.as_ref().filter(|_| more).map(|(device, is_visible)| match is_visible {
        true => device.as_str().to_owned(),
        false => api.cursors.seal(device, caller.principal()),
    });
    let mut response = no_store(wire::devices(&page.found, cursor.as_deref()));
    caller.charge_rendered(&response, &api);
    if let Some(cursor) = cursor {
        link(&mut response, &format!("{}?{next}cursor={cursor}", uri.path()));
    }
    Ok(response)
}

/// `GET /v1/devices/{id}/shadows`
pub(in crate::http) async fn shadows(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let query = Query::read(uri.query(), Operation::ListShadows.parameters()).map_err(|bad| api.invalid(&bad))?;
    let limit = limit(&query).map_err(|bad| api.invalid(&bad))?;
    let after = after(&query).map_err(|bad| api.invalid(&bad))?;
    let _permit = caller.read_turn(&api).await;
    let found = of_device(&api, &caller, &key.device, after, limit).await;
    let (entries, more) = found.map_err(|rejection| failed(&rejection, &api))?;
    let last = next_cursor(&entries, more);
    let mut response = no_store(wire::shadows(&entries, last));
    caller.charge_rendered(&response, &api);
    if let Some(last) = last {
        link(&mut response, &format!("{}?limit={limit}&cursor={last}", uri.path()));
    }
    Ok(response)
}

/// The cursor after the classic shadow, which has no name.
const CLASSIC: &str = ".";

/// Returns the cursor after `entries`, if there are `more`.
pub(in crate::http) fn next_cursor(entries: &[ShadowEntry], more: bool) -> Option<&str> {
    entries.last().filter(|_| more).map(|entry| entry.name.as_ref().map_or(CLASSIC, ShadowName::as_str))
}

/// The shadow after which a page begins.
#[derive(Clone, Debug)]
pub(in crate::http) enum After {
    /// The page begins with the first shadow.
    Nothing,
    /// The classic shadow.
    Classic,
    /// The shadow with this name.
    Named(ShadowName),
}

fn after(query: &Query<'_>) -> Result<After, BadParameter> {
    match query.text(&SHADOW_CURSOR)?.as_deref() {
        None => Ok(After::Nothing),
        Some(CLASSIC) => Ok(After::Classic),
        Some(name) => match ShadowName::new(name) {
            Ok(name) => Ok(After::Named(name)),
            Err(error) => Err(bad(SHADOW_CURSOR.name, error.to_string())),
        },
    }
}

/// Returns at most `limit` existing shadows of `device` after `after` that `caller` may see, and true if there may be
/// more. Charges the documents that it reads.
pub(in crate::http) async fn of_device(
    api: &Api,
    caller: &Caller,
    device: &DeviceId,
    after: After,
    limit: usize,
) -> Result<(Vec<ShadowEntry>, bool), Rejection> {
    let classic = ShadowKey::classic(device.clone());
    let mut found = Vec::new();
    let mut from = match after {
        After::Nothing => {
            found.extend(shadow_entry(api, caller, &classic).await?);
            classic
        }
        After::Classic => classic,
        After::Named(name) => ShadowKey::named(device.clone(), name),
    };
    loop {
        let listed = api.service.list(Some(from.clone()), BATCH).await?;
        let complete = listed.is_empty();
        for Listed { key, deleted } in listed {
            if key.device != *device {
                return Ok((found, false));
            }
            if !deleted && let Some(entry) = shadow_entry(api, caller, &key).await? {
                if found.len() >= limit {
                    return Ok((found, true));
                }
                found.push(entry);
            }
            from = key;
        }
        if complete {
            return Ok((found, false));
        }
    }
}

async fn shadow_entry(api: &Api, caller: &Caller, key: &ShadowKey) -> Result<Option<ShadowEntry>, Rejection> {
    let Some(projection) = caller.projection(key) else { return Ok(None) };
    let document = api.service.read(key).await?.document;
    let _delays_the_next = caller.quota(api).charge_work(work::SCANNED_SHADOW, Instant::now());
    Ok(document.exists().then(|| ShadowEntry {
        name: key.name.clone(),
        version: document.version,
        etag: projection.etag(&document),
        timestamp: document.timestamp,
        drift: projection.has_delta(&document),
    }))
}

impl DevicePage<'_> {
    /// Returns the work of reading the documents, and of evaluating the query.
    fn work(&self) -> u64 {
        let query = self.list.query.as_ref();
        scan_work(query, if query.is_some() { self.examined } else { self.read })
    }

    /// Fills the page. Returns true if there may be another page.
    async fn fill(&mut self) -> Result<bool, Rejection> {
        let mut from = match &self.list.cursor {
            Some(device) if device.as_str() >= self.list.prefix.as_str() => Some(last_key(device)),
            _ => self.examine_prefix().await?,
        };
        loop {
            let listed = self.api.service.list(from.clone(), BATCH).await?;
            let complete = listed.is_empty();
            for Listed { key, deleted } in listed {
                let device = key.device.as_str();
                if !device.starts_with(&self.list.prefix) {
                    self.finish().await?;
                    return Ok(false);
                }
                if self.current.as_ref().is_none_or(|(current, _)| *current != key.device) {
                    self.finish().await?;
                    if self.found.len() >= self.list.limit || self.examined >= EXAMINED_MAX {
                        return Ok(true);
                    }
                }
                self.examine(&key, deleted);
                from = Some(key);
            }
            if complete {
                self.finish().await?;
                return Ok(false);
            }
        }
    }

    /// Examines the classic shadow of the device whose id is the prefix. Returns its key, from which the list begins,
    /// as the store lists only keys after a given one.
    async fn examine_prefix(&mut self) -> Result<Option<ShadowKey>, Rejection> {
        let Ok(device) = DeviceId::new(&self.list.prefix) else { return Ok(None) };
        let key = ShadowKey::classic(device);
        if self.api.service.read(&key).await?.last_entry > Seq(0) {
            self.examine(&key, false);
        }
        Ok(Some(key))
    }

    /// Adds a shadow to its device.
    fn examine(&mut self, key: &ShadowKey, deleted: bool) {
        self.examined += 1;
        let (_, visible) = self.current.get_or_insert_with(|| (key.device.clone(), Vec::new()));
        if !deleted && self.caller.projection(key).is_some() {
            visible.push(key.clone());
        }
    }

    /// Completes the current device, and adds it to the page if it matches the filters. Reads its documents only if they matter.
    async fn finish(&mut self) -> Result<(), Rejection> {
        let Some((id, keys)) = self.current.take() else { return Ok(()) };
        let mut device = Device::new(id);
        let mut is_visible = !keys.is_empty();
        let (connected, seen) = set_presence(&mut device, self.caller.access(), &*self.api.presence);
        if is_visible && self.list.may_match(&device, &keys, self.now) {
            for key in keys {
                let document = self.api.service.read(&key).await?.document;
                self.read += 1;
                if document.exists() {
                    let needs = self.list.needs.shadow(key.name.as_ref());
                    add_shadow(&mut device, self.caller.access(), &key, &document, needs);
                }
            }
            is_visible = device.shadow_count > 0;
            if is_visible && self.list.matches(&device, self.now) {
                let (id, drift, shadows) = (device.id.as_str().to_owned(), device.drift, device.shadow_count);
                self.found.push(DeviceEntry { id, connected, seen, drift, shadows });
            }
        }
        self.last = Some((device.id, is_visible));
        Ok(())
    }
}

impl ParsedList {
    /// Returns false if `device`, of which only the presence is known, does not match the filters, whatever its shadows `keys` hold.
    fn may_match(&self, device: &Device, keys: &[ShadowKey], now: Timestamp) -> bool {
        let is_undecided = |query: &DeviceQuery| {
            // Documents have the time of the last change.
            query.changes_by_time().is_some() || keys.iter().any(|key| query.depends_on(key.name.as_ref()))
        };
        self.has_connection(device)
            && self.query.as_ref().is_none_or(|query| {
                is_undecided(query) || query.matches(&Device { updated: Some(now), ..device.clone() }, now)
            })
    }

    /// Returns true if `device` matches the filters.
    fn matches(&self, device: &Device, now: Timestamp) -> bool {
        self.has_connection(device)
            && self.drift.is_none_or(|wanted| device.drift == wanted)
            && self.query.as_ref().is_none_or(|query| query.matches(device, now))
    }

    fn has_connection(&self, device: &Device) -> bool {
        let connected = device.presence.map(|presence| presence.connected);
        self.connected.is_none_or(|wanted| connected == Some(wanted))
    }

    fn read(uri: &Uri, caller: &Caller, api: &Api) -> Result<Self, BadParameter> {
        let query = Query::read(uri.query(), Operation::ListDevices.parameters())?;
        let prefix = query.text(&PREFIX)?.unwrap_or_default().into_owned();
        if !prefix.is_empty() {
            DeviceId::new(&prefix).map_err(|error| bad(PREFIX.name, error.to_string()))?;
        }
        let cursor = query.text(&CURSOR)?.map(|text| match cursor::is_sealed(&text) {
            false => DeviceId::new(&text).map_err(|error| error.to_string()),
            true => api.cursors.open(&text, caller.principal()).ok_or_else(|| INVALID_CURSOR.to_owned()),
        });
        let parsed = query.text(&SEARCH)?.map(|text| text.parse()).transpose();
        let parsed = parsed.map_err(|error: QueryError| bad(SEARCH.name, error.to_string()))?;
        Ok(Self {
            prefix,
            connected: query.flag(&CONNECTED)?,
            drift: query.flag(&DRIFT)?,
            needs: Needs::default().with_query(parsed.as_ref()).with_fields([&Field::Drift]),
            query: parsed,
            limit: limit(&query)?,
            cursor: cursor.transpose().map_err(|reason| bad(CURSOR.name, reason))?,
        })
    }
}

pub(super) fn limit(query: &Query<'_>) -> Result<usize, BadParameter> {
    Ok(query.integer(&LIMIT)?.and_then(|limit| limit.try_into().ok()).unwrap_or(PAGE))
}

/// Returns the query without the cursor, ready for another parameter.
pub(super) fn without_cursor(query: &str) -> String {
    let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    kept.map(|pair| format!("{pair}&")).collect()
}

pub(in crate::http) fn failed(rejection: &Rejection, api: &Api) -> Problem {
    Problem::new(status(rejection), rejection.error(), "The list cannot be read", api.now())
}
