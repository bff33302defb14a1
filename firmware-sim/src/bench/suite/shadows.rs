//! Workloads of many shadows, and of one that many write to.

use std::time::Instant;

use anyhow::Context;

use super::{Suite, cpu_us, failed, names::*};
use crate::bench::{
    load::{
        gateways::{GatewayLoad, Gateways},
        visitor,
    },
    report::{Metric, Round, round},
    servers::Peer,
};

/// Random updates of few shadows and of many, by the same connections; then a kill at full load.
pub(super) fn cold(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let all = suite.args.shadows as usize;
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad()?;
        let (warm, _) = random_updates(suite, &peer, WARM_SHADOWS.min(all)).with_context(|| failed(&peer, UMBRAD))?;
        suite.record(COLD, UMBRAD, WARM_LOAD, warm);
        drop(peer);
        let mut peer = suite.servers.start_umbrad()?;
        let (mut round, running) = random_updates(suite, &peer, all).with_context(|| failed(&peer, UMBRAD))?;
        // All updates are in flight while it is killed.
        let killed = Instant::now();
        peer.restart(true)?;
        drop(running);
        visitor::update_once(peer.address, 0).with_context(|| failed(&peer, UMBRAD))?;
        round.extend([(Metric::StartSeconds, killed.elapsed().as_secs_f64())]);
        suite.record(COLD, UMBRAD, COLD_LOAD, round);
    }
    Ok(())
}

/// Fills a server and updates random shadows. Returns the connections with their updates in flight.
fn random_updates(suite: &Suite<'_>, peer: &Peer, shadows: usize) -> anyhow::Result<(Round, Gateways)> {
    let mut gateways = Gateways::connect(gateways(suite, peer, shadows)?)?;
    let filled = gateways.fill()?;
    // The shadows were created in the order of their keys, and random ones cost more to write.
    let steady = (shadows as u64 / 2).min(STEADY_UPDATES);
    gateways.warm_up_for(steady)?;
    // Over a whole pass of the server, since parts of it cost more than others.
    let before = peer.written_bytes()?;
    let updates = gateways.warm_up_for(steady)?;
    let written = (peer.written_bytes()? - before) as f64 / updates.max(1) as f64;
    let cpu = peer.cpu_time()?;
    let measured = gateways.measure()?;
    let cpu = peer.cpu_time()? - cpu;
    let mut round = round(Metric::UpdatesPerSecond, &measured);
    round.extend([
        (Metric::Shadows, shadows as f64),
        (Metric::FillPerSecond, filled.per_second),
        (Metric::WrittenBytes, written),
        (Metric::MemoryMb, peer.resident_bytes()? as f64 / 1e6),
        (Metric::ServerCpuUs, cpu_us(cpu, measured.requests)),
    ]);
    Ok((round, gateways))
}

/// Many writers of one shadow.
pub(super) fn contention(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad()?;
        let writers = suite.clients(WRITERS);
        let load = GatewayLoad { connections: writers, in_flight: 1, contended: true, ..gateways(suite, &peer, 1)? };
        let run = || -> anyhow::Result<Round> {
            let mut gateways = Gateways::connect(load)?;
            gateways.fill()?;
            let contention = gateways.contend()?;
            let mut round = round(Metric::UpdatesPerSecond, &contention.measured);
            round.extend([(Metric::Clients, writers as f64), (Metric::Attempts, contention.attempts)]);
            Ok(round)
        };
        let round = run().with_context(|| failed(&peer, UMBRAD))?;
        suite.record(CONTENTION, UMBRAD, "", round);
    }
    Ok(())
}

/// Returns the load of connections that act for many devices.
pub(super) fn gateways(suite: &Suite<'_>, peer: &Peer, shadows: usize) -> anyhow::Result<GatewayLoad> {
    let connections = suite.clients(CONNECTIONS);
    Ok(GatewayLoad {
        broker: peer.address,
        connections,
        in_flight: IN_FLIGHT.min((shadows / connections).max(1)),
        shadows,
        reads: 0.0,
        contended: false,
        phases: suite.phases()?,
        stop: suite.stop.clone(),
    })
}

const WARM_SHADOWS: usize = 10_000;
/// Random updates in which the server writes every dirty document once.
const STEADY_UPDATES: u64 = 300_000;
const CONNECTIONS: usize = 100;
const IN_FLIGHT: usize = 16;
const WRITERS: usize = 64;
