//! The task behind a client: one MQTT 5 connection, kept open and reopened.
//!
//! Requests name a reply topic of this client alone (Response Topic and Correlation Data), so the client gets no other
//! client's replies. After every CONNACK the task subscribes to that topic and to all watched topics; once all are
//! granted, the connection is up, and requests are sent. Sessions start clean. A request whose connection breaks fails
//! at once and is never sent again from here, since only the caller knows whether that is right; watches get
//! [`Event::Resumed`].
//!
//! The waits between attempts grow, and attempts have no end. With several addresses, each attempt is at the next one.

use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use rumqttc::v5::{
    AsyncClient, ConnectionError as MqttError, Event as MqttEvent, EventLoop, Incoming, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Filter, Publish, PublishProperties, SubAck, SubscribeReasonCode},
    },
};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    address,
    credentials::Credentials,
    error::{ConnectionError, Error},
    messages::{Message, MessageSink},
    options::Options,
    requests::{Requests, Waiter},
    subscriptions::{Subscriptions, Watcher},
    watch::Event,
};

/// A command from a handle to the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Publishes a request and delivers its reply.
    Request(Request),
    /// Subscribes; answered when the broker has granted it, or at once while there is no connection.
    Watch(Watcher, oneshot::Sender<Result<(), Error>>),
    /// Subscribes to messages; answered like [`Command::Watch`].
    Subscribe(MessageSink, oneshot::Sender<Result<(), Error>>),
    /// Publishes a message; answered when it is sent (QoS 0) or acknowledged.
    Publish(Message, oneshot::Sender<Result<(), Error>>),
    /// Ends the task, although there are handles.
    Close,
}

/// A request to publish.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) topic: String,
    pub(crate) body: Bytes,
    pub(crate) reply: oneshot::Sender<Result<Bytes, Error>>,
}

/// The status of the connection.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    /// The first attempt has not ended yet.
    Connecting,
    /// The connection broke or an attempt failed; another attempt follows.
    Down(ConnectionError),
    /// The connection broke or the attempt failed; none follows.
    Ended(ConnectionError),
    /// Requests can be sent.
    Up,
}

impl Status {
    /// Returns true if requests can be sent.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }

    /// Returns the reason why requests cannot be sent.
    pub(crate) fn error(&self) -> Option<ConnectionError> {
        match self {
            Self::Up => None,
            Self::Connecting => Some(ConnectionError::Connecting),
            Self::Down(error) | Self::Ended(error) => Some(error.clone()),
        }
    }
}

/// The task's ends of the channels to the handles.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) status: watch::Sender<Status>,
    /// Notified when a watch or subscription is dropped.
    pub(crate) watch_ended: Arc<Notify>,
}

/// The task's state beside the network.
struct Connection {
    options: Options,
    mqtt: AsyncClient,
    reply_topic: String,
    status: watch::Sender<Status>,
    subscriptions: Subscriptions,
    /// SUBSCRIBE packets not yet answered, in the order of sending, which is that of the SUBACKs.
    subscribing: VecDeque<Subscribing>,
    requests: Requests,
    /// True from CONNACK on, before the subscriptions are granted.
    connected: bool,
    /// True once a connection was up.
    was_up: bool,
    /// Failed attempts since then.
    failures: u32,
}

#[derive(Default)]
struct Subscribing {
    filters: Vec<String>,
    /// The handle that waits for the SUBACK.
    waiter: Option<oneshot::Sender<Result<(), Error>>>,
}

/// Runs until the handles are dropped, or one closes the client.
pub(crate) async fn run(options: Options, ends: Ends) {
    let Ends { mut commands, status, watch_ended } = ends;
    let (mqtt, mut network) = AsyncClient::new(mqtt_options(&options), CHANNEL);
    let mut connection = Connection::new(options, mqtt, status);
    let mut connect_at = Instant::now();
    loop {
        // Cancelling a poll could cut a write in half, so each one is polled to its end.
        let event = {
            let not_before = connect_at;
            let mut poll = pin!(async {
                sleep_until(not_before).await;
                network.poll().await
            });
            loop {
                tokio::select! {
                    event = &mut poll => break event,
                    command = commands.recv() => match command {
                        Some(Command::Request(request)) => connection.request(request),
                        Some(Command::Watch(watcher, waiter)) => {
                            let filters = connection.subscriptions.add(watcher);
                            connection.subscribe_to(filters, waiter);
                        }
                        Some(Command::Subscribe(sink, waiter)) => {
                            let filters = connection.subscriptions.add_sink(sink);
                            connection.subscribe_to(filters, waiter);
                        }
                        Some(Command::Publish(message, waiter)) => connection.publish(message, waiter),
                        Some(Command::Close) | None => break Err(MqttError::RequestsDone),
                    },
                    () = watch_ended.notified() => connection.prune(),
                    () = connection.requests.next_refusal() => connection.requests.fail_refused(Instant::now()),
                }
            }
        };
        match event {
            Ok(MqttEvent::Incoming(Incoming::Publish(publish))) => connection.receive(&publish).await,
            Ok(event) => connection.handle(event),
            Err(MqttError::RequestsDone) => break,
            Err(error) => {
                let wait = connection.lost(&ConnectionError::new(error));
                if connection.options.connects_once {
                    break;
                }
                connect_at = Instant::now() + wait;
                connection.options.rotate();
                network.options = mqtt_options(&connection.options);
            }
        }
    }
    connection.subscriptions.close();
    connection.requests.fail_all(&Error::Closed);
    if connection.mqtt.try_disconnect().is_ok() {
        // Best effort: the network may be gone.
        let _ = timeout(GRACEFUL_CLOSE_TIMEOUT, send_disconnect(&mut network)).await;
    }
}

async fn send_disconnect(network: &mut EventLoop) {
    while !matches!(network.poll().await, Err(_) | Ok(MqttEvent::Outgoing(Outgoing::Disconnect))) {}
}

impl Connection {
    fn new(options: Options, mqtt: AsyncClient, status: watch::Sender<Status>) -> Self {
        Self {
            reply_topic: format!("umbra-client/{:032x}", rand::random::<u128>()),
            options,
            mqtt,
            status,
            subscriptions: Subscriptions::default(),
            subscribing: VecDeque::new(),
            requests: Requests::default(),
            connected: false,
            was_up: false,
            failures: 0,
        }
    }

    fn request(&mut self, request: Request) {
        let error = self.status.borrow().error();
        match error {
            None => self.send(request),
            Some(error) => drop(request.reply.send(Err(Error::Offline(error)))),
        }
    }

    fn subscribe_to(&mut self, filters: Result<Vec<String>, Error>, waiter: oneshot::Sender<Result<(), Error>>) {
        match filters {
            // Without a connection, the next one subscribes.
            Ok(filters) if !filters.is_empty() && self.connected => {
                self.subscribe(filters, Some(waiter));
            }
            outcome => {
                let _ = waiter.send(outcome.map(drop));
            }
        }
    }

    fn publish(&mut self, message: Message, waiter: oneshot::Sender<Result<(), Error>>) {
        let Message { topic, payload, qos, retain } = message;
        let error = self.status.borrow().error();
        if let Some(error) = error {
            let _ = waiter.send(Err(Error::Offline(error)));
        } else if self.mqtt.try_publish(topic, qos.into(), retain, payload).is_ok() {
            self.requests.sent(Waiter::Acknowledgement(waiter));
        } else {
            let _ = waiter.send(Err(Error::Unanswered));
        }
    }

    fn send(&mut self, request: Request) {
        let Request { topic, body, reply } = request;
        let number = self.requests.next_number();
        let properties = PublishProperties {
            response_topic: Some(self.reply_topic.clone()),
            correlation_data: Some(Bytes::copy_from_slice(&number.to_be_bytes())),
            ..PublishProperties::default()
        };
        match self.mqtt.try_publish_with_properties(topic, QoS::AtLeastOnce, false, body, properties) {
            Ok(()) => self.requests.sent(Waiter::Reply(reply)),
            Err(_) => {
                let _ = reply.send(Err(Error::Unanswered));
            }
        }
    }

    fn prune(&mut self) {
        for filter in self.subscriptions.prune() {
            // Without a connection there is nothing to unsubscribe from.
            let _ = self.mqtt.try_unsubscribe(filter);
        }
    }

    fn subscribe(&mut self, filters: Vec<String>, waiter: Option<oneshot::Sender<Result<(), Error>>>) {
        let with_qos = filters.iter().map(|filter| Filter::new(filter, self.subscriptions.qos(filter).into()));
        let with_qos: Vec<_> = with_qos.collect();
        if self.mqtt.try_subscribe_many(with_qos).is_ok() {
            self.subscribing.push_back(Subscribing { filters, waiter });
        } else if let Some(waiter) = waiter {
            let _ = waiter.send(Err(Error::Unanswered));
        }
    }

    fn handle(&mut self, event: MqttEvent) {
        match event {
            MqttEvent::Incoming(Incoming::ConnAck(_)) => {
                self.connected = true;
                let mut filters = vec![self.reply_topic.clone()];
                filters.extend(self.subscriptions.filters().cloned());
                filters.chunks(FILTERS_PER_PACKET).for_each(|chunk| self.subscribe(chunk.to_vec(), None));
            }
            MqttEvent::Incoming(Incoming::SubAck(ack)) => self.subscribed(&ack),
            MqttEvent::Incoming(Incoming::PubAck(ack)) => self.requests.acknowledged(ack),
            MqttEvent::Incoming(Incoming::PubRec(ack)) => self.requests.received(ack),
            MqttEvent::Incoming(Incoming::PubComp(ack)) => self.requests.completed(ack.pkid),
            MqttEvent::Outgoing(Outgoing::Publish(id)) => self.requests.numbered(id),
            _ => {}
        }
    }

    fn subscribed(&mut self, ack: &SubAck) {
        let Some(Subscribing { filters, waiter }) = self.subscribing.pop_front() else { return };
        let mut outcome = Ok(());
        for (filter, code) in filters.iter().zip(&ack.return_codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                self.options.observer.on_subscription_refused(filter, &format!("{code:?}"));
                outcome = Err(Error::Refused(format!("subscription to {filter}: {code:?}")));
            }
        }
        if let Some(waiter) = waiter {
            let _ = waiter.send(outcome);
        }
        if self.subscribing.is_empty() && !self.status.borrow().is_up() {
            self.up();
        }
    }

    fn up(&mut self) {
        self.failures = 0;
        let again = std::mem::replace(&mut self.was_up, true);
        if again {
            self.subscriptions.broadcast(&Event::Resumed);
        }
        self.options.observer.on_connect(again);
        self.status.send_replace(Status::Up);
    }

    /// Handles the end of a connection; returns the wait before the next attempt.
    fn lost(&mut self, error: &ConnectionError) -> Duration {
        self.connected = false;
        let status = if self.options.connects_once { Status::Ended } else { Status::Down };
        let was_up = self.status.send_replace(status(error.clone())).is_up();
        self.requests.fail_all(&Error::Disconnected(error.clone()));
        for Subscribing { waiter, .. } in self.subscribing.drain(..) {
            // The next connection subscribes.
            waiter.map(|waiter| waiter.send(Ok(())));
        }
        self.failures = self.failures.saturating_add(1);
        let wait = self.options.reconnect.next(self.failures, None).unwrap_or_default();
        self.options.observer.on_disconnect(was_up, error, wait);
        wait
    }

    async fn receive(&mut self, publish: &Publish) {
        let topic = str::from_utf8(&publish.topic).unwrap_or_default();
        if topic == self.reply_topic {
            let correlation = publish.properties.as_ref().and_then(|properties| properties.correlation_data.as_ref());
            self.requests.replied(correlation.map(Bytes::as_ref).unwrap_or_default(), &publish.payload);
            return;
        }
        if let Err(error) = self.subscriptions.dispatch(topic, &publish.payload) {
            self.options.observer.on_decode_error(topic, &error);
        }
        if self.subscriptions.has_sinks() {
            let message = Message::new(topic, publish.payload.clone()).qos(publish.qos.into());
            let message = Message { retain: publish.retain, ..message };
            self.subscriptions.deliver(&message).await;
        }
    }
}

fn mqtt_options(options: &Options) -> MqttOptions {
    let address = &options.address;
    let tls = || TlsConfiguration::Rustls(options.tls.clone().unwrap_or_default().config());
    // For a WebSocket, the library takes the URL in place of the host.
    let (host, transport) = match address.transport() {
        address::Transport::Tcp => (address.host().to_owned(), Transport::tcp()),
        address::Transport::Tls => (address.host().to_owned(), Transport::tls_with_config(tls())),
        address::Transport::WebSocket => (address.to_string(), Transport::ws()),
        address::Transport::SecureWebSocket => (address.to_string(), Transport::wss_with_config(tls())),
    };
    let mut mqtt = MqttOptions::new(&options.client_id, host, address.port());
    mqtt.set_transport(transport);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let connect_seconds = CONNECT_SECONDS.max(options.reply_deadline.as_secs());
    network.set_connection_timeout(connect_seconds);
    mqtt.set_keep_alive(options.keep_alive)
        .set_clean_start(true)
        .set_connection_timeout(connect_seconds)
        .set_max_packet_size(Some(options.packet_bytes_max))
        .set_network_options(network);
    match &options.credentials {
        None => &mut mqtt,
        Some(Credentials::Password(user, password)) => mqtt.set_credentials(user, password),
        Some(Credentials::Token(token)) => mqtt.set_credentials(TOKEN_USER, token),
    };
    mqtt
}

/// Commands of the MQTT library's queue: more than the requests with a permit, and the subscriptions.
const CHANNEL: usize = 512;
/// The service allows 64 filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 60;
const CONNECT_SECONDS: u64 = 10;
const GRACEFUL_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The user name beside a token. The service ignores it: the token names the principal.
const TOKEN_USER: &str = "token";

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::{
        QoS,
        v5::{ConnAck, ConnectReturnCode},
    };

    use super::*;
    use crate::{Scope, Topic, watch::Queue};

    fn granted(connection: &mut Connection) {
        let filters = connection.subscribing.front().map_or(0, |subscribing| subscribing.filters.len());
        let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); filters];
        connection.handle(MqttEvent::Incoming(Incoming::SubAck(SubAck { pkid: 1, return_codes, properties: None })));
    }

    /// A watch added between CONNACK and SUBACK was neither in the connection's first subscriptions nor subscribed by
    /// itself: it got no events until the next connection.
    #[test]
    fn a_watch_is_subscribed_whenever_it_is_added() {
        for (label, added_at) in [("before CONNACK", 0), ("before SUBACK", 1), ("after SUBACK", 2)] {
            let options = Options::new("127.0.0.1:1883", "any").expect("an address");
            // Kept: sending into a closed channel would fail.
            let (mqtt, _network) = AsyncClient::new(mqtt_options(&options), CHANNEL);
            let (status, up) = watch::channel(Status::Connecting);
            let mut connection = Connection::new(options, mqtt, status);
            let mut subscribed = Vec::new();
            for step in 0..=2 {
                if step == added_at {
                    let topics = [Topic::Delta].into_iter().collect();
                    let watcher = Watcher { scope: Scope::All, topics, queue: Arc::new(Queue::new(1)) };
                    let filters = connection.subscriptions.add(watcher);
                    connection.subscribe_to(filters, oneshot::channel().0);
                }
                match step {
                    0 => connection.handle(MqttEvent::Incoming(Incoming::ConnAck(ConnAck {
                        session_present: false,
                        code: ConnectReturnCode::Success,
                        properties: None,
                    }))),
                    _ => {
                        while let Some(subscribing) = connection.subscribing.front() {
                            assert_eq!(up.borrow().is_up(), step == 2, "{label}: up once all are granted");
                            subscribed.extend(subscribing.filters.clone());
                            granted(&mut connection);
                        }
                    }
                }
            }
            assert!(up.borrow().is_up(), "{label}");
            let deltas = subscribed.iter().filter(|filter| filter.ends_with("update/delta")).count();
            assert_eq!(deltas, 2, "{label}: classic and named: {subscribed:?}");
        }
    }
}
