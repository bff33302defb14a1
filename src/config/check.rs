//! The checks that turn the written configuration into the checked one: ranges, and rules between values.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    CONNECTIONS_TARGET, ClientTlsConfig, Config, Host, HttpConfig, Limits, ListenerConfig, ListenerKind, LogConfig,
    LogFormat, Origin, RuleConfig, StoreConfig, TlsConfig, Written, auth,
    error::{Problem, UnlocatedError},
    quotas,
    raw::{RawConfig, RawLimits, RawListener, RawLog, RawStore},
    roles,
    units::{Count, List, Period, Size, Text},
};
use crate::config::limits::{self as hard, KIB, MIB};

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const DAY: u64 = 24 * 60 * MINUTE;

/// Checks the value of a key by a method of [`Section`], which receives the name of the key and a range:
/// `checked!(at.number(raw.key, range))`.
macro_rules! checked {
    ($at:ident.$check:ident($raw:ident.$key:ident, $range:expr)) => {
        $at.$check(stringify!($key), $raw.$key, $range)?
    };
}
pub(super) use checked;

/// Checks the whole configuration; the first fault ends the check.
///
/// `place` returns the location of a key.
pub(super) fn check(
    raw: RawConfig,
    written: Written,
    place: impl Fn(&str) -> String,
) -> Result<Config, UnlocatedError> {
    let limits = limits(&raw.limits)?;
    let store = store(&raw.store)?;
    let rules = roles::rules(&raw, place);
    let auth = auth::check(&raw.auth)?;
    let listeners = raw.listener.iter().enumerate();
    let listeners = listeners.map(|(index, raw)| listener(index, raw, &rules)).collect::<Result<Vec<_>, _>>()?;
    check_packet(&limits)?;
    check_sessions(&limits)?;
    check_listeners(&listeners, raw.allow_anonymous_anywhere.0)?;
    Ok(Config { store, auth, listeners, rules, grants: roles::grants(&raw), limits, log: log(&raw.log)?, written })
}

fn store(raw: &RawStore) -> Result<StoreConfig, UnlocatedError> {
    let at = Section("store".into());
    Ok(StoreConfig {
        path: at.filled("path", &raw.path)?.into(),
        cache_bytes: checked!(at.number(raw.cache_bytes, MIB..=hard::CACHE_BYTES_MAX)),
        document_cache_bytes: checked!(at.number(raw.document_cache_bytes, MIB..=hard::CACHE_BYTES_MAX)),
        quick_repair: raw.quick_repair.0,
        journal_bytes_max: checked!(at.number(raw.journal_bytes_max, 16 * MIB..=hard::JOURNAL_BYTES_MAX)),
        journal_age_max: checked!(at.duration(raw.journal_age_max, MINUTE..=hard::DAYS_MAX * DAY)),
        lag_entries_max: checked!(at.number(raw.lag_entries_max, 1..=hard::LAG_ENTRIES_MAX)),
        lag_bytes_max: checked!(at.number(raw.lag_bytes_max, 64 * KIB..=hard::LAG_BYTES_MAX)),
        free_disk_min: checked!(at.number(raw.free_disk_min, 0..=hard::JOURNAL_BYTES_MAX)),
    })
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
        connections_max: checked!(at.number(raw.connections_max, 1..=hard::CONNECTIONS_MAX)),
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

/// Returns the value of a text; `None` if it is empty.
pub(super) fn given<T: From<String>>(text: &Text) -> Option<T> {
    (!text.0.is_empty()).then(|| text.0.clone().into())
}

fn limits(raw: &RawLimits) -> Result<Limits, UnlocatedError> {
    let at = Section("limits".into());
    let document = 64..=hard::DOCUMENT_BYTES_MAX;
    let rate = 1..=hard::REQUESTS_PER_SECOND_MAX;
    let receive_maximum = checked!(at.number(raw.receive_maximum, 1..=hard::RECEIVE_MAXIMUM_MAX));
    Ok(Limits {
        document_bytes_max: checked!(at.number(raw.document_bytes_max, document.clone())),
        tags_bytes_max: checked!(at.number(raw.tags_bytes_max, document)),
        leaves_max: checked!(at.number(raw.leaves_max, 1..=hard::LEAVES_MAX)),
        depth_max: checked!(at.number(raw.depth_max, 1..=hard::DEPTH_MAX)),
        path_tombstones_max: checked!(at.number(raw.path_tombstones_max, 0..=hard::PATH_TOMBSTONES_MAX)),
        shadow_names_max: checked!(at.number(raw.shadow_names_max, 1..=hard::SHADOW_NAMES_MAX)),
        packet_bytes_max: checked!(at.number(raw.packet_bytes_max, KIB..=hard::PACKET_BYTES_MAX)),
        topic_bytes_max: checked!(at.number(raw.topic_bytes_max, hard::TOPIC_BYTES_MIN..=hard::TOPIC_BYTES_MAX)),
        filters_per_subscribe_max: checked!(
            at.number(raw.filters_per_subscribe_max, 1..=hard::FILTERS_PER_SUBSCRIBE_MAX)
        ),
        filters_per_session_max: checked!(at.number(raw.filters_per_session_max, 1..=hard::FILTERS_PER_SESSION_MAX)),
        requests_in_flight_max: checked!(at.number(raw.requests_in_flight_max, 1..=hard::REQUESTS_IN_FLIGHT_MAX)),
        requests_per_second: checked!(at.number(raw.requests_per_second, rate.clone())),
        requests_burst: checked!(at.number(raw.requests_burst, rate)),
        publishes_per_second: checked!(at.number(raw.publishes_per_second, 1..=hard::PUBLISHES_PER_SECOND_MAX)),
        publishes_burst: checked!(at.number(raw.publishes_burst, 1..=hard::PUBLISHES_PER_SECOND_MAX)),
        quotas: quotas::quotas(&at, raw)?,
        outbox_bytes_max: checked!(at.number(raw.outbox_bytes_max, 16 * KIB..=hard::QUEUE_BYTES_MAX)),
        session_queue_bytes_max: checked!(at.number(raw.session_queue_bytes_max, 0..=hard::QUEUE_BYTES_MAX)),
        retained_messages_max: checked!(at.number(raw.retained_messages_max, 0..=hard::RETAINED_MESSAGES_MAX)),
        retained_bytes_max: checked!(at.number(raw.retained_bytes_max, 0..=hard::RETAINED_BYTES_MAX)),
        sessions_max: checked!(at.number(raw.sessions_max, 1..=hard::SESSIONS_MAX)),
        session_expiry_max: checked!(at.seconds(raw.session_expiry_max, 0..=hard::DAYS_MAX * DAY)),
        connections_max: checked!(at.number(raw.connections_max, 1..=hard::CONNECTIONS_MAX)),
        receive_maximum: NonZeroU16::new(receive_maximum).unwrap_or(NonZeroU16::MIN),
        topic_alias_max: checked!(at.number(raw.topic_alias_max, 0..=hard::TOPIC_ALIAS_MAX)),
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
    let filter = without_strangers(filter, text, raw.connections.0);
    let formats = [("human", LogFormat::Human), ("json", LogFormat::Json)];
    Ok(LogConfig { filter, format: at.choice("format", &raw.format, &formats)? })
}

/// Leaves out of `filter`, which is written as `text`, what is not wanted unless it is asked for: lines about who connects, if
/// not `connections`, and the warnings of the TLS library, which any stranger can cause and nobody can act on.
fn without_strangers(filter: Targets, text: &str, connections: bool) -> Targets {
    let names = |target: &str| text.split(',').any(|part| part.trim().starts_with(target));
    let filter = if connections { filter } else { filter.with_target(CONNECTIONS_TARGET, LevelFilter::OFF) };
    let everything = filter.default_level().unwrap_or(LevelFilter::OFF);
    if names("rustls") { filter } else { filter.with_target("rustls", everything.min(LevelFilter::ERROR)) }
}

/// Checks that the largest document fits a packet; otherwise a client could not send back a shadow that it received.
fn check_packet(limits: &Limits) -> Result<(), UnlocatedError> {
    let least = (limits.document_bytes_max + limits.tags_bytes_max) as u64 + hard::ENVELOPE_BYTES;
    if limits.packet_bytes_max as u64 >= least {
        return check_input(limits);
    }
    let (given, least) = (Size(limits.packet_bytes_max as u64), Size(least));
    let sum = "document_bytes_max, tags_bytes_max and 4 KiB around them";
    Err(Section("limits".into())
        .invalid("packet_bytes_max", format!("is {given}, but must be at least {least}: {sum}")))
}

/// Checks that the largest packet fits the input budgets, with its framing.
fn check_input(limits: &Limits) -> Result<(), UnlocatedError> {
    let least = 2 * limits.packet_bytes_max;
    let budgets = [
        ("principal_input_bytes_max", limits.quotas.principal_input_bytes_max),
        ("input_bytes_max", limits.quotas.input_bytes_max),
    ];
    match budgets.into_iter().find(|(_, bytes)| *bytes < least) {
        None => Ok(()),
        Some((key, given)) => {
            let (given, least) = (Size(given as u64), Size(least as u64));
            let told = format!("is {given}, but must be at least {least}: twice packet_bytes_max");
            Err(Section("limits".into()).invalid(key, told))
        }
    }
}

/// Checks that there is a session for every connection.
fn check_sessions(limits: &Limits) -> Result<(), UnlocatedError> {
    if limits.sessions_max >= limits.connections_max {
        return Ok(());
    }
    let detail =
        format!("is {}, but must be at least connections_max, {}", limits.sessions_max, limits.connections_max);
    Err(Section("limits".into()).invalid("sessions_max", detail))
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

/// A section of the configuration, by its name in a [`UnlocatedError`].
pub(super) struct Section(pub(super) String);

impl Section {
    fn fault(&self, key: &str, problem: Problem) -> UnlocatedError {
        UnlocatedError::new(format!("{}.{key}", self.0), problem)
    }

    pub(super) fn invalid(&self, key: &str, detail: String) -> UnlocatedError {
        self.fault(key, Problem::Invalid(detail))
    }

    /// Returns a value within `range`, which must be within `T`.
    pub(super) fn number<T: TryFrom<u64>, A: Ranged>(
        &self,
        key: &str,
        value: A,
        range: RangeInclusive<u64>,
    ) -> Result<T, UnlocatedError> {
        let admitted = range.contains(&value.amount()).then(|| T::try_from(value.amount()).ok());
        admitted.flatten().ok_or_else(|| {
            let [value, least, most] = [value.amount(), *range.start(), *range.end()].map(A::shown);
            self.fault(key, Problem::Range { value, range: format!("{least} to {most}") })
        })
    }

    /// Returns a duration within `range`, in milliseconds.
    pub(super) fn duration(
        &self,
        key: &str,
        value: Period,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, UnlocatedError> {
        self.number(key, value, range).map(Duration::from_millis)
    }

    /// Returns a duration of whole seconds, since the protocol has no smaller unit.
    pub(super) fn seconds(
        &self,
        key: &str,
        value: Period,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, UnlocatedError> {
        match self.duration(key, value, range)? {
            duration if duration.subsec_millis() == 0 => Ok(duration),
            _ => Err(self.invalid(key, format!("is {value}, but must be whole seconds"))),
        }
    }

    pub(super) fn filled(&self, key: &str, value: &Text) -> Result<String, UnlocatedError> {
        match value.0.as_str() {
            "" => Err(self.invalid(key, "is empty".into())),
            text => Ok(text.to_owned()),
        }
    }

    /// Returns the values of a list, each parsed by `parse`; `wanted` describes what it accepts.
    fn each<T>(
        &self,
        key: &str,
        list: &List,
        wanted: &str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, UnlocatedError> {
        if list.0.len() > hard::LISTED_MAX {
            let detail = format!("has {} values, but must have at most {}", list.0.len(), hard::LISTED_MAX);
            return Err(self.invalid(key, detail));
        }
        let parsed = list
            .0
            .iter()
            .map(|text| parse(text).ok_or_else(|| self.invalid(key, format!("has {text:?}, but must have {wanted}"))));
        parsed.collect()
    }

    pub(super) fn choice<T: Copy>(&self, key: &str, value: &Text, choices: &[(&str, T)]) -> Result<T, UnlocatedError> {
        let chosen = choices.iter().find(|(name, _)| *name == value.0).map(|(_, choice)| *choice);
        chosen.ok_or_else(|| {
            let names = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ");
            self.invalid(key, format!("is {:?}, but must be {names}", value.0))
        })
    }
}

/// A scalar with a range.
pub(super) trait Ranged: Copy {
    fn amount(self) -> u64;
    /// Returns an amount as it would be written.
    fn shown(amount: u64) -> String;
}

impl Ranged for Count {
    fn amount(self) -> u64 {
        self.0
    }

    fn shown(amount: u64) -> String {
        amount.to_string()
    }
}

impl Ranged for Size {
    fn amount(self) -> u64 {
        self.0
    }

    fn shown(amount: u64) -> String {
        Self(amount).to_string()
    }
}

impl Ranged for Period {
    fn amount(self) -> u64 {
        self.0
    }

    fn shown(amount: u64) -> String {
        Self(amount).to_string()
    }
}
