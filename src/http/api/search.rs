//! `GET /v1/search`: the devices for which a query is true.
//!
//! The devices that the caller may see are scanned in the order of their ids ([`super::scan`]).
//!
//! Ordered by device id, a request ends when its page is full or its time is over. A page may therefore be short or empty
//! and still have a next one. The order of a field and the total need all shadows: such a request reads them to the end,
//! keeps the first matches only, and fails when its time is over.

mod cursor;
pub(in crate::http) mod live;
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
    admission::{Charge, work},
    fleet::{
        Field, Needs, Query as DeviceQuery,
        order::{Order, Place},
    },
    http::{
        api::{
            devices::{failed, limit, without_cursor},
            history::{link, no_store},
            query::Query,
        },
        auth::caller::{Caller, unauthorized},
        operation::{Operation, SEARCH, SEARCH_CURSOR, SEARCH_FIELDS, SORT, TOTAL},
        parameter::{BadParameter, bad},
        problem::Problem,
        state::Api,
    },
    search::scan::{DeviceScan, ScanEnd, ScanFailure, Scanned, WHOLE_TIME, last_key, scan},
    shadow::{Rejection, ShadowKey, excerpt},
    wire,
};

/// The time after which a page in the order of the device ids ends.
const PAGE_TIME: Duration = Duration::from_secs(1);
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
    /// The parts of a device by which it is found and ordered.
    examined: Arc<Needs>,
    /// The parts of a device that are in the result.
    shown: Needs,
}

/// `GET /v1/search`
pub(in crate::http) async fn search(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let search = Arc::new(ParsedSearch::read(&uri, &caller, &api).map_err(|bad| api.invalid(&bad))?);
    let scanned = run(&api, &mut caller, &headers, &search).await?;
    if let Some(rejection) = scanned.visitor.refused() {
        return Err(Problem::general(rejection, api.now()));
    }
    let cursor = search.cursor(&scanned, &api, &caller);
    let matches = scanned.visitor;
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
) -> Result<Scanned<Matches>, Problem> {
    let until = Instant::now() + if search.needs_all() { WHOLE_TIME } else { PAGE_TIME };
    let wanted = DeviceScan { query: search.query.as_ref(), devices: None, after: search.first_key(), until };
    let matches = Matches::new(api, search, Charge::new(caller.quota(api), 0));
    let scanned = scan(&api.search, caller, wanted, matches).await.map_err(|failure| unread(&failure, headers, api))?;
    match scanned.end {
        ScanEnd::TimeOver if search.needs_all() => Err(too_long("search without 'sort' and 'total'", api)),
        _ => Ok(scanned),
    }
}

/// Returns the problem of a scan that failed, for the request with `headers`.
pub(super) fn unread(failure: &ScanFailure, headers: &HeaderMap, api: &Api) -> Problem {
    match failure {
        ScanFailure::Unauthorized => unauthorized(headers, api),
        ScanFailure::Rejected(rejection @ Rejection::TooManyRequests { .. }) => Problem::general(rejection, api.now()),
        ScanFailure::Rejected(rejection) => failed(rejection, api),
    }
}

/// Returns the cursor of the devices after `scanned`, if there may be some.
pub(super) fn next_device<V>(scanned: &Scanned<V>, api: &Api, reader: &Caller) -> Option<String> {
    scanned.last.as_ref().filter(|_| scanned.end != ScanEnd::Complete).map(|(device, is_visible)| match is_visible {
        true => device.as_str().to_owned(),
        false => api.cursors.seal(device, reader.principal()),
    })
}

/// Returns the name of a field that is there before, maybe under another name.
fn repeated(fields: &[(String, Field)]) -> Option<&str> {
    let is_known =
        |(index, (_, field)): &(usize, &(String, Field))| fields.iter().take(*index).any(|it| it.1 == *field);
    fields.iter().enumerate().find(is_known).map(|(_, (name, _))| name.as_str())
}

/// Returns the problem of a scan whose time was over; `instead` says what else could be done.
pub(super) fn too_long(instead: &str, api: &Api) -> Problem {
    let message =
        format!("The search did not end within {} s; {instead}, or for a role with more work", WHOLE_TIME.as_secs());
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
        let parsed = parsed.map_err(|error| bad(SEARCH.name, error.to_string()))?;
        Ok(Self {
            examined: Arc::new(Needs::default().with_query(parsed.as_ref()).with_fields([order.field()])),
            shown: Needs::default().with_fields(fields.iter().map(|(_, field)| field).chain([&Field::Drift])),
            query: parsed,
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

    /// Returns the cursor of the next page, if there may be one.
    fn cursor(&self, scanned: &Scanned<Matches>, api: &Api, reader: &Caller) -> Option<String> {
        match self.needs_all() {
            true => scanned.visitor.last_place(),
            false => next_device(scanned, api, reader),
        }
    }

    /// Returns the key after which the first piece begins.
    fn first_key(&self) -> Option<ShadowKey> {
        let place = self.after.as_ref().filter(|_| !self.needs_all());
        place.map(|place| last_key(place.device()))
    }
}
