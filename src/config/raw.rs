//! The configuration as written: every key of `broker.toml` in its type, unchecked.
//!
//! No key is optional, apart from those of rules, grants and queries, because the shipped file supplies the defaults. Units and
//! meanings are in that file, ranges in [`super::check`].

use serde::Deserialize;

use super::units::{AutoSize, Count, Flag, List, Period, Size, Text, WrittenRate};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) allow_anonymous_anywhere: Flag,
    #[expect(dead_code, reason = "read while the files are laid together")]
    pub(super) rules_file: Text,
    pub(super) store: RawStore,
    pub(super) auth: RawAuth,
    pub(super) listener: Vec<RawListener>,
    pub(super) rule: Vec<RawRule>,
    pub(super) role: Vec<RawRole>,
    pub(super) grant: Vec<RawGrant>,
    pub(super) query: Vec<RawQuery>,
    pub(super) limits: RawLimits,
    pub(super) search: RawSearch,
    pub(super) log: RawLog,
    pub(super) cluster: RawCluster,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) path: Text,
    pub(super) create: Flag,
    pub(super) memory: AutoSize,
    pub(super) journal_bytes_max: Size,
    pub(super) journal_age_max: Period,
    pub(super) lag_bytes_max: Size,
    pub(super) free_disk_min: Size,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) users: Text,
    pub(super) password_cache_age: Period,
    pub(super) failure_delay: Period,
    pub(super) login_failures: WrittenRate,
    pub(super) aws_keys: Text,
    pub(super) banned: Text,
    pub(super) token_keys: Text,
    pub(super) token_algorithms: Text,
    pub(super) token_audience: Text,
    pub(super) token_issuer: Text,
    pub(super) token_claim: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) name: Text,
    pub(super) kind: Text,
    pub(super) bind: Text,
    pub(super) anonymous: Flag,
    pub(super) anonymous_role: Text,
    pub(super) certificate_role: Text,
    pub(super) connect_timeout: Period,
    pub(super) proxy_from: List,
    pub(super) tls_certificate: Text,
    pub(super) tls_key: Text,
    pub(super) tls_client_ca: Text,
    pub(super) tls_client_auth: Text,
    pub(super) tls_client_crl: Text,
    pub(super) tls_record_bytes_max: Size,
    pub(super) hosts: List,
    pub(super) origins: List,
    pub(super) metrics: Flag,
}

/// Unlike other keys, those of a rule and a grant may be left out: a default would grant what nobody wrote.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) role: Text,
    #[serde(default)]
    pub(super) devices: List,
    #[serde(default)]
    pub(super) names: Option<List>,
    #[serde(default)]
    pub(super) operations: Option<List>,
    #[serde(default)]
    pub(super) read: List,
    #[serde(default)]
    pub(super) write: List,
    #[serde(default)]
    pub(super) publish: List,
    #[serde(default)]
    pub(super) subscribe: List,
    #[serde(default)]
    pub(super) administer: List,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    pub(super) role: Text,
    #[serde(default)]
    pub(super) principals: List,
    #[serde(default)]
    pub(super) by: List,
    #[serde(default)]
    pub(super) devices: List,
}

/// A missing name or query is an empty one, for which there is an error with its location.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuery {
    #[serde(default)]
    pub(super) name: Text,
    #[serde(default)]
    pub(super) q: Text,
    #[serde(default)]
    pub(super) description: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    #[serde(default)]
    pub(super) role: Text,
    pub(super) memory: Size,
    pub(super) work: Count,
    pub(super) sessions: Count,
    pub(super) filters: Count,
    pub(super) new_shadows_per_day: Count,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) document_bytes_max: Size,
    pub(super) depth_max: Count,
    pub(super) shadow_names_max: Count,
    pub(super) packet_bytes_max: Size,
    pub(super) requests_rate: WrittenRate,
    pub(super) publishes_rate: WrittenRate,
    pub(super) outbox_bytes_max: Size,
    pub(super) memory: AutoSize,
    pub(super) session_expiry_max: Period,
    pub(super) connections_max: Count,
    pub(super) address_connections_max: Count,
    pub(super) address_connects_rate: WrittenRate,
    pub(super) address_limits_on_loopback: Flag,
    pub(super) receive_maximum: Count,
    pub(super) keep_alive_max: Period,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSearch {
    pub(super) indexed: List,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Text,
    pub(super) format: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: Text,
    pub(super) node: Count,
    pub(super) nats: List,
    pub(super) credentials_file: Text,
    pub(super) ca_file: Text,
    pub(super) log_bytes_max: Size,
    pub(super) log_age_max: Period,
    pub(super) allow_unsafe_sync: Flag,
}
