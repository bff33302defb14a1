//! Benchmarks of the quotas. Run by hand: `cargo test --release --lib quota::speed -- --ignored --nocapture`.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::admission::{Quotas, Rate};
use crate::{
    config::Limits,
    shadow::{DeviceId, ShadowKey},
};

const ROUNDS: usize = 300;

/// Measures requests of many devices in turn. The best of many rounds counts, since the others include other load of
/// the machine.
#[test]
#[ignore = "a measurement"]
fn a_request_of_each_device() {
    for devices in [1_000, 15_000] {
        let limits = Limits { requests: Rate::new(1_000_000, 1_000_000), ..Limits::default() };
        let quotas = Quotas::new(&limits);
        let devices: Vec<(Arc<str>, ShadowKey)> = (0..devices).map(device).collect();
        let held: Vec<_> = devices.iter().map(|(name, _)| quotas.principals.of(name, Instant::now())).collect();
        let request = best(|| devices.iter().for_each(|(name, key)| drop(quotas.admit(name, key, Instant::now()))));
        let write = best(|| devices.iter().for_each(|(_, key)| drop(quotas.admit_write(key, Instant::now()))));
        let bytes = best(|| held.iter().for_each(|held| _ = black_box(held.received(300, Instant::now()))));
        let each = [request, write, bytes].map(|round| round.as_nanos() / devices.len() as u128);
        println!(
            "{} devices: a request {} ns, a write {} ns, some bytes {} ns",
            devices.len(),
            each[0],
            each[1],
            each[2]
        );
    }
}

fn device(number: usize) -> (Arc<str>, ShadowKey) {
    let id = format!("device-{number:05}");
    (Arc::from(format!("anonymous/{id}")), ShadowKey::classic(DeviceId::new(&id).expect("a valid id")))
}

fn best(round: impl Fn()) -> Duration {
    let timed = || {
        let start = Instant::now();
        round();
        start.elapsed()
    };
    (0..ROUNDS).map(|_| timed()).min().unwrap_or_default()
}
