//! Tests of entries that a start finds after the checkpoint: they are applied when their document is needed.

use std::{fs, path::Path, thread, time::Duration};

use redb::ReadableTable;

use super::{Running, SimDisk, Stop, count, delete, key, options, queued, scanned_documents, stepped::Stepped};
use crate::{
    shadow::{Document, Effect},
    store::{
        State, StoreOptions,
        database::Database,
        journal::entry::{JournalEntry, NewJournalEntry, Seq},
        schema::JOURNAL_TABLE,
        state::{cache::Form, record::RecordEncoder},
    },
};

const SHADOWS: u64 = 30;

fn shadow(n: u64) -> crate::shadow::ShadowKey {
    key(&format!("device-{n:02}"))
}

fn slow() -> StoreOptions {
    StoreOptions { flush_documents_min: 0, ..options() }
}

/// Returns the disk of a store that was killed: records of most shadows, and entries after them of all.
fn killed() -> (SimDisk, Vec<Document>) {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, slow()).unwrap();
    stepped.apply((0..SHADOWS - 5).map(|n| queued(&shadow(n), count(n), 0)));
    stepped.apply([queued(&shadow(3), delete(), 0)]);
    stepped.idle();
    stepped.apply((0..SHADOWS).map(|n| queued(&shadow(n), count(n + 100), 0)));
    stepped.apply([queued(&shadow(7), delete(), 0), queued(&shadow(8), count(1), 0)]);
    (SimDisk::new(disk.durable(), Stop::Never), documents(&stepped))
}

fn documents(stepped: &Stepped) -> Vec<Document> {
    (0..SHADOWS).map(|n| (*stepped.store.read(&shadow(n)).unwrap().document).clone()).collect()
}

fn unapplied(stepped: &Stepped) -> Vec<u64> {
    let is_unapplied = |n: &u64| matches!(stepped.writer.shared.cache.kept(&shadow(*n)), Some(Form::Unapplied(_)));
    (0..SHADOWS).filter(is_unapplied).collect()
}

#[test]
fn entries_are_applied_when_their_document_is_needed() {
    let (disk, expected) = killed();
    let mut stepped = Stepped::open(&disk, slow()).unwrap();
    let (all, health) = (unapplied(&stepped), stepped.store.health());
    assert_eq!(all.len(), health.backlog_documents, "a start applies nothing");
    assert!(all.len() > 20 && health.recovered_entries > all.len() as u64, "{health:?}");
    // The list and the counts need no document.
    let listed = stepped.store.list(None, 100).unwrap();
    assert_eq!(listed.iter().filter(|listed| listed.deleted).count(), 1, "{listed:?}");
    let counts = health.shadows.unwrap();
    assert_eq!((counts.live, counts.deleted), (SHADOWS - 1, 1));
    assert_eq!(unapplied(&stepped), all);

    assert_eq!(*stepped.store.read(&shadow(4)).unwrap().document, expected[4]);
    stepped.writer.shared.cache.apply(&shadow(5), &mut RecordEncoder::default()).unwrap();
    assert!(matches!(stepped.writer.shared.cache.kept(&shadow(5)), Some(Form::Record(_))));
    let outcomes = stepped.apply([queued(&shadow(6), count(0), 0)]);
    let applied = outcomes[0].result.as_ref().unwrap();
    assert_eq!(*applied.before, expected[6], "a command is decided against the result of the entries");
    let left: Vec<_> = all.iter().copied().filter(|n| !(4..=6).contains(n)).collect();
    assert_eq!(unapplied(&stepped), left);
    let mut found = documents(&stepped);
    found[6] = expected[6].clone();
    assert_eq!(found, expected);
}

#[test]
fn entries_are_flushed_and_backed_up_before_anybody_needs_them() {
    let (disk, expected) = killed();
    let mut stepped = Stepped::open(&disk, slow()).unwrap();
    stepped.idle();
    let again = SimDisk::new(disk.durable(), Stop::Never);
    drop(stepped);
    let stepped = Stepped::open(&again, slow()).unwrap();
    assert_eq!(stepped.store.health().recovered_entries, 0);
    assert_eq!(documents(&stepped), expected);

    let (disk, expected) = killed();
    let stepped = Stepped::open(&disk, slow()).unwrap();
    let before = unapplied(&stepped);
    let keys: Vec<_> = (0..SHADOWS).map(shadow).collect();
    let found = scanned_documents(&stepped.store, &keys);
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.as_deref(), Some(expected).filter(|document| document.exists()), "{n}");
    }
    assert_eq!(unapplied(&stepped), before, "a scan keeps nothing");
}

#[test]
fn entries_are_applied_in_the_background() {
    let (disk, expected) = killed();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    fs::write(&path, disk.durable()).unwrap();
    let running = Running::open(at(&path)).unwrap();
    for (n, expected) in (0..).zip(&expected) {
        assert_eq!(*running.store.read(&shadow(n)).unwrap().document, *expected, "{n}");
    }
    while running.store.health().backlog_documents > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    running.store.close();
}

fn at(path: &Path) -> StoreOptions {
    StoreOptions { path: path.to_owned(), ..slow() }
}

/// Replaces the value that the entry at `seq` set, under a right checksum.
fn falsify(disk: &SimDisk, seq: Seq, value: u64) {
    let database = Database::open_backend(&slow(), disk.clone()).unwrap();
    let committed = database.commit(|transaction| {
        let mut journal = transaction.open_table(JOURNAL_TABLE)?;
        let mut entry = JournalEntry::decode(seq, journal.get(seq.0)?.unwrap().value()).unwrap();
        entry.changes[0].effect = Effect::Set(value.into());
        let JournalEntry { key, deleted, version, etag, timestamp, principal, client, changes, previous, .. } = &entry;
        let (deleted, version, etag, timestamp, previous) = (*deleted, *version, *etag, *timestamp, *previous);
        let framed = NewJournalEntry {
            seq,
            key,
            deleted,
            version,
            etag,
            timestamp,
            principal,
            client,
            changes,
            previous,
            remembered: None,
        };
        journal.insert(seq.0, framed.encode().as_slice())?;
        Ok(())
    });
    assert!(committed.is_ok());
}

#[test]
fn an_entry_that_makes_another_document_is_never_applied() {
    let (disk, expected) = killed();
    let stepped = Stepped::open(&disk, slow()).unwrap();
    let last = stepped.store.read(&shadow(9)).unwrap().last_entry;
    drop(stepped);
    falsify(&disk, last, 999);
    let mut stepped = Stepped::open(&disk, slow()).unwrap();
    let error = stepped.store.read(&shadow(9)).unwrap_err().to_string();
    assert!(error.contains("does not make the document it made first"), "{error}");
    assert_eq!(*stepped.store.read(&shadow(10)).unwrap().document, expected[10]);
    let outcomes = stepped.apply([queued(&shadow(9), count(1), 0), queued(&shadow(10), count(1), 0)]);
    assert!(outcomes[0].result.is_err() && outcomes[1].result.is_ok(), "{outcomes:?}");
    // Its document cannot be flushed, so nothing may be forgotten.
    (0..SHADOWS).for_each(|_| _ = stepped.writer.step());
    assert_ne!(stepped.store.health().state, State::Writable);
}
