//! `POST /v1/purge`: deletes the shadows of junk devices, or drops tombstones, in the order of their keys.
//!
//! It is not in the table of [`crate::http::operation`], which has the operations on shadows. A request handles a bounded
//! part and returns the cursor of the next one, so that nothing is kept between two requests. A deletion is that of a client: it
//! passes the engine with the version that was seen, is in the journal, and has its events. Tombstones are dropped in
//! small commits between those of other writers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::Uri, response::Response, routing::post};
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::{
    admission::work,
    auth::{
        DeviceRange,
        authz::pattern::{Pattern, PlaceholderValues},
    },
    http::{
        api::{
            history::no_store,
            query::Query,
            submit::{self, Parsed, Refusal},
        },
        auth::caller::Caller,
        parameter::{BadParameter, Kind, Parameter, ParameterLocation, bad},
        problem::{Problem, status},
        state::Api,
    },
    search::ReadPermit,
    shadow::{Command, Delete, DeviceId, Preconditions, Rejection, ShadowKey, ShadowName, Timestamp, Version},
    store::Listed,
    wire::{self, Dialect, PurgeStep},
};

const fn query(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, location: ParameterLocation::Query, kind, about }
}

pub(in crate::http) static PATTERN: Parameter = query(
    "pattern",
    Kind::Text("^[A-Za-z0-9:_*-]{1,128}$"),
    "Only devices whose id matches; `*` is any run of characters. Needed unless `deleted` is set",
);
pub(in crate::http) static DELETED: Parameter = query(
    "deleted",
    Kind::Flag,
    "`true`: drop the tombstones of deleted shadows, once their changes have left the journal. Otherwise delete shadows",
);
pub(in crate::http) static NOT_UPDATED_SINCE: Parameter = query(
    "not_updated_since",
    Kind::Integer { min: 1, max: u64::MAX >> 11 },
    "Delete only shadows whose last change is before this time, in seconds since 1970",
);
pub(in crate::http) static PURGE_DRY_RUN: Parameter = query("dry_run", Kind::Flag, "`true`: only count");
pub(in crate::http) static PURGE_CURSOR: Parameter = query(
    "cursor",
    Kind::Text("^[A-Za-z0-9:_-]{1,128}(/[A-Za-z0-9:_$-]{1,64})?$"),
    "The `next` of the previous response",
);

/// All parameters.
pub(in crate::http) static PARAMETERS: [&Parameter; 5] =
    [&PATTERN, &DELETED, &NOT_UPDATED_SINCE, &PURGE_DRY_RUN, &PURGE_CURSOR];

/// Keys per read of the store.
const PAGE_KEYS: usize = 500;
/// Deletions that wait for their outcomes at once, and tombstones dropped in one commit.
const BATCH: usize = 64;
/// The time after which a request ends with its current batch.
const TIME_MAX: Duration = Duration::from_secs(2);

/// The longest wait of a deletion for the rate of work of its caller.
const THROTTLED_MAX: Duration = Duration::from_secs(10);

/// A request.
struct Purge<'a> {
    api: &'a Api,
    caller: Caller,
    pattern: DevicePattern,
    tombstones: bool,
    not_updated_since: Option<Timestamp>,
    dry_run: bool,
    /// The last key that was handled.
    after: Option<ShadowKey>,
    step: Counts,
}

/// The devices of a request.
struct DevicePattern {
    text: String,
    pattern: Pattern,
    /// A range with all of them; `None` for all devices.
    range: Option<DeviceRange>,
}

/// The numbers of shadows or tombstones that were handled.
#[derive(Default)]
struct Counts {
    purged: usize,
    kept: usize,
}

/// A shadow to delete, at the version that was seen.
type Candidate = (ShadowKey, Version);

pub(in crate::http) fn router() -> Router<Arc<Api>> {
    Router::new().route("/v1/purge", post(purge))
}

/// `POST /v1/purge`
async fn purge(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    caller.require_all_rights("a purge needs all rights", &api)?;
    let purge = Purge::read(&api, caller, &uri);
    let mut purge = purge.map_err(|bad| api.invalid(&bad))?;
    let ended = purge.run().await;
    purge.log();
    let failed = |rejection: Rejection| match &rejection {
        Rejection::Unavailable(reason) => {
            Problem::new(status(&rejection), rejection.error(), &format!("Unavailable: {reason}"), api.now())
        }
        rejection => Problem::general(rejection, api.now()),
    };
    let more = ended.map_err(failed)?;
    let next = purge.after.as_ref().filter(|_| more).map(cursor);
    let Counts { purged, kept } = purge.step;
    Ok(no_store(wire::purge_step(&PurgeStep { purged, kept, next: next.as_deref() })))
}

impl<'a> Purge<'a> {
    fn read(api: &'a Api, caller: Caller, uri: &Uri) -> Result<Self, BadParameter> {
        let query = Query::read(uri.query(), &PARAMETERS)?;
        let tombstones = query.flag(&DELETED)?.unwrap_or(false);
        let pattern = match query.text(&PATTERN)? {
            Some(text) => {
                let parsed = DevicePattern::new(&text);
                parsed.ok_or_else(|| bad(PATTERN.name, "must be 1 to 128 characters of A-Z a-z 0-9 : _ - and *"))?
            }
            None if tombstones => DevicePattern::new(ANY).ok_or_else(|| bad(PATTERN.name, "is needed"))?,
            None => return Err(bad(PATTERN.name, "is needed, unless deleted=true")),
        };
        let not_updated_since = query.integer(&NOT_UPDATED_SINCE)?.map(Timestamp);
        if not_updated_since.is_some() && tombstones {
            return Err(bad(NOT_UPDATED_SINCE.name, "is for shadows, and not with deleted=true"));
        }
        if not_updated_since.is_some_and(|since| since > api.service.now()) {
            // Its date gave the shadows their timestamps.
            return Err(bad(NOT_UPDATED_SINCE.name, "is after the date of the server"));
        }
        let after = match query.text(&PURGE_CURSOR)? {
            None => None,
            Some(text) => Some(key(&text).ok_or_else(|| bad(PURGE_CURSOR.name, "is not a 'next' of this operation"))?),
        };
        let dry_run = query.flag(&PURGE_DRY_RUN)?.unwrap_or(false);
        let step = Counts::default();
        Ok(Self { api, caller, pattern, tombstones, not_updated_since, dry_run, after, step })
    }

    /// Handles shadows for a bounded time. Returns true if there may be more.
    async fn run(&mut self) -> Result<bool, Rejection> {
        let until = Instant::now() + TIME_MAX;
        self.caller.charge(work::PAGE, self.api)?;
        loop {
            let turn = self.caller.read_turn(self.api).await;
            let (page, next) = self.page(turn).await?;
            let is_wanted =
                |deleted: bool, key: &ShadowKey| deleted == self.tombstones && self.pattern.has(&key.device);
            let keys: Vec<_> = page
                .into_iter()
                .filter(|listed| is_wanted(listed.deleted, &listed.key))
                .map(|listed| listed.key)
                .collect();
            for batch in keys.chunks(BATCH) {
                match self.tombstones {
                    true => self.drop_tombstones(batch).await?,
                    false => self.delete_all(batch).await?,
                }
                self.after = batch.last().cloned().or(self.after.take());
                if Instant::now() >= until || self.charge(batch.len()).is_err() {
                    return Ok(true);
                }
            }
            if next.is_none() {
                return Ok(false);
            }
            self.after = next;
            if Instant::now() >= until || self.caller.charge(work::PAGE, self.api).is_err() {
                return Ok(true);
            }
        }
    }

    /// Returns the next shadows, and the key to continue after if there may be more.
    async fn page(&self, turn: ReadPermit) -> Result<(Vec<Listed>, Option<ShadowKey>), Rejection> {
        let (service, after) = (&self.api.service, self.after.clone());
        if let Some(range) = &self.pattern.range {
            return service.list_within(vec![range.clone()], after, PAGE_KEYS, turn).await;
        }
        let page = service.list_in_turn(after, PAGE_KEYS, turn).await?;
        let next = page.last().map(|listed| listed.key.clone());
        Ok((page, next))
    }

    /// Charges the work for `keys` that were looked at. Deletions are charged when they are submitted.
    fn charge(&self, keys: usize) -> Result<(), Rejection> {
        self.caller.charge(work::times(keys, work::COMMAND), self.api)
    }

    async fn drop_tombstones(&mut self, keys: &[ShadowKey]) -> Result<(), Rejection> {
        let done = self.api.service.purge_tombstones(keys.to_vec(), self.dry_run).await?;
        self.step.purged += done.purged;
        self.step.kept += done.kept;
        Ok(())
    }

    async fn delete_all(&mut self, keys: &[ShadowKey]) -> Result<(), Rejection> {
        let mut candidates = Vec::new();
        for key in keys {
            candidates.extend(self.candidate(key).await?);
        }
        if self.dry_run {
            self.step.purged += candidates.len();
            return Ok(());
        }
        let mut refused = None;
        for result in join_all(candidates.iter().map(|candidate| self.delete(candidate))).await {
            match result {
                Ok(()) => self.step.purged += 1,
                // Changed, deleted or created anew in between.
                Err(Rejection::VersionConflict { .. } | Rejection::NotFound) => self.step.kept += 1,
                Err(rejection) => refused = Some(rejection),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Returns the version of `key` if the shadow is to be deleted.
    async fn candidate(&self, key: &ShadowKey) -> Result<Option<Candidate>, Rejection> {
        let turn = self.caller.read_turn(self.api).await;
        let Some(stored) = self.api.service.read_if_sound(key, turn).await? else { return Ok(None) };
        let document = &stored.document;
        let is_old = self.not_updated_since.is_none_or(|since| document.timestamp < since);
        Ok((document.exists() && is_old).then(|| (key.clone(), document.version)))
    }

    /// Deletes a shadow, unless it has changed. Waits while the caller is above its rate of work.
    async fn delete(&self, candidate: &Candidate) -> Result<(), Rejection> {
        let until = Instant::now() + THROTTLED_MAX;
        loop {
            match self.delete_once(candidate).await {
                Err(Rejection::TooManyRequests { retry_after_ms: Some(wait), .. }) if Instant::now() < until => {
                    sleep(Duration::from_millis(wait)).await;
                }
                result => return result,
            }
        }
    }

    async fn delete_once(&self, (key, version): &Candidate) -> Result<(), Rejection> {
        let mut caller = self.caller.clone();
        let preconditions = Preconditions { version: Some(*version), ..Preconditions::default() };
        let parse = |caller: &mut Caller, _: &[u8]| {
            let renewed = caller.renew(self.api);
            let projection = caller.projection(key).filter(|_| renewed);
            let projection = projection.ok_or(Refusal::Answered(Rejection::Unauthorized))?;
            let command = Command::Delete(Delete { preconditions: preconditions.clone(), keyed: None });
            Ok(Parsed { command, client_token: None, projection })
        };
        let submitted = submit::submit(self.api, &mut caller, key, &[], Dialect::Native, parse).await;
        submitted.map(|_| ()).map_err(|refusal| match refusal {
            Refusal::NotTried(rejection) | Refusal::Refused(rejection) | Refusal::Answered(rejection) => rejection,
        })
    }

    fn log(&self) {
        let Self { caller, pattern, tombstones, step: Counts { purged, kept }, .. } = self;
        if *purged > 0 && !self.dry_run {
            let (by, pattern) = (caller.principal(), &*pattern.text);
            tracing::info!(%by, pattern, tombstones, purged, kept, "shadows purged");
        }
    }
}

impl DevicePattern {
    fn new(text: &str) -> Option<Self> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":_*-".contains(c);
        if text.is_empty() || text.len() > 128 || !text.chars().all(is_allowed) {
            return None;
        }
        let pattern: Pattern = text.parse().ok()?;
        let (begin, exact) = pattern.beginning(NO_VALUES);
        let begin = DeviceId::new(&begin).ok();
        let range = begin.map(|begin| if exact { DeviceRange::One(begin) } else { DeviceRange::Prefix(begin) });
        Some(Self { text: text.to_owned(), pattern, range })
    }

    fn has(&self, device: &DeviceId) -> bool {
        self.pattern.matches(device.as_str(), NO_VALUES)
    }
}

/// The pattern of all devices.
const ANY: &str = "*";
/// A pattern of devices has no placeholders.
const NO_VALUES: PlaceholderValues<'_> = PlaceholderValues { principal: "", client: "" };

/// Returns the cursor after `key`.
fn cursor(key: &ShadowKey) -> String {
    match &key.name {
        None => key.device.as_str().to_owned(),
        Some(name) => format!("{}/{}", key.device.as_str(), name.as_str()),
    }
}

/// Parses a cursor.
fn key(text: &str) -> Option<ShadowKey> {
    match text.split_once('/') {
        None => Some(ShadowKey::classic(DeviceId::new(text).ok()?)),
        Some((device, name)) => Some(ShadowKey::named(DeviceId::new(device).ok()?, ShadowName::new(name).ok()?)),
    }
}
