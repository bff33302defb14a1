//! The times at which a node has applied records: a request names the last record that its node had applied, so they bound its age.

use std::{collections::VecDeque, time::Duration};

/// Marks of a node's progress in the log, by its own clock.
#[derive(Debug, Default)]
pub(in crate::store) struct RecordAges {
    /// A time and the last record that was applied then, oldest first.
    marks: VecDeque<(Duration, u64)>,
}

/// The time between two marks.
const MARK_EVERY: Duration = Duration::from_secs(1);

impl RecordAges {
    /// Notes that `applied` is the last applied record at `now`. Forgets marks that are not needed for ages up to `max`.
    pub(in crate::store) fn note(&mut self, now: Duration, applied: u64, max: Duration) {
        if self.marks.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= MARK_EVERY) {
            self.marks.push_back((now, applied));
        }
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) > max) {
            self.marks.pop_front();
        }
    }

    /// Returns true if another record had been applied for longer than `max`, which is not above that of the marks, at `now` when `applied` was still the last.
    pub(in crate::store) fn is_older(&self, applied: u64, now: Duration, max: Duration) -> bool {
        let before = self.marks.partition_point(|(at, _)| now.saturating_sub(*at) > max);
        before.checked_sub(1).and_then(|newest| self.marks.get(newest)).is_some_and(|(_, then)| applied < *then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_old_as_the_record_after_the_one_it_names() {
        let (max, second) = (Duration::from_secs(30), Duration::from_secs);
        let mut ages = RecordAges::default();
        for now in 0..100 {
            ages.note(second(now), 2 * now, max);
            ages.note(second(now) + second(1) / 2, 2 * now + 1, max);
            assert!(ages.marks.len() < 34, "{}", ages.marks.len());
        }
        let now = second(99) + second(1) / 2;
        for (applied, is_older) in [(0, true), (137, true), (138, false), (198, false)] {
            assert_eq!(ages.is_older(applied, now, max), is_older, "{applied}");
        }
        // A shorter time.
        for (applied, is_older) in [(137, true), (187, true), (188, false)] {
            assert_eq!(ages.is_older(applied, now, second(5)), is_older, "{applied}");
        }
        assert!(!RecordAges::default().is_older(0, now, max), "nothing is known");
    }
}
