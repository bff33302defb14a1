//! Scans are equal to reads of whole documents, whatever was flushed, and whatever part is asked for.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Random, delete, key, named, options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    shadow::{
        Document, ShadowKey,
        document::tree::{Members, Node},
        name::DeviceId,
        pointer::SectionName,
        selection::Selection,
    },
    store::{DeviceSpan, PartDecoder, Store, StoreOptions},
};

const DEVICES: [&str; 9] = ["a", "a-1", "a-10", "a-2", "ab", "b", "b:1", "c", "c-x"];

fn any_key(random: &mut Random) -> ShadowKey {
    let device = DEVICES[random.below(DEVICES.len() as u64) as usize];
    match random.below(3) {
        0 => named(device, "cfg"),
        1 => named(device, "x"),
        _ => key(device),
    }
}

fn any_state(random: &mut Random) -> Value {
    let n = random.below(5);
    json!({
        "desired": {"n": random.below(3), "deep": {"a": {"x": n}, "b": [1, {"x": n}]}},
        "reported": {"n": n, "text": format!("value {n}"), "list": [{"x": n}, n, null], "empty": {}},
        "tags": {"site": {"floor": n}, "region": if n > 2 { json!("west") } else { json!(null) }},
    })
}

fn any_spans(random: &mut Random) -> Vec<DeviceSpan> {
    let id = |text: &str| DeviceId::new(text).unwrap();
    match random.below(5) {
        0 => vec![],
        1 => vec![DeviceSpan::Prefix(id("a"))],
        2 => vec![DeviceSpan::One(id("a")), DeviceSpan::One(id("a-2")), DeviceSpan::Prefix(id("b"))],
        3 => vec![DeviceSpan::One(id("0")), DeviceSpan::Prefix(id("a-1")), DeviceSpan::One(id("c"))],
        _ => vec![DeviceSpan::All],
    }
}

/// The value at a path, written without its stamps.
fn at(members: &Members, keys: &[Box<str>]) -> Option<Value> {
    match keys {
        [] => None,
        [key] => members.get(key).map(Node::to_value),
        [key, rest @ ..] => match members.get(key)? {
            Node::Object(members) => at(members, rest),
            Node::Leaf(leaf) => Some(Value::clone(&leaf.value)),
        },
    }
}

/// Reads all pages of a scan: for each shadow, the document that was decoded for `selection`.
fn scanned(
    store: &Store<u64>,
    spans: &[DeviceSpan],
    selection: &Selection,
    limit: usize,
) -> BTreeMap<ShadowKey, Option<Arc<Document>>> {
    let (mut found, mut after, mut decoder) = (BTreeMap::new(), None, PartDecoder::default());
    loop {
        let page = store.scan(spans, after.as_ref(), limit).unwrap();
        let mut last: Option<ShadowKey> = None;
        for index in 0..page.len() {
            let key = page.key(index).unwrap().clone();
            assert!(last.as_ref().is_none_or(|last| *last < key), "in order");
            let document = page.document(index, selection, &mut decoder);
            assert!(found.insert(key.clone(), document).is_none(), "{key} twice");
            last = Some(key);
        }
        let Some(next) = page.next().cloned() else { return found };
        assert!(after.is_none_or(|after| after < next), "a scan advances");
        // No device is cut.
        let beyond = store.scan(&[DeviceSpan::One(next.device.clone())], Some(&next), 1).unwrap();
        assert!(beyond.is_empty(), "{next} is the last shadow of its device");
        after = Some(next);
    }
}

fn compare(store: &Store<u64>, random: &mut Random, about: &str) {
    let spans = any_spans(random);
    let paths: Vec<(SectionName, Vec<Box<str>>)> = [
        (SectionName::Reported, "n"),
        (SectionName::Desired, "deep.a"),
        (SectionName::Desired, "deep.b.x"),
        (SectionName::Reported, "list"),
        (SectionName::Reported, "empty"),
        (SectionName::Tags, "site.floor"),
        (SectionName::Tags, "none.at.all"),
    ]
    .into_iter()
    .filter(|_| random.chance(2))
    .map(|(section, keys)| (section, keys.split('.').map(Box::from).collect()))
    .collect();
    let mut selection = Selection::default();
    paths.iter().for_each(|(section, keys)| selection.add(*section, keys));
    let limit = 1 + random.below(12) as usize;
    let found = scanned(store, &spans, &selection, limit);
    let listed = store.list(None, 1000).unwrap();
    let expected: Vec<_> =
        listed.iter().filter(|listed| spans.iter().any(|span| span.has(&listed.key.device))).collect();
    let found_keys: Vec<_> = found.keys().collect();
    assert_eq!(found_keys, expected.iter().map(|listed| &listed.key).collect::<Vec<_>>(), "{about} {spans:?} {limit}");
    for (key, part) in found {
        let whole = store.read(&key).unwrap().document;
        assert_eq!(part.is_some(), whole.exists(), "{about}: {key}");
        let Some(part) = part else { continue };
        let head = |document: &Document| (document.version, document.timestamp, document.etag);
        assert_eq!(head(&part), head(&whole), "{about}: {key}");
        for (section, keys) in &paths {
            let values = [&part, &whole].map(|document| at(&document.section(*section).members, keys));
            assert_eq!(values[0], values[1], "{about}: {key} {section:?} {keys:?}");
        }
    }
    let everything = Selection::everything();
    for (key, document) in scanned(store, &spans, &everything, limit) {
        let whole = store.read(&key).unwrap().document;
        assert_eq!(document, Some(whole).filter(|whole| whole.exists()), "{about}: {key}");
    }
}

/// Wherever the documents are: not flushed, flushed, evicted, encoded in the cache, or compressed.
#[test]
fn a_scan_is_equal_to_reads() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let document_cache_bytes = if random.chance(2) { 1 << 20 } else { 4096 };
        let of_seed = || StoreOptions { document_cache_bytes, flush_documents_min: 1, ..options() };
        let mut stepped = Stepped::open(&disk, of_seed()).unwrap();
        for step in 0..30 {
            let batch: Vec<_> = (0..random.below(12))
                .map(|n| {
                    let key = any_key(&mut random);
                    let command = if random.chance(6) { delete() } else { update(&any_state(&mut random), None) };
                    queued(&key, command, n)
                })
                .collect();
            if !batch.is_empty() {
                stepped.apply(batch);
            }
            if random.chance(8) {
                stepped.idle();
            }
            if random.chance(20) {
                drop(stepped);
                stepped = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), of_seed()).unwrap();
                compare(&stepped.store, &mut random, &format!("seed {seed}, step {step}, restarted"));
                drop(stepped);
                stepped = Stepped::open(&disk, of_seed()).unwrap();
            }
            compare(&stepped.store, &mut random, &format!("seed {seed}, step {step}"));
        }
    }
}

/// While documents are flushed and evicted, a scan never returns an older version than the one before it.
#[test]
fn a_scan_beside_a_writer_never_goes_back() {
    use super::Running;
    let options = StoreOptions {
        disk: Some(SimDisk::new(Vec::new(), Stop::Never)),
        document_cache_bytes: 8192,
        flush_documents_min: 64,
        ..options()
    };
    let running = Running::open(options).unwrap();
    let keys: Vec<_> = (0..50).map(|n| key(&format!("d{n:02}"))).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut versions = BTreeMap::new();
            let mut is_last = false;
            while !is_last {
                is_last = done.load(std::sync::atomic::Ordering::Acquire);
                for (key, document) in scanned(&running.store, &[DeviceSpan::All], &Selection::default(), 7) {
                    let version = document.unwrap().version;
                    let known = versions.entry(key).or_insert(version);
                    assert!(version >= *known, "{version:?} after {known:?}");
                    *known = version;
                }
            }
            versions
        });
        let mut random = Random::new(5);
        for _ in 0..400 {
            let mut any_command = |_| {
                let key = keys[random.below(50) as usize].clone();
                queued(&key, update(&any_state(&mut random), None), 0)
            };
            let batch: Vec<_> = (0..20).map(&mut any_command).collect();
            running.apply(batch);
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        let versions = reader.join().unwrap();
        for (key, version) in versions {
            assert_eq!(running.store.read(&key).unwrap().document.version, version, "{key}");
        }
    });
}
