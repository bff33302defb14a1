//! Tests of the broker's rows against a map, with a disk that stops at every sync and every write.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Random, count, key,
    model::small_options,
    queued,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
};
use crate::store::{
    BroadcastKind, Link, LogAction, MemberOptions, NodeId, RowEdit, RowKey, State, Store, StoreOptions, backup::copy,
    rows::sent::WAITING_BYTES_MAX,
};

/// The rows by key.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

const BATCHES: usize = 18;

/// A store, and the rows that its edits make.
struct Run {
    stepped: Stepped,
    random: Random,
    /// The rows after each batch of edits.
    states: Vec<Rows>,
    /// The number of batches whose durability was reported.
    durable: Arc<AtomicUsize>,
    next_key: u64,
}

/// Returns options with which every few commits are a write-back pass.
fn options() -> StoreOptions {
    StoreOptions { row_lag_bytes_max: 800, ..small_options() }
}

fn rows_of<C: Send + 'static>(store: &Store<C>) -> Vec<(RowKey, Bytes)> {
    let mut rows = Vec::new();
    store.each_row(|_| true, |key, value| rows.push((key.into(), value))).unwrap();
    rows
}

/// Returns the rows of the store as a start finds them.
fn stored(stepped: &Stepped) -> Rows {
    let rows = rows_of(&stepped.store);
    let sorted = rows.is_sorted_by(|(a, _), (b, _)| a < b);
    assert!(sorted, "in the order of their keys, each once");
    rows.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn number(n: u64) -> Box<[u8]> {
    n.to_be_bytes().into()
}

impl Run {
    fn start(seed: u64, disk: &SimDisk) -> Option<Self> {
        let stepped = Stepped::open(disk, options()).ok()?;
        let durable = Arc::new(AtomicUsize::new(0));
        Some(Self { stepped, random: Random::new(seed), states: vec![Rows::new()], durable, next_key: 100 })
    }

    /// Sends some edits: rows that come and go at once as queued messages do, and some that stay.
    fn send(&mut self) {
        let mut rows = self.states.last().unwrap().clone();
        let edits: Vec<_> = (0..1 + self.random.below(4)).map(|_| self.edit(&mut rows)).collect();
        self.states.push(rows);
        let (sent, durable) = (self.states.len() - 1, self.durable.clone());
        let on_durable = move || {
            let before = durable.swap(sent, Ordering::SeqCst);
            assert!(before < sent, "in the order in which they were sent, each once");
        };
        self.stepped.store.write_rows(edits, Some(Box::new(on_durable))).unwrap();
    }

    fn edit(&mut self, rows: &mut Rows) -> RowEdit {
        let value = Bytes::from(vec![b'v'; self.random.below(60) as usize]);
        let (first, last) = (rows.keys().next().cloned(), rows.keys().next_back().cloned());
        match (self.random.below(5), first, last) {
            (0, Some(first), _) => {
                rows.remove(&first);
                RowEdit::Remove(first.into())
            }
            (1, _, Some(last)) => {
                rows.remove(&last);
                RowEdit::Remove(last.into())
            }
            (2, _, _) => {
                let key = number(self.random.below(4));
                rows.insert(key.to_vec(), value.to_vec());
                RowEdit::Put(key, value)
            }
            _ => {
                self.next_key += 1;
                let key = number(self.next_key);
                rows.insert(key.to_vec(), value.to_vec());
                RowEdit::Insert(key, value)
            }
        }
    }

    /// Sends batches, some with commands, until the disk stops.
    fn run(&mut self) {
        for batch in 0..BATCHES as u64 {
            self.send();
            let commands = (batch % 3 == 0).then(|| queued(&key("d"), count(batch), 0));
            self.stepped.apply(commands);
            if matches!(self.stepped.store.health().state, State::Failed(_)) {
                return;
            }
        }
    }

    /// Checks that the rows in `image` are those after all durable edits and none to all of the others.
    fn check(&self, image: Vec<u8>, about: &str) {
        let reopened = Stepped::open(&SimDisk::new(image, Stop::Never), options());
        let reopened = reopened.unwrap_or_else(|error| panic!("{about}: {error}"));
        let found = stored(&reopened);
        let durable = self.durable.load(Ordering::SeqCst);
        let at = self.states.iter().skip(durable).position(|state| *state == found);
        assert!(at.is_some(), "{about}: rows of no moment after {durable}: {found:?}");
    }
}

fn check_stop(seed: u64, stop: Stop) {
    let about = format!("seed {seed}, {stop:?}");
    let disk = SimDisk::new(Vec::new(), stop);
    let Some(mut run) = Run::start(seed, &disk) else { return };
    run.run();
    assert!(disk.has_stopped(), "{about}");
    run.check(disk.durable(), &format!("{about}, unsynced lost"));
    for torn in 0..2 {
        run.check(disk.torn(&mut Random::new(seed ^ torn)), &format!("{about}, unsynced torn {torn}"));
    }
}

/// Returns the syncs and writes of creating a store, and those of a whole run.
fn operations(seed: u64) -> ((u64, u64), (u64, u64)) {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut run = Run::start(seed, &disk).unwrap();
    let made = disk.operations();
    run.run();
    assert_eq!(run.durable.load(Ordering::SeqCst), BATCHES);
    (made, disk.operations())
}

#[test]
fn durable_edits_are_on_disk_whichever_sync_is_the_last() {
    for seed in [1, 2] {
        let ((made, _), (all, _)) = operations(seed);
        for sync in made..all {
            check_stop(seed, Stop::AtSync(sync));
            check_stop(seed, Stop::AfterSync(sync));
        }
    }
}

#[test]
fn durable_edits_are_on_disk_whichever_write_is_the_last() {
    let ((_, made), (_, all)) = operations(4);
    for write in (made..all).step_by(4) {
        check_stop(4, Stop::AtWrite(write));
    }
}

#[test]
fn rows_survive_any_number_of_restarts() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut run = Run::start(5, &disk).unwrap();
    for start in 0..12 {
        run.run();
        let expected = run.states.last().unwrap();
        assert_eq!(stored(&run.stepped), *expected, "start {start}");
        let (random, next_key, expected) = (run.random.clone(), run.next_key, expected.clone());
        drop(run);
        run = Run { random, next_key, states: vec![expected.clone()], ..Run::start(0, &disk).unwrap() };
        assert_eq!(stored(&run.stepped), expected, "start {start}");
    }
}

/// The waiters of a failed commit were dropped, so their publishers waited for ever.
#[test]
fn edits_of_a_failed_commit_are_written_again() {
    let ((made, _), (all, _)) = operations(6);
    for repaired in [Repaired::Pending, Repaired::Forgotten, Repaired::Lost, Repaired::Torn(1)] {
        for sync in (made..all).step_by(3) {
            let disk = SimDisk::new(Vec::new(), Stop::AtSync(sync));
            let Some(mut run) = Run::start(6, &disk) else { continue };
            run.run();
            run.send();
            disk.repair(repaired, Stop::Never);
            run.stepped.heal().expect("the disk works again");
            while run.durable.load(Ordering::SeqCst) < run.states.len() - 1 {
                let _ = run.stepped.writer.step();
            }
            assert_eq!(stored(&run.stepped), *run.states.last().unwrap(), "{repaired:?}, sync {sync}");
        }
    }
}

/// A failed commit may be on the disk, so a row of it must be removed, although it was not known to be there.
#[test]
fn a_row_that_is_removed_after_a_failed_commit_goes() {
    let made = operations(6).0.0;
    for repaired in [Repaired::Pending, Repaired::Forgotten, Repaired::Lost, Repaired::Torn(1)] {
        let syncs = made + 1..made + 4;
        for stop in syncs.flat_map(|sync| [Stop::AtSync(sync), Stop::AfterSync(sync)]) {
            let disk = SimDisk::new(Vec::new(), stop);
            let mut stepped = Stepped::open(&disk, options()).unwrap();
            for attempt in 0..2 {
                let insert = RowEdit::Insert(number(attempt), Bytes::from_static(b"a message"));
                stepped.store.write_rows(vec![insert], Some(Box::new(|| ()))).unwrap();
                stepped.apply([]);
            }
            let durable = Arc::new(AtomicUsize::new(0));
            let removed = durable.clone();
            let on_durable = move || removed.store(1, Ordering::SeqCst);
            let removals = (0..2).map(|attempt| RowEdit::Remove(number(attempt))).collect();
            stepped.store.write_rows(removals, Some(Box::new(on_durable))).unwrap();
            stepped.apply([]);
            disk.repair(repaired, Stop::Never);
            stepped.heal();
            while durable.load(Ordering::SeqCst) == 0 {
                let _ = stepped.writer.step();
            }
            assert_eq!(stored(&stepped), Rows::new(), "{repaired:?}, {stop:?}");
        }
    }
}

/// A call for edits that cancel each other out, sent while the store was failed, waited for the next edits.
#[test]
fn a_call_without_rows_is_made_once_the_store_works_again() {
    let made = operations(6).0.0;
    let disk = SimDisk::new(Vec::new(), Stop::AtSync(made + 1));
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    stepped.apply([queued(&key("d"), count(1), 0)]);
    assert!(matches!(stepped.store.health().state, State::Failed(_)));
    let durable = Arc::new(AtomicUsize::new(0));
    let called = durable.clone();
    let on_durable = move || called.store(1, Ordering::SeqCst);
    stepped.store.write_rows(Vec::new(), Some(Box::new(on_durable))).unwrap();
    stepped.apply([]);
    disk.repair(Repaired::Lost, Stop::Never);
    while durable.load(Ordering::SeqCst) == 0 {
        let _ = stepped.writer.step();
    }
}

#[test]
fn messages_that_are_consumed_at_once_never_reach_the_table() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    for message in 0..500 {
        let insert = RowEdit::Insert(number(message), Bytes::from_static(b"a message of some length"));
        stepped.store.write_rows(vec![insert], Some(Box::new(|| ()))).unwrap();
        stepped.store.write_rows(vec![RowEdit::Remove(number(message))], None).unwrap();
        stepped.apply([]);
    }
    let health = stepped.store.health();
    assert_eq!((health.rows, health.row_bytes), (0, 0), "no row is in the table");
    assert!(health.row_log_bytes <= 2 * options().row_lag_bytes_max, "{} bytes", health.row_log_bytes);
    assert_eq!(stored(&stepped), Rows::new());
}

#[test]
fn edits_for_which_nobody_waits_join_the_next_commit() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let syncs = disk.operations().0;
    stepped.store.write_rows(vec![RowEdit::Put(number(1), Bytes::from_static(b"a"))], None).unwrap();
    stepped.apply([]);
    assert_eq!(disk.operations().0, syncs, "no commit for it alone");
    assert_eq!(stored(&stepped), Rows::new());
    stepped.apply([queued(&key("d"), count(1), 0)]);
    assert_eq!(stored(&stepped).len(), 1);
}

#[test]
fn a_backup_has_the_rows() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("store.redb"), ..options() };
    let running = super::Running::open(options.clone()).unwrap();
    for n in 0..200 {
        let insert = vec![RowEdit::Insert(number(n), Bytes::from(vec![b'x'; 40]))];
        running.store.write_rows(insert, None).unwrap();
    }
    // Its outcome follows all edits.
    running.apply([queued(&key("d"), count(1), 0)]);
    let (backup, restored) = (directory.path().join("backup"), directory.path().join("restored.redb"));
    running.store.back_up(std::fs::File::create(&backup).unwrap()).unwrap();
    let restored = StoreOptions { path: restored, ..options };
    let report = copy::restore(&backup, &restored).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(copy::check(&restored).unwrap().is_sound());
    let rows = rows_of(&super::Running::open(restored).unwrap().store);
    assert_eq!(rows.len(), 200);
}

#[test]
fn a_call_for_which_nobody_waits_comes_with_the_commit_that_has_its_edits() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let call = |bit: usize| -> super::super::OnDurable {
        let called = Arc::clone(&called);
        Box::new(move || {
            called.fetch_or(bit, Ordering::SeqCst);
        })
    };
    let put = |n: u64| vec![RowEdit::Put(number(n), Bytes::new())];
    disk.repair(Repaired::Pending, Stop::AtSync(disk.operations().0 + 1));
    stepped.store.write_rows_unhurried(put(1), call(1)).unwrap();
    stepped.store.write_rows(put(2), Some(call(2))).unwrap();
    stepped.apply([]);
    assert!(disk.has_stopped());
    assert_eq!(called.load(Ordering::SeqCst), 0);
    disk.repair(Repaired::Lost, Stop::Never);
    stepped.heal().unwrap();
    stepped.apply([]);
    assert_eq!((stored(&stepped).len(), called.load(Ordering::SeqCst)), (2, 3));
}

/// A link to a log that never answers.
struct NoLink;

impl Link for NoLink {
    fn carry_out(&mut self, _: LogAction) {}
    fn send(&mut self, _: NodeId, _: Bytes) {}
    fn send_to_all(&mut self, _: Bytes) {}
}

/// A node of a cluster does not sync each commit. What a failed sync loses of them is written again.
#[test]
fn unsynced_rows_of_a_node_outlive_a_failed_commit() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    stepped.join(MemberOptions {
        node: NodeId(1),
        incarnation: 1,
        record_bytes_max: 1 << 20,
        rows: Box::<super::cluster_node::Gate>::default(),
        kind_of: |_| BroadcastKind::Other,
        link: Box::new(NoLink),
    });
    let put = |n: u64, bytes: usize| vec![RowEdit::Put(number(n), Bytes::from(vec![b'x'; bytes]))];
    // As many bytes do not wait for another commit.
    stepped.store.write_rows(put(1, WAITING_BYTES_MAX), None).unwrap();
    stepped.apply([]);
    assert_eq!(stored(&stepped).len(), 1);
    assert!(!stepped.writer.unsynced.is_empty(), "nobody waits for a sync");

    let durable = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&durable);
    let on_durable = move || {
        calls.fetch_add(1, Ordering::SeqCst);
    };
    disk.repair(Repaired::Pending, Stop::AtSync(disk.operations().0 + 1));
    stepped.store.write_rows(put(2, 1), Some(Box::new(on_durable))).unwrap();
    stepped.apply([]);
    assert!(disk.has_stopped());
    assert_eq!(durable.load(Ordering::SeqCst), 0);
    disk.repair(Repaired::Lost, Stop::Never);
    stepped.heal().unwrap();
    assert_eq!(stored(&stepped), Rows::new(), "the disk lost the unsynced commit");
    stepped.apply([]);
    assert_eq!((stored(&stepped).len(), durable.load(Ordering::SeqCst)), (2, 1));

    stepped.store.write_rows(put(3, WAITING_BYTES_MAX), None).unwrap();
    stepped.apply([]);
    assert!(!stepped.writer.unsynced.is_empty());
    stepped.writer.unsynced.hurry();
    stepped.apply([]);
    assert!(stepped.writer.unsynced.is_empty(), "its time has come");
    let image = SimDisk::new(disk.durable(), Stop::Never);
    assert_eq!(rows_of(&Stepped::open(&image, options()).unwrap().store).len(), 3);
}
