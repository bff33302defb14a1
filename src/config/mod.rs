//! The configuration: read from the shipped `broker.toml`, the operator's file, the environment and the command line,
//! each over the one before, and checked before anything is opened or bound.
//!
//! [`Config`] is what the rest of the server sees: every value in its type and within its range, and every rule
//! between two values kept. A [`ConfigError`] names the file and line, or the variable or argument, and the key.
//!
//! `known` has the keys that exist, `file` the lines they stand on, `layers` lays the sources together into `raw`'s
//! structures, `units` reads sizes and durations, `check` turns raw into checked, `auth` what is in `[auth]`, `quotas`
//! the quotas in `[limits]`, `roles` rules and grants, `written` tells two configurations apart. The most a limit may
//! be set to is [`crate::limits`]'.

mod auth;
mod check;
mod error;
mod file;
mod host;
mod known;
mod layers;
mod quotas;
mod raw;
mod roles;
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
pub use error::{ConfigError, Place, Problem};
pub use host::{Authority, Host, Origin};
pub use quotas::QuotaLimits;
pub(crate) use units::parse_duration;
pub use written::Written;

use crate::{auth::Policy, shadow::DocumentLimits};

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where and how shadows are stored.
    pub store: StoreConfig,
    /// How clients become known.
    pub auth: AuthConfig,
    /// At least one; names and addresses differ, ports 0 apart.
    pub listeners: Vec<ListenerConfig>,
    /// Which roles there are, and who has them.
    pub policy: Policy,
    /// What a shadow, a request, a connection and a session may take.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: LogConfig,
    /// All of it as it is written.
    pub written: Written,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store file.
    pub path: PathBuf,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
    /// Memory of decoded shadows, in bytes.
    pub document_cache_bytes: usize,
    /// Whether each commit saves what lets the file open at once after a crash.
    pub quick_repair: bool,
    /// Journal bytes above which its oldest entries go.
    pub journal_bytes_max: u64,
    /// Age above which a journal entry goes.
    pub journal_age_max: Duration,
    /// Journal entries that may not yet be in the state table.
    pub lag_entries_max: u64,
    /// Bytes of journal entries that may not yet be in the state table.
    pub lag_bytes_max: u64,
    /// Free bytes on the disk below which writes are refused.
    pub free_disk_min: u64,
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// For the log.
    pub name: String,
    /// What it serves.
    pub kind: ListenerKind,
    /// Where it listens; a loopback address if it is anonymous, unless the operator allowed others.
    pub bind: SocketAddr,
    /// Whether clients connect without credentials.
    pub anonymous: bool,
    /// The role they have then, if any.
    pub anonymous_role: Option<Arc<str>>,
    /// The role of clients with a certificate, if any.
    pub certificate_role: Option<Arc<str>>,
    /// Its connections at once.
    pub connections_max: usize,
    /// How long a new connection may take to send its CONNECT or the head of its request, all that comes before
    /// included; and how long one of HTTP may rest between requests.
    pub connect_timeout: Duration,
    /// Who must send a PROXY header before anything else.
    pub proxy_from: Vec<IpNet>,
    /// `None`: plain TCP.
    pub tls: Option<TlsConfig>,
}

/// The `tls_…` keys of a listener: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What clients must show; `None`: they are not asked for a certificate.
    pub clients: Option<ClientTlsConfig>,
    /// Bytes of plaintext in a record that is sent.
    pub record_bytes_max: usize,
}

/// The `tls_client_…` keys of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTlsConfig {
    /// The authorities that certificates must come from.
    pub ca: PathBuf,
    /// Whether a client without a certificate is let in.
    pub optional: bool,
    /// Revocation lists of those authorities.
    pub crl: Option<PathBuf>,
}

/// What a listener serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT.
    Mqtt,
    /// HTTP/1.1, with MQTT over WebSocket in it.
    Http(HttpConfig),
}

/// The keys of a listener for HTTP alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// What it is called besides the loopback names, which a listener on loopback always has; elsewhere at least one.
    pub hosts: Vec<Host>,
    /// Other origins whose pages may use it.
    pub origins: Vec<Origin>,
    /// Whether whoever reaches it may read the metrics.
    pub metrics: bool,
}

/// `[limits]`; the default is the shipped one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Canonical bytes of `desired` and `reported` together.
    pub document_bytes_max: usize,
    /// Canonical bytes of `tags`.
    pub tags_bytes_max: usize,
    /// Leaves of a shadow, array elements counted.
    pub leaves_max: usize,
    /// Levels of objects and arrays below a section.
    pub depth_max: usize,
    /// Removed paths a shadow remembers.
    pub path_tombstones_max: usize,
    /// Shadow names of a device, deleted ones counted.
    pub shadow_names_max: usize,
    /// Bytes of a packet from a client; the largest document fits.
    pub packet_bytes_max: usize,
    /// Bytes of a topic name or filter.
    pub topic_bytes_max: usize,
    /// Filters in one SUBSCRIBE.
    pub filters_per_subscribe_max: usize,
    /// Filters of one session.
    pub filters_per_session_max: usize,
    /// Undecided requests per principal and shadow.
    pub requests_in_flight_max: usize,
    /// Requests a second per principal and shadow, on average.
    pub requests_per_second: u32,
    /// Requests at once per principal and shadow, after a pause.
    pub requests_burst: u32,
    /// PUBLISH packets a second from one connection, above which reading pauses.
    pub publishes_per_second: u32,
    /// What a connection, a principal, a shadow and a source address may do.
    pub quotas: QuotaLimits,
    /// Bytes that wait for one connected subscriber.
    pub outbox_bytes_max: usize,
    /// Bytes of plain messages that wait for one session without a connection.
    pub session_queue_bytes_max: usize,
    /// Retained plain messages.
    pub retained_messages_max: usize,
    /// Memory of retained plain messages, in bytes.
    pub retained_bytes_max: usize,
    /// Sessions, connected or not; at least `connections_max`.
    pub sessions_max: usize,
    /// How long a session may outlive its connection, in whole seconds.
    pub session_expiry_max: Duration,
    /// Connections at once, on all listeners together.
    pub connections_max: usize,
    /// QoS 1 and 2 messages of one client handled at once.
    pub receive_maximum: NonZeroU16,
    /// Topic aliases a client may set.
    pub topic_alias_max: u16,
    /// Longest keep-alive, in whole seconds up to 65,535; at that, a client may also have none.
    pub keep_alive_max: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Level, by module.
    pub filter: Targets,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object.
    Json,
}

/// What the command line sets; wins over everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `--store`
    pub store: Option<String>,
    /// `--bind`, each in place of a listener.
    pub bind: Vec<String>,
}

impl Config {
    /// Reads the configuration: the defaults, `file` over them, then `UMBRA__…` of `environment`, then `arguments`.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] found: unknown keys of the file first, then those of the environment, then types, then
    /// ranges, then rules between values.
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

impl Default for Config {
    /// The shipped configuration.
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
    /// Those of one shadow.
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
