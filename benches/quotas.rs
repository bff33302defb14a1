//! Benchmarks of the quotas: the time of each count, over requests of many devices in turn. Prints the best of many
//! rounds, since the others include other load of the machine.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use umbrad::{
    admission::Quotas,
    config::Limits,
    rate::Rate,
    shadow::{DeviceId, ShadowKey},
};

const ROUNDS: usize = 300;

fn main() {
    for devices in [1_000, 15_000] {
        let limits = Limits { requests: Rate::new(1_000_000, 1_000_000), ..Limits::default() };
        let quotas = Quotas::new(&limits);
        let devices: Vec<(Arc<str>, ShadowKey)> = (0..devices).map(device).collect();
        let principals: Vec<_> = devices.iter().map(|(name, _)| quotas.principals.of(name, Instant::now())).collect();
        let request = best(|| devices.iter().for_each(|(name, key)| drop(quotas.admit(name, key, Instant::now()))));
        let write = best(|| devices.iter().for_each(|(_, key)| drop(quotas.admit_write(key, Instant::now()))));
        let bytes = best(|| principals.iter().for_each(|quota| _ = black_box(quota.received(300, Instant::now()))));
        let count = devices.len();
        let [request, write, bytes] = [request, write, bytes].map(|round| round.as_nanos() / count as u128);
        println!("{count} devices: request {request} ns, write {write} ns, received bytes {bytes} ns");
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
