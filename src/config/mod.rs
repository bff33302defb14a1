//! The configuration, from the shipped `broker.toml`, the operator's file, the environment and the command line. Later
//! sources win. It is checked before anything is opened or bound.
//!
//! The rest of the server uses [`Config`]: every value has its type and is within its range, and the rules between
//! values hold. A [`ConfigError`] names the key and its file and line, or the variable or argument.
//!
//! - `known`: the known keys.
//! - `file`: the line numbers of keys.
//! - `layers`: merges the sources into the structures of `raw`.
//! - `units`: parses sizes and durations.
//! - `removed`: the keys of earlier versions.
//! - `section`: checks single values; `check` checks `raw` with it, `auth` the section `[auth]`, `cluster` the section
//!   `[cluster]`, and `quotas` the quotas in `[limits]`.
//! - `derived`: limits without a key.
//! - `roles`: rules and grants as written; [`crate::auth::Policy`] checks them.
//! - `queries`: named queries as written; [`crate::search::named`] checks them.
//! - `written`: compares two configurations.
//!
//! The highest value of each limit is in [`crate::config::limits`].

mod auth;
mod check;
mod cluster;
mod derived;
mod error;
mod file;
mod host;
mod known;
mod layers;
pub mod limits;
mod machine;
mod queries;
mod quotas;
mod raw;
mod removed;
mod roles;
mod section;
mod units;
mod written;

use std::{
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

pub use auth::{AuthConfig, TokenConfig};
pub use cluster::ClusterSettings;
pub use error::{ConfigError, Problem, ValueSource};
pub use host::{Authority, Host, Origin};
pub use queries::QueryConfig;
pub use quotas::QuotaLimits;
pub use roles::{GrantConfig, RoleConfig, RoleLimits, RuleConfig};
pub(crate) use units::{parse_duration, parse_size};
pub use written::Written;

use crate::{
    rate::Rate,
    shadow::{DocumentLimits, index::IndexedPaths},
};

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The store: path and sizes.
    pub store: StoreConfig,
    /// The authentication of clients.
    pub auth: AuthConfig,
    /// At least one listener. Names differ, and so do addresses, apart from port 0.
    pub listeners: Vec<ListenerConfig>,
    /// The rules of roles, as written.
    pub rules: Vec<RuleConfig>,
    /// The limits of roles.
    pub roles: Vec<RoleConfig>,
    /// The grants of roles, as written.
    pub grants: Vec<GrantConfig>,
    /// The named queries, as written.
    pub queries: Vec<QueryConfig>,
    /// The limits of shadows, requests, connections and sessions.
    pub limits: Limits,
    /// The log: filter and format.
    pub log: LogConfig,
    /// The cluster; `None` for a single node.
    pub cluster: Option<ClusterSettings>,
    /// The whole configuration as written.
    pub written: Written,
}

/// The section `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The path of the store file.
    pub path: PathBuf,
    /// True to create the file if it is missing.
    pub create: bool,
    /// Bytes of the page cache.
    pub page_cache_bytes: usize,
    /// Bytes of the cache of decoded shadows.
    pub document_cache_bytes: usize,
    /// The size of the journal above which its oldest entries are removed, in bytes.
    pub journal_bytes_max: u64,
    /// The age above which a journal entry is removed.
    pub journal_age_max: Duration,
    /// Most journal entries not yet in the state table.
    pub lag_entries_max: u64,
    /// Most bytes of journal entries not yet in the state table.
    pub lag_bytes_max: u64,
    /// The free bytes on the disk below which writes are refused.
    pub free_disk_min: u64,
    /// The paths with an index.
    pub indexed: Arc<IndexedPaths>,
}

/// A section `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The name, for the log.
    pub name: String,
    /// The protocol.
    pub kind: ListenerKind,
    /// The address. For an anonymous listener it is a loopback address, unless the operator allowed others.
    pub bind: SocketAddr,
    /// True to accept clients without credentials.
    pub anonymous: bool,
    /// The role of clients without credentials, if any.
    pub anonymous_role: Option<Arc<str>>,
    /// The role of clients with a certificate, if any.
    pub certificate_role: Option<Arc<str>>,
    /// The time until a new connection must have sent its CONNECT or the head of its request. It includes everything
    /// before that. Also the longest idle time between two HTTP requests.
    pub connect_timeout: Duration,
    /// The networks whose connections must begin with a PROXY header.
    pub proxy_from: Vec<IpNet>,
    /// The TLS settings; `None` for plain TCP.
    pub tls: Option<TlsConfig>,
}

/// The `tls_…` keys of a listener: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate chain of the server.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The client certificates; `None` to request none.
    pub clients: Option<ClientTlsConfig>,
    /// Bytes of plaintext in a record that is sent.
    pub record_bytes_max: usize,
}

/// The `tls_client_…` keys of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTlsConfig {
    /// The certificate authorities of clients.
    pub ca: PathBuf,
    /// True to accept clients without a certificate.
    pub optional: bool,
    /// The revocation lists of these authorities.
    pub crl: Option<PathBuf>,
}

/// The protocol of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT.
    Mqtt,
    /// HTTP/1.1, with MQTT over WebSocket.
    Http(HttpConfig),
}

/// The keys that only an HTTP listener has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// The host names besides the loopback names, which a loopback listener always has. Other listeners need at least
    /// one.
    pub hosts: Vec<Host>,
    /// The other origins whose pages may use the listener.
    pub origins: Vec<Origin>,
    /// True to serve the metrics without authentication.
    pub metrics: bool,
}

/// The section `[limits]`; the default is the shipped one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most canonical bytes of `desired` and `reported` together.
    pub document_bytes_max: usize,
    /// Most canonical bytes of `tags`.
    pub tags_bytes_max: usize,
    /// Most leaves of a shadow; each array element counts.
    pub leaves_max: usize,
    /// Most levels of objects and arrays below a section.
    pub depth_max: usize,
    /// Most path tombstones of a shadow.
    pub path_tombstones_max: usize,
    /// Most shadow names of a device, including deleted ones whose tombstone is stored.
    pub shadow_names_max: usize,
    /// Most bytes of a packet from a client; the largest document fits.
    pub packet_bytes_max: usize,
    /// Most filters in one SUBSCRIBE.
    pub filters_per_subscribe_max: usize,
    /// Most filters of one session.
    pub filters_per_session_max: usize,
    /// Most requests in flight per principal and shadow.
    pub requests_in_flight_max: usize,
    /// The rate of requests per principal and shadow.
    pub requests: Rate,
    /// The rate of PUBLISH packets of one connection, above which it is throttled.
    pub publishes: Rate,
    /// The quotas of connections, principals, shadows and source addresses.
    pub quotas: QuotaLimits,
    /// Most bytes queued for one connected subscriber.
    pub outbox_bytes_max: usize,
    /// Most bytes of ordinary messages queued for a disconnected session.
    pub session_queue_bytes_max: usize,
    /// Most sessions, connected or not; at least `connections_max`.
    pub sessions_max: usize,
    /// The longest session expiry, in whole seconds.
    pub session_expiry_max: Duration,
    /// Most concurrent connections on all listeners together.
    pub connections_max: usize,
    /// Most QoS 1 and 2 messages of one client in flight.
    pub receive_maximum: NonZeroU16,
    /// The highest topic alias of a client.
    pub topic_alias_max: u16,
    /// The longest keep-alive, in whole seconds up to 65,535; at that, a client may also have none.
    pub keep_alive_max: Duration,
}

/// The log target of the lines about connections, so that `[log] level` can turn them off.
pub const CONNECTIONS_TARGET: &str = "umbrad::connections";

/// The section `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// The levels by module.
    pub filter: Targets,
    /// The format of a line.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Human,
    /// A JSON object.
    Json,
}

/// The values set by the command line, which override all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The value of `--store`.
    pub store: Option<String>,
    /// The values of `--bind`, one per listener.
    pub bind: Vec<String>,
}

impl Config {
    /// Reads the configuration from the defaults, `file`, the `UMBRA__…` variables of `environment`, and `arguments`;
    /// later sources win. Relative paths in `file` begin at its folder, all others at the working directory.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`]: unknown keys of the file, then those of the environment, then types, then ranges,
    /// then rules between values.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        arguments: &Arguments,
    ) -> Result<Self, ConfigError> {
        let mut layers = layers::Layers::read(file)?;
        layers.environment(environment.into_iter())?;
        layers.arguments(arguments)?;
        let raw = layers.merged()?;
        let place = |key: &str| layers.place(key).to_string();
        check::check(raw, layers.written(), place).map_err(|fault| layers.blame(fault))
    }
}

impl Config {
    /// Returns the error that `key` of a rule, grant or query, such as `rule[0].devices`, is invalid.
    #[must_use]
    pub fn invalid(&self, key: String, problem: String) -> ConfigError {
        ConfigError { place: self.written.place(&key), key: Some(key), problem: Problem::Invalid(problem) }
    }
}

impl Default for Config {
    /// Returns the shipped configuration.
    fn default() -> Self {
        Self::load(None, [], &Arguments::default()).expect("the shipped broker.toml is part of the program, and tested")
    }
}

impl Default for Limits {
    fn default() -> Self {
        Config::default().limits
    }
}

impl Limits {
    /// Returns the limits of one shadow.
    #[must_use]
    pub fn document(&self) -> DocumentLimits {
        DocumentLimits {
            document_bytes_max: self.document_bytes_max,
            tags_bytes_max: self.tags_bytes_max,
            leaves_max: self.leaves_max,
            depth_max: self.depth_max,
            path_tombstones_max: self.path_tombstones_max,
        }
    }
}
