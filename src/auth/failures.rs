//! How many logins have failed, per address and user, and per address; what is over its limit is refused unheard.
//!
//! The limit per address and user is tight and stops guessing at one user. What is over it no longer counts against the
//! address, so that one device with a wrong password does not lock out its neighbours behind the same router. The limit
//! per address is looser and stops guessing at many. A success is not counted and clears nothing.
//!
//! Nothing grows: the meters are a fixed table, a key has one in each row, and it is over its limit only if all of them
//! are. Which ones is a keyed hash, unknown outside. Keys that share a meter can only make each other seem worse, and
//! both would have to meet in every row, so there is nothing to evict, and no flood of addresses makes room for a
//! guess.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::quota::{Meter, Network, Rate};

/// Rows of a table: the hash of a key has 16 bits for each.
const ROWS: usize = 4;
/// Meters in a row.
const ROW: usize = 1 << 14;

/// Failed logins, counted.
pub(super) struct Failures {
    of_users: Table,
    of_addresses: Table,
}

struct Table {
    rate: Rate,
    hasher: RandomState,
    /// Row after row.
    meters: Mutex<Vec<Meter>>,
}

impl Failures {
    /// Allows failures at the rate `of_users` per address and user, at `of_addresses` per address.
    pub(super) fn new(of_users: Rate, of_addresses: Rate) -> Self {
        Self { of_users: Table::new(of_users), of_addresses: Table::new(of_addresses) }
    }

    /// Whether a login of `user`, whatever text that is, may be tried from an address.
    ///
    /// # Errors
    ///
    /// How long to wait.
    pub(super) fn check(&self, from: Network, user: &str, now: Instant) -> Result<(), Duration> {
        self.check_user(from, user, now)?;
        self.check_address(from, now)
    }

    /// As [`Self::check`], of the limit per address and user alone.
    pub(super) fn check_user(&self, from: Network, user: &str, now: Instant) -> Result<(), Duration> {
        self.of_users.wait(&(from, user), now).map_or(Ok(()), Err)
    }

    /// As [`Self::check`], of the limit per address alone.
    pub(super) fn check_address(&self, from: Network, now: Instant) -> Result<(), Duration> {
        self.of_addresses.wait(&from, now).map_or(Ok(()), Err)
    }

    /// Counts a login that was tried and failed.
    pub(super) fn count(&self, from: Network, user: &str, now: Instant) {
        self.of_users.charge(&(from, user), now);
        self.of_addresses.charge(&from, now);
    }
}

impl Table {
    fn new(rate: Rate) -> Self {
        Self { rate, hasher: RandomState::new(), meters: Mutex::new(vec![Meter::new(Instant::now()); ROWS * ROW]) }
    }

    /// How long to wait, if one more failure would be over the limit.
    fn wait(&self, key: &impl Hash, now: Instant) -> Option<Duration> {
        let meters = self.meters.lock();
        let places = self.places(key).into_iter();
        places.filter_map(|place| meters.get(place)).map(|meter| meter.wait(self.rate, now)).min().flatten()
    }

    fn charge(&self, key: &impl Hash, now: Instant) {
        let mut meters = self.meters.lock();
        for place in self.places(key) {
            if let Some(meter) = meters.get_mut(place) {
                meter.charge(self.rate, 1, now);
            }
        }
    }

    fn places(&self, key: &impl Hash) -> [usize; ROWS] {
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

    fn failures() -> Failures {
        Failures::new(Rate::every(Duration::from_secs(10), 5), Rate::every(Duration::from_millis(200), 50))
    }

    fn network(text: &str) -> Network {
        text.parse::<IpAddr>().expect("an address").into()
    }

    /// Fails `count` times as often as it is let, and tells how often that was.
    fn fail(failures: &Failures, from: Network, count: usize, user: impl Fn(usize) -> String, now: Instant) -> usize {
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
    fn one_user_may_fail_a_few_times_then_slowly() {
        let (failures, from, start) = (failures(), network("192.0.2.1"), Instant::now());
        let lamp = |_: usize| "lamp".to_owned();
        assert_eq!(fail(&failures, from, 100, lamp, start), 5);
        assert_eq!(failures.check(from, "lamp", start), Err(Duration::from_secs(10)));
        assert_eq!(fail(&failures, from, 100, lamp, start + Duration::from_secs(35)), 3);
        assert_eq!(fail(&failures, from, 100, lamp, start + HOUR), 5);
    }

    /// What one device tries behind a router is at most its own burst of what the address may.
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
    fn one_address_may_not_fail_with_ever_other_users() {
        let (failures, start) = (failures(), Instant::now());
        let user = |n: usize| format!("user-{n}");
        assert_eq!(fail(&failures, network("192.0.2.1"), 1_000, user, start), 50);
        assert!(failures.check(network("192.0.2.1"), "another", start).is_err());
        assert!(failures.check(network("192.0.2.2"), "user-1", start).is_ok(), "another address");
        let later = start + Duration::from_secs(2);
        assert_eq!(fail(&failures, network("192.0.2.1"), 1_000, |n| format!("later-{n}"), later), 10);
    }

    /// Whoever has many addresses fills the table, which then refuses more than it should, never less.
    #[test]
    fn a_flood_of_addresses_frees_nobody_who_is_over_the_limit() {
        let (failures, start) = (failures(), Instant::now());
        let from = network("192.0.2.1");
        assert_eq!(fail(&failures, from, 5, |_| "lamp".to_owned(), start), 5);
        for n in 0..100_000_u32 {
            failures.count(IpAddr::from(n.to_be_bytes()).into(), "x", start);
        }
        assert!(failures.check(from, "lamp", start).is_err());
    }

    /// A thousand others who fail all the time, each at its limit, make nobody else seem to.
    #[test]
    fn strangers_do_not_share_meters() {
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
