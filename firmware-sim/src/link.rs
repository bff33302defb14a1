//! One MQTT 5 connection of a simulated client: made, subscribed, kept, made again, and what comes over it sorted.
//!
//! There is no task behind it: it moves only while somebody awaits [`Link::hear`], which may be dropped at any time.
//! Messages that may answer a request are handed to the caller; what is news of the own shadow (deltas, versions) is
//! kept in the [`Inbox`], newest only. A connection that breaks is made again without end, after ever longer waits;
//! sessions start clean, so whatever was in flight is gone, and [`Inbox::resumed`] says that something was missed.

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
use tokio::time::{Instant, sleep_until};

use crate::{
    backoff::Backoff,
    oracle::Listener,
    report::Witness,
    wire::{Accepted, Delta, DeviceId, Rejected, Snapshot, Version},
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
    /// The highest version of the own shadow that was announced.
    pub(crate) version: Version,
    /// The connection was made anew; anything may have been missed.
    pub(crate) resumed: bool,
}

impl Inbox {
    /// Whether there is nothing to act on.
    pub(crate) fn is_empty(&self) -> bool {
        self.delta.is_none() && !self.resumed
    }
}

/// One connection.
pub(crate) struct Link {
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
    inbox: Inbox,
    listener: Listener,
    witness: Arc<Witness>,
    dice: SmallRng,
}

/// One thing that came over the connection.
pub(crate) enum Heard {
    /// Nothing that a request waits for.
    Other,
    /// The connection is gone.
    Lost,
    /// Somebody's update was accepted.
    Accepted(Accepted),
    /// Somebody's request was rejected.
    Rejected(Rejected),
    /// Somebody's get was answered.
    Snapshot(Box<Snapshot>),
}

impl Heard {
    /// The token of the request it answers.
    pub(crate) fn client_token(&self) -> Option<&str> {
        match self {
            Self::Other | Self::Lost => None,
            Self::Accepted(accepted) => accepted.client_token.as_deref(),
            Self::Rejected(rejected) => rejected.client_token.as_deref(),
            Self::Snapshot(snapshot) => snapshot.client_token.as_deref(),
        }
    }
}

impl Link {
    /// A link that connects when it is first used.
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
            inbox: Inbox::default(),
            witness,
            dice: SmallRng::seed_from_u64(seed),
        }
    }

    /// Whether requests can be sent and their answers heard.
    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// Whom it listens to.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// News of the own shadow.
    pub(crate) fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// Hands over a message at QoS 1; false if there is no room for it.
    pub(crate) fn publish(&self, topic: String, body: String) -> bool {
        self.mqtt.try_publish(topic, QoS::AtLeastOnce, false, body).is_ok()
    }

    /// Takes the next thing from the connection, making it first if there is none. May be dropped at any time.
    pub(crate) async fn hear(&mut self) -> Heard {
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
                self.inbox.version = self.inbox.version.max(delta.version);
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

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body)
}

const CONNECT_SECONDS: u64 = 10;
/// The largest packet taken: a document of the largest size the service ships with, with its metadata, several times.
const PACKET_MAX: u32 = 256 * 1024;
