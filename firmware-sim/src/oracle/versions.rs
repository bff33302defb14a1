//! Versions of one shadow: the set of those that were told, and the order in which a subscriber heard them.

use std::collections::{BTreeMap, HashMap};

use umbra_client::{DeviceId, Version};

use super::Violation;

/// A set of versions kept as runs, so that a million consecutive ones cost as much as one.
#[derive(Debug, Default)]
pub(crate) struct VersionSet {
    /// First of each run to its last, both included. Runs never touch.
    runs: BTreeMap<u64, u64>,
}

impl VersionSet {
    /// Adds a version; false if it was there.
    pub(crate) fn insert(&mut self, Version(version): Version) -> bool {
        if self.contains(Version(version)) {
            return false;
        }
        let last = match version.checked_add(1).and_then(|next| self.runs.remove(&next)) {
            Some(last) => last,
            None => version,
        };
        match self.runs.range_mut(..version).next_back() {
            Some((_, before)) if *before + 1 == version => *before = last,
            _ => {
                self.runs.insert(version, last);
            }
        }
        true
    }

    /// Whether a version is in it.
    pub(crate) fn contains(&self, Version(version): Version) -> bool {
        self.runs.range(..=version).next_back().is_some_and(|(_, last)| *last >= version)
    }

    /// The highest.
    pub(crate) fn last(&self) -> Option<Version> {
        self.runs.last_key_value().map(|(_, last)| Version(*last))
    }

    /// How many between the lowest and the highest are not in it.
    pub(crate) fn missing(&self) -> u64 {
        let span = match (self.runs.first_key_value(), self.runs.last_key_value()) {
            (Some((first, _)), Some((_, last))) => last - first + 1,
            _ => 0,
        };
        span - self.runs.iter().map(|(first, last)| last - first + 1).sum::<u64>()
    }

    /// Whether any version above `after`, up to `until`, is not in it.
    pub(crate) fn missing_between(&self, Version(after): Version, Version(until): Version) -> bool {
        if until <= after {
            return false;
        }
        let run = self.runs.range(..=after + 1).next_back();
        run.is_none_or(|(_, last)| *last < until)
    }
}

/// The versions of changes as one connection hears them; a new connection is a new listener.
#[derive(Debug)]
pub(crate) struct Listener {
    name: DeviceId,
    heard: HashMap<DeviceId, Version>,
}

impl Listener {
    /// A connection that has heard nothing.
    pub(crate) fn new(name: DeviceId) -> Self {
        Self { name, heard: HashMap::new() }
    }

    /// Takes in that `version` of a shadow was announced as a change; says if it cannot be.
    pub(crate) fn hear(&mut self, device: &DeviceId, version: Version) -> Option<Violation> {
        match self.heard.insert(device.clone(), version) {
            Some(before) if before >= version => {
                Some(Violation::FellBack { device: device.clone(), version, before, listener: self.name.clone() })
            }
            _ => None,
        }
    }

    /// Forgets all: the connection is another one.
    pub(crate) fn reset(&mut self) {
        self.heard.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_a_set_in_whatever_order_it_is_filled() {
        for order in [[1, 2, 3, 5, 6, 9], [9, 6, 5, 3, 2, 1], [5, 1, 3, 9, 2, 6], [2, 1, 6, 9, 5, 3]] {
            let mut set = VersionSet::default();
            assert!(order.iter().all(|version| set.insert(Version(*version))), "{order:?}");
            assert!(!order.iter().any(|version| set.insert(Version(*version))), "{order:?}: none twice");
            let contained: Vec<_> = (0..12).filter(|version| set.contains(Version(*version))).collect();
            assert_eq!(contained, [1, 2, 3, 5, 6, 9], "{order:?}");
            assert_eq!((set.missing(), set.last(), set.runs.len()), (3, Some(Version(9)), 3), "{order:?}");
            for (after, until, expected) in
                [(1, 3, false), (1, 4, true), (3, 4, true), (4, 6, false), (6, 9, true), (9, 9, false), (9, 10, true)]
            {
                let missing = set.missing_between(Version(after), Version(until));
                assert_eq!(missing, expected, "{order:?}: {after} to {until}");
            }
        }
    }

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).expect("a device id")
    }

    #[test]
    fn a_listener_wants_rising_versions_per_shadow() {
        let (a, b) = (id("a"), id("b"));
        let mut listener = Listener::new(id("ear"));
        assert!(listener.hear(&a, Version(3)).is_none());
        assert!(listener.hear(&b, Version(1)).is_none(), "another shadow counts for itself");
        assert!(listener.hear(&a, Version(5)).is_none(), "a gap is another's business");
        assert!(listener.hear(&a, Version(5)).is_some(), "twice");
        assert!(listener.hear(&a, Version(4)).is_some(), "backwards");
        listener.reset();
        assert!(listener.hear(&a, Version(2)).is_none());
    }
}
