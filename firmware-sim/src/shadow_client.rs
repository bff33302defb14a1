//! A client of the shadow service: read a shadow, write it under the version one knows, try again.
//!
//! Replies are found by `clientToken` among those to all subscribers; at most one request is in flight. *A write*
//! ([`ShadowClient::write`]) is an intent, a function from the state it finds to what it wants changed: a rejection
//! gives a newer version, or state, the intent is asked again, and the wait in between is [`Backoff`]'s.
//!
//! A request whose connection breaks, or whose reply does not come, may or may not have been decided: it counts as
//! unanswered, and what is there now is read before anything else. The connection itself is [`crate::link`]'s.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    backoff::Backoff,
    link::{Broker, Heard, Inbox, Link, Scope},
    oracle::AcceptedUpdate,
    report::Witness,
    wire::{Accepted, DeviceId, Rejected, Snapshot, Update, Version},
};

/// What a writer takes from a rejection before it asks its intent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// The current version: the intent does not depend on what others wrote.
    Version,
    /// The current state, read anew.
    State,
}

/// How a write ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The intent found nothing to change.
    Nothing,
    /// It is in the shadow, as this version.
    Accepted(Version),
    /// It was beaten too often, or put off too long.
    GaveUp,
    /// The service will never take it.
    Refused,
}

/// One client of the service.
pub(crate) struct ShadowClient {
    name: DeviceId,
    link: Link,
    tokens: u64,
    witness: Arc<Witness>,
    dice: SmallRng,
}

/// No reply came: the deadline passed or the connection broke.
struct Unanswered;

impl ShadowClient {
    /// A client that connects when it is first used.
    pub(crate) fn new(name: DeviceId, scope: Scope, broker: &Broker, witness: Arc<Witness>, seed: u64) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let link = Link::new(name.clone(), scope, broker, witness.clone(), dice.random());
        Self { name, link, tokens: 0, witness, dice }
    }

    /// What was learnt since one last looked; the version stays.
    pub(crate) fn inbox(&mut self) -> Inbox {
        let inbox = self.link.inbox();
        let version = inbox.version;
        std::mem::replace(inbox, Inbox { version, ..Inbox::default() })
    }

    /// The highest version of the own shadow that was announced.
    pub(crate) fn announced_version(&mut self) -> Version {
        self.link.inbox().version
    }

    /// Listens until there is something to act on in the inbox. May be dropped at any time.
    pub(crate) async fn listen(&mut self) {
        while self.link.inbox().is_empty() {
            self.link.hear().await;
        }
    }

    /// Listens for a while, whatever comes.
    pub(crate) async fn idle(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while timeout_at(until, self.link.hear()).await.is_ok() {}
    }

    /// The shadow as it is now; one that does not exist is empty, at version 0.
    ///
    /// # Errors
    ///
    /// When all tries failed: the text of the last failure.
    pub(crate) async fn get(&mut self, device: &DeviceId) -> Result<Snapshot, String> {
        for tried in 1.. {
            let token = self.token();
            let body = serde_json::json!({"clientToken": token}).to_string();
            let (failure, asked) = match self.request(device, "get", &token, body).await {
                Ok(Heard::Snapshot(snapshot)) => return Ok(*snapshot),
                Ok(Heard::Rejected(rejected)) if rejected.code == 404 => return Ok(Snapshot::default()),
                Ok(Heard::Rejected(rejected)) => (rejected.message, rejected.retry_after_ms),
                Ok(_) => ("a reply of another kind".into(), None),
                Err(Unanswered) => ("no reply".into(), None),
            };
            match Backoff::WRITES.wait(tried, asked.map(Duration::from_millis), &mut self.dice) {
                Some(wait) => self.idle(wait).await,
                None => return Err(format!("get: {failure}, {tried} times")),
            }
        }
        Err("get: not tried".into())
    }

    /// Brings what `intent` wants into the shadow, each try under the version it knows, beginning with `basis`.
    ///
    /// `intent` is asked anew for each try with what is then known, and says which sections to send, or `None`.
    pub(crate) async fn write(
        &mut self,
        device: &DeviceId,
        mut basis: Snapshot,
        refresh: Refresh,
        mut intent: impl FnMut(&Snapshot) -> Option<Value>,
    ) -> Outcome {
        let started = Instant::now();
        for tried in 1.. {
            let Some(state) = intent(&basis) else { return Outcome::Nothing };
            let sent = Instant::now();
            let reply = self.update(device, &state, basis.version).await;
            let (asked, reread) = match reply {
                Ok(Heard::Accepted(accepted)) => {
                    return self.accepted(device, &accepted, basis.version, state, sent, started, tried);
                }
                Ok(Heard::Rejected(rejected)) => match self.rejected(device, &rejected, basis.version) {
                    Some(Retry { version, asked, unknown }) => {
                        basis.version = version.unwrap_or(basis.version).max(self.newer(device));
                        (asked, unknown || refresh == Refresh::State)
                    }
                    None => return Outcome::Refused,
                },
                Ok(_) | Err(Unanswered) => {
                    self.witness.counters.unanswered.bump();
                    (None, true)
                }
            };
            let Some(wait) = Backoff::WRITES.wait(tried, asked, &mut self.dice) else { break };
            self.witness.counters.retries.bump();
            self.idle(wait).await;
            if reread {
                match self.get(device).await {
                    Ok(snapshot) => basis = snapshot,
                    Err(_) => break,
                }
            }
        }
        self.witness.counters.gave_up.bump();
        self.witness.say(|| format!("{} gave up on {device}", self.name));
        Outcome::GaveUp
    }

    async fn update(&mut self, device: &DeviceId, state: &Value, version: Version) -> Result<Heard, Unanswered> {
        let token = self.token();
        let update = Update { state, version, client_token: &token };
        let body = serde_json::to_string(&update).map_err(|_| Unanswered)?;
        self.witness.counters.updates.bump();
        self.request(device, "update", &token, body).await
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are what the one caller knows of a finished try")]
    fn accepted(
        &mut self,
        device: &DeviceId,
        accepted: &Accepted,
        expected: Version,
        state: Value,
        sent: Instant,
        started: Instant,
        tried: u32,
    ) -> Outcome {
        let Accepted { version, changed, .. } = *accepted;
        // Every report of every device would be too much to read.
        if tried > 1 || *self.link.scope() == Scope::Fleet {
            self.witness.say(|| format!("{} wrote {device} at try {tried}: version {version}, {state}", self.name));
        }
        let update = AcceptedUpdate { writer: self.name.clone(), expected, version, changed, state };
        self.witness.accepted(device, update, sent.elapsed(), started.elapsed());
        Outcome::Accepted(version)
    }

    /// What to do about a rejection: how to go on, or `None` if it is for good.
    fn rejected(&mut self, device: &DeviceId, rejected: &Rejected, expected: Version) -> Option<Retry> {
        let counters = &self.witness.counters;
        let asked = rejected.retry_after_ms.map(Duration::from_millis);
        match rejected.code {
            409 => {
                counters.conflicts.bump();
                self.witness.say(|| {
                    let current = rejected.version.unwrap_or_default();
                    format!("{} conflict on {device}: knew version {expected}, current is {current}", self.name)
                });
                Some(Retry { version: rejected.version, asked, unknown: rejected.version.is_none() })
            }
            // 500 may have been applied or not: only reading tells.
            429 | 500 | 503 => {
                counters.put_off.bump();
                Some(Retry { version: None, asked, unknown: rejected.code == 500 })
            }
            _ => {
                counters.refused.bump();
                let Rejected { code, message, .. } = rejected;
                self.witness.tell(&format!("{} was refused on {device}: {code} {message}", self.name));
                None
            }
        }
    }

    /// The version of a shadow as far as one listened to it.
    fn newer(&mut self, device: &DeviceId) -> Version {
        match self.link.scope() {
            Scope::Device(own) if own == device => self.announced_version(),
            _ => Version::default(),
        }
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("{}.{}", self.name, self.tokens)
    }

    /// Publishes a request and waits for the reply with its token.
    async fn request(&mut self, device: &DeviceId, verb: &str, token: &str, body: String) -> Result<Heard, Unanswered> {
        let deadline = Instant::now() + REPLY_DEADLINE;
        while !self.link.is_up() {
            timeout_at(deadline, self.link.hear()).await.map_err(|_| Unanswered)?;
        }
        let topic = format!("shadow/{device}/{verb}");
        if !self.link.publish(topic, body) {
            return Err(Unanswered);
        }
        loop {
            match timeout_at(deadline, self.link.hear()).await.map_err(|_| Unanswered)? {
                Heard::Lost => return Err(Unanswered),
                heard if heard.client_token() == Some(token) => return Ok(heard),
                _ => {}
            }
        }
    }
}

/// How to go on after a rejection.
struct Retry {
    /// The current version, where the service said.
    version: Option<Version>,
    /// The wait it asked for.
    asked: Option<Duration>,
    /// Whether the state has to be read before anything else.
    unknown: bool,
}

/// How long a reply may take before it counts as unanswered.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);
