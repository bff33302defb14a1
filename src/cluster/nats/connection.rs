//! The connection to one of the servers.
//!
//! The client reconnects by itself, to the configured servers in turn, and to no others. It notices a server that does not
//! answer by pings.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ReconnectToServer};

use super::{RETRY_PAUSE, patience::Patience};
use crate::{cluster::ClusterError, config::ClusterSettings, private_file};

/// The interval of pings; a connection ends after two without an answer.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The time for a connection with its TLS handshake and greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause between two tries to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Commands in the queue of the client.
const COMMANDS_MAX: usize = 256;
/// Messages in the queue of a subscription. In bytes, a follower's queue is bounded by flow control, and the bus by its reader.
const MESSAGES_MAX: usize = 1 << 17;

/// Connects to one of the servers.
pub(super) async fn connect(settings: &ClusterSettings, patience: &mut Patience<'_>) -> Result<Client, ClusterError> {
    let turn = Arc::new(AtomicUsize::new(0));
    // Nodes with the same list begin at different servers.
    let mut servers = settings.servers.clone();
    let first = usize::try_from(settings.node).ok().and_then(|node| node.checked_rem(servers.len()));
    servers.rotate_left(first.unwrap_or_default());
    loop {
        // Read again at each try: the options are consumed, and the file may be replaced meanwhile.
        let options = options(settings, Arc::clone(&turn))?;
        let error = match options.connect(servers.as_slice()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                return Err(ClusterError::Refused { servers: settings.servers.join(", ") });
            }
            _ => patience.wait("no NATS server can be used", error.to_string()).await?,
        }
    }
}

fn options(settings: &ClusterSettings, turn: Arc<AtomicUsize>) -> Result<ConnectOptions, ClusterError> {
    let mut options = ConnectOptions::new()
        .name(format!("umbra {} node {}", settings.name, settings.node))
        .require_tls(settings.tls)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .client_capacity(COMMANDS_MAX)
        .subscription_capacity(MESSAGES_MAX)
        // Servers that others announce have names that no certificate or firewall may know.
        .ignore_discovered_servers()
        .reconnect_delay_callback(|attempts| (RETRY_PAUSE * attempts.min(100) as u32).min(RECONNECT_PAUSE_MAX))
        .reconnect_to_server_callback(move |servers, _| {
            let number = turn.fetch_add(1, Ordering::Relaxed).checked_rem(servers.len());
            let server = number.and_then(|number| servers.into_iter().nth(number));
            async move { server.map(|server| ReconnectToServer { addr: server.addr, delay: None }) }
        })
        .event_callback(|event| async move { log(&event) });
    if let Some(ca_file) = &settings.ca_file {
        options = options.add_root_certificates(ca_file.clone());
    }
    match &settings.credentials_file {
        Some(path) => with_credentials(options, path),
        None => Ok(options),
    }
}

/// Checks the file of credentials, if there is one.
///
/// # Errors
///
/// [`ClusterError::Credentials`].
pub(crate) fn check_credentials(settings: &ClusterSettings) -> Result<(), ClusterError> {
    options(settings, Arc::default()).map(drop)
}

/// Adds the credentials in the file: those that NATS's tools write, or a user and a password.
fn with_credentials(options: ConnectOptions, path: &Path) -> Result<ConnectOptions, ClusterError> {
    let error = |problem: String| ClusterError::Credentials { path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|problem| error(format!("cannot be read: {problem}")))?;
    private_file::check(path).map_err(|problem| error(problem.to_string()))?;
    if text.contains("-----BEGIN NATS USER JWT-----") {
        return options.credentials(&text).map_err(|_| error("is no valid file of NATS credentials".into()));
    }
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        [user, password] => Ok(options.user_and_password((*user).to_owned(), (*password).to_owned())),
        words => Err(error(format!(
            "must be a file of NATS credentials (.creds), or have two words, a user and a password, and not {}",
            words.len()
        ))),
    }
}

fn log(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("the connection to NATS is lost"),
        Event::SlowConsumer(_) => tracing::warn!("messages of NATS were dropped: this node is too slow"),
        Event::ServerError(error) => tracing::warn!(%error, "NATS reported an error"),
        other => tracing::debug!(event = %other, "NATS"),
    }
}
