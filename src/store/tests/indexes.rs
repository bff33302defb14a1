//! The index is equal to the state table, and finds all that a naive search finds, after any run of writes, flushes, declarations
//! and crashes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use redb::ReadableTable;
use serde_json::{Value, json};

use super::{
    Random, delete, key, named, options, queued, scanned_documents,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    fleet::{Aggregate, Aggregation, Device, Field, Query, Shadow},
    shadow::{
        DeviceId, Document, ShadowKey, Timestamp,
        index::{IndexedPaths, ValuePath},
    },
    store::{
        DeviceLookup, DeviceSpan, IndexReadiness, Proposed, State, Store, StoreError, StoreOptions,
        database::AbortCause,
        index::{
            self,
            entry::{self, Entries},
            keeper::OfTest,
            state::{INDEX_KEY, IndexState, KeptPath},
        },
        schema::{self, META_TABLE, STATE_TABLE},
        state::record,
    },
};

const DEVICES: [&str; 8] = ["a", "a-1", "a-2", "b", "b:1", "c", "c1", "d"];

/// The declarations of a run.
const DECLARED: [&str; 5] = [
    "reported.v tags.* shadow.name.cfg.reported.v",
    "reported.v",
    "",
    "tags.* reported.deep.x reported.list.id",
    "tags.region reported.v reported.deep.*",
];

const QUERIES: [&str; 27] = [
    "reported.v:1.4*",
    "reported.v:\"1.4.2\"",
    "reported.v:>1.4",
    "reported.v:<=1.10",
    "reported.v:[1 TO 5]",
    "reported.v:{* TO -1}",
    "reported.v:>\"1.4\"",
    "reported.v:B*",
    "reported.v:b",
    "reported.v:true",
    "reported.v:7",
    "reported.v:07",
    "reported.v:(7 OR b OR 1.4*)",
    "reported.v:1* tags.region:west",
    "tags.region:WEST",
    "tags.site.floor:>=2",
    "tags.site.floor:[0 TO 1} AND NOT tags.region:west",
    "reported.deep.x:>0",
    "reported.list.id:x2",
    "reported.list.id:x*",
    "shadow.name.cfg.reported.v:>=1.4",
    "reported.v:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx*",
    "reported.v:<yy reported.v:>x",
    "reported.v:-*",
    "tags.mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm.m07:7",
    "tags.site.floor:1 tags.mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm.m09:>1",
    "tags.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk:>0",
];

fn any_value(random: &mut Random) -> Value {
    let long = "x".repeat(300);
    let values = [
        json!("1.4.2"),
        json!("1.10.0"),
        json!("1.9"),
        json!("B"),
        json!("b"),
        json!("7"),
        json!("07"),
        json!(7),
        json!(-2.5),
        json!(1.4),
        json!(0),
        json!(true),
        json!("true"),
        json!(long),
        json!([]),
        json!(["1.4.3", 7, [true, "b"]]),
        json!(["B", "b", 7, 7, null]),
        json!({"inner": 1}),
        json!("a\u{0}b"),
        json!("-1"),
    ];
    values[random.below(values.len() as u64) as usize].clone()
}

fn any_update(random: &mut Random) -> Value {
    let mut state = json!({});
    if random.chance(2) {
        state["reported"]["v"] = if random.chance(6) { Value::Null } else { any_value(random) };
    }
    // More than has an entry each, at a path by itself.
    if random.chance(40) {
        state["reported"]["v"] = (0..800).map(|n| json!(f64::from(n) + 0.5 + random.below(2) as f64)).collect();
    }
    if random.chance(3) {
        state["reported"]["deep"]["x"] = any_value(random);
    }
    if random.chance(3) {
        state["reported"]["list"] = json!([{"id": format!("x{}", random.below(4))}, {"id": any_value(random)}, 5]);
    }
    if random.chance(3) {
        state["tags"]["region"] = json!(["west", "West", "east", null, 5])[random.below(5) as usize].clone();
    }
    if random.chance(3) {
        state["tags"]["site"] = if random.chance(4) { Value::Null } else { json!({"floor": random.below(4)}) };
    }
    if random.chance(12) {
        state["reported"] = Value::Null;
    }
    if random.chance(6) {
        state["tags"][LONG] = json!(random.below(3));
    }
    // More than has an entry each.
    if random.chance(8) {
        let members = (0..200).map(|n| (format!("m{n:02}"), json!(n % 10 + random.below(2)))).collect();
        state["tags"]["m".repeat(100)] = if random.chance(3) { Value::Null } else { Value::Object(members) };
    }
    // What no path is about.
    state["desired"]["n"] = json!(random.below(9));
    state
}

/// A key whose hash is in the index.
const LONG: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";

fn any_key(random: &mut Random) -> ShadowKey {
    let device = DEVICES[random.below(DEVICES.len() as u64) as usize];
    if random.chance(3) { named(device, "cfg") } else { key(device) }
}

pub(super) fn declared(text: &str) -> Arc<IndexedPaths> {
    Arc::new(IndexedPaths::new(text.split_whitespace().map(|path| path.parse().unwrap()).collect()))
}

fn all_keys() -> Vec<ShadowKey> {
    DEVICES.iter().flat_map(|device| [key(device), named(device, "cfg")]).collect()
}

/// The newest state of the devices with the shadows `keys`, from whole documents.
fn newest(stepped: &Stepped, keys: &[ShadowKey]) -> BTreeMap<DeviceId, Device> {
    let mut devices = BTreeMap::new();
    for (key, document) in keys.iter().zip(scanned_documents(&stepped.store, keys)) {
        let Some(document) = document else { continue };
        let device = devices.entry(key.device.clone()).or_insert_with(|| Device::new(key.device.clone()));
        device.shadow_count += 1;
        device.shadows.push(Shadow { name: key.name.clone(), document, delta: Default::default() });
    }
    devices
}

/// Compares the index with the records in the state table.
pub(super) fn check_entries(stepped: &Stepped, about: &str) {
    let shared = &stepped.writer.shared;
    let checked = shared.database.read(|transaction| {
        let meta = transaction.open_table(META_TABLE)?;
        let Some(record) = meta.get(INDEX_KEY)? else { return Ok(()) };
        let state = IndexState::decode(record.value()).unwrap();
        if state.is_behind || state.generation != stepped.writer.index.generation() {
            return Ok(());
        }
        let table = transaction.open_table(index::table(&index::table_name(state.generation)))?;
        let (mut expected, mut found, mut devices) = (Entries::new(), Entries::new(), BTreeSet::new());
        let records = transaction.open_table(STATE_TABLE)?;
        let (dirty, stale) = shared.unflushed.of_test();
        for key in dirty.difference(&stale) {
            let name = schema::state_key(key);
            let is_declared = |kept: &&KeptPath| shared.index.paths.iter().any(|path| *path == kept.path);
            let kept =
                || state.ready.iter().filter(is_declared).filter(|kept| kept.path.is_of_shadow(key.name.as_ref()));
            let entries = |document: &Document| {
                let mut entries = Entries::new();
                kept().filter(|_| document.exists()).for_each(|kept| entry::add(&mut entries, kept, document, &name));
                (document.exists() && !shared.index.paths.is_empty(), entries)
            };
            let newest = shared.newest(key)?.document;
            let record = records.get(name.as_slice())?;
            let record =
                record.map(|value| record::decode(&name, value.value(), &shared.dictionaries).unwrap().document);
            let recorded = record.as_ref().map(|document| entries(document)).unwrap_or_default();
            assert_eq!(entries(&newest), recorded, "{about}: {key} is not stale");
        }
        for item in records.iter()? {
            let (name, value) = item?;
            let shadow = schema::shadow_key(name.value()).unwrap();
            let document: Arc<Document> =
                record::decode(name.value(), value.value(), &shared.dictionaries).unwrap().document;
            if document.exists() {
                let is_passed = state.building.as_ref().is_none_or(|built| built.has_passed(name.value()));
                if state.devices.is_some() || is_passed {
                    devices.insert(shadow.device.as_str().to_owned());
                }
                let built =
                    state.building.iter().filter(|built| built.has_passed(name.value())).flat_map(|built| &built.paths);
                for kept in state.ready.iter().chain(built).filter(|kept| kept.path.is_of_shadow(shadow.name.as_ref()))
                {
                    entry::add(&mut expected, kept, &document, name.value());
                }
            }
        }
        for item in table.iter()? {
            let (key, value) = item?;
            let is_removed = state.removing.iter().any(|number| key.value().starts_with(&number.to_be_bytes()));
            if !is_removed {
                found.insert(key.value().to_vec(), value.value().to_vec());
            }
        }
        assert_eq!(found, expected, "{about}: the entries");
        let passed = state.building.as_ref().and_then(|built| Some((built, built.devices?)));
        match (state.devices, passed) {
            (Some(counted), _) => assert_eq!(counted, devices.len() as u64, "{about}: the devices"),
            (None, Some((built, counted))) => {
                assert_eq!(counted, devices.len() as u64, "{about}: the devices up to {}", built.cursor);
            }
            (None, None) => panic!("{about}: nobody counts devices"),
        }
        Ok(())
    });
    checked.unwrap();
}

/// Compares the searches of the index with naive ones. Returns the number of those for which it was used.
fn check_searches(stepped: &Stepped, random: &mut Random, about: &str) -> usize {
    let (devices, mut used) = (newest(stepped, &all_keys()), 0);
    for text in QUERIES {
        let query: Query = text.parse().unwrap();
        let lookups = query.lookups();
        assert!(!lookups.is_empty(), "{text}");
        let (spans, is_confined) = (any_spans(random), random.chance(3));
        let lookups: Vec<_> =
            lookups.into_iter().map(|lookup| DeviceLookup { lookup, spans: spans.clone(), is_confined }).collect();
        let (mut proposed, mut after) = (BTreeSet::new(), None);
        let limit = Some(1 + random.below(4) as usize).filter(|limit| *limit < 4);
        let is_used = loop {
            let (found, _) = stepped.store.propose(&lookups, &spans, after.as_ref(), limit).unwrap();
            let Some(Proposed { devices, next }) = found else { break false };
            assert!(devices.is_sorted(), "{about}: {text}");
            assert!(
                devices.iter().all(|device| after.as_ref().is_none_or(|after| device > after)
                    && next.as_ref().is_none_or(|next| device <= next)
                    && spans.iter().any(|span| span.has(device))),
                "{about}: {text}"
            );
            proposed.extend(devices);
            assert!(next.is_none() || (next > after && limit.is_some()), "{about}: {text}");
            after = next;
            if after.is_none() {
                break true;
            }
        };
        used += usize::from(is_used);
        let wanted = devices.values().filter(|device| spans.iter().any(|span| span.has(&device.id)));
        for device in wanted.filter(|device| is_used && query.matches(device, Timestamp(0))) {
            let id = device.id.as_str();
            let stale = stepped.writer.shared.unflushed.stale_devices(&[DeviceSpan::All], None, 100);
            assert!(
                proposed.contains(&device.id),
                "{about}: {text} is true for {id}: {device:?}, proposed {proposed:?}, stale {stale:?}"
            );
        }
    }
    for field in ["reported.v", "tags.region", "tags.site.floor", "reported.deep.x", "reported.list.id"] {
        used += usize::from(check_aggregates(stepped, &devices, &field.parse().unwrap(), about));
    }
    used
}

/// Compares searches by the index, and aggregates of `fields`, with those of a scan of all shadows, which are `keys`. Returns the
/// number of those for which it was used.
pub(super) fn check_answers(
    stepped: &Stepped,
    keys: &[ShadowKey],
    (queries, fields): (&[&str], &[&str]),
    about: &str,
) -> usize {
    let (devices, mut used) = (newest(stepped, keys), 0);
    for text in queries {
        let query: Query = text.parse().unwrap();
        let Some(Proposed { devices: proposed, .. }) = propose(&stepped.store, text, None, None).unwrap() else {
            continue;
        };
        let by_index: Vec<_> = proposed.iter().filter_map(|id| devices.get(id)).collect();
        let found = by_index.into_iter().filter(|device| query.matches(device, Timestamp(0)));
        let expected = devices.values().filter(|device| query.matches(device, Timestamp(0)));
        let ids = |device: &Device| device.id.clone();
        assert_eq!(found.map(ids).collect::<Vec<_>>(), expected.map(ids).collect::<Vec<_>>(), "{about}: {text}");
        used += 1;
    }
    let is_used = |field: &&&str| check_aggregates(stepped, &devices, &field.parse().unwrap(), about);
    used + fields.iter().filter(is_used).count()
}

/// Compares aggregates by the index with naive ones.
fn check_aggregates(stepped: &Stepped, devices: &BTreeMap<DeviceId, Device>, field: &Field, about: &str) -> bool {
    let path: ValuePath = field.path().unwrap();
    let mut is_used = true;
    for aggregation in [
        Aggregation::Count,
        Aggregation::Terms { size: 100 },
        Aggregation::Percentiles(vec![0.0, 50.0, 100.0]),
        Aggregation::Histogram { interval: 2.0 },
        Aggregation::Cardinality,
    ] {
        let mut aggregate = Aggregate::new(aggregation.clone(), Some(field.clone()));
        let found = stepped.store.indexed_values(Some(&path), &mut |group| {
            aggregate.add_values(group.values, group.devices, group.first);
            ControlFlow::Continue(())
        });
        let (Some(found), _) = found.unwrap() else {
            is_used = false;
            continue;
        };
        aggregate.add_devices(found.devices);
        found.others.iter().filter_map(|id| devices.get(id)).for_each(|device| aggregate.add(device));
        let mut naive = Aggregate::new(aggregation, Some(field.clone()));
        devices.values().for_each(|device| naive.add(device));
        assert_eq!(aggregate.into_result(), naive.into_result(), "{about}: {field}");
    }
    is_used
}

fn any_spans(random: &mut Random) -> Vec<DeviceSpan> {
    let id = |text: &str| DeviceId::new(text).unwrap();
    match random.below(5) {
        0 => vec![DeviceSpan::Prefix(id("a"))],
        1 => vec![DeviceSpan::One(id("a")), DeviceSpan::One(id("a-2")), DeviceSpan::Prefix(id("b"))],
        2 => vec![DeviceSpan::One(id("0")), DeviceSpan::Prefix(id("a-")), DeviceSpan::One(id("c"))],
        _ => vec![DeviceSpan::All],
    }
}

/// Searches all devices.
pub(super) fn propose<C: Send>(
    store: &Store<C>,
    query: &str,
    after: Option<&DeviceId>,
    limit: Option<usize>,
) -> Result<Option<Proposed>, StoreError> {
    let lookups = query.parse::<Query>().unwrap().lookups();
    let all = || vec![DeviceSpan::All];
    let lookups = lookups.into_iter().map(|lookup| DeviceLookup { lookup, spans: all(), is_confined: false });
    Ok(store.propose(&lookups.collect::<Vec<_>>(), &all(), after, limit)?.0)
}

pub(super) fn readiness(stepped: &Stepped) -> IndexReadiness {
    stepped.store.health().index.readiness
}

fn any_options(random: &mut Random, paths: &str) -> StoreOptions {
    StoreOptions {
        indexed: declared(paths),
        flush_documents_min: random.below(4) as usize,
        lag_entries_max: 10 + random.below(200),
        document_cache_bytes: if random.chance(2) { 1 << 20 } else { 4096 },
        ..options()
    }
}

fn apply_some(stepped: &mut Stepped, random: &mut Random) {
    let batch: Vec<_> = (0..1 + random.below(10))
        .map(|n| {
            let key = any_key(random);
            queued(&key, if random.chance(8) { delete() } else { update(&any_update(random), None) }, n)
        })
        .collect();
    stepped.apply(batch);
}

/// Makes the commits of an idle writer.
pub(super) fn rest(stepped: &mut Stepped) {
    while stepped.store.health().backlog_documents > 0 || stepped.writer.index_has_work() {
        let _ = stepped.writer.step();
    }
}

#[test]
fn an_index_is_exact_and_complete() {
    let mut used = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut paths = DECLARED[random.below(5) as usize];
        let mut stepped = Stepped::open(&disk, any_options(&mut random, paths)).unwrap();
        for step in 0..25 {
            let about = format!("seed {seed}, step {step}, {paths}");
            apply_some(&mut stepped, &mut random);
            check_entries(&stepped, &format!("{about}, applied"));
            if random.chance(6) {
                stepped.writer.index.of_test = OfTest::default();
                let about = format!("{about}, at rest");
                rest(&mut stepped);
                check_entries(&stepped, &about);
                let complete = check_searches(&stepped, &mut random, &about);
                let is_off = readiness(&stepped) == IndexReadiness::Damaged;
                assert!(complete > 0 || paths.is_empty() || is_off, "{about}");
            }
            if random.chance(8) {
                // Killed, or closed; with the same declaration or another one.
                let durable = disk.durable();
                drop(stepped);
                disk = SimDisk::new(durable, Stop::Never);
                if random.chance(2) {
                    paths = DECLARED[random.below(5) as usize];
                }
                stepped = Stepped::open(&disk, any_options(&mut random, paths)).unwrap();
                if random.chance(2) {
                    stepped.writer.index.hold();
                }
            }
            if random.chance(3) {
                stepped.writer.index.of_test.is_unverified = false;
            }
            if random.chance(40) {
                let fault = StoreError::Record { table: "index", key: String::new(), detail: "a test".to_owned() };
                stepped.writer.index.of_test.fault = Some(Box::new(|| AbortCause::Store(fault)));
            }
            let about = format!("{about}, then {paths}");
            check_entries(&stepped, &about);
            used += check_searches(&stepped, &mut random, &about);
        }
    }
    assert!(used > 1000, "the index was used {used} times");
}

/// A failed commit leaves the index as it was or makes all of its changes.
#[test]
fn an_index_survives_failed_commits() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let sync = 4 + random.below(30);
        let stop = if random.chance(2) { Stop::AtSync(sync) } else { Stop::AfterSync(sync) };
        let disk = SimDisk::new(Vec::new(), stop);
        let Ok(mut stepped) = Stepped::open(&disk, any_options(&mut random, DECLARED[0])) else { continue };
        for step in 0..25 {
            apply_some(&mut stepped, &mut random);
            if let State::Failed(_) = stepped.store.health().state {
                let content = [Repaired::Pending, Repaired::Forgotten, Repaired::Lost, Repaired::Torn(seed)];
                disk.repair(content[random.below(4) as usize], Stop::Never);
                while stepped.heal().is_none() {}
            }
            let about = format!("seed {seed}, step {step}");
            check_entries(&stepped, &about);
            check_searches(&stepped, &mut random, &about);
        }
        rest(&mut stepped);
        check_entries(&stepped, &format!("seed {seed}, at rest"));
    }
}

/// A new path is not used before it is complete, and building goes on after a restart.
#[test]
fn a_path_is_built_in_the_background() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    for device in 0..2000 {
        let state = json!({"reported": {"v": device % 10}});
        stepped.apply([queued(&key(&format!("d{device:04}")), update(&state, None), 0)]);
    }
    stepped.idle();
    drop(stepped);
    let indexed = || StoreOptions { indexed: declared("reported.v"), ..options() };
    let mut stepped = Stepped::open(&disk, indexed()).unwrap();
    let propose = |stepped: &Stepped| propose(&stepped.store, "reported.v:7", None, Some(1000)).unwrap();
    assert_eq!(propose(&stepped), None);
    let _ = stepped.writer.step();
    let _ = stepped.writer.step();
    assert_eq!(propose(&stepped), None);
    check_entries(&stepped, "half built");
    // One before the cursor, and one after it.
    for device in ["d0001", "d1999"] {
        stepped.apply([queued(&key(device), update(&json!({"reported": {"v": 7}}), None), 0)]);
    }
    let disk = SimDisk::new(disk.durable(), Stop::Never);
    drop(stepped);
    let mut stepped = Stepped::open(&disk, indexed()).unwrap();
    assert!(stepped.writer.index_has_work());
    rest(&mut stepped);
    check_entries(&stepped, "built");
    let found = propose(&stepped).unwrap();
    assert_eq!((found.devices.len(), found.next), (202, None));
    assert_eq!(readiness(&stepped), IndexReadiness::Complete);
    let all = stepped.store.indexed_values(None, &mut |_| ControlFlow::Continue(())).unwrap().0.unwrap();
    assert_eq!((all.devices, all.others.len()), (2000, 0));
    // Without the declaration, nothing is left of it.
    drop(stepped);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    rest(&mut stepped);
    assert_eq!(propose(&stepped), None);
    let left = stepped.writer.shared.database.read(|transaction| {
        let meta = transaction.open_table(META_TABLE)?;
        Ok((meta.get(INDEX_KEY)?.is_some(), transaction.list_tables()?.count()))
    });
    let before = SimDisk::new(Vec::new(), Stop::Never);
    let fresh = Stepped::open(&before, options()).unwrap();
    let expected = fresh.writer.shared.database.read(|transaction| Ok(transaction.list_tables()?.count())).unwrap();
    let (has_record, tables) = left.unwrap();
    assert_eq!((has_record, tables), (false, expected));
    assert_eq!(stepped.writer.progress.index, 0);
}

/// A search with very many values has to read all shadows, also if they are in an index.
#[test]
fn many_values_are_collected_up_to_a_limit() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, StoreOptions { indexed: declared("reported.v"), ..options() }).unwrap();
    for device in 0..1000 {
        let state = json!({"reported": {"v": device}});
        stepped.apply([queued(&key(&format!("d{:04}", (device * 7) % 1000)), update(&state, None), 0)]);
    }
    rest(&mut stepped);
    // A bound itself is proposed, whether or not it is included.
    for (query, count) in [("reported.v:>=0", 1000), ("reported.v:[100 TO 149]", 50), ("reported.v:<400", 401)] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let found = propose(&stepped.store, query, after.as_ref(), Some(30)).unwrap().unwrap();
            all.extend(found.devices);
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        assert!(all.is_sorted(), "{query}");
        assert_eq!(all.len(), count, "{query}");
    }
}
