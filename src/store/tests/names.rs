//! Tests of the purge of deleted names: the places it frees, and the versions that go on after it.

use std::{collections::BTreeMap, fs};

use serde_json::json;

use super::{
    Random, count, delete, key, named, options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    shadow::{
        Command, Delete, IdempotencyKey, Keyed, Rejection, ShadowKey, Update, Version,
        command::idempotency::REMEMBERED_SECONDS,
    },
    store::{
        self, HistoryEnd, QueuedCommand, Seq, State, StoreOptions, schema::FLOORS_TABLE, state::floor::DeviceFloor,
    },
};

/// Returns the options of a store with two names per device that keeps no entry longer than it must.
fn short() -> StoreOptions {
    StoreOptions { shadow_names_max: 2, journal_bytes_max: 1, ..options() }
}

/// Returns the options of the same store with the whole journal.
fn long() -> StoreOptions {
    StoreOptions { journal_bytes_max: 1 << 20, ..short() }
}

fn disk() -> SimDisk {
    SimDisk::new(Vec::new(), Stop::Never)
}

/// Returns the disk after a power cut.
fn cut(disk: &SimDisk) -> SimDisk {
    SimDisk::new(disk.durable(), Stop::Never)
}

/// Returns the version that each command makes, in one batch for named shadows of device `d`.
fn apply<const N: usize>(store: &mut Stepped, commands: [(&str, Command); N]) -> [Result<u64, Rejection>; N] {
    let queue = commands.map(|(name, command)| queued(&named("d", name), command, 0));
    let outcomes = store.apply(queue).into_iter().map(|outcome| outcome.result.map(|applied| applied.after.version.0));
    outcomes.collect::<Vec<_>>().try_into().unwrap()
}

/// Applies commands that must be accepted, in one batch.
fn accept<const N: usize>(store: &mut Stepped, commands: [(&str, Command); N]) {
    apply(store, commands).into_iter().for_each(|made| _ = made.unwrap());
}

fn is_full<T>(result: &Result<T, Rejection>) -> bool {
    matches!(result, Err(Rejection::TooManyRequests { quota, .. }) if quota.contains("deleted names count until"))
}

fn names(store: &Stepped) -> Vec<String> {
    store.store.list(None, 100).unwrap().into_iter().map(|listed| listed.key.to_string()).collect()
}

/// Checks a backup of `store`, and returns its bytes.
fn sound_backup(store: &Stepped, about: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backup");
    let mut backup = Vec::new();
    store.store.back_up(&mut backup).unwrap();
    fs::write(&path, &backup).unwrap();
    let report = store::check_backup(&StoreOptions { path, ..options() }).unwrap();
    assert!(report.is_sound(), "{about}: {report:?}");
    backup
}

/// Returns a store whose device has the names `a`, deleted at version 3, and `b`; the journal of `a` is gone.
fn with_tombstone(disk: &SimDisk) -> Stepped {
    let mut store = Stepped::open(disk, short()).unwrap();
    accept(&mut store, [("a", count(1)), ("a", count(2)), ("a", delete()), ("b", count(1))]);
    store.idle();
    assert!(store.store.journal(Seq(0), 1).unwrap().gone);
    store
}

#[test]
fn a_deleted_name_frees_its_place_once_its_journal_is_gone() {
    let disk = disk();
    let mut store = Stepped::open(&disk, long()).unwrap();
    accept(&mut store, [("a", count(1)), ("a", delete()), ("b", count(1))]);
    let [refused] = apply(&mut store, [("c", count(1))]);
    assert!(is_full(&refused), "in the dirty set: {refused:?}");
    store.idle();
    let [refused, back] = apply(&mut store, [("c", count(1)), ("a", count(2))]);
    assert!(is_full(&refused), "in the journal: {refused:?}");
    assert_eq!(back, Ok(3), "a deleted one may come back");
    accept(&mut store, [("a", delete())]);
    store.idle();
    assert!(is_full(&apply(&mut store, [("c", count(1))])[0]));
    // The entries are too old now, and the next commit removes them.
    *store.now.lock() += 8 * 24 * 3600;
    store.apply([queued(&key("other"), count(1), 0)]);
    assert_eq!(apply(&mut store, [("c", count(1))]), [Ok(5)]);
    assert_eq!(names(&store), ["d~b", "d~c", "other"]);
    assert!(is_full(&apply(&mut store, [("a", count(1))])[0]), "a purged name is a new one");
    sound_backup(&store, "after the purge");
    // The live shadow had no use of the floor.
    assert_eq!(apply(&mut store, [("b", count(2))]), [Ok(2)]);
}

#[test]
fn remembered_keys_keep_the_tombstone() {
    let mut store = Stepped::open(&disk(), short()).unwrap();
    let keyed = Keyed::delete(IdempotencyKey::new("k").unwrap(), &Delete::default());
    let delete = Command::Delete(Delete { keyed: Some(keyed), ..Delete::default() });
    accept(&mut store, [("a", count(1)), ("a", delete.clone()), ("b", count(1))]);
    store.idle();
    for seconds in [0, REMEMBERED_SECONDS] {
        *store.now.lock() += seconds;
        assert!(is_full(&apply(&mut store, [("c", count(1))])[0]), "after {seconds}");
    }
    assert_eq!(apply(&mut store, [("a", delete)]), [Ok(2)], "the key is still remembered");
    *store.now.lock() += 1;
    assert_eq!(apply(&mut store, [("c", count(1))]), [Ok(3)]);
}

#[test]
fn the_classic_shadow_is_never_purged() {
    let mut store = Stepped::open(&disk(), short()).unwrap();
    store.apply([queued(&key("d"), count(1), 0), queued(&key("d"), delete(), 0)]);
    accept(&mut store, [("a", count(1)), ("b", count(1))]);
    store.idle();
    assert!(is_full(&apply(&mut store, [("c", count(1))])[0]));
    assert_eq!(store.store.read(&key("d")).unwrap().document.version, Version(2));
    assert!(store.store.read(&key("d")).unwrap().is_recorded());
}

#[test]
fn versions_go_on_above_the_floor() {
    let disk = disk();
    let mut store = with_tombstone(&disk);
    assert_eq!(apply(&mut store, [("c", count(1)), ("b", delete())]), [Ok(4), Ok(2)]);
    for about in ["from the cache", "from the journal", "from the state table"] {
        let read = |name| store.store.read(&named("d", name)).unwrap();
        let absent = read("a");
        assert!(!absent.is_recorded() && !absent.document.exists(), "{about}");
        assert_eq!((absent.document.version, absent.document.floor), (Version(3), Version(3)), "{about}");
        assert_eq!(store.store.read(&key("d")).unwrap().document.version, Version(3), "{about}: the classic one");
        assert_eq!(store.store.read(&key("e")).unwrap().document.version, Version(0), "{about}: another device");
        assert_eq!(read("c").document.version, Version(4), "{about}");
        sound_backup(&store, about);
        store = match about {
            "from the cache" => Stepped::open(&cut(&disk), short()).unwrap(),
            _ => {
                store = Stepped::open(&disk, short()).unwrap();
                store.idle();
                store
            }
        };
    }
    let history = store.store.history(&named("d", "c"), None, None, 10).unwrap().unwrap();
    assert_eq!(history.end, HistoryEnd::Gone);
    assert!(store.store.history(&named("d", "a"), None, None, 10).unwrap().unwrap().entries.is_empty());
    // Preconditions on the floor are those on a tombstone.
    let expecting = |version| update(&json!({"desired": {"n": 1}}), Some(version));
    let [stale, current] = apply(&mut store, [("a", expecting(2)), ("a", expecting(3))]);
    assert!(matches!(stale, Err(Rejection::VersionConflict { version: Version(3), .. })), "{stale:?}");
    assert_eq!(current, Ok(4), "b was purged at version 2, which is below the floor");
    let outcome = store.apply([queued(&key("d"), expecting(0), 0)]).pop().unwrap().result.unwrap();
    assert_eq!((outcome.after.version, outcome.is_created()), (Version(4), true));
    assert_eq!(names(&store), ["d", "d~a", "d~c"]);
    sound_backup(&store, "at the end");
}

/// A follower that has the journal up to a position does not miss the deletion of a purged name.
#[test]
fn a_follower_does_not_resume_before_a_purged_entry() {
    let disk = disk();
    let mut store = with_tombstone(&disk);
    accept(&mut store, [("c", count(1))]);
    let device = || super::device("d");
    let name = |name: &str| Some(named("d", name).name);
    for (followed, after, resumes) in
        [(None, 2, false), (name("a"), 2, false), (name("a"), 3, true), (name("c"), 2, false), (name("c"), 5, true)]
    {
        let resumed = store.store.positions_of(&[device()], followed.as_ref(), Seq(after)).unwrap().positions;
        assert_eq!(resumed.is_some(), resumes, "{followed:?} after {after}");
    }
}

#[test]
fn a_dry_run_answers_alike_and_purges_nothing() {
    let mut store = with_tombstone(&disk());
    let dry = || match count(1) {
        Command::Update(update) => Command::Update(Update { dry_run: true, ..update }),
        other => other,
    };
    assert_eq!(apply(&mut store, [("c", dry()), ("c", dry())]), [Ok(4), Ok(4)]);
    assert_eq!(names(&store), ["d~a", "d~b"]);
    assert_eq!(store.store.read(&named("d", "c")).unwrap().document.version, Version(0));
    assert_eq!(apply(&mut store, [("c", dry()), ("c", count(1)), ("c", dry())]), [Ok(4), Ok(4), Ok(4)]);
    assert!(is_full(&apply(&mut store, [("e", dry())])[0]));
    assert_eq!(names(&store), ["d~b", "d~c"]);
}

#[test]
fn one_batch_may_purge_and_use_the_name_again() {
    let disk = disk();
    let mut store = with_tombstone(&disk);
    accept(&mut store, [("b", delete())]);
    store.idle();
    let absent = queued(&named("d", "z"), delete(), 0);
    let outcomes = store.apply([absent]);
    assert_eq!(outcomes[0].result, Err(Rejection::NotFound));
    // `a` is touched before the purge, so it stays until the next batch.
    let commands = [("x", delete()), ("a", delete()), ("c", count(1)), ("b", count(1)), ("x", count(1))];
    let [absent, deleted, created, back, full] = apply(&mut store, commands);
    assert_eq!((absent, deleted), (Err(Rejection::NotFound), Err(Rejection::NotFound)));
    assert_eq!(created, Ok(3), "b was purged at version 2");
    assert!(is_full(&back), "{back:?}");
    assert!(is_full(&full), "{full:?}");
    assert_eq!(names(&store), ["d~a", "d~c"]);
    let commands = [("b", count(1)), ("b", delete()), ("a", count(1))];
    let [created, deleted, full] = apply(&mut store, commands);
    assert_eq!((created, deleted), (Ok(4), Ok(5)), "a was purged at version 3");
    assert!(is_full(&full), "{full:?}");
    for store in [store, Stepped::open(&cut(&disk), short()).unwrap()] {
        assert_eq!(names(&store), ["d~b", "d~c"]);
        assert_eq!(store.store.read(&named("d", "b")).unwrap().document.version, Version(5));
        sound_backup(&store, "after the purges");
    }
}

/// A lowered limit leaves a device with more names than it may have: enough of them must be purged, or none is.
#[test]
fn a_lowered_limit_purges_only_what_makes_room() {
    let disk = disk();
    let many = StoreOptions { shadow_names_max: 5, ..short() };
    let mut store = Stepped::open(&disk, many).unwrap();
    accept(&mut store, ["a", "b", "c", "d", "e"].map(|name| (name, count(1))));
    accept(&mut store, ["a", "b", "c"].map(|name| (name, delete())));
    store.idle();
    drop(store);
    let mut store = Stepped::open(&disk, short()).unwrap();
    assert!(is_full(&apply(&mut store, [("f", count(1))])[0]));
    assert_eq!(names(&store).len(), 5);
    accept(&mut store, [("d", delete())]);
    store.idle();
    assert_eq!(apply(&mut store, [("f", count(1))]), [Ok(3)]);
    assert_eq!(names(&store), ["d~e", "d~f"]);
}

#[test]
fn a_failed_commit_purges_nothing_that_is_visible() {
    let made = disk();
    let store = with_tombstone(&made);
    let image = made.durable();
    drop(store);
    let whole = SimDisk::new(image.clone(), Stop::Never);
    let mut store = Stepped::open(&whole, short()).unwrap();
    let opened = whole.operations().0;
    assert_eq!(apply(&mut store, [("c", count(1))]), [Ok(4)]);
    let mut seen = [false; 2];
    for sync in opened + 1..=whole.operations().0 {
        for stop in [Stop::AtSync(sync), Stop::AfterSync(sync)] {
            let disk = SimDisk::new(image.clone(), stop);
            seen[usize::from(purged_after(&disk, stop))] = true;
        }
    }
    assert_eq!(seen, [true; 2], "the commit was found made and not made");
}

/// Creates a name on a disk that stops, and returns true if the purge for it is on the disk.
fn purged_after(disk: &SimDisk, stop: Stop) -> bool {
    let mut store = Stepped::open(disk, short()).unwrap();
    store.store.read(&named("d", "a")).unwrap();
    let [created] = apply(&mut store, [("c", count(1))]);
    assert_eq!(created, Err(Rejection::OutcomeUnknown), "{stop:?}");
    assert!(matches!(store.store.health().state, State::Failed(_)));
    let cached = store.store.cached(&named("d", "a")).unwrap().document;
    assert_eq!((cached.version, cached.deleted), (Version(3), true), "{stop:?}");
    assert!(store.store.cached(&named("d", "c")).is_none());

    let mut store = Stepped::open(&cut(disk), short()).unwrap();
    let purged = !store.store.read(&named("d", "a")).unwrap().is_recorded();
    assert_eq!(names(&store), if purged { ["d~b", "d~c"] } else { ["d~a", "d~b"] }, "{stop:?}");
    assert_eq!(store.store.read(&named("d", "a")).unwrap().document.version, Version(3));
    sound_backup(&store, "after the stop");
    let expected = if purged { 5 } else { 4 };
    assert_eq!(apply(&mut store, [("c", count(2))]), [Ok(expected)], "{stop:?}");
    purged
}

#[test]
fn a_backup_keeps_the_floor() {
    let disk = disk();
    let mut store = with_tombstone(&disk);
    let format = |backup: &[u8]| backup[8];
    assert_eq!(format(&sound_backup(&store, "before")), 1, "older programs can read it");
    accept(&mut store, [("c", count(1))]);
    let backup = sound_backup(&store, "after");
    assert_eq!(format(&backup), 2);
    let directory = tempfile::tempdir().unwrap();
    let (copy, path) = (directory.path().join("copy"), directory.path().join("restored"));
    fs::write(&copy, &backup).unwrap();
    let restored = StoreOptions { path: path.clone(), ..short() };
    assert!(store::restore(&copy, &restored).unwrap().is_sound());
    assert!(store::check(&restored).unwrap().is_sound());
    let running = super::Running::open(restored).unwrap();
    assert_eq!(running.store.read(&named("d", "a")).unwrap().document.version, Version(3));
    let outcome = running.apply([queued(&key("d"), count(1), 0)]).pop().unwrap();
    assert_eq!(outcome.result.unwrap().after.version, Version(4));
}

#[test]
fn a_wrong_floor_is_found() {
    type Wrong = fn(&mut redb::Table<'_, &'static str, &'static [u8]>);
    // the damage, the finding
    let table: [(&str, Wrong, &str); 4] = [
        ("a missing floor", |floors| drop(floors.remove("d").unwrap()), "0 sound floors and should be 1"),
        ("a missing floor", |floors| drop(floors.remove("d").unwrap()), "begins after version 3"),
        (
            "a lower floor",
            |floors| put(floors, DeviceFloor { version: Version(2), last_entry: Seq(3) }),
            "after version 3",
        ),
        ("a newer entry", |floors| put(floors, DeviceFloor { version: Version(3), last_entry: Seq(6) }), "entry 6"),
    ];
    fn put(floors: &mut redb::Table<'_, &'static str, &'static [u8]>, floor: DeviceFloor) {
        floors.insert("d", floor.encode(b"d").as_slice()).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let at = || StoreOptions { path: path.clone(), flush_documents_min: 0, ..long() };
    let running = super::Running::open(StoreOptions { journal_bytes_max: 1, ..at() }).unwrap();
    let queue = [("a", count(1)), ("a", count(2)), ("a", delete()), ("b", count(1))];
    running.apply(queue.map(|(name, command)| queued(&named("d", name), command, 0)));
    drop(running);
    // The first commit after the start removes the old entries.
    let running = super::Running::open(StoreOptions { journal_bytes_max: 1, ..at() }).unwrap();
    running.apply([queued(&key("other"), count(1), 0)]);
    drop(running);
    let running = super::Running::open(at()).unwrap();
    assert!(running.apply([queued(&named("d", "c"), count(1), 0)])[0].result.is_ok());
    drop(running);
    assert!(store::check(&at()).unwrap().is_sound());
    let image = fs::read(&path).unwrap();
    for (about, wrong, expected) in table {
        fs::write(&path, &image).unwrap();
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        wrong(&mut transaction.open_table(FLOORS_TABLE).unwrap());
        transaction.commit().unwrap();
        drop(database);
        let report = store::check(&at()).unwrap();
        assert!(report.findings.iter().any(|finding| finding.contains(expected)), "{about}: {report:?}");
    }
}

/// Random creations and deletions with power cuts: no version of a name ever decreases, and each accepted change adds
/// one to the version that was read before it.
#[test]
fn versions_never_decrease() {
    for seed in 1..=12 {
        let mut random = Random::new(seed);
        let mut disk = disk();
        let options = || StoreOptions { shadow_names_max: 3, lag_entries_max: 12, flush_documents_min: 1, ..short() };
        let mut store = Stepped::open(&disk, options()).unwrap();
        let mut newest: BTreeMap<ShadowKey, Version> = BTreeMap::new();
        let mut created_at_floor = 0;
        for round in 0..200 {
            let about = format!("seed {seed}, round {round}");
            let queue: Vec<_> = (0..=random.below(4)).map(|_| random_job(&mut random)).collect();
            for outcome in store.apply(queue) {
                let Ok(applied) = outcome.result else { continue };
                let former = newest.entry(outcome.envelope.key).or_default();
                assert!(applied.after.version > *former, "{about}: {:?} after {former:?}", applied.after.version);
                assert_eq!(applied.after.version.0, applied.before.version.0 + 1, "{about}");
                created_at_floor += u32::from(applied.before.version > Version(0) && *former == Version(0));
                *former = applied.after.version;
            }
            match random.below(12) {
                0 => store.idle(),
                1 => {
                    disk = cut(&disk);
                    store = Stepped::open(&disk, options()).unwrap();
                }
                2 => drop(sound_backup(&store, &about)),
                _ => {}
            }
            for (key, version) in &newest {
                assert!(store.store.read(key).unwrap().document.version >= *version, "{about}: {key}");
            }
            let stored = names(&store).iter().filter(|name| name.contains('~')).count();
            assert!(stored <= 2 * 3, "{about}: {stored} names of two devices");
        }
        assert!(created_at_floor > 0, "seed {seed}: names were purged");
    }
}

fn random_job(random: &mut Random) -> QueuedCommand<u64> {
    let device = ["d", "e"][random.below(2) as usize];
    let name = format!("n{}", random.below(8));
    let key = if random.chance(8) { key(device) } else { named(device, &name) };
    let command = if random.chance(2) { delete() } else { count(random.next()) };
    queued(&key, command, 0)
}
