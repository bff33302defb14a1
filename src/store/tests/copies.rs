//! Tests of backups and checks: of a store under load and at rest, restored, truncated, altered.

use std::{fs, io, path::Path};

use redb::ReadableTable;

use super::{Random, Running, count, delete, key, named, options, queued};
use crate::{
    shadow::Version,
    store::{
        self, CopyError, Report, Seq, StoreError, StoreOptions,
        backup::file::{BackupTable, BackupWriter},
        schema::{self, JOURNAL_TABLE, STATE_TABLE},
    },
};

fn at(path: &Path) -> StoreOptions {
    StoreOptions { path: path.to_owned(), ..options() }
}

/// Applies `n` rounds of changes to 30 shadows, some of which are deleted.
fn work(running: &Running, n: u64) {
    for round in 0..n {
        running.apply((0..30).map(|shadow| queued(&key(&format!("device-{shadow}")), count(round), 0)));
        running.apply([queued(&named("device-1", "lamp"), count(round), 0), queued(&key("device-2"), delete(), 0)]);
    }
}

fn sound(report: &Report) {
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn a_backup_under_load_restores_everything_reported_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy, restored) =
        (directory.path().join("store.redb"), directory.path().join("copy"), directory.path().join("restored.redb"));
    let running = Running::open(at(&path)).unwrap();
    work(&running, 20);
    let head = running.store.head();
    // Changes during the backup: the sink writes to the store before it accepts the first byte.
    let mut file = fs::File::create(&copy).unwrap();
    let sink = Meanwhile { running: &running, file: &mut file, begun: false };
    running.store.back_up(sink).unwrap();
    assert!(running.store.head() > head);

    let checked = store::check(&at(&copy)).unwrap();
    sound(&checked);
    assert_eq!(checked.head, head);
    assert_eq!((checked.shadows, checked.entries), (31, head.0));
    assert_eq!(store::restore(&copy, &at(&restored)).unwrap(), checked);
    assert_eq!(store::check(&at(&restored)).unwrap(), checked);
    let again = Running::open(at(&restored)).unwrap();
    assert_eq!(again.store.head(), head);
    assert_eq!(again.store.read(&key("device-3")).unwrap().document.version, Version(20));
    assert!(again.store.read(&key("device-2")).unwrap().document.deleted);
    assert_eq!(again.store.journal(Seq(0), 1000).unwrap().entries.len() as u64, head.0);
    work(&again, 1);
    drop(again);
    sound(&store::check(&at(&restored)).unwrap());
}

/// A sink that changes the store as soon as the backup has its snapshot.
struct Meanwhile<'a> {
    running: &'a Running,
    file: &'a mut fs::File,
    begun: bool,
}

impl io::Write for Meanwhile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.begun, true) {
            work(self.running, 2);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[test]
fn a_backup_is_restored_only_if_complete_and_to_a_new_path() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy, target) =
        (directory.path().join("store.redb"), directory.path().join("copy"), directory.path().join("restored.redb"));
    let running = Running::open(at(&path)).unwrap();
    work(&running, 3);
    assert!(matches!(store::back_up(&at(&path), io::sink()), Err(CopyError::Store(StoreError::Locked { .. })),));
    drop(running);
    let mut whole = Vec::new();
    store::back_up(&at(&path), &mut whole).unwrap();

    let exists = store::restore(&path, &at(&path)).unwrap_err();
    assert!(matches!(exists, CopyError::Exists(_)), "{exists}");
    let foreign = store::check_backup(&at(&path)).unwrap_err();
    assert!(foreign.to_string().ends_with("it is not a backup"), "{foreign}");
    let mut random = Random::new(7);
    for round in 0..60 {
        let mut wrong = whole.clone();
        let at_byte = random.below(whole.len() as u64) as usize;
        match round % 2 {
            0 => wrong.truncate(at_byte),
            _ => wrong[at_byte] ^= 1 << random.below(8),
        }
        fs::write(&copy, &wrong).unwrap();
        let refused = store::restore(&copy, &at(&target)).unwrap_err();
        assert!(matches!(refused, CopyError::Backup { .. }), "{refused}");
        assert!(refused.to_string().contains("copy"), "{refused}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing is left behind: byte {at_byte}");
        assert!(store::check(&at(&copy)).map_or(true, |report| !report.is_sound()), "byte {at_byte}");
    }
    fs::write(&copy, &whole).unwrap();
    sound(&store::restore(&copy, &at(&target)).unwrap());
    assert!(matches!(store::back_up(&at(&directory.path().join("none")), io::sink()), Err(CopyError::Store(_))));
    assert!(!directory.path().join("none").exists(), "a missing store is not made");
}

/// A complete backup with a key that no store has was restored as entry 0 of the journal.
#[test]
fn a_record_with_a_key_of_another_kind_is_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let (copy, target) = (directory.path().join("copy"), directory.path().join("restored.redb"));
    for (table, key, name) in
        [(BackupTable::Meta, &b"a\xff"[..], "meta"), (BackupTable::Journal, b"1234567", "journal")]
    {
        let mut writer = BackupWriter::begin(Vec::new(), BackupTable::State).unwrap();
        writer.record(table, key, b"value").unwrap();
        fs::write(&copy, writer.finish().unwrap()).unwrap();
        let refused = store::restore(&copy, &at(&target)).unwrap_err();
        assert!(matches!(&refused, CopyError::Store(StoreError::Record { table, .. }) if *table == name), "{refused}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing is left behind");
    }
}

/// Some shadows have lost their oldest entries to retention, some all of them.
#[test]
fn a_store_after_retention_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("store.redb"), directory.path().join("copy"));
    let options = StoreOptions { journal_bytes_max: 10_000, ..at(&path) };
    let running = Running::open(options).unwrap();
    running.apply([queued(&key("old"), count(1), 0)]);
    work(&running, 30);
    running.store.back_up(fs::File::create(&copy).unwrap()).unwrap();
    let (head, oldest) = (running.store.head(), running.store.health().oldest);
    drop(running);
    let report = store::check(&at(&copy)).unwrap();
    sound(&report);
    assert!(oldest > Seq(500), "{oldest}");
    assert_eq!((report.head, report.shadows), (head, 32));
    assert!(report.entries < head.0 && report.entries > 10, "{report:?}");
    sound(&store::check(&at(&path)).unwrap());
    sound(&store::restore(&copy, &at(&directory.path().join("restored"))).unwrap());
}

#[test]
fn inconsistencies_are_found() {
    type Wrong = fn(&redb::WriteTransaction);
    // the damage, the finding
    let table: [(&str, Wrong, &str); 6] = [
        (
            "a flipped bit of a document",
            |transaction| {
                let mut state = transaction.open_table(STATE_TABLE).unwrap();
                let stored = schema::state_key(&key("device-3"));
                let mut bytes = state.get(stored.as_slice()).unwrap().unwrap().value().to_vec();
                bytes[9] ^= 4;
                state.insert(stored.as_slice(), bytes.as_slice()).unwrap();
            },
            "checksum",
        ),
        (
            "a missing document",
            |transaction| {
                let stored = schema::state_key(&key("device-3"));
                transaction.open_table(STATE_TABLE).unwrap().remove(stored.as_slice()).unwrap();
            },
            "device-3: it lacks the change of entry",
        ),
        (
            "a flipped bit of an entry",
            |transaction| {
                let mut journal = transaction.open_table(JOURNAL_TABLE).unwrap();
                let mut bytes = journal.get(40).unwrap().unwrap().value().to_vec();
                bytes[9] ^= 4;
                journal.insert(40, bytes.as_slice()).unwrap();
            },
            "key 40: its checksum",
        ),
        (
            "a missing entry",
            |transaction| drop(transaction.open_table(JOURNAL_TABLE).unwrap().remove(40).unwrap()),
            "key 40: it is missing",
        ),
        (
            "a missing end of the journal",
            |transaction| {
                let mut journal = transaction.open_table(JOURNAL_TABLE).unwrap();
                let last = journal.last().unwrap().unwrap().0.value();
                journal.remove(last).unwrap();
            },
            "the journal should end here",
        ),
        (
            "a document of an earlier time",
            |transaction| {
                // The whole of another document, framed for a key that it does not belong to.
                let mut state = transaction.open_table(STATE_TABLE).unwrap();
                let (from, to) = (schema::state_key(&key("device-4")), schema::state_key(&key("device-5")));
                let bytes = state.get(from.as_slice()).unwrap().unwrap().value().to_vec();
                state.insert(to.as_slice(), bytes.as_slice()).unwrap();
            },
            "checksum",
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let running = Running::open(at(&path)).unwrap();
    work(&running, 3);
    drop(running);
    sound(&store::check(&at(&path)).unwrap());
    let image = fs::read(&path).unwrap();
    for (about, wrong, said) in table {
        fs::write(&path, &image).unwrap();
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        wrong(&transaction);
        transaction.commit().unwrap();
        drop(database);
        let report = store::check(&at(&path)).unwrap();
        assert!(report.findings.iter().any(|finding| finding.contains(said)), "{about}: {report:?}");
    }
}

#[test]
fn an_altered_byte_of_the_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let running = Running::open(at(&path)).unwrap();
    work(&running, 5);
    drop(running);
    let image = fs::read(&path).unwrap();
    let report = store::check(&at(&path)).unwrap();
    // The client id in an entry: certainly a byte that is in use.
    let places: Vec<_> = (0..image.len() - 8).filter(|place| &image[*place..*place + 8] == b"client-1").collect();
    assert!(places.len() > 100);
    for place in places.iter().step_by(places.len() / 20) {
        let mut altered = image.clone();
        altered[*place] ^= 1;
        fs::write(&path, &altered).unwrap();
        match store::check(&at(&path)) {
            Err(_) => {}
            // A page that is no longer in use may hold anything.
            Ok(found) => assert!(found == report || !found.is_sound(), "byte {place}: {found:?}"),
        }
    }
}
