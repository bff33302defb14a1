//! The scalar types of written values, each strict about its type.
//!
//! The `config` crate would accept the text `"8"` for a number and `1` for true. These types accept only their own
//! form, and otherwise report the form expected. Ranges are checked later, in [`super::check`].

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use config::{Value, ValueKind};
use serde::Deserialize;

use super::limits::{GIB, KIB, MIB, TIB};
use crate::rate::Rate;

/// A boolean, `true` or `false`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Flag(pub(super) bool);

/// A text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Text(pub(super) String);

/// A list of texts, or one text with commas, as in an environment variable.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct List(pub(super) Vec<String>);

/// A count.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Count(pub(super) u64);

/// A number of bytes: `8192`, `"8192"` or `"8 KiB"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Size(pub(super) u64);

/// A number of bytes, or `"auto"` for one that follows from the machine.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct AutoSize(pub(super) Option<Size>);

/// A duration in whole milliseconds: `"10s"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Period(pub(super) u64);

/// A rate with its burst: `"20/s burst 40"`. Without a burst, `"20/s"`, the burst is the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct WrittenRate {
    pub(super) count: u64,
    /// The period for `count`, in milliseconds.
    pub(super) period: u64,
    pub(super) burst: u64,
}

/// An error for a value of the wrong type.
#[derive(Debug, thiserror::Error)]
#[error("must be {wanted}, not {given}")]
pub(super) struct Mismatch {
    wanted: &'static str,
    given: String,
}

/// The units, largest first; of equal ones the first is shown.
const SIZES: [(&str, u64); 5] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];
const PERIODS: [(&str, u64); 13] = [
    ("d", 86_400_000),
    ("day", 86_400_000),
    ("days", 86_400_000),
    ("h", 3_600_000),
    ("hour", 3_600_000),
    ("hours", 3_600_000),
    ("m", 60_000),
    ("minute", 60_000),
    ("minutes", 60_000),
    ("s", 1_000),
    ("second", 1_000),
    ("seconds", 1_000),
    ("ms", 1),
];

impl TryFrom<Value> for Flag {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        match value.kind {
            ValueKind::Boolean(flag) => Ok(Self(flag)),
            other => Err(Mismatch::new("true or false", &other)),
        }
    }
}

impl TryFrom<Value> for Text {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        match value.kind {
            ValueKind::String(text) => Ok(Self(text)),
            other => Err(Mismatch::new("text", &other)),
        }
    }
}

impl TryFrom<Value> for List {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        const WANTED: &str = "a list of texts such as [\"a\", \"b\"]";
        match value.kind {
            ValueKind::String(text) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                Ok(Self(texts.map(str::to_owned).collect()))
            }
            ValueKind::Array(values) => {
                let texts = values.into_iter().map(|value| match value.kind {
                    ValueKind::String(text) => Ok(text),
                    other => Err(Mismatch::new(WANTED, &other)),
                });
                texts.collect::<Result<_, _>>().map(Self)
            }
            other => Err(Mismatch::new(WANTED, &other)),
        }
    }
}

impl TryFrom<Value> for Count {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        whole(&value.kind).map(Self).ok_or_else(|| Mismatch::new("a whole number", &value.kind))
    }
}

impl TryFrom<Value> for Size {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        let bytes = match &value.kind {
            ValueKind::String(text) => parse_size(text),
            other => whole(other),
        };
        bytes.map(Self).ok_or_else(|| Mismatch::new("a size such as \"256 MiB\"", &value.kind))
    }
}

impl TryFrom<Value> for AutoSize {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        if matches!(&value.kind, ValueKind::String(text) if text == "auto") {
            return Ok(Self(None));
        }
        let wanted = |mismatch| Mismatch { wanted: "\"auto\" or a size such as \"256 MiB\"", ..mismatch };
        Size::try_from(value).map(|size| Self(Some(size))).map_err(wanted)
    }
}

impl TryFrom<Value> for Period {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        let milliseconds = match &value.kind {
            ValueKind::String(text) => amount(text, &PERIODS),
            _ => None,
        };
        milliseconds.map(Self).ok_or_else(|| Mismatch::new("a duration such as \"10s\" or \"7d\"", &value.kind))
    }
}

impl TryFrom<Value> for WrittenRate {
    type Error = Mismatch;

    fn try_from(value: Value) -> Result<Self, Mismatch> {
        let rate = match &value.kind {
            ValueKind::String(text) => Self::parse(text),
            _ => None,
        };
        rate.ok_or_else(|| Mismatch::new("a rate such as \"20/s burst 40\"", &value.kind))
    }
}

impl WrittenRate {
    fn parse(text: &str) -> Option<Self> {
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (text, None),
        };
        let (count, unit) = rate.split_once('/')?;
        let (_, period) = PERIODS.iter().find(|(name, _)| *name == unit.trim())?;
        let count = digits(count)?;
        Some(Self { count, period: *period, burst: burst.map_or(Some(count), digits)? })
    }

    /// Returns the rate, for the limiter.
    pub(super) fn rate(self) -> Rate {
        Rate::within(self.count, Duration::from_millis(self.period), self.burst)
    }

    /// Returns the count in a minute, rounded down.
    pub(super) fn per_minute(self) -> u64 {
        self.count.saturating_mul(60_000) / self.period.max(1)
    }

    /// Returns true if this rate, without its burst, is `other` at most.
    pub(super) fn is_at_most(self, other: Self) -> bool {
        let product = |count: u64, period: u64| u128::from(count) * u128::from(period);
        product(self.count, other.period) <= product(other.count, self.period)
    }
}

impl Mismatch {
    fn new(wanted: &'static str, given: &ValueKind) -> Self {
        let given = match given {
            ValueKind::String(text) => format!("{text:?}"),
            ValueKind::Table(_) => "a section".to_owned(),
            ValueKind::Array(_) => "a list".to_owned(),
            other => other.to_string(),
        };
        Self { wanted, given }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, " ", &SIZES)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, "", &PERIODS)
    }
}

impl fmt::Display for WrittenRate {
    /// The alternate form leaves the burst out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = PERIODS.iter().find(|(_, period)| *period == self.period).map_or("?", |(unit, _)| unit);
        write!(f, "{}/{unit}", self.count)?;
        if f.alternate() { Ok(()) } else { write!(f, " burst {}", self.burst) }
    }
}

/// Parses a size as written in the configuration, `"256 MiB"` or a number of bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| amount(text, &SIZES))
}

/// Parses a duration as written in the configuration, `"1h 30m"`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    amount(text, &PERIODS).map(Duration::from_millis)
}

fn whole(kind: &ValueKind) -> Option<u64> {
    match kind {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        _ => None,
    }
}

/// Returns the whole number that `text` is, with `_` between digits allowed as in TOML.
fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    is_number.then(|| text.replace('_', "").parse().ok())?
}

/// Returns the sum of a text such as `"1h 30m"`: numbers with units, spaces anywhere. `None` if it is malformed or
/// exceeds `u64`.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: Option<u64> = None;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let after = after.trim_start();
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(*factor)?;
        total = Some(total.unwrap_or(0).checked_add(part)?);
        rest = after.trim_start();
    }
    total
}

/// Writes `amount` in the largest unit of which it is a multiple.
fn show(f: &mut fmt::Formatter<'_>, amount: u64, space: &str, units: &[(&str, u64)]) -> fmt::Result {
    let whole = units.iter().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor));
    let Some((unit, factor)) = whole.or(units.last()) else { return f.write_char('0') };
    write!(f, "{}{space}{unit}", amount / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_parsed() {
        // text, as size, as duration in milliseconds
        let table: [(&str, Option<u64>, Option<u64>); 21] = [
            ("8192", Some(8192), None),
            ("8 KiB", Some(8192), None),
            ("8KiB", Some(8192), None),
            (" 1 MiB 1 B ", Some(MIB + 1), None),
            ("16 TiB", Some(16 * TIB), None),
            ("0B", Some(0), None),
            ("10s", None, Some(10_000)),
            ("250ms", None, Some(250)),
            ("7d", None, Some(604_800_000)),
            ("1h 30m", None, Some(5_400_000)),
            ("1h30m", None, Some(5_400_000)),
            ("7 days", None, Some(604_800_000)),
            ("1 hour 30 minutes", None, Some(5_400_000)),
            ("", None, None),
            ("KiB", None, None),
            ("8 kb", None, None),
            ("-1s", None, None),
            ("1.5 MiB", None, None),
            ("1 s x", None, None),
            ("18446744073709551616", None, None),
            ("99999999999999 TiB", None, None),
        ];
        for (text, size, period) in table {
            assert_eq!(Size::try_from(Value::from(text)).ok().map(|size| size.0), size, "size {text:?}");
            assert_eq!(Period::try_from(Value::from(text)).ok().map(|period| period.0), period, "duration {text:?}");
        }
    }

    #[test]
    fn rates_are_parsed() {
        // text, count, period in milliseconds, burst
        let table = [
            ("20/s burst 40", Some((20, 1_000, 40))),
            ("20/s", Some((20, 1_000, 20))),
            (" 1_000 / second  burst 20_000 ", Some((1_000, 1_000, 20_000))),
            ("6/m burst 5", Some((6, 60_000, 5))),
            ("1/d", Some((1, 86_400_000, 1))),
            ("20", None),
            ("20/", None),
            ("/s", None),
            ("20/s burst", None),
            ("20/s burst 40 burst 50", None),
            ("20/s 40", None),
            ("-1/s", None),
            ("+1/s", None),
            ("1.5/s", None),
            ("20 per s", None),
            ("18446744073709551616/s", None),
        ];
        for (text, expected) in table {
            let parsed = WrittenRate::try_from(Value::from(text)).ok();
            assert_eq!(parsed.map(|rate| (rate.count, rate.period, rate.burst)), expected, "{text:?}");
        }
        let rate = WrittenRate { count: 6, period: 60_000, burst: 5 };
        assert_eq!((rate.to_string(), format!("{rate:#}")), ("6/m burst 5".to_owned(), "6/m".to_owned()));
    }

    #[test]
    fn amounts_are_shown_in_their_largest_unit() {
        for (amount, size, period) in [
            (0, "0 B", "0ms"),
            (1000, "1000 B", "1s"),
            (8192, "8 KiB", "8192ms"),
            (86_400_000, "84375 KiB", "1d"),
            (16 * TIB, "16 TiB", "17592186044416ms"),
        ] {
            assert_eq!((Size(amount).to_string(), Period(amount).to_string()), (size.to_owned(), period.to_owned()));
        }
    }
}
