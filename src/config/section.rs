//! Checks of single values: ranges and choices, reported with the section and the key.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    error::{Problem, UnlocatedError},
    limits::{LISTED_MAX, RateRange},
    units::{Count, List, Period, Size, Text, WrittenRate},
};
use crate::rate::Rate;

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const DAY: u64 = 24 * 60 * MINUTE;

/// Checks the value of a key by a method of [`Section`], which receives the name of the key and a range:
/// `checked!(at.number(raw.key, range))`.
macro_rules! checked {
    ($at:ident.$check:ident($raw:ident.$key:ident, $range:expr)) => {
        $at.$check(stringify!($key), $raw.$key, $range)?
    };
}
pub(super) use checked;

/// A section of the configuration, by its name in a [`UnlocatedError`].
pub(super) struct Section(pub(super) String);

impl Section {
    fn fault(&self, key: &str, problem: Problem) -> UnlocatedError {
        UnlocatedError::new(format!("{}.{key}", self.0), problem)
    }

    pub(super) fn invalid(&self, key: &str, detail: String) -> UnlocatedError {
        self.fault(key, Problem::Invalid(detail))
    }

    /// Returns a value within `range`, which must be within `T`.
    pub(super) fn number<T: TryFrom<u64>, A: Ranged>(
        &self,
        key: &str,
        value: A,
        range: RangeInclusive<u64>,
    ) -> Result<T, UnlocatedError> {
        let admitted = range.contains(&value.amount()).then(|| T::try_from(value.amount()).ok());
        admitted.flatten().ok_or_else(|| {
            let [value, least, most] = [value.amount(), *range.start(), *range.end()].map(A::shown);
            self.fault(key, Problem::Range { value, range: format!("{least} to {most}") })
        })
    }

    /// Returns a duration within `range`, in milliseconds.
    pub(super) fn duration(
        &self,
        key: &str,
        value: Period,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, UnlocatedError> {
        self.number(key, value, range).map(Duration::from_millis)
    }

    /// Returns a duration of whole seconds, since the protocol has no smaller unit.
    pub(super) fn seconds(
        &self,
        key: &str,
        value: Period,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, UnlocatedError> {
        match self.duration(key, value, range)? {
            duration if duration.subsec_millis() == 0 => Ok(duration),
            _ => Err(self.invalid(key, format!("is {value}, but must be whole seconds"))),
        }
    }

    /// Returns a rate within `range`.
    pub(super) fn rate(&self, key: &str, value: WrittenRate, range: RateRange) -> Result<Rate, UnlocatedError> {
        let RateRange { period_max, per_second_max, burst_max } = range;
        let least = WrittenRate { count: 1, period: period_max, burst: 1 };
        let most = WrittenRate { count: per_second_max, period: SECOND, burst: burst_max };
        if least.is_at_most(value) && value.is_at_most(most) && (1..=burst_max).contains(&value.burst) {
            return Ok(value.rate());
        }
        let range = format!("{least:#} to {most:#}, with a burst of 1 to {burst_max}");
        Err(self.fault(key, Problem::Range { value: value.to_string(), range }))
    }

    pub(super) fn filled(&self, key: &str, value: &Text) -> Result<String, UnlocatedError> {
        match value.0.as_str() {
            "" => Err(self.invalid(key, "is empty".into())),
            text => Ok(text.to_owned()),
        }
    }

    /// Returns the values of a list, each parsed by `parse`; `wanted` describes what it accepts.
    pub(super) fn each<T>(
        &self,
        key: &str,
        list: &List,
        wanted: &str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, UnlocatedError> {
        if list.0.len() > LISTED_MAX {
            let detail = format!("has {} values, but must have at most {}", list.0.len(), LISTED_MAX);
            return Err(self.invalid(key, detail));
        }
        let parsed = list
            .0
            .iter()
            .map(|text| parse(text).ok_or_else(|| self.invalid(key, format!("has {text:?}, but must have {wanted}"))));
        parsed.collect()
    }

    pub(super) fn choice<T: Copy>(&self, key: &str, value: &Text, choices: &[(&str, T)]) -> Result<T, UnlocatedError> {
        let chosen = choices.iter().find(|(name, _)| *name == value.0).map(|(_, choice)| *choice);
        chosen.ok_or_else(|| {
            let names = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ");
            self.invalid(key, format!("is {:?}, but must be {names}", value.0))
        })
    }
}

/// A scalar with a range.
pub(super) trait Ranged: Copy {
    fn amount(self) -> u64;
    /// Returns an amount as it would be written.
    fn shown(amount: u64) -> String;
}

impl Ranged for Count {
    fn amount(self) -> u64 {
        self.0
    }

    fn shown(amount: u64) -> String {
        amount.to_string()
    }
}

impl Ranged for Size {
    fn amount(self) -> u64 {
        self.0
    }

    fn shown(amount: u64) -> String {
        Self(amount).to_string()
    }
}

impl Ranged for Period {
    fn amount(self) -> u64 {
        self.0
    }

    fn shown(amount: u64) -> String {
        Self(amount).to_string()
    }
}

/// Returns the value of a text; `None` if it is empty.
pub(super) fn given<T: From<String>>(text: &Text) -> Option<T> {
    (!text.0.is_empty()).then(|| text.0.clone().into())
}
