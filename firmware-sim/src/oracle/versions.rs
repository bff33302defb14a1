//! Versions of one shadow: the set of assigned ones, and the order in which a subscriber gets them.

use std::collections::{BTreeMap, HashMap};

use umbra_client::{Accepted, DeviceId, Version};

use super::Violation;

/// A set of versions stored as runs, so that a million consecutive ones cost as much as one.
#[derive(Debug, Default)]
pub(crate) struct VersionSet {
    /// The first version of each run, and its last, both included. Runs are never adjacent.
    runs: BTreeMap<u64, u64>,
}

impl VersionSet {
    /// Adds a version; returns false if it was present.
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

    /// Returns true if a version is in the set.
    pub(crate) fn contains(&self, Version(version): Version) -> bool {
        self.runs.range(..=version).next_back().is_some_and(|(_, last)| *last >= version)
    }

    /// Returns the highest version.
    pub(crate) fn last(&self) -> Option<Version> {
        self.runs.last_key_value().map(|(_, last)| Version(*last))
    }

    /// Returns the number of versions between the lowest and the highest that are not in the set.
    pub(crate) fn missing(&self) -> u64 {
        let span = match (self.runs.first_key_value(), self.runs.last_key_value()) {
            (Some((first, _)), Some((_, last))) => last - first + 1,
            _ => 0,
        };
        span - self.runs.iter().map(|(first, last)| last - first + 1).sum::<u64>()
    }

    /// Returns true if a version above `after`, up to `until`, is not in the set.
    pub(crate) fn missing_between(&self, Version(after): Version, Version(until): Version) -> bool {
        if until <= after {
            return false;
        }
        let run = self.runs.range(..=after + 1).next_back();
        run.is_none_or(|(_, last)| *last < until)
    }
}

/// The order of the versions announced to one connection.
#[derive(Debug)]
pub(crate) struct VersionOrder {
    subscriber: DeviceId,
    /// True for a session that is resumed: it may get the newest change again.
    repeats: bool,
    last: HashMap<DeviceId, Version>,
}

impl VersionOrder {
    /// Returns the order of a connection that got no announcement yet. `resumes`: its session is kept while it is absent,
    /// so a message at QoS 1 may come twice.
    pub(crate) fn new(subscriber: DeviceId, resumes: bool) -> Self {
        Self { subscriber, repeats: resumes, last: HashMap::new() }
    }

    /// Records that an accepted update was announced; returns a violation if its version does not follow.
    ///
    /// A no-op repeats the version before. A replayed reply answers its requester only, with the version of long ago.
    pub(crate) fn accepted(&mut self, device: &DeviceId, accepted: &Accepted) -> Option<Violation> {
        if accepted.changed && !accepted.replayed { self.observe(device, accepted.version) } else { None }
    }

    /// Records that `version` of a shadow was announced as a change; returns a violation if it does not follow.
    fn observe(&mut self, device: &DeviceId, version: Version) -> Option<Violation> {
        match self.last.insert(device.clone(), version) {
            Some(before) if before > version || (before == version && !self.repeats) => {
                Some(Violation::VersionWentBack {
                    device: device.clone(),
                    version,
                    before,
                    subscriber: self.subscriber.clone(),
                })
            }
            _ => None,
        }
    }

    /// Starts over for another connection.
    pub(crate) fn reset(&mut self) {
        self.last.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_does_not_depend_on_the_order_of_insertion() {
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

    /// A device that retried an update was said to have seen its shadow fall back.
    #[test]
    fn replayed_replies_and_no_ops_are_no_announcements() {
        let mut order = VersionOrder::new(id("subscriber"), false);
        let mut announced = |reply: &str| order.accepted(&id("a"), &serde_json::from_str(reply).expect("a reply"));
        assert!(announced(r#"{"version": 5}"#).is_none());
        assert!(announced(r#"{"version": 3, "replayed": true}"#).is_none());
        assert!(announced(r#"{"version": 5, "changed": false}"#).is_none());
        assert!(announced(r#"{"version": 6}"#).is_none());
        assert!(announced(r#"{"version": 4}"#).is_some());
    }

    #[test]
    fn announced_versions_must_rise_per_shadow() {
        let (a, b) = (id("a"), id("b"));
        let mut order = VersionOrder::new(id("subscriber"), false);
        assert!(order.observe(&a, Version(3)).is_none());
        assert!(order.observe(&b, Version(1)).is_none(), "another shadow");
        assert!(order.observe(&a, Version(5)).is_none(), "a gap is allowed");
        assert!(order.observe(&a, Version(5)).is_some(), "twice");
        assert!(order.observe(&a, Version(4)).is_some(), "backwards");
        order.reset();
        assert!(order.observe(&a, Version(2)).is_none());
    }

    #[test]
    fn a_resumed_session_may_get_the_newest_version_again_and_no_older_one() {
        let a = id("a");
        let mut order = VersionOrder::new(id("subscriber"), true);
        assert!(order.observe(&a, Version(3)).is_none());
        assert!(order.observe(&a, Version(3)).is_none());
        assert!(order.observe(&a, Version(2)).is_some());
    }
}
