//! The sources from which a node has failed to receive a store. Each rests for a while, longer after each failure: an attempt reads and
//! sends a whole store.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::store::NodeId;

/// The rest after the first failure. It doubles with each.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(5 * 60);

/// The failures by their sources.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<NodeId, SourceFailure>);

#[derive(Debug)]
struct SourceFailure {
    count: u32,
    rests_until: Instant,
    /// The reason of the last one.
    reason: String,
}

impl Failures {
    /// Notes a failure at `now`. Returns the rest.
    pub(super) fn add(&mut self, source: NodeId, reason: String, now: Instant) -> Duration {
        let count = self.0.get(&source).map_or(0, |failure| failure.count);
        let rest = FIRST_REST.saturating_mul(2_u32.saturating_pow(count)).min(REST_MAX);
        let failure = SourceFailure { count: count.saturating_add(1), rests_until: now + rest, reason };
        self.0.insert(source, failure);
        rest
    }

    /// Returns true if `source` has failed.
    pub(super) fn has(&self, source: NodeId) -> bool {
        self.0.contains_key(&source)
    }

    /// Returns the reason for which `source` rests at `now`.
    pub(super) fn rest(&self, source: NodeId, now: Instant) -> Option<&str> {
        self.0.get(&source).filter(|failure| now < failure.rests_until).map(|failure| failure.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that always fails read and sent its whole store twice a second.
    #[test]
    fn rests_grow_up_to_a_bound() {
        let (mut failures, source, mut now) = (Failures::default(), NodeId(1), Instant::now());
        assert!(!failures.has(source));
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let rest = failures.add(source, "no".to_owned(), now);
            assert_eq!(rest, Duration::from_secs(expected));
            assert_eq!(failures.rest(source, now), Some("no"));
            now += rest;
            assert_eq!((failures.rest(source, now), failures.has(source)), (None, true));
        }
        (0..100).for_each(|_| _ = failures.add(source, String::new(), now));
        assert_eq!(failures.rest(NodeId(2), now), None);
    }
}
