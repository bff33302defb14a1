//! Benchmarks of the JSON of a request and its events: time and size of each.

mod documents;

use std::time::Instant;

use serde_json::json;
use umbrad::{
    auth::Projection,
    shadow::DocumentLimits,
    wire::{Dialect, get_accepted, parse_update, update_accepted, update_delta, update_documents},
};

use documents::{created, thermostat, update};

fn main() {
    let state =
        json!({"reported": {"temperature": 20.5, "humidity": 40, "rssi": -60, "uptime": 864_000, "battery": 87}});
    let payload = json!({"state": state, "version": 7, "clientToken": "client-1-000017"}).to_string();
    let (limits, all) = (DocumentLimits::default(), Projection::ALL);
    let (document, sent) = (created(thermostat()), update(state));
    measure("parse update", || {
        assert!(parse_update(payload.as_bytes(), Dialect::Native, &limits).is_ok());
        payload.len()
    });
    measure("update/accepted", || update_accepted(&sent, true, &document, &all, None).len());
    measure("update/documents", || update_documents(&document, &document, &all, None).len());
    measure("get/accepted", || get_accepted(&document, &all, None).len());
    measure("update/delta", || update_delta(&document, &all, None).map_or(0, |delta| delta.len()));
}

fn measure(label: &str, run: impl Fn() -> usize) {
    let (rounds, start) = (100_000, Instant::now());
    let bytes: usize = (0..rounds).map(|_| run()).sum();
    println!("{label}: {} ns, {} bytes", start.elapsed().as_nanos() / rounds as u128, bytes / rounds);
}
