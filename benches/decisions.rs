//! Benchmarks of the pure core: the time of one decision, in nanoseconds, and of long patches, in microseconds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a benchmark")]

mod documents;

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use umbrad::{
    shadow::{
        Command, Decision, Document, DocumentLimits, FirstOutcome, IdempotencyKey, Keyed, OnConflict, Patch, Pointer,
        Remembered, RememberedKey, Update, Version,
        command::{Expectation, Expected},
        patch::{LEVELS_MAX, OPERATIONS_MAX},
        pointer::SectionName,
    },
    wire,
};

use documents::{created, decided, thermostat, update};

const PRECONDITIONS: [&str; 7] = ["none", "version", "etag", "expect", "rebase", "keyed", "dry run"];

fn main() {
    let document = updates();
    preconditions(&document);
    patches();
}

/// Measures updates without preconditions. Returns the last document.
fn updates() -> Document {
    let (mut document, limits) = (created(thermostat()), DocumentLimits::default());
    println!("document: {} bytes, {} leaves", document.state_bytes(), document.leaves());
    let commands: Vec<_> = measurements().into_iter().map(Command::Update).collect();
    for _ in 0..3 {
        let (rounds, start) = (200_000, Instant::now());
        for command in commands.iter().cycle().take(rounds) {
            if let Decision::Changed { document: next, .. } = decided(&document, command, &limits).unwrap() {
                document = next;
            }
        }
        println!("decide and apply: {} ns", each(start.elapsed(), rounds));
    }
    document
}

/// Returns updates that report five values.
fn measurements() -> Vec<Update> {
    let state = |n: i32| {
        json!({"reported": {
            "temperature": 20.0 + f64::from(n) / 16.0, "humidity": 40 + n % 7, "rssi": -60 - n % 5, "uptime": 864_000 + n,
            "battery": 87 - n % 2,
        }})
    };
    (0..64).map(|n| update(state(n))).collect()
}

/// Measures the same updates under each precondition. Each is decided against the document left by the one before. A
/// rebased update expects the version before that. A keyed one is also remembered, as the store does it.
fn preconditions(document: &Document) {
    let (limits, updates) = (DocumentLimits::default(), measurements());
    for precondition in PRECONDITIONS {
        let (rounds, mut now, mut remembered) = (100_000, document.clone(), Remembered::default());
        let (mut spent, start) = (Duration::ZERO, Instant::now());
        for (round, update) in updates.iter().cycle().take(rounds).enumerate() {
            let command = Command::Update(conditional(update, precondition, &now, round));
            let begun = Instant::now();
            if let Some(keyed) = command.keyed() {
                remembered = remember(&remembered, keyed, &now);
            }
            if let Decision::Changed { document: next, .. } = decided(&now, &command, &limits).unwrap() {
                now = next;
            }
            spent += begun.elapsed();
        }
        let (spent, all) = (each(spent, rounds), each(start.elapsed(), rounds));
        println!("decide and apply, {precondition}: {spent} ns ({all} ns with making the update)");
    }
}

fn conditional(update: &Update, precondition: &str, now: &Document, round: usize) -> Update {
    let mut update = update.clone();
    let preconditions = &mut update.preconditions;
    match precondition {
        "version" => preconditions.version = Some(now.version),
        "etag" => preconditions.etag = Some(now.etag.to_string().as_str().into()),
        "expect" => {
            let path = Pointer { section: SectionName::Desired, keys: ["mode".into()].into() };
            preconditions.expect = vec![Expectation { path, holds: Expected::Value(json!("heat")) }];
        }
        // Two sections in turn, so that no update collides with the one before.
        "rebase" => {
            let section = if round.is_multiple_of(2) { "tags" } else { "desired" };
            let state = json!({section: {"a": round, "b": round + 1, "c": round, "d": round, "e": round}});
            update = documents::update(state);
            update.preconditions.version = Some(Version(now.version.0 - 1));
            update.preconditions.on_conflict = OnConflict::Rebase;
        }
        "keyed" => {
            let key = IdempotencyKey::new(&format!("key-{round}")).unwrap();
            update.keyed = Some(Keyed::update(key, &update));
        }
        "dry run" => update.dry_run = true,
        _ => {}
    }
    update
}

fn remember(remembered: &Remembered, keyed: &Keyed, now: &Document) -> Remembered {
    assert!(remembered.find("tester", &keyed.key, now.timestamp).is_none());
    let first = FirstOutcome {
        digest: keyed.digest,
        version: now.version,
        timestamp: now.timestamp,
        etag: now.etag,
        etag_is_own: true,
        changed: true,
        created: false,
        rebased_from: None,
    };
    let key = RememberedKey { by: "tester".into(), key: keyed.key.clone(), decided: now.timestamp, first };
    remembered.with(key).unwrap()
}

/// Measures the patches that occupy the writer thread longest, and updates for comparison.
fn patches() {
    let current = created(thermostat());
    let add = |path: &str, value: &Value| json!({"op": "add", "path": path, "value": value});
    let (zeros, empties) = (json!(vec![0; 3000]), json!(vec![json!([]); 3000]));
    let insertions = vec![add("/desired/l/0", &json!(1)); OPERATIONS_MAX - 1];
    let nested = (0..7).fold(json!({}), |inner, _| json!({ "a": inner }));
    let list = |n: usize| format!("/desired{}/l", "/a".repeat(n % 8));
    let moves = (0..OPERATIONS_MAX - 2).map(|n| json!({"op": "move", "from": list(n), "path": list(n + 1)}));
    let moved = [vec![add("/desired/l", &empties), add("/desired/a", &nested)], moves.collect()].concat();
    let deep = |n: usize| format!("/desired{}/{n}", "/a".repeat(LEVELS_MAX - 2));
    let levels = (0..LEVELS_MAX - 2).step_by(7).map(|n| add(&format!("/desired{}", "/a".repeat(n + 1)), &nested));
    let mut long: Vec<_> = levels.chain([add(&deep(0), &json!(1))]).collect();
    let rest = OPERATIONS_MAX - long.len();
    long.extend((0..rest).map(|n| json!({"op": "move", "from": deep(n), "path": deep(n + 1)})));
    for (label, command) in [
        ("patch, one append", patch(json!([add("/reported/errors/-", &json!(1))]))),
        ("patch, insertions into a long list", patch([vec![add("/desired/l", &zeros)], insertions].concat().into())),
        ("patch, a long list moved through all levels", patch(moved.into())),
        ("patch, moves with long paths", patch(long.into())),
        ("patch, one long list", patch(json!([add("/desired/l", &empties)]))),
        ("the largest update", Command::Update(update(json!({"desired": {"l": vec![json!([]); 40_000]}})))),
    ] {
        measure(label, &current, &command);
    }
    let member = |n: usize, value: Value| (format!("{n:03}"), value);
    let full: Map<_, _> = (0..1000).map(|n| member(n, json!(1))).collect();
    let removals: Map<_, _> = (1..1000).map(|n| member(n, Value::Null)).collect();
    let removal = Command::Update(update(json!({ "desired": removals })));
    measure("update, removal of nearly all members", &created(json!({ "desired": full })), &removal);
}

fn patch(json: Value) -> Command {
    Command::Patch(Patch { operations: wire::json_patch(json).unwrap(), ..Patch::default() })
}

fn measure(label: &str, current: &Document, command: &Command) {
    let (rounds, limits, start) = (20, DocumentLimits::default(), Instant::now());
    let mut outcome = "";
    for _ in 0..rounds {
        outcome = decided(current, command, &limits).map_or_else(|rejection| rejection.error(), |_| "accepted");
    }
    println!("{label}: {} µs, {outcome}", each(start.elapsed(), rounds) / 1000);
}

/// Returns nanoseconds per round.
fn each(spent: Duration, rounds: usize) -> u128 {
    spent.as_nanos() / rounds as u128
}
