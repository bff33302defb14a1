//! How fast it is: `cargo test --release --lib store::tests::bench -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Random, Running, job, key, update};
use crate::store::StoreOptions;

const SHADOWS: u64 = 10_000;

/// A document of about 600 bytes.
fn document(n: u64) -> Value {
    let readings: serde_json::Map<_, _> = (0..20).map(|i| (format!("reading-{i}"), json!(n * 31 + i * 1000))).collect();
    json!({
        "desired": {"target": 21.5, "mode": "heat", "schedule": [6, 8, 17, 22]},
        "reported": {"temperature": 20.25, "humidity": 41, "mode": "heat", "firmware": "1.4.2", "rssi": -61, "log": readings}
    })
}

/// What the writer's thread has used of a processor so far; says more than the clock does on a busy machine.
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
            running.apply(chunk.iter().map(|key| job(key, update(&document(1), None), 0)));
        }
        let mut random = Random::new(1);
        let mut next = |n: u64| {
            let key = &keys[random.below(shadows) as usize];
            let change = json!({"reported": {"temperature": n as f64 / 8.0, "humidity": n, "rssi": -60, "log": {"reading-3": n, "reading-7": n + 1}}});
            job(key, update(&change, None), n)
        };
        let total = in_flight * if in_flight < 1000 { rounds * 2 } else { rounds };
        let jobs: Vec<_> = (0..total).map(&mut next).collect();
        let before = running.store.health();
        let cpu_before = writer_cpu_seconds();
        let started = Instant::now();
        let mut told = 0;
        let mut jobs = jobs.into_iter();
        jobs.by_ref().take(in_flight as usize).for_each(|job| running.send(job));
        let mut batches = 0;
        while told < total {
            let outcomes = running.told.recv().unwrap();
            batches += 1;
            told += outcomes.len() as u64;
            jobs.by_ref().take(outcomes.len()).for_each(|job| running.send(job));
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
