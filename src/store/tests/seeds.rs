//! Stores that are made of the stream of another node's backup, and what is left of those that are not complete.

use std::{fs, time::Duration};

use bytes::Bytes;

use super::{
    cluster_node::{Node, Sent},
    key,
    memory_log::{MemoryLog, ReplicatedLog},
    options, queued,
    sim_disk::{SimDisk, Stop},
    update,
};
use crate::store::{self, LogAction, LogEvent, SeedError, StoreOptions};

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

#[test]
fn a_store_takes_its_place_only_when_it_is_complete_and_accepted() {
    let (backup, records) = backup_of_member(1, 30);
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: directory.path().join("umbra.redb"), ..options() };
    let files = || {
        let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    for length in [0, 9, 1000, backup.len() / 2, backup.len() - 1] {
        let error = store::seed(&backup[..length], &options, |_| Ok(())).unwrap_err();
        assert!(matches!(error, SeedError::Stream(_)), "{length}: {error}");
        assert_eq!(files(), [""; 0], "{length}");
    }
    let mut damaged = backup.clone();
    damaged[backup.len() / 2] ^= 1;
    assert!(matches!(store::seed(&*damaged, &options, |_| Ok(())), Err(SeedError::Stream(_))));
    let refused = store::seed(&*backup, &options, |_| Err("no".to_owned())).unwrap_err();
    assert_eq!((refused.to_string().as_str(), files()), ("no", vec![]));

    // What a killed process has left does not matter.
    fs::write(directory.path().join("umbra.redb.seed"), b"half a store").unwrap();
    fs::write(directory.path().join("umbra.redb.seed.new"), b"half a store").unwrap();
    let last = records.len() as u64;
    let accept = |applied: &store::AppliedRecord| {
        assert!(applied.number == last && applied.is(records.last().unwrap()) && !applied.is(&records[0]));
        Ok(())
    };
    let seeded = store::seed(&*backup, &options, accept).unwrap();
    assert_eq!((seeded.shadows, seeded.applied.number, seeded.former), (30, last, None));
    assert_eq!(files(), ["umbra.redb"]);
    assert_eq!(store::applied_record(&options).unwrap(), Some(seeded.applied));
    let report = store::check(&options).unwrap();
    assert!(report.is_sound() && report.shadows == 30, "{report:?}");

    // A store that is there is kept.
    let former = fs::read(&options.path).unwrap();
    for number in 1..=2 {
        let seeded = store::seed(&*backup, &options, |_| Ok(())).unwrap();
        assert_eq!(seeded.former, Some(directory.path().join(format!("umbra.redb.old-{number}"))));
    }
    assert_eq!(fs::read(directory.path().join("umbra.redb.old-1")).unwrap(), former);
    assert_eq!(files(), ["umbra.redb", "umbra.redb.old-1", "umbra.redb.old-2"]);
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
    let error = store::seed(&*backup, &StoreOptions { path: target.clone(), ..options() }, |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "it has applied no record of the log");
    assert!(!target.exists());
}
