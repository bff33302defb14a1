//! How long a decision takes. Run by hand: `cargo test --release --lib speed -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::json;

use super::{after, decided, thermostat, update, written};
use crate::shadow::{Command, Decision, DocumentLimits};

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
    document = after(&document, &Command::Update(update(json!({"desired": {"target": 19}}))));
    let start = Instant::now();
    let total: usize =
        (0..200_000).map(|_| crate::shadow::delta::delta(&document).map_or(0, |delta| delta.len())).sum();
    println!("delta: {} ns ({total})", start.elapsed().as_nanos() / 200_000);
}

/// Against the crate that is the oracle of the other tests.
#[test]
#[ignore = "a measurement"]
fn a_canonical_form() {
    let (rounds, state) = (100_000, thermostat());
    let start = Instant::now();
    for _ in 0..rounds {
        let mut out = Vec::with_capacity(1024);
        crate::shadow::canonical::write_value(&mut out, &state);
        assert!(out.len() > 500);
    }
    println!("canonical form: {} ns", start.elapsed().as_nanos() / rounds);
    let start = Instant::now();
    for _ in 0..rounds {
        assert!(serde_json_canonicalizer::to_vec(&state).unwrap().len() > 500);
    }
    println!("by serde_json_canonicalizer: {} ns", start.elapsed().as_nanos() / rounds);
}
