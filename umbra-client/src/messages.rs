//! Messages on ordinary topics, published or received.
//!
//! Unlike the events of a [`crate::Watch`], messages do not supersede each other. While the reader of a subscription is
//! behind, the client stops reading from the broker for up to ten seconds per message; after that it drops messages and
//! counts them. The reader must therefore not wait longer for a request of the same client.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use rumqttc::v5::mqttbytes::{QoS, valid_filter, valid_topic};
use tokio::sync::{Notify, mpsc};

use crate::error::Error;

/// A message on a topic.
///
/// ```
/// use umbra_client::{Message, Qos};
///
/// let message = Message::new("plant/lamp", "on").qos(Qos::ExactlyOnce).retain();
/// assert_eq!((&*message.topic, &*message.payload), ("plant/lamp", &b"on"[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The quality of service.
    pub qos: Qos,
    /// Published: the broker keeps the message for later subscribers. Received: the broker had kept it.
    pub retain: bool,
}

/// A quality of service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// QoS 0: not acknowledged, may be lost.
    #[default]
    AtMostOnce,
    /// QoS 1: acknowledged, may be duplicated.
    AtLeastOnce,
    /// QoS 2: acknowledged, neither lost nor duplicated.
    ExactlyOnce,
}

/// The messages of a subscription, which ends when this is dropped.
///
/// It is a [`Stream`] of messages that ends once the client is closed.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use umbra_client::{Client, Options, Qos};
///
/// # async fn example() -> Result<(), umbra_client::Error> {
/// let client = Client::connect(Options::new("127.0.0.1:1883", "logger")?).await?;
/// let mut messages = client.subscribe(&["plant/#"], Qos::AtLeastOnce, 64).await?;
/// while let Some(message) = messages.next().await {
///     println!("{}: {} bytes", message.topic, message.payload.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Messages {
    receiver: mpsc::Receiver<Message>,
    missed: Arc<AtomicU64>,
    /// Wakes the client's task when this subscription ends.
    ended: Arc<Notify>,
}

/// The sending half of [`Messages`].
#[derive(Debug)]
pub(crate) struct MessageSink {
    pub(crate) filters: Vec<String>,
    pub(crate) qos: Qos,
    sender: mpsc::Sender<Message>,
    missed: Arc<AtomicU64>,
}

impl Messages {
    /// Returns the next message; `None` once the client is closed. Cancel-safe: no message is lost.
    ///
    /// ```no_run
    /// # async fn example(mut messages: umbra_client::Messages) {
    /// while let Some(message) = messages.recv().await {
    ///     println!("{}", message.topic);
    /// }
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }

    /// Returns the number of messages dropped because they were not read in time.
    ///
    /// ```no_run
    /// # fn example(messages: umbra_client::Messages) {
    /// println!("{} messages dropped", messages.missed());
    /// # }
    /// ```
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl Stream for Messages {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.receiver.poll_recv(context)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.receiver.close();
        self.ended.notify_one();
    }
}

impl MessageSink {
    /// Returns both halves of a subscription that holds at most `capacity` messages.
    ///
    /// # Errors
    ///
    /// [`Error::Topic`]: a filter is malformed.
    pub(crate) fn new(
        filters: &[&str],
        qos: Qos,
        capacity: usize,
        ended: Arc<Notify>,
    ) -> Result<(Self, Messages), Error> {
        if let Some(filter) = filters.iter().find(|filter| filter.is_empty() || !valid_filter(filter)) {
            return Err(Error::Topic((*filter).to_owned()));
        }
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let missed = Arc::<AtomicU64>::default();
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let messages = Messages { receiver, missed: missed.clone(), ended };
        Ok((Self { filters, qos, sender, missed }, messages))
    }

    /// Returns true once the subscription was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends `message` to the reader if a filter matches its topic, waiting up to ten seconds if the reader is behind.
    pub(crate) async fn offer(&self, message: &Message) {
        if self.filters.iter().any(|filter| matches(filter, &message.topic)) {
            let sent = self.sender.send_timeout(message.clone(), READER_PATIENCE).await;
            if let Err(mpsc::error::SendTimeoutError::Timeout(_)) = sent {
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Message {
    /// Returns a message with QoS 1, not retained.
    #[must_use]
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos: Qos::AtLeastOnce, retain: false }
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// Has the broker keep the message for later subscribers.
    #[must_use]
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Checks the topic, which the MQTT library would refuse without a reason.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.topic.is_empty() || !valid_topic(&self.topic) { Err(Error::Topic(self.topic.clone())) } else { Ok(()) }
    }
}

impl From<Qos> for QoS {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::AtMostOnce,
            Qos::AtLeastOnce => Self::AtLeastOnce,
            Qos::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<QoS> for Qos {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::AtMostOnce,
            QoS::AtLeastOnce => Self::AtLeastOnce,
            QoS::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// Returns true if `filter` matches `topic`. [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.2-1]
fn matches(filter: &str, topic: &str) -> bool {
    // A shared subscription: `$share/GROUP/FILTER`.
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    let filter = shared.map_or(filter, |(_group, filter)| filter);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filters, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (filters.next(), levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The longest wait for a reader that is behind.
const READER_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_topics() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+/c", "a//c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/#", "$SYS/a", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_beyond_the_capacity_are_dropped_and_counted() {
        let (sink, mut messages) = MessageSink::new(&["a"], Qos::AtMostOnce, 1, Arc::default()).expect("a filter");
        let message = Message { topic: "a".into(), payload: "1".into(), qos: Qos::AtMostOnce, retain: false };
        sink.offer(&message).await;
        sink.offer(&Message { payload: "2".into(), ..message.clone() }).await;
        sink.offer(&Message { topic: "b".into(), ..message.clone() }).await;
        assert_eq!(messages.missed(), 1);
        assert_eq!(messages.recv().await, Some(message));
        drop(messages);
        assert!(sink.is_closed());
    }

    #[test]
    fn malformed_filters_are_refused() {
        for filter in ["", "a/#/b", "a+"] {
            let refused = MessageSink::new(&[filter], Qos::AtMostOnce, 1, Arc::default());
            assert!(matches!(refused, Err(Error::Topic(topic)) if topic == filter), "{filter}");
        }
    }
}
