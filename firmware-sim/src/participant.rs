//! One client of the fleet: its connection, and the records of its tries.
//!
//! The client library does the writes and their retries; here every try, connection and announced version is recorded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use umbra_client::{
    Accepted, Address, Attempt, Client, ConnectOptions, ConnectionError, DeviceId, Error, Observer, Options, Rejection,
    ShadowId,
};

use crate::{
    oracle::{AcceptedUpdate, VersionOrder},
    report::Recorder,
};

/// The addresses of the broker's nodes, with the TLS settings and the login of all clients.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    /// The options of a client of each node, which goes to the others when that fails.
    nodes: Arc<[Options]>,
    /// The clients so far: they are spread over the nodes.
    clients: Arc<AtomicUsize>,
}

impl Broker {
    /// Reads the files named in `options`, once for all clients. `others` are more nodes of the same cluster.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the options contradict each other.
    pub(crate) fn new(options: &ConnectOptions, others: &[Address]) -> anyhow::Result<Self> {
        let mut addresses: Vec<_> = [options.address()].into_iter().chain(others.iter().cloned()).collect();
        let mut nodes = Vec::new();
        for _ in 0..addresses.len() {
            let mut of_first = options.clone();
            of_first.url = addresses.first().cloned();
            let others = addresses.iter().skip(1).cloned();
            nodes.push(others.fold(of_first.options("any")?, Options::or_at));
            addresses.rotate_left(1);
        }
        Ok(Self { nodes: nodes.into(), clients: Arc::default() })
    }

    /// Returns the options of the next client.
    fn options(&self) -> Options {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        self.nodes.iter().cycle().nth(number % self.nodes.len()).cloned().expect("a broker has a node")
    }
}

/// Returns `text` as the name of a device or client.
///
/// # Errors
///
/// It is not a valid device id.
pub(crate) fn name(text: &str) -> anyhow::Result<DeviceId> {
    DeviceId::new(text).with_context(|| format!("naming {text}"))
}

/// Connects the client `name` in the background. `narrates_all`: each of its writes is narrated, not only retried ones.
pub(crate) fn connect(name: &DeviceId, broker: &Broker, recorder: &Arc<Recorder>, narrates_all: bool) -> Client {
    let observer = Arc::new(ClientObserver { name: name.clone(), recorder: recorder.clone(), narrates_all });
    Client::start(broker.options().client_id(name.as_str()).observer(observer))
}

/// The check of the versions announced to one connection.
pub(crate) struct AnnouncementObserver {
    versions: VersionOrder,
    recorder: Arc<Recorder>,
}

impl AnnouncementObserver {
    /// Returns the check of the connection of client `name`, whose session starts clean.
    pub(crate) fn new(name: DeviceId, recorder: Arc<Recorder>) -> Self {
        Self { versions: VersionOrder::new(name, false), recorder }
    }

    /// Returns the check of client `name`; `resumes`: its session is kept while it is absent.
    pub(crate) fn with_session(name: DeviceId, resumes: bool, recorder: Arc<Recorder>) -> Self {
        Self { versions: VersionOrder::new(name, resumes), recorder }
    }

    /// Records the announcement of an accepted update.
    pub(crate) fn observe(&mut self, shadow: &ShadowId, accepted: &Accepted) {
        if let Some(violation) = self.versions.accepted(shadow.device(), accepted) {
            self.recorder.add_violation(violation);
        }
    }

    /// Starts over for another connection.
    pub(crate) fn reset(&mut self) {
        self.versions.reset();
    }
}

/// The observer that records a client's connections and tries.
struct ClientObserver {
    name: DeviceId,
    recorder: Arc<Recorder>,
    narrates_all: bool,
}

impl Observer for ClientObserver {
    fn on_connect(&self, again: bool) {
        if !again {
            self.recorder.counters.connected.bump();
        }
    }

    fn on_disconnect(&self, was_connected: bool, error: &ConnectionError, retry_in: Duration) {
        if was_connected {
            self.recorder.counters.lost_connections.bump();
        }
        self.recorder.narrate(|| format!("{} is not connected, retry in {retry_in:.1?}: {error:#}", self.name));
    }

    fn on_subscription_refused(&self, filter: &str, reason: &str) {
        self.recorder.log(&format!("{} is refused a subscription to {filter}: {reason}", self.name));
    }

    fn on_decode_error(&self, topic: &str, error: &serde_json::Error) {
        self.recorder.log(&format!("{} cannot decode a message on {topic}: {error}", self.name));
    }

    fn on_attempt(&self, attempt: &Attempt<'_>) {
        self.recorder.counters.updates.bump();
        match attempt.outcome {
            Ok(accepted) => self.accepted(attempt, accepted),
            Err(error) => self.failed(attempt, error),
        }
    }
}

impl ClientObserver {
    fn accepted(&self, attempt: &Attempt<'_>, accepted: &Accepted) {
        let Attempt { shadow, number, state, .. } = attempt;
        let Accepted { version, changed, .. } = *accepted;
        // Narrating every report of every device would be too much to read.
        if self.narrates_all || *number > 1 {
            let at = if *number > 1 { format!(" at try {number}") } else { String::new() };
            let rebased = accepted.rebased_from.map_or(String::new(), |from| format!(", rebased from version {from}"));
            self.recorder.narrate(|| format!("{} wrote {shadow}{at}: version {version}{rebased}, {state}", self.name));
        }
        let update = AcceptedUpdate {
            writer: self.name.clone(),
            key: None,
            replayed: accepted.replayed,
            expected: attempt.expected,
            rebased: accepted.rebased_from.is_some(),
            version,
            changed,
            state: attempt.state.clone(),
        };
        self.recorder.accepted(shadow.device(), update, attempt.took, attempt.since_first);
    }

    fn failed(&self, attempt: &Attempt<'_>, error: &Error) {
        let counters = &self.recorder.counters;
        let final_refusal = match error.rejection() {
            Some(rejection) if rejection.is_conflict() => {
                counters.conflicts.bump();
                self.recorder.narrate(|| self.conflict(attempt, rejection));
                false
            }
            Some(Rejection { code: 429 | 500 | 503, .. }) => {
                counters.deferred.bump();
                false
            }
            Some(_) => true,
            None => {
                counters.unanswered.bump();
                false
            }
        };
        let may_be_applied = !final_refusal && !error.rejection().is_some_and(Rejection::is_conflict);
        if attempt.retry_in.is_none() && may_be_applied {
            self.recorder.unknown(attempt.shadow.device());
        }
        if attempt.retry_in.is_some() {
            counters.retries.bump();
        } else if final_refusal {
            counters.refused.bump();
            self.recorder.log(&format!("{} was refused on {}: {error:#}", self.name, attempt.shadow));
        } else {
            counters.gave_up.bump();
            self.recorder.narrate(|| format!("{} gave up on {}: {error:#}", self.name, attempt.shadow));
        }
    }

    fn conflict(&self, attempt: &Attempt<'_>, rejection: &Rejection) -> String {
        let (name, shadow, expected) = (&self.name, attempt.shadow, attempt.expected.unwrap_or_default());
        let current = rejection.version.unwrap_or_default();
        let mut text = format!("{name} CONFLICT on {shadow}: expected version {expected}, current version {current}");
        if rejection.conflicts.is_empty() {
            text.push_str("; other fields changed");
        }
        for conflict in &rejection.conflicts {
            text.push_str(&format!("; {conflict}"));
        }
        if let Some(wait) = attempt.retry_in {
            text.push_str(&format!("; retry in {} ms", wait.as_millis()));
        }
        text
    }
}
