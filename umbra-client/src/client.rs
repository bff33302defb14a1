//! The handle of a client, and how one request goes out and its reply comes back.

use std::{
    collections::HashSet,
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
    connection::{self, Ends, Order, Request, Status},
    error::Error,
    messages::{Message, MessageSink, Messages, Qos},
    names::ShadowId,
    observer::Observer,
    options::Options,
    rejection::Rejection,
    shadow::Shadow,
    subscriptions::Watcher,
    throttled::ThrottledShadows,
    watch::{Queue, Scope, Topic, Watch},
};

/// A client of the service. Handles are cheap to clone and share one connection, which ends with the last of them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
    watch_ended: Arc<Notify>,
    /// Requests in flight.
    permits: Semaphore,
    pace: Mutex<ThrottledShadows>,
    reply_deadline: Duration,
    observer: Arc<dyn Observer>,
    task: AsyncMutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// A client that connects in the background, again and again if need be. Belongs into a Tokio runtime.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let (orders, orders_end) = mpsc::channel(REQUESTS_IN_FLIGHT);
        let (status_end, status) = watch::channel(Status::Connecting);
        let watch_ended = Arc::new(Notify::new());
        let ends = Ends { orders: orders_end, status: status_end, watch_ended: watch_ended.clone() };
        let (reply_deadline, observer) = (options.reply_deadline, options.observer.clone());
        // It ends when the last handle, and with it the sender of orders, is gone.
        let task = tokio::spawn(connection::run(options, ends));
        Self {
            shared: Arc::new(Shared {
                orders,
                status,
                watch_ended,
                permits: Semaphore::new(REQUESTS_IN_FLIGHT),
                pace: Mutex::default(),
                reply_deadline,
                observer,
                task: AsyncMutex::new(Some(task)),
            }),
        }
    }

    /// A client that is connected; it connects again by itself whenever the connection breaks later.
    ///
    /// # Errors
    ///
    /// [`Error::Offline`]: there was no connection within the reply deadline.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let client = Self::start(options);
        client.up_by(Instant::now() + client.shared.reply_deadline).await?;
        Ok(client)
    }

    /// The classic shadow of a device, or a named one.
    pub fn shadow(&self, shadow: impl Into<ShadowId>) -> Shadow {
        Shadow::new(self.clone(), shadow.into())
    }

    /// Hears news of many shadows; of one, [`Shadow::watch`] does. At most `room` pieces wait to be read.
    ///
    /// The subscription is granted when this returns, or will be with the next connection: what is read afterwards
    /// is older than what is heard.
    ///
    /// # Errors
    ///
    /// - [`Error::Refused`]: the broker does not grant it.
    /// - [`Error::TooManyWatches`]: one session does not take more filters.
    pub async fn watch(&self, scope: Scope, topics: &[Topic], room: usize) -> Result<Watch, Error> {
        let queue = Arc::new(Queue::new(room));
        let watch = Watch::new(queue.clone(), self.shared.watch_ended.clone());
        let topics: HashSet<_> = topics.iter().copied().collect();
        let (granted, answer) = oneshot::channel();
        let order = Order::Watch(Watcher { scope, topics, queue }, granted);
        self.shared.orders.send(order).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)??;
        Ok(watch)
    }

    /// Publishes a request as it is, once, and returns the payload of its reply, be it a rejection or not. For
    /// programs that pass on what others wrote; [`Shadow`] has the requests for everybody else.
    ///
    /// # Errors
    ///
    /// - [`Error::Topic`]: the topic is malformed.
    /// - [`Error::Refused`]: the broker refused the message without a reply.
    /// - [`Error::Unanswered`]: it may have been carried out, or not.
    pub async fn exchange(&self, topic: &str, payload: Bytes) -> Result<Bytes, Error> {
        let _permit = self.shared.permits.acquire().await.map_err(|_| Error::Closed)?;
        let message = Message { topic: topic.to_owned(), payload, qos: Qos::AtLeastOnce, retain: false };
        message.check()?;
        self.send_and_receive(message.topic, message.payload).await
    }

    /// Publishes a message; returns once it is sent (QoS 0) or acknowledged.
    ///
    /// # Errors
    ///
    /// - [`Error::Topic`]: the topic is malformed.
    /// - [`Error::Refused`]: the broker does not take it.
    /// - [`Error::Unanswered`]: it may have arrived, or not.
    pub async fn publish(&self, message: Message) -> Result<(), Error> {
        message.check()?;
        let _permit = self.shared.permits.acquire().await.map_err(|_| Error::Closed)?;
        let deadline = Instant::now() + self.shared.reply_deadline;
        self.up_by(deadline).await?;
        let (waiter, answer) = oneshot::channel();
        self.shared.orders.send(Order::Publish(message, waiter)).await.map_err(|_| Error::Closed)?;
        timeout_at(deadline, answer).await.map_err(|_| Error::Unanswered)?.map_err(|_| Error::Closed)?
    }

    /// Subscribes to messages. At most `capacity` wait to be read.
    ///
    /// Retained messages come again only where no other subscription of this client has the same filter.
    ///
    /// # Errors
    ///
    /// - [`Error::Topic`]: a filter is malformed.
    /// - [`Error::Refused`]: the broker does not grant it.
    /// - [`Error::TooManyWatches`]: one session does not take more filters.
    pub async fn subscribe(&self, filters: &[&str], qos: Qos, capacity: usize) -> Result<Messages, Error> {
        let (sink, messages) = MessageSink::new(filters, qos, capacity, self.shared.watch_ended.clone())?;
        let (granted, answer) = oneshot::channel();
        self.shared.orders.send(Order::Subscribe(sink, granted)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)??;
        Ok(messages)
    }

    /// Returns why there is no connection, if there is none.
    #[must_use]
    pub fn offline_reason(&self) -> Option<String> {
        match &*self.shared.status.borrow() {
            Status::Up => None,
            Status::Connecting => Some("not connected yet".to_owned()),
            Status::Down(why) | Status::Ended(why) => Some(why.clone()),
        }
    }

    /// Ends the connection in good order; other handles find the client closed.
    pub async fn close(self) {
        let task = self.shared.task.lock().await.take();
        let _ = self.shared.orders.send(Order::Close).await;
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.shared.observer
    }

    /// Sends one request about `shadow` and waits for its reply, which is no rejection.
    pub(crate) async fn request(&self, shadow: &ShadowId, verb: &str, body: &Value) -> Result<Value, Error> {
        let _permit = self.turn(shadow).await?;
        let topic = format!("{}/{verb}", shadow.prefix());
        let reply = read(&self.send_and_receive(topic, body.to_string().into()).await?);
        if let Err(Error::Rejected(rejection)) = &reply
            && let Some(wait) = rejection.retry_after()
        {
            self.pace().asked(shadow, wait, Instant::now());
        }
        reply
    }

    async fn send_and_receive(&self, topic: String, body: Bytes) -> Result<Bytes, Error> {
        let deadline = Instant::now() + self.shared.reply_deadline;
        // A request that could not be sent at all is not unanswered: it is certain that it did nothing.
        self.up_by(deadline).await?;
        let (reply, answer) = oneshot::channel();
        let order = Order::Request(Request { topic, body, reply });
        self.shared.orders.send(order).await.map_err(|_| Error::Closed)?;
        match timeout_at(deadline, answer).await {
            Err(_) => Err(Error::Unanswered),
            Ok(answer) => answer.map_err(|_| Error::Closed)?,
        }
    }

    /// Waits until a request about `shadow` may go.
    async fn turn(&self, shadow: &ShadowId) -> Result<SemaphorePermit<'_>, Error> {
        let permit = self.shared.permits.acquire().await.map_err(|_| Error::Closed)?;
        let slot = self.pace().slot(shadow, Instant::now());
        let Some(slot) = slot else { return Ok(permit) };
        // Whoever waits for one shadow must not keep others from theirs.
        drop(permit);
        sleep_until(slot).await;
        self.shared.permits.acquire().await.map_err(|_| Error::Closed)
    }

    async fn up_by(&self, deadline: Instant) -> Result<(), Error> {
        let mut status = self.shared.status.clone();
        let settled = status.wait_for(|status| matches!(status, Status::Up | Status::Ended(_)));
        let closed = matches!(timeout_at(deadline, settled).await, Ok(Err(_)));
        match &*self.shared.status.borrow() {
            Status::Ended(why) => Err(Error::Offline(why.clone())),
            _ if closed => Err(Error::Closed),
            Status::Up => Ok(()),
            Status::Down(why) => Err(Error::Offline(why.clone())),
            Status::Connecting => Err(Error::Offline(format!("no answer within {:?}", self.shared.reply_deadline))),
        }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, ThrottledShadows> {
        self.shared.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only a rejection has a `code`.
fn read(payload: &[u8]) -> Result<Value, Error> {
    let unreadable = |error: serde_json::Error| Error::Unreadable(error.to_string());
    let reply: Value = serde_json::from_slice(payload).map_err(unreadable)?;
    if reply.get("code").is_none() {
        return Ok(reply);
    }
    let rejection: Rejection = serde_json::from_value(reply).map_err(unreadable)?;
    Err(Error::Rejected(Box::new(rejection)))
}

/// Requests of one client that wait for a reply at the same time; the service takes 64 to one shadow.
const REQUESTS_IN_FLIGHT: usize = 32;
