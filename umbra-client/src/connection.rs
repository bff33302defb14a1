//! The task behind a client: one MQTT 5 connection, made, kept, and made again.
//!
//! Requests ask for their reply on a topic of this client's own (Response Topic and Correlation Data), so the client
//! hears no other client's replies. The order after every connection: subscribe to that topic and to all that is
//! watched; when all is granted, the connection is up, and only then requests go out. Sessions start clean: a request
//! whose connection breaks is told so at once and never sent again from here, since only the caller knows whether that
//! would be right; watches are told that something may have been missed.
//!
//! The waits between attempts grow, and have no end.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rumqttc::v5::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{
            Filter, PubAck, PubAckReason, PubRec, PubRecReason, Publish, PublishProperties, SubAck, SubscribeReasonCode,
        },
    },
};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, TlsError, Transport};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    address,
    error::Error,
    messages::{Message, MessageSink},
    options::Options,
    subscriptions::{Subscriptions, Watcher},
    watch::News,
};

/// What a handle wants of the task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Publish a request and find its reply.
    Request(Request),
    /// Subscribe; answered when the subscription is granted, or will be with the next connection.
    Watch(Watcher, oneshot::Sender<Result<(), Error>>),
    /// Subscribe to messages; answered as [`Order::Watch`] is.
    Subscribe(MessageSink, oneshot::Sender<Result<(), Error>>),
    /// Publish a message; answered when it is sent (QoS 0) or acknowledged.
    Publish(Message, oneshot::Sender<Result<(), Error>>),
    /// End, although there are handles.
    Close,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) topic: String,
    pub(crate) body: Bytes,
    pub(crate) reply: oneshot::Sender<Result<Bytes, Error>>,
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// Not there yet.
    Connecting,
    /// Not there, and why, as far as is known.
    Down(String),
    /// Not there, and no attempt follows.
    Ended(String),
    /// Requests can be sent.
    Up,
}

/// What the handles share with the task.
pub(crate) struct Ends {
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) status: watch::Sender<Status>,
    /// A watch was dropped.
    pub(crate) watch_ended: Arc<Notify>,
}

/// The task's state beside the network.
struct Connection {
    options: Options,
    mqtt: AsyncClient,
    reply_topic: String,
    status: watch::Sender<Status>,
    subscriptions: Subscriptions,
    /// Packets of subscriptions not yet granted, in the order in which they were sent, which is that of the answers.
    subscribing: VecDeque<Subscribing>,
    requests: Requests,
    /// Whether there is a connection, if only one whose subscriptions are not granted yet.
    connected: bool,
    /// Whether the connection was ever up, and how many failed since it was last.
    arrived: bool,
    failures: u32,
}

#[derive(Default)]
struct Subscribing {
    filters: Vec<String>,
    /// The handle that waits for it.
    waiter: Option<oneshot::Sender<Result<(), Error>>>,
}

/// Requests that wait for a reply. At most as many as handles have permits for.
#[derive(Default)]
struct Requests {
    count: u64,
    waiting: HashMap<u64, Waiter>,
    /// Handed over, without a packet id yet, in order.
    unnumbered: VecDeque<u64>,
    by_packet_id: HashMap<u16, u64>,
    /// Acknowledged with a refusal: a reply that says more is given a moment to come.
    refused: VecDeque<(Instant, u64, String)>,
}

/// Who waits for what becomes of a PUBLISH.
enum Waiter {
    /// The reply to a request.
    Reply(oneshot::Sender<Result<Bytes, Error>>),
    /// The acknowledgement of a message.
    Acknowledgement(oneshot::Sender<Result<(), Error>>),
}

/// Runs until the handles are gone.
pub(crate) async fn run(options: Options, ends: Ends) {
    let Ends { mut orders, status, watch_ended } = ends;
    let (mqtt, mut network) = AsyncClient::new(mqtt_options(&options), CHANNEL);
    let mut connection = Connection::new(options, mqtt, status);
    let mut connect_at = Instant::now();
    loop {
        // Polling the network must not be broken off half-way through a write, so one future is polled to its end.
        let not_before = connect_at;
        let mut poll = pin!(async {
            sleep_until(not_before).await;
            network.poll().await
        });
        let event = loop {
            tokio::select! {
                event = &mut poll => break event,
                order = orders.recv() => match order {
                    Some(Order::Request(request)) => connection.request(request),
                    Some(Order::Watch(watcher, waiter)) => {
                        let filters = connection.subscriptions.add(watcher);
                        connection.subscribe_to(filters, waiter);
                    }
                    Some(Order::Subscribe(sink, waiter)) => {
                        let filters = connection.subscriptions.add_sink(sink);
                        connection.subscribe_to(filters, waiter);
                    }
                    Some(Order::Publish(message, waiter)) => connection.publish(message, waiter),
                    Some(Order::Close) | None => break Err(ConnectionError::RequestsDone),
                },
                () = watch_ended.notified() => connection.prune(),
                () = connection.requests.next_refusal() => connection.requests.give_up_refused(Instant::now()),
            }
        };
        match event {
            Ok(Event::Incoming(Incoming::Publish(publish))) => connection.receive(&publish).await,
            Ok(event) => connection.handle(event),
            Err(ConnectionError::RequestsDone) => break,
            Err(error) => {
                let wait = connection.lost(&describe(&error));
                if connection.options.connects_once {
                    break;
                }
                connect_at = Instant::now() + wait;
            }
        }
    }
    connection.subscriptions.close();
    connection.requests.fail_all(&Error::Closed);
    if connection.mqtt.try_disconnect().is_ok() {
        // Whether the farewell gets out is the network's affair.
        let _ = timeout(FAREWELL, say_farewell(&mut network)).await;
    }
}

async fn say_farewell(network: &mut EventLoop) {
    while !matches!(network.poll().await, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect))) {}
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
            arrived: false,
            failures: 0,
        }
    }

    fn request(&mut self, request: Request) {
        if *self.status.borrow() == Status::Up {
            self.send(request);
        } else {
            let _ = request.reply.send(Err(Error::Unanswered));
        }
    }

    fn subscribe_to(&mut self, filters: Result<Vec<String>, Error>, waiter: oneshot::Sender<Result<(), Error>>) {
        match filters {
            // What is not subscribed to now, the next connection will be.
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
        let up = *self.status.borrow() == Status::Up;
        if up && self.mqtt.try_publish(topic, qos.into(), retain, payload).is_ok() {
            self.requests.sent(Waiter::Acknowledgement(waiter));
        } else {
            let _ = waiter.send(Err(Error::Unanswered));
        }
    }

    fn send(&mut self, request: Request) {
        let Request { topic, body, reply } = request;
        let number = self.requests.count;
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
            // A connection that is not up subscribes to what is needed then.
            let _ = self.mqtt.try_unsubscribe(filter);
        }
    }

    fn subscribe(&mut self, filters: Vec<String>, waiter: Option<oneshot::Sender<Result<(), Error>>>) {
        let asked = filters.iter().map(|filter| Filter::new(filter, self.subscriptions.qos(filter).into()));
        let asked: Vec<_> = asked.collect();
        if self.mqtt.try_subscribe_many(asked).is_ok() {
            self.subscribing.push_back(Subscribing { filters, waiter });
        } else if let Some(waiter) = waiter {
            let _ = waiter.send(Err(Error::Unanswered));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Incoming(Incoming::ConnAck(_)) => {
                self.connected = true;
                let mut filters = vec![self.reply_topic.clone()];
                filters.extend(self.subscriptions.filters().cloned());
                filters.chunks(FILTERS_PER_PACKET).for_each(|chunk| self.subscribe(chunk.to_vec(), None));
            }
            Event::Incoming(Incoming::SubAck(ack)) => self.subscribed(&ack),
            Event::Incoming(Incoming::PubAck(ack)) => self.requests.acknowledged(ack),
            Event::Incoming(Incoming::PubRec(ack)) => self.requests.received(ack),
            Event::Incoming(Incoming::PubComp(ack)) => self.requests.completed(ack.pkid),
            Event::Outgoing(Outgoing::Publish(id)) => self.requests.numbered(id),
            _ => {}
        }
    }

    fn subscribed(&mut self, ack: &SubAck) {
        let Some(Subscribing { filters, waiter }) = self.subscribing.pop_front() else { return };
        let mut outcome = Ok(());
        for (filter, code) in filters.iter().zip(&ack.return_codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                self.options.observer.unheard(filter, &format!("{code:?}"));
                outcome = Err(Error::Refused(format!("subscription to {filter}: {code:?}")));
            }
        }
        if let Some(waiter) = waiter {
            let _ = waiter.send(outcome);
        }
        if self.subscribing.is_empty() && *self.status.borrow() != Status::Up {
            self.up();
        }
    }

    fn up(&mut self) {
        self.failures = 0;
        if std::mem::replace(&mut self.arrived, true) {
            self.subscriptions.tell_all(&News::Resumed);
            self.options.observer.connected(true);
        } else {
            self.options.observer.connected(false);
        }
        self.status.send_replace(Status::Up);
    }

    fn lost(&mut self, why: &str) -> Duration {
        self.connected = false;
        let status = if self.options.connects_once { Status::Ended } else { Status::Down };
        let was_up = self.status.send_replace(status(why.to_owned())) == Status::Up;
        self.requests.fail_all(&Error::Unanswered);
        for Subscribing { waiter, .. } in self.subscribing.drain(..) {
            // The next connection subscribes to it.
            waiter.map(|waiter| waiter.send(Ok(())));
        }
        self.failures = self.failures.saturating_add(1);
        let wait = self.options.reconnect.next(self.failures, None).unwrap_or_default();
        self.options.observer.lost(was_up, why, wait);
        wait
    }

    async fn receive(&mut self, publish: &Publish) {
        let topic = str::from_utf8(&publish.topic).unwrap_or_default();
        if topic == self.reply_topic {
            let correlation = publish.properties.as_ref().and_then(|properties| properties.correlation_data.as_ref());
            self.requests.replied(correlation.map(Bytes::as_ref).unwrap_or_default(), &publish.payload);
            return;
        }
        if let Err(error) = self.subscriptions.route(topic, &publish.payload) {
            self.options.observer.unheard(topic, &error.to_string());
        }
        if self.subscriptions.has_sinks() {
            let (topic, payload) = (topic.to_owned(), publish.payload.clone());
            let message = Message { topic, payload, qos: publish.qos.into(), retain: publish.retain };
            self.subscriptions.deliver(&message).await;
        }
    }
}

impl Requests {
    fn sent(&mut self, waiter: Waiter) {
        // Those that nobody waits for any more leave with the next one.
        self.waiting.retain(|_, waiter| !waiter.is_closed());
        self.waiting.insert(self.count, waiter);
        self.unnumbered.push_back(self.count);
        self.count += 1;
    }

    fn numbered(&mut self, packet_id: u16) {
        let Some(number) = self.unnumbered.pop_front() else { return };
        if packet_id == 0 {
            // QoS 0: that is all there will be.
            self.finish(number, Ok(()));
        } else {
            self.by_packet_id.insert(packet_id, number);
        }
    }

    fn replied(&mut self, correlation: &[u8], payload: &Bytes) {
        let number = correlation.try_into().map(u64::from_be_bytes).ok();
        if let Some(Waiter::Reply(reply)) = number.and_then(|number| self.waiting.remove(&number)) {
            let _ = reply.send(Ok(payload.clone()));
        }
    }

    fn acknowledged(&mut self, ack: PubAck) {
        let Some(number) = self.by_packet_id.remove(&ack.pkid) else { return };
        let refused = !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
        let why = ack.properties.and_then(|properties| properties.reason_string);
        let why = why.unwrap_or_else(|| format!("{:?}", ack.reason));
        match self.waiting.get(&number) {
            Some(Waiter::Reply(_)) if refused => self.refused.push_back((Instant::now() + GRACE, number, why)),
            Some(Waiter::Acknowledgement(_)) => self.finish(number, if refused { Err(why) } else { Ok(()) }),
            _ => {}
        }
    }

    /// The first acknowledgement of QoS 2, which is the last one if it refuses.
    fn received(&mut self, ack: PubRec) {
        if !matches!(ack.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers)
            && let Some(number) = self.by_packet_id.remove(&ack.pkid)
        {
            let why = ack.properties.and_then(|properties| properties.reason_string);
            self.finish(number, Err(why.unwrap_or_else(|| format!("{:?}", ack.reason))));
        }
    }

    fn completed(&mut self, packet_id: u16) {
        if let Some(number) = self.by_packet_id.remove(&packet_id) {
            self.finish(number, Ok(()));
        }
    }

    fn finish(&mut self, number: u64, outcome: Result<(), String>) {
        if let Some(Waiter::Acknowledgement(waiter)) = self.waiting.remove(&number) {
            let _ = waiter.send(outcome.map_err(Error::Refused));
        }
    }

    /// When the first refusal has waited long enough for a reply that says more.
    async fn next_refusal(&self) {
        match self.refused.front() {
            Some((when, ..)) => sleep_until(*when).await,
            None => std::future::pending().await,
        }
    }

    fn give_up_refused(&mut self, now: Instant) {
        while let Some((_, number, why)) = self.refused.pop_front_if(|(when, ..)| *when <= now) {
            if let Some(waiter) = self.waiting.remove(&number) {
                waiter.fail(Error::Refused(why));
            }
        }
    }

    fn fail_all(&mut self, error: &Error) {
        self.waiting.drain().for_each(|(_, waiter)| waiter.fail(error.clone()));
        self.unnumbered.clear();
        self.by_packet_id.clear();
        self.refused.clear();
    }
}

impl Waiter {
    fn is_closed(&self) -> bool {
        match self {
            Self::Reply(reply) => reply.is_closed(),
            Self::Acknowledgement(waiter) => waiter.is_closed(),
        }
    }

    fn fail(self, error: Error) {
        match self {
            Self::Reply(reply) => drop(reply.send(Err(error))),
            Self::Acknowledgement(waiter) => drop(waiter.send(Err(error))),
        }
    }
}

/// Returns why a connection failed, in the words of its cause: those of the MQTT library name its parts.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::Tls(TlsError::Io(error)) => format!("TLS: {error}"),
        ConnectionError::Websocket(error) => format!("WebSocket: {error}"),
        ConnectionError::ResponseValidation(error) => format!("WebSocket: {error}"),
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses the connection: {code:?}"),
        ConnectionError::Timeout(_) => "no answer in time".to_owned(),
        error => error.to_string(),
    }
}

fn mqtt_options(options: &Options) -> MqttOptions {
    let address = &options.address;
    let tls = || TlsConfiguration::Rustls(options.tls.clone().unwrap_or_default().config());
    // A WebSocket's URL takes the place of the host.
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
        .set_max_packet_size(Some(PACKET_MAX))
        .set_network_options(network);
    if let Some((user, password)) = &options.credentials {
        mqtt.set_credentials(user, password);
    }
    mqtt
}

/// What may be handed to the network task at once: the requests there are permits for, and subscriptions.
const CHANNEL: usize = 512;
/// The service takes 64 filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 60;
const CONNECT_SECONDS: u64 = 10;
/// The largest packet taken: a document of the largest size the service ships with, before and after, with metadata.
const PACKET_MAX: u32 = 1024 * 1024;
const GRACE: Duration = Duration::from_millis(500);
const FAREWELL: Duration = Duration::from_secs(1);

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
        connection.handle(Event::Incoming(Incoming::SubAck(SubAck { pkid: 1, return_codes, properties: None })));
    }

    /// A watch that began after CONNACK and before SUBACK was neither in the connection's first subscriptions nor
    /// subscribed to by itself: it heard nothing until the next connection.
    #[test]
    fn a_watch_is_subscribed_to_whenever_it_begins() {
        for (label, begins_at) in [("before CONNACK", 0), ("before SUBACK", 1), ("after SUBACK", 2)] {
            let options = Options::new("127.0.0.1:1883", "any").expect("an address");
            // The other end is kept: orders to nobody would fail.
            let (mqtt, _network) = AsyncClient::new(mqtt_options(&options), CHANNEL);
            let (status, up) = watch::channel(Status::Down(String::new()));
            let mut connection = Connection::new(options, mqtt, status);
            let mut asked = Vec::new();
            for step in 0..=2 {
                if step == begins_at {
                    let topics = [Topic::Delta].into_iter().collect();
                    let watcher = Watcher { scope: Scope::All, topics, queue: Arc::new(Queue::new(1)) };
                    let filters = connection.subscriptions.add(watcher);
                    connection.subscribe_to(filters, oneshot::channel().0);
                }
                match step {
                    0 => connection.handle(Event::Incoming(Incoming::ConnAck(ConnAck {
                        session_present: false,
                        code: ConnectReturnCode::Success,
                        properties: None,
                    }))),
                    _ => {
                        while let Some(subscribing) = connection.subscribing.front() {
                            assert_eq!(*up.borrow() == Status::Up, step == 2, "{label}: up when all is granted");
                            asked.extend(subscribing.filters.clone());
                            granted(&mut connection);
                        }
                    }
                }
            }
            assert_eq!(*up.borrow(), Status::Up, "{label}");
            let deltas = asked.iter().filter(|filter| filter.ends_with("update/delta")).count();
            assert_eq!(deltas, 2, "{label}: classic and named: {asked:?}");
        }
    }
}
