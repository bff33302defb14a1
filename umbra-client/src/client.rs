//! The handle of a client, and the path of one request and its reply.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, Semaphore, SemaphorePermit, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    connection::{self, Command, Ends, Request, Status},
    error::{ConnectionError, Error},
    http_client::HttpClient,
    messages::{Message, MessageSink, Messages, Qos},
    names::ShadowId,
    observer::Observer,
    options::Options,
    rejection::Rejection,
    subscriptions::Watcher,
    throttled::ThrottledShadows,
    watch::{Queue, Scope, Topic, Watch},
};

/// A client of the service. Clones share one connection, which is closed when the last of them is dropped.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    watch_ended: Arc<Notify>,
    /// One permit per request in flight.
    permits: Semaphore,
    throttled: Mutex<ThrottledShadows>,
    reply_deadline: Duration,
    observer: Arc<dyn Observer>,
    http: Option<HttpClient>,
    task: AsyncMutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Returns a client that connects in the background, and reconnects without end. Needs a Tokio runtime.
    ///
    /// ```no_run
    /// use umbra_client::{Client, Options};
    ///
    /// # async fn example() -> Result<(), umbra_client::Error> {
    /// let client = Client::start(Options::new("mqtts://broker.example", "lamp-1")?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn start(options: Options) -> Self {
        let (commands, commands_end) = mpsc::channel(REQUESTS_IN_FLIGHT);
        let (status_end, status) = watch::channel(Status::Connecting);
        let watch_ended = Arc::new(Notify::new());
        let ends = Ends { commands: commands_end, status: status_end, watch_ended: watch_ended.clone() };
        let (reply_deadline, observer) = (options.reply_deadline, options.observer.clone());
        let http = options.http_client();
        // It ends when the last handle, and with it the sender of commands, is dropped.
        let task = tokio::spawn(connection::run(options, ends));
        Self {
            shared: Arc::new(Shared {
                commands,
                status,
                watch_ended,
                permits: Semaphore::new(REQUESTS_IN_FLIGHT),
                throttled: Mutex::default(),
                reply_deadline,
                observer,
                http,
                task: AsyncMutex::new(Some(task)),
            }),
        }
    }

    /// Returns a client that is connected. It reconnects whenever the connection breaks later.
    ///
    /// # Errors
    ///
    /// [`Error::Offline`]: there was no connection within the reply deadline.
    ///
    /// ```no_run
    /// use umbra_client::{Client, Options};
    ///
    /// # async fn example() -> Result<(), umbra_client::Error> {
    /// let client = Client::connect(Options::new("mqtts://broker.example", "back-end-1")?).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let client = Self::start(options);
        client.up_by(Instant::now() + client.shared.reply_deadline).await?;
        Ok(client)
    }

    /// Subscribes to events of many shadows, with a queue of `capacity` events. [`crate::Shadow::watch`] is for one shadow.
    ///
    /// When this returns, the broker has granted the subscription, or there is no connection and the next one
    /// subscribes: a document read afterwards is older than the events.
    ///
    /// # Errors
    ///
    /// - [`Error::Refused`]: the broker does not grant the subscription.
    /// - [`Error::TooManyWatches`]: the session would exceed its limit of filters.
    ///
    /// ```no_run
    /// use umbra_client::{Event, Scope, Topic};
    ///
    /// # async fn example(client: umbra_client::Client) -> Result<(), umbra_client::Error> {
    /// let mut watch = client.watch(Scope::All, &[Topic::Document, Topic::Presence], 1_024).await?;
    /// while let Some(event) = watch.recv().await {
    ///     match event {
    ///         Event::Document(shadow, Some(document)) => println!("{shadow} is at version {}", document.version),
    ///         Event::Presence(device, presence) => println!("{device} connected: {}", presence.connected),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(&self, scope: Scope, topics: &[Topic], capacity: usize) -> Result<Watch, Error> {
        let queue = Arc::new(Queue::new(capacity));
        let watch = Watch::new(queue.clone(), self.shared.watch_ended.clone());
        let topics: HashSet<_> = topics.iter().copied().collect();
        let (granted, answer) = oneshot::channel();
        let command = Command::Watch(Watcher { scope, topics, queue }, granted);
        self.shared.commands.send(command).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)??;
        Ok(watch)
    }

    /// Publishes a request as it is, once, and returns the payload of its reply, rejections included
    /// ([`Rejection::from_reply`]). For programs that pass on requests of others; see [`crate::Shadow`] for your own.
    ///
    /// # Errors
    ///
    /// - [`Error::Topic`]: the topic is malformed.
    /// - [`Error::Refused`]: the broker refused the message without a reply.
    /// - [`Error::Unanswered`], [`Error::Disconnected`]: the outcome is unknown.
    ///
    /// ```no_run
    /// # async fn example(client: umbra_client::Client) -> Result<(), umbra_client::Error> {
    /// let reply = client.exchange("shadow/lamp-1/get", "{}".into()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exchange(&self, topic: &str, payload: Bytes) -> Result<Bytes, Error> {
        let _permit = self.shared.permits.acquire().await.map_err(|_| Error::Closed)?;
        let message = Message::new(topic, payload);
        message.check()?;
        self.send_and_receive(message.topic, message.payload).await
    }

    /// Publishes a message; returns once it is sent (QoS 0) or acknowledged.
    ///
    /// # Errors
    ///
    /// - [`Error::Topic`]: the topic is malformed.
    /// - [`Error::Refused`]: the broker refused the message.
    /// - [`Error::Unanswered`], [`Error::Disconnected`]: the message may be published or not.
    ///
    /// ```no_run
    /// use umbra_client::Message;
    ///
    /// # async fn example(client: umbra_client::Client) -> Result<(), umbra_client::Error> {
    /// client.publish(Message::new("plant/lamp", "on").retain()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, message: Message) -> Result<(), Error> {
        message.check()?;
        let _permit = self.shared.permits.acquire().await.map_err(|_| Error::Closed)?;
        let deadline = Instant::now() + self.shared.reply_deadline;
        self.up_by(deadline).await?;
        let (waiter, answer) = oneshot::channel();
        self.shared.commands.send(Command::Publish(message, waiter)).await.map_err(|_| Error::Closed)?;
        timeout_at(deadline, answer).await.map_err(|_| Error::Unanswered)?.map_err(|_| Error::Closed)?
    }

    /// Subscribes to messages, with a queue of `capacity` messages.
    ///
    /// The broker sends retained messages again only if no other subscription of this client has the same filter.
    ///
    /// # Errors
    ///
    /// - [`Error::Topic`]: a filter is malformed.
    /// - [`Error::Refused`]: the broker does not grant the subscription.
    /// - [`Error::TooManyWatches`]: the session would exceed its limit of filters.
    ///
    /// ```no_run
    /// use umbra_client::Qos;
    ///
    /// # async fn example(client: umbra_client::Client) -> Result<(), umbra_client::Error> {
    /// let mut messages = client.subscribe(&["plant/#"], Qos::AtLeastOnce, 64).await?;
    /// while let Some(message) = messages.recv().await {
    ///     println!("{}: {:?}", message.topic, message.payload);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(&self, filters: &[&str], qos: Qos, capacity: usize) -> Result<Messages, Error> {
        let (sink, messages) = MessageSink::new(filters, qos, capacity, self.shared.watch_ended.clone())?;
        let (granted, answer) = oneshot::channel();
        self.shared.commands.send(Command::Subscribe(sink, granted)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)??;
        Ok(messages)
    }

    /// Returns a client of the HTTP interface, with the same credentials: for what MQTT has no request for, lists and
    /// histories.
    ///
    /// # Errors
    ///
    /// [`Error::NoHttp`]: the URL is not known; see [`Options::http_url`].
    ///
    /// ```no_run
    /// use umbra_client::{Client, DeviceQuery, Options};
    ///
    /// # async fn example() -> Result<(), umbra_client::Error> {
    /// let client = Client::connect(Options::new("wss://broker.example", "back-end-1")?).await?;
    /// let mut devices = client.http()?.devices(&DeviceQuery::new().connected(false));
    /// while let Some(device) = devices.try_next().await? {
    ///     println!("{} was seen last at {:?}", device.id, device.last_seen);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn http(&self) -> Result<&HttpClient, Error> {
        self.shared.http.as_ref().ok_or(Error::NoHttp)
    }

    /// Returns the reason why there is no connection; `None` if there is one.
    ///
    /// ```no_run
    /// # fn example(client: umbra_client::Client) {
    /// if let Some(error) = client.connection_error() {
    ///     eprintln!("offline: {error:#}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn connection_error(&self) -> Option<ConnectionError> {
        self.shared.status.borrow().error()
    }

    /// Disconnects gracefully. Other handles of this client get [`Error::Closed`] from then on.
    ///
    /// ```no_run
    /// # async fn example(client: umbra_client::Client) {
    /// client.close().await;
    /// # }
    /// ```
    pub async fn close(self) {
        let task = self.shared.task.lock().await.take();
        let _ = self.shared.commands.send(Command::Close).await;
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.shared.observer
    }

    /// Sends one request to `shadow` and returns its reply; a rejection is an error.
    pub(crate) async fn request(&self, shadow: &ShadowId, verb: &str, body: &Value) -> Result<Value, Error> {
        let _permit = self.turn(shadow).await?;
        let topic = format!("{}/{verb}", shadow.prefix());
        let reply = read(&self.send_and_receive(topic, body.to_string().into()).await?);
        if let Err(Error::Rejected(rejection)) = &reply
            && let Some(wait) = rejection.retry_after()
        {
            self.throttled().throttle(shadow, wait, Instant::now());
        }
        reply
    }

    async fn send_and_receive(&self, topic: String, body: Bytes) -> Result<Bytes, Error> {
        let deadline = Instant::now() + self.shared.reply_deadline;
        // Fails before sending: then it is certain that nothing was done.
        self.up_by(deadline).await?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Request(Request { topic, body, reply });
        self.shared.commands.send(command).await.map_err(|_| Error::Closed)?;
        match timeout_at(deadline, answer).await {
            Err(_) => Err(Error::Unanswered),
            Ok(answer) => answer.map_err(|_| Error::Closed)?,
        }
    }

    /// Waits until a request to `shadow` may be sent.
    async fn turn(&self, shadow: &ShadowId) -> Result<SemaphorePermit<'_>, Error> {
        let permit = self.shared.permits.acquire().await.map_err(|_| Error::Closed)?;
        let slot = self.throttled().slot(shadow, Instant::now());
        let Some(slot) = slot else { return Ok(permit) };
        // Released: requests that wait for one shadow must not block those to others.
        drop(permit);
        sleep_until(slot).await;
        self.shared.permits.acquire().await.map_err(|_| Error::Closed)
    }

    async fn up_by(&self, deadline: Instant) -> Result<(), Error> {
        let mut status = self.shared.status.clone();
        let settled = status.wait_for(|status| matches!(status, Status::Up | Status::Ended(_)));
        let closed = matches!(timeout_at(deadline, settled).await, Ok(Err(_)));
        match &*self.shared.status.borrow() {
            Status::Ended(error) => Err(Error::Offline(error.clone())),
            _ if closed => Err(Error::Closed),
            Status::Up => Ok(()),
            Status::Down(error) => Err(Error::Offline(error.clone())),
            Status::Connecting => Err(Error::Offline(ConnectionError::NoAnswer(Some(self.shared.reply_deadline)))),
        }
    }

    fn throttled(&self) -> std::sync::MutexGuard<'_, ThrottledShadows> {
        self.shared.throttled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.shared.status.borrow())
    }
}

/// Parses a reply; a rejection is an error.
fn read(payload: &[u8]) -> Result<Value, Error> {
    let reply: Value = serde_json::from_slice(payload).map_err(Error::unreadable)?;
    match Rejection::from_reply(&reply) {
        None => Ok(reply),
        Some(rejection) => Err(Error::Rejected(Box::new(rejection))),
    }
}

/// Requests of a client in flight at once; the service allows 64 to one shadow.
const REQUESTS_IN_FLIGHT: usize = 32;
