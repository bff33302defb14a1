//! Workloads of devices with a connection each.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};

use super::{Suite, cpu_us, failed, names::*, sync_probe};
use crate::bench::{
    load::{
        devices::{Generator, Load},
        event_loop::Measured,
        keys::{KeyLoad, KeyWriters},
        message::UpdateKind,
    },
    report::{Metric, Round, round},
    servers::{Peer, PeerName},
};

/// 1,000 devices: umbrad in a closed and an open loop and with its store in memory, the peers, and the disk.
pub(super) fn hot(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        disk(suite)?;
        let answer_bytes = closed_and_open_loop(suite)?;
        let qos = suite.args.load.event_qos;
        if suite.servers.has(PeerName::Mosquitto) {
            let peer = suite.servers.start_mosquitto(answer_bytes, qos)?;
            echo(suite, &peer, MOSQUITTO, answer_bytes)?;
        }
        if suite.servers.has(PeerName::Postgres) {
            let peer = suite.servers.start_postgres(answer_bytes, qos)?;
            echo(suite, &peer, POSTGRES, answer_bytes)?;
        }
        if suite.servers.has(PeerName::Nats) {
            keys(suite)?;
        }
        in_memory(suite)?;
    }
    Ok(())
}

/// A number of devices in a closed loop.
pub(super) fn sized(suite: &mut Suite<'_>, workload: &str, devices: usize) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad()?;
        let load = suite.load(&peer, devices)?;
        let (round, _) = closed_loop(&peer, UMBRAD, load)?;
        suite.record(workload, UMBRAD, CLOSED, round);
    }
    Ok(())
}

/// 1,000 devices for each kind of update.
pub(super) fn kinds(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let kinds = [UpdateKind::Unconditional, UpdateKind::Conditional, UpdateKind::Rebase, UpdateKind::Keyed];
    for _ in 0..suite.args.rounds {
        for kind in kinds {
            let peer = suite.servers.start_umbrad()?;
            let load = Load { kind, ..suite.load(&peer, HOT_DEVICES)? };
            let (round, _) = closed_loop(&peer, UMBRAD, load)?;
            suite.record(KINDS, UMBRAD, kind.name(), round);
        }
    }
    Ok(())
}

/// 5,000 devices that connect and update, in the time from the first CONNECT; next to stock rumqttd.
pub(super) fn ramp_up(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let time = Duration::try_from_secs_f64(suite.args.ramp_up_seconds).context("--ramp-up-seconds")?;
    // A round takes minutes, and the ratio is large.
    for _ in 0..suite.args.rounds.min(RAMP_UP_ROUNDS_MAX) {
        let mut servers = vec![(UMBRAD, suite.servers.start_umbrad()?)];
        if suite.servers.has(PeerName::Rumqttd) {
            servers.push((RUMQTTD, suite.servers.start_rumqttd(RAMP_UP_ANSWER_BYTES)?));
        }
        for (name, peer) in servers {
            let load = suite.load(&peer, RAMP_UP_DEVICES)?;
            let (updates, subscribed, redials) = Generator::ramp_up(load, time).with_context(|| failed(&peer, name))?;
            let rate = updates as f64 / time.as_secs_f64();
            let round = Round::from([
                (Metric::UpdatesPerSecond, rate),
                (Metric::Clients, subscribed as f64),
                (Metric::Redials, redials as f64),
            ]);
            suite.record(RAMP_UP, name, "", round);
        }
    }
    Ok(())
}

fn disk(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let time = Duration::try_from_secs_f64(suite.args.seconds).context("--seconds")?.min(DISK_TIME_MAX);
    let sync = sync_probe::probe(suite.servers.directory(), time)?;
    let round = [(Metric::P50Ms, sync.p50), (Metric::P99Ms, sync.p99), (Metric::P999Ms, sync.p999)];
    suite.record(HOT, DISK, "", Round::from(round));
    Ok(())
}

/// Runs umbrad in a closed loop, and on the same connections in an open one at half the rate. Returns the bytes of an answer.
fn closed_and_open_loop(suite: &mut Suite<'_>) -> anyhow::Result<usize> {
    let peer = suite.servers.start_umbrad()?;
    let load = suite.load(&peer, HOT_DEVICES)?;
    let (clients, rate) = ((Metric::Clients, load.devices as f64), suite.args.rate);
    let run = || -> anyhow::Result<(Round, Measured, Measured)> {
        let mut generator = Generator::connect(load)?;
        generator.first_reports()?;
        let (cpu, written, before) = (peer.cpu_time()?, peer.written_bytes()?, generator.updates());
        let closed = generator.closed_loop()?;
        generator.drain()?;
        let updates = generator.updates() - before;
        let extra = Round::from([
            clients,
            (Metric::ConnectSeconds, generator.connect_time().as_secs_f64()),
            (Metric::WrittenBytes, (peer.written_bytes()? - written) as f64 / updates.max(1) as f64),
            (Metric::ServerCpuUs, cpu_us(peer.cpu_time()? - cpu, updates)),
        ]);
        let open = generator.open_loop(rate.unwrap_or((closed.per_second / 2.0).max(1.0)))?;
        Ok((extra, closed, open))
    };
    let (extra, closed, open) = run().with_context(|| failed(&peer, UMBRAD))?;
    let mut first = round(Metric::UpdatesPerSecond, &closed);
    first.extend(extra);
    suite.record(HOT, UMBRAD, CLOSED, first);
    let mut second = round(Metric::UpdatesPerSecond, &open);
    second.extend([clients]);
    suite.record(HOT, UMBRAD, OPEN, second);
    Ok(closed.answer_bytes)
}

/// Runs a broker with an engine, whose answers must be as large as umbrad's.
fn echo(suite: &mut Suite<'_>, peer: &Peer, name: &str, answer_bytes: usize) -> anyhow::Result<()> {
    let load = suite.load(peer, HOT_DEVICES)?;
    let (round, measured) = closed_loop(peer, name, load)?;
    let answered = measured.answer_bytes;
    ensure!(answered == answer_bytes, "{name} answered with {answered} bytes, not {answer_bytes}");
    suite.record(HOT, name, CLOSED, round);
    Ok(())
}

fn closed_loop(peer: &Peer, name: &str, load: Load) -> anyhow::Result<(Round, Measured)> {
    let run = || -> anyhow::Result<(Round, Measured)> {
        let (generator, before) = (Generator::connect(load)?, peer.cpu_time()?);
        let (all, updates) = generator.run()?;
        let mut round = round(Metric::UpdatesPerSecond, &all.measured);
        round.extend([
            (Metric::Clients, all.devices as f64),
            (Metric::ConnectSeconds, all.connect_seconds),
            (Metric::ServerCpuUs, cpu_us(peer.cpu_time()? - before, updates)),
        ]);
        Ok((round, all.measured))
    };
    run().with_context(|| failed(peer, name))
}

/// Runs the writers of a NATS key-value bucket.
fn keys(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let (peer, writers) = (suite.servers.start_nats_keys()?, suite.clients(HOT_DEVICES));
    let load = KeyLoad { server: peer.address, writers, phases: suite.phases()?, stop: suite.stop.clone() };
    let run = || -> anyhow::Result<Round> {
        let (clients, before) = (KeyWriters::connect(load)?, peer.cpu_time()?);
        let (measured, puts) = clients.run()?;
        let mut round = round(Metric::UpdatesPerSecond, &measured);
        let cpu = cpu_us(peer.cpu_time()? - before, puts);
        round.extend([(Metric::Clients, writers as f64), (Metric::ServerCpuUs, cpu)]);
        Ok(round)
    };
    let round = run().with_context(|| failed(&peer, NATS))?;
    suite.record(HOT, NATS, CLOSED, round);
    Ok(())
}

/// Runs umbrad with its store in memory, where a sync costs nothing.
fn in_memory(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    let memory = Path::new(MEMORY);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|mount| mount.split(' ').skip(1).take(2).eq([MEMORY, "tmpfs"])) {
        suite.omit("hot with its store in memory: /dev/shm is no tmpfs here");
        return Ok(());
    }
    let peer = suite.servers.start_umbrad_in(memory)?;
    let load = suite.load(&peer, HOT_DEVICES)?;
    let (round, _) = closed_loop(&peer, UMBRAD, load)?;
    suite.record(HOT, UMBRAD, IN_MEMORY, round);
    Ok(())
}

const HOT_DEVICES: usize = 1_000;
const RAMP_UP_DEVICES: usize = 5_000;
const RAMP_UP_ROUNDS_MAX: u32 = 1;
/// About the size of umbrad's answer, which this round does not know.
const RAMP_UP_ANSWER_BYTES: usize = 512;
const DISK_TIME_MAX: Duration = Duration::from_secs(3);
/// The file system in memory that Linux systems have.
const MEMORY: &str = "/dev/shm";
