//! Delays requests to a shadow whose quota is exhausted.
//!
//! A quota covers all requests of a client to one shadow. When the service asks one of them to wait (`retryAfterMs`),
//! all of them wait, and are then sent one at a time with that wait in between: together they must not exhaust the
//! quota again at once. The entry of a shadow is removed with its last waiting request.
//!
//! Pure: the caller supplies the time and waits.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::names::ShadowId;

/// The shadows whose requests are delayed.
#[derive(Debug, Default)]
pub(crate) struct ThrottledShadows {
    throttled: HashMap<ShadowId, Throttle>,
}

#[derive(Debug)]
struct Throttle {
    /// The time at which the next request may be sent.
    next: Instant,
    /// The time between two requests.
    spacing: Duration,
}

impl ThrottledShadows {
    /// Delays the requests to `shadow`: the service asked at `now` to wait for `wait`.
    pub(crate) fn throttle(&mut self, shadow: &ShadowId, wait: Duration, now: Instant) {
        self.throttled.retain(|_, throttle| throttle.next > now);
        // A little longer: the wait is rounded to milliseconds, and took a moment to arrive.
        let spacing = (wait + wait / 16).min(SPACING_MAX);
        if let Some(throttle) = self.throttled.get_mut(shadow) {
            throttle.next = throttle.next.max(now + wait);
            // Waits are shorter for requests late in the quota's interval: the longest wait is the interval.
            throttle.spacing = throttle.spacing.max(spacing);
        } else if self.throttled.len() < SHADOWS_MAX {
            self.throttled.insert(shadow.clone(), Throttle { next: now + wait, spacing });
        }
    }

    /// Reserves the time at which a request to `shadow` that is ready at `now` is sent; `None`: at once.
    pub(crate) fn slot(&mut self, shadow: &ShadowId, now: Instant) -> Option<Instant> {
        let throttle = self.throttled.get_mut(shadow)?;
        if throttle.next <= now {
            self.throttled.remove(shadow);
            return None;
        }
        let slot = throttle.next;
        throttle.next += throttle.spacing;
        Some(slot)
    }
}

/// A longer wait says nothing about the rate after it.
const SPACING_MAX: Duration = Duration::from_millis(250);
/// Shadows throttled at once. Requests to any more are not delayed here.
const SHADOWS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::DeviceId;

    fn shadow(name: &str) -> ShadowId {
        DeviceId::new(name).expect("a device id").into()
    }

    #[test]
    fn waiting_requests_are_sent_one_at_a_time() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let (slow, other) = (shadow("slow"), shadow("other"));
        let mut throttled = ThrottledShadows::default();
        assert_eq!(throttled.slot(&slow, now), None, "not throttled");
        throttled.throttle(&slow, ms(64), now);
        assert_eq!(throttled.slot(&slow, now), Some(now + ms(64)));
        assert_eq!(throttled.slot(&slow, now + ms(10)), Some(now + ms(64 + 68)));
        assert_eq!(throttled.slot(&other, now), None, "another shadow has another quota");
        throttled.throttle(&slow, ms(32), now + ms(20));
        assert_eq!(throttled.slot(&slow, now + ms(30)), Some(now + ms(64 + 136)), "never earlier than reserved before");
        assert_eq!(throttled.slot(&slow, now + ms(30)), Some(now + ms(64 + 204)), "the longest wait is the spacing");
        assert_eq!(throttled.slot(&slow, now + ms(500)), None, "long over");
        assert!(throttled.throttled.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut throttled = ThrottledShadows::default();
        for n in 0..2 * SHADOWS_MAX {
            throttled.throttle(&shadow(&n.to_string()), Duration::from_secs(1), now);
        }
        assert_eq!(throttled.throttled.len(), SHADOWS_MAX);
        throttled.throttle(&shadow("late"), Duration::from_secs(1), now + Duration::from_secs(2));
        assert_eq!(throttled.throttled.len(), 1, "expired entries are removed");
    }
}
