//! Stores that are made of the stream of another node's backup, and what is left of those that are not complete.

use std::{fs, io, os::unix::fs::symlink, path::Path, time::Duration};

use bytes::Bytes;

use super::{
    cluster_node::{Node, Sent},
    key,
    memory_log::{MemoryLog, ReplicatedLog},
    options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::store::{
    self, AppliedRecord, LogAction, LogEvent, RowEdit, SeedError, SeedTarget, Seeded, StoreError, StoreOptions,
    backup::file::{BackupTable, BackupWriter},
};

pub(crate) use crate::store::replication::log_place::tests::before as unapplied;

/// Returns a backup of a member of a cluster with `shadows` of some kilobytes, and the records of its log. Of another `incarnation`, both differ.
pub(crate) fn backup_of_member(incarnation: u64, shadows: u64) -> (Vec<u8>, Vec<Bytes>) {
    let mut node = Node::open(0, SimDisk::new(Vec::new(), Stop::Never), &options(), 1 << 20, incarnation);
    let mut log = MemoryLog::default();
    let mut now = Duration::ZERO;
    while !node.is_deciding() {
        tick(&mut node, &mut log, &mut now);
    }
    for number in 0..shadows {
        let state = serde_json::json!({"reported": {"n": number, "text": "some text ".repeat(200)}});
        let command = queued(&key(&format!("device-{number}")), update(&state, None), number);
        node.stepped.store.try_reserve(100).unwrap().send(command).unwrap();
        node.stepped.step();
        pass(&mut node, &mut log);
    }
    // The position in the file is that of the last record but a few without changes.
    while node.stepped.store.applied_in_file().unwrap().is_none_or(|applied| applied.number < log.last()) {
        tick(&mut node, &mut log, &mut now);
    }
    let mut backup = Vec::new();
    node.stepped.store.back_up(&mut backup).unwrap();
    let records = (1..=log.last()).map(|number| log.get(number).unwrap().clone()).collect();
    (backup, records)
}

fn tick(node: &mut Node, log: &mut MemoryLog, now: &mut Duration) {
    *now += Duration::from_millis(600);
    (node.events)(LogEvent::Tick(*now));
    node.stepped.step();
    pass(node, log);
}

/// Carries out what `node` gave to its link.
fn pass(node: &mut Node, log: &mut MemoryLog) {
    while let Some(sent) = node.take_sent(true) {
        let event = match sent {
            Sent::Action(LogAction::Append { expected, record }) => {
                LogEvent::Appended { number: expected + 1, outcome: log.append(expected, &record) }
            }
            Sent::Action(LogAction::Read(number)) => LogEvent::Found { number, record: log.get(number).cloned() },
            Sent::Action(LogAction::Tail) => LogEvent::EndsAt(log.last()),
            Sent::Message(..) => continue,
        };
        (node.events)(event);
        node.stepped.step();
    }
}

/// Returns the first record of a log that a node with `disk` begins.
fn first_record(disk: SimDisk) -> Bytes {
    let mut node = Node::open(0, disk, &options(), 1 << 20, 1);
    let (mut log, mut now) = (MemoryLog::default(), Duration::ZERO);
    while log.last() == 0 {
        tick(&mut node, &mut log, &mut now);
    }
    log.get(1).unwrap().clone()
}

/// A node that had only sessions and retained messages claimed with an empty journal. Another one began empty beside it, without them.
#[test]
fn a_log_has_everything_only_if_its_first_node_had_no_rows_either() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    assert!(store::begins_empty(&first_record(disk.clone())));
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut single = Stepped::open(&disk, options()).unwrap();
    let row = RowEdit::Put(b"a session".as_slice().into(), Bytes::from_static(b"its state"));
    single.store.write_rows(vec![row], Some(Box::new(|| ()))).unwrap();
    single.apply([]);
    drop(single);
    let first = first_record(SimDisk::new(disk.durable(), Stop::Never));
    assert!(!store::begins_empty(&first), "the session is in no record");
}

fn seed(
    from: &[u8],
    options: &StoreOptions,
    replaces: bool,
    accept: impl FnOnce(&AppliedRecord) -> Result<(), String>,
) -> Result<Seeded, SeedError> {
    SeedTarget::lock(options.clone(), replaces)?.seed(from, accept)
}

/// The names of the files in `directory`.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_store_takes_its_place_only_when_it_is_complete_and_accepted() {
    let (backup, records) = backup_of_member(1, 30);
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("umbra.redb"), ..options() };
    let files = || names(directory.path());
    for length in [0, 9, 1000, backup.len() / 2, backup.len() - 1] {
        let error = seed(&backup[..length], &options, false, |_| Ok(())).unwrap_err();
        assert!(matches!(error, SeedError::Stream(_)), "{length}: {error}");
        assert_eq!(files(), [""; 0], "{length}");
    }
    let mut damaged = backup.clone();
    damaged[backup.len() / 2] ^= 1;
    assert!(matches!(seed(&damaged, &options, false, |_| Ok(())), Err(SeedError::Stream(_))));
    let refused = seed(&backup, &options, false, |_| Err("no".to_owned())).unwrap_err();
    assert_eq!((refused.to_string().as_str(), files()), ("no", vec![]));

    // What a killed process has left does not matter.
    fs::write(directory.path().join("umbra.redb.seed"), b"half a store").unwrap();
    fs::write(directory.path().join("umbra.redb.seed.new"), b"half a store").unwrap();
    let last = records.len() as u64;
    let accept = |applied: &AppliedRecord| {
        assert!(applied.number == last && applied.is(records.last().unwrap()) && !applied.is(&records[0]));
        Ok(())
    };
    let seeded = seed(&backup, &options, false, accept).unwrap();
    assert_eq!((seeded.shadows, seeded.applied.number, seeded.former), (30, last, None));
    assert_eq!(files(), ["umbra.redb"]);
    assert_eq!(store::applied_record(&options).unwrap(), Some(seeded.applied));
    let report = store::check(&options).unwrap();
    assert!(report.is_sound() && report.shadows == 30, "{report:?}");

    // A store that is there is not replaced unless that is allowed, and is kept.
    let error = seed(&backup, &options, false, |_| Ok(())).unwrap_err();
    assert!(has_appeared(&error), "{error}");
    assert_eq!(files(), ["umbra.redb"]);
    let former = fs::read(&options.path).unwrap();
    for number in 1..=2 {
        let seeded = seed(&backup, &options, true, |_| Ok(())).unwrap();
        assert_eq!(seeded.former, Some(directory.path().join(format!("umbra.redb.old-{number}"))));
    }
    assert_eq!(fs::read(directory.path().join("umbra.redb.old-1")).unwrap(), former);
    assert_eq!(files(), ["umbra.redb", "umbra.redb.old-1", "umbra.redb.old-2"]);
}

fn has_appeared(error: &SeedError) -> bool {
    matches!(error, SeedError::Store(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists)
}

/// The disk of a store that is a link may not be there yet. The link was set aside, and the store made on the wrong disk.
#[test]
fn a_link_to_nothing_is_not_replaced() {
    let (backup, _) = backup_of_member(1, 3);
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("umbra.redb"), ..options() };
    symlink("/nowhere/umbra.redb", &options.path).unwrap();
    let error = seed(&backup, &options, false, |_| Ok(())).unwrap_err();
    assert!(has_appeared(&error), "{error}");
    assert_eq!(names(directory.path()), ["umbra.redb"]);
    assert_eq!(fs::read_link(&options.path).unwrap(), Path::new("/nowhere/umbra.redb"));
}

/// A second process removed what the first had received so far, and the first put the second's half store in place.
#[test]
fn one_process_at_a_time_makes_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("umbra.redb"), ..options() };
    let first = SeedTarget::lock(options.clone(), false).unwrap();
    let second = SeedTarget::lock(options.clone(), false);
    assert!(matches!(&second, Err(StoreError::Locked { path }) if *path == options.path), "{second:?}");
    drop(first);
    assert_eq!(names(directory.path()), [""; 0]);
    // What a killed process has left.
    fs::write(directory.path().join("umbra.redb.seed.lock"), b"").unwrap();
    drop(SeedTarget::lock(options, false).unwrap());
    assert_eq!(names(directory.path()), [""; 0]);
}

/// A process ended for what another node had sent, instead of taking another source.
#[test]
fn a_backup_that_no_table_takes_is_a_fault_of_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("umbra.redb"), ..options() };
    let mut writer = BackupWriter::begin(Vec::new(), BackupTable::Journal).unwrap();
    writer.record(BackupTable::Journal, b"no number", b"an entry").unwrap();
    let backup = writer.finish().unwrap();
    let error = seed(&backup, &options, false, |_| Ok(())).unwrap_err();
    assert!(matches!(error, SeedError::Inconsistent(_)), "{error}");
    assert_eq!(names(directory.path()), [""; 0]);
}

/// The store of a node that was never in a cluster has no position in the log.
#[test]
fn a_store_of_no_cluster_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (single, target) = (directory.path().join("single.redb"), directory.path().join("umbra.redb"));
    let running = super::Running::open(StoreOptions { path: single.clone(), ..options() }).unwrap();
    running.apply([queued(&key("a"), super::count(1), 0)]);
    let mut backup = Vec::new();
    running.store.back_up(&mut backup).unwrap();
    let error = seed(&backup, &StoreOptions { path: target.clone(), ..options() }, false, |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "it has applied no record of the log");
    assert!(!target.exists());
}
