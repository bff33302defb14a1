//! `GET /v1/search`: the devices for which a query is true.
//!
//! The shadows that the caller may see are read in key order, in pieces ([`crate::engine::scan`]). Each piece takes a turn
//! of the caller and runs on a blocking thread. Between two pieces the rights are renewed, and the work is charged: a
//! caller above its rate waits. So a search delays neither the writer nor other callers.
//!
//! Ordered by device id, a request ends when its page is full or its time is over. A page may therefore be short or empty
//! and still have a next one. The order of a field and the total need all shadows: such a request reads them to the end,
//! keeps the first matches only, and fails when its time is over.

mod cursor;
mod matches;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};

use self::matches::Matches;
use crate::{
    admission::work,
    auth,
    engine::scan::ScanPiece,
    fleet::{Field, Query as DeviceQuery, order::Order, order::Place},
    http::{
        api::{
            Api,
            devices::{failed, last_key, limit, without_cursor},
            history::{link, no_store},
            problem::Problem,
            query::{BadParameter, Query, bad},
            visible::scan_work,
        },
        auth::caller::Caller,
        operation::{Operation, SEARCH, SEARCH_CURSOR, SEARCH_FIELDS, SORT, TOTAL},
    },
    shadow::{ShadowKey, excerpt},
    wire,
};

/// Shadows of a piece, which takes some milliseconds.
const PIECE: usize = 500;
/// The time after which a page in the order of the device ids ends.
const PAGE_TIME: Duration = Duration::from_secs(1);
/// The time after which a request that needs all shadows fails. Clients wait for half a minute.
const WHOLE_TIME: Duration = Duration::from_secs(20);
/// Most ranges of devices; with more, the shadows of all devices are read.
const RANGES_MAX: usize = 1024;
/// Most fields of a result.
const FIELDS_MAX: usize = 32;

/// The parameters of a search.
#[derive(Debug)]
struct ParsedSearch {
    /// The condition; `None` for all devices.
    query: Option<DeviceQuery>,
    /// The fields of a result, as written and parsed.
    fields: Vec<(String, Field)>,
    order: Order,
    total: bool,
    limit: usize,
    /// The place after which the page begins.
    after: Option<Place>,
}

/// `GET /v1/search`
pub(in crate::http) async fn search(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let invalid = |bad: BadParameter| Problem::parameter(&bad.name, &bad.reason, api.now());
    let search = Arc::new(ParsedSearch::read(&uri, &caller, &api).map_err(invalid)?);
    let matches = run(&api, &mut caller, &headers, &search).await?;
    let cursor = matches.cursor(&api, &caller);
    let total = search.total.then(|| matches.total());
    let mut response = no_store(wire::found_devices(&matches.into_page(), total, cursor.as_deref()));
    caller.charge_rendered(&response, &api);
    if let Some(cursor) = cursor {
        let kept = uri.query().map(without_cursor).unwrap_or_default();
        link(&mut response, &format!("{}?{kept}cursor={cursor}", uri.path()));
    }
    Ok(response)
}

/// Reads the shadows of a page, or all.
async fn run(
    api: &Arc<Api>,
    caller: &mut Caller,
    headers: &HeaderMap,
    search: &Arc<ParsedSearch>,
) -> Result<Matches, Problem> {
    let until = Instant::now() + if search.needs_all() { WHOLE_TIME } else { PAGE_TIME };
    let mut matches = Matches::new(api, search);
    let mut after = search.first_key();
    loop {
        let turn = api.read_turn(caller).await;
        caller.renew_for(headers, api)?;
        let ranges = caller.access().devices(auth::Operation::Get, RANGES_MAX);
        let piece = ScanPiece { ranges, after, limit: PIECE };
        let reader = caller.clone();
        let scanned = api.service.scan(piece, turn, move |shadows| matches.with(&reader, shadows)).await;
        let scanned = scanned.map_err(|rejection| failed(&rejection, api))?;
        let wait = caller
            .quota(api)
            .charge_work(scan_work(search.query.as_ref(), scanned.read), Instant::now())
            .unwrap_or_default();
        matches = scanned.visited;
        if scanned.next.is_none() {
            matches.end(caller);
        }
        if scanned.next.is_none() || matches.is_full() {
            return Ok(matches);
        }
        after = scanned.next;
        if Instant::now() + wait >= until && matches.may_end_here() {
            return if search.needs_all() { Err(too_long(api)) } else { Ok(matches) };
        }
        tokio::time::sleep(wait).await;
    }
}

/// Returns a name that is there twice.
fn repeated(fields: &[(String, Field)]) -> Option<&str> {
    let mut names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first().copied())
}

fn too_long(api: &Api) -> Problem {
    let message = format!(
        "The search did not end within {} s; search without 'sort' and 'total', or for a role with more work",
        WHOLE_TIME.as_secs()
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "search-too-long", &message, api.now())
}

impl ParsedSearch {
    fn read(uri: &Uri, caller: &Caller, api: &Api) -> Result<Self, BadParameter> {
        let query = Query::read(uri.query(), Operation::Search.parameters())?;
        let parsed = query.text(&SEARCH)?.map(|text| text.parse::<DeviceQuery>()).transpose();
        let fields = query.text(&SEARCH_FIELDS)?.map(|text| Field::list(&text)).transpose();
        let fields = fields.map_err(|error| bad(SEARCH_FIELDS.name, error.to_string()))?.unwrap_or_default();
        if fields.len() > FIELDS_MAX {
            return Err(bad(SEARCH_FIELDS.name, format!("has {} fields, at most {FIELDS_MAX}", fields.len())));
        }
        if let Some(name) = repeated(&fields) {
            return Err(bad(SEARCH_FIELDS.name, format!("has '{}' more than once", excerpt(name, 64))));
        }
        let order = query.text(&SORT)?;
        let order = order.as_deref().unwrap_or("device").parse::<Order>();
        let order = order.map_err(|error| bad(SORT.name, error.to_string()))?;
        let after = query.text(&SEARCH_CURSOR)?.map(|text| cursor::read(&text, &order, caller, api)).transpose();
        Ok(Self {
            query: parsed.map_err(|error| bad(SEARCH.name, error.to_string()))?,
            fields,
            order,
            total: query.flag(&TOTAL)?.unwrap_or(false),
            limit: limit(&query)?,
            after: after.map_err(|reason| bad(SEARCH_CURSOR.name, reason))?,
        })
    }

    /// Returns true if the first match is only known after all shadows.
    fn needs_all(&self) -> bool {
        self.total || !self.order.is_natural()
    }

    /// Returns the key after which the first piece begins.
    fn first_key(&self) -> Option<ShadowKey> {
        let place = self.after.as_ref().filter(|_| !self.needs_all());
        place.map(|place| last_key(place.device()))
    }
}
