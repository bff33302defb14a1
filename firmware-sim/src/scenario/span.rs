//! Durations of scenario files, such as `"90s"` or `"1h 30m"`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};

/// A duration of simulated time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Span(pub(crate) f64);

impl Span {
    /// Returns the time that it takes when `speed` simulated seconds pass in each second.
    pub(crate) fn at_speed(self, speed: f64) -> Duration {
        Duration::from_secs_f64(self.0 / speed)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut seconds = 0.0;
        for part in text.split_whitespace() {
            let unit_at = part.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, unit) = part.split_at_checked(unit_at)?;
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
            seconds += number.parse::<f64>().ok()? * factor;
        }
        (SPAN_MIN..=SPAN_MAX).contains(&seconds).then_some(Self(seconds))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is not a duration from 1ms to 3650d, such as \"250ms\", \"90s\", \"15m\", \"1h 30m\" or \"7d\""
            ))
        })
    }
}

impl fmt::Display for Span {
    /// Writes at most the two largest units, as nobody needs the milliseconds of an hour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1.0 {
            return write!(f, "{:.0}ms", self.0 * 1000.0);
        }
        if self.0 < 60.0 {
            return write!(f, "{:.1}s", self.0);
        }
        let seconds = self.0.round() as u64;
        let (large, small) = match seconds {
            0..=3_599 => ((seconds / 60, "m"), (seconds % 60, "s")),
            3_600..=86_399 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "m")),
            _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
        };
        write!(f, "{}{}", large.0, large.1)?;
        if small.0 > 0 {
            write!(f, " {}{}", small.0, small.1)?;
        }
        Ok(())
    }
}

const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];
const SPAN_MIN: f64 = 0.001;
const SPAN_MAX: f64 = 3_650.0 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, expected) in [
            ("250ms", Some(0.25)),
            ("1.5s", Some(1.5)),
            ("1h 30m", Some(5_400.0)),
            ("7d", Some(604_800.0)),
            ("", None),
            ("0s", None),
            ("5", None),
            ("s", None),
            ("5 m", None),
            ("-5m", None),
            ("5parsecs", None),
            ("9999d", None),
            ("1.2.3s", None),
        ] {
            assert_eq!(Span::parse(text).map(|span| span.0), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_with_two_units() {
        for (seconds, expected) in
            [(0.02, "20ms"), (1.25, "1.2s"), (60.0, "1m"), (95.0, "1m 35s"), (5_430.0, "1h 30m"), (90_000.0, "1d 1h")]
        {
            assert_eq!(Span(seconds).to_string(), expected);
        }
    }
}
