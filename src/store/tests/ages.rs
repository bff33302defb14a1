//! Tests of removal by age: only time that the monotonic clock saw counts.

use std::time::Duration;

use super::{
    key, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    shadow::{Command, IdempotencyKey, Keyed, Update, Version},
    store::{Seq, StoreOptions},
};
use serde_json::json;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY as i64;

fn options() -> StoreOptions {
    StoreOptions { journal_age_max: Duration::from_secs(7 * DAY), ..super::options() }
}

/// Returns an update with the idempotency key `name`.
fn keyed(name: &str) -> Command {
    let Command::Update(update) = update(&json!({"desired": {"key": name}}), None) else { unreachable!() };
    let keyed = Keyed::update(IdempotencyKey::new(name).unwrap(), &update);
    Command::Update(Update { keyed: Some(keyed), ..update })
}

/// Applies `command` to one shadow, and returns the version then.
fn apply(stepped: &mut Stepped, command: Command) -> Version {
    stepped.apply([queued(&key("d"), command, 0)])[0].result.as_ref().unwrap().after.version
}

/// Makes `count` changes of another shadow, `step` seconds apart.
fn go_on(stepped: &mut Stepped, count: u64, step: u64) {
    for _ in 0..count {
        *stepped.now.lock() += step;
        let n = *stepped.now.lock();
        stepped.apply([queued(&key("other"), super::count(n), 0)]);
        stepped.idle();
    }
}

fn oldest(stepped: &Stepped) -> Seq {
    stepped.store.health().oldest
}

/// A machine whose date was 2099 for a moment lost its whole journal and all idempotency keys.
#[test]
fn a_jump_of_the_date_removes_nothing() {
    for years in [73, -56, 1] {
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut stepped = Stepped::open(&disk, options()).unwrap();
        assert_eq!(apply(&mut stepped, keyed("before")), Version(1), "{years} years");
        go_on(&mut stepped, 5, HOUR);
        *stepped.date_ahead.lock() = years * YEAR;
        go_on(&mut stepped, 5, HOUR);
        assert_eq!(apply(&mut stepped, keyed("meanwhile")), Version(2), "{years} years");
        assert_eq!(apply(&mut stepped, keyed("before")), Version(2), "{years} years: replayed");
        drop(stepped);
        // A start with the wrong date, which is then set.
        let mut stepped = Stepped::open_at(&disk, options(), years * YEAR).unwrap();
        go_on(&mut stepped, 5, HOUR);
        *stepped.date_ahead.lock() = 0;
        go_on(&mut stepped, 5, 60);
        for name in ["before", "meanwhile"] {
            assert_eq!(apply(&mut stepped, keyed(name)), Version(2), "{years} years: {name} is replayed");
        }
        assert_eq!(oldest(&stepped), Seq(1), "{years} years");
        // Time that passes removes both, in spite of the wrong timestamps.
        go_on(&mut stepped, 30, DAY);
        assert!(oldest(&stepped) > Seq(20), "{years} years: {}", oldest(&stepped));
        assert_eq!(apply(&mut stepped, keyed("before")), Version(3), "{years} years: decided again");
    }
}

#[test]
fn entries_live_for_their_age_of_running_time() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let mut first_removed = None;
    for hour in 0..9 * 24 {
        go_on(&mut stepped, 1, HOUR);
        if oldest(&stepped) > Seq(1) {
            first_removed.get_or_insert(hour);
        }
        if hour % 24 == 23 {
            // Time while the store is closed does not count.
            let now = *stepped.now.lock();
            drop(stepped);
            stepped = Stepped::open_at(&disk, options(), now as i64 + YEAR).unwrap();
        }
    }
    // Seven days, one part in 64 more, and a minute for each start.
    let first_removed = first_removed.unwrap();
    assert!((7 * 24..7 * 24 + 4).contains(&first_removed), "after {first_removed} hours");
}

#[test]
fn a_key_in_the_journal_keeps_its_age_over_a_crash() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let options = || StoreOptions { flush_documents_min: 0, ..options() };
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    // The first documents in key order are flushed with the commit.
    let others = (0..9).map(|n| queued(&key(&format!("a-{n}")), super::count(n), n));
    stepped.apply(others.chain([queued(&key("d"), keyed("k"), 0)]));
    let crashed = SimDisk::new(disk.durable(), Stop::Never);
    let mut stepped = Stepped::open_at(&crashed, options(), 10 * YEAR).unwrap();
    assert!(stepped.store.health().recovered_entries > 0);
    *stepped.now.lock() += DAY - HOUR;
    assert_eq!(apply(&mut stepped, keyed("k")), Version(1), "replayed");
    *stepped.now.lock() += 2 * HOUR;
    assert_eq!(apply(&mut stepped, keyed("other")), Version(2));
    assert_eq!(apply(&mut stepped, keyed("k")), Version(3), "decided again");
}
