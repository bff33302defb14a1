//! Presence and metrics of the MQTT broker for the HTTP front end; metrics are read when `/metrics` is requested.
//!
//! Nothing is stored here. Counters and histograms are updated where events happen ([`crate::observability::metrics`]);
//! gauges are computed by their owners. Labels are made of words of the program and names of listeners, so the page has
//! the same lines for every fleet; only the ten principals that cost the most are named. `docs/grafana.json` uses these names; a test
//! compares them.

mod process;

use std::{sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use crate::{
    admission::QuotaKind,
    auth::{Authority, Principal},
    engine::Service,
    http,
    mqtt::broker::{Broker, peers::EndedEverything, presence::Presence, sessions::SessionCount},
    net::{ListenerCounters, Tls},
    observability::{logging::Shortened, metrics::MetricsPage},
    search,
    shadow::DeviceId,
    store::{Health, IndexHealth, IndexReadiness, MemberHealth, Pages, State},
    wire::Seen,
};

/// The sources of the metrics.
pub struct Telemetry {
    /// The MQTT broker.
    pub broker: Arc<Broker>,
    /// The engine.
    pub service: Arc<Service>,
    /// The counters of the listeners.
    pub listeners: Arc<ListenerCounters>,
    /// The authority, for the counters of logins.
    pub authority: Arc<Authority>,
    /// Permits for connections, and their maximum.
    pub connection_permits: (Arc<Semaphore>, usize),
    /// The TLS of each listener that has it, by the listener's name.
    pub tls: Vec<(String, Arc<Tls>)>,
}

impl http::Metrics for Telemetry {
    fn page(&self) -> String {
        let mut page = MetricsPage::default();
        self.connections(&mut page);
        self.tls(&mut page);
        self.sessions(&mut page);
        self.requests(&mut page);
        self.drops(&mut page);
        self.quotas(&mut page);
        self.logins(&mut page);
        let health = self.service.health();
        self.commits(&mut page, &health);
        journal(&mut page, &health);
        if let Some(member) = &health.member {
            cluster(&mut page, member, self.broker.counters.peer_messages_dropped.get());
        }
        process::put(&mut page);
        page.into_text()
    }
}

impl search::Presence for Telemetry {
    fn connected(&self, device: &DeviceId) -> bool {
        self.broker.presence.of(device).is_some_and(|presence| presence.connected)
    }

    fn seen(&self, device: &DeviceId) -> Option<Seen> {
        let Presence { last_seen, address, protocol, .. } = self.broker.presence.of(device)?;
        Some(Seen { last: last_seen, protocol: protocol.name(), address: Some(address) })
    }

    fn newest_change(&self) -> u64 {
        self.broker.presence.newest()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.broker.presence.changes()
    }

    fn changed_after(&self, after: u64, limit: usize) -> Vec<(u64, DeviceId)> {
        self.broker.presence.changed_after(after, limit)
    }
}

impl http::Principals for Telemetry {
    fn sessions_of(&self, principal: &str) -> (usize, usize) {
        let SessionCount { sessions, connected } =
            self.broker.sessions.count_of(&Principal::of_known(&principal.into()));
        (sessions, connected)
    }

    fn end_connections<'a>(&'a self, principal: &'a str, keep_sessions: bool) -> BoxFuture<'a, http::PrincipalEnded> {
        Box::pin(async move {
            let EndedEverything { ended, is_durable, silent } =
                self.broker.end_everything(principal, keep_sessions).await;
            http::PrincipalEnded { ended, is_durable, unreachable: silent }
        })
    }
}

impl Telemetry {
    /// Records the start time for [`http::Metrics::page`]; call it while the server starts.
    pub fn started() {
        process::started();
    }

    fn connections(&self, page: &mut MetricsPage) {
        let (permits, max) = &self.connection_permits;
        let (counters, listeners) = (&self.broker.counters, &self.listeners);
        page.gauges("umbra_build_info", "Always 1; the label has the version.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.gauge("umbra_connections", "Open connections of all listeners.", max - permits.available_permits());
        page.gauge("umbra_connections_max", "Maximum number of open connections.", max);
        page.counter("umbra_connections_accepted_total", "Accepted connections.", listeners.connections_accepted.get());
        let mut closed = page.counters("umbra_connections_refused_total", "Connections refused or closed, by cause.");
        closed.sample(&[("cause", "limit")], listeners.connections_refused.get());
        closed.sample(&[("cause", "accept-failed")], listeners.accepts_failed.get());
        closed.sample(&[("cause", "protocol-violation")], counters.violations.get());
        let mut bytes = page.counters("umbra_mqtt_bytes_total", "Bytes of MQTT, excluding TLS and WebSocket framing.");
        bytes.sample(&[("direction", "received")], counters.bytes_received.get());
        bytes.sample(&[("direction", "sent")], counters.bytes_sent.get());
    }

    fn tls(&self, page: &mut MetricsPage) {
        let mut failed = page.counters("umbra_tls_handshakes_failed_total", "Failed TLS handshakes, by cause.");
        for (cause, count) in self.listeners.tls_handshakes_failed.counts() {
            failed.sample(&[("cause", cause)], count);
        }
        let mut expiry = page.gauges(
            "umbra_tls_certificate_expiry_seconds",
            "Seconds until the first certificate in the chain of a listener expires; negative afterwards.",
        );
        for (listener, tls) in &self.tls {
            expiry.sample(&[("listener", listener)], tls.seconds_to_expiry());
        }
    }

    fn sessions(&self, page: &mut MetricsPage) {
        let load = self.broker.sessions.load();
        let mut sessions = page.gauges("umbra_sessions", "Sessions by state.");
        sessions.sample(&[("state", "connected")], load.connected);
        sessions.sample(&[("state", "disconnected")], load.disconnected);
        page.gauge("umbra_outbox_bytes", "Bytes queued for all sessions.", load.queued_bytes);
        page.gauge(
            "umbra_outbox_bytes_largest",
            "Bytes queued for the session with the longest queue.",
            load.queued_bytes_largest,
        );
        page.gauge(
            "umbra_sessions_lagging",
            "Connected sessions that resync from the journal because their queue was full or they were absent.",
            load.resyncing,
        );
        page.gauge(
            "umbra_streams",
            "Open event streams and waiting requests over HTTP.",
            self.service.quotas().principals.streams(),
        );
        page.gauge(
            "umbra_devices_connected",
            "Devices with an open connection to this server.",
            self.broker.presence.connected_here(),
        );
        page.gauge("umbra_retained_messages", "Retained ordinary messages.", self.broker.router.retained_count());
    }

    fn requests(&self, page: &mut MetricsPage) {
        let mut requests = page.counters(
            "umbra_requests_total",
            "Decided commands by operation and outcome: accepted, unchanged, replayed, dry-run, or the \
             error of the rejection.",
        );
        // Present from the start, so that a rate over them has a first value.
        let mut counts = self.service.outcomes().counts();
        for label in [("update", "accepted"), ("update", "unchanged"), ("update", "version-conflict")] {
            if !counts.iter().any(|(known, _)| *known == label) {
                counts.push((label, 0));
            }
        }
        for ((operation, outcome), count) in counts {
            requests.sample(&[("operation", operation), ("outcome", outcome)], count);
        }
        let (queued, max) = self.service.queue_bytes();
        page.gauge("umbra_engine_queue_bytes", "Bytes of queued commands.", queued);
        page.gauge("umbra_engine_queue_bytes_max", "Maximum bytes of queued commands.", max);
        let behind = self.service.head().0.saturating_sub(self.broker.events.fan_out_position().finished());
        page.gauge("umbra_notifier_behind_entries", "Committed changes that are not published yet.", behind);
    }

    fn drops(&self, page: &mut MetricsPage) {
        let (counters, drops) = (&self.broker.counters, &self.broker.drops);
        let mut dropped = page.counters(
            "umbra_deliveries_dropped_total",
            "Dropped messages, by cause. After a superseded one a newer one of its topic was sent.",
        );
        for (cause, count) in [
            ("superseded", &drops.superseded),
            ("ordinary-qos-0", &drops.ordinary_at_most_once),
            ("ordinary-qos-1-2", &drops.ordinary_guaranteed),
            ("reply-without-connection", &drops.replies),
            ("expired-in-queue", &drops.expired),
        ] {
            dropped.sample(&[("cause", cause)], count.get());
        }
        dropped.sample(&[("cause", "expired")], counters.deliveries_expired.get());
        dropped.sample(&[("cause", "too-large-for-client")], counters.deliveries_too_large.get());
        page.counter(
            "umbra_publishes_refused_total",
            "Publications to topics that the client may not publish to.",
            counters.publishes_refused.get(),
        );
        let resyncs = drops.resyncs.get();
        page.counter(
            "umbra_sessions_lagged_total",
            "Number of times a session began a resync because its queue was full.",
            resyncs,
        );
        let closed = drops.closed.get();
        page.counter("umbra_sessions_overrun_total", "Connections closed because replies were not read.", closed);
    }

    fn quotas(&self, page: &mut MetricsPage) {
        let counters = self.service.quotas().counters();
        let mut exceeded =
            page.counters("umbra_quota_met_total", "Number of times a quota caused a refusal or throttling, by quota.");
        for cause in QuotaKind::ALL {
            exceeded.sample(&[("quota", cause.name())], counters.get(*cause));
        }
        let (principals, now) = (&self.service.quotas().principals, Instant::now());
        let memory = principals.memory();
        page.gauge("umbra_client_memory_bytes", "Bytes kept on behalf of all clients, as charged.", memory.used());
        page.gauge("umbra_client_memory_bytes_max", "Maximum bytes kept on behalf of all clients.", memory.limit());
        let mut largest =
            page.gauges("umbra_principal_memory_bytes", "Bytes kept for a principal; the ten with the most.");
        for usage in principals.largest(TOP, now) {
            largest.sample(&[("principal", &shortened(&usage.name))], usage.memory);
        }
        let mut new_shadows = page.gauges(
            "umbra_principal_new_shadows",
            "Shadows that a principal created in the last 24 hours; the ten with the most.",
        );
        for usage in principals.most_new_shadows(TOP, now) {
            new_shadows.sample(&[("principal", &shortened(&usage.name))], usage.new_shadows);
        }
        let mut throttled = page.counters(
            "umbra_principal_throttled_total",
            "Number of times a principal was throttled or refused for work or memory; the ten with the most.",
        );
        for usage in principals.most_throttled(TOP, now) {
            throttled.sample(&[("principal", &shortened(&usage.name))], usage.throttled);
        }
    }

    fn logins(&self, page: &mut MetricsPage) {
        let counters = self.authority.counters();
        let mut logins = page.counters("umbra_logins_refused_total", "Refused logins, by cause.");
        logins.sample(&[("cause", "wrong")], counters.refused.get());
        logins.sample(&[("cause", "no-role")], counters.without_role.get());
        logins.sample(&[("cause", "banned")], counters.banned.get());
        logins.sample(&[("cause", "too-many-failures")], counters.limited.get());
        logins.sample(&[("cause", "busy")], counters.busy.get());
        page.counter("umbra_password_hashes_total", "Passwords hashed for comparison.", counters.password_hashes.get());
    }

    fn commits(&self, page: &mut MetricsPage, health: &Health) {
        let commits = self.service.commits();
        page.histogram("umbra_commit_seconds", "Duration of commits until they are on the disk.", &commits.durations);
        page.histogram("umbra_batch_commands", "Commands per batch.", &commits.batches);
        page.counter(
            "umbra_commits_failed_total",
            "Failed commits; after each the store is reopened.",
            commits.failed.get(),
        );
        let mut reopened =
            page.counters("umbra_store_reopens_total", "Attempts to reopen the store after a failed commit or read.");
        reopened.sample(&[("outcome", "open")], commits.reopened.get());
        reopened.sample(&[("outcome", "failed")], commits.reopens_failed.get());
        let writable = u8::from(health.state == State::Writable);
        page.gauge(
            "umbra_store_writable",
            "1 if the store accepts updates, else 0; /readyz gives the reason.",
            writable,
        );
        let (verified, damaged) = match health.pages {
            Pages::Unverified => (0, 0),
            Pages::Sound => (1, 0),
            Pages::Damaged(damaged) => (1, damaged),
        };
        page.gauge("umbra_store_verified", "1 once all pages of the store file were verified, else 0.", verified);
        page.gauge(
            "umbra_store_damaged_pages",
            "Damaged pages of the store file; shadows and changes in them are out of service.",
            damaged,
        );
        search_index(page, &health.index);
        let mut shadows = page.gauges(
            "umbra_shadows",
            "Shadows in the store, by state; deleted ones keep their version. Absent until the pages of the store were \
             verified.",
        );
        if let Some(counts) = health.shadows {
            shadows.sample(&[("state", "live")], counts.live);
            shadows.sample(&[("state", "deleted")], counts.deleted);
        }
        page.gauge(
            "umbra_session_rows",
            "Rows of sessions, queued and retained messages in their table of the store.",
            health.rows,
        );
        page.gauge("umbra_session_row_bytes", "Bytes of these rows.", health.row_bytes);
        page.gauge(
            "umbra_session_log_bytes",
            "Bytes of changes of sessions and messages that are not in the table yet, which a start replays.",
            health.row_log_bytes,
        );
        page.gauge("umbra_store_file_bytes", "Bytes of the store file.", health.file_bytes);
        if let Some(free) = health.free_disk {
            page.gauge("umbra_store_free_disk_bytes", "Free bytes on the disk of the store.", free);
        }
        page.gauge("umbra_cached_documents", "Shadows in the document cache.", health.cached_documents);
        page.gauge("umbra_cached_bytes", "Approximate bytes of the document cache.", health.cached_bytes);
    }
}

/// The metrics of a node of a cluster.
fn cluster(page: &mut MetricsPage, health: &MemberHealth, dropped: u64) {
    page.gauge("umbra_cluster_node", "Number of this node of the cluster.", health.node);
    page.gauge(
        "umbra_cluster_deciding",
        "1 if this node decides the updates of the cluster, else 0.",
        u8::from(health.is_deciding),
    );
    page.gauge("umbra_cluster_epoch", "Number of times that a node of the cluster began to decide.", health.epoch);
    page.gauge("umbra_cluster_applied_record", "Last record of the log that this node has applied.", health.applied);
    page.gauge(
        "umbra_cluster_lag_records",
        "Records of the log by which this node is behind the most advanced one.",
        health.lag,
    );
    let mut alive = page.gauges(
        "umbra_cluster_node_alive",
        "1 for a node that this one hears of and that takes part, else 0; absent for one that it never heard of.",
    );
    let own = (health.node, health.latched.is_none());
    let others = health.others.iter().map(|other| (other.node, other.takes_part()));
    for (node, is_alive) in others.chain([own]) {
        alive.sample(&[("node", node.to_string().as_str())], u8::from(is_alive));
    }
    page.gauge(
        "umbra_cluster_differences",
        "Files, sections of the configuration and versions that are not the same at all nodes; /readyz names them.",
        health.differences.len(),
    );
    page.gauge(
        "umbra_cluster_waiting_requests",
        "Updates of this node's clients that wait for the log.",
        health.waiting_requests,
    );
    page.gauge(
        "umbra_cluster_longest_wait_seconds",
        "Time for which the oldest of these has waited.",
        health.longest_wait.as_secs_f64(),
    );
    page.gauge(
        "umbra_cluster_silence_seconds",
        "Time since the last record of the log, of which there are two each second.",
        health.silence.as_secs_f64(),
    );
    page.counter(
        "umbra_cluster_messages_dropped_total",
        "Ordinary messages that were not passed to the other nodes, since too many waited.",
        dropped,
    );
    page.gauge(
        "umbra_cluster_left",
        "1 if this node has left the cluster because of an error, else 0; /readyz gives the reason.",
        u8::from(health.latched.is_some()),
    );
}

fn search_index(page: &mut MetricsPage, index: &IndexHealth) {
    let states = [
        ("undeclared", IndexReadiness::Undeclared),
        ("verifying", IndexReadiness::Verifying),
        ("building", IndexReadiness::Building),
        ("complete", IndexReadiness::Complete),
        ("damaged", IndexReadiness::Damaged),
    ];
    let mut state = page.gauges("umbra_search_index", "1 for the state of the index of searches, 0 for the others.");
    for (name, readiness) in states {
        state.sample(&[("state", name)], u8::from(index.readiness == readiness));
    }
    page.counter(
        "umbra_search_index_given_up_total",
        "Tables of the index of searches that were damaged or could not be written, and were built anew.",
        index.given_up,
    );
    let mut lookups = page.counters(
        "umbra_search_index_lookups_total",
        "Reads of the index by searches and aggregates of a declared path: used, or unused since all shadows had to be read.",
    );
    lookups.sample(&[("outcome", "used")], index.used);
    lookups.sample(&[("outcome", "unused")], index.unused);
}

fn journal(page: &mut MetricsPage, health: &Health) {
    let entries = (health.head.0 + 1).saturating_sub(health.oldest.0);
    page.gauge("umbra_journal_entries", "Changes in the journal.", entries);
    page.gauge("umbra_journal_bytes", "Bytes of the journal.", health.journal_bytes);
    page.gauge("umbra_journal_head", "Sequence of the newest change.", health.head.0);
    page.gauge(
        "umbra_lag_entries",
        "Changes after the checkpoint, which a start after a crash replays.",
        health.lag_entries,
    );
    page.gauge("umbra_lag_bytes", "Bytes of the changes after the checkpoint.", health.lag_bytes);
}

fn shortened(principal: &str) -> String {
    Shortened(principal).to_string()
}

/// Principals with metrics of their own.
const TOP: usize = 10;
