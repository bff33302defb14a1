//! The checks that turn the written configuration into the checked one: ranges, and rules between values.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

use ipnet::IpNet;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    ClientTlsConfig, Config, Host, HttpConfig, Limits, ListenerConfig, ListenerKind, LogConfig, LogFormat, Origin,
    RuleConfig, StoreConfig, TlsConfig, Written, auth, cluster, derived,
    error::{Problem, UnlocatedError},
    limits::{self as hard, KIB, MIB},
    machine, queries, quotas,
    raw::{RawConfig, RawLimits, RawListener, RawLog, RawSearch, RawStore},
    roles,
    section::{DAY, MINUTE, SECOND, Section, checked, given},
    units::Size,
};
use crate::shadow::index::{IndexedPath, IndexedPaths, PATHS_MAX};

/// Checks the whole configuration; the first fault ends the check.
///
/// `place` returns the location of a key.
pub(super) fn check(
    raw: RawConfig,
    written: Written,
    place: impl Fn(&str) -> String,
) -> Result<Config, UnlocatedError> {
    let limits = limits(&raw.limits)?;
    let store = store(&raw.store, indexed(&raw.search)?)?;
    let rules = roles::rules(&raw, place);
    let roles = roles::roles(&raw, &rules)?;
    let auth = auth::check(&raw.auth)?;
    let listeners = raw.listener.iter().enumerate();
    let listeners = listeners.map(|(index, raw)| listener(index, raw, &rules)).collect::<Result<Vec<_>, _>>()?;
    check_packet(&limits)?;
    check_listeners(&listeners, raw.allow_anonymous_anywhere.0)?;
    let grants = roles::grants(&raw);
    let cluster = cluster::check(&raw.cluster, limits.packet_bytes_max)?;
    let queries = queries::queries(&raw.query)?;
    let log = log(&raw.log)?;
    Ok(Config { store, auth, listeners, rules, roles, grants, queries, limits, log, cluster, written })
}

fn store(raw: &RawStore, indexed: Arc<IndexedPaths>) -> Result<StoreConfig, UnlocatedError> {
    let at = Section("store".into());
    let memory = match raw.memory.0 {
        Some(memory) => at.number("memory", memory, hard::MEMORY_MIN..=hard::MEMORY_MAX)?,
        None => usize::try_from(derived::store_memory(machine::memory())).unwrap_or(usize::MAX),
    };
    let (page_cache_bytes, document_cache_bytes) = derived::caches(memory);
    let lag_bytes_max = checked!(at.number(raw.lag_bytes_max, 64 * KIB..=hard::LAG_BYTES_MAX));
    Ok(StoreConfig {
        path: at.filled("path", &raw.path)?.into(),
        create: raw.create.0,
        page_cache_bytes,
        document_cache_bytes,
        journal_bytes_max: checked!(at.number(raw.journal_bytes_max, 16 * MIB..=hard::JOURNAL_BYTES_MAX)),
        journal_age_max: checked!(at.duration(raw.journal_age_max, MINUTE..=hard::DAYS_MAX * DAY)),
        lag_entries_max: derived::lag_entries(lag_bytes_max),
        lag_bytes_max,
        free_disk_min: checked!(at.number(raw.free_disk_min, 0..=hard::JOURNAL_BYTES_MAX)),
        indexed,
    })
}

fn indexed(raw: &RawSearch) -> Result<Arc<IndexedPaths>, UnlocatedError> {
    let at = Section("search".into());
    let wanted = "a path such as \"reported.firmware\" or \"tags.*\"";
    let paths = at.each("indexed", &raw.indexed, wanted, |text| text.parse::<IndexedPath>().ok())?;
    if paths.len() > PATHS_MAX {
        return Err(at.invalid("indexed", format!("has {} paths, at most {PATHS_MAX} are allowed", paths.len())));
    }
    let mut others = paths.iter().enumerate().map(|(index, path)| (path, paths.get(..index).unwrap_or_default()));
    match others.find(|(path, before)| before.contains(path)) {
        Some((path, _)) => Err(at.invalid("indexed", format!("has {path} more than once"))),
        None => Ok(Arc::new(IndexedPaths::new(paths))),
    }
}

fn listener(index: usize, raw: &RawListener, rules: &[RuleConfig]) -> Result<ListenerConfig, UnlocatedError> {
    let at = Section(format!("listener[{index}]"));
    let name = at.filled("name", &raw.name)?;
    if name.chars().count() > 64 {
        return Err(at.invalid("name", "is longer than 64 characters".into()));
    }
    let bind = raw.bind.0.parse::<SocketAddr>().map_err(|_| {
        at.invalid("bind", format!("is {:?}, but must be an IP address and a port, such as 127.0.0.1:1883", raw.bind.0))
    })?;
    let network = "a network or an address, such as \"10.0.0.0/8\"";
    Ok(ListenerConfig {
        name,
        kind: kind(&at, raw, bind)?,
        bind,
        anonymous: raw.anonymous.0,
        anonymous_role: roles::role(&at, "anonymous_role", &raw.anonymous_role, rules)?,
        certificate_role: roles::role(&at, "certificate_role", &raw.certificate_role, rules)?,
        connect_timeout: checked!(at.duration(raw.connect_timeout, 100..=5 * MINUTE)),
        proxy_from: at.each("proxy_from", &raw.proxy_from, network, networks)?,
        tls: tls(&at, raw)?,
    })
}

/// Checks the kind of a listener. An HTTP listener needs a host, since requests for other hosts are refused.
fn kind(at: &Section, raw: &RawListener, bind: SocketAddr) -> Result<ListenerKind, UnlocatedError> {
    let http = at.choice("kind", &raw.kind, &[("mqtt", false), ("http", true)])?;
    let only = [("hosts", &raw.hosts), ("origins", &raw.origins)];
    if let Some((key, _)) = only.into_iter().find(|(_, list)| !http && !list.0.is_empty()) {
        return Err(at.invalid(key, "is set, but is for kind = \"http\" only".into()));
    }
    if raw.metrics.0 && !http {
        return Err(at.invalid("metrics", "is set, but is for kind = \"http\" only".into()));
    }
    let host = "a name or an address without scheme and port, such as \"umbra.example.com\"";
    let origin = "a scheme and a host, such as \"https://app.example.com\"";
    let hosts = at.each("hosts", &raw.hosts, host, Host::parse)?;
    let origins = at.each("origins", &raw.origins, origin, Origin::parse)?;
    if http && hosts.is_empty() && !is_loopback(bind) {
        let detail = format!("is empty, but a listener on {bind} needs one: requests for any other host are refused");
        return Err(at.invalid("hosts", detail));
    }
    Ok(if http {
        ListenerKind::Http(HttpConfig { hosts, origins, metrics: raw.metrics.0 })
    } else {
        ListenerKind::Mqtt
    })
}

fn networks(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn is_loopback(bind: SocketAddr) -> bool {
    bind.ip().to_canonical().is_loopback()
}

fn tls(at: &Section, raw: &RawListener) -> Result<Option<TlsConfig>, UnlocatedError> {
    let clients = client_tls(at, raw)?;
    let record_bytes_max =
        checked!(at.number(raw.tls_record_bytes_max, hard::TLS_RECORD_BYTES_MIN..=hard::TLS_RECORD_BYTES_MAX));
    match (given(&raw.tls_certificate), given(&raw.tls_key)) {
        (Some(certificate), Some(key)) => Ok(Some(TlsConfig { certificate, key, clients, record_bytes_max })),
        (Some(_), None) => Err(at.invalid("tls_key", "is empty, but tls_certificate is not".into())),
        (None, Some(_)) => Err(at.invalid("tls_certificate", "is empty, but tls_key is not".into())),
        (None, None) if clients.is_some() => {
            Err(at.invalid("tls_client_ca", "is set, but tls_certificate and tls_key are not".into()))
        }
        (None, None) => Ok(None),
    }
}

fn client_tls(at: &Section, raw: &RawListener) -> Result<Option<ClientTlsConfig>, UnlocatedError> {
    // If not set, it follows from whether a client without a certificate could authenticate.
    let optional = match raw.tls_client_auth.0.as_str() {
        "" => raw.anonymous.0,
        _ => at.choice("tls_client_auth", &raw.tls_client_auth, &[("optional", true), ("required", false)])?,
    };
    if let Some(ca) = given(&raw.tls_client_ca) {
        return Ok(Some(ClientTlsConfig { ca, optional, crl: given(&raw.tls_client_crl) }));
    }
    let of_a_ca = [("tls_client_auth", &raw.tls_client_auth), ("tls_client_crl", &raw.tls_client_crl)];
    match of_a_ca.into_iter().find(|(_, text)| !text.0.is_empty()) {
        Some((key, _)) => Err(at.invalid(key, "is set, but tls_client_ca is not".into())),
        None => Ok(None),
    }
}

fn limits(raw: &RawLimits) -> Result<Limits, UnlocatedError> {
    let at = Section("limits".into());
    let document_bytes_max = checked!(at.number(raw.document_bytes_max, 64..=hard::DOCUMENT_BYTES_MAX));
    let outbox_bytes_max = checked!(at.number(raw.outbox_bytes_max, 16 * KIB..=hard::QUEUE_BYTES_MAX));
    let receive_maximum = checked!(at.number(raw.receive_maximum, 1..=hard::RECEIVE_MAXIMUM_MAX));
    let packet_bytes_max = checked!(at.number(raw.packet_bytes_max, KIB..=hard::PACKET_BYTES_MAX));
    let quotas = quotas::quotas(&at, raw, packet_bytes_max)?;
    let connections_max = checked!(at.number(raw.connections_max, 1..=hard::CONNECTIONS_MAX));
    Ok(Limits {
        document_bytes_max,
        tags_bytes_max: document_bytes_max,
        leaves_max: derived::leaves(raw.document_bytes_max.0),
        depth_max: checked!(at.number(raw.depth_max, 1..=hard::DEPTH_MAX)),
        path_tombstones_max: derived::PATH_TOMBSTONES,
        shadow_names_max: checked!(at.number(raw.shadow_names_max, 1..=hard::SHADOW_NAMES_MAX)),
        packet_bytes_max,
        filters_per_subscribe_max: derived::FILTERS_PER_SUBSCRIBE,
        filters_per_session_max: derived::FILTERS_PER_SESSION,
        requests_in_flight_max: derived::requests_in_flight(raw.requests_rate),
        requests: checked!(at.rate(raw.requests_rate, hard::REQUESTS_RATE)),
        publishes: checked!(at.rate(raw.publishes_rate, hard::PUBLISHES_RATE)),
        outbox_bytes_max,
        session_queue_bytes_max: outbox_bytes_max,
        sessions_max: derived::sessions(quotas.memory, connections_max),
        quotas,
        session_expiry_max: checked!(at.seconds(raw.session_expiry_max, 0..=hard::DAYS_MAX * DAY)),
        connections_max,
        receive_maximum: NonZeroU16::new(receive_maximum).unwrap_or(NonZeroU16::MIN),
        topic_alias_max: derived::TOPIC_ALIASES,
        keep_alive_max: checked!(at.seconds(raw.keep_alive_max, 10 * SECOND..=hard::KEEP_ALIVE_SECONDS_MAX * SECOND)),
    })
}

fn log(raw: &RawLog) -> Result<LogConfig, UnlocatedError> {
    let at = Section("log".into());
    // `Targets` would take a misspelt level for a module name and log nothing else.
    let is_level = |part: &str| part.rsplit('=').next().is_some_and(|level| level.parse::<LevelFilter>().is_ok());
    let text = &raw.level.0;
    let filter = text.parse::<Targets>().ok().filter(|_| text.split(',').all(is_level)).ok_or_else(|| {
        let wanted = "off, error, warn, info, debug or trace, or a list such as \"info,umbrad::store=debug\"";
        at.invalid("level", format!("is {text:?}, but must be {wanted}"))
    })?;
    let filter = without_tls_warnings(filter, text);
    let formats = [("human", LogFormat::Human), ("json", LogFormat::Json)];
    Ok(LogConfig { filter, format: at.choice("format", &raw.format, &formats)? })
}

/// Returns `filter`, written as `text`, without the warnings of the TLS library unless the text names it: any peer can
/// cause them.
fn without_tls_warnings(filter: Targets, text: &str) -> Targets {
    let named = text.split(',').any(|part| part.trim().starts_with("rustls"));
    let everything = filter.default_level().unwrap_or(LevelFilter::OFF);
    if named { filter } else { filter.with_target("rustls", everything.min(LevelFilter::ERROR)) }
}

/// Checks that the largest document fits a packet; otherwise a client could not send back a shadow that it received.
fn check_packet(limits: &Limits) -> Result<(), UnlocatedError> {
    let least = (limits.document_bytes_max + limits.tags_bytes_max) as u64 + hard::ENVELOPE_BYTES;
    if limits.packet_bytes_max as u64 >= least {
        return Ok(());
    }
    let (given, least) = (Size(limits.packet_bytes_max as u64), Size(least));
    let sum = "twice document_bytes_max and 4 KiB around it";
    Err(Section("limits".into())
        .invalid("packet_bytes_max", format!("is {given}, but must be at least {least}: {sum}")))
}

fn check_listeners(listeners: &[ListenerConfig], anonymous_anywhere: bool) -> Result<(), UnlocatedError> {
    if listeners.is_empty() || listeners.len() > hard::LISTENERS_MAX {
        let detail = format!("is there {} times, but must be 1 to {} times", listeners.len(), hard::LISTENERS_MAX);
        return Err(UnlocatedError::new("listener", Problem::Invalid(detail)));
    }
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    for (index, listener) in listeners.iter().enumerate() {
        let (at, bind) = (Section(format!("listener[{index}]")), listener.bind);
        if !names.insert(&listener.name) {
            return Err(at.invalid("name", format!("is {:?}, as that of another listener", listener.name)));
        }
        if bind.port() != 0 && !addresses.insert(bind) {
            return Err(at.invalid("bind", format!("is {bind}, as that of another listener")));
        }
        if listener.anonymous && !is_loopback(bind) && !anonymous_anywhere {
            let ways = "bind it to a loopback address, or set allow_anonymous_anywhere = true";
            return Err(at.invalid("bind", format!("is {bind}, where anybody may connect anonymously; {ways}")));
        }
    }
    Ok(())
}
