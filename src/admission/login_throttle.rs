//! Limits on failed logins, per address and user, and per address. A login over its limit is refused without a check.
//!
//! The limit per address and user is tight and stops guesses at one user. A login over it does not count against the
//! address, so a device with a wrong password does not lock out its neighbours behind the same router. The limit per
//! address is looser and stops guesses at many users. A success does not count and resets nothing.
//!
//! The memory is constant: a fixed table of limiters. A key has one limiter in each row, chosen by a secret keyed hash,
//! and is over its limit only if all of them are. Keys that share a limiter can only increase each other's counts, and
//! they would have to collide in every row. So nothing is evicted, and no flood of addresses makes room for a guess.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::admission::{Gcra, Network, Rate};

/// The rows of a table: the hash of a key has 16 bits for each.
const ROWS: usize = 4;
/// The limiters of a row.
const ROW: usize = 1 << 14;

/// The counts of failed logins.
pub(crate) struct LoginThrottle {
    of_users: ThrottleTable,
    of_addresses: ThrottleTable,
}

struct ThrottleTable {
    rate: Rate,
    hasher: RandomState,
    /// The limiters, row after row.
    meters: Mutex<Vec<Gcra>>,
}

impl LoginThrottle {
    /// Allows failures at the rate `of_users` per address and user, and `of_addresses` per address.
    pub(crate) fn new(of_users: Rate, of_addresses: Rate) -> Self {
        Self { of_users: ThrottleTable::new(of_users), of_addresses: ThrottleTable::new(of_addresses) }
    }

    /// Checks that a login of `user`, which may be any text, may be tried from an address.
    ///
    /// # Errors
    ///
    /// The time to wait.
    pub(crate) fn check(&self, from: Network, user: &str, now: Instant) -> Result<(), Duration> {
        self.check_user(from, user, now)?;
        self.check_address(from, now)
    }

    /// Checks the limit per address and user only.
    pub(crate) fn check_user(&self, from: Network, user: &str, now: Instant) -> Result<(), Duration> {
        self.of_users.wait(&(from, user), now).map_or(Ok(()), Err)
    }

    /// Checks the limit per address only.
    pub(crate) fn check_address(&self, from: Network, now: Instant) -> Result<(), Duration> {
        self.of_addresses.wait(&from, now).map_or(Ok(()), Err)
    }

    /// Counts a failed login.
    pub(crate) fn count(&self, from: Network, user: &str, now: Instant) {
        self.of_users.charge(&(from, user), now);
        self.of_addresses.charge(&from, now);
    }
}

impl ThrottleTable {
    fn new(rate: Rate) -> Self {
        Self { rate, hasher: RandomState::new(), meters: Mutex::new(vec![Gcra::new(Instant::now()); ROWS * ROW]) }
    }

    /// Returns the time to wait if one more failure would exceed the limit.
    fn wait(&self, key: &impl Hash, now: Instant) -> Option<Duration> {
        let meters = self.meters.lock();
        let slots = self.slots(key).into_iter();
        slots.filter_map(|slot| meters.get(slot)).map(|meter| meter.wait(self.rate, now)).min().flatten()
    }

    fn charge(&self, key: &impl Hash, now: Instant) {
        let mut meters = self.meters.lock();
        for slot in self.slots(key) {
            if let Some(meter) = meters.get_mut(slot) {
                meter.charge(self.rate, 1, now);
            }
        }
    }

    fn slots(&self, key: &impl Hash) -> [usize; ROWS] {
        let parts = self.hasher.hash_one(key).to_le_bytes();
        std::array::from_fn(|row| {
            let part = parts.get(2 * row..2 * row + 2).and_then(|part| part.try_into().ok());
            row * ROW + usize::from(u16::from_le_bytes(part.unwrap_or_default())) % ROW
        })
    }
}

const _: () = assert!(ROWS * 16 <= 64 && ROW <= 1 << 16);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn failures() -> LoginThrottle {
        LoginThrottle::new(Rate::every(Duration::from_secs(10), 5), Rate::every(Duration::from_millis(200), 50))
    }

    fn network(text: &str) -> Network {
        text.parse::<IpAddr>().expect("an address").into()
    }

    /// Attempts `count` failures, and returns the number that the limit allowed.
    fn fail(
        failures: &LoginThrottle,
        from: Network,
        count: usize,
        user: impl Fn(usize) -> String,
        now: Instant,
    ) -> usize {
        let tried = (0..count).filter(|&n| {
            let may = failures.check(from, &user(n), now).is_ok();
            if may {
                failures.count(from, &user(n), now);
            }
            may
        });
        tried.count()
    }

    #[test]
    fn a_user_may_fail_in_a_burst_then_slowly() {
        let (failures, from, start) = (failures(), network("192.0.2.1"), Instant::now());
        let lamp = |_: usize| "lamp".to_owned();
        assert_eq!(fail(&failures, from, 100, lamp, start), 5);
        assert_eq!(failures.check(from, "lamp", start), Err(Duration::from_secs(10)));
        assert_eq!(fail(&failures, from, 100, lamp, start + Duration::from_secs(35)), 3);
        assert_eq!(fail(&failures, from, 100, lamp, start + HOUR), 5);
    }

    /// A device behind a router uses at most its own burst of the limit of the address.
    #[test]
    fn a_neighbour_is_not_locked_out() {
        let (failures, from, start) = (failures(), network("192.0.2.1"), Instant::now());
        for tenth in 0..6_000 {
            fail(&failures, from, 10, |_| "broken".to_owned(), start + Duration::from_millis(100) * tenth);
        }
        let end = start + Duration::from_millis(599_900);
        assert!(failures.check(from, "broken", end).is_err());
        assert_eq!(fail(&failures, from, 100, |_| "neighbour".to_owned(), end), 5);
    }

    #[test]
    fn an_address_may_not_fail_with_ever_new_users() {
        let (failures, start) = (failures(), Instant::now());
        let user = |n: usize| format!("user-{n}");
        assert_eq!(fail(&failures, network("192.0.2.1"), 1_000, user, start), 50);
        assert!(failures.check(network("192.0.2.1"), "another", start).is_err());
        assert!(failures.check(network("192.0.2.2"), "user-1", start).is_ok(), "another address");
        let later = start + Duration::from_secs(2);
        assert_eq!(fail(&failures, network("192.0.2.1"), 1_000, |n| format!("later-{n}"), later), 10);
    }

    /// Many addresses fill the table, which then refuses more than necessary, never less.
    #[test]
    fn a_flood_of_addresses_resets_no_key_over_its_limit() {
        let (failures, start) = (failures(), Instant::now());
        let from = network("192.0.2.1");
        assert_eq!(fail(&failures, from, 5, |_| "lamp".to_owned(), start), 5);
        for n in 0..100_000_u32 {
            failures.count(IpAddr::from(n.to_be_bytes()).into(), "x", start);
        }
        assert!(failures.check(from, "lamp", start).is_err());
    }

    /// A thousand keys at their limit do not lock out other keys.
    #[test]
    fn unrelated_keys_are_not_locked_out() {
        let (failures, start) = (failures(), Instant::now());
        for n in 0..1_000 {
            let from = IpAddr::from([10, 0, (n / 250) as u8, (n % 250) as u8]).into();
            fail(&failures, from, 5, |_| "x".to_owned(), start);
        }
        // By chance one in 60,000 shares all four with some of the thousand.
        let locked = (0..1_000_u32).filter(|n| {
            let from = IpAddr::from([172, 16, (n / 250) as u8, (n % 250) as u8]).into();
            failures.check(from, "x", start).is_err()
        });
        assert!(locked.count() <= 2);
    }
}
