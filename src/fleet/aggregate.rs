//! Aggregates: counts, terms, statistics, percentiles, histograms and cardinalities of a field over devices.
//!
//! An [`Aggregate`] adds one device after the other, in any order and in bounded memory. Every element of an array is a
//! value, and an object is none. A number of a field is a JSON number, a string that is one, or a boolean as 0 or 1.
//!
//! | | memory | beyond it |
//! |---|---|---|
//! | terms | [`TERMS_MAX`] values of together [`TERM_BYTES_MAX`] | further values count as `other`, which is marked |
//! | percentiles, cardinality | [`sample::KEPT_MAX`] values | estimated from a random sample, which is marked |
//! | histogram | [`BUCKETS_MAX`] buckets | an error |

mod numbers;
pub mod sample;
mod terms;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};

use serde_json::Value;

pub use self::{
    numbers::{BUCKETS_MAX, Bucket, Statistics},
    terms::{TERM_BYTES_MAX, TERMS_MAX, Term},
};
use self::{
    numbers::{Histogram, percentile},
    sample::Sample,
    terms::{Terms, term},
};
use crate::fleet::{
    device::Device,
    query::{field::Field, text},
};

/// The kind of an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub enum Aggregation {
    /// The number of devices, and of those with a value.
    Count,
    /// The values that most devices have.
    Terms {
        /// Most values in the result.
        size: usize,
    },
    /// Count, sum, least, greatest, mean and variance of the numbers.
    Statistics,
    /// The numbers below which these percents of all are, each from 0 to 100.
    Percentiles(Vec<f64>),
    /// The count of numbers in each interval of this width, which is positive.
    Histogram {
        /// The width.
        interval: f64,
    },
    /// The number of distinct values.
    Cardinality,
}

/// An aggregate under construction.
#[derive(Debug)]
pub struct Aggregate {
    aggregation: Aggregation,
    field: Option<Field>,
    /// The devices that were added, and those of them with a value.
    devices: u64,
    with_value: u64,
    numbers: u64,
    collected: Collected,
    hashes: RandomState,
    failed: Option<TooManyBuckets>,
}

/// The values that an aggregate has collected.
#[derive(Debug)]
enum Collected {
    Nothing,
    Terms(Terms),
    Statistics(Statistics),
    Sample(Sample),
    Histogram(Histogram),
}

/// An aggregate of all devices that were added.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregated {
    /// The number of devices.
    pub devices: u64,
    /// The number of devices with a value of the field.
    pub with_value: u64,
    /// The rest of the result.
    pub result: AggregateResult,
}

/// The part of the result that depends on the kind.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregateResult {
    /// Nothing but the counts.
    Count,
    /// The values that most devices have, most frequent first.
    Terms {
        /// The values.
        terms: Vec<Term>,
        /// The number of times that a device has another value.
        other: u64,
        /// True if values beyond the limit were counted as `other` only.
        truncated: bool,
    },
    /// The statistics of the numbers.
    Statistics(Statistics),
    /// Pairs of a percent and its number; none without numbers.
    Percentiles {
        /// The pairs, in the order of the request.
        percentiles: Vec<(f64, f64)>,
        /// False if they are estimated.
        exact: bool,
    },
    /// The buckets with a number, in order.
    Histogram(Vec<Bucket>),
    /// The number of distinct values.
    Cardinality {
        /// The number.
        count: u64,
        /// False if it is estimated.
        exact: bool,
    },
}

/// An error of a histogram whose interval is too small for its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the numbers are in more than {BUCKETS_MAX} buckets; choose a larger one")]
pub struct TooManyBuckets;

impl Aggregate {
    /// Returns an empty aggregate of `field`. Without a field, only devices are counted.
    #[must_use]
    pub fn new(aggregation: Aggregation, field: Option<Field>) -> Self {
        let collected = match &aggregation {
            Aggregation::Count => Collected::Nothing,
            Aggregation::Terms { .. } => Collected::Terms(Terms::default()),
            Aggregation::Statistics => Collected::Statistics(Statistics::default()),
            Aggregation::Percentiles(_) | Aggregation::Cardinality => Collected::Sample(Sample::default()),
            Aggregation::Histogram { interval } => Collected::Histogram(Histogram::new(*interval)),
        };
        let hashes = RandomState::new();
        Self { aggregation, field, devices: 0, with_value: 0, numbers: 0, collected, hashes, failed: None }
    }

    /// Returns the field.
    #[must_use]
    pub fn field(&self) -> Option<&Field> {
        self.field.as_ref()
    }

    /// Returns true once the result is an error, whatever else is added.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Returns true if a value was not counted by itself. Which one depends on the order of the devices.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        matches!(&self.collected, Collected::Terms(terms) if terms.is_truncated())
    }

    /// Returns the approximate memory of the aggregate and its result.
    #[must_use]
    pub fn memory(&self) -> usize {
        match &self.collected {
            Collected::Nothing | Collected::Statistics(_) => 0,
            Collected::Terms(terms) => terms.memory(),
            Collected::Sample(sample) => sample.memory(),
            Collected::Histogram(histogram) => histogram.memory(),
        }
    }

    /// Adds a device.
    pub fn add(&mut self, device: &Device) {
        self.devices += 1;
        let Some(field) = self.field.take() else { return };
        let mut has_value = false;
        // The terms of this device, of which each counts once.
        let mut terms = Vec::new();
        field.each_value(device, &mut |value| {
            has_value = true;
            match &self.collected {
                Collected::Nothing => {}
                Collected::Terms(_) => terms.extend(term(value)),
                Collected::Sample(_) if self.aggregation == Aggregation::Cardinality => terms.extend(term(value)),
                Collected::Statistics(_) | Collected::Sample(_) | Collected::Histogram(_) => self.add_number(value),
            }
        });
        self.field = Some(field);
        self.with_value += u64::from(has_value);
        self.add_terms(terms, 1);
    }

    /// Adds devices without a value.
    pub fn add_devices(&mut self, devices: u64) {
        self.devices += devices;
    }

    /// Adds values of `devices` that were added, and of which `first` had none of their values added before. The devices have
    /// all these values, and none of them in another call.
    pub fn add_values(&mut self, values: &[Value], devices: u64, first: u64) {
        self.with_value += first;
        let mut terms = Vec::new();
        for value in values {
            match &self.collected {
                Collected::Nothing => {}
                Collected::Terms(_) => terms.extend(term(value)),
                Collected::Sample(_) if self.aggregation == Aggregation::Cardinality => terms.extend(term(value)),
                Collected::Statistics(_) | Collected::Sample(_) | Collected::Histogram(_) => {
                    (0..devices).for_each(|_| self.add_number(value));
                }
            }
        }
        self.add_terms(terms, devices);
    }

    /// Adds the terms of devices, of which each counts once.
    fn add_terms(&mut self, mut found: Vec<String>, devices: u64) {
        found.sort_unstable();
        found.dedup();
        for term in found {
            match &mut self.collected {
                Collected::Terms(terms) => terms.add(term, devices),
                Collected::Sample(sample) => sample.add(self.hashes.hash_one(&term), 0.0),
                Collected::Nothing | Collected::Statistics(_) | Collected::Histogram(_) => {}
            }
        }
    }

    /// Returns the same aggregate of no devices.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self::new(self.aggregation.clone(), self.field.clone())
    }

    fn add_number(&mut self, value: &Value) {
        let Some(number) = number(value).filter(|_| self.failed.is_none()) else { return };
        self.numbers += 1;
        match &mut self.collected {
            Collected::Statistics(statistics) => statistics.add(number),
            Collected::Sample(sample) => sample.add(self.hashes.hash_one(self.numbers), number),
            Collected::Histogram(histogram) => self.failed = self.failed.or(histogram.add(number).err()),
            Collected::Nothing | Collected::Terms(_) => {}
        }
    }

    /// Returns the result.
    ///
    /// # Errors
    ///
    /// [`TooManyBuckets`] for a histogram of numbers too far apart for its interval.
    pub fn into_result(self) -> Result<Aggregated, TooManyBuckets> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = match (self.collected, self.aggregation) {
            (Collected::Terms(terms), Aggregation::Terms { size }) => {
                let truncated = terms.is_truncated();
                let (terms, other) = terms.into_most_frequent(size);
                AggregateResult::Terms { terms, other, truncated }
            }
            (Collected::Statistics(statistics), _) => AggregateResult::Statistics(statistics),
            (Collected::Sample(sample), Aggregation::Percentiles(percents)) => {
                let exact = sample.is_exact();
                let numbers = sample.into_sorted();
                let pair = |percent| Some((percent, percentile(&numbers, percent)?));
                AggregateResult::Percentiles { percentiles: percents.into_iter().filter_map(pair).collect(), exact }
            }
            (Collected::Sample(sample), _) => {
                AggregateResult::Cardinality { count: sample.estimate(), exact: sample.is_exact() }
            }
            (Collected::Histogram(histogram), _) => AggregateResult::Histogram(histogram.into_buckets()),
            (Collected::Nothing | Collected::Terms(_), _) => AggregateResult::Count,
        };
        Ok(Aggregated { devices: self.devices, with_value: self.with_value, result })
    }
}

/// Returns the number of a value, if it has one.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
        Value::String(text) => text::number(text),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
