//! The workload of searches: their times over many shadows, and what they and an index cost writers.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{Suite, cpu_us, failed, names::*, shadows::gateways};
use crate::bench::{
    load::{
        gateways::Gateways,
        searches::{RunningSearches, Searcher},
    },
    report::{Metric, Round, round},
    servers::Peer,
};

/// Indexed paths that the updates of the load do not change.
const INDEXED: [&str; 3] = ["reported.firmware", "reported.model", "reported.network.channel"];

/// A page of the quarter of the devices with the oldest firmware.
const FIRST_PAGE: &str = "/v1/search?q=reported.firmware:1.3*&limit=25";
/// All devices, none of which matches, by a path without an index.
const SCAN: &str = "/v1/search?q=reported.limits.max:%3E100&total=true&limit=25";
const TERMS: &str = "/v1/aggregate?type=terms&field=reported.firmware";

/// Requests of each kind in a round.
const FIRST_PAGES: usize = 40;
const SCANS: usize = 3;
const AGGREGATES: usize = 10;

/// The bytes of the changes that are not in the table of states.
const BACKLOG: &str = "umbra_lag_bytes";
/// The longest wait for the server to have written everything, and its index with it.
const SETTLE_DEADLINE: Duration = Duration::from_secs(120);
/// Random updates before a measurement, in which the server writes every dirty document once.
const STEADY_UPDATES: u64 = 300_000;

/// Measures searches beside writers and alone, with and without an index.
pub(super) fn search(suite: &mut Suite<'_>) -> anyhow::Result<()> {
    for _ in 0..suite.args.rounds {
        // Without an index, for the loss of writers by it; then with one.
        for indexed in [false, true] {
            let paths = if indexed { &INDEXED[..] } else { &[] };
            let peer = suite.servers.start_indexed_umbrad(paths)?;
            let rounds = measure(suite, &peer, indexed).with_context(|| failed(&peer, UMBRAD))?;
            for (load, round) in rounds {
                suite.record(SEARCH, UMBRAD, load, round);
            }
        }
    }
    Ok(())
}

fn measure(suite: &Suite<'_>, peer: &Peer, indexed: bool) -> anyhow::Result<Vec<(&'static str, Round)>> {
    let shadows = suite.args.shadows as usize;
    let server = peer.http.context("a listener for HTTP")?;
    let mut gateways = Gateways::connect(gateways(suite, peer, shadows)?)?;
    gateways.fill()?;
    gateways.drain()?;
    // All new shadows are in the index then.
    settle(server, shadows)?;
    gateways.warm_up_for((shadows as u64 / 2).min(STEADY_UPDATES))?;
    let cpu = peer.cpu_time()?;
    let alone = gateways.measure()?;
    let cpu = cpu_us(peer.cpu_time()? - cpu, alone.requests);
    let mut rounds = Vec::new();
    let mut writers = round(Metric::UpdatesPerSecond, &alone);
    writers.extend([(Metric::Shadows, shadows as f64), (Metric::ServerCpuUs, cpu)]);
    rounds.push((if indexed { INDEXED_WRITERS } else { WRITERS_ALONE }, writers));
    if !indexed {
        let searches = RunningSearches::start(server, SCAN)?;
        let measured = gateways.measure()?;
        rounds.push((WRITERS_BESIDE_SCANS, round(Metric::UpdatesPerSecond, &measured)));
        rounds.push((SCANS_BESIDE_WRITERS, of_times(&searches.stop()?)));
    }
    gateways.drain()?;
    drop(gateways);
    let mut searcher = settle(server, shadows)?;
    if indexed {
        rounds.push((FIRST_PAGES_LOAD, times(&mut searcher, FIRST_PAGE, FIRST_PAGES)?));
        rounds.push((AGGREGATES_LOAD, times(&mut searcher, TERMS, AGGREGATES)?));
    } else {
        rounds.push((SCANS_LOAD, times(&mut searcher, SCAN, SCANS)?));
    }
    Ok(rounds)
}

/// Waits until the server has written all documents to its table, and checks that it knows all devices. Returns a new
/// connection, since the server ends one without requests.
fn settle(server: SocketAddr, shadows: usize) -> anyhow::Result<Searcher> {
    let mut searcher = Searcher::connect(server)?;
    let deadline = Instant::now() + SETTLE_DEADLINE;
    while searcher.metric(BACKLOG)? > 0.0 {
        ensure!(Instant::now() < deadline, "documents wait for their flush after {SETTLE_DEADLINE:?}");
        thread::sleep(Duration::from_millis(200));
    }
    let (body, _) = searcher.get(TERMS)?;
    let devices = body.get("devices").and_then(serde_json::Value::as_u64);
    ensure!(devices == Some(shadows as u64), "an aggregate of {shadows} devices found {devices:?}");
    Ok(searcher)
}

/// Requests `path` some times, and returns the median and the longest time.
fn times(searcher: &mut Searcher, path: &str, count: usize) -> anyhow::Result<Round> {
    let times = (0..count).map(|_| searcher.get(path).map(|(_, took)| took)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(of_times(&times))
}

fn of_times(times: &[Duration]) -> Round {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    Round::from([(Metric::P50Ms, ms(sorted.get(sorted.len() / 2))), (Metric::LongestMs, ms(sorted.last()))])
}
