//! An index that is damaged, not verified or cannot be written costs itself, and no data; and no commit does much for one.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redb::{ReadableTable, TableHandle};
use serde_json::{Value, json};

use super::{
    Running, delete,
    indexes::{check_entries, declared, propose, readiness, rest},
    key, named, options, queued, scanned_documents,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    fleet::Field,
    shadow::DeviceId,
    store::{
        IndexReadiness, State, StoreError, StoreOptions,
        database::AbortCause,
        index::{
            self,
            keeper::OfTest,
            state::{INDEX_KEY, IndexState, TERMS},
        },
        schema::META_TABLE,
    },
};

/// A damaged page of the index costs its content, which is built again, and no answer.
#[test]
fn a_damaged_index_is_built_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("umbra.redb");
    let indexed = || StoreOptions { free_disk_min: 0, indexed: declared("reported.v"), ..StoreOptions::new(&path) };
    let running = Running::open(indexed()).unwrap();
    let keys: Vec<_> = (0..400).map(|device| key(&format!("d{device:03}"))).collect();
    let state = |device: usize| json!({"reported": {"v": format!("value-{}", device % 20), "n": device}});
    running.apply(keys.iter().enumerate().map(|(device, key)| queued(key, update(&state(device), None), 0)));
    running.store.close();
    drop(running);
    let sound = std::fs::read(&path).unwrap();
    let (mut opened, mut with_all) = (0, 0);
    for page in 0..sound.len() / 4096 {
        let mut damaged = sound.clone();
        // Beyond the header of a page; an unused page does no harm.
        damaged[page * 4096 + 1000] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        // Verified when it is opened, or in the background.
        let verify_first_bytes_max = if page % 2 == 0 { 0 } else { u64::MAX };
        let Ok(running) = Running::open(StoreOptions { verify_first_bytes_max, ..indexed() }) else { continue };
        opened += 1;
        let documents = scanned_documents(&running.store, &keys);
        with_all += usize::from(documents.iter().all(Option::is_some));
        let expected = keys.iter().zip(&documents).filter(|(_, document)| {
            let members = document.as_ref().map(|document| &document.reported.members);
            members.and_then(|members| members.get("v")).is_some_and(|node| node.to_value() == json!("value-7"))
        });
        let expected: BTreeSet<_> = expected.map(|(key, _)| key.device.clone()).collect();
        let is_whole = documents.iter().all(Option::is_some);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match propose(&running.store, "reported.v:value-7", None, None).unwrap() {
                Some(found) => {
                    let found: BTreeSet<_> = found.devices.into_iter().collect();
                    assert!(found.is_superset(&expected), "page {page}");
                    break;
                }
                // With a damaged state table, no index is built.
                None if !is_whole => break,
                None => assert!(Instant::now() < until, "page {page}: the index is not built"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(opened > 10 && with_all > 5, "{opened} {with_all}");
}

/// Title-case letters were not folded. An index from then had the terms of that, so that searches did not find such texts until their
/// shadows were written again.
#[test]
fn an_index_with_terms_of_another_version_is_built_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("umbra.redb");
    let indexed = || StoreOptions { free_disk_min: 0, indexed: declared("reported.v"), ..StoreOptions::new(&path) };
    let find = |running: &Running| {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match propose(&running.store, "reported.v:\u{1c6}ep", None, None).unwrap() {
                Some(found) => break found.devices,
                None => assert!(Instant::now() < until, "the index is not built"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    };
    let running = Running::open(indexed()).unwrap();
    running.apply([queued(&key("d"), update(&json!({"reported": {"v": "\u{1c5}ep"}}), None), 0)]);
    let expected = [key("d").device];
    assert_eq!(find(&running), expected);
    running.store.close();
    drop(running);
    for (written_by, terms) in [("a program without versions", None), ("one with other terms", Some([0, 1, 0, 0]))] {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut meta = transaction.open_table(META_TABLE).unwrap();
        let mut state = IndexState::decode(meta.get(INDEX_KEY).unwrap().unwrap().value()).unwrap();
        assert_eq!(state.terms, TERMS);
        let table = index::table_name(state.generation);
        let mut entries = transaction.open_table(index::table(&table)).unwrap();
        entries.retain(|_, _| false).unwrap();
        state.terms = terms.unwrap_or_default();
        let record = if terms.is_some() { state.encode() } else { state.encode_without_terms() };
        meta.insert(INDEX_KEY, record.as_slice()).unwrap();
        drop((meta, entries));
        transaction.commit().unwrap();
        drop(database);
        let running = Running::open(indexed()).unwrap();
        assert_eq!(find(&running), expected, "{written_by}");
        running.store.close();
        drop(running);
    }
}

/// A record that is flushed while the pages are not verified gets its entries afterwards, and no search uses the index before.
#[test]
fn an_unverified_index_is_neither_read_nor_written() {
    let indexed = || StoreOptions { indexed: declared("reported.v"), ..options() };
    let value = |n: u64| json!({"reported": {"v": n}});
    let found = |stepped: &Stepped, n: u64| {
        let found = propose(&stepped.store, &format!("reported.v:{n}"), None, None).unwrap();
        found.map(|found| found.devices.iter().map(|device| device.as_str().to_owned()).collect::<Vec<_>>().join(" "))
    };
    for is_killed in [false, true] {
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut stepped = Stepped::open(&disk, indexed()).unwrap();
        stepped.apply((0..30).map(|n| queued(&key(&format!("d{n:02}")), update(&value(n % 3), None), 0)));
        rest(&mut stepped);
        drop(stepped);
        let mut stepped = Stepped::open(&disk, indexed()).unwrap();
        stepped.writer.index.hold();
        assert_eq!((readiness(&stepped), found(&stepped, 1)), (IndexReadiness::Verifying, None));
        stepped.apply([
            queued(&key("d01"), update(&value(7), None), 0),
            queued(&key("d02"), delete(), 0),
            queued(&key("new"), update(&value(7), None), 0),
        ]);
        stepped.idle();
        stepped.apply([queued(&key("d01"), update(&value(8), None), 0)]);
        stepped.idle();
        assert_eq!((readiness(&stepped), found(&stepped, 7)), (IndexReadiness::Verifying, None));
        let generation = stepped.writer.index.generation();
        if is_killed {
            let killed = SimDisk::new(disk.durable(), Stop::Never);
            drop(stepped);
            stepped = Stepped::open(&killed, indexed()).unwrap();
            assert_eq!(readiness(&stepped), IndexReadiness::Building);
        } else {
            stepped.writer.index.of_test = OfTest::default();
        }
        rest(&mut stepped);
        check_entries(&stepped, "verified");
        assert_eq!(readiness(&stepped), IndexReadiness::Complete);
        assert_eq!(stepped.writer.index.generation(), generation + u64::from(is_killed));
        assert_eq!(found(&stepped, 7).as_deref(), Some("new"));
        assert_eq!(found(&stepped, 8).as_deref(), Some("d01"));
        let all = stepped.store.indexed_values(None, &mut |_| ControlFlow::Continue(())).unwrap().0.unwrap();
        assert_eq!((all.devices, all.others.len()), (30, 0));
    }
}

/// A fault of the index costs the index. The commit that met it has its data, or is made again.
#[test]
fn a_fault_of_the_index_refuses_no_data() {
    let indexed = || StoreOptions { indexed: declared("reported.v"), ..options() };
    let content = || AbortCause::Store(StoreError::Record { table: "index", key: "k".into(), detail: "a test".into() });
    let engine = || AbortCause::from(redb::StorageError::Corrupted("a test".to_owned()));
    let stopped = || -> AbortCause { panic!("a test of a storage engine that stops") };
    let disk_full = || AbortCause::from(redb::StorageError::Io(std::io::Error::other("a test")));
    type Fault = Box<dyn FnOnce() -> AbortCause + Send>;
    let faults: [(Fault, bool, bool); 4] = [
        (Box::new(content), true, true),
        (Box::new(engine), true, true),
        (Box::new(stopped), false, true),
        (Box::new(disk_full), false, false),
    ];
    for (number, (fault, is_committed, is_given_up)) in faults.into_iter().enumerate() {
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut stepped = Stepped::open(&disk, indexed()).unwrap();
        let apply = |stepped: &mut Stepped, n: u64| {
            let state = json!({"reported": {"v": n}});
            stepped.apply((0..20).map(|d| queued(&key(&format!("d{d:02}")), update(&state, None), 0)));
        };
        apply(&mut stepped, 1);
        rest(&mut stepped);
        stepped.writer.index.of_test.fault = Some(fault);
        apply(&mut stepped, 2);
        while stepped.writer.index.of_test.fault.is_some() {
            let _ = stepped.writer.step();
        }
        let has_failed = matches!(stepped.store.health().state, State::Failed(_));
        assert_eq!(has_failed, !is_committed, "fault {number}");
        while stepped.store.health().state != State::Writable {
            let _ = stepped.heal();
        }
        if has_failed {
            apply(&mut stepped, 2);
        }
        let given_up = stepped.store.health().index.given_up;
        assert_eq!(given_up, u64::from(is_given_up), "fault {number}");
        rest(&mut stepped);
        assert_eq!(readiness(&stepped), IndexReadiness::Complete, "fault {number}");
        check_entries(&stepped, &format!("fault {number}"));
        for (n, count) in [(1, 0), (2, 20)] {
            let found = propose(&stepped.store, &format!("reported.v:{n}"), None, None).unwrap().unwrap();
            assert_eq!(found.devices.len(), count, "fault {number}");
        }
        let keys: Vec<_> = (0..20).map(|d| key(&format!("d{d:02}"))).collect();
        assert!(scanned_documents(&stepped.store, &keys).iter().all(Option::is_some), "fault {number}");
    }
}

/// A table that cannot be written is not begun for ever, and begun once more by the next start, which removes the former ones.
#[test]
fn an_index_with_many_faults_is_off_until_the_next_start() {
    let indexed = || StoreOptions { indexed: declared("reported.v"), ..options() };
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, indexed()).unwrap();
    let apply = |stepped: &mut Stepped, n: u64| {
        stepped.apply([queued(&key("d"), update(&json!({"reported": {"v": n}}), None), 0)]);
    };
    for n in 0..3 {
        apply(&mut stepped, n * 2);
        rest(&mut stepped);
        assert_eq!(readiness(&stepped), IndexReadiness::Complete);
        let fault = StoreError::Record { table: "index", key: "k".into(), detail: "a test".into() };
        stepped.writer.index.of_test.fault = Some(Box::new(|| AbortCause::Store(fault)));
        apply(&mut stepped, n * 2 + 1);
        stepped.idle();
    }
    apply(&mut stepped, 100);
    rest(&mut stepped);
    assert_eq!((readiness(&stepped), stepped.store.health().index.given_up), (IndexReadiness::Damaged, 3));
    assert_eq!(propose(&stepped.store, "reported.v:100", None, None).unwrap(), None);
    drop(stepped);
    let mut stepped = Stepped::open(&disk, indexed()).unwrap();
    rest(&mut stepped);
    assert_eq!(readiness(&stepped), IndexReadiness::Complete);
    assert_eq!(propose(&stepped.store, "reported.v:100", None, None).unwrap().unwrap().devices.len(), 1);
    let tables = stepped.writer.shared.database.read(|transaction| {
        let names = transaction.list_tables()?.map(|table| table.name().to_owned());
        Ok(names.filter_map(|name| index::generation_of(&name)).collect::<Vec<_>>())
    });
    assert_eq!(tables.unwrap(), [stepped.writer.index.generation()]);
}

/// A device had so many values at a path that one entry stood for them. Without paths below, an aggregate came upon that entry among those
/// that have a value, and gave the index up as damaged, until it was off.
#[test]
fn a_device_with_very_many_values_damages_no_index() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, StoreOptions { indexed: declared("reported.v"), ..options() }).unwrap();
    let values: Vec<_> = (0..800).map(|n| f64::from(n) + 0.5).collect();
    for (device, value) in [("a", json!(values)), ("b", json!(7))] {
        stepped.apply([queued(&key(device), update(&json!({"reported": {"v": value}}), None), 0)]);
    }
    rest(&mut stepped);
    let (path, mut groups) = ("reported.v".parse::<Field>().unwrap().path(), Vec::new());
    let found = stepped.store.indexed_values(path.as_ref(), &mut |group| {
        groups.push((group.values.to_vec(), group.devices));
        ControlFlow::Continue(())
    });
    let found = found.unwrap().0.unwrap();
    assert_eq!((groups, found.devices), (vec![(vec![json!(7)], 1)], 1));
    assert_eq!(found.others, [DeviceId::new("a").unwrap()]);
    rest(&mut stepped);
    assert_eq!(readiness(&stepped), IndexReadiness::Complete);
}

/// No commit does much for an index at once, and none does anything while the disk is nearly full.
#[test]
fn building_and_removing_go_in_steps() {
    let full = Arc::new(AtomicBool::new(false));
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let open = |paths: &str| {
        let full = Arc::clone(&full);
        let options = StoreOptions { indexed: declared(paths), free_disk_min: 1000, ..options() };
        let free = move || Ok(if full.load(Ordering::Relaxed) { 10 } else { u64::MAX });
        Stepped::open_probed(&disk, options, free).unwrap()
    };
    let mut stepped = open("");
    // One device with many bytes of entries.
    let value = |n: usize| Value::Object((0..90).map(|m| (format!("{}{m}", "k".repeat(60)), json!(n))).collect());
    for n in 0..60 {
        stepped.apply([queued(&named("d", &format!("s{n}")), update(&json!({"tags": value(n)}), None), 0)]);
    }
    stepped.idle();
    drop(stepped);
    let entries = |stepped: &Stepped| {
        let bytes = stepped.writer.shared.database.read(|transaction| {
            let mut bytes = 0;
            for table in transaction.list_tables()?.filter(|table| index::generation_of(table.name()).is_some()) {
                for item in transaction.open_table(index::table(table.name()))?.range::<&[u8]>(..)? {
                    let (key, value) = item?;
                    bytes += key.value().len() + value.value().len();
                }
            }
            Ok(bytes)
        });
        bytes.unwrap()
    };
    let paths = (0..8).map(|n| format!("shadow.name.s{n}.tags.*")).collect::<Vec<_>>().join(" ");
    let run = |stepped: &mut Stepped, about: &str| {
        let (mut steps, mut last) = (0, entries(stepped));
        while stepped.writer.index_has_work() {
            let _ = stepped.writer.step();
            let now = entries(stepped);
            // The last record may be above the limit.
            assert!(now.abs_diff(last) <= (512 << 10) + (16 << 10), "{about}: {last} to {now} bytes");
            (steps, last) = (steps + 1, now);
        }
        steps
    };
    let mut stepped = open(&paths);
    run(&mut stepped, "built");
    assert!(entries(&stepped) > 50_000);
    check_entries(&stepped, "built");
    drop(stepped);
    let mut stepped = open("");
    full.store(true, Ordering::Relaxed);
    let before = entries(&stepped);
    *stepped.now.lock() += 3600;
    for n in 0..3 {
        stepped.apply([queued(&key("x"), update(&json!({"reported": {"n": n}}), None), 0)]);
    }
    assert!(matches!(stepped.store.health().state, State::DiskLow(_)));
    assert_eq!(entries(&stepped), before);
    full.store(false, Ordering::Relaxed);
    drop(stepped);
    let mut stepped = open("");
    assert!(run(&mut stepped, "removed") > 1);
    assert_eq!(entries(&stepped), 0);
}
