//! Tests of the numbers of shadows and tombstones in files. [`super::model`] compares them in every run with crashes and
//! failed commits.

use std::time::{Duration, Instant};

use super::{Running, count, delete, key, options, queued};
use crate::store::{
    ShadowCounts, Store, StoreOptions,
    database::Database,
    schema::{self, STATE_TABLE},
    shadow_counts::{CountChange, ShadowCounter},
};

fn counts(store: &Store<u64>) -> ShadowCounts {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match store.health().shadows {
            Some(counts) => return counts,
            None => assert!(Instant::now() < until, "the shadows are never counted"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn each_start_counts_again() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("store.redb"), ..options() };
    let running = Running::open(options.clone()).unwrap();
    running.apply((0..100).map(|n| queued(&key(&format!("d-{n}")), count(1), 0)));
    running.apply((0..30).map(|n| queued(&key(&format!("d-{n}")), delete(), 0)));
    running.apply((0..10).map(|n| queued(&key(&format!("d-{n}")), count(2), 0)));
    running.apply((0..5).map(|n| queued(&key(&format!("absent-{n}")), delete(), 0)));
    let expected = ShadowCounts { live: 80, deleted: 20 };
    assert_eq!(counts(&running.store), expected);
    drop(running);
    for verify_first_bytes_max in [0, u64::MAX] {
        let running = Running::open(StoreOptions { verify_first_bytes_max, ..options.clone() }).unwrap();
        assert_eq!(counts(&running.store), expected);
    }
}

/// A file that was verified is not verified again when it is reopened after a failed commit.
#[test]
fn a_reopened_file_goes_on_from_its_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("store.redb"), ..options() };
    let running = Running::open(options.clone()).unwrap();
    running.apply((0..10).map(|n| queued(&key(&format!("d-{n}")), count(1), 0)));
    running.apply((0..4).map(|n| queued(&key(&format!("d-{n}")), delete(), 0)));
    drop(running);
    let database = Database::open(&options).unwrap();
    let pages = database.pages().cloned();
    let mut counter = ShadowCounter::open(&database, CountChange::default()).unwrap();
    // The commit is on the disk and removed two tombstones, but its outcome was unknown.
    let removed = database.commit(|transaction| {
        let mut state = transaction.open_table(STATE_TABLE)?;
        for name in ["d-0", "d-1"] {
            state.remove(schema::state_key(&key(name)).as_slice())?;
        }
        Ok(())
    });
    assert!(removed.is_ok());
    database.retire();
    drop(database);
    let mut database = Database::reopen(&options).unwrap();
    database.follow(pages).unwrap();
    // A start replayed the change of a shadow that has no record yet.
    let mut landed = CountChange::default();
    landed.written(None, false);
    counter.reopen(&database, landed, landed, 1).unwrap();
    assert_eq!(counter.counts(), Some(ShadowCounts { live: 7, deleted: 2 }));
}
