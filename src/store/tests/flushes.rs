//! Tests of the pace of write-back and of retention.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{
    Random, count, key,
    model::{Model, random_batch, small_options},
    options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::{START, Stepped},
    update,
};
use crate::{
    shadow::Version,
    store::{DiskLow, HistoryEnd, Seq, State, StoreOptions, disk::FreeDisk},
};

#[test]
fn the_lag_stays_within_its_bounds() {
    for (entries_max, bytes_max, documents) in
        [(64, 1 << 20, 500), (64, 1 << 20, 3), (1 << 20, 16 << 10, 500), (1, 1, 20), (200, 40 << 10, 100)]
    {
        let about = format!("{entries_max} entries, {bytes_max} bytes, {documents} documents");
        let options = StoreOptions {
            lag_entries_max: entries_max,
            lag_bytes_max: bytes_max,
            flush_documents_min: 0,
            ..options()
        };
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut stepped = Stepped::open(&disk, options).unwrap();
        let mut random = Random::new(entries_max);
        let mut bytes_before = 0;
        for round in 0..150 {
            let batch = 1 + random.below(16);
            let queue: Vec<_> = (0..batch)
                .map(|_| queued(&key(&format!("d{}", random.below(documents))), count(random.next()), 0))
                .collect();
            stepped.apply(queue);
            let health = stepped.store.health();
            let batch_bytes = health.journal_bytes - bytes_before;
            bytes_before = health.journal_bytes;
            assert!(health.lag_entries <= entries_max + 2 * batch, "{about}, round {round}: {health:?}");
            assert!(health.lag_bytes <= bytes_max + 2 * 16 * 200, "{about}, round {round}: {health:?}, {batch_bytes}");
        }
        let reopened = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), self::options()).unwrap();
        let health = stepped.store.health();
        assert_eq!(reopened.store.health().recovered_entries, health.lag_entries, "{about}");
        stepped.idle();
        assert_eq!(stepped.store.health().lag_entries, 0, "{about}");
    }
}

#[test]
fn a_steady_load_keeps_the_lag_near_one_pass() {
    let options = StoreOptions { lag_entries_max: 2_000, flush_documents_min: 0, ..options() };
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options).unwrap();
    let mut random = Random::new(7);
    let mut largest = 0;
    for round in 0..600 {
        let queue = (0..20).map(|_| queued(&key(&format!("d{}", random.below(4_000))), count(random.next()), 0));
        stepped.apply(queue);
        // Three passes, until each takes the same time.
        if round > 150 {
            largest = largest.max(stepped.store.health().lag_entries);
        }
    }
    // A pass has 1,000 entries; milestones are 63 apart, and a pass may differ from the one before.
    assert!((900..1_250).contains(&largest), "{largest}");
    assert_eq!(
        Stepped::open(&disk, self::options()).unwrap().store.read(&key("d1")).unwrap(),
        stepped.store.read(&key("d1")).unwrap()
    );
}

#[test]
fn dirty_documents_have_a_share_of_the_cache() {
    let options = StoreOptions {
        document_cache_bytes: 1 << 20,
        flush_documents_min: 0,
        dictionary_documents_min: usize::MAX,
        ..options()
    };
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options).unwrap();
    for n in 0..500 {
        let text = "x".repeat(4_000);
        let updates = (0..4)
            .map(|m| queued(&key(&format!("d{n}-{m}")), update(&json!({"reported": {"a": text, "b": m}}), None), 0));
        stepped.apply(updates);
        let health = stepped.store.health();
        assert!(health.backlog_documents < 220, "{n}: {health:?}");
        assert!(health.cached_bytes < 3 << 20, "{n}: {health:?}");
    }
    assert!(stepped.store.health().backlog_documents > 100);
}

#[test]
fn a_single_update_is_flushed_in_its_own_commit() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    for n in 0..20 {
        stepped.apply([queued(&key(["m", "a", "z"][n as usize % 3]), count(n), 0)]);
        assert_eq!(stepped.store.health().lag_entries, 0, "update {n}");
    }
}

#[test]
fn retention_removes_by_size_and_by_age() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let limits = StoreOptions { journal_bytes_max: 20_000, journal_age_max: Duration::from_secs(100), ..options() };
    let mut stepped = Stepped::open(&disk, limits.clone()).unwrap();
    for n in 0..400 {
        stepped.apply([queued(&key("d"), count(n), 0)]);
        assert!(stepped.store.health().journal_bytes <= 20_000 + 200);
    }
    let health = stepped.store.health();
    assert!(health.oldest > Seq(50) && health.journal_bytes > 19_000, "{health:?}");

    // Journal and history report that entries are gone.
    let oldest = health.oldest;
    assert!(stepped.store.journal(Seq(oldest.0 - 2), 10).unwrap().gone);
    let page = stepped.store.journal(Seq(oldest.0 - 1), 10).unwrap();
    assert!(!page.gone);
    assert_eq!(page.entries.first().map(|entry| entry.seq), Some(oldest));
    let history = stepped.store.history(&key("d"), None, None, 1000).unwrap().unwrap();
    assert_eq!(history.end, HistoryEnd::Gone);
    assert_eq!(history.entries.len() as u64, 400 - oldest.0 + 1);
    assert_eq!(history.entries.last().map(|entry| entry.seq), Some(oldest));

    // The age limit.
    *stepped.now.lock() = START + 101;
    for n in 0..10 {
        stepped.apply([queued(&key("e"), count(n), 0)]);
    }
    assert_eq!(stepped.store.health().oldest, Seq(401));

    // The state after a start is the same.
    drop(stepped);
    let mut stepped = Stepped::open(&disk, limits).unwrap();
    assert_eq!(stepped.store.health().oldest, Seq(401));
    assert!(stepped.store.journal(Seq(399), 10).unwrap().gone);
    *stepped.now.lock() = START + 1000;
    stepped.apply([queued(&key("f"), count(1), 0)]);
    // Entries above the checkpoint at the beginning of the commit stay; the next commit removes them.
    stepped.apply([queued(&key("f"), count(2), 0)]);
    assert_eq!(stepped.store.health().oldest, Seq(411));
    assert_eq!(stepped.store.read(&key("d")).unwrap().document.version, Version(400));
}

#[test]
fn retention_keeps_entries_after_the_checkpoint() {
    let options = StoreOptions { journal_bytes_max: 0, journal_age_max: Duration::ZERO, ..small_options() };
    for seed in 20..24 {
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut stepped = Stepped::open(&disk, options.clone()).unwrap();
        let mut random = Random::new(seed);
        let mut model = Model::default();
        for batch in 0..40 {
            let queue = random_batch(&mut random);
            model.apply(&queue, *stepped.now.lock(), &options.document);
            stepped.apply(queue.clone());
            let cut = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), options.clone()).unwrap();
            for (key, document) in &model.documents {
                assert_eq!(&*cut.store.read(key).unwrap().document, document, "seed {seed}, batch {batch}, {key}");
            }
        }
        let health = stepped.store.health();
        assert!(health.oldest.0 > 1, "seed {seed}: something was forgotten");
    }
}

#[test]
fn a_full_disk_refuses_until_there_is_room() {
    let free = Arc::new(AtomicU64::new(1000));
    let probed = free.clone();
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let options = StoreOptions { free_disk_min: 5000, ..options() };
    let probe = move || Ok(probed.load(Ordering::SeqCst));
    let mut stepped = Stepped::open_probed(&disk, options, probe).unwrap();
    let outcomes = stepped.apply([queued(&key("d"), count(1), 0)]);
    let text = format!("{:?}", outcomes[0].result);
    assert!(text.contains("Unavailable") && text.contains("1000") && text.contains("5000"), "{text}");
    assert_eq!(stepped.store.read(&key("d")).unwrap().document.version, Version(0));
    assert_eq!(stepped.store.health().state, State::DiskLow(DiskLow { free: 1000, needed: 5000 }));
    free.store(6000, Ordering::SeqCst);
    *stepped.writer.shared.disk.lock() = FreeDisk::with_probe(Box::new(move || Ok(free.load(Ordering::SeqCst))), 5000);
    assert_eq!(stepped.store.health().state, State::Writable, "without a command");
    let outcomes = stepped.apply([queued(&key("d"), update(&json!({"desired": {"a": 1}}), Some(0)), 0)]);
    assert!(outcomes[0].result.is_ok());
}
