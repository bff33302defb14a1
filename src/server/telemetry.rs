//! What the door for HTTP is told of that for MQTT: who is connected and, for `/metrics`, every number of the service
//! under its name, read at the moment of asking.
//!
//! Nothing is kept here. Counters and histograms are raised where things happen ([`crate::observability::metrics`]); what goes up and
//! down is asked of whoever has it. No label is made of anything a client sends, only of words of the program and names
//! of listeners, so the page has the same lines for every fleet. `docs/grafana.json` draws these names; a test holds them together.

mod process;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    admission::QuotaKind,
    auth::Authority,
    engine::Service,
    http,
    mqtt::broker::{Broker, presence::Presence},
    net::{ListenerCounters, Tls},
    observability::metrics::MetricsPage,
    shadow::DeviceId,
    store::{Health, State},
    wire::Seen,
};

/// Whom to ask.
pub struct Telemetry {
    /// The door for MQTT.
    pub broker: Arc<Broker>,
    /// The engine.
    pub service: Arc<Service>,
    /// The counters of the listeners.
    pub listeners: Arc<ListenerCounters>,
    /// Logins.
    pub authority: Arc<Authority>,
    /// Places for connections, and how many there are in all.
    pub places: (Arc<Semaphore>, usize),
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
        process::put(&mut page);
        page.into_text()
    }
}

impl http::Presence for Telemetry {
    fn connected(&self, device: &DeviceId) -> bool {
        self.broker.presence.of(device).is_some_and(|presence| presence.connected)
    }

    fn seen(&self, device: &DeviceId) -> Option<Seen> {
        let Presence { last_seen, address, protocol, .. } = self.broker.presence.of(device)?;
        Some(Seen { last: last_seen, protocol: protocol.name(), address: Some(address) })
    }
}

impl Telemetry {
    /// Gives the time of the start to [`http::Metrics::page`]; to be called while the server starts.
    pub fn started() {
        process::started();
    }

    fn connections(&self, page: &mut MetricsPage) {
        let (places, all) = &self.places;
        let (counters, listeners) = (&self.broker.counters, &self.listeners);
        page.gauges("umbra_build_info", "1; the label tells the version.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.gauge("umbra_connections", "Open connections, of all listeners.", all - places.available_permits());
        page.gauge("umbra_connections_max", "Connections there may be at once.", all);
        page.counter(
            "umbra_connections_accepted_total",
            "Connections that were given a place.",
            listeners.connections_accepted.get(),
        );
        let mut closed =
            page.counters("umbra_connections_refused_total", "Connections not served, or ended, by cause.");
        closed.sample(&[("cause", "limit")], listeners.connections_refused.get());
        closed.sample(&[("cause", "accept-failed")], listeners.accepts_failed.get());
        closed.sample(&[("cause", "protocol-violation")], counters.violations.get());
        let mut bytes =
            page.counters("umbra_mqtt_bytes_total", "Bytes of MQTT, without TLS and WebSocket around them.");
        bytes.sample(&[("direction", "received")], counters.bytes_received.get());
        bytes.sample(&[("direction", "sent")], counters.bytes_sent.get());
    }

    fn tls(&self, page: &mut MetricsPage) {
        let mut failed = page.counters("umbra_tls_handshakes_failed_total", "TLS handshakes that failed, by cause.");
        for (cause, count) in self.listeners.tls_handshakes_failed.counts() {
            failed.sample(&[("cause", cause)], count);
        }
        let mut expiry = page.gauges(
            "umbra_tls_certificate_expiry_seconds",
            "Seconds until the certificate of a listener, or one of its chain, expires; negative once it has.",
        );
        for (listener, tls) in &self.tls {
            expiry.sample(&[("listener", listener)], tls.seconds_to_expiry());
        }
    }

    fn sessions(&self, page: &mut MetricsPage) {
        let load = self.broker.sessions.load();
        let mut sessions = page.gauges("umbra_sessions", "Sessions, connected or kept for their client.");
        sessions.sample(&[("state", "connected")], load.connected);
        sessions.sample(&[("state", "parked")], load.disconnected);
        page.gauge("umbra_outbox_bytes", "Bytes queued towards all sessions.", load.queued_bytes);
        page.gauge(
            "umbra_outbox_bytes_largest",
            "Bytes queued towards the slowest session.",
            load.queued_bytes_largest,
        );
        page.gauge(
            "umbra_sessions_lagging",
            "Connected sessions that catch up from the journal because their queue was full, or they were away.",
            load.lagging,
        );
        page.gauge(
            "umbra_streams",
            "Streams of events, and requests that wait for a change, over HTTP.",
            self.service.quotas().principals.streams(),
        );
        page.gauge(
            "umbra_devices_connected",
            "Devices with an open connection.",
            self.broker.presence.connected_count(),
        );
        page.gauge("umbra_retained_messages", "Retained ordinary messages.", self.broker.router.retained_count());
    }

    fn requests(&self, page: &mut MetricsPage) {
        let mut requests = page.counters(
            "umbra_requests_total",
            "Commands that were decided, by what was asked and how it ended: accepted, unchanged, replayed, dry-run, or the \
             error of the rejection.",
        );
        // These are there from the start, so that a rate over them has a beginning.
        let mut counts = self.service.outcomes().counts();
        for label in [("update", "accepted"), ("update", "unchanged"), ("update", "version-conflict")] {
            if !counts.iter().any(|(known, _)| *known == label) {
                counts.push((label, 0));
            }
        }
        for ((operation, outcome), count) in counts {
            requests.sample(&[("operation", operation), ("outcome", outcome)], count);
        }
        let (queued, room) = self.service.queue_bytes();
        page.gauge("umbra_engine_queue_bytes", "Bytes of commands that wait to be decided.", queued);
        page.gauge("umbra_engine_queue_bytes_max", "Bytes of commands that may wait.", room);
        let behind = self.service.head().0.saturating_sub(self.broker.events.fan_out_position().finished());
        page.gauge("umbra_announcer_behind_entries", "Changes on the disk that are not announced yet.", behind);
    }

    fn drops(&self, page: &mut MetricsPage) {
        let (counters, drops) = (&self.broker.counters, &self.broker.drops);
        let mut dropped = page.counters(
            "umbra_deliveries_dropped_total",
            "Messages not delivered, by cause. What is superseded was followed by a newer one of its topic.",
        );
        for (cause, count) in [
            ("superseded", &drops.superseded),
            ("plain-qos-0", &drops.plain_at_most_once),
            ("plain-qos-1-2", &drops.plain_guaranteed),
            ("reply-without-connection", &drops.replies),
            ("expired-in-queue", &drops.expired),
        ] {
            dropped.sample(&[("cause", cause)], count.get());
        }
        dropped.sample(&[("cause", "expired")], counters.deliveries_expired.get());
        dropped.sample(&[("cause", "too-large-for-client")], counters.deliveries_too_large.get());
        page.counter(
            "umbra_publishes_refused_total",
            "Publications to topics that are not the client's to publish to.",
            counters.publishes_refused.get(),
        );
        let lagged = drops.lagged.get();
        page.counter(
            "umbra_sessions_lagged_total",
            "Times the queue of a session was full and it had to catch up.",
            lagged,
        );
        let closed = drops.closed.get();
        page.counter("umbra_sessions_overrun_total", "Connections ended because replies were not read.", closed);
    }

    fn quotas(&self, page: &mut MetricsPage) {
        let counters = self.service.quotas().counters();
        let mut met =
            page.counters("umbra_quota_met_total", "Times something was refused or slowed for a quota, by quota.");
        for cause in QuotaKind::ALL {
            met.sample(&[("quota", cause.name())], counters.get(*cause));
        }
    }

    fn logins(&self, page: &mut MetricsPage) {
        let counters = self.authority.counters();
        let mut logins = page.counters("umbra_logins_refused_total", "Logins refused, by cause.");
        logins.sample(&[("cause", "wrong")], counters.refused.get());
        logins.sample(&[("cause", "no-role")], counters.without_role.get());
        logins.sample(&[("cause", "too-many-failures")], counters.limited.get());
        logins.sample(&[("cause", "busy")], counters.busy.get());
        page.counter(
            "umbra_password_hashes_total",
            "Passwords hashed to compare them.",
            counters.password_hashes.get(),
        );
    }

    fn commits(&self, page: &mut MetricsPage, health: &Health) {
        let commits = self.service.commits();
        page.histogram(
            "umbra_commit_seconds",
            "How long a commit took, to where it is on the disk.",
            &commits.durations,
        );
        page.histogram("umbra_batch_commands", "Commands that were decided together.", &commits.batches);
        page.counter(
            "umbra_commits_failed_total",
            "Commits that failed; the first stops the store.",
            commits.failed.get(),
        );
        let writable = u8::from(health.state == State::Writable);
        page.gauge("umbra_store_writable", "1 if updates are taken; 0: /readyz says why not.", writable);
        page.gauge("umbra_store_file_bytes", "Bytes of the store file.", health.file_bytes);
        if let Some(free) = health.free_disk {
            page.gauge("umbra_store_free_disk_bytes", "Free bytes on the disk of the store.", free);
        }
        page.gauge("umbra_cached_documents", "Shadows in memory.", health.cached_documents);
        page.gauge("umbra_cached_bytes", "About how many bytes they take.", health.cached_bytes);
    }
}

fn journal(page: &mut MetricsPage, health: &Health) {
    let entries = (health.head.0 + 1).saturating_sub(health.oldest.0);
    page.gauge("umbra_journal_entries", "Changes that are kept.", entries);
    page.gauge("umbra_journal_bytes", "Bytes of the changes that are kept.", health.journal_bytes);
    page.gauge("umbra_journal_head", "The sequence of the newest change.", health.head.0);
    page.gauge("umbra_lag_entries", "Changes that a start after a crash would apply again.", health.lag_entries);
    page.gauge("umbra_lag_bytes", "Bytes of these.", health.lag_bytes);
}
