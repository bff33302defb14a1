//! Messages on ordinary topics: what to publish, and what a subscription hands out.
//!
//! Unlike a [`crate::Watch`], a subscription to messages has nothing that a newer message supersedes. While its reader
//! is behind, the client reads no further from the broker, for up to ten seconds; after that messages are passed over
//! and counted. A reader must therefore not wait for a request of the same client for longer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rumqttc::v5::mqttbytes::{QoS, valid_filter, valid_topic};
use tokio::sync::{Notify, mpsc};

use crate::error::Error;

/// A message on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// The content.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: Qos,
    /// To publish: the broker keeps the message for later subscribers. Received: it was kept.
    pub retain: bool,
}

/// Quality of service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: never acknowledged.
    #[default]
    AtMostOnce,
    /// 1: acknowledged; may arrive twice.
    AtLeastOnce,
    /// 2: acknowledged; arrives once.
    ExactlyOnce,
}

/// The messages of a subscription, which ends when this is dropped.
#[derive(Debug)]
pub struct Messages {
    receiver: mpsc::Receiver<Message>,
    missed: Arc<AtomicU64>,
    /// Notifies the client's task that nobody reads any more.
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
    /// Returns the next message, or `None` once the client is closed. Can be cancelled without losing anything.
    pub async fn recv(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }

    /// Returns how many messages were passed over because nobody read them in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
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

    /// True if nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Hands `message` to the reader if a filter matches its topic, waiting for a while if the reader is behind.
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
    /// Checks what the network task would not send.
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

/// True if `filter` matches `topic`. [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.2-1]
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

/// How long the client waits for a reader that is behind.
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
    async fn a_reader_that_never_reads_misses_what_does_not_fit() {
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
            let refused = MessageSink::new(&[filter], Qos::AtMostOnce, 1, Arc::default()).map(drop);
            assert_eq!(refused, Err(Error::Topic(filter.to_owned())), "{filter}");
        }
    }
}
