//! Benchmarks of parsing and rendering. Run by hand: `cargo test --release --lib speed -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::json;

use crate::{
    auth::Projection,
    shadow::{
        DocumentLimits,
        tests::{thermostat, update, written},
    },
    wire::{Dialect, native, parse_update},
};

#[test]
#[ignore = "a measurement"]
fn envelopes() {
    let state =
        json!({"reported": {"temperature": 20.5, "humidity": 40, "rssi": -60, "uptime": 864_000, "battery": 87}});
    let payload = json!({"state": state, "version": 7, "clientToken": "client-1-000017"}).to_string();
    let limits = DocumentLimits::default();
    let (document, sent) = (written(&[thermostat()]), update(state));
    time("parse", || parse_update(payload.as_bytes(), Dialect::Native, &limits).is_ok().into());
    time("accepted", || native::update_accepted(&sent, true, &document, &Projection::ALL, None).len());
    time("documents", || native::update_documents(&document, &document, &Projection::ALL, None).len());
    time("get", || native::get_accepted(&document, &Projection::ALL, None).len());
    time("delta", || native::update_delta(&document, &Projection::ALL, None).map_or(0, |delta| delta.len()));
}

fn time(what: &str, run: impl Fn() -> usize) {
    let (rounds, start) = (100_000, Instant::now());
    let bytes: usize = (0..rounds).map(|_| run()).sum();
    println!("{what}: {} ns, {} bytes", start.elapsed().as_nanos() / rounds as u128, bytes / rounds);
}
