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
    admission::work,
    fleet::{
        Aggregate, Aggregation, Device, Field, Query as DeviceQuery,
        aggregate::{AggregateResult, Aggregated, Statistics, TERM_BYTES_MAX, TERMS_MAX},
    },
    http::{
        api::{
            Api,
            aggregate::{AggregateFailure, PERCENTS_DEFAULT, PERCENTS_MAX, aggregated, number},
            aws, cursor,
            devices::{INVALID_CURSOR, last_key},
            query::{Query, bad},
            scan::{DeviceScan, DeviceVisitor, ScanFailure, WHOLE_TIME, scan},
            search::next_device,
            visible::set_presence,
        },
        auth::{caller::Caller, sigv4},
        operation::Operation,
    },
    shadow::{DeviceId, Rejection, ShadowKey, ShadowName, Timestamp, excerpt},
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
}

/// `POST /indices/search`
pub(in crate::http) async fn search(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let ParsedCall { mut caller, request, query } = parse_call(&api, request).await?;
    let limit = at_most("maxResults", request.max_results, PAGE, PAGE, &api)?;
    let after = request.next_token.map(|token| after(&token, &caller, &api)).transpose()?;
    let query = Arc::new(query);
    let until = Instant::now() + WHOLE_TIME;
    let wanted = DeviceScan { query: Some(&query), devices: None, after, until };
    let now = api.now();
    let visitor = ThingVisitor { api: api.clone(), query: query.clone(), now, limit, things: Vec::new(), bytes: 0 };
    let found = scan(&api, &mut caller, wanted, visitor).await.map_err(|failure| unread(failure, &api))?;
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
    let field = if every_thing { None } else { Some(field(&call.request, &api)?) };
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
    let field = field(&call.request, &api)?;
    let found = aggregate(&api, call, Aggregation::Cardinality, Some(field)).await?;
    let count = if let AggregateResult::Cardinality { count, .. } = found.result { count } else { 0 };
    Ok(aws::answer(json!({ "cardinality": count }).to_string().into()))
}

/// `POST /indices/percentiles`
pub(in crate::http) async fn percentiles(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let call = parse_call(&api, request).await?;
    let field = field(&call.request, &api)?;
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
    let field = field(&call.request, &api)?;
    let kind = call.request.buckets_aggregation_type.as_ref();
    let Some(terms) = kind.and_then(|kind| kind.terms_aggregation.as_ref()) else {
        return Err(aws::invalid(&bad("bucketsAggregationType", "must have termsAggregation"), &api));
    };
    let size = at_most("maxBuckets", terms.max_buckets, BUCKETS, BUCKETS_MAX, &api)?;
    let found = aggregate(&api, call, Aggregation::Terms { size }, Some(field)).await?;
    let AggregateResult::Terms { terms, truncated, .. } = found.result else { return Err(internal(&api)) };
    if truncated {
        let limit = format!("{TERMS_MAX} distinct values, or {TERM_BYTES_MAX} bytes of them");
        return Err(invalid_aggregation(&format!("The field has more than {limit}; query fewer devices"), &api));
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
    known_index(&name, &api)?;
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
        AggregateFailure::Buckets(error) => invalid_aggregation(&error.to_string(), api),
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
    fn reads_shadow(&self, _: Option<&ShadowName>) -> bool {
        true
    }

    fn visit(&mut self, reader: &Caller, mut device: Device) {
        set_presence(&mut device, reader, &self.api);
        if !self.query.matches(&device, self.now) {
            return;
        }
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
    }

    fn has_enough(&self) -> bool {
        self.things.len() >= self.limit || self.bytes >= PAGE_BYTES
    }
}

/// Parses and authenticates a request with a body, and charges it.
async fn parse_call(api: &Arc<Api>, request: Request) -> Result<ParsedCall, Response> {
    let (caller, body) = authenticated(api, request, Operation::AwsSearchIndex).await?;
    let request: IndexRequest = serde_json::from_slice(&body).map_err(|error| {
        let message = format!("Invalid body: {error}");
        aws::refused(StatusCode::BAD_REQUEST, "InvalidRequestException", &message, api.now())
    })?;
    known_index(request.index_name.as_deref().unwrap_or(INDEX), api)?;
    if let Some(version) = request.query_version.as_deref().filter(|version| *version != QUERY_VERSION) {
        let reason = format!("must be {QUERY_VERSION}, not '{}'", excerpt(version, 64));
        return Err(aws::invalid(&bad("queryVersion", reason), api));
    }
    let Some(text) = &request.query_string else {
        return Err(aws::invalid(&bad("queryString", "is missing"), api));
    };
    let query = text.parse::<DeviceQuery>().map_err(|error| {
        aws::refused(StatusCode::BAD_REQUEST, "InvalidQueryException", &error.to_string(), api.now())
    })?;
    Ok(ParsedCall { caller, request, query })
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
fn at_most(name: &str, value: Option<f64>, default: u32, max: u32, api: &Api) -> Result<usize, Response> {
    let value = value.unwrap_or(default.into());
    match value.fract() == 0.0 && (1.0..=f64::from(max)).contains(&value) {
        true => Ok(value as usize),
        false => Err(aws::invalid(&bad(name, format!("must be an integer from 1 to {max}")), api)),
    }
}

/// Returns the key after which the page of a token begins.
fn after(token: &str, caller: &Caller, api: &Api) -> Result<ShadowKey, Response> {
    let device = match cursor::is_sealed(token) {
        false => DeviceId::new(token).ok(),
        true => api.cursors.open(token, caller.principal()),
    };
    device.as_ref().map(last_key).ok_or_else(|| aws::invalid(&bad("nextToken", INVALID_CURSOR), api))
}

/// Returns the field of a request.
fn field(request: &IndexRequest, api: &Api) -> Result<Field, Response> {
    let Some(name) = &request.aggregation_field else {
        return Err(invalid_aggregation(&format!("aggregationField is needed: there is no {EVERY_THING}"), api));
    };
    name.parse().map_err(|error| invalid_aggregation(&format!("aggregationField: {error}"), api))
}

fn known_index(name: &str, api: &Api) -> Result<(), Response> {
    if name == INDEX {
        return Ok(());
    }
    let message = format!("There is no index '{}', only {INDEX}", excerpt(name, 128));
    Err(aws::refused(StatusCode::NOT_FOUND, "ResourceNotFoundException", &message, api.now()))
}

fn invalid_aggregation(message: &str, api: &Api) -> Response {
    aws::refused(StatusCode::BAD_REQUEST, "InvalidAggregationException", message, api.now())
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
