//! Benchmarks of a decision. Run by hand: `cargo test --release --lib speed -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{after, decided, thermostat, update, written};
use crate::shadow::{
    Command, Decision, DocumentLimits, FirstOutcome, IdempotencyKey, Keyed, OnConflict, Patch, Rejection, Remembered,
    RememberedKey, Update, Version,
    command::{Expectation, Expected},
    patch::{LEVELS_MAX, OPERATIONS_MAX},
};

#[test]
#[ignore = "a measurement"]
fn a_decision() {
    let mut document = written(&[thermostat()]);
    println!("{} bytes, {} leaves", document.state_bytes(), document.leaves());
    let commands: Vec<Command> = (0..64)
        .map(|n| {
            Command::Update(update(json!({"reported": {
                "temperature": 20.0 + f64::from(n) / 16.0, "humidity": 40 + n % 7, "rssi": -60 - n % 5, "uptime": 864_000 + n,
                "battery": 87 - n % 2,
            }})))
        })
        .collect();
    let limits = DocumentLimits::default();
    for _ in 0..3 {
        let (rounds, start) = (200_000, Instant::now());
        for command in commands.iter().cycle().take(rounds) {
            if let Decision::Changed { document: next, .. } = decided(&document, command, &limits).unwrap() {
                document = next;
            }
        }
        println!("decide and apply: {} ns", start.elapsed().as_nanos() / rounds as u128);
    }
    variants(&document, &commands);
    document = after(&document, &Command::Update(update(json!({"desired": {"target": 19}}))));
    let start = Instant::now();
    let total: usize =
        (0..200_000).map(|_| crate::shadow::document::delta::delta(&document).map_or(0, |delta| delta.len())).sum();
    println!("delta: {} ns ({total})", start.elapsed().as_nanos() / 200_000);
}

/// Measures the same updates under conditions. Each is decided against the document left by the one before. A rebased
/// update expects the version before that; a keyed one is also stored, as the store does it.
fn variants(document: &crate::shadow::Document, commands: &[Command]) {
    let limits = DocumentLimits::default();
    let updates: Vec<Update> = commands
        .iter()
        .filter_map(|command| match command {
            Command::Update(update) => Some(update.clone()),
            Command::Delete(_) | Command::Patch(_) => None,
        })
        .collect();
    let expect = Expectation { path: super::pointer("/desired/mode"), holds: Expected::Value(json!("heat")) };
    for variant in ["none", "version", "etag", "expect", "rebase", "keyed", "dry run"] {
        let (rounds, mut now, mut remembered) = (100_000, document.clone(), Remembered::default());
        let (mut spent, start) = (std::time::Duration::ZERO, Instant::now());
        for (round, update) in updates.iter().cycle().take(rounds).enumerate() {
            let mut update = update.clone();
            let before = Version(now.version.0 - 1);
            let preconditions = &mut update.preconditions;
            match variant {
                "version" => preconditions.version = Some(now.version),
                "etag" => preconditions.etag = Some(now.etag.to_string().as_str().into()),
                "expect" => preconditions.expect = vec![expect.clone()],
                // Fields that no other command writes.
                "rebase" => {
                    preconditions.version = Some(before);
                    preconditions.on_conflict = OnConflict::Rebase;
                    let section = if round % 2 == 0 { "tags" } else { "desired" };
                    update = Update {
                        preconditions: preconditions.clone(),
                        ..super::update(
                            json!({section: {"a": round, "b": round + 1, "c": round, "d": round, "e": round}}),
                        )
                    };
                }
                "keyed" => {
                    let key = IdempotencyKey::new(&format!("key-{round}")).unwrap();
                    update.keyed = Some(Keyed::update(key, &update));
                }
                "dry run" => update.dry_run = true,
                _ => {}
            }
            let command = Command::Update(update);
            let begun = Instant::now();
            if let Some(Keyed { key, digest }) = command.keyed().cloned() {
                assert!(remembered.find("tester", &key, now.timestamp).is_none());
                let first = FirstOutcome {
                    digest,
                    version: now.version,
                    timestamp: now.timestamp,
                    etag: now.etag,
                    etag_is_own: true,
                    changed: true,
                    created: false,
                    rebased_from: None,
                };
                remembered =
                    remembered.with(RememberedKey { by: "tester".into(), key, decided: now.timestamp, first }).unwrap();
            }
            if let Decision::Changed { document: next, .. } = decided(&now, &command, &limits).unwrap() {
                now = next;
            }
            spent += begun.elapsed();
        }
        println!(
            "decide and apply, {variant}: {} ns (with making the request {})",
            spent.as_nanos() / rounds as u128,
            start.elapsed().as_nanos() / rounds as u128
        );
    }
}

/// Compares with the crate that is the oracle of the other tests.
#[test]
#[ignore = "a measurement"]
fn a_canonical_form() {
    let (rounds, state) = (100_000, thermostat());
    let start = Instant::now();
    for _ in 0..rounds {
        let mut out = Vec::with_capacity(1024);
        crate::shadow::document::canonical::write_value(&mut out, &state);
        assert!(out.len() > 500);
    }
    println!("canonical form: {} ns", start.elapsed().as_nanos() / rounds);
    let start = Instant::now();
    for _ in 0..rounds {
        assert!(serde_json_canonicalizer::to_vec(&state).unwrap().len() > 500);
    }
    println!("by serde_json_canonicalizer: {} ns", start.elapsed().as_nanos() / rounds);
}

/// Measures the patches that occupy the writer thread longest, and updates for comparison.
#[test]
#[ignore = "a measurement"]
fn a_patch() {
    let (current, limits) = (written(&[thermostat()]), DocumentLimits::default());
    let add = |path: &str, value: &Value| json!({"op": "add", "path": path, "value": value});
    let (zeros, empties) = (json!(vec![0; 3000]), json!(vec![json!([]); 3000]));
    let insertions = vec![add("/desired/l/0", &json!(1)); OPERATIONS_MAX - 1];
    let nested = (0..7).fold(json!({}), |inner, _| json!({ "a": inner }));
    let place = |n: usize| format!("/desired{}/l", "/a".repeat(n % 8));
    let moves = (0..OPERATIONS_MAX - 2).map(|n| json!({"op": "move", "from": place(n), "path": place(n + 1)}));
    let stairs = [vec![add("/desired/l", &empties), add("/desired/a", &nested)], moves.collect()].concat();
    let far = |n: usize| format!("/desired{}/{n}", "/a".repeat(LEVELS_MAX - 2));
    let ladder = (0..LEVELS_MAX - 2).step_by(7).map(|n| add(&format!("/desired{}", "/a".repeat(n + 1)), &nested));
    let mut long: Vec<_> = ladder.chain([add(&far(0), &json!(1))]).collect();
    let rest = OPERATIONS_MAX - long.len();
    long.extend((0..rest).map(|n| json!({"op": "move", "from": far(n), "path": far(n + 1)})));
    for (label, command) in [
        ("an append", patch(json!([add("/reported/errors/-", &json!(1))]))),
        ("insertions into a long list", patch([vec![add("/desired/l", &zeros)], insertions].concat().into())),
        ("a long list up and down stairs", patch(stairs.into())),
        ("long paths", patch(long.into())),
        ("one long list", patch(json!([add("/desired/l", &empties)]))),
        ("the largest update", Command::Update(update(json!({"desired": {"l": vec![json!([]); 40_000]}})))),
    ] {
        measure(label, || decided(&current, &command, &limits).map(|_| ()));
    }
    let member = |n: usize, value: Value| (format!("{n:03}"), value);
    let full: Map<_, _> = (0..1000).map(|n| member(n, json!(1))).collect();
    let removals: Map<_, _> = (1..1000).map(|n| member(n, Value::Null)).collect();
    let (current, removal) = (written(&[json!({ "desired": full })]), update(json!({ "desired": removals })));
    measure("removals of nearly all", || decided(&current, &Command::Update(removal.clone()), &limits).map(|_| ()));
}

fn measure(label: &str, decide: impl Fn() -> Result<(), Rejection>) {
    let (rounds, start) = (20, Instant::now());
    let outcome = (0..rounds).map(|_| decide()).last();
    let outcome = outcome.map(|result| result.map_err(|rejection| rejection.error()));
    println!("{label}: {} us, {outcome:?}", start.elapsed().as_micros() / rounds);
}

fn patch(json: Value) -> Command {
    Command::Patch(Patch { operations: super::json_patch::operations(json), ..Patch::default() })
}
