//! `GET /v1/aggregate`: counts, terms, statistics, percentiles, histograms and cardinalities of a field over the devices for
//! which a query is true.
//!
//! An aggregate reads all shadows that the caller may see, as a search with a total does, and fails when its time is over.
//! Without a query, and for a caller who may see everything, an index of the field has the values already.
//! Its memory is bounded by its kind ([`crate::fleet::aggregate`]) and charged to the caller.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use serde_json::{Map, Value, json};

use crate::{
    admission::{Charge, work},
    auth::{Access, DeviceRange},
    fleet::{
        Aggregate, Aggregation, Device, Field, Needs, Query as DeviceQuery,
        aggregate::{AggregateResult, Aggregated, Statistics, TooManyBuckets},
    },
    http::{
        api::{
            history::no_store,
            query::Query,
            search::{too_long, unread},
        },
        auth::caller::Caller,
        operation::{AGGREGATE_FIELD, AGGREGATE_TYPE, INTERVAL, Operation, PERCENTS, SEARCH, SIZE},
        parameter::{BadParameter, Parameter, bad},
        problem::Problem,
        state::Api,
    },
    search::{
        scan::{DeviceScan, DeviceVisitor, ScanEnd, ScanFailure, WHOLE_TIME, scan},
        visible::set_presence,
    },
    shadow::{Rejection, Timestamp},
    store::ValueGroup,
};

/// The number of terms in a result by default.
const TERMS: usize = 10;
/// The percents of a result by default.
pub(super) const PERCENTS_DEFAULT: &[f64] = &[1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0];
/// Most percents of a result.
pub(super) const PERCENTS_MAX: usize = 32;

/// The reason for which an aggregate failed.
#[derive(Debug)]
pub(super) enum AggregateFailure {
    /// The shadows cannot be read.
    Scan(ScanFailure),
    /// The memory of the caller is used up.
    Memory(Rejection),
    /// Not all shadows were read in time.
    TooLong,
    /// The interval of a histogram is too small.
    Buckets(TooManyBuckets),
}

/// An aggregate of the devices for which a query is true.
struct AggregateVisitor {
    api: Arc<Api>,
    query: Option<Arc<DeviceQuery>>,
    /// The time for which ages are computed, the same for all devices.
    now: Timestamp,
    needs: Arc<Needs>,
    aggregate: Aggregate,
    charge: Charge,
    refused: Option<Rejection>,
}

/// `GET /v1/aggregate`
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let (query, aggregate) = parse(&uri).map_err(|bad| api.invalid(&bad))?;
    let aggregated = aggregated(&api, &mut caller, query, aggregate).await;
    let aggregated = aggregated.map_err(|failure| match failure {
        AggregateFailure::Scan(failure) => unread(&failure, &headers, &api),
        AggregateFailure::Memory(rejection) => Problem::general(&rejection, api.now()),
        AggregateFailure::TooLong => too_long("aggregate fewer devices", &api),
        AggregateFailure::Buckets(error) => api.invalid(&bad(INTERVAL.name, error.to_string())),
    })?;
    let response = no_store(rendered(&aggregated).to_string().into());
    caller.charge_rendered(&response, &api);
    Ok(response)
}

/// Returns the aggregate of all devices that the caller may see and for which the query is true.
///
/// # Errors
///
/// An [`AggregateFailure`].
pub(super) async fn aggregated(
    api: &Arc<Api>,
    caller: &mut Caller,
    query: Option<DeviceQuery>,
    aggregate: Aggregate,
) -> Result<Aggregated, AggregateFailure> {
    let query = query.filter(|query| !query.is_true_for_all()).map(Arc::new);
    let until = Instant::now() + WHOLE_TIME;
    let found = if query.is_none() { indexed(api, caller, &aggregate).await? } else { None };
    if let Some((found, others)) = found {
        let aggregate = scanned(api, caller, (None, Some(others)), found, until).await?;
        // The values that it counts by themselves are the first ones, and those of a scan are others.
        if !aggregate.is_truncated() {
            return aggregate.into_result().map_err(AggregateFailure::Buckets);
        }
    }
    let aggregate = scanned(api, caller, (query, None), aggregate, until).await?;
    aggregate.into_result().map_err(AggregateFailure::Buckets)
}

/// Returns `aggregate` with the devices for which the query is true, of these or all.
async fn scanned(
    api: &Arc<Api>,
    caller: &mut Caller,
    (query, devices): (Option<Arc<DeviceQuery>>, Option<Vec<DeviceRange>>),
    aggregate: Aggregate,
    until: Instant,
) -> Result<Aggregate, AggregateFailure> {
    let mut charge = Charge::new(caller.quota(api), 0);
    api.service.quotas().grow(&mut charge, aggregate.memory()).map_err(AggregateFailure::Memory)?;
    let wanted = DeviceScan { query: query.as_deref(), devices, after: None, until };
    let visitor = AggregateVisitor {
        api: api.clone(),
        query: query.clone(),
        now: api.now(),
        needs: Arc::new(Needs::default().with_query(query.as_deref()).with_fields(aggregate.field())),
        aggregate,
        charge,
        refused: None,
    };
    let scanned = scan(&api.search, caller, wanted, visitor).await.map_err(AggregateFailure::Scan)?;
    match (scanned.visitor.refused, scanned.end) {
        (Some(rejection), _) => Err(AggregateFailure::Memory(rejection)),
        (None, ScanEnd::TimeOver) => Err(AggregateFailure::TooLong),
        (None, ScanEnd::Complete | ScanEnd::Enough) => Ok(scanned.visitor.aggregate),
    }
}

/// Returns the aggregate of all devices that an index knows in their newest state, and the other devices. `None` if the caller
/// may not see everything, no index has the field, or it has more values than are counted.
async fn indexed(
    api: &Arc<Api>,
    caller: &mut Caller,
    aggregate: &Aggregate,
) -> Result<Option<(Aggregate, Vec<DeviceRange>)>, AggregateFailure> {
    let path = aggregate.field().map(Field::path);
    if path == Some(None) || !caller.has_all_rights() {
        return Ok(None);
    }
    let turn = caller.read_turn(api).await;
    let collect = |(aggregate, groups): &mut (Aggregate, usize), group: ValueGroup<'_>| {
        aggregate.add_values(group.values, group.devices, group.first);
        *groups += 1;
        match aggregate.has_failed() || aggregate.is_truncated() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let found = api.service.indexed_values(path.flatten(), (aggregate.emptied(), 0), turn, collect).await;
    let found = found.map_err(|rejection| AggregateFailure::Scan(ScanFailure::Rejected(rejection)))?;
    let (found, read) = found;
    let (groups, devices) = found.as_ref().map_or((0, 0), |((_, groups), found)| (*groups, found.devices));
    let steps = usize::try_from(devices).unwrap_or(usize::MAX).max(read);
    let work = work::times(steps, 1) / work::STEPS_PER_UNIT + work::times(groups, 1);
    let _delays_the_next = caller.quota(api).charge_work(work, Instant::now());
    let Some(((mut aggregate, _), devices)) = found.filter(|((found, _), _)| !found.is_truncated()) else {
        return Ok(None);
    };
    aggregate.add_devices(devices.devices);
    Ok(Some((aggregate, devices.others.into_iter().map(DeviceRange::One).collect())))
}

impl DeviceVisitor for AggregateVisitor {
    fn needs(&self) -> Arc<Needs> {
        Arc::clone(&self.needs)
    }

    fn visit(&mut self, reader: &Access, mut device: Device, _again: &mut dyn FnMut(&Needs) -> Device) {
        let query = self.query.as_deref();
        if self.needs.presence() {
            set_presence(&mut device, reader, &*self.api.presence);
        }
        if query.is_none_or(|query| query.matches(&device, self.now)) {
            self.aggregate.add(&device);
            let grown = self.api.service.quotas().grow(&mut self.charge, self.aggregate.memory());
            self.refused = grown.err();
        }
    }

    fn has_enough(&self) -> bool {
        self.refused.is_some() || self.aggregate.has_failed()
    }

    fn needs_all(&self) -> bool {
        true
    }
}

/// Parses the query and the aggregate.
fn parse(uri: &Uri) -> Result<(Option<DeviceQuery>, Aggregate), BadParameter> {
    let query = Query::read(uri.query(), Operation::Aggregate.parameters())?;
    let wanted = query.text(&SEARCH)?.map(|text| text.parse::<DeviceQuery>()).transpose();
    let wanted = wanted.map_err(|error| bad(SEARCH.name, error.to_string()))?;
    let kind = query.text(&AGGREGATE_TYPE)?.unwrap_or("count".into());
    let aggregation = match &*kind {
        "count" => Aggregation::Count,
        "terms" => {
            Aggregation::Terms { size: query.integer(&SIZE)?.and_then(|size| size.try_into().ok()).unwrap_or(TERMS) }
        }
        "stats" => Aggregation::Statistics,
        "percentiles" => Aggregation::Percentiles(match query.text(&PERCENTS)? {
            None => PERCENTS_DEFAULT.to_vec(),
            Some(text) => percents(&text).map_err(|reason| bad(PERCENTS.name, reason))?,
        }),
        "histogram" => Aggregation::Histogram {
            interval: interval(query.text(&INTERVAL)?.as_deref()).map_err(|reason| bad(INTERVAL.name, reason))?,
        },
        "cardinality" => Aggregation::Cardinality,
        _ => {
            let reason = "must be count, terms, stats, percentiles, histogram or cardinality";
            return Err(bad(AGGREGATE_TYPE.name, reason));
        }
    };
    let of: [(&'static Parameter, &str); 3] = [(&SIZE, "terms"), (&PERCENTS, "percentiles"), (&INTERVAL, "histogram")];
    for (parameter, needed) in of {
        if needed != kind && query.text(parameter)?.is_some() {
            return Err(bad(parameter.name, format!("is only for type={needed}")));
        }
    }
    let field = query.text(&AGGREGATE_FIELD)?.map(|text| text.parse::<Field>()).transpose();
    let field = field.map_err(|error| bad(AGGREGATE_FIELD.name, error.to_string()))?;
    if field.is_none() && aggregation != Aggregation::Count {
        return Err(bad(AGGREGATE_FIELD.name, format!("is needed for type={kind}")));
    }
    Ok((wanted, Aggregate::new(aggregation, field)))
}

fn percents(text: &str) -> Result<Vec<f64>, String> {
    let percent = |text: &str| text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    let percents: Option<Vec<f64>> = text.split(',').map(percent).collect();
    let percents = percents.ok_or("must be numbers from 0 to 100, separated by commas")?;
    if percents.len() > PERCENTS_MAX {
        return Err(format!("has {} percents, at most {PERCENTS_MAX}", percents.len()));
    }
    Ok(percents)
}

fn interval(text: Option<&str>) -> Result<f64, String> {
    let text = text.ok_or("is needed for type=histogram")?;
    let interval = text.parse().ok().filter(|interval: &f64| interval.is_finite() && *interval > 0.0);
    interval.ok_or_else(|| "must be a number above 0".to_owned())
}

fn rendered(aggregated: &Aggregated) -> Value {
    let mut body = Map::from_iter([("devices".to_owned(), aggregated.devices.into())]);
    let mut put = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    put("withValue", aggregated.with_value.into());
    match &aggregated.result {
        AggregateResult::Count => {}
        AggregateResult::Terms { terms, other, truncated } => {
            put("terms", terms.iter().map(|term| json!({ "value": term.value, "count": term.count })).collect());
            put("other", (*other).into());
            put("truncated", (*truncated).into());
        }
        AggregateResult::Statistics(statistics) => put("stats", rendered_statistics(statistics)),
        AggregateResult::Percentiles { percentiles, exact } => {
            let pair = |(percent, value): &(f64, f64)| json!({ "percent": number(*percent), "value": number(*value) });
            put("percentiles", percentiles.iter().map(pair).collect());
            put("exact", (*exact).into());
        }
        AggregateResult::Histogram(buckets) => {
            let bucket = buckets.iter().map(|bucket| json!({ "from": number(bucket.from), "count": bucket.count }));
            put("buckets", bucket.collect());
        }
        AggregateResult::Cardinality { count, exact } => {
            put("cardinality", (*count).into());
            put("exact", (*exact).into());
        }
    }
    body.into()
}

/// Returns the statistics in JSON. Those beyond the range of a double are missing; without numbers, all but the count.
fn rendered_statistics(statistics: &Statistics) -> Value {
    let mut members = Map::from_iter([("count".to_owned(), statistics.count.into())]);
    if statistics.count > 0 {
        for (name, value) in [
            ("sum", statistics.sum),
            ("min", statistics.min),
            ("max", statistics.max),
            ("avg", statistics.mean),
            ("variance", statistics.variance()),
            ("stdDev", statistics.variance().sqrt()),
        ] {
            members.extend(number(value).map(|number| (name.to_owned(), number)));
        }
    }
    members.into()
}

/// Returns a number in JSON, without a fraction if it has none; `None` if it is beyond the range of a double.
pub(super) fn number(value: f64) -> Option<Value> {
    let is_integer = value.fract() == 0.0 && value.abs() < EXACT_INTEGER_MAX;
    if is_integer { Some((value as i64).into()) } else { serde_json::Number::from_f64(value).map(Value::Number) }
}

/// The bound up to which doubles represent all integers.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_refusal_names_the_parameter() {
        for (query, expected) in [
            ("", None),
            ("field=tags.a", None),
            ("type=terms&field=tags.a&size=1000", None),
            ("type=percentiles&field=tags.a&percents=0,99.9,100", None),
            ("type=histogram&field=tags.a&interval=0.5", None),
            ("type=sum", Some("type: must be count, terms, stats, percentiles, histogram or cardinality")),
            ("type=terms", Some("field: is needed for type=terms")),
            ("type=terms&field=colour", Some("field: column 1: unknown field 'colour'; fields are device, connected,")),
            ("type=terms&field=tags.a,tags.b", Some("field: column 1: expected one field")),
            ("type=terms&field=tags.a&size=0", Some("size: must be an integer from 1 to 1000")),
            ("type=stats&field=tags.a&size=5", Some("size: is only for type=terms")),
            ("percents=5", Some("percents: is only for type=percentiles")),
            ("type=percentiles&field=tags.a&percents=101", Some("percents: must be numbers from 0 to 100,")),
            ("type=percentiles&field=tags.a&percents=", Some("percents: must be numbers from 0 to 100,")),
            ("type=histogram&field=tags.a", Some("interval: is needed for type=histogram")),
            ("type=histogram&field=tags.a&interval=0", Some("interval: must be a number above 0")),
            ("type=histogram&field=tags.a&interval=inf", Some("interval: must be a number above 0")),
            ("q=drift:maybe", Some("q: column 7: expected true, false or *, for drift")),
        ] {
            let found = parse(&format!("/v1/aggregate?{query}").parse().unwrap()).err();
            let found = found.map(|bad| format!("{}: {}", bad.name, bad.reason));
            match expected {
                None => assert_eq!(found, None, "{query}"),
                Some(expected) => assert!(found.as_ref().unwrap().starts_with(expected), "{query}: {found:?}"),
            }
        }
        let many = ["5"; 33].join(",");
        let found = percents(&many).err();
        assert_eq!(found.as_deref(), Some("has 33 percents, at most 32"));
    }

    #[test]
    fn numbers_have_a_fraction_only_if_they_need_one() {
        for (value, expected) in [
            (80.0, "80"),
            (-0.5, "-0.5"),
            (1e300, "1e+300"),
            (9_007_199_254_740_992.0, "9007199254740992.0"),
            (f64::INFINITY, "null"),
        ] {
            assert_eq!(number(value).unwrap_or_default().to_string(), expected);
        }
    }
}
