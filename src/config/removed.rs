//! Keys of earlier versions, each with its replacement.
//!
//! A removed key is refused rather than ignored: an operator who set it relies on it.

/// The removed keys of a section, with the text that follows "was removed: ".
const REMOVED: [(&str, &str, &str); 47] = [
    ("store", "cache_bytes", "set store.memory to the sum of both caches; a third of it is for pages"),
    ("store", "document_cache_bytes", "set store.memory to the sum of both caches; two thirds of it are for shadows"),
    ("store", "quick_repair", "it is always true now"),
    ("store", "lag_entries_max", "it follows from store.lag_bytes_max, 200000 for 64 MiB"),
    ("auth", "password_checks_at_once", "it is one for every four processors now"),
    ("auth", "password_checks_waiting", "it is always 1024 now"),
    ("auth", "user_failures_at_once", "set auth.login_failures, such as \"6/m burst 5\""),
    ("auth", "user_failure_every", "set auth.login_failures, such as \"6/m burst 5\""),
    ("auth", "address_failures_at_once", "it is 10 times the burst of auth.login_failures now"),
    ("auth", "address_failure_every", "an address has 50 times the rate of auth.login_failures now"),
    ("auth", "token_leeway", "it is always 10s now"),
    ("listener", "connections_max", "set limits.connections_max, for all listeners together"),
    ("limits", "tags_bytes_max", "limits.document_bytes_max is also the size of tags now"),
    ("limits", "leaves_max", "it is an eighth of limits.document_bytes_max now, and at least 1024"),
    ("limits", "path_tombstones_max", "it is always 256 now"),
    ("limits", "topic_bytes_max", "it is always 512 now"),
    ("limits", "filters_per_subscribe_max", "it is always 512 now"),
    ("limits", "filters_per_session_max", "it is always 4096 now; role.filters can be lower"),
    ("limits", "requests_in_flight_max", "it is the burst of limits.requests_rate now, and at least 64"),
    ("limits", "requests_per_second", "set limits.requests_rate, such as \"20/s burst 40\""),
    ("limits", "requests_burst", "set limits.requests_rate, such as \"20/s burst 40\""),
    ("limits", "publishes_per_second", "set limits.publishes_rate, such as \"100/s burst 5000\""),
    ("limits", "publishes_burst", "set limits.publishes_rate, such as \"100/s burst 5000\""),
    ("limits", "control_packets_per_second", "it is 5 times limits.publishes_rate now"),
    ("limits", "control_packets_burst", "it is the burst of limits.publishes_rate now"),
    ("limits", "connection_bytes_per_second", "received bytes count as work now: set role.work"),
    ("limits", "refusals_per_minute_max", "it is a tenth of limits.publishes_rate now"),
    ("limits", "session_queue_bytes_max", "limits.outbox_bytes_max is also for sessions without a connection now"),
    ("limits", "retained_messages_max", "retained messages count as memory now: set role.memory and limits.memory"),
    ("limits", "principal_connections_max", "set role.sessions, by role"),
    ("limits", "principal_retained_messages_max", "retained messages count as memory now: set role.memory"),
    ("limits", "principal_retained_bytes_max", "retained messages count as memory now: set role.memory"),
    ("limits", "principal_streams_max", "it is role.sessions now, and at most 1024"),
    ("limits", "principal_input_bytes_max", "input counts as memory now: set role.memory"),
    ("limits", "address_connects_per_second", "set limits.address_connects_rate, such as \"200/s burst 20000\""),
    ("limits", "address_connects_burst", "set limits.address_connects_rate, such as \"200/s burst 20000\""),
    ("limits", "address_failed_handshakes_per_minute", "it is a twentieth of limits.address_connects_rate now"),
    ("limits", "topic_alias_max", "it is always 16 now"),
    ("limits", "retained_bytes_max", "retained messages count as memory now: set role.memory and limits.memory"),
    ("limits", "input_bytes_max", "it is a quarter of limits.memory now"),
    ("limits", "sessions_max", "sessions count as memory now: set limits.memory, and role.sessions by role"),
    ("limits", "principal_sessions_max", "set role.sessions, by role"),
    ("limits", "principal_subscriptions_max", "set role.filters, by role"),
    ("limits", "principal_requests_per_second", "requests count as work now: set role.work, by role"),
    ("limits", "principal_bytes_per_second", "received bytes count as work now: set role.work, by role"),
    ("limits", "shadow_writes_per_second", "updates count as work of their principals now: set role.work"),
    ("log", "connections", "for false, set log.level, such as \"info,umbrad::connections=off\""),
];

/// Returns the replacement of a removed key.
pub(super) fn replacement(section: Option<&str>, key: &str) -> Option<&'static str> {
    let found = REMOVED.iter().find(|(of, name, _)| Some(*of) == section && *name == key);
    found.map(|(_, _, replacement)| *replacement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::known::{KnownEntry, KnownKeys};

    /// Each key is gone, and each key that a text names is there.
    #[test]
    fn replacements_exist() {
        let known = KnownKeys::shipped().expect("the shipped file is valid");
        for (section, key, replacement) in REMOVED {
            assert!(matches!(known.entry(section), Some(KnownEntry::Section(_) | KnownEntry::List(_))), "{section}");
            assert!(known.default(Some(section), key).is_none(), "{section}.{key} is not removed");
            let named = replacement.split([' ', ',', ';']).filter_map(|word| word.split_once('.'));
            for (section, key) in named.filter(|(section, _)| known.entry(section).is_some()) {
                assert!(known.default(Some(section), key).is_some(), "{replacement}");
            }
        }
    }
}
