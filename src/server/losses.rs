//! The counts that are logged when the server has shut down.

use crate::{admission::QuotaKind, mqtt::broker::Broker, net::ListenerCounters};

/// Lists counts of refused and dropped items as `name=count`, without those that are zero.
pub(super) fn losses(listeners: &ListenerCounters, broker: &Broker) -> String {
    let (counters, drops, logins) = (&broker.counters, &broker.drops, broker.authority.counters());
    let counts = [
        ("accepts-failed", &listeners.accepts_failed),
        ("connections-refused", &listeners.connections_refused),
        ("logins-refused", &logins.refused),
        ("logins-without-role", &logins.without_role),
        ("logins-banned", &logins.banned),
        ("logins-limited", &logins.limited),
        ("logins-too-busy", &logins.busy),
        ("protocol-violations", &counters.violations),
        ("publishes-refused", &counters.publishes_refused),
        ("too-large-for-client", &counters.deliveries_too_large),
        ("expired", &counters.deliveries_expired),
        ("superseded", &drops.superseded),
        ("ordinary-qos-0", &drops.ordinary_at_most_once),
        ("ordinary-qos-1-2", &drops.ordinary_guaranteed),
        ("replies", &drops.replies),
        ("expired-in-queue", &drops.expired),
    ];
    let counts = counts.into_iter().map(|(name, counter)| (name, counter.get()));
    let handshakes: u64 = listeners.tls_handshakes_failed.counts().map(|(_, count)| count).sum();
    listed(counts.chain([("tls-handshakes-failed", handshakes)]))
}

/// Lists the quotas that were exceeded, in the format of [`losses`].
pub(super) fn quotas_met(broker: &Broker) -> String {
    let counters = broker.service.quotas().counters();
    listed(QuotaKind::ALL.iter().map(|cause| (cause.name(), counters.get(*cause))))
}

fn listed(counts: impl Iterator<Item = (&'static str, u64)>) -> String {
    let shown = counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name}={count}"));
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(" ") }
}
