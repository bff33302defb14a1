//! Tests of the purge of tombstones that an operator asks for: versions go on after it, and nothing else is removed.

use std::fs;

use futures_util::FutureExt;

use super::{
    count, delete, key, named, options, queued,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
};
use crate::{
    shadow::{
        Command, Delete, IdempotencyKey, Keyed, Rejection, ShadowKey, Version, command::idempotency::REMEMBERED_SECONDS,
    },
    store::{self, PurgedTombstones, ShadowCounts, State, StoreOptions},
};

/// Returns the options of a store that keeps no entry longer than it must.
fn short() -> StoreOptions {
    StoreOptions { journal_bytes_max: 1, ..options() }
}

pub(super) fn purge(store: &mut Stepped, keys: &[ShadowKey], dry_run: bool) -> Result<PurgedTombstones, Rejection> {
    let (handle, keys) = (store.store.clone(), keys.to_vec());
    let mut asked = Box::pin(async move { handle.purge(keys, dry_run).await });
    assert!(asked.as_mut().now_or_never().is_none(), "the writer has not run");
    let _ = store.writer.step();
    asked.now_or_never().expect("an answer")
}

fn purged(purged: usize, kept: usize) -> Result<PurgedTombstones, Rejection> {
    Ok(PurgedTombstones { purged, kept })
}

/// Writes and deletes the shadows of `keys`, and removes their entries from the journal.
fn with_tombstones(disk: &SimDisk, keys: &[ShadowKey]) -> Stepped {
    let mut store = Stepped::open(disk, short()).unwrap();
    store.apply(keys.iter().map(|key| queued(key, count(1), 0)));
    store.apply(keys.iter().map(|key| queued(key, delete(), 0)));
    store.idle();
    store.apply([queued(&key("other"), count(1), 0)]);
    store
}

fn check(store: &Stepped, live: u64, deleted: u64) {
    assert_eq!(store.store.health().shadows, Some(ShadowCounts { live, deleted }));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backup");
    let mut backup = Vec::new();
    store.store.back_up(&mut backup).unwrap();
    fs::write(&path, &backup).unwrap();
    let report = store::check_backup(&StoreOptions { path, ..options() }).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.shadows, live + deleted);
}

#[test]
fn versions_go_on_after_a_purge() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let keys = [key("a"), named("a", "x"), key("b")];
    let mut store = with_tombstones(&disk, &keys);
    store.apply([queued(&keys[1], count(2), 0), queued(&keys[1], delete(), 0)]);
    let all = [&keys[..], &[key("other"), key("absent"), keys[0].clone()]].concat();
    assert_eq!(purge(&mut store, &all, true), purged(3, 0));
    check(&store, 1, 3);
    assert_eq!(purge(&mut store, &all, false), purged(3, 0));
    check(&store, 1, 0);
    assert_eq!(purge(&mut store, &all, false), purged(0, 0));
    let mut store = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), short()).unwrap();
    check(&store, 1, 0);
    for (key, floor) in [(&keys[0], 4), (&keys[1], 4), (&keys[2], 2), (&key("other"), 1)] {
        let stored = store.store.read(key).unwrap();
        assert_eq!((stored.document.version, stored.is_recorded()), (Version(floor), *key == super::key("other")));
        let outcomes = store.apply([queued(key, count(9), 0)]);
        assert_eq!(outcomes[0].result.as_ref().unwrap().after.version, Version(floor + 1), "{key}");
    }
    check(&store, 4, 0);
}

#[test]
fn a_tombstone_is_kept_while_its_changes_are_in_the_journal() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut store = Stepped::open(&disk, StoreOptions { flush_documents_min: 0, ..options() }).unwrap();
    store.apply([queued(&key("a"), count(1), 0), queued(&key("a"), delete(), 0), queued(&key("b"), count(1), 0)]);
    let keys = [key("a"), key("b"), key("absent")];
    assert!(store.store.health().backlog_documents > 0);
    assert_eq!(purge(&mut store, &keys, false), purged(0, 1), "in the dirty set");
    store.idle();
    assert_eq!(purge(&mut store, &keys, false), purged(0, 1), "in the journal");
    check(&store, 1, 1);
}

#[test]
fn a_remembered_key_keeps_its_tombstone() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut store = Stepped::open(&disk, short()).unwrap();
    let keyed = Keyed::delete(IdempotencyKey::new("k").unwrap(), &Delete::default());
    let delete = Command::Delete(Delete { keyed: Some(keyed), ..Delete::default() });
    store.apply([queued(&key("a"), count(1), 0), queued(&key("a"), delete, 0)]);
    store.idle();
    store.apply([queued(&key("other"), count(1), 0)]);
    for (seconds, expected) in [(0, purged(0, 1)), (REMEMBERED_SECONDS, purged(0, 1)), (1, purged(1, 0))] {
        *store.now.lock() += seconds;
        assert_eq!(purge(&mut store, &[key("a")], false), expected, "after {seconds}");
    }
}

#[test]
fn a_purge_frees_the_names_of_a_device() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let keys = [named("d", "a"), named("d", "b")];
    let mut store = with_tombstones(&disk, &keys);
    assert_eq!(purge(&mut store, &keys, false), purged(2, 0));
    let names = (0..100).map(|n| queued(&named("d", &format!("n-{n}")), count(1), 0));
    assert!(store.apply(names).iter().all(|outcome| outcome.result.is_ok()));
    assert!(store.apply([queued(&keys[0], count(1), 0)])[0].result.is_err(), "the device has 100 names");
}

/// A purge whose commit fails is on the disk whole or not at all, and the numbers fit what is there.
#[test]
fn a_failed_purge_is_made_or_not() {
    let keys = [key("a"), key("b")];
    let made = SimDisk::new(Vec::new(), Stop::Never);
    drop(with_tombstones(&made, &keys));
    let image = made.durable();
    let whole = SimDisk::new(image.clone(), Stop::Never);
    let mut store = Stepped::open(&whole, short()).unwrap();
    let opened = whole.operations().0;
    assert_eq!(purge(&mut store, &keys, false), purged(2, 0));
    let mut seen = [false; 2];
    for sync in opened + 1..=whole.operations().0 {
        for stop in [Stop::AtSync(sync), Stop::AfterSync(sync)] {
            let disk = SimDisk::new(image.clone(), stop);
            let mut store = Stepped::open(&disk, short()).unwrap();
            assert_eq!(purge(&mut store, &keys, false), Err(Rejection::OutcomeUnknown), "{stop:?}");
            assert!(matches!(store.store.health().state, State::Failed(_)));
            assert!(matches!(purge(&mut store, &keys, false), Err(Rejection::Unavailable(_))), "{stop:?}");
            disk.repair(Repaired::Pending, Stop::Never);
            assert!(store.heal().is_some(), "{stop:?}");
            let landed = !store.store.read(&keys[0]).unwrap().is_recorded();
            seen[usize::from(landed)] = true;
            check(&store, 1, if landed { 0 } else { 2 });
            assert_eq!(purge(&mut store, &keys, false), purged(if landed { 0 } else { 2 }, 0), "{stop:?}");
            check(&store, 1, 0);
            assert_eq!(store.store.read(&keys[0]).unwrap().document.version, Version(2), "{stop:?}");
        }
    }
    assert_eq!(seen, [true; 2], "the commit was found made and not made");
}
