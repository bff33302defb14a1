//! One command's MQTT 5 connection: opened, used for one thing, closed. It never reconnects, since a request that may
//! have been carried out must not be sent again unasked, and a gap in what `watch` shows must not go unseen.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use rumqttc::{
    Outgoing,
    v5::{
        AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Filter, Packet, PubAck, PubAckReason, Publish, PublishProperties, SubscribeReasonCode},
        },
    },
};
use tokio::time::{Instant, timeout_at};

use super::{broker_args::BrokerArgs, password_file};
use crate::limits;

const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests to the event loop that wait, far more than one command makes.
const REQUESTS: usize = 16;
/// How long a DISCONNECT may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The file with the password cannot be read.
    #[error("{}: {error}", path.display())]
    Password { path: PathBuf, error: io::Error },
    /// No connection, or it ended.
    #[error("{broker}: {error}")]
    Connection { broker: String, error: Box<ConnectionError> },
    /// The broker did not do its part in time.
    #[error("{broker}: no {awaited} within {timeout:?}")]
    Timeout { broker: String, awaited: &'static str, timeout: Duration },
    /// The broker refused a subscription.
    #[error("the broker refuses a subscription: {0:?}")]
    Subscription(SubscribeReasonCode),
    /// The broker refused the request without saying why in a reply.
    #[error("the broker refuses the request: {0}")]
    Request(String),
    /// The client library took no request.
    #[error("{0}")]
    Client(Box<ClientError>),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(Box::new(error))
    }
}

/// An open connection.
pub(super) struct Connection {
    client: AsyncClient,
    events: EventLoop,
    broker: String,
    timeout: Duration,
}

impl Connection {
    /// Connects, with a clean session.
    pub(super) async fn open(args: &BrokerArgs) -> Result<Self, Failure> {
        let id = args.client_id.clone().unwrap_or_else(|| format!("umbrad-{}", nonce()));
        let mut options = MqttOptions::new(id, args.broker.host.clone(), args.broker.port);
        options.set_keep_alive(KEEP_ALIVE).set_clean_start(true);
        if let Some((user, file)) = args.user.as_ref().zip(args.password_file.as_ref()) {
            let read = password_file::read(file);
            options.set_credentials(user, read.map_err(|error| Failure::Password { path: file.clone(), error })?);
        }
        options.set_connection_timeout(args.timeout.as_secs().max(1));
        // The default, 10 KiB, is less than the largest document.
        options.set_max_packet_size(u32::try_from(limits::PACKET_BYTES_MAX).ok());
        let (client, events) = AsyncClient::new(options, REQUESTS);
        let broker = format!("{}:{}", args.broker.host, args.broker.port);
        let mut connection = Self { client, events, broker, timeout: args.timeout };
        let deadline = connection.deadline();
        while !matches!(connection.packet_by(deadline, "connection").await?, Packet::ConnAck(_)) {}
        Ok(connection)
    }

    /// Subscribes and waits until the broker has granted all `filters`.
    pub(super) async fn subscribe(&mut self, filters: Vec<String>) -> Result<(), Failure> {
        let filters = filters.into_iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
        self.client.subscribe_many(filters).await?;
        let deadline = self.deadline();
        loop {
            if let Packet::SubAck(granted) = self.packet_by(deadline, "subscription").await? {
                let refused = granted.return_codes.into_iter();
                let mut refused = refused.filter(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                return refused.next().map_or(Ok(()), |code| Err(Failure::Subscription(code)));
            }
        }
    }

    /// Publishes at QoS 1.
    pub(super) async fn publish(
        &mut self,
        topic: &str,
        payload: String,
        properties: PublishProperties,
    ) -> Result<(), Failure> {
        let payload = Bytes::from(payload);
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await?;
        Ok(())
    }

    /// The next packet from the broker; `awaited` names what does not come if it is not there by `deadline`.
    pub(super) async fn packet_by(&mut self, deadline: Instant, awaited: &'static str) -> Result<Packet, Failure> {
        match timeout_at(deadline, self.packet()).await {
            Ok(packet) => packet,
            Err(_) => Err(Failure::Timeout { broker: self.broker.clone(), awaited, timeout: self.timeout }),
        }
    }

    /// The next message, however long it takes.
    pub(super) async fn message(&mut self) -> Result<Publish, Failure> {
        loop {
            if let Packet::Publish(publish) = self.packet().await? {
                return Ok(publish);
            }
        }
    }

    /// When a wait that begins now ends.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Says goodbye. That it does not arrive is no failure.
    pub(super) async fn close(mut self) {
        if self.client.disconnect().await.is_ok() {
            let until = Instant::now() + FAREWELL;
            let goes_on = |polled| matches!(polled, Ok(Ok(event)) if event != Event::Outgoing(Outgoing::Disconnect));
            while goes_on(timeout_at(until, self.events.poll()).await) {}
        }
    }

    async fn packet(&mut self) -> Result<Packet, Failure> {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(packet)) => return Ok(packet),
                Ok(Event::Outgoing(_)) => {}
                Err(error) => return Err(Failure::Connection { broker: self.broker.clone(), error: Box::new(error) }),
            }
        }
    }
}

/// 16 hex digits that differ for every call and process.
pub(super) fn nonce() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Why an acknowledgement refuses what it acknowledges, if it does.
pub(super) fn refusal(ack: PubAck) -> Option<String> {
    match ack.reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        reason => {
            let told = ack.properties.and_then(|properties| properties.reason_string);
            Some(told.unwrap_or_else(|| format!("{reason:?}")))
        }
    }
}
