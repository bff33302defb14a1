//! One client of the fleet: its connection, and what the witness is told of it.
//!
//! The writing itself, with its retries, is the client library's; here every try, every connection and every version
//! that is announced is entered into the ledger.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use umbra_client::{
    Accepted, Attempt, Client, ConnectOptions, DeviceId, Error, Observer, Options, Rejection, ShadowId,
};

use crate::{
    oracle::{AcceptedUpdate, Listener},
    report::Witness,
};

/// The broker, with the TLS settings and the login that all clients share.
#[derive(Debug, Clone)]
pub(crate) struct Broker(Options);

impl Broker {
    /// Reads the files that `options` name, once for all clients.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the options do not fit together.
    pub(crate) fn new(options: &ConnectOptions) -> anyhow::Result<Self> {
        Ok(Self(options.options("any")?))
    }
}

/// A name for a device or a client.
///
/// # Errors
///
/// It is none.
pub(crate) fn name(text: &str) -> anyhow::Result<DeviceId> {
    DeviceId::new(text).with_context(|| format!("naming {text}"))
}

/// Connects `name` in the background; `tells_all` if every write of it is to be told, not only those that met others.
pub(crate) fn connect(name: &DeviceId, broker: &Broker, witness: &Arc<Witness>, tells_all: bool) -> Client {
    let observer = Arc::new(Reporter { name: name.clone(), witness: witness.clone(), tells_all });
    Client::start(broker.0.clone().client_id(name.as_str()).observer(observer))
}

/// Hears what is announced to one connection, and has the witness note what cannot be.
pub(crate) struct AnnouncementObserver {
    listener: Listener,
    witness: Arc<Witness>,
}

impl AnnouncementObserver {
    /// An ear of `name` that has heard nothing.
    pub(crate) fn new(name: DeviceId, witness: Arc<Witness>) -> Self {
        Self { listener: Listener::new(name), witness }
    }

    /// An update was announced as accepted.
    pub(crate) fn hear(&mut self, shadow: &ShadowId, accepted: &Accepted) {
        // A no-op announces the version that was announced before.
        if accepted.changed
            && let Some(violation) = self.listener.hear(shadow.device(), accepted.version)
        {
            self.witness.violated(violation);
        }
    }

    /// The connection is another one.
    pub(crate) fn reset(&mut self) {
        self.listener.reset();
    }
}

/// Tells the witness what the library tells it.
struct Reporter {
    name: DeviceId,
    witness: Arc<Witness>,
    tells_all: bool,
}

impl Observer for Reporter {
    fn connected(&self, again: bool) {
        if !again {
            self.witness.counters.arrived.bump();
        }
    }

    fn lost(&self, was_up: bool, why: &str, again_in: Duration) {
        if was_up {
            self.witness.counters.lost_connections.bump();
        }
        self.witness.say(|| format!("{} has no connection, again in {again_in:.1?}: {why}", self.name));
    }

    fn unheard(&self, topic: &str, why: &str) {
        self.witness.tell(&format!("{} cannot hear {topic}: {why}", self.name));
    }

    fn tried(&self, attempt: &Attempt<'_>) {
        self.witness.counters.updates.bump();
        match attempt.outcome {
            Ok(accepted) => self.accepted(attempt, accepted),
            Err(error) => self.failed(attempt, error),
        }
    }
}

impl Reporter {
    fn accepted(&self, attempt: &Attempt<'_>, accepted: &Accepted) {
        let Attempt { shadow, number, state, .. } = attempt;
        let Accepted { version, changed, .. } = *accepted;
        // Every report of every device would be too much to read.
        if self.tells_all || *number > 1 {
            let at = if *number > 1 { format!(" at try {number}") } else { String::new() };
            let over =
                accepted.rebased_from.map_or(String::new(), |from| format!(", carried over from version {from}"));
            self.witness.say(|| format!("{} wrote {shadow}{at}: version {version}{over}, {state}", self.name));
        }
        let update = AcceptedUpdate {
            writer: self.name.clone(),
            expected: attempt.expected,
            rebased: accepted.rebased_from.is_some(),
            version,
            changed,
            state: attempt.state.clone(),
        };
        self.witness.accepted(shadow.device(), update, attempt.took, attempt.since_first);
    }

    fn failed(&self, attempt: &Attempt<'_>, error: &Error) {
        let counters = &self.witness.counters;
        let final_refusal = match error.rejection() {
            Some(rejection) if rejection.is_conflict() => {
                counters.conflicts.bump();
                self.witness.say(|| self.conflict(attempt, rejection));
                false
            }
            Some(Rejection { code: 429 | 500 | 503, .. }) => {
                counters.put_off.bump();
                false
            }
            Some(_) => true,
            None => {
                counters.unanswered.bump();
                false
            }
        };
        if attempt.retry_in.is_some() {
            counters.retries.bump();
        } else if final_refusal {
            counters.refused.bump();
            self.witness.tell(&format!("{} was refused on {}: {error}", self.name, attempt.shadow));
        } else {
            counters.gave_up.bump();
            self.witness.say(|| format!("{} gave up on {}: {error}", self.name, attempt.shadow));
        }
    }

    fn conflict(&self, attempt: &Attempt<'_>, rejection: &Rejection) -> String {
        let (name, shadow, expected) = (&self.name, attempt.shadow, attempt.expected);
        let current = rejection.version.unwrap_or_default();
        let mut text = format!("{name} CONFLICT on {shadow}: decided on version {expected}, but {current} is there");
        if rejection.conflicts.is_empty() {
            text.push_str(", with other fields changed");
        }
        for conflict in &rejection.conflicts {
            text.push_str(&format!(", and {conflict}"));
        }
        if let Some(wait) = attempt.retry_in {
            text.push_str(&format!("; tries again in {} ms", wait.as_millis()));
        }
        text
    }
}
