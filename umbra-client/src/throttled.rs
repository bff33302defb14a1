//! Keeps requests away from a shadow for as long as the service asked.
//!
//! A quota holds for all requests of a client to one shadow. When one of them is told to come back after a while, all
//! of them wait, also those that have not been sent yet, and then go one after the other with that while in between:
//! together they must not spend at once what one was told to wait for. A shadow that nobody waits for is forgotten.
//!
//! Pure: the caller brings the time and does the waiting.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::names::ShadowId;

/// The shadows that are to be left alone for now.
#[derive(Debug, Default)]
pub(crate) struct ThrottledShadows {
    slow: HashMap<ShadowId, Slow>,
}

#[derive(Debug)]
struct Slow {
    /// When the next request may go.
    next: Instant,
    /// Between two of them.
    spacing: Duration,
}

impl ThrottledShadows {
    /// The service asked at `now` to be left alone about `shadow` for `wait`.
    pub(crate) fn asked(&mut self, shadow: &ShadowId, wait: Duration, now: Instant) {
        self.slow.retain(|_, slow| slow.next > now);
        // The wait was told a moment ago, and in whole milliseconds.
        let spacing = (wait + wait / 16).min(SPACING_MAX);
        if let Some(slow) = self.slow.get_mut(shadow) {
            slow.next = slow.next.max(now + wait);
            // One who comes late in the interval of a quota is told a short wait: the longest told is the interval.
            slow.spacing = slow.spacing.max(spacing);
        } else if self.slow.len() < SHADOWS_MAX {
            self.slow.insert(shadow.clone(), Slow { next: now + wait, spacing });
        }
    }

    /// When a request about `shadow` that is ready at `now` may go; `None` is at once. It has to go then.
    pub(crate) fn slot(&mut self, shadow: &ShadowId, now: Instant) -> Option<Instant> {
        let slow = self.slow.get_mut(shadow)?;
        if slow.next <= now {
            self.slow.remove(shadow);
            return None;
        }
        let slot = slow.next;
        slow.next += slow.spacing;
        Some(slot)
    }
}

/// A long wait says nothing about the rate after it.
const SPACING_MAX: Duration = Duration::from_millis(250);
/// Shadows that are remembered at once; the requests about any more are told by the service alone.
const SHADOWS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::DeviceId;

    fn shadow(name: &str) -> ShadowId {
        DeviceId::new(name).expect("a device id").into()
    }

    #[test]
    fn those_who_wait_go_one_after_the_other() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let (slow, other) = (shadow("slow"), shadow("other"));
        let mut pace = ThrottledShadows::default();
        assert_eq!(pace.slot(&slow, now), None, "nobody asked for anything");
        pace.asked(&slow, ms(64), now);
        assert_eq!(pace.slot(&slow, now), Some(now + ms(64)));
        assert_eq!(pace.slot(&slow, now + ms(10)), Some(now + ms(64 + 68)));
        assert_eq!(pace.slot(&other, now), None, "another shadow has another quota");
        pace.asked(&slow, ms(32), now + ms(20));
        assert_eq!(pace.slot(&slow, now + ms(30)), Some(now + ms(64 + 136)), "never earlier than promised before");
        assert_eq!(pace.slot(&slow, now + ms(30)), Some(now + ms(64 + 204)), "the longest wait told is the distance");
        assert_eq!(pace.slot(&slow, now + ms(500)), None, "long over");
        assert!(pace.slow.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut pace = ThrottledShadows::default();
        for n in 0..2 * SHADOWS_MAX {
            pace.asked(&shadow(&n.to_string()), Duration::from_secs(1), now);
        }
        assert_eq!(pace.slow.len(), SHADOWS_MAX);
        pace.asked(&shadow("late"), Duration::from_secs(1), now + Duration::from_secs(2));
        assert_eq!(pace.slow.len(), 1, "what is over makes room");
    }
}
