//! Tests of files with one flipped bit: no shadow is absent or at an older version because of it, and none is created anew.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Random, Running, count, key, options, queued, scanned_documents, update};
use crate::{
    shadow::{Document, Rejection, ShadowKey},
    store::{
        CopyError, Listed, Pages, ShadowCounts, Store, StoreError, StoreOptions,
        backup::{copy::Tally, file::BackupTable},
        database::Database,
        pages::check::CheckedTable,
        schema,
    },
};

const SHADOWS: usize = 3000;

fn at(path: &Path) -> StoreOptions {
    StoreOptions { page_cache_bytes: 8 << 20, document_cache_bytes: 16 << 20, path: path.to_owned(), ..options() }
}

fn shadow(n: usize) -> ShadowKey {
    key(&format!("device-{n:05}"))
}

/// A store file of a clean stop, with its documents.
struct Sound {
    image: Vec<u8>,
    documents: Vec<Arc<Document>>,
}

impl Sound {
    /// Makes a store in which every shadow was updated twice, and is at version 2.
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let running = Running::open(at(&path)).unwrap();
        for round in 0..2 {
            running.apply((0..SHADOWS).map(|n| queued(&shadow(n), count(round * 7 + n as u64), 0)));
        }
        running.store.close();
        let documents = (0..SHADOWS).map(|n| running.store.read(&shadow(n)).unwrap().document).collect();
        drop(running);
        Self { image: fs::read(&path).unwrap(), documents }
    }

    /// Checks all answers of a store whose file has `bit` flipped. Returns the number of shadows out of service; `None`
    /// if the file is refused.
    fn check(&self, bit: usize) -> Option<usize> {
        let about = format!("bit {bit} of {}", 8 * self.image.len());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let mut image = self.image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &image).unwrap();
        let mut failed = None;
        // Damage is neither forgotten nor spread by what the first run writes.
        for run in 0..2 {
            // Verified in the background or at once, by turns.
            let verify_first_bytes_max = if (bit as u64 + run).is_multiple_of(2) { 0 } else { u64::MAX };
            let running = match Running::open(StoreOptions { verify_first_bytes_max, ..at(&path) }) {
                Ok(running) => running,
                Err(error) => {
                    let is_damage = matches!(error, StoreError::Corrupt { .. } | StoreError::Record { .. });
                    assert!(is_damage, "{about}: {error}");
                    assert!(run == 0, "{about}: refused after a run: {error}");
                    return None;
                }
            };
            let now = self.check_run(&running, run, &about);
            assert_eq!(failed.get_or_insert(now), &now, "{about}");
        }
        failed
    }

    fn check_run(&self, running: &Running, run: u64, about: &str) -> usize {
        let store = &running.store;
        let mut is_sound = vec![true; SHADOWS];
        for (n, document) in self.documents.iter().enumerate() {
            match store.read(&shadow(n)) {
                Ok(stored) if run == 0 => assert_eq!(stored.document, *document, "{about}: device {n}"),
                Ok(stored) => assert_eq!(stored.document.version.0, 2 + u64::from(n % 37 == 0), "{about}: device {n}"),
                Err(_) => is_sound[n] = false,
            }
        }
        if run == 0 {
            let keys: Vec<_> = (0..SHADOWS).map(shadow).collect();
            let found = scanned_documents(store, &keys);
            for (n, document) in self.documents.iter().enumerate() {
                assert_eq!(found[n].as_ref(), Some(document).filter(|_| is_sound[n]), "{about}: device {n}");
            }
        }
        // No shadow can be created where one is.
        let create =
            |n: usize| queued(&shadow(n), update(&serde_json::json!({"reported": {"n": 0}}), Some(0)), n as u64);
        for outcome in running.apply((0..SHADOWS).step_by(5).map(create)) {
            let n = outcome.context.unwrap() as usize;
            let is_refused = match &outcome.result {
                Err(Rejection::VersionConflict { .. }) => is_sound[n],
                Err(Rejection::Internal) => !is_sound[n],
                _ => false,
            };
            assert!(is_refused, "{about}: device {n}: {:?}", outcome.result);
        }
        if run == 0 {
            let write = |n: usize| queued(&shadow(n), count(99_999), n as u64);
            for outcome in running.apply((0..SHADOWS).step_by(37).map(write)) {
                let n = outcome.context.unwrap() as usize;
                assert_eq!(outcome.result.is_ok(), is_sound[n], "{about}: device {n}: {:?}", outcome.result);
            }
        }
        check_list(store, &is_sound, about);
        check_counts(store, &is_sound, about);
        is_sound.iter().filter(|sound| !**sound).count()
    }
}

/// Checks that the sound shadows are counted.
fn check_counts(store: &Store<u64>, is_sound: &[bool], about: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    let counts = loop {
        if let Some(counts) = store.health().shadows {
            break counts;
        }
        assert!(Instant::now() < until, "{about}: the shadows are never counted");
        thread::yield_now();
    };
    let live = is_sound.iter().filter(|sound| **sound).count() as u64;
    assert_eq!(counts, ShadowCounts { live, deleted: 0 }, "{about}");
}

/// Returns what `list` finds, and its end.
fn listed(
    list: impl Fn(Option<&ShadowKey>) -> Result<Vec<Listed>, StoreError>,
) -> (Vec<ShadowKey>, Result<(), StoreError>) {
    let mut found = Vec::new();
    loop {
        match list(found.last()) {
            Ok(page) if page.is_empty() => return (found, Ok(())),
            Ok(page) => found.extend(page.into_iter().map(|listed| listed.key)),
            Err(error) => return (found, Err(error)),
        }
    }
}

/// Checks that the list is complete up to an error, and that the other one has all sound shadows.
fn check_list(store: &Store<u64>, is_sound: &[bool], about: &str) {
    let (found, end) = listed(|after| store.list(after, 100));
    let up_to_damage = is_sound.iter().take_while(|sound| **sound).count();
    assert_eq!(found.len(), up_to_damage, "{about}: {end:?}");
    assert_eq!(found, (0..up_to_damage).map(shadow).collect::<Vec<_>>(), "{about}: {end:?}");
    assert_eq!(end.is_ok(), up_to_damage == SHADOWS, "{about}: {end:?}");
    let (found, end) = listed(|after| store.list_sound(after, 100));
    let sound: Vec<_> = (0..SHADOWS).filter(|n| is_sound[*n]).map(shadow).collect();
    assert_eq!(found, sound, "{about}: {end:?}");
}

#[test]
fn a_flipped_bit_hides_no_shadow() {
    let sound = Sound::make();
    let files = std::env::var("UMBRA_TEST_FLIPS").map_or(40, |files| files.parse().unwrap());
    let used: Vec<_> = (0..sound.image.len()).filter(|at| sound.image[*at] != 0).collect();
    let mut random = Random::new(7);
    let (mut partly, mut mostly, mut refused) = (0, 0, 0);
    for n in 0..files {
        let place = (n * used.len() + random.below(used.len() as u64) as usize) / files;
        match sound.check(8 * used[place] + random.below(8) as usize) {
            Some(0) => {}
            Some(failed) => {
                partly += 1;
                mostly += usize::from(failed > SHADOWS / 2);
            }
            None => refused += 1,
        }
    }
    println!("{files} files: {partly} with shadows out of service, {refused} refused, the others served whole");
    assert!(partly > files / 20, "{partly} of {files} files had shadows out of service");
    // Only the root of the table, one of some hundred pages, leads to all of them.
    assert!(mostly <= files / 8, "{mostly} of {files} files had most shadows out of service");
}

/// Waits until all pages are verified.
fn verified(store: &Store<u64>) -> Pages {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match store.health().pages {
            Pages::Unverified => assert!(Instant::now() < deadline, "the verification does not end"),
            pages => return pages,
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_undamaged_file_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut random = Random::new(3);
    for run in 0..8 {
        // The files grow, and later ones are written while they are verified.
        let verify_first_bytes_max = if run % 2 == 0 { 0 } else { u64::MAX };
        let running = Running::open(StoreOptions { verify_first_bytes_max, ..at(&path) }).unwrap();
        for _ in 0..6 {
            let writes = random.below(300) as usize;
            let filler = "x".repeat(random.below(3000) as usize);
            let state = serde_json::json!({"reported": {"filler": filler}});
            let shadows: Vec<_> = (0..writes).map(|_| shadow(random.below(1500) as usize)).collect();
            let outcomes = running.apply(shadows.iter().map(|key| queued(key, update(&state, None), 0)));
            assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "run {run}");
        }
        assert_eq!(verified(&running.store), Pages::Sound, "run {run}");
    }
}

/// Makes a store of 100 shadows at `path` that lacks the record of shadow 42. All its pages have valid checksums.
fn make_with_loss(path: &Path) {
    let running = Running::open(at(path)).unwrap();
    running.apply((0..100).map(|n| queued(&shadow(n), count(1), 0)));
    drop(running);
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut table = transaction.open_table(schema::STATE_TABLE).unwrap();
    table.remove(schema::state_key(&shadow(42)).as_slice()).unwrap().expect("it is there");
    drop(table);
    transaction.commit().unwrap();
}

/// A file is verified once, as it was opened. A page that was damaged later made a backup that lacked its shadows, or had some
/// of them twice, and nothing said so.
#[test]
fn damage_after_the_start_makes_no_backup() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let running = Running::open(at(&path)).unwrap();
    running.apply((0..100).map(|n| queued(&shadow(n), count(1), 0)));
    drop(running);
    // What is read comes from the file.
    let database = Database::open(&StoreOptions { page_cache_bytes: 0, ..at(&path) }).unwrap();
    let mut out = Vec::new();
    database.back_up(&mut out).unwrap();
    let (from, to) = (schema::state_key(&shadow(42)), schema::state_key(&shadow(0)));
    let image = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for at in (0..image.len()).filter(|at| image[*at..].starts_with(&from)) {
        file.write_all_at(&to, at as u64).unwrap();
    }
    assert_eq!(database.pages().unwrap().damaged().count(), 0, "nothing is known of it");
    let refused = database.back_up(std::io::sink());
    assert!(matches!(refused, Err(CopyError::Store(StoreError::Corrupt { .. }))), "{refused:?}");
    // The same with a record too few.
    let mut tally = Tally::default();
    tally.add(BackupTable::Journal, &1_u64.to_le_bytes());
    let found = database.read(|transaction| tally.finding(transaction)).unwrap();
    let expected = "the table Journal has 1 readable records and should have 100: a page is damaged";
    assert_eq!(found.as_deref(), Some(expected));
}

#[test]
fn damage_is_known_after_the_file_was_reopened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    make_with_loss(&path);
    let is_known = |database: &Database| {
        let check = |n| database.check_key(CheckedTable::State, &schema::state_key(&shadow(n)));
        assert!(check(41).is_ok());
        check(42).is_err()
    };
    for verify_first_bytes_max in [0, u64::MAX] {
        let options = StoreOptions { verify_first_bytes_max, ..at(&path) };
        let database = Database::open(&options).unwrap();
        let is_finished = verify_first_bytes_max > 0;
        // All pages are sound, so only the comparison with the journal shows it.
        assert_eq!(is_known(&database), is_finished);
        let former = database.pages().cloned();
        database.retire();
        let after = database.check_key(CheckedTable::State, b"device-00001\0");
        assert_eq!(matches!(after, Err(StoreError::Reopening)), !is_finished, "{after:?}");
        drop(database);
        let mut again = Database::reopen(&options).unwrap();
        again.follow(former).unwrap();
        assert_eq!(is_known(&again), is_finished);
        again.pages().unwrap().walk(|_| false);
        assert!(is_known(&again));
        assert!(matches!(again.verify(), Err(StoreError::Corrupt { .. })));
    }
}

#[test]
fn a_shadow_that_only_the_journal_has_is_out_of_service() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    make_with_loss(&path);
    let running = Running::open(at(&path)).unwrap();
    let store = &running.store;
    assert_eq!(verified(store), Pages::Damaged(1));
    assert!(matches!(store.read(&shadow(42)), Err(StoreError::Record { .. })));
    let create = update(&serde_json::json!({"reported": {"n": 0}}), Some(0));
    let outcomes = running.apply((41..44).map(|n| queued(&shadow(n), create.clone(), 0)));
    let [before, lost, after] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(lost.result, Err(Rejection::Internal));
    for other in [before, after] {
        assert!(matches!(other.result, Err(Rejection::VersionConflict { .. })), "{:?}", other.result);
    }
    assert!(running.apply([queued(&key("device-00042a"), count(1), 0)])[0].result.is_ok(), "others can be created");
    assert_eq!(store.list(None, 10).unwrap().len(), 10);
    assert_eq!(store.list(Some(&shadow(35)), 10).unwrap().len(), 6);
    assert!(store.list(Some(&shadow(41)), 10).is_err(), "a list does not pass over it");
    let passed = store.list_sound(Some(&shadow(41)), 2).unwrap();
    assert_eq!(passed[1].key, shadow(43), "after the new one");
    assert_eq!(store.list(Some(&shadow(42)), 10).unwrap().len(), 10);
    let backup = store.back_up(Vec::new());
    assert!(matches!(backup, Err(CopyError::Store(StoreError::Corrupt { .. }))), "{backup:?}");
}
