//! The targets, for 2 cores with the generator on the same machine.

use super::{
    Metric,
    results::{Results, TargetResult},
};
use crate::bench::suite::names::*;

/// Returns the targets that the results cover.
pub(crate) fn targets(results: &Results) -> Vec<TargetResult> {
    [speed(results), growth(results), searches(results), clients(results), sessions(results)]
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

fn at_least(what: &str, reached: Option<f64>, target: f64) -> Option<TargetResult> {
    TargetResult::of(what, reached, target, true)
}

fn at_most(what: &str, reached: Option<f64>, target: f64) -> Option<TargetResult> {
    TargetResult::of(what, reached, target, false)
}

fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    Some(part? / whole.filter(|whole| *whole > 0.0)?)
}

/// Throughput next to the peers, and latency.
fn speed(all: &Results) -> Vec<Option<TargetResult>> {
    let updates =
        |workload: &str, server: &str, load: &str| all.median(workload, server, load, Metric::UpdatesPerSecond);
    let hot = updates(HOT, UMBRAD, CLOSED);
    let kind = |name: &'static str| ratio(updates(KINDS, UMBRAD, name), updates(KINDS, UMBRAD, "unconditional"));
    let ramp = |server| updates(RAMP_UP, server, "");
    let open = |metric| all.median(HOT, UMBRAD, OPEN, metric);
    let sync = all.median(HOT, DISK, "", Metric::P999Ms);
    vec![
        at_least("hot: durable updates/s", hot, 30_000.0),
        at_least(
            "hot: ratio to mosquitto with an echo, nothing stored",
            ratio(hot, updates(HOT, MOSQUITTO, CLOSED)),
            1.6,
        ),
        at_least("hot: ratio to mosquitto with PostgreSQL", ratio(hot, updates(HOT, POSTGRES, CLOSED)), 3.0),
        at_least("hot: ratio to NATS key-value compare-and-set", ratio(hot, updates(HOT, NATS, CLOSED)), 3.0),
        at_least("hot: ratio to umbrad whose syncs cost nothing", ratio(hot, updates(HOT, UMBRAD, IN_MEMORY)), 0.8),
        at_most("hot: p99 at half the rate, open loop, ms", open(Metric::P99Ms), 10.0),
        at_most(
            "hot: p99.9 at half the rate, open loop, ms",
            open(Metric::P999Ms),
            sync.map_or(40.0, |sync| (10.0 * sync).max(40.0)),
        ),
        at_most("few: median latency, ms", all.median(FEW, UMBRAD, CLOSED, Metric::P50Ms), 4.0),
        at_least("fleet: ratio to hot", ratio(updates(FLEET, UMBRAD, CLOSED), hot), 0.8),
        at_most("fleet: seconds to connect", all.median(FLEET, UMBRAD, CLOSED, Metric::ConnectSeconds), 15.0),
        at_least("kinds: ratio of conditional to unconditional", kind("conditional"), 0.85),
        at_least("kinds: ratio of rebased to unconditional", kind("rebase"), 0.85),
        at_least("kinds: ratio of keyed to unconditional", kind("keyed"), 0.85),
        at_least("ramp-up: ratio to stock rumqttd", ratio(ramp(UMBRAD), ramp(RUMQTTD)), 10.0),
    ]
}

/// Many shadows.
fn growth(all: &Results) -> Vec<Option<TargetResult>> {
    let of = |load, metric| all.median(COLD, UMBRAD, load, metric);
    let (cold, warm) = (of(COLD_LOAD, Metric::UpdatesPerSecond), of(WARM_LOAD, Metric::UpdatesPerSecond));
    vec![
        at_least("cold: ratio to the same load on few shadows", ratio(cold, warm), 0.6),
        at_least("cold: shadows created per second", of(COLD_LOAD, Metric::FillPerSecond), 50_000.0),
        at_most("cold: bytes written per update", of(COLD_LOAD, Metric::WrittenBytes), 1_500.0),
        at_most("cold: bytes written per update on few shadows", of(WARM_LOAD, Metric::WrittenBytes), 450.0),
        at_most("cold: seconds until it serves after a kill", of(COLD_LOAD, Metric::StartSeconds), 2.0),
    ]
}

/// Searches over many shadows, and writers beside them.
fn searches(all: &Results) -> Vec<Option<TargetResult>> {
    let of = |load, metric| all.median(SEARCH, UMBRAD, load, metric);
    let writers = |load| ratio(of(load, Metric::UpdatesPerSecond), of(WRITERS_ALONE, Metric::UpdatesPerSecond));
    vec![
        at_most("search: first page of an indexed predicate, ms", of(FIRST_PAGES_LOAD, Metric::LongestMs), 100.0),
        at_most("search: full scan, ms", of(SCANS_LOAD, Metric::LongestMs), 4_000.0),
        at_most("search: aggregate over an indexed path, ms", of(AGGREGATES_LOAD, Metric::LongestMs), 300.0),
        at_least("search: ratio of writers beside full scans", writers(WRITERS_BESIDE_SCANS), 0.9),
        at_least("search: ratio of writers with three indexed paths", writers(INDEXED_WRITERS), 0.95),
    ]
}

/// Many clients.
fn clients(all: &Results) -> Vec<Option<TargetResult>> {
    let storm = |metric| all.median(STORM, UMBRAD, "", metric);
    let writers = |load| all.median(EVENTS, UMBRAD, load, Metric::UpdatesPerSecond);
    vec![
        at_most("storm: bytes per idle connected device", storm(Metric::ClientBytes), 6_000.0),
        at_most("storm: seconds until all are served again", storm(Metric::ServedSeconds), 10.0),
        at_least("fan-out: deliveries/s", all.median(FAN_OUT, UMBRAD, "", Metric::DeliveriesPerSecond), 200_000.0),
        at_least("events: ratio of writers with readers", ratio(writers(WITH_READERS), writers(CLOSED)), 0.9),
    ]
}

/// Ordinary messages and persistent sessions.
fn sessions(all: &Results) -> Vec<Option<TargetResult>> {
    let messages = |server| all.median(MESSAGES, server, "", Metric::MessagesPerSecond);
    let start = |load| all.median(SESSIONS, UMBRAD, load, Metric::StartSeconds);
    let bytes = all.median(SESSIONS, UMBRAD, DISCONNECTED, Metric::ClientBytes);
    vec![
        at_least("messages: ratio to mosquitto", ratio(messages(UMBRAD), messages(MOSQUITTO_PERSISTENT)), 1.0),
        at_least("messages: ratio to NATS JetStream, synced", ratio(messages(UMBRAD), messages(NATS_MQTT)), 3.0),
        at_most("sessions: bytes per disconnected session", bytes, 4_000.0),
        at_most("sessions: seconds of a start after a stop", start(STOPPED), 10.0),
        at_most("sessions: seconds of a start after a kill", start(KILLED), 10.0),
    ]
}
