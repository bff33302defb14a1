//! Aggregates by hand and of arbitrary numbers, and at their limits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};
use serde_json::json;

use super::*;
use crate::{
    fleet::Shadow,
    shadow::{DeviceId, tests::written},
};

/// A device with this `reported`.
fn device(reported: &Value) -> Device {
    let mut device = Device::new(DeviceId::new("d").unwrap());
    let document = written(&[json!({ "reported": reported })]);
    (device.shadow_count, device.updated) = (1, Some(document.timestamp));
    device.shadows.push(Shadow { name: None, document: Arc::new(document), delta: Default::default() });
    device
}

/// The aggregate of `reported.x` over devices with these values of it.
fn aggregate(aggregation: Aggregation, values: impl IntoIterator<Item = Value>) -> Result<Aggregated, TooManyBuckets> {
    aggregate_at("reported.x", aggregation, values.into_iter().map(|value| json!({ "x": value })))
}

fn aggregate_at(
    field: &str,
    aggregation: Aggregation,
    reported: impl IntoIterator<Item = Value>,
) -> Result<Aggregated, TooManyBuckets> {
    let mut aggregate = Aggregate::new(aggregation, Some(field.parse().unwrap()));
    reported.into_iter().for_each(|reported| aggregate.add(&device(&reported)));
    aggregate.into_result()
}

/// Values of all kinds, of which the last two are none.
fn mixed() -> Vec<Value> {
    vec![
        json!("a"),
        json!("A"),
        json!(1),
        json!(1.0),
        json!("1"),
        json!(true),
        json!([1, 1, "b"]),
        json!([]),
        json!({}),
    ]
}

#[test]
fn terms_are_distinct_values_by_the_number_of_devices() {
    let found = aggregate(Aggregation::Terms { size: 3 }, mixed()).unwrap();
    let AggregateResult::Terms { terms, other, truncated } = &found.result else { panic!("{found:?}") };
    let terms: Vec<_> = terms.iter().map(|term| (term.value.clone(), term.count)).collect();
    // A device with a value twice counts once, and 1.0 is 1, but "1" is text.
    assert_eq!(terms, [(json!(1), 3), (json!("1"), 1), (json!("A"), 1)]);
    assert_eq!((found.devices, found.with_value, *other, *truncated), (9, 7, 3, false));
}

#[test]
fn values_beyond_the_limit_count_as_others() {
    let count = TERMS_MAX + 5;
    let values = (0..count).chain([0, 0]).map(Value::from);
    let found = aggregate(Aggregation::Terms { size: 1 }, values).unwrap();
    let others = u64::try_from(count - 1).unwrap();
    let terms = vec![Term { value: json!(0), count: 3 }];
    assert_eq!(found.result, AggregateResult::Terms { terms, other: others, truncated: true });
    // With its quotes, each has 4 KiB.
    let long = (0..300).map(|n| json!(format!("{n:04094}")));
    let found = aggregate(Aggregation::Terms { size: 1_000 }, long).unwrap();
    let AggregateResult::Terms { terms, other: 44, truncated: true } = found.result else { panic!("{found:?}") };
    assert_eq!(terms.len(), TERM_BYTES_MAX >> 12);
}

#[test]
fn statistics_are_those_of_the_numbers() {
    let values = mixed().into_iter().chain([json!("4"), json!("four"), json!(-2.5)]);
    let found = aggregate(Aggregation::Statistics, values).unwrap();
    let AggregateResult::Statistics(found) = found.result else { panic!("{found:?}") };
    // 1, 1, "1", true, twice 1 in an array, "4" and -2.5.
    let numbers = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, -2.5];
    let mean = numbers.iter().sum::<f64>() / 8.0;
    let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / 8.0;
    assert_eq!((found.count, found.sum, found.min, found.max), (8, 7.5, -2.5, 4.0));
    assert_eq!((found.mean, found.sum_of_squares), (mean, 28.25));
    assert!((found.variance() - variance).abs() < 1e-12, "{found:?}");
}

#[test]
fn percentiles_are_between_the_nearest_numbers() {
    for (values, expected) in [
        (&[][..], &[][..]),
        (&[5.0], &[(0.0, 5.0), (50.0, 5.0), (90.0, 5.0), (100.0, 5.0)]),
        (&[4.0, 1.0, 2.0, 3.0], &[(0.0, 1.0), (50.0, 2.5), (90.0, 3.7), (100.0, 4.0)]),
        (&[-f64::MAX, f64::MAX], &[(0.0, -f64::MAX), (50.0, 0.0), (90.0, f64::MAX * 0.8), (100.0, f64::MAX)]),
    ] {
        let kind = Aggregation::Percentiles(vec![0.0, 50.0, 90.0, 100.0]);
        let found = aggregate(kind, values.iter().map(|value| json!(value))).unwrap();
        let AggregateResult::Percentiles { percentiles, exact: true } = found.result else { panic!("{found:?}") };
        assert_eq!(percentiles.len(), expected.len(), "{values:?}");
        for ((percent, found), (expected_percent, expected)) in percentiles.iter().zip(expected) {
            let near = (found - expected).abs() <= expected.abs() * 1e-12;
            assert!(percent == expected_percent && near, "{values:?}: {percent} {found}");
        }
    }
}

#[test]
fn a_histogram_has_the_buckets_with_a_number() {
    for (interval, values, expected) in [
        (10.0, json!([0, 9.9, 10, -0.1, 35, "31"]), &[(-10.0, 1), (0.0, 2), (10.0, 1), (30.0, 2)][..]),
        (0.5, json!([0.4, 0.5, 0.6]), &[(0.0, 1), (0.5, 2)]),
        (1.0, json!([]), &[]),
    ] {
        let found = aggregate(Aggregation::Histogram { interval }, [values]).unwrap();
        let AggregateResult::Histogram(found) = found.result else { panic!("{found:?}") };
        let found: Vec<_> = found.iter().map(|bucket| (bucket.from, bucket.count)).collect();
        assert_eq!(found, expected);
    }
    let histogram = |interval, values: std::ops::RangeInclusive<usize>| {
        aggregate(Aggregation::Histogram { interval }, values.map(Value::from))
    };
    assert!(histogram(1.0, 1..=BUCKETS_MAX).is_ok());
    assert_eq!(histogram(1.0, 0..=BUCKETS_MAX), Err(TooManyBuckets));
    assert_eq!(histogram(1e-300, 1..=1), Err(TooManyBuckets), "a bucket has a number");
}

#[test]
fn distinct_values_are_counted() {
    let found = aggregate(Aggregation::Cardinality, mixed()).unwrap();
    assert_eq!(found.result, AggregateResult::Cardinality { count: 6, exact: true });
}

/// With up to 100,000 of 400,000 values in the sample, a deviation of 5 percent is ten times the standard error.
#[test]
fn what_does_not_fit_is_estimated() {
    let (mut distinct, mut all) = (Sample::default(), Sample::default());
    let hashes = RandomState::new();
    for n in 0..400_000_u32 {
        distinct.add(hashes.hash_one(n % 200_000), 0.0);
        all.add(hashes.hash_one(u64::from(n) << 32), f64::from(n));
    }
    assert!(!distinct.is_exact() && distinct.kept_len() <= sample::KEPT_MAX);
    assert!(distinct.estimate().abs_diff(200_000) < 10_000, "{}", distinct.estimate());
    let sorted = all.into_sorted();
    assert!(sorted.len() > 40_000, "{}", sorted.len());
    for percent in [1.0, 50.0, 99.0] {
        let found = percentile(&sorted, percent).unwrap();
        assert!((found - percent * 4_000.0).abs() < 20_000.0, "{percent}: {found}");
    }
}

#[test]
fn values_below_arrays_are_found() {
    let parts = json!({"parts": [{"id": "x1", "n": [1, 2]}, {"id": "x2"}, {"n": 3}, 7]});
    for (field, expected) in [
        ("reported.parts.id", &["\"x1\"", "\"x2\""][..]),
        ("reported.parts.n", &["1", "2", "3"]),
        ("reported.parts", &["7"]),
        ("reported.parts.id.none", &[]),
        ("reported", &[]),
        ("device", &["\"d\""]),
        ("drift", &["false"]),
        ("version", &["1"]),
        ("shadow", &["true"]),
        ("shadow.name.x.version", &[]),
        ("connected", &[]),
    ] {
        let found = aggregate_at(field, Aggregation::Terms { size: 9 }, [parts.clone()]).unwrap();
        let AggregateResult::Terms { terms, .. } = found.result else { panic!("{found:?}") };
        let found: Vec<_> = terms.iter().map(|term| term.value.to_string()).collect();
        assert_eq!(found, expected, "{field}");
    }
}

proptest! {
    /// Statistics and percentiles equal those of the definition.
    #[test]
    fn numbers_are_those_of_the_definition(mut numbers in vec(-1e6..1e6, 1..60), percent in 0.0..=100.0) {
        let values = || numbers.iter().map(|number| json!(number));
        let found = aggregate(Aggregation::Statistics, values()).unwrap();
        let AggregateResult::Statistics(statistics) = found.result else { panic!("{found:?}") };
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count;
        prop_assert!((statistics.mean - mean).abs() < 1e-6 && (statistics.variance() - variance).abs() < 1e-3);
        let found = aggregate(Aggregation::Percentiles(vec![percent]), values()).unwrap();
        let AggregateResult::Percentiles { percentiles, exact: true } = found.result else { panic!("{found:?}") };
        numbers.sort_by(f64::total_cmp);
        let below = numbers.iter().filter(|number| **number < percentiles[0].1).count() as f64;
        let up_to = numbers.iter().filter(|number| **number <= percentiles[0].1).count() as f64;
        let rank = percent / 100.0 * (count - 1.0);
        prop_assert!(below <= rank + 1.0 + 1e-9 && rank <= up_to + 1e-9, "{below} {rank} {up_to}");
    }
}
