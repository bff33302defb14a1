//! Workloads of other clients: dashboards, devices that connect again, and HTTP.

use std::thread;

use anyhow::{Context, anyhow};

use super::{Suite, failed, names::*, shadows::gateways};
use crate::bench::{
    load::{
        dashboards::{DashboardLoad, Dashboards},
        devices::Generator,
        event_loop::Measured,
        gateways::{GatewayLoad, Gateways},
        readers::EventReaders,
        web::{WebClients, WebLoad, WebMix},
    },
    report::{Metric, Round, round},
    servers::Peer,
};

/// Updates of all devices to many dashboards.
pub(super) fn fan_out(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad()?;
        let dashboards = suite.clients(DASHBOARDS);
        let load = DashboardLoad {
            broker: peer.address,
            dashboards,
            devices: UPDATES_IN_FLIGHT,
            phases: suite.phases()?,
            stop: suite.stop.clone(),
        };
        let run = Dashboards::connect(load).and_then(Dashboards::run);
        let (deliveries, measured) = run.with_context(|| failed(&peer, UMBRAD))?;
        let mut round = round(Metric::UpdatesPerSecond, &measured);
        round.remove(&Metric::UpdatesPerSecond);
        round.extend([(Metric::Clients, dashboards as f64), (Metric::DeliveriesPerSecond, deliveries)]);
        suite.record(FAN_OUT, UMBRAD, "", round);
    }
    Ok(())
}

/// Idle devices that lose their connections and connect again at once.
pub(super) fn storm(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad()?;
        let load = suite.load(&peer, STORM_DEVICES)?;
        let run = || -> anyhow::Result<Round> {
            let (devices, before) = (load.devices as f64, peer.settled_bytes()?);
            let mut generator = Generator::connect(load)?;
            let growth = peer.settled_bytes()?.saturating_sub(before);
            generator.first_reports()?;
            let storm = generator.storm()?;
            Ok(Round::from([
                (Metric::Clients, devices),
                (Metric::ServedSeconds, storm.seconds),
                (Metric::P50Ms, storm.latency_ms.p50),
                (Metric::P99Ms, storm.latency_ms.p99),
                (Metric::ConnectSeconds, generator.connect_time().as_secs_f64()),
                (Metric::ClientBytes, growth as f64 / devices),
                (Metric::Redials, storm.redials as f64),
            ]))
        };
        let round = run().with_context(|| failed(&peer, UMBRAD))?;
        suite.record(STORM, UMBRAD, "", round);
    }
    Ok(())
}

/// Reads and writes over MQTT and HTTP at the same time.
pub(super) fn mixed(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        let peer = suite.servers.start_umbrad_with_http()?;
        let shadows = MIXED_SHADOWS.min(suite.args.shadows as usize);
        let load = GatewayLoad { in_flight: MIXED_IN_FLIGHT, reads: 0.5, ..gateways(suite, &peer, shadows)? };
        let web = WebLoad { mix: WebMix::Mixed(0.5), ..web(suite, &peer, DASHBOARDS)? };
        let run = || -> anyhow::Result<(Measured, Measured)> {
            let mut gateways = Gateways::connect(load)?;
            gateways.fill()?;
            let web = WebClients::connect(web)?;
            thread::scope(|scope| {
                let web = scope.spawn(|| web.run());
                gateways.warm_up()?;
                let measured = gateways.measure()?;
                gateways.drain()?;
                Ok((measured, web.join().map_err(|_| anyhow!("the thread of HTTP panicked"))??))
            })
        };
        let (mqtt, http) = run().with_context(|| failed(&peer, UMBRAD))?;
        suite.record(MIXED, UMBRAD, "MQTT", round(Metric::RequestsPerSecond, &mqtt));
        suite.record(MIXED, UMBRAD, "HTTP", round(Metric::RequestsPerSecond, &http));
    }
    Ok(())
}

/// Reads over HTTP.
pub(super) fn reads(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        for (load, mix) in [("with a body", WebMix::Reads), ("answered by 304", WebMix::Unchanged)] {
            let peer = suite.servers.start_umbrad_with_http()?;
            let web = WebLoad { mix, ..web(suite, &peer, READERS_OVER_HTTP)? };
            let measured = WebClients::connect(web).and_then(WebClients::run).with_context(|| failed(&peer, UMBRAD))?;
            suite.record(READS, UMBRAD, load, round(Metric::RequestsPerSecond, &measured));
        }
    }
    Ok(())
}

/// Writers with and without readers of server-sent events.
pub(super) fn events(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        for (name, readers) in [(CLOSED, 0), (WITH_READERS, suite.clients(EVENT_READERS))] {
            let peer = suite.servers.start_umbrad_with_http()?;
            let load = suite.load(&peer, EVENT_WRITERS)?;
            let run = || -> anyhow::Result<Round> {
                let mut generator = Generator::connect(load)?;
                generator.first_reports()?;
                let server = peer.http.context("a listener for HTTP")?;
                let reading = (readers > 0).then(|| EventReaders::start(server, readers)).transpose()?;
                let measured = generator.closed_loop()?;
                generator.drain()?;
                reading.map(EventReaders::stop).transpose()?;
                let mut round = round(Metric::UpdatesPerSecond, &measured);
                round.extend([(Metric::Clients, readers as f64)]);
                Ok(round)
            };
            let round = run().with_context(|| failed(&peer, UMBRAD))?;
            suite.record(EVENTS, UMBRAD, name, round);
        }
    }
    Ok(())
}

fn web(suite: &Suite<'_>, peer: &Peer, connections: usize) -> anyhow::Result<WebLoad> {
    Ok(WebLoad {
        server: peer.http.context("a listener for HTTP")?,
        connections: suite.clients(connections),
        // Not one of the shadows of the other clients.
        first_shadow: MIXED_SHADOWS,
        mix: WebMix::Reads,
        phases: suite.phases()?,
        stop: suite.stop.clone(),
    })
}

const DASHBOARDS: usize = 100;
const UPDATES_IN_FLIGHT: usize = 32;
const STORM_DEVICES: usize = 18_000;
const MIXED_SHADOWS: usize = 10_000;
const MIXED_IN_FLIGHT: usize = 4;
const READERS_OVER_HTTP: usize = 16;
const EVENT_READERS: usize = 1_000;
const EVENT_WRITERS: usize = 10_000;
