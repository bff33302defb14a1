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
    let mut ranges: Vec<DeviceRange> = Vec::with_capacity(texts.len());
    for (text, exact) in texts {
        // A text that is no id matches no device.
        let Ok(device) = DeviceId::new(&text) else { continue };
        if !ranges.last().is_some_and(|last| last.has(&device)) {
            ranges.push(if exact { DeviceRange::One(device) } else { DeviceRange::Prefix(device) });
        }
    }
    Some(ranges)
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
}
