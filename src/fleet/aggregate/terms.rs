//! The values that most devices have.

use std::collections::HashMap;

use serde_json::Value;

use crate::fleet::query::text::number_text;

/// Most distinct values that are counted.
pub const TERMS_MAX: usize = 10_000;
/// Most bytes of their JSON together.
pub const TERM_BYTES_MAX: usize = 1 << 20;
/// The memory of a value beside its JSON.
const TERM_BYTES: usize = 96;

/// A value, and the number of devices that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// The value.
    pub value: Value,
    /// The number of devices.
    pub count: u64,
}

/// The counts of values, by their JSON.
#[derive(Debug, Default)]
pub(super) struct Terms {
    counts: HashMap<String, u64>,
    bytes: usize,
    /// Counts of values beyond the limits.
    beyond: u64,
}

impl Terms {
    /// Counts `devices` with this value.
    pub(super) fn add(&mut self, json: String, devices: u64) {
        if let Some(count) = self.counts.get_mut(&json) {
            *count += devices;
        } else if self.counts.len() < TERMS_MAX && self.bytes + json.len() <= TERM_BYTES_MAX {
            self.bytes += json.len();
            self.counts.insert(json, devices);
        } else {
            self.beyond += devices;
        }
    }

    /// Returns the approximate memory.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.counts.len() * TERM_BYTES
    }

    /// Returns true if a value was not counted by itself.
    pub(super) fn is_truncated(&self) -> bool {
        self.beyond > 0
    }

    /// Returns the `size` most frequent values, and the count of the others. Values of equal counts are in the order of
    /// their JSON.
    pub(super) fn into_most_frequent(self, size: usize) -> (Vec<Term>, u64) {
        let mut counted: Vec<_> = self.counts.into_iter().collect();
        counted.sort_unstable_by(|(json, count), (other, other_count)| {
            other_count.cmp(count).then_with(|| json.cmp(other))
        });
        let rest: u64 = counted.iter().skip(size).map(|(_, count)| count).sum();
        let term = |(json, count): (String, u64)| Some(Term { value: serde_json::from_str(&json).ok()?, count });
        (counted.into_iter().take(size).filter_map(term).collect(), rest + self.beyond)
    }
}

/// Returns the JSON of a scalar, the same for equal values.
pub(super) fn term(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) if number.as_f64() == Some(0.0) => Some("0".to_owned()),
        Value::Number(number) => Some(number_text(number)),
        Value::Bool(_) | Value::String(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
