//! Fleet indexing of AWS IoT: `SearchIndex` and the aggregates, over the one index of all things.
//!
//! A thing is a device, and what AWS has in its registry are the tags of the classic shadow. A query and an aggregate are those of
//! `/v1/search` and `/v1/aggregate`; this module has the requests, results and exceptions of AWS. A page of a search ends
//! when it is full, large, or its time is over.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    admission::{Charge, work},
    auth::Access,
    fleet::{
        Aggregate, Aggregation, Device, Field, Needs, Query as DeviceQuery, QueryError,
        aggregate::{AggregateResult, Aggregated, Statistics, TERM_BYTES_MAX, TERMS_MAX},
    },
    http::{
        api::{
            aggregate::{AggregateFailure, PERCENTS_DEFAULT, PERCENTS_MAX, aggregated, number},
            aws,
            devices::INVALID_CURSOR,
            query::Query,
            search::next_device,
        },
        auth::{caller::Caller, sigv4},
        cursor,
        operation::Operation,
        parameter::{BadParameter, bad},
        state::Api,
    },
    search::{
        scan::{DeviceScan, DeviceVisitor, ScanFailure, WHOLE_TIME, last_key, scan},
        visible::set_presence,
    },
    shadow::{DeviceId, Rejection, ShadowKey, Timestamp, excerpt},
    wire::aws::index::{self, IndexedShadow, IndexedThing},
};

/// The name of the index.
const INDEX: &str = "AWS_Things";
/// The version of the query language.
const QUERY_VERSION: &str = "2017-09-30";
/// Most things of a page, also by default.
const PAGE: u32 = 100;
/// The bytes of things after which a page ends.
const PAGE_BYTES: usize = 1 << 20;
/// Most buckets of a result, and their number by default.
const BUCKETS_MAX: u32 = 10_000;
const BUCKETS: u32 = 10;
/// The field that every thing has in AWS, and that is aggregated by default.
const EVERY_THING: &str = "registry.version";

/// The body of a request to the index, with the members of all operations.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IndexRequest {
    index_name: Option<String>,
    query_string: Option<String>,
    query_version: Option<String>,
    next_token: Option<String>,
    /// An integer, as JSON has it: with or without a fraction of zero.
    max_results: Option<f64>,
    aggregation_field: Option<String>,
    percents: Option<Vec<f64>>,
    buckets_aggregation_type: Option<BucketsAggregationType>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BucketsAggregationType {
    terms_aggregation: Option<TermsAggregation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TermsAggregation {
    max_buckets: Option<f64>,
}

/// An authenticated request to the index.
struct ParsedCall {
    caller: Caller,
    request: IndexRequest,
    query: DeviceQuery,
}

/// The reason that a request is refused.
enum InvalidCall {
    Parameter(BadParameter),
    Body(serde_json::Error),
    /// The index of this name does not exist.
    Index(String),
    Query(QueryError),
    Aggregation(String),
}

/// The things that a search found.
struct ThingVisitor {
    api: Arc<Api>,
    query: Arc<DeviceQuery>,
    /// The time for which ages are computed, the same for all devices.
    now: Timestamp,
    limit: usize,
    /// Each in JSON.
    things: Vec<Bytes>,
    bytes: usize,
    charge: Charge,
    refused: Option<Rejection>,
}

/// `POST /indices/search`
pub(in crate::http) async fn search(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let ParsedCall { mut caller, request, query } = parse_call(&api, request).await?;
    let page = || -> Result<_, InvalidCall> {
        let after = request.next_token.as_ref().map(|token| after(token, &caller, &api)).transpose()?;
        Ok((at_most("maxResults", request.max_results, PAGE, PAGE)?, after))
    };
    let (limit, after) = page().map_err(|invalid| invalid.answer(&api))?;
    let query = Arc::new(query);
    let until = Instant::now() + WHOLE_TIME;
    let wanted = DeviceScan { query: Some(&query), devices: None, after, until };
    let now = api.now();
    let visitor = ThingVisitor {
        api: api.clone(),
        query: query.clone(),
        now,
        limit,
        things: Vec::new(),
        bytes: 0,
        charge: Charge::new(caller.quota(&api), 0),
        refused: None,
    };
    let found = scan(&api.search, &mut caller, wanted, visitor).await.map_err(|failure| unread(failure, &api))?;
    if let Some(rejection) = &found.visitor.refused {
        return Err(aws::rejected_anywhere(rejection, &api));
    }
    let next = next_device(&found, &api, &caller);
    let response = aws::answer(index::things(&found.visitor.things, next.as_deref()));
    caller.charge_rendered(&response, &api);
    Ok(response)
}

/// `POST /indices/statistics`
pub(in crate::http) async fn statistics(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let call = parse_call(&api, request).await?;
    let every_thing = call.request.aggregation_field.as_deref().is_none_or(|field| field == EVERY_THING);
    let aggregation = if every_thing { Aggregation::Count } else { Aggregation::Statistics };
    let field = if every_thing { Ok(None) } else { field(&call.request).map(Some) };
    let field = field.map_err(|invalid| invalid.answer(&api))?;
    let found = aggregate(&api, call, aggregation, field).await?;
    let statistics = match &found.result {
        AggregateResult::Statistics(statistics) if statistics.count > 0 => of_numbers(statistics),
        AggregateResult::Statistics(_) => json!({ "count": found.with_value }),
        _ => json!({ "count": found.devices }),
    };
    Ok(aws::answer(json!({ "statistics": statistics }).to_string().into()))
}

/// `POST /indices/cardinality`
pub(in crate::http) async fn cardinality(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let call = parse_call(&api, request).await?;
    let field = field(&call.request).map_err(|invalid| invalid.answer(&api))?;
    let found = aggregate(&api, call, Aggregation::Cardinality, Some(field)).await?;
    let count = if let AggregateResult::Cardinality { count, .. } = found.result { count } else { 0 };
    Ok(aws::answer(json!({ "cardinality": count }).to_string().into()))
}

/// `POST /indices/percentiles`
pub(in crate::http) async fn percentiles(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let call = parse_call(&api, request).await?;
    let field = field(&call.request).map_err(|invalid| invalid.answer(&api))?;
    let percents = call.request.percents.clone().unwrap_or_else(|| PERCENTS_DEFAULT.to_vec());
    if percents.len() > PERCENTS_MAX || percents.iter().any(|percent| !(0.0..=100.0).contains(percent)) {
        let reason = format!("must be at most {PERCENTS_MAX} numbers from 0 to 100");
        return Err(aws::invalid(&bad("percents", reason), &api));
    }
    let found = aggregate(&api, call, Aggregation::Percentiles(percents), Some(field)).await?;
    let pairs = if let AggregateResult::Percentiles { percentiles, .. } = found.result { percentiles } else { vec![] };
    let pair = |(percent, value): (f64, f64)| json!({ "percent": number(percent), "value": number(value) });
    let pairs: Vec<Value> = pairs.into_iter().map(pair).collect();
    Ok(aws::answer(json!({ "percentiles": pairs }).to_string().into()))
}

/// `POST /indices/buckets`
pub(in crate::http) async fn buckets(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let call = parse_call(&api, request).await?;
    let field = field(&call.request).map_err(|invalid| invalid.answer(&api))?;
    let kind = call.request.buckets_aggregation_type.as_ref();
    let Some(terms) = kind.and_then(|kind| kind.terms_aggregation.as_ref()) else {
        return Err(aws::invalid(&bad("bucketsAggregationType", "must have termsAggregation"), &api));
    };
    let size = at_most("maxBuckets", terms.max_buckets, BUCKETS, BUCKETS_MAX);
    let size = size.map_err(|invalid| invalid.answer(&api))?;
    let found = aggregate(&api, call, Aggregation::Terms { size }, Some(field)).await?;
    let AggregateResult::Terms { terms, truncated, .. } = found.result else { return Err(internal(&api)) };
    if truncated {
        let limit = format!("{TERMS_MAX} distinct values, or {TERM_BYTES_MAX} bytes of them");
        return Err(
            InvalidCall::Aggregation(format!("The field has more than {limit}; query fewer devices")).answer(&api)
        );
    }
    let bucket = |value: Value, count| match value {
        Value::String(text) => json!({ "keyValue": text, "count": count }),
        value => json!({ "keyValue": value.to_string(), "count": count }),
    };
    let buckets: Vec<Value> = terms.into_iter().map(|term| bucket(term.value, term.count)).collect();
    Ok(aws::answer(json!({ "totalCount": found.devices, "buckets": buckets }).to_string().into()))
}

/// `GET /indices`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    authenticated(&api, request, Operation::AwsListIndices).await?;
    Ok(aws::answer(json!({ "indexNames": [INDEX] }).to_string().into()))
}

/// `GET /indices/{index}`
pub(in crate::http) async fn describe(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let (mut parts, body) = request.into_parts();
    let parameters = RawPathParams::from_request_parts(&mut parts, &api).await;
    let name = parameters.ok().and_then(|all| all.iter().next().map(|(_, name)| name.to_owned())).unwrap_or_default();
    authenticated(&api, Request::from_parts(parts, body), Operation::AwsDescribeIndex).await?;
    known_index(&name).map_err(|invalid| invalid.answer(&api))?;
    let index = json!({ "indexName": INDEX, "indexStatus": "ACTIVE", "schema": "MULTI_INDEXING_MODE" });
    Ok(aws::answer(index.to_string().into()))
}

/// Computes an aggregate of the devices of a request.
async fn aggregate(
    api: &Arc<Api>,
    call: ParsedCall,
    aggregation: Aggregation,
    field: Option<Field>,
) -> Result<Aggregated, Response> {
    let ParsedCall { mut caller, query, .. } = call;
    let found = aggregated(api, &mut caller, Some(query), Aggregate::new(aggregation, field)).await;
    found.map_err(|failure| match failure {
        AggregateFailure::Scan(failure) => unread(failure, api),
        AggregateFailure::Memory(rejection) => aws::rejected_anywhere(&rejection, api),
        AggregateFailure::TooLong => {
            let message = format!("The devices were not read within {} s; query fewer", WHOLE_TIME.as_secs());
            aws::refused(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", &message, api.now())
        }
        AggregateFailure::Buckets(error) => InvalidCall::Aggregation(error.to_string()).answer(api),
    })
}

fn of_numbers(statistics: &Statistics) -> Value {
    let mut members = Map::from_iter([("count".to_owned(), statistics.count.into())]);
    for (name, value) in [
        ("average", statistics.mean),
        ("sum", statistics.sum),
        ("minimum", statistics.min),
        ("maximum", statistics.max),
        ("sumOfSquares", statistics.sum_of_squares),
        ("variance", statistics.variance()),
        ("stdDeviation", statistics.variance().sqrt()),
    ] {
        members.extend(number(value).map(|number| (name.to_owned(), number)));
    }
    members.into()
}

impl DeviceVisitor for ThingVisitor {
    fn needs(&self) -> Arc<Needs> {
        Arc::new(Needs::default().with_query(Some(&self.query)))
    }

    fn visit(&mut self, reader: &Access, mut device: Device, again: &mut dyn FnMut(&Needs) -> Device) {
        set_presence(&mut device, reader, &*self.api.presence);
        if !self.query.matches(&device, self.now) {
            return;
        }
        let device = Device { presence: device.presence, ..again(&Needs::everything()) };
        let shadows = device.shadows.iter().map(|shadow| IndexedShadow {
            name: shadow.name.as_ref(),
            document: &shadow.document,
            has_delta: !shadow.delta.is_empty(),
        });
        let connectivity = device.presence.map(|presence| (presence.connected, presence.seen));
        let found = IndexedThing { name: device.id.as_str(), shadows: shadows.collect(), connectivity };
        let thing = index::thing(&found);
        self.bytes += thing.len();
        self.things.push(thing);
        self.refused = self.api.service.quotas().grow(&mut self.charge, self.bytes).err();
    }

    fn has_enough(&self) -> bool {
        self.refused.is_some() || self.things.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    fn needs_all(&self) -> bool {
        false
    }
}

/// Parses and authenticates a request with a body, and charges it.
async fn parse_call(api: &Arc<Api>, request: Request) -> Result<ParsedCall, Response> {
    let (caller, body) = authenticated(api, request, Operation::AwsSearchIndex).await?;
    let (request, query) = parse(&body).map_err(|invalid| invalid.answer(api))?;
    Ok(ParsedCall { caller, request, query })
}

/// Parses a body.
fn parse(body: &[u8]) -> Result<(IndexRequest, DeviceQuery), InvalidCall> {
    let request: IndexRequest = serde_json::from_slice(body).map_err(InvalidCall::Body)?;
    known_index(request.index_name.as_deref().unwrap_or(INDEX))?;
    if let Some(version) = request.query_version.as_deref().filter(|version| *version != QUERY_VERSION) {
        let reason = format!("must be {QUERY_VERSION}, not '{}'", excerpt(version, 64));
        return Err(InvalidCall::Parameter(bad("queryVersion", reason)));
    }
    let text = request.query_string.as_ref().ok_or_else(|| InvalidCall::Parameter(bad("queryString", "is missing")))?;
    let query = text.parse().map_err(InvalidCall::Query)?;
    Ok((request, query))
}

/// Authenticates a request, reads its body, and charges it.
async fn authenticated(api: &Arc<Api>, request: Request, operation: Operation) -> Result<(Caller, Bytes), Response> {
    let (mut parts, body) = request.into_parts();
    let text = sigv4::without_signature(&parts).into_owned();
    let read = || {
        let query = Query::read(Some(&text), operation.parameters())?;
        operation.parameters().iter().try_for_each(|parameter| query.integer(parameter).map(|_| ()))
    };
    read().map_err(|bad| aws::invalid(&bad, api))?;
    let (caller, body) = aws::caller_anywhere(api, &mut parts, body).await?;
    caller.charge(work::PAGE, api).map_err(|rejection| aws::rejected_anywhere(&rejection, api))?;
    Ok((caller, body))
}

/// Returns the number in a request, from 1 to `max`.
fn at_most(name: &str, value: Option<f64>, default: u32, max: u32) -> Result<usize, InvalidCall> {
    let value = value.unwrap_or(default.into());
    match value.fract() == 0.0 && (1.0..=f64::from(max)).contains(&value) {
        true => Ok(value as usize),
        false => Err(InvalidCall::Parameter(bad(name, format!("must be an integer from 1 to {max}")))),
    }
}

/// Returns the key after which the page of a token begins.
fn after(token: &str, caller: &Caller, api: &Api) -> Result<ShadowKey, InvalidCall> {
    let device = match cursor::is_sealed(token) {
        false => DeviceId::new(token).ok(),
        true => api.cursors.open(token, caller.principal()),
    };
    device.as_ref().map(last_key).ok_or_else(|| InvalidCall::Parameter(bad("nextToken", INVALID_CURSOR)))
}

/// Returns the field of a request.
fn field(request: &IndexRequest) -> Result<Field, InvalidCall> {
    let Some(name) = &request.aggregation_field else {
        return Err(InvalidCall::Aggregation(format!("aggregationField is needed: there is no {EVERY_THING}")));
    };
    name.parse().map_err(|error| InvalidCall::Aggregation(format!("aggregationField: {error}")))
}

fn known_index(name: &str) -> Result<(), InvalidCall> {
    if name == INDEX { Ok(()) } else { Err(InvalidCall::Index(excerpt(name, 128).to_owned())) }
}

impl InvalidCall {
    fn answer(self, api: &Api) -> Response {
        let (status, exception, message) = match self {
            Self::Parameter(bad) => return aws::invalid(&bad, api),
            Self::Body(error) => (StatusCode::BAD_REQUEST, "InvalidRequestException", format!("Invalid body: {error}")),
            Self::Index(name) => {
                let message = format!("There is no index '{name}', only {INDEX}");
                (StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
            }
            Self::Query(error) => (StatusCode::BAD_REQUEST, "InvalidQueryException", error.to_string()),
            Self::Aggregation(message) => (StatusCode::BAD_REQUEST, "InvalidAggregationException", message),
        };
        aws::refused(status, exception, &message, api.now())
    }
}

fn internal(api: &Api) -> Response {
    aws::rejected_anywhere(&Rejection::Internal, api)
}

fn unread(failure: ScanFailure, api: &Api) -> Response {
    match failure {
        ScanFailure::Unauthorized => aws::rejected_anywhere(&Rejection::Unauthorized, api),
        ScanFailure::Rejected(rejection) => aws::rejected_anywhere(&rejection, api),
    }
}
