//! Benchmarks of the store: committed updates per second, CPU time of the writer thread, and journal bytes per update.
//!
//! Environment: `SHADOWS` (10000), `ROUNDS` (500), `IN_FLIGHT` (all of 50, 1000 and 4000), and `BENCH_DIR`, the directory of
//! the store (below `target/`). A directory in memory would make the syncs free.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

mod commands;

use std::{fs, sync::mpsc, time::Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use umbrad::{
    shadow::{IdempotencyKey, Keyed, OnConflict, SectionPatch, ShadowKey, Update, Version},
    store::{self, Outcome, QueuedCommand, Store, StoreOptions},
};

use commands::{key, queued};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    in_flight();
    preconditions();
}

/// Measures the creation of all shadows, and then unconditional updates of random ones with a constant number in flight.
fn in_flight() {
    let shadows = setting("SHADOWS", 10_000);
    let rounds = setting("ROUNDS", 500);
    let one = std::env::var("IN_FLIGHT").ok().and_then(|text| text.parse().ok());
    for in_flight in one.map_or(vec![50, 1000, 4000], |one: u64| vec![one]) {
        let running = Running::start();
        let keys: Vec<_> = (0..shadows).map(|n| key(&format!("device-{n:06}"))).collect();
        let begin = Measured::begin(&running);
        running.create(&keys);
        begin.print("created", shadows, &running);
        let total = in_flight * if in_flight < 1000 { rounds * 2 } else { rounds };
        let queue = (0..total).map(|n| {
            let key = &keys[(scattered(n) % shadows) as usize];
            let state = json!({"reported": {"temperature": n as f64 / 8.0, "humidity": n, "rssi": -60, "log": {"reading-3": n, "reading-7": n + 1}}});
            queued(key, update(&state))
        });
        let begin = Measured::begin(&running);
        let commits = running.keep_in_flight(queue, total as usize, in_flight as usize);
        begin.print(&format!("{in_flight} in flight"), total, &running);
        println!(
            "    {} updates in a commit, {} entries not flushed",
            total / u64::from(commits.max(1)),
            running.store.health().lag_entries
        );
        let started = Instant::now();
        running.store.close();
        println!("    closed in {} ms", started.elapsed().as_millis());
    }
}

/// The state at the begin of a measurement.
struct Measured {
    started: Instant,
    writer_cpu: f64,
    cpu: f64,
    written: u64,
    journal: u64,
}

impl Measured {
    fn begin(running: &Running) -> Self {
        let journal = running.store.health().journal_bytes;
        Self {
            writer_cpu: cpu_seconds("store-writer"),
            cpu: cpu_seconds(""),
            written: bytes_written(),
            journal,
            started: Instant::now(),
        }
    }

    fn print(&self, name: &str, updates: u64, running: &Running) {
        let (seconds, each) = (self.started.elapsed().as_secs_f64(), 1e6 / updates as f64);
        println!(
            "{name}: {:.0} updates/s, {:.1} µs of writer CPU each and {:.1} µs of all threads, {} bytes written each, {} of them the journal's",
            updates as f64 / seconds,
            (cpu_seconds("store-writer") - self.writer_cpu) * each,
            (cpu_seconds("") - self.cpu) * each,
            (bytes_written() - self.written) / updates,
            (running.store.health().journal_bytes - self.journal) / updates,
        );
    }
}

/// Measures unconditional, conditional, rebased and keyed updates in turn, each kind on its own shadows. They run one
/// after another, so that the expected versions are known. Prints the medians of all rounds.
fn preconditions() {
    const SHADOWS: usize = 2_500;
    const TURNS: u64 = 40;
    const KINDS: [&str; 4] = ["unconditional", "version", "rebase", "keyed"];
    let running = Running::start();
    let keys = KINDS.map(|kind| (0..SHADOWS).map(|n| key(&format!("{kind}-{n:06}"))).collect::<Vec<_>>());
    keys.iter().for_each(|keys| running.create(keys));
    let mut measured = KINDS.map(|_| (Vec::new(), Vec::new()));
    for version in 1..=TURNS {
        // Rounds alternate between fields, so that an update can be rebased from the version before.
        let fields = if version % 2 == 0 { ["a", "b", "c"] } else { ["x", "y", "z"] };
        let state = json!({"reported": {fields[0]: version, fields[1]: 0.5, "log": {fields[2]: version}}});
        for ((kind, keys), (rates, costs)) in KINDS.iter().zip(&keys).zip(&mut measured) {
            let queue: Vec<_> = keys.iter().map(|key| queued(key, conditional(kind, &state, version))).collect();
            let (cpu, started) = (cpu_seconds("store-writer"), Instant::now());
            let outcomes = running.apply(queue);
            assert!(outcomes.iter().all(|outcome| outcome.result.as_ref().is_ok_and(|applied| applied.seq.is_some())));
            rates.push(SHADOWS as f64 / started.elapsed().as_secs_f64());
            costs.push((cpu_seconds("store-writer") - cpu) * 1e6 / SHADOWS as f64);
        }
    }
    for (kind, (rates, costs)) in KINDS.iter().zip(measured) {
        println!("{kind}: {:.0} updates/s, {:.1} µs of writer CPU each", median(rates), median(costs));
    }
}

fn conditional(kind: &str, state: &Value, version: u64) -> Update {
    let mut update = update(state);
    match kind {
        "version" => update.preconditions.version = Some(Version(version)),
        // The first turn has no earlier version to rebase from.
        "rebase" => {
            update.preconditions.version = Some(Version(version.saturating_sub(1).max(1)));
            update.preconditions.on_conflict = OnConflict::Rebase;
        }
        "keyed" => {
            let key = IdempotencyKey::new(&format!("request-{version:010}")).unwrap();
            update.keyed = Some(Keyed::update(key, &update));
        }
        _ => {}
    }
    update
}

/// A store with a writer thread, and the outcomes it reports.
struct Running {
    store: Store<()>,
    reported: mpsc::Receiver<Vec<Outcome<()>>>,
    _directory: TempDir,
}

impl Running {
    fn start() -> Self {
        let parent = std::env::var("BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
        let directory = tempfile::tempdir_in(parent).unwrap();
        let options = StoreOptions {
            document_cache_bytes: 1 << 30,
            page_cache_bytes: 1 << 30,
            ..StoreOptions::new(directory.path().join("store.redb"))
        };
        let (sender, reported) = mpsc::channel();
        let report = move |report: store::CommitReport<()>| drop(sender.send(report.outcomes));
        Self {
            store: store::open(options, umbrad::store::Moment::default, report).unwrap(),
            reported,
            _directory: directory,
        }
    }

    fn create(&self, keys: &[ShadowKey]) {
        for chunk in keys.chunks(1000) {
            self.apply(chunk.iter().map(|key| queued(key, update(&document()))));
        }
    }

    fn send(&self, queued: QueuedCommand<()>) {
        let permit = self.store.try_reserve(100).expect("the queue has room");
        if !permit.is_loaded(&queued.envelope.key) {
            permit.load(&queued.envelope.key);
        }
        permit.send(queued).unwrap();
    }

    /// Sends `queue` and waits for as many outcomes.
    fn apply(&self, queue: impl IntoIterator<Item = QueuedCommand<()>>) -> Vec<Outcome<()>> {
        let expected = queue.into_iter().map(|queued| self.send(queued)).count();
        let mut outcomes = Vec::new();
        while outcomes.len() < expected {
            outcomes.extend(self.reported.recv().unwrap());
        }
        outcomes
    }

    /// Sends `queue`, of `outstanding` commands, with at most `in_flight` waiting. Returns the number of commits.
    fn keep_in_flight(
        &self,
        mut queue: impl Iterator<Item = QueuedCommand<()>>,
        mut outstanding: usize,
        in_flight: usize,
    ) -> u32 {
        let mut commits = 0;
        queue.by_ref().take(in_flight).for_each(|queued| self.send(queued));
        while outstanding > 0 {
            let outcomes = self.reported.recv().unwrap().len();
            outstanding -= outcomes;
            commits += 1;
            queue.by_ref().take(outcomes).for_each(|queued| self.send(queued));
        }
        commits
    }
}

/// Returns a document of about 600 bytes.
fn document() -> Value {
    let readings: Map<_, _> = (0..20).map(|i| (format!("reading-{i}"), json!(31 + i * 1000))).collect();
    json!({
        "desired": {"target": 21.5, "mode": "heat", "schedule": [6, 8, 17, 22]},
        "reported": {"temperature": 20.25, "humidity": 41, "mode": "heat", "firmware": "1.4.2", "rssi": -61, "log": readings}
    })
}

fn update(state: &Value) -> Update {
    let patch = |section: &str| match state.get(section) {
        Some(Value::Object(members)) => SectionPatch::Merge(members.clone()),
        _ => SectionPatch::Keep,
    };
    Update { desired: patch("desired"), reported: patch("reported"), ..Update::default() }
}

/// Returns the CPU time of the threads named `name`, or of all: more reliable than the clock on a busy machine.
fn cpu_seconds(name: &str) -> f64 {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let counted = threads
        .filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|it| name.is_empty() || it.trim() == name));
    let nanoseconds = counted.map(|thread| {
        let schedule = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        schedule.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Returns the bytes that this process has caused to be written to the disk.
fn bytes_written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap()
}

/// Returns a number that is spread over the whole range and the same in every run.
fn scattered(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
