//! Tests of lineages: a store that goes back gives sequences to other entries, and no reader takes one for the other.
//!
//! The sequence alone was the position that a client of an event stream kept. After the restore of a backup it was refused only
//! until the store had as many entries again: then the client missed the entries in between, and nothing said so.

use std::{fs, sync::Arc};

use parking_lot::Mutex;

use super::{Random, Repaired, Running, SimDisk, Stop, count, key, options, queued, stepped::Stepped};
use crate::store::{
    self, Lineage, Seq, StoreOptions, backup::readable::write_readable, journal::lineage::LINEAGES_KEY,
    schema::META_TABLE,
};

/// The lineages of runs that do not follow each other.
const LOST: Lineage = Lineage(71);
const OTHER: Lineage = Lineage(72);
const NEXT: Lineage = Lineage(73);

fn open_as(image: Vec<u8>, lineage: Lineage) -> (SimDisk, Stepped) {
    let disk = SimDisk::new(image, Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    stepped.writer.lineage = lineage;
    (disk, stepped)
}

fn change(stepped: &mut Stepped, changes: u64) {
    (0..changes).for_each(|n| _ = stepped.apply([queued(&key("device"), count(n), 0)]));
}

/// Returns the image of a store with 20 entries of two runs.
fn base() -> Vec<u8> {
    let mut image = Vec::new();
    for lineage in [1, 2] {
        let (disk, mut stepped) = open_as(image, Lineage(lineage));
        change(&mut stepped, 10);
        drop(stepped);
        image = disk.durable();
    }
    image
}

#[test]
fn a_start_that_changes_something_begins_a_lineage() {
    let (disk, stepped) = open_as(base(), NEXT);
    for (seq, lineage) in [(0, None), (1, Some(Lineage(1))), (10, Some(Lineage(1))), (11, Some(Lineage(2)))] {
        assert_eq!(stepped.store.lineage_at(Seq(seq)), lineage, "{seq}");
    }
    drop(stepped);
    let (_, mut stepped) = open_as(disk.durable(), NEXT);
    assert_eq!(stepped.store.lineage_at(Seq(20)), Some(Lineage(2)), "a start without changes leaves no trace");
    change(&mut stepped, 2);
    let found = [20, 21, 22].map(|seq| stepped.store.lineage_at(Seq(seq)));
    assert_eq!(found, [Some(Lineage(2)), Some(NEXT), Some(NEXT)]);
}

/// Also where the file of a closed store is put back, of which the program cannot know.
#[test]
fn an_older_copy_of_the_file_goes_on_in_another_lineage() {
    let image = base();
    let (_, mut lost) = open_as(image.clone(), LOST);
    change(&mut lost, 5);
    let (_, mut stepped) = open_as(image, OTHER);
    for changes in [0, 3, 10] {
        change(&mut stepped, changes);
        let head = stepped.store.head();
        for seq in (1..=25).map(Seq).filter(|seq| *seq <= head) {
            let is_common = seq <= Seq(20);
            assert_eq!(stepped.store.has_lineage_at(seq, lost.store.lineage_at(seq)), is_common, "{seq} of {head}");
        }
    }
}

/// A power cut at any moment of the first commit after the restore.
#[test]
fn no_entry_is_on_the_disk_without_its_lineage() {
    let (disk, mut stepped) = open_as(base(), OTHER);
    let images = Arc::new(Mutex::new(Vec::new()));
    let (sink, mut random) = (Arc::clone(&images), Random::new(3));
    disk.observe(move |disk, _| sink.lock().extend([disk.durable(), disk.torn(&mut random), disk.torn(&mut random)]));
    change(&mut stepped, 1);
    drop(stepped);
    let mut images = std::mem::take(&mut *images.lock());
    images.push(disk.durable());
    let mut heads = [0, 0];
    for image in images {
        let (_, mut stepped) = open_as(image, NEXT);
        let is_there = stepped.store.head() == Seq(21);
        heads[usize::from(is_there)] += 1;
        if !is_there {
            change(&mut stepped, 1);
        }
        assert_eq!(stepped.store.lineage_at(Seq(21)), Some(if is_there { OTHER } else { NEXT }));
        assert_eq!(stepped.store.lineage_at(Seq(20)), Some(Lineage(2)));
    }
    assert!(heads.iter().all(|count| *count > 1), "{heads:?}");
}

/// The failed commit began the lineage, and the store is opened again without it or with it.
#[test]
fn a_commit_that_failed_does_not_hide_the_lineage_of_the_next() {
    let (mut lost, mut landed) = (0, 0);
    for sync in 1..=6 {
        for stop in [Stop::AtSync(sync), Stop::AfterSync(sync)] {
            let (disk, mut stepped) = open_as(base(), OTHER);
            disk.repair(Repaired::Pending, stop);
            change(&mut stepped, 1);
            if !disk.has_stopped() {
                continue;
            }
            let content = if sync % 2 == 0 { Repaired::Lost } else { Repaired::Pending };
            disk.repair(content, Stop::Never);
            assert!(stepped.heal().is_some(), "{stop:?}");
            let head = stepped.store.head();
            *(if head == Seq(20) { &mut lost } else { &mut landed }) += 1;
            change(&mut stepped, 2);
            drop(stepped);
            let (_, stepped) = open_as(disk.durable(), NEXT);
            assert_eq!(stepped.store.lineage_at(Seq(20)), Some(Lineage(2)), "{stop:?}");
            assert_eq!(stepped.store.lineage_at(Seq(21)), Some(OTHER), "{stop:?}");
        }
    }
    assert!(lost > 0 && landed > 0, "{lost} {landed}");
}

/// An upgrade does not send all clients back to the beginning: their positions have no lineage, as the entries.
#[test]
fn entries_of_former_programs_have_none() {
    let (disk, stepped) = open_as(base(), NEXT);
    let database = stepped.writer.shared.database.get().unwrap();
    let removed = database.commit(|transaction| {
        Ok(transaction.open_table(META_TABLE)?.remove(LINEAGES_KEY).map(|found| found.is_some())?)
    });
    assert!(removed.is_ok_and(|is_there| is_there));
    drop(database);
    drop(stepped);
    let (_, mut stepped) = open_as(disk.durable(), NEXT);
    change(&mut stepped, 1);
    for (seq, has_none) in [(1, true), (20, true), (21, false)] {
        assert_eq!(stepped.store.has_lineage_at(Seq(seq), None), has_none, "{seq}");
    }
    assert_eq!(stepped.store.lineage_at(Seq(21)), Some(NEXT));
}

/// A backup of the running store, which goes on; then the restored one has as many changes again.
#[test]
fn a_restored_store_shares_what_the_backup_has() {
    let directory = tempfile::tempdir().unwrap();
    let [path, copy, restored] = ["store", "copy", "restored"].map(|name| directory.path().join(name));
    let at = |path: &std::path::Path| StoreOptions { path: path.to_owned(), ..options() };
    let changes = |running: &Running, changes| {
        (0..changes).for_each(|n| _ = running.apply([queued(&key("device"), count(n), 0)]));
    };
    let running = Running::open(at(&path)).unwrap();
    changes(&running, 10);
    running.store.back_up(fs::File::create(&copy).unwrap()).unwrap();
    changes(&running, 10);
    assert!(store::restore(&copy, &at(&restored)).unwrap().is_sound());
    let other = Running::open(at(&restored)).unwrap();
    changes(&other, 20);
    for seq in (1..=20).map(Seq) {
        assert_eq!(other.store.has_lineage_at(seq, running.store.lineage_at(seq)), seq <= Seq(10), "{seq}");
    }
}

/// The readable part of a damaged store lacks shadows that its origin had at the same position.
#[test]
fn a_store_of_the_readable_part_has_nothing_in_common() {
    let directory = tempfile::tempdir().unwrap();
    let [copy, restored] = ["copy", "restored"].map(|name| directory.path().join(name));
    let (_, stepped) = open_as(base(), NEXT);
    let database = stepped.writer.shared.database.get().unwrap();
    write_readable(&database, 10, fs::File::create(&copy).unwrap()).unwrap();
    let restored = StoreOptions { path: restored, ..options() };
    assert!(store::restore(&copy, &restored).unwrap().is_sound());
    let other = Running::open(restored).unwrap();
    assert_eq!(other.store.head(), Seq(20));
    for seq in (0..=20).map(Seq) {
        assert!(!other.store.has_lineage_at(seq, stepped.store.lineage_at(seq)), "{seq}");
    }
    let own = other.store.lineage_at(Seq(20));
    assert!(own.is_some() && other.store.has_lineage_at(Seq(20), own), "its own clients go on");
}
