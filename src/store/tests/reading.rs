//! Tests of reads: documents, lists, histories, and damage that affects one shadow only.

use redb::ReadableTable;
use serde_json::json;

use super::{
    count, delete, key, named, options, queued, scanned_documents,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    shadow::{Effect, Rejection, Version},
    store::{
        HistoryEnd, Seq, StoreError, StoreOptions,
        schema::{self, STATE_TABLE},
    },
};

fn opened() -> (SimDisk, Stepped) {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let stepped = Stepped::open(&disk, options()).unwrap();
    (disk, stepped)
}

#[test]
fn a_batch_is_decided_in_order() {
    let (_, mut stepped) = opened();
    let set = |n: u64, expected| update(&json!({"reported": {"n": n}}), expected);
    let outcomes = stepped.apply([
        queued(&key("d"), set(1, Some(0)), 0),
        queued(&key("d"), set(2, Some(0)), 1),
        queued(&key("d"), set(1, None), 2),
        queued(&key("d"), set(3, Some(1)), 3),
        queued(&key("d"), delete(), 4),
        queued(&key("d"), delete(), 5),
        queued(&key("d"), set(4, Some(0)), 6),
    ]);
    let seqs: Vec<_> = outcomes.iter().map(|outcome| outcome.result.as_ref().ok().map(|applied| applied.seq)).collect();
    let some = |seq| Some(Some(Seq(seq)));
    assert_eq!(seqs, [some(1), None, Some(None), some(2), some(3), None, some(4)]);
    assert!(outcomes.iter().filter_map(|outcome| outcome.context).eq(0..7), "outcomes in order");
    assert_eq!(outcomes[5].result, Err(Rejection::NotFound));
    let document = stepped.store.read(&key("d")).unwrap().document;
    assert_eq!((document.version, document.deleted), (Version(4), false));
    assert_eq!(stepped.store.head(), Seq(4));
}

/// Wherever they are: not flushed, flushed, or in no cache after a start.
#[test]
fn many_documents_are_read_without_being_kept() {
    let (disk, mut stepped) = opened();
    stepped.apply(["a", "b", "c"].map(|device| queued(&key(device), count(1), 0)));
    stepped.idle();
    stepped.apply([queued(&key("b"), count(2), 0), queued(&key("c"), delete(), 0), queued(&key("e"), count(1), 0)]);
    let keys = ["a", "b", "c", "d", "e"].map(key);
    let versions = |stepped: &Stepped| {
        let found = scanned_documents(&stepped.store, &keys);
        found.iter().map(|document| document.as_ref().map(|document| document.version.0)).collect::<Vec<_>>()
    };
    let expected = [Some(1), Some(2), None, None, Some(1)];
    assert_eq!(versions(&stepped), expected);
    stepped.idle();
    assert_eq!(versions(&stepped), expected);
    drop(stepped);
    let restarted = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), options()).unwrap();
    assert_eq!(versions(&restarted), expected);
    assert_eq!(restarted.store.health().cached_documents, 0);
}

#[test]
fn the_history_walks_back_through_deletes() {
    let (_, mut stepped) = opened();
    for n in 1..=3 {
        stepped.apply([queued(&key("d"), count(n), 0), queued(&key("other"), count(n), 0)]);
    }
    stepped.apply([queued(&key("d"), delete(), 0)]);
    stepped.apply([queued(&key("d"), count(9), 0)]);
    for idle in [false, true] {
        if idle {
            stepped.idle();
        }
        let history = |before: Option<u64>, limit| {
            let page = stepped.store.history(&key("d"), None, before.map(Version), limit).unwrap().unwrap();
            (page.entries.iter().map(|entry| entry.version.0).collect::<Vec<_>>(), page.end)
        };
        assert_eq!(history(None, 10), (vec![5, 4, 3, 2, 1], HistoryEnd::First));
        assert_eq!(history(None, 5), (vec![5, 4, 3, 2, 1], HistoryEnd::First));
        assert_eq!(history(None, 2), (vec![5, 4], HistoryEnd::More(Seq(5))));
        assert_eq!(history(Some(4), 2), (vec![3, 2], HistoryEnd::More(Seq(1))));
        assert_eq!(history(Some(1), 2), (vec![], HistoryEnd::First));
    }
    let entries = stepped.store.history(&key("d"), None, None, 10).unwrap().unwrap().entries;
    assert!(entries[1].deleted && !entries[0].deleted);
    assert_eq!((&*entries[2].principal, &*entries[2].client), ("app-1", "client-1"));
    let change = &entries[2].changes[0];
    assert_eq!((change.path.to_string().as_str(), &change.effect), ("/reported/n", &Effect::Set(json!(3))));
    let replaced = change.replaced.as_ref().unwrap();
    assert_eq!((&replaced.value, replaced.version), (&json!(2), Version(2)));
    assert_eq!(stepped.store.history(&key("never"), None, None, 10).unwrap().unwrap().end, HistoryEnd::First);
    for (from, entries) in [(1, Some(1)), (5, Some(3)), (2, None), (6, None), (9, None), (1 << 60, None)] {
        let page = stepped.store.history(&key("d"), Some(Seq(from)), None, 10).unwrap();
        assert_eq!(page.map(|page| page.entries.len()), entries, "from {from}");
    }
}

/// A history ended as `gone` after 10,000 entries, whatever was kept. A page is bounded, the history is not.
#[test]
fn the_history_goes_as_far_back_as_the_journal() {
    const CHANGES: u64 = 20_100;
    let (_, mut stepped) = opened();
    // No batch takes more.
    for first in (1..=CHANGES).step_by(1000) {
        stepped.apply((first..CHANGES.min(first + 999) + 1).map(|n| queued(&key("d"), count(n), 0)));
    }
    for (before, first) in [(None, CHANGES), (Some(Version(50)), 49)] {
        let (mut from, mut expected, mut pages) = (None, first, 0);
        loop {
            let page = stepped.store.history(&key("d"), from, before, 1000).unwrap().unwrap();
            for entry in page.entries {
                assert_eq!(entry.version, Version(expected));
                expected -= 1;
            }
            pages += 1;
            match page.end {
                HistoryEnd::More(next) => from = Some(next),
                end => break assert_eq!((end, expected), (HistoryEnd::First, 0)),
            }
        }
        assert_eq!(pages, if before.is_some() { 3 } else { 21 }, "before {before:?}");
    }
}

/// A page of large changes took a gigabyte of memory.
#[test]
fn a_page_of_history_is_bounded_in_bytes() {
    const CHANGES: usize = 700;
    const PAGE_BYTES: usize = 512 << 10;
    let (_, mut stepped) = opened();
    let value = |n: usize| update(&json!({"reported": {"n": format!("{n:07000}")}}), None);
    for first in (0..CHANGES).step_by(100) {
        stepped.apply((first..first + 100).map(|n| queued(&key("d"), value(n), 0)));
    }
    let (mut from, mut entries, mut pages) = (None, 0, 0);
    loop {
        let page = stepped.store.history(&key("d"), from, None, 1000).unwrap().unwrap();
        assert_eq!((page.bytes, page.skipped), (page.entries.iter().map(|entry| entry.bytes).sum(), 0));
        entries += page.entries.len();
        pages += 1;
        let HistoryEnd::More(next) = page.end else { break };
        assert!((PAGE_BYTES..PAGE_BYTES + 20_000).contains(&page.bytes), "{}", page.bytes);
        from = Some(next);
    }
    assert_eq!((entries, pages), (CHANGES, 19));
    let passed_over = stepped.store.history(&key("d"), None, Some(Version(1)), 1000).unwrap().unwrap();
    assert!(passed_over.entries.is_empty() && passed_over.skipped > 30, "{passed_over:?}");
}

/// A reader of one device got the answer that events were gone when only those of others were, and read all others.
#[test]
fn finds_the_changes_of_a_device_unless_one_was_removed() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let short = crate::store::StoreOptions { journal_bytes_max: 1500, ..options() };
    let mut stepped = Stepped::open(&disk, short).unwrap();
    stepped.apply([queued(&key("rare"), count(1), 0)]);
    for n in 1..100 {
        stepped.apply([queued(&key("busy"), count(n), 0)]);
    }
    stepped.apply([queued(&key("late"), count(1), 0)]);
    stepped.idle();
    stepped.apply([queued(&key("busy"), count(100), 0)]);
    let removed = Seq(stepped.store.health().oldest.0 - 1);
    assert!(removed > Seq(50) && removed < Seq(99), "{removed}");
    let positions = |range: std::ops::RangeInclusive<u64>| Some(range.filter(|seq| *seq != 101).map(Seq).collect());
    // devices, the last event their reader had, the positions of the changes after it
    for (devices, after, expected) in [
        (&["rare"][..], Seq(0), None),
        (&["rare"], Seq(1), Some(vec![])),
        (&["never"], Seq(0), Some(vec![])),
        (&["busy"], Seq(1), None),
        (&["busy"], removed, positions(removed.0 + 1..=102)),
        (&["busy"], Seq(101), positions(102..=102)),
        (&["busy", "late", "rare"], Seq(99), Some(vec![Seq(100), Seq(101), Seq(102)])),
        (&["rare"], Seq(1000), None),
    ] {
        let devices: Vec<_> = devices.iter().map(|device| key(device).device).collect();
        let found = stepped.store.positions_of(&devices, None, after).unwrap().positions;
        assert_eq!(found, expected, "{devices:?} after {after:?}");
        assert_eq!(stepped.store.positions_of(&devices, Some(&None), after).unwrap().positions, expected);
        if let Some(found) = found {
            let entries = stepped.store.entries_at(&found).unwrap().unwrap();
            assert!(entries.iter().map(|entry| entry.seq).eq(found));
            assert!(entries.iter().all(|entry| devices.contains(&entry.key.device)));
        }
    }
    assert_eq!(stepped.store.entries_at(&[Seq(102), removed]).unwrap(), None);
}

#[test]
fn the_list_has_flushed_and_dirty_shadows() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let quiet = StoreOptions { flush_documents_min: 0, ..options() };
    let mut stepped = Stepped::open(&disk, quiet.clone()).unwrap();
    let names = ["c", "a", "e"];
    stepped.apply(names.map(|name| queued(&key(name), count(1), 0)));
    stepped.idle();
    stepped.apply([
        queued(&named("a", "x"), count(1), 0),
        queued(&key("d"), count(1), 0),
        queued(&key("c"), delete(), 0),
        queued(&key("b"), update(&json!({}), Some(7)), 0),
    ]);
    let check = |stepped: &Stepped, about: &str| {
        let list = |after: Option<&str>, limit| {
            let page = stepped.store.list(after.map(key).as_ref(), limit).unwrap();
            page.iter()
                .map(|listed| format!("{}{}", listed.key, if listed.deleted { "!" } else { "" }))
                .collect::<Vec<_>>()
        };
        assert_eq!(list(None, 10), ["a", "a~x", "c!", "d", "e"], "{about}");
        assert_eq!(list(None, 2), ["a", "a~x"], "{about}");
        assert_eq!(list(Some("a"), 2), ["a~x", "c!"], "{about}");
        assert_eq!(list(Some("b"), 9), ["c!", "d", "e"], "{about}");
    };
    check(&stepped, "in the journal");
    assert!(stepped.store.health().backlog_documents > 0);
    check(&Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), quiet.clone()).unwrap(), "recovered");
    stepped.idle();
    check(&stepped, "carried");
    drop(stepped);
    check(&Stepped::open(&disk, quiet).unwrap(), "opened again");
}

#[test]
fn names_of_a_device_stay_counted() {
    let mut disk = SimDisk::new(Vec::new(), Stop::Never);
    let three = StoreOptions { shadow_names_max: 3, flush_documents_min: 0, ..options() };
    let mut stepped = Stepped::open(&disk, three.clone()).unwrap();
    let create = |name: &str| queued(&named("d", name), count(1), 0);
    let outcomes = stepped.apply([
        queued(&key("d"), count(1), 0),
        queued(&named("d-", "x"), count(1), 0),
        create("a"),
        create("b"),
    ]);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    // Counted from the dirty set.
    disk = SimDisk::new(disk.durable(), Stop::Never);
    stepped = Stepped::open(&disk, three.clone()).unwrap();
    for round in 0..4 {
        match round {
            1 => drop(stepped.apply([queued(&named("d", "a"), delete(), 0)])),
            2 => stepped.idle(),
            // Counted from the state table.
            3 => {
                drop(stepped);
                stepped = Stepped::open(&disk, three.clone()).unwrap();
            }
            _ => {}
        }
        let outcomes = stepped.apply([create("c"), create("e"), queued(&named("d", "f"), delete(), 0), create("a")]);
        assert!(outcomes[0].result.is_ok(), "round {round}");
        assert!(
            matches!(&outcomes[1].result, Err(Rejection::TooManyRequests { quota, .. }) if quota.contains("'d'")),
            "round {round}: {:?}",
            outcomes[1].result
        );
        assert_eq!(outcomes[2].result, Err(Rejection::NotFound), "round {round}");
        assert!(outcomes[3].result.is_ok(), "round {round}: a deleted one may come back");
    }
}

#[test]
fn a_damaged_record_affects_one_shadow() {
    let (disk, mut stepped) = opened();
    stepped.apply([queued(&key("a"), count(1), 0), queued(&key("b"), count(1), 0)]);
    stepped.idle();
    drop(stepped);
    damage(&disk, "a");
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let error = stepped.store.read(&key("a")).unwrap_err();
    assert!(matches!(&error, StoreError::Record { table: "state", key, .. } if key == "a"), "{error}");
    let outcomes = stepped.apply([queued(&key("a"), count(2), 0), queued(&key("b"), count(2), 0)]);
    assert_eq!(outcomes[0].result, Err(Rejection::Internal));
    assert!(outcomes[1].result.is_ok());
    assert_eq!(stepped.store.list(None, 10).unwrap().len(), 2);
    stepped.idle();
    assert!(stepped.store.read(&key("a")).is_err());
}

#[test]
fn a_damaged_record_does_not_stop_a_recovery() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let quiet = StoreOptions { flush_documents_min: 0, ..options() };
    let mut stepped = Stepped::open(&disk, quiet.clone()).unwrap();
    stepped.apply([queued(&key("a"), count(1), 0), queued(&key("b"), count(1), 0)]);
    stepped.idle();
    stepped.apply([queued(&key("a"), count(2), 0), queued(&key("b"), count(2), 0)]);
    drop(stepped);
    damage(&disk, "a");
    let stepped = Stepped::open(&disk, quiet).unwrap();
    assert!(stepped.store.read(&key("a")).is_err());
    assert_eq!(stepped.store.read(&key("b")).unwrap().document.version, Version(2));
}

/// Flips a bit in the record of `name` through redb, so that only the checksum of the record can detect it.
fn damage(disk: &SimDisk, name: &str) {
    let stored = schema::state_key(&key(name));
    let database = redb::Builder::new().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(STATE_TABLE).unwrap();
        let mut value = ReadableTable::get(&table, stored.as_slice()).unwrap().unwrap().value().to_vec();
        value[20] ^= 4;
        table.insert(stored.as_slice(), value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}
