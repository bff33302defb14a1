//! The section `[cluster]`: this node's place among several, and the NATS servers that keep their log.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use super::{
    Host, derived,
    error::UnlocatedError,
    limits as hard,
    raw::RawCluster,
    section::{DAY, MINUTE, Section, checked, given},
};

/// The section `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The name of the cluster: 1 to 32 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// The number of this node, unique in the cluster: 1 to 255.
    pub node: u64,
    /// The addresses of the NATS servers, at least one, such as `tls://nats-1.example:4222`; all of the same scheme, none twice.
    pub servers: Vec<String>,
    /// True if the addresses are `tls://`.
    pub tls: bool,
    /// The file with the credentials; `None` for no authentication.
    pub credentials_file: Option<PathBuf>,
    /// The file with the authorities of the servers' certificates; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// The size above which the oldest records of the log are removed, in bytes.
    pub log_bytes_max: u64,
    /// The age above which records are removed.
    pub log_age_max: Duration,
    /// True to accept servers that may lose acknowledged records when they lose power, and a single one.
    pub allow_unsafe_sync: bool,
    /// Most bytes of a record, or of a message between nodes.
    pub record_bytes_max: usize,
}

/// Checks the section; `None` if it names no server. `packet_bytes_max` is the largest packet of a client.
pub(super) fn check(raw: &RawCluster, packet_bytes_max: usize) -> Result<Option<ClusterSettings>, UnlocatedError> {
    let at = Section("cluster".into());
    let wanted = "addresses such as \"tls://nats-1.example:4222\" or \"nats://127.0.0.1:4222\"";
    let servers = at.each("nats", &raw.nats, wanted, NatsAddress::parse)?;
    let Some(NatsAddress { tls, .. }) = servers.first() else {
        return without_servers(&at, raw).map(|()| None);
    };
    if let Some(other) = servers.iter().find(|server| server.tls != *tls) {
        return Err(at.invalid("nats", format!("has {:?} beside another scheme: all need the same", other.url())));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = servers.iter().map(NatsAddress::url).find(|url| !seen.insert(url.clone())) {
        return Err(at.invalid("nats", format!("has {twice:?} twice")));
    }
    let ca_file = given(&raw.ca_file);
    if ca_file.is_some() && !tls {
        return Err(at.invalid("ca_file", "is set, but the addresses in nats are not tls://".into()));
    }
    let name = &raw.name.0;
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_name_byte) {
        return Err(at.invalid("name", format!("is {name:?}, but must be 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ -")));
    }
    Ok(Some(ClusterSettings {
        name: name.clone(),
        node: checked!(at.number(raw.node, 1..=hard::NODE_MAX)),
        tls: *tls,
        servers: servers.iter().map(NatsAddress::url).collect(),
        credentials_file: given(&raw.credentials_file),
        ca_file,
        log_bytes_max: checked!(at.number(raw.log_bytes_max, 256 * hard::MIB..=hard::JOURNAL_BYTES_MAX)),
        log_age_max: checked!(at.duration(raw.log_age_max, MINUTE..=hard::DAYS_MAX * DAY)),
        allow_unsafe_sync: raw.allow_unsafe_sync.0,
        record_bytes_max: derived::record_bytes(packet_bytes_max),
    }))
}

/// Refuses keys that have no effect without a server: an operator who sets them expects a cluster.
fn without_servers(at: &Section, raw: &RawCluster) -> Result<(), UnlocatedError> {
    let set = [
        ("node", raw.node.0 != 0),
        ("credentials_file", !raw.credentials_file.0.is_empty()),
        ("ca_file", !raw.ca_file.0.is_empty()),
        ("allow_unsafe_sync", raw.allow_unsafe_sync.0),
    ];
    match set.into_iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(at.invalid(key, "is set, but nats is empty".into())),
        None => Ok(()),
    }
}

/// The address of a NATS server.
struct NatsAddress {
    tls: bool,
    host: Host,
    port: u16,
}

impl NatsAddress {
    /// Parses `nats://host:port` or `tls://host:port`; the port may be left out. Credentials in an address are refused, since
    /// addresses are logged.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let tls = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return None,
        };
        let super::Authority { host, port } = super::Authority::parse(authority)?;
        Some(Self { tls, host, port: port.unwrap_or(NATS_PORT) })
    }

    fn url(&self) -> String {
        format!("{}://{}:{}", if self.tls { "tls" } else { "nats" }, self.host, self.port)
    }
}

const NAME_BYTES_MAX: usize = 32;
const NATS_PORT: u16 = 4222;
