//! Tests of backups of the readable part of damaged files: what is there is right, and a store made of it is sound.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    Random, Running, count, delete, key, options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
};
use crate::store::{self, CopyError, ShadowCounts, StoreOptions, backup::readable::write_readable, database::Database};

const SHADOWS: usize = 1500;

fn at(path: &Path) -> StoreOptions {
    StoreOptions { path: path.to_owned(), ..options() }
}

/// Flips random bits of a store file, and compares every store restored from its readable part.
#[test]
fn a_flipped_bit_costs_its_page() {
    let directory = tempfile::tempdir().unwrap();
    let [original, damaged, backup, restored] =
        ["original", "damaged", "backup", "restored"].map(|name| directory.path().join(name));
    let running = Running::open(at(&original)).unwrap();
    let shadow = |n: usize| key(&format!("device-{n:05}"));
    for round in 0..2 {
        running.apply((0..SHADOWS).map(|n| queued(&shadow(n), count(round * 7 + n as u64), 0)));
    }
    running.apply((0..SHADOWS).step_by(10).map(|n| queued(&shadow(n), delete(), 0)));
    running.store.close();
    let documents: BTreeMap<_, _> =
        (0..SHADOWS).map(|n| (shadow(n), running.store.read(&shadow(n)).unwrap().document)).collect();
    drop(running);
    let image = fs::read(&original).unwrap();
    let mut random = Random::new(5);
    let (mut partial, mut named) = (0, 0);
    // The times in the file differ by run, and with them the place of a bit; so the number of rounds is not fixed.
    for round in 0..1000 {
        if round >= 40 && partial > 5 && named > 5 {
            break;
        }
        let bit = random.below(8 * image.len() as u64) as usize;
        let mut image = image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        fs::write(&damaged, &image).unwrap();
        let mut out = Vec::new();
        let lost = match store::back_up_readable(&at(&damaged), &mut out) {
            Ok(lost) => lost,
            // The header, or the list of tables.
            Err(CopyError::Store(_)) => continue,
            Err(error) => panic!("bit {bit}: {error}"),
        };
        partial += usize::from(!lost.is_nothing());
        fs::write(&backup, &out).unwrap();
        let report = store::restore(&backup, &at(&restored)).unwrap();
        assert!(report.is_sound(), "bit {bit}: {report:?}");
        let running = Running::open(at(&restored)).unwrap();
        let mut found = ShadowCounts::default();
        for (key, document) in &documents {
            let stored = running.store.read(key).unwrap();
            if stored.is_recorded() {
                assert_eq!(stored.document, *document, "bit {bit}: {key}");
                found.add(document.deleted);
                continue;
            }
            assert!(!lost.is_nothing(), "bit {bit}: {key} is lost and nothing says so");
            if lost.shadows.contains(&key.to_string()) {
                assert_eq!(stored.document.version, document.version, "bit {bit}: the floor of {key}");
                named += 1;
            }
        }
        assert_eq!(running.store.health().shadows, Some(found), "bit {bit}");
        assert!(found.live + found.deleted > 0 || !lost.is_nothing(), "bit {bit}");
        running.apply([queued(&key("new"), count(1), 0)]);
        drop(running);
        assert!(store::check(&at(&restored)).unwrap().is_sound(), "bit {bit}");
        fs::remove_file(&restored).unwrap();
    }
    assert!(partial > 5 && named > 5, "{partial} partial backups, {named} lost shadows with a floor");
}

/// Changes that the state table lacks are in the backup.
#[test]
fn the_end_of_the_journal_is_applied() {
    let directory = tempfile::tempdir().unwrap();
    let [copy, backup] = ["copy", "backup"].map(|name| directory.path().join(name));
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let slow = StoreOptions { flush_documents_min: 0, ..options() };
    let mut stepped = Stepped::open(&disk, slow).unwrap();
    let shadow = |n: u64| key(&format!("device-{n:02}"));
    stepped.apply((0..20).map(|n| queued(&shadow(n), count(n), 0)));
    stepped.idle();
    stepped.apply((10..30).map(|n| queued(&shadow(n), count(n + 100), 0)));
    stepped.apply([queued(&shadow(5), delete(), 0)]);
    assert!(stepped.store.health().backlog_documents > 10);
    fs::write(&copy, disk.durable()).unwrap();
    let mut out = Vec::new();
    let database = Database::open(&at(&copy)).unwrap();
    let lost = write_readable(&database, 256, &mut out).unwrap();
    assert!(lost.is_nothing(), "{lost:?}");
    let ages = database.ages().unwrap();
    drop(database);
    fs::write(&backup, &out).unwrap();
    let report = store::check_backup(&at(&backup)).unwrap();
    assert!(report.is_sound() && report.shadows == 30 && report.entries == 0, "{report:?}");
    fs::remove_file(&copy).unwrap();
    store::restore(&backup, &at(&copy)).unwrap();
    // Without the running time, it went on from the date: idempotency keys expired at once, or not for as long as the store had been
    // closed.
    assert!(ages.is_some());
    assert_eq!(Database::open(&at(&copy)).unwrap().ages().unwrap(), ages);
    let running = Running::open(at(&copy)).unwrap();
    for n in 0..30 {
        let (found, expected) = (running.store.read(&shadow(n)).unwrap(), stepped.store.read(&shadow(n)).unwrap());
        assert_eq!(found.document, expected.document, "{n}");
    }
}

/// The first key of a damaged page became smaller than those of the page before it, whose end is a prefix of the key. The
/// backup came to the same place again and again, and never ended.
#[test]
fn a_key_that_is_out_of_order_does_not_turn_the_backup_back() {
    let directory = tempfile::tempdir().unwrap();
    let [original, damaged, backup] = ["original", "damaged", "backup"].map(|name| directory.path().join(name));
    let running = Running::open(at(&original)).unwrap();
    running.apply((0..SHADOWS).map(|n| queued(&key(&format!("device-{n:05}")), count(n as u64), 0)));
    drop(running);
    let image = fs::read(&original).unwrap();
    let mut pages = 0;
    for page in (0..image.len()).step_by(4096) {
        let keys: Vec<_> =
            image[page..page + 4096].windows(7).enumerate().filter(|(_, bytes)| *bytes == b"device-").collect();
        // The pages of the state table have many keys, in order.
        let [(first, _), ..] = keys[..] else { continue };
        let digit = page + first + b"device-0000".len();
        if keys.len() < 20 || image[digit] == b'0' {
            continue;
        }
        let mut image = image.clone();
        image[digit] = b'0';
        fs::write(&damaged, &image).unwrap();
        let mut out = Vec::new();
        let Ok(lost) = store::back_up_readable(&at(&damaged), &mut out) else { continue };
        fs::write(&backup, &out).unwrap();
        let report = store::check_backup(&at(&backup)).unwrap();
        assert!(report.is_sound() && report.shadows <= SHADOWS as u64, "page {page}: {report:?}, {lost:?}");
        pages += 1;
    }
    assert!(pages > 5, "{pages} pages");
}
