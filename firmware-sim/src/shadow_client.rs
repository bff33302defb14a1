//! A client of the shadow service over MQTT 5: read a shadow, write it under the version one knows, try again.
//!
//! One value is one connection, driven by whoever calls it: there is no task behind it, so everything it hears while
//! nobody calls waits in the socket. Replies are found by `clientToken` among those to all subscribers. At most one
//! request is in flight. What arrives in between (deltas, others' changes) is kept in the [`Inbox`], newest only.
//!
//! *A write* ([`ShadowClient::write`]) is an intent, a function from the state it finds to what it wants changed: a
//! rejection gives a newer version, or state, the intent is asked again, and the wait in between is [`Backoff`]'s.
//!
//! A connection that breaks is made again without end; a request in flight then counts as unanswered, since it may
//! or may not have been decided.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use rumqttc::{
    NetworkOptions,
    v5::{
        AsyncClient, Event, EventLoop, Incoming, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Filter, Publish, SubscribeReasonCode},
        },
    },
};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    backoff::Backoff,
    oracle::{AcceptedUpdate, Listener},
    report::Witness,
    wire::{Accepted, Delta, DeviceId, Rejected, Snapshot, Update, Version},
};

/// Where the broker is.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    /// Host name or address.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

/// Which shadows a client listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Its own: it is the device.
    Device(DeviceId),
    /// Everybody's, as a dashboard does.
    Fleet,
}

/// What a client learnt between its requests.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The newest delta of the own shadow.
    pub(crate) delta: Option<Delta>,
    /// See [`ShadowClient::announced_version`].
    pub(crate) version: Version,
    /// The connection was made anew; anything may have been missed.
    pub(crate) resumed: bool,
}

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

/// One connection to the service.
pub(crate) struct ShadowClient {
    name: DeviceId,
    scope: Scope,
    mqtt: AsyncClient,
    network: EventLoop,
    /// Whether the subscriptions of this connection were granted.
    up: bool,
    /// Whether one ever was.
    arrived: bool,
    /// Connections that failed since the last one that was up, and when the next may be tried.
    failures: u32,
    connect_at: Instant,
    tokens: u64,
    inbox: Inbox,
    listener: Listener,
    witness: Arc<Witness>,
    dice: SmallRng,
}

/// One thing that came over the connection.
enum Heard {
    /// Nothing that a request waits for.
    Other,
    /// The connection is gone.
    Lost,
    Accepted(Accepted),
    Rejected(Rejected),
    Snapshot(Box<Snapshot>),
}

/// No reply came: the deadline passed or the connection broke.
struct Unanswered;

impl ShadowClient {
    /// A client that connects when it is first used.
    pub(crate) fn new(name: DeviceId, scope: Scope, broker: &Broker, witness: Arc<Witness>, seed: u64) -> Self {
        let mut options = MqttOptions::new(name.as_str(), &broker.host, broker.port);
        let mut network_options = NetworkOptions::new();
        network_options.set_tcp_nodelay(true);
        network_options.set_connection_timeout(CONNECT_SECONDS);
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_max_packet_size(Some(PACKET_MAX))
            .set_outgoing_inflight_upper_limit(8)
            .set_network_options(network_options);
        let (mqtt, network) = AsyncClient::new(options, 8);
        Self {
            listener: Listener::new(name.clone()),
            name,
            scope,
            mqtt,
            network,
            up: false,
            arrived: false,
            failures: 0,
            connect_at: Instant::now(),
            tokens: 0,
            inbox: Inbox::default(),
            witness,
            dice: SmallRng::seed_from_u64(seed),
        }
    }

    /// What was learnt since one last looked; the version stays.
    pub(crate) fn inbox(&mut self) -> Inbox {
        let version = self.inbox.version;
        std::mem::replace(&mut self.inbox, Inbox { version, ..Inbox::default() })
    }

    /// The highest version of the own shadow that was announced.
    pub(crate) fn announced_version(&self) -> Version {
        self.inbox.version
    }

    /// Listens until there is something to act on in the inbox. May be dropped at any time.
    pub(crate) async fn listen(&mut self) {
        while self.inbox.delta.is_none() && !self.inbox.resumed {
            self.hear().await;
        }
    }

    /// Listens for a while, whatever comes.
    pub(crate) async fn idle(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while timeout_at(until, self.hear()).await.is_ok() {}
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
        if tried > 1 || self.scope == Scope::Fleet {
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
    fn newer(&self, device: &DeviceId) -> Version {
        match &self.scope {
            Scope::Device(own) if own == device => self.inbox.version,
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
        while !self.up {
            timeout_at(deadline, self.hear()).await.map_err(|_| Unanswered)?;
        }
        let topic = format!("shadow/{device}/{verb}");
        self.mqtt.try_publish(topic, QoS::AtLeastOnce, false, body).map_err(|_| Unanswered)?;
        loop {
            let heard = timeout_at(deadline, self.hear()).await.map_err(|_| Unanswered)?;
            let answers = match &heard {
                Heard::Other => None,
                Heard::Lost => return Err(Unanswered),
                Heard::Accepted(accepted) => accepted.client_token.as_deref(),
                Heard::Rejected(rejected) => rejected.client_token.as_deref(),
                Heard::Snapshot(snapshot) => snapshot.client_token.as_deref(),
            };
            if answers == Some(token) {
                return Ok(heard);
            }
        }
    }

    /// Takes the next thing from the connection, making it first if there is none. May be dropped at any time.
    async fn hear(&mut self) -> Heard {
        sleep_until(self.connect_at).await;
        match self.network.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                // A queue of requests that is full of what an earlier connection left is drained by the next poll.
                let _ = self.mqtt.try_subscribe_many(self.filters());
                Heard::Other
            }
            Ok(Event::Incoming(Incoming::SubAck(ack))) => {
                self.subscribed(&ack.return_codes);
                Heard::Other
            }
            Ok(Event::Incoming(Incoming::Publish(publish))) => self.receive(&publish),
            Ok(_) => Heard::Other,
            Err(error) => {
                self.lost(&error.to_string());
                Heard::Lost
            }
        }
    }

    fn subscribed(&mut self, codes: &[SubscribeReasonCode]) {
        if codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
            self.witness.tell(&format!("{} may not listen to all it needs: {codes:?}", self.name));
        }
        self.up = true;
        self.failures = 0;
        if self.arrived {
            self.inbox.resumed = true;
        } else {
            self.arrived = true;
            self.witness.counters.arrived.bump();
        }
    }

    fn lost(&mut self, error: &str) {
        if self.up {
            self.witness.counters.lost_connections.bump();
        }
        self.up = false;
        self.listener.reset();
        self.failures += 1;
        let wait = Backoff::CONNECTS.wait(self.failures, None, &mut self.dice).unwrap_or_default();
        self.connect_at = Instant::now() + wait;
        self.witness.say(|| format!("{} lost its connection, again in {wait:.1?}: {error}", self.name));
    }

    fn filters(&self) -> Vec<Filter> {
        let id = match &self.scope {
            Scope::Device(id) => id.as_str(),
            Scope::Fleet => "+",
        };
        let mut events = vec!["update/accepted", "update/rejected", "get/accepted", "get/rejected"];
        if self.scope != Scope::Fleet {
            events.push("update/delta");
        }
        events.iter().map(|event| Filter::new(format!("shadow/{id}/{event}"), QoS::AtLeastOnce)).collect()
    }

    fn receive(&mut self, publish: &Publish) -> Heard {
        let topic = str::from_utf8(&publish.topic).unwrap_or_default();
        let Some((device, event)) = topic.strip_prefix("shadow/").and_then(|rest| rest.split_once('/')) else {
            return Heard::Other;
        };
        let body = publish.payload.as_ref();
        let heard = match event {
            "update/accepted" => parse(body).map(|accepted: Accepted| {
                self.announced(&DeviceId::new(device), &accepted);
                Heard::Accepted(accepted)
            }),
            "update/rejected" | "get/rejected" => parse(body).map(Heard::Rejected),
            "get/accepted" => parse(body).map(|snapshot| Heard::Snapshot(Box::new(snapshot))),
            "update/delta" => parse(body).map(|delta: Delta| {
                let newest = self.inbox.delta.as_ref().is_none_or(|held| held.version <= delta.version);
                if newest {
                    self.inbox.delta = Some(delta);
                }
                Heard::Other
            }),
            _ => Ok(Heard::Other),
        };
        heard.unwrap_or_else(|error| {
            self.witness.tell(&format!("{}: cannot read what came on {topic}: {error}", self.name));
            Heard::Other
        })
    }

    fn announced(&mut self, device: &DeviceId, accepted: &Accepted) {
        // A no-op announces the version that was announced before.
        if accepted.changed
            && let Some(violation) = self.listener.hear(device, accepted.version)
        {
            self.witness.violated(violation);
        }
        if self.scope != Scope::Fleet {
            self.inbox.version = self.inbox.version.max(accepted.version);
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

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body)
}

/// How long a reply may take before it counts as unanswered.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_SECONDS: u64 = 10;
/// The largest packet taken: a document of the largest size the service ships with, with its metadata, several times.
const PACKET_MAX: u32 = 256 * 1024;
