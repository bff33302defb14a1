//! Benchmarks of the quotas: the time of each count, over requests of many devices in turn. Prints the best of many
//! rounds, since the others include other load of the machine.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use umbrad::{
    admission::{Charge, Quotas},
    config::{Limits, RoleLimits},
    rate::Rate,
    shadow::{DeviceId, ShadowKey},
};

const ROUNDS: usize = 300;

fn main() {
    for devices in [1_000, 15_000] {
        let limits = Limits { requests: Rate::new(1_000_000, 1_000_000), ..Limits::default() };
        let quotas = Quotas::new(&limits);
        let devices: Vec<(Arc<str>, ShadowKey)> = (0..devices).map(device).collect();
        let of = |name| quotas.principals.of(name, &RoleLimits::UNLIMITED, Instant::now());
        let principals: Vec<_> = devices.iter().map(|(name, key)| (of(name), key)).collect();
        let request = best(|| principals.iter().for_each(|(own, key)| drop(quotas.admit(own, key, Instant::now()))));
        let work = best(|| principals.iter().for_each(|(own, _)| _ = black_box(own.charge_work(3, Instant::now()))));
        let memory = best(|| principals.iter().for_each(|(own, _)| drop(Charge::new(own.clone(), 4_096))));
        let count = devices.len();
        let [request, work, memory] = [request, work, memory].map(|round| round.as_nanos() / count as u128);
        println!("{count} devices: request {request} ns, work {work} ns, memory charged and released {memory} ns");
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
