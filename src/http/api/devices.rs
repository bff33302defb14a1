//! Lists: of devices, and of the shadows of one.
//!
//! Both walk the keys in order, from where the page before ended. A page looks at a bounded number of shadows, so one
//! that finds few of what was asked for may be short and still have a next one. Where it ends at a device that its
//! reader may not see, the cursor is sealed ([`super::cursor`]).

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};

use crate::{
    http::{
        api::{
            Api, cursor,
            history::{PAGE, fresh, link},
            problem::Problem,
            query::{BadParameter, Query, bad},
            target::Target,
        },
        auth::caller::Caller,
        operation::{CONNECTED, CURSOR, DRIFT, LIMIT, Operation, PREFIX, SHADOW_CURSOR},
    },
    shadow::{DeviceId, Rejection, ShadowKey, ShadowName},
    store::{Listed, Seq},
    wire::{self, DeviceEntry, Seen, ShadowEntry},
};

/// Keys asked of the store at once.
const BATCH: usize = 200;

/// Shadows that one page looks at, before the device that it is at is complete.
const LOOKS_MAX: usize = 2_000;

/// What is wrong with a sealed cursor.
const UNOPENED: &str = "is no 'next' that this reader was told since the server started; begin with the first page";

/// Which devices are asked for.
#[derive(Debug)]
struct ParsedList {
    prefix: String,
    connected: Option<bool>,
    drift: Option<bool>,
    limit: usize,
    /// The last device of the page before.
    cursor: Option<DeviceId>,
}

/// A page in the making.
struct JournalPage<'a> {
    api: &'a Api,
    caller: &'a Caller,
    asked: ParsedList,
    found: Vec<DeviceEntry>,
    /// The device that is being looked at.
    current: Option<(DeviceId, DeviceEntry)>,
    /// The last device that is complete, and whether the caller sees a shadow of it.
    last: Option<(DeviceId, bool)>,
    looks: usize,
}

/// `GET /v1/devices`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    api.admit(&caller)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let asked = ParsedList::read(&uri, &caller, &api).map_err(invalid)?;
    let next = uri.query().map(without_cursor).unwrap_or_default();
    let _turn = api.read_turn(&caller).await;
    let mut page =
        JournalPage { api: &api, caller: &caller, asked, found: Vec::new(), current: None, last: None, looks: 0 };
    let more = page.fill().await.map_err(|rejection| failed(&rejection, &api))?;
    let cursor = page.last.as_ref().filter(|_| more).map(|(device, seen)| match seen {
        true => device.as_str().to_owned(),
        false => api.cursors.seal(device, caller.principal()),
    });
    let mut response = fresh(wire::devices(&page.found, cursor.as_deref()));
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
    api.admit(&caller)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let query = Query::read(uri.query(), Operation::ListShadows.parameters()).map_err(invalid)?;
    let limit = limit(&query).map_err(invalid)?;
    let after = after(&query).map_err(invalid)?;
    let _turn = api.read_turn(&caller).await;
    let found = of_device(&api, &caller, &key.device, after, limit).await;
    let (entries, more) = found.map_err(|rejection| failed(&rejection, &api))?;
    let last = entries.last().filter(|_| more).map(|entry| entry.name.as_ref().map_or(CLASSIC, ShadowName::as_str));
    let mut response = fresh(wire::shadows(&entries, last));
    if let Some(last) = last {
        link(&mut response, &format!("{}?limit={limit}&cursor={last}", uri.path()));
    }
    Ok(response)
}

/// The cursor of a page that ends with the classic shadow, which has no name.
const CLASSIC: &str = ".";

/// After which shadow a page begins.
#[derive(Clone, Debug)]
pub(in crate::http) enum After {
    /// With the first one.
    Nothing,
    /// After the classic one.
    Classic,
    /// After the one of this name.
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

/// At most `limit` shadows of `device` that exist and that `caller` may see, after the one named `after`; and whether
/// there may be more.
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
        let complete = listed.len() < BATCH;
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
    Ok(document.exists().then(|| ShadowEntry {
        name: key.name.clone(),
        version: document.version,
        etag: projection.etag(&document),
        timestamp: document.timestamp,
        drift: projection.has_delta(&document),
    }))
}

/// Returns whether `device` is connected and how it was seen last, as far as `caller` may know.
pub(in crate::http) fn presence(api: &Api, caller: &Caller, device: &DeviceId) -> (Option<bool>, Option<Seen>) {
    if !caller.is_told_presence(device) {
        return (None, None);
    }
    // Where it is on the network is for who operates the service.
    let address = |seen: Seen| Seen { address: seen.address.filter(|_| caller.may_everything()), ..seen };
    (Some(api.presence.connected(device)), api.presence.seen(device).map(address))
}

impl JournalPage<'_> {
    /// Fills the page; returns whether there may be more after it.
    async fn fill(&mut self) -> Result<bool, Rejection> {
        let mut from = match &self.asked.cursor {
            Some(device) if device.as_str() >= self.asked.prefix.as_str() => Some(last_key(device)),
            _ => self.first().await?,
        };
        loop {
            let listed = self.api.service.list(from.clone(), BATCH).await?;
            let complete = listed.len() < BATCH;
            for Listed { key, deleted } in listed {
                let device = key.device.as_str();
                if !device.starts_with(&self.asked.prefix) {
                    self.finish();
                    return Ok(false);
                }
                if self.current.as_ref().is_none_or(|(current, _)| *current != key.device) {
                    self.finish();
                    if self.found.len() >= self.asked.limit || self.looks >= LOOKS_MAX {
                        return Ok(true);
                    }
                }
                self.look(&key, deleted).await?;
                from = Some(key);
            }
            if complete {
                self.finish();
                return Ok(false);
            }
        }
    }

    /// Where to begin: the store lists what comes after a key, so the classic shadow of the first device that the
    /// prefix allows, which has the prefix as its id, is looked at here.
    async fn first(&mut self) -> Result<Option<ShadowKey>, Rejection> {
        let Ok(device) = DeviceId::new(&self.asked.prefix) else { return Ok(None) };
        let key = ShadowKey::classic(device);
        if self.api.service.read(&key).await?.last_entry > Seq(0) {
            self.look(&key, false).await?;
        }
        Ok(Some(key))
    }

    async fn look(&mut self, key: &ShadowKey, deleted: bool) -> Result<(), Rejection> {
        self.looks += 1;
        let Self { api, caller, current, .. } = self;
        let (_, entry) = current.get_or_insert_with(|| {
            let (connected, seen) = presence(api, caller, &key.device);
            let id = key.device.as_str().to_owned();
            (key.device.clone(), DeviceEntry { id, connected, seen, drift: false, shadows: 0 })
        });
        let Some(projection) = caller.projection(key).filter(|_| !deleted) else { return Ok(()) };
        let document = api.service.read(key).await?.document;
        if document.exists() {
            entry.shadows += 1;
            entry.drift |= projection.has_delta(&document);
        }
        Ok(())
    }

    /// The device that was looked at is complete: it is in the page if it is one of those asked for.
    fn finish(&mut self) {
        let Some((device, entry)) = self.current.take() else { return };
        let ParsedList { connected, drift, .. } = self.asked;
        let seen = entry.shadows > 0;
        let wanted = seen
            && connected.is_none_or(|wanted| entry.connected == Some(wanted))
            && drift.is_none_or(|wanted| entry.drift == wanted);
        if wanted {
            self.found.push(entry);
        }
        self.last = Some((device, seen));
    }
}

impl ParsedList {
    fn read(uri: &Uri, caller: &Caller, api: &Api) -> Result<Self, BadParameter> {
        let query = Query::read(uri.query(), Operation::ListDevices.parameters())?;
        let prefix = query.text(&PREFIX)?.unwrap_or_default().into_owned();
        if !prefix.is_empty() {
            DeviceId::new(&prefix).map_err(|error| bad(PREFIX.name, error.to_string()))?;
        }
        let cursor = query.text(&CURSOR)?.map(|text| match cursor::is_sealed(&text) {
            false => DeviceId::new(&text).map_err(|error| error.to_string()),
            true => api.cursors.open(&text, caller.principal()).ok_or_else(|| UNOPENED.to_owned()),
        });
        Ok(Self {
            prefix,
            connected: query.flag(&CONNECTED)?,
            drift: query.flag(&DRIFT)?,
            limit: limit(&query)?,
            cursor: cursor.transpose().map_err(|reason| bad(CURSOR.name, reason))?,
        })
    }
}

fn limit(query: &Query<'_>) -> Result<usize, BadParameter> {
    Ok(query.integer(&LIMIT)?.and_then(|limit| limit.try_into().ok()).unwrap_or(PAGE))
}

/// The last key that a shadow of `device` can have.
fn last_key(device: &DeviceId) -> ShadowKey {
    let name = ShadowName::new(&"z".repeat(64)).expect("z is the last of the characters a name may have");
    ShadowKey::named(device.clone(), name)
}

/// A query up to a next parameter, without the cursor.
fn without_cursor(query: &str) -> String {
    let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    kept.map(|pair| format!("{pair}&")).collect()
}

pub(in crate::http) fn failed(rejection: &Rejection, api: &Api) -> Problem {
    let status = super::problem::status(rejection);
    Problem::new(status, rejection.error(), "The list cannot be read", api.now())
}
