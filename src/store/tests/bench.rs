//! Benchmarks of the store: `cargo test --release --lib store::tests::bench -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Random, Running, key, queued, update};
use crate::{
    shadow::{Command, IdempotencyKey, Keyed, OnConflict},
    store::StoreOptions,
};

const SHADOWS: u64 = 10_000;

/// Returns a document of about 600 bytes.
fn document(n: u64) -> Value {
    let readings: serde_json::Map<_, _> = (0..20).map(|i| (format!("reading-{i}"), json!(n * 31 + i * 1000))).collect();
    json!({
        "desired": {"target": 21.5, "mode": "heat", "schedule": [6, 8, 17, 22]},
        "reported": {"temperature": 20.25, "humidity": 41, "mode": "heat", "firmware": "1.4.2", "rssi": -61, "log": readings}
    })
}

/// Returns the CPU time of the writer thread, which is more reliable than the clock on a busy machine.
fn writer_cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let writers = threads
        .filter(|thread| std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "store-writer"));
    let nanoseconds = writers.map(|thread| {
        let schedule = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        schedule.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default()
    });
    nanoseconds.sum::<f64>() / 1e9
}

#[test]
#[ignore = "a measurement"]
fn committed_updates_per_second() {
    let shadows = std::env::var("SHADOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(SHADOWS);
    let rounds: u64 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    for in_flight in [50, 1000, 4000] {
        let directory = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or(".".to_owned())).unwrap();
        let path = directory.path().join("store.redb");
        let options =
            StoreOptions { document_cache_bytes: 1 << 30, page_cache_bytes: 1 << 30, ..StoreOptions::new(path) };
        let running = Running::open(options).unwrap();
        let keys: Vec<_> = (0..shadows).map(|n| key(&format!("device-{n:06}"))).collect();
        for chunk in keys.chunks(1000) {
            running.apply(chunk.iter().map(|key| queued(key, update(&document(1), None), 0)));
        }
        let mut random = Random::new(1);
        let mut next = |n: u64| {
            let key = &keys[random.below(shadows) as usize];
            let change = json!({"reported": {"temperature": n as f64 / 8.0, "humidity": n, "rssi": -60, "log": {"reading-3": n, "reading-7": n + 1}}});
            queued(key, update(&change, None), n)
        };
        let total = in_flight * if in_flight < 1000 { rounds * 2 } else { rounds };
        let queue: Vec<_> = (0..total).map(&mut next).collect();
        let before = running.store.health();
        let cpu_before = writer_cpu_seconds();
        let started = Instant::now();
        let mut count = 0;
        let mut queue = queue.into_iter();
        queue.by_ref().take(in_flight as usize).for_each(|queued| running.send(queued));
        let mut batches = 0;
        while count < total {
            let outcomes = running.reported.recv().unwrap();
            batches += 1;
            count += outcomes.len() as u64;
            queue.by_ref().take(outcomes.len()).for_each(|queued| running.send(queued));
        }
        let seconds = started.elapsed().as_secs_f64();
        let health = running.store.health();
        let cpu = writer_cpu_seconds() - cpu_before;
        println!(
            "{in_flight} in flight: {:.0} updates/s, {:.1} µs of the writer's CPU each, {:.0} commits/s, {} bytes per entry; lag {} entries, {} documents",
            total as f64 / seconds,
            cpu * 1e6 / total as f64,
            f64::from(batches) / seconds,
            (health.journal_bytes - before.journal_bytes) / total,
            health.lag_entries,
            health.backlog_documents,
        );
        let started = Instant::now();
        running.store.close();
        println!("    closed in {:?}", started.elapsed());
    }
}

/// Measures unconditional, conditional, rebased and keyed updates in turn, each kind on its own shadows. They run one
/// after another, so that the expected versions are known. Prints the medians of all rounds.
#[test]
#[ignore = "a measurement"]
fn conditions_cost() {
    const SHADOWS: usize = 2_500;
    const TURNS: u64 = 40;
    const VARIANTS: [&str; 4] = ["unconditional", "version", "rebase", "keyed"];
    let directory = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or(".".to_owned())).unwrap();
    let options = StoreOptions { document_cache_bytes: 1 << 30, ..StoreOptions::new(directory.path().join("s.redb")) };
    let running = Running::open(options).unwrap();
    let keys = VARIANTS.map(|variant| (0..SHADOWS).map(|n| key(&format!("{variant}-{n:06}"))).collect::<Vec<_>>());
    for chunk in keys.iter().flat_map(|keys| keys.chunks(1000)) {
        running.apply(chunk.iter().map(|key| queued(key, update(&document(1), None), 0)));
    }
    let mut measured = VARIANTS.map(|_| (Vec::new(), Vec::new()));
    for version in 1..=TURNS {
        // Rounds alternate between fields, so that the version before can be rebased from.
        let fields = if version % 2 == 0 { ["a", "b", "c"] } else { ["x", "y", "z"] };
        let change = json!({"reported": {fields[0]: version, fields[1]: 0.5, "log": {fields[2]: version}}});
        for ((variant, keys), (rates, costs)) in VARIANTS.iter().zip(&keys).zip(&mut measured) {
            let queue: Vec<_> =
                keys.iter().map(|key| queued(key, variant_of(variant, &change, version), version)).collect();
            let (cpu, started) = (writer_cpu_seconds(), Instant::now());
            let outcomes = running.apply(queue);
            assert!(outcomes.iter().all(|outcome| outcome.result.as_ref().is_ok_and(|applied| applied.seq.is_some())));
            rates.push(SHADOWS as f64 / started.elapsed().as_secs_f64());
            costs.push((writer_cpu_seconds() - cpu) * 1e6 / SHADOWS as f64);
        }
    }
    for (variant, (rates, costs)) in VARIANTS.iter().zip(&mut measured) {
        let median = |numbers: &mut Vec<f64>| {
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        println!("{variant}: {:.0} updates/s, {:.1} µs of the writer's CPU each", median(rates), median(costs));
    }
}

fn variant_of(variant: &str, change: &Value, version: u64) -> Command {
    let expected = match variant {
        "version" => Some(version),
        "rebase" => Some(version - 1),
        _ => None,
    };
    let Command::Update(mut update) = update(change, expected) else { unreachable!("it is an update") };
    if variant == "rebase" && version > 2 {
        update.preconditions.on_conflict = OnConflict::Rebase;
    }
    if variant == "keyed" {
        let key = IdempotencyKey::new(&format!("request-{version:010}")).unwrap();
        update.keyed = Some(Keyed::update(key, &update));
    }
    Command::Update(update)
}
