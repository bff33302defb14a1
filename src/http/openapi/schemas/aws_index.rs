//! The schemas of AWS's fleet indexing.

use serde_json::{Map, Value, json};

use super::{closed, list, put, reference, set, version};

/// Adds the schemas.
pub(super) fn all(schemas: &mut Map<String, Value>) {
    requests(schemas);
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "number" }));
    let texts = json!({ "type": "object", "additionalProperties": text });
    let time = json!({ "type": "integer", "minimum": 0, "description": "Milliseconds since 1970" });
    let connectivity = [("connected", json!({ "type": "boolean" })), ("timestamp", time)];
    put(schemas, "AwsConnectivity", closed(connectivity, &["connected"]));
    let shadow = json!({ "type": "string", "description": "The shadows in JSON" });
    let thing = [
        ("thingName", text.clone()),
        ("thingTypeName", text.clone()),
        ("thingGroupNames", json!({ "type": "array", "items": text })),
        ("attributes", texts),
        ("shadow", shadow),
        ("connectivity", reference("AwsConnectivity")),
    ];
    put(schemas, "AwsThing", closed(thing, &["thingName", "shadow"]));
    put(schemas, "AwsThings", closed([("things", list("AwsThing")), ("nextToken", text.clone())], &["things"]));
    let names = ["average", "sum", "minimum", "maximum", "sumOfSquares", "variance", "stdDeviation"];
    let statistics = names.map(|name| (name, number.clone())).into_iter().chain([("count", version(0))]);
    put(schemas, "AwsStatistic", closed(statistics, &["count"]));
    put(schemas, "AwsStatistics", closed([("statistics", reference("AwsStatistic"))], &["statistics"]));
    put(schemas, "AwsCardinality", closed([("cardinality", version(0))], &["cardinality"]));
    put(schemas, "AwsPercentiles", closed([("percentiles", list("Percentile"))], &["percentiles"]));
    put(schemas, "AwsBucket", closed([("keyValue", text.clone()), ("count", version(1))], &["keyValue", "count"]));
    let buckets = [("totalCount", version(0)), ("buckets", list("AwsBucket"))];
    put(schemas, "AwsBuckets", closed(buckets, &["totalCount", "buckets"]));
    let names = json!({ "type": "array", "items": text });
    put(schemas, "AwsIndices", closed([("indexNames", names)], &["indexNames"]));
    let index = ["indexName", "indexStatus", "schema"];
    put(schemas, "AwsIndex", closed(index.map(|name| (name, text.clone())), &index));
}

fn requests(schemas: &mut Map<String, Value>) {
    let integer = |max: u32| json!({ "type": ["integer", "null"], "minimum": 1, "maximum": max });
    let query = [
        ("queryString", json!({ "type": "string", "minLength": 1 })),
        ("indexName", json!({ "enum": ["AWS_Things", null] })),
        ("queryVersion", json!({ "enum": ["2017-09-30", null] })),
    ];
    let field = ("aggregationField", json!({ "type": ["string", "null"], "minLength": 1 }));
    let token = ("nextToken", json!({ "type": ["string", "null"], "minLength": 1 }));
    let percent = json!({ "type": "number", "minimum": 0, "maximum": 100 });
    let percents = json!({ "type": ["array", "null"], "items": percent, "maxItems": 32 });
    let terms = closed([("maxBuckets", integer(10_000))], &[]);
    put(schemas, "AwsTerms", ignoring_others(terms));
    let kind = closed([("termsAggregation", reference("AwsTerms"))], &["termsAggregation"]);
    put(schemas, "AwsBucketsType", ignoring_others(kind));
    let with = |more: &[(&'static str, Value)], needs: &[&str]| {
        let needs: Vec<&str> = needs.iter().copied().chain(["queryString"]).collect();
        ignoring_others(closed(query.iter().chain(more).cloned(), &needs))
    };
    put(schemas, "AwsIndexQuery", with(&[token, ("maxResults", integer(100))], &[]));
    put(schemas, "AwsAggregation", with(std::slice::from_ref(&field), &[]));
    put(schemas, "AwsPercentileQuery", with(&[field.clone(), ("percents", percents)], &["aggregationField"]));
    let kind = ("bucketsAggregationType", reference("AwsBucketsType"));
    put(schemas, "AwsBucketQuery", with(&[field, kind], &["aggregationField", "bucketsAggregationType"]));
}

/// Returns the schema of an object that may have other members, which AWS ignores.
fn ignoring_others(mut schema: Value) -> Value {
    set(&mut schema, "additionalProperties", json!(true));
    schema
}
