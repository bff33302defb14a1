//! The order of matches, and the first of them.
//!
//! Matches are ordered by a field, and by device id where it is equal or missing. Booleans come before numbers, numbers
//! before strings, these before arrays and objects, and a missing value is the last one in both directions. Strings are
//! ordered as in queries, by their first characters.

use std::{cmp::Ordering, collections::BTreeMap, str::FromStr};

use serde_json::Value;

use crate::{
    fleet::{
        device::Device,
        query::{QueryError, field::Field, text},
    },
    shadow::{DeviceId, excerpt},
};

/// Characters of a string that count for its order.
const TEXT_CHARS: usize = 64;

/// An order of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    field: Field,
    is_descending: bool,
}

/// The place of a device in an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    value: OrderedValue,
    device: DeviceId,
    is_descending: bool,
}

/// A value, as far as it counts for the order.
#[derive(Clone, Debug, PartialEq)]
enum OrderedValue {
    Flag(bool),
    Number(f64),
    /// Folded text.
    Text(String),
    Other,
    Missing,
}

/// The first matches of an order, up to a number of them, and up to the one with which they have a number of bytes.
#[derive(Clone, Debug)]
pub struct FirstMatches<T> {
    limit: usize,
    bytes_max: usize,
    /// Each with its bytes.
    matches: BTreeMap<Place, (usize, T)>,
    bytes: usize,
}

/// Parses the name of a field, after a hyphen for the descending order.
impl FromStr for Order {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let name = text.strip_prefix('-').unwrap_or(text);
        let is_descending = name.len() < text.len();
        let at_hyphen = |error: QueryError| QueryError { column: error.column + usize::from(is_descending), ..error };
        Ok(Self { field: name.parse().map_err(at_hyphen)?, is_descending })
    }
}

impl Order {
    /// Returns true for the order by device id in which the store has the shadows.
    #[must_use]
    pub fn is_natural(&self) -> bool {
        self.field == Field::Device && !self.is_descending
    }

    /// Returns the field.
    #[must_use]
    pub fn field(&self) -> &Field {
        &self.field
    }

    /// Returns the place of `device`.
    #[must_use]
    pub fn place(&self, device: &Device) -> Place {
        let value = if self.field == Field::Device { None } else { self.field.value(device) };
        self.place_of(value.as_ref(), device.id.clone())
    }

    /// Returns the place of a device with this value of the field.
    #[must_use]
    pub fn place_of(&self, value: Option<&Value>, device: DeviceId) -> Place {
        let value = match value {
            None | Some(Value::Null) => OrderedValue::Missing,
            Some(Value::Bool(flag)) => OrderedValue::Flag(*flag),
            Some(Value::Number(number)) => OrderedValue::Number(number.as_f64().unwrap_or_default()),
            Some(Value::String(text)) => OrderedValue::Text(excerpt(&text::folded(text), TEXT_CHARS).to_owned()),
            Some(Value::Array(_) | Value::Object(_)) => OrderedValue::Other,
        };
        Place { value, device, is_descending: self.is_descending }
    }
}

impl Place {
    /// Returns the id of the device.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Returns a value that has this place, in JSON.
    #[must_use]
    pub fn value(&self) -> Value {
        match &self.value {
            OrderedValue::Flag(flag) => (*flag).into(),
            OrderedValue::Number(number) => (*number).into(),
            OrderedValue::Text(text) => text.as_str().into(),
            OrderedValue::Other => Value::Array(Vec::new()),
            OrderedValue::Missing => Value::Null,
        }
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let is_missing = |place: &Self| place.value == OrderedValue::Missing;
        let order = self.value.order(&other.value).then_with(|| self.device.cmp(&other.device));
        let order = if self.is_descending { order.reverse() } else { order };
        is_missing(self).cmp(&is_missing(other)).then(order)
    }
}

impl OrderedValue {
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Flag(flag), Self::Flag(other)) => flag.cmp(other),
            (Self::Number(number), Self::Number(other)) => number.partial_cmp(other).unwrap_or(Ordering::Equal),
            (Self::Text(text), Self::Text(other)) => text::compared(text, other),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Flag(_) => 0,
            Self::Number(_) => 1,
            Self::Text(_) => 2,
            Self::Other => 3,
            Self::Missing => 4,
        }
    }
}

impl<T> FirstMatches<T> {
    /// Returns the place for the first `limit` matches. Those after the one with which the first ones have `bytes_max` are not kept.
    #[must_use]
    pub fn new(limit: usize, bytes_max: usize) -> Self {
        Self { limit, bytes_max, matches: BTreeMap::new(), bytes: 0 }
    }

    /// Returns true if a match at this place is among the first ones so far.
    #[must_use]
    pub fn has_room_for(&self, place: &Place) -> bool {
        let is_before_last = || self.matches.last_key_value().is_some_and(|(last, _)| *place < *last);
        (self.matches.len() < self.limit && self.bytes < self.bytes_max) || is_before_last()
    }

    /// Adds a match of this size, if it is among the first ones.
    pub fn add(&mut self, place: Place, bytes: usize, found: T) {
        if !self.has_room_for(&place) {
            return;
        }
        self.bytes += bytes;
        self.matches.insert(place, (bytes, found));
        while let Some((_, (bytes, _))) = self.matches.last_key_value() {
            let others = self.bytes - *bytes;
            if self.matches.len() <= self.limit && others < self.bytes_max {
                break;
            }
            // Neither this one nor any after it comes back, since its place is full from now on.
            self.matches.pop_last();
            self.bytes = others;
        }
    }

    /// Returns the bytes of the matches that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns true if the matches have so many bytes that none after them is kept.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Returns the number of matches that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.matches.len()
    }

    /// Returns true if there is no match.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.matches.is_empty()
    }

    /// Returns the place of the match with this number, from 0.
    #[must_use]
    pub fn place(&self, index: usize) -> Option<&Place> {
        self.matches.keys().nth(index)
    }

    /// Returns the matches in order.
    #[must_use]
    pub fn into_matches(self) -> Vec<T> {
        self.matches.into_values().map(|(_, found)| found).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn values_are_ordered_by_kind_and_missing_ones_are_last() {
        let values = [
            json!(false),
            json!(true),
            json!(-1),
            json!(1.5),
            json!(2),
            json!("1.9"),
            json!("1.10"),
            json!("A"),
            json!("b"),
        ];
        let with_others = || values.iter().cloned().chain([json!([1]), json!(null)]);
        for (sort, expected) in [
            ("tags.x", with_others().collect::<Vec<_>>()),
            ("-tags.x", [json!([1])].into_iter().chain(values.iter().rev().cloned()).chain([json!(null)]).collect()),
        ] {
            let order: Order = sort.parse().unwrap();
            let mut places: Vec<_> = with_others().map(|value| order.place_of(Some(&value), id("d"))).collect();
            places.reverse();
            places.sort();
            let found: Vec<_> = places.iter().map(Place::value).collect();
            let expected: Vec<_> = expected.iter().map(|value| order.place_of(Some(value), id("d")).value()).collect();
            assert_eq!(found, expected, "{sort}");
        }
    }

    #[test]
    fn a_place_comes_back_from_its_value() {
        let long = "Ab".repeat(100);
        for sort in ["tags.x", "-tags.x", "-device"] {
            let order: Order = sort.parse().unwrap();
            for value in [json!(null), json!(true), json!(1.25), json!(long), json!({"a": 1})] {
                let place = order.place_of(Some(&value), id("d"));
                assert_eq!(order.place_of(Some(&place.value()), place.device().clone()), place, "{sort} {value}");
            }
        }
    }

    #[test]
    fn the_first_matches_are_kept() {
        for (sort, limit, bytes_max, expected) in [
            ("tags.x", 3, 99, "b d a"),
            ("-tags.x", 3, 99, "a d b"),
            ("tags.x", 9, 99, "b d a c e"),
            ("-tags.x", 9, 99, "a d b e c"),
            ("tags.x", 0, 99, ""),
            // The one with which the bytes are reached is the last one, also if it is alone.
            ("tags.x", 9, 11, "b d"),
            ("tags.x", 9, 12, "b d a"),
            ("-tags.x", 9, 30, "a d b e"),
            ("-tags.x", 9, 1, "a"),
            ("-tags.x", 2, 30, "a d"),
        ] {
            let order: Order = sort.parse().unwrap();
            let mut first = FirstMatches::new(limit, bytes_max);
            for (device, value, bytes) in [
                ("a", json!(3), 10),
                ("b", json!(1), 1),
                ("c", json!(null), 1),
                ("d", json!(1), 10),
                ("e", json!(null), 20),
            ] {
                first.add(order.place_of(Some(&value), id(device)), bytes, device);
            }
            assert_eq!(first.into_matches().join(" "), expected, "{sort} {limit} {bytes_max}");
        }
    }

    #[test]
    fn an_order_is_one_field() {
        for (text, expected) in [
            ("device", Ok(true)),
            ("-device", Ok(false)),
            ("reported.x", Ok(false)),
            ("-x", Err("column 2: unknown field 'x'")),
            ("device,seen", Err("column 1: expected one field")),
            ("", Err("column 1: expected the name of a field")),
        ] {
            match (text.parse::<Order>(), expected) {
                (Ok(order), Ok(expected)) => assert_eq!(order.is_natural(), expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "{text}: {error}"),
                (order, _) => assert_eq!(order.is_ok(), expected.is_ok(), "{text}"),
            }
        }
    }
}
