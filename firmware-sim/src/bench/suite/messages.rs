//! Workloads of ordinary messages and persistent sessions.

use anyhow::Context;

use super::{Suite, cpu_us, failed, names::*};
use crate::bench::{
    load::{
        pairs::{Deliveries, DeliveryLoad},
        visitor::Visits,
    },
    report::{Metric, Round, round},
    servers::{Peer, PeerName},
};

/// Publishers and persistent subscribers, at QoS 1.
pub(super) fn messages(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad()?;
        deliver(suite, &peer, UMBRAD)?;
        drop(peer);
        if suite.servers.has(PeerName::Mosquitto) {
            let peer = suite.servers.start_persistent_mosquitto()?;
            deliver(suite, &peer, MOSQUITTO_PERSISTENT)?;
        }
        if suite.servers.has(PeerName::Nats) {
            let peer = suite.servers.start_nats_mqtt()?;
            deliver(suite, &peer, NATS_MQTT)?;
        }
    }
    Ok(())
}

fn deliver(suite: &mut Suite<'_>, peer: &Peer, name: &str) -> anyhow::Result<()> {
    let load = DeliveryLoad {
        broker: peer.address,
        pairs: suite.clients(PAIRS),
        window: WINDOW,
        payload_bytes: PAYLOAD_BYTES,
        phases: suite.phases()?,
        stop: suite.stop.clone(),
    };
    let pairs = load.pairs;
    let run = || -> anyhow::Result<Round> {
        let (deliveries, before) = (Deliveries::connect(load)?, peer.cpu_time()?);
        let (measured, messages) = deliveries.run()?;
        let mut round = round(Metric::MessagesPerSecond, &measured);
        let cpu = cpu_us(peer.cpu_time()? - before, messages);
        round.extend([(Metric::Clients, 2.0 * pairs as f64), (Metric::ServerCpuUs, cpu)]);
        Ok(round)
    };
    let round = run().with_context(|| failed(peer, name))?;
    suite.record(MESSAGES, name, "", round);
    Ok(())
}

/// The memory of persistent sessions, and a start with many. Once: the numbers hardly differ between rounds.
pub(super) fn sessions(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    memory(suite, CONNECTED, Visits::connect)?;
    memory(suite, DISCONNECTED, Visits::leave)?;
    start(suite)
}

/// Measures the growth of memory per session that `make` makes.
fn memory<T>(suite: &mut Suite<'_>, load: &str, make: impl Fn(&Visits) -> anyhow::Result<T>) -> anyhow::Result<()> {
    let (peer, sessions) = (suite.servers.start_umbrad()?, suite.clients(MEMORY_SESSIONS));
    crate::bench::limits::raise_open_files(sessions)?;
    let before = peer.settled_bytes()?;
    let made = make(&visits(suite, &peer, sessions)).with_context(|| failed(&peer, UMBRAD))?;
    let growth = peer.settled_bytes()?.saturating_sub(before);
    drop(made);
    let bytes = growth as f64 / sessions as f64;
    let round = Round::from([(Metric::Clients, sessions as f64), (Metric::ClientBytes, bytes)]);
    suite.record(SESSIONS, UMBRAD, load, round);
    Ok(())
}

/// Measures starts after a stop, and after a kill.
fn start(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let (mut peer, sessions) = (suite.servers.start_umbrad()?, suite.clients(STORED_SESSIONS));
    let visits = visits(suite, &peer, sessions);
    visits.leave().with_context(|| failed(&peer, UMBRAD))?;
    visits.publish(QUEUED, PAYLOAD_BYTES).with_context(|| failed(&peer, UMBRAD))?;
    for (load, kill) in [(STOPPED, false), (KILLED, true)] {
        let seconds = peer.restart(kill)?.as_secs_f64();
        let round = Round::from([(Metric::Clients, sessions as f64), (Metric::StartSeconds, seconds)]);
        suite.record(SESSIONS, UMBRAD, load, round);
    }
    Ok(())
}

fn visits(suite: &Suite<'_>, peer: &Peer, sessions: usize) -> Visits {
    Visits { broker: peer.address, sessions, stop: suite.stop.clone() }
}

const PAIRS: usize = 200;
/// Messages of each publisher that are not finished, at most.
const WINDOW: u64 = 10;
const PAYLOAD_BYTES: usize = 100;
const MEMORY_SESSIONS: usize = 10_000;
const STORED_SESSIONS: usize = 100_000;
/// Messages queued for each of them.
const QUEUED: usize = 10;
