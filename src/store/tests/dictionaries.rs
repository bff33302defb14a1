//! Tests of compressed records: they are shorter, and every way to the file gives the same documents.

use std::{fs, path::Path};

use redb::ReadableTable;
use serde_json::json;

use super::{Repaired, Running, SimDisk, Stop, key, options, queued, stepped::Stepped, update};
use crate::{
    shadow::{Command, Document},
    store::{self, StoreOptions, database::Database, schema},
};

const SHADOWS: usize = 60;

/// Rounds of updates after which there is a dictionary, and all records have been written with it.
const ROUNDS: usize = 20;

fn report(n: usize, round: usize) -> Command {
    let state = json!({"reported": {
        "model": "umbra-thermostat-2", "firmware": "1.4.2", "serial": format!("UT2-{:06}", n * 7919 % 1_000_003),
        "features": ["window-open", "child-lock", "frost-guard"], "temperature": n + round,
    }, "desired": {"mode": "heat"}});
    update(&state, None)
}

fn fill(running: &Running, round: usize) {
    running.apply((0..SHADOWS).map(|n| queued(&key(&format!("device-{n:03}")), report(n, round), 0)));
}

fn at(path: &Path) -> StoreOptions {
    StoreOptions { path: path.to_owned(), flush_documents_min: 8, ..options() }
}

fn documents(running: &Running) -> Vec<Document> {
    let keys = (0..SHADOWS).map(|n| key(&format!("device-{n:03}")));
    keys.map(|key| (*running.store.read(&key).unwrap().document).clone()).collect()
}

/// Returns the number and the bytes of the records in a file that is not open, and the number of dictionaries.
fn records(path: &Path) -> (usize, usize, u64) {
    let database = Database::open(&at(path)).unwrap();
    let dictionaries = database.progress().unwrap().dictionaries;
    let sizes = database.read(|transaction| {
        let table = transaction.open_table(schema::STATE_TABLE)?;
        let sizes: Vec<_> = table.iter()?.map(|item| item.map(|(_, value)| value.value().len())).collect();
        Ok(sizes)
    });
    let sizes: Vec<_> = sizes.unwrap().into_iter().map(Result::unwrap).collect();
    (sizes.len(), sizes.iter().sum(), dictionaries)
}

#[test]
fn records_are_compressed_in_the_file_and_not_in_its_backups() {
    let directory = tempfile::tempdir().unwrap();
    let [plain, path, backup, restored] =
        ["plain", "store", "backup", "restored"].map(|name| directory.path().join(name));
    let uncompressed = StoreOptions { dictionary_documents_min: usize::MAX, ..at(&plain) };
    let running = Running::open(uncompressed).unwrap();
    (0..ROUNDS).for_each(|round| fill(&running, round));
    drop(running);
    let running = Running::open(at(&path)).unwrap();
    (0..ROUNDS).for_each(|round| fill(&running, round));
    let expected = documents(&running);
    running.store.back_up(fs::File::create(&backup).unwrap()).unwrap();
    drop(running);

    let ((_, before, none), (count, after, one)) = (records(&plain), records(&path));
    assert_eq!((none, one, count), (0, 1, SHADOWS));
    assert!(2 * after < before, "{after} of {before} bytes");
    assert!(store::check(&at(&path)).unwrap().is_sound());

    let report = store::check_backup(&at(&backup)).unwrap();
    assert!(report.is_sound() && report.shadows == SHADOWS as u64, "{report:?}");
    store::restore(&backup, &at(&restored)).unwrap();
    let (count, bytes, dictionaries) = records(&restored);
    assert_eq!((count, dictionaries), (SHADOWS, 0), "a restored store has none");
    assert!(bytes > after, "{bytes}");
    for path in [&path, &restored] {
        let running = Running::open(at(path)).unwrap();
        assert_eq!(documents(&running), expected);
        fill(&running, ROUNDS);
        drop(running);
        assert!(store::check(&at(path)).unwrap().is_sound());
    }
}

/// A page with a dictionary is one of few that many shadows depend on.
#[test]
fn a_damaged_copy_of_a_dictionary_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let running = Running::open(at(&path)).unwrap();
    (0..ROUNDS).for_each(|round| fill(&running, round));
    let expected = documents(&running);
    drop(running);
    let whole = fs::read(&path).unwrap();
    let database = redb::Database::open(&path).unwrap();
    let tables = ["dictionaries", "dictionary_copies"];
    let values = tables.map(|name| {
        let table = redb::TableDefinition::<u64, &[u8]>::new(name);
        let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
        let table = transaction.open_table(table).unwrap();
        table.get(0).unwrap().unwrap().value().to_vec()
    });
    drop(database);
    for value in values {
        let places: Vec<_> = whole.windows(value.len()).enumerate().filter(|(_, bytes)| *bytes == value).collect();
        assert!(!places.is_empty());
        let mut damaged = whole.clone();
        places.iter().for_each(|(at, bytes)| damaged[at + bytes.len() / 2] ^= 1);
        fs::write(&path, &damaged).unwrap();
        let running = Running::open(at(&path)).unwrap();
        assert_eq!(documents(&running), expected);
        fill(&running, ROUNDS);
        let later = documents(&running);
        drop(running);
        assert_eq!(documents(&Running::open(at(&path)).unwrap()), later);
    }
}

/// The commit that writes the dictionary fails, and is on the disk or not.
#[test]
fn a_dictionary_is_used_only_after_its_commit() {
    let shadow = |n: usize| key(&format!("device-{n:03}"));
    let reports = |round: usize| (0..SHADOWS).map(move |n| queued(&shadow(n), report(n, round), 0));
    let slow = || StoreOptions { flush_documents_min: 1, flush_documents_idle: 2, ..options() };
    for syncs in 1..12 {
        for (stop, content) in [
            (Stop::AtSync as fn(u64) -> Stop, Repaired::Lost),
            (Stop::AfterSync, Repaired::Forgotten),
            (Stop::AfterSync, Repaired::Torn(syncs)),
        ] {
            let disk = SimDisk::new(Vec::new(), Stop::Never);
            let mut stepped = Stepped::open(&disk, slow()).unwrap();
            disk.repair(Repaired::Pending, stop(disk.operations().0 + syncs));
            (0..9).for_each(|round| drop(stepped.apply(reports(round))));
            assert!(disk.has_stopped());
            disk.repair(content, Stop::Never);
            stepped.heal().expect("the disk works again");
            (0..2).for_each(|round| drop(stepped.apply(reports(10 + round))));
            stepped.idle();
            assert_eq!(stepped.writer.progress.dictionaries, 1, "{syncs} {content:?}");
            let expected: Vec<_> = (0..SHADOWS).map(|n| stepped.store.read(&shadow(n)).unwrap().document).collect();
            let again = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), slow()).unwrap();
            for (n, expected) in expected.iter().enumerate() {
                assert_eq!(again.store.read(&shadow(n)).unwrap().document, *expected, "{syncs} {content:?}");
            }
        }
    }
}
