//! Tests of the store with its thread: concurrent readers, a small cache, closing, a full queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{Random, Running, count, key, options, queued};
use crate::{
    shadow::{ShadowKey, Version},
    store::{State, Store, StoreError, StoreOptions},
};

fn file_options(directory: &tempfile::TempDir) -> StoreOptions {
    StoreOptions { path: directory.path().join("store.redb"), ..options() }
}

/// Reads random shadows until `stop` is set, and checks that no version decreases.
fn read_and_watch(store: &Store<u64>, keys: &[ShadowKey], seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut seen = vec![Version(0); keys.len()];
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let index = random.below(keys.len() as u64) as usize;
        let version = store.read(&keys[index]).unwrap().document.version;
        assert!(version >= seen[index], "seed {seed}: {} went from {:?} back to {version:?}", keys[index], seen[index]);
        seen[index] = version;
        reads += 1;
    }
    reads
}

#[test]
fn versions_only_rise_for_readers_beside_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    // The cache is so small that documents are evicted all the time.
    let options = StoreOptions { document_cache_bytes: 64 * 1500, lag_entries_max: 64, ..file_options(&directory) };
    let running = Running::open(options).unwrap();
    let keys: Vec<_> = (0..300).map(|n| key(&format!("d{n}"))).collect();
    let stop = AtomicBool::new(false);
    let mut random = Random::new(5);
    let mut accepted = vec![0; keys.len()];
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|seed| {
                let (store, keys, stop) = (&running.store, &keys, &stop);
                scope.spawn(move || read_and_watch(store, keys, seed, stop))
            })
            .collect();
        for round in 0..150 {
            let chosen: Vec<_> = (0..20).map(|_| random.below(keys.len() as u64) as usize).collect();
            let outcomes = running.apply(chosen.iter().map(|index| queued(&keys[*index], count(round), *index as u64)));
            for outcome in outcomes {
                let applied = outcome.result.unwrap();
                accepted[outcome.context.unwrap() as usize] += u64::from(applied.seq.is_some());
                let read = running.store.read(&outcome.envelope.key).unwrap();
                assert!(read.document.version >= applied.after.version, "a requester reads its own write");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    for (key, accepted) in keys.iter().zip(&accepted) {
        assert_eq!(running.store.read(key).unwrap().document.version, Version(*accepted), "{key}");
    }
}

#[test]
fn the_cache_stays_within_its_limit() {
    const SHADOWS: u64 = 50_000;
    let directory = tempfile::tempdir().unwrap();
    let bytes_max = 4 << 20;
    let options = StoreOptions { document_cache_bytes: bytes_max, lag_entries_max: 2048, ..file_options(&directory) };
    let running = Running::open(options).unwrap();
    let name = |n: u64| key(&format!("device-{n}"));
    for start in (0..SHADOWS).step_by(1000) {
        let outcomes = running.apply((start..start + 1000).map(|n| queued(&name(n), count(n), n)));
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
        let health = running.store.health();
        assert!(health.backlog_documents <= 2048 + 2 * 1024, "{health:?}");
        assert!(health.cached_documents <= bytes_max / 512 + 2048 + 2 * 1024, "{health:?}");
    }
    for n in (0..SHADOWS).step_by(97) {
        assert_eq!(running.store.read(&name(n)).unwrap().document.version, Version(1));
    }
    running.store.close();
    let health = running.store.health();
    // Each of the 64 shards may end with a document or two above its share.
    assert!(health.cached_bytes <= bytes_max + 128 * 1024, "{health:?}");
    assert_eq!((health.lag_entries, health.state), (0, State::Closed));
}

#[test]
fn closing_finishes_what_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::open(file_options(&directory)).unwrap();
    let permit = running.store.try_reserve(10).unwrap();
    (0..2000).for_each(|n| running.send(queued(&key(&format!("d{}", n % 50)), count(n), n)));
    running.store.close();
    let outcomes: Vec<_> = running.reported.try_iter().flatten().collect();
    assert_eq!(outcomes.len(), 2000);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));

    assert!(permit.send(queued(&key("late"), count(1), 7)).is_err_and(|queued| queued.context == 7));
    assert!(running.store.try_reserve(10).is_none());
    assert_eq!(running.store.read(&key("d0")).unwrap().document.version, Version(40), "reads go on");
    running.store.close();

    drop(running);
    let again = Running::open(file_options(&directory)).unwrap();
    assert_eq!(again.store.health().recovered_entries, 0);
    assert_eq!(again.store.read(&key("d49")).unwrap().document.version, Version(40));
}

#[tokio::test]
async fn a_full_queue_makes_senders_wait() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { queue_bytes_max: 10_000, ..file_options(&directory) };
    let running = Arc::new(Running::open(options).unwrap().store);
    let permits: Vec<_> = std::iter::from_fn(|| running.try_reserve(1000)).collect();
    assert_eq!(permits.len(), 4);
    let waiting = tokio::spawn({
        let store = running.clone();
        async move { store.reserve(1_000_000).await.is_ok() }
    });
    drop(permits);
    assert!(waiting.await.unwrap(), "even one larger than the queue gets its turn");
    let store = running.clone();
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    assert!(matches!(running.reserve(1).await, Err(StoreError::Closed)));
}
