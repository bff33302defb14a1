//! The devices that rights cover, as ranges in the order of their ids.
//!
//! A range may hold more devices than the rights, since a `*` in the middle of a pattern is taken as its end. Each shadow
//! is still authorized by itself. The ranges only keep readers away from what they cannot see.

use std::collections::BTreeSet;

use crate::{
    auth::authz::pattern::{Pattern, PlaceholderValues},
    shadow::DeviceId,
};

/// Device ids that are neighbours in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRange {
    /// One device.
    One(DeviceId),
    /// The devices whose id begins with this one.
    Prefix(DeviceId),
}

/// A set of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSet {
    /// All devices.
    All,
    /// The devices of these ranges, which are disjoint and in order.
    Ranges(Vec<DeviceRange>),
}

impl DeviceRange {
    /// Returns the first id of the range, which may be of no device.
    #[must_use]
    pub fn first(&self) -> &DeviceId {
        match self {
            Self::One(device) | Self::Prefix(device) => device,
        }
    }

    /// Returns the device of a range of one.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::One(device) => Some(device),
            Self::Prefix(_) => None,
        }
    }

    /// Returns the ranges of these ids, and of the beginnings of ids, for which the flag is false; in order and disjoint.
    #[must_use]
    pub fn of_texts(texts: BTreeSet<(String, bool)>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::with_capacity(texts.len());
        for (text, exact) in texts {
            // A text that is no id matches no device.
            let Ok(device) = DeviceId::new(&text) else { continue };
            if !ranges.last().is_some_and(|last| last.has(&device)) {
                ranges.push(if exact { Self::One(device) } else { Self::Prefix(device) });
            }
        }
        ranges
    }

    /// Returns the ranges of the devices that are in both, of ranges that are in order and disjoint.
    #[must_use]
    pub fn intersection(one: &[Self], other: &[Self]) -> Vec<Self> {
        let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
        let mut found = Vec::new();
        while let (Some(first), Some(second)) = (one.peek(), other.peek()) {
            let within = match (first.has(second.first()), second.has(first.first())) {
                // Of equal texts, the one device is in the range that begins with it.
                (true, true) if first.device().is_some() => Some(one.next()),
                (true, _) => Some(other.next()),
                (_, true) => Some(one.next()),
                _ if first.first() < second.first() => {
                    one.next();
                    None
                }
                _ => {
                    other.next();
                    None
                }
            };
            found.extend(within.flatten().cloned());
        }
        found
    }

    /// Returns true if `device` is in the range.
    #[must_use]
    pub fn has(&self, device: &DeviceId) -> bool {
        match self {
            Self::One(one) => one == device,
            Self::Prefix(prefix) => device.as_str().starts_with(prefix.as_str()),
        }
    }
}

/// Returns the ranges of the devices that `patterns` match, in order and disjoint. `None` if they are more than `max`,
/// or a pattern may match any device.
pub(super) fn ranges<'a>(
    patterns: impl Iterator<Item = &'a Pattern>,
    who: PlaceholderValues<'_>,
    max: usize,
) -> Option<Vec<DeviceRange>> {
    let mut texts = BTreeSet::new();
    for pattern in patterns {
        let (text, exact) = pattern.beginning(who);
        if text.is_empty() && !exact {
            return None;
        }
        texts.insert((text, exact));
        if texts.len() > max {
            return None;
        }
    }
    Some(DeviceRange::of_texts(texts))
}

/// Returns the devices that `patterns` match. `None` if ranges cannot say so exactly, or they are more than `max`.
pub(super) fn exact<'a>(
    patterns: impl Iterator<Item = &'a Pattern>,
    who: PlaceholderValues<'_>,
    max: usize,
) -> Option<DeviceSet> {
    let patterns: Vec<_> = patterns.collect();
    if patterns.iter().any(|pattern| pattern.is_any()) {
        return Some(DeviceSet::All);
    }
    let are_ranges = patterns.iter().all(|pattern| pattern.is_range());
    if are_ranges { ranges(patterns.into_iter(), who, max).map(DeviceSet::Ranges) } else { None }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn ranges_are_disjoint_and_in_order() {
        let who = PlaceholderValues { principal: "p1", client: "not/an/id" };
        for (patterns, max, expected) in [
            (&["d2", "d1", "d2"][..], 2, Some("d1 d2")),
            (&["d2", "d1", "d3"], 2, None),
            (&["{principal}"], 1, Some("p1")),
            (&["{client}", "{client}-*", "x{principal}y"], 9, Some("xp1y")),
            (&["d*", "d1", "d1*", "d", "e", "c"], 9, Some("c d* e")),
            (&["a*b", "a-*", "a-1"], 9, Some("a*")),
            (&["ab", "a", "abc*"], 9, Some("a ab abc*")),
            (&["d1", "*"], 9, None),
            (&["*-eu"], 9, None),
            (&[], 0, Some("")),
        ] {
            let patterns: Vec<Pattern> = patterns.iter().map(|text| text.parse().unwrap()).collect();
            let found = ranges(patterns.iter(), who, max).map(|ranges| {
                let texts = ranges.iter().map(|range| match range {
                    DeviceRange::One(device) => device.as_str().to_owned(),
                    DeviceRange::Prefix(device) => format!("{}*", device.as_str()),
                });
                texts.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.as_deref(), expected, "{patterns:?}");
        }
    }

    /// A set that holds more than the patterns, since a `*` is in their middle, would let its reader learn of the others.
    #[test]
    fn a_set_is_exact() {
        let who = PlaceholderValues { principal: "p1", client: "not/an/id" };
        for (patterns, max, expected) in [
            (&["d2", "d1"][..], 2, Some(Some(2))),
            (&["d2", "d1", "d3"], 2, None),
            (&["a*", "x{principal}y*", "b**"], 9, Some(Some(3))),
            (&["a*", "a*b"], 9, None),
            (&["*-eu"], 9, None),
            (&["a*b", "*", "d1"], 1, Some(None)),
            (&[], 0, Some(Some(0))),
        ] {
            let patterns: Vec<Pattern> = patterns.iter().map(|text| text.parse().unwrap()).collect();
            let found = exact(patterns.iter(), who, max).map(|set| match set {
                DeviceSet::All => None,
                DeviceSet::Ranges(ranges) => Some(ranges.len()),
            });
            assert_eq!(found, expected, "{patterns:?}");
        }
    }

    #[test]
    fn an_intersection_has_the_devices_of_both() {
        let ranges = |text: &str| {
            let texts = text.split_whitespace().map(|text| match text.strip_suffix('*') {
                Some(beginning) => (beginning.to_owned(), false),
                None => (text.to_owned(), true),
            });
            DeviceRange::of_texts(texts.collect())
        };
        for (one, other, expected) in [
            ("", "a*", ""),
            ("a* c", "a1 a2* b c", "a1 a2* c"),
            ("a b c", "b d", "b"),
            ("a*", "ab*", "ab*"),
            ("ab* ad", "a*", "ab* ad"),
            ("a b* d*", "a* b1 b2 c d", "a b1 b2 d"),
            ("a", "ab", ""),
        ] {
            let (one, other) = (ranges(one), ranges(other));
            assert_eq!(DeviceRange::intersection(&one, &other), ranges(expected), "{one:?} {other:?}");
            assert_eq!(DeviceRange::intersection(&other, &one), ranges(expected), "{other:?} {one:?}");
        }
    }
}
