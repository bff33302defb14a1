//! The records of the log, in order.
//!
//! A follower has a consumer on one of the servers that have the stream. It sends messages that are committed, under flow control, and
//! heartbeats while there are none. The follower makes a new one whenever something is missing: a record, a heartbeat, or, when no record
//! has come for some time, one that the leader has. Consumers are left behind, and end since nobody listens.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::{
    NatsLog, RETRY_PAUSE,
    api::{self, STREAM_NOT_FOUND},
};
use crate::cluster::LogUnavailable;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// The longest silence of a consumer.
const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// The time without a record after which the leader is asked where the log ends. A decider appends more often.
const CHECK_AFTER: Duration = Duration::from_secs(3);

/// The header of a heartbeat whose consumer waits for an answer to its flow control, with the subject for it.
const STALLED: &str = "Nats-Consumer-Stalled";

/// The records of the log from a number on; see the module.
pub(crate) struct Follower {
    log: NatsLog,
    next: u64,
    consumer: Option<Consumer>,
    /// True if the stream was not there when it was asked for last.
    is_gone: bool,
}

/// The end of following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowEnd {
    /// The next record was removed; `first` is the first that is there, or will be.
    Trimmed {
        /// Its number.
        first: u64,
    },
}

struct Consumer {
    messages: Subscriber,
    /// The time of the last record, or of the last answer that there are no more.
    checked: Instant,
}

/// The meaning of a message of a consumer.
#[derive(Debug, PartialEq, Eq)]
enum Delivered {
    Record(u64),
    /// The consumer waits for a message to this subject.
    FlowControl(String),
    Heartbeat,
    /// The consumer has ended, or the message is none of its.
    Unknown,
}

impl NatsLog {
    /// Returns the records from the number `from` on, without gap or repetition, for ever.
    pub(crate) fn follow(&self, from: u64) -> Follower {
        Follower { log: self.clone(), next: from.max(1), consumer: None, is_gone: false }
    }
}

impl Follower {
    /// Waits for the next record, and returns it with its number. May be cancelled without a loss.
    ///
    /// # Errors
    ///
    /// [`FollowEnd::Trimmed`]: it was removed, before or while following. All other failures are retried.
    pub(crate) async fn next(&mut self) -> Result<(u64, Bytes), FollowEnd> {
        loop {
            let Some(consumer) = &mut self.consumer else {
                self.open().await?;
                continue;
            };
            let Ok(Some(message)) = timeout(SILENCE_MAX, consumer.messages.next()).await else {
                self.consumer = None;
                continue;
            };
            match delivered(&message) {
                Delivered::Record(number) if number == self.next => {
                    self.next += 1;
                    consumer.checked = Instant::now();
                    self.log.succeeded();
                    return Ok((number, message.payload));
                }
                Delivered::Record(number) if number < self.next => {}
                Delivered::Record(_) | Delivered::Unknown => self.consumer = None,
                Delivered::FlowControl(reply) => {
                    if self.log.shared.client.publish(reply, Bytes::new()).await.is_err() {
                        self.consumer = None;
                    }
                }
                Delivered::Heartbeat if consumer.checked.elapsed() > CHECK_AFTER => match self.log.tail().await {
                    Ok(tail) if tail < self.next => consumer.checked = Instant::now(),
                    _ => self.consumer = None,
                },
                Delivered::Heartbeat => {}
            }
        }
    }

    /// Makes a consumer; without one after a failure, and a pause.
    async fn open(&mut self) -> Result<(), FollowEnd> {
        match self.try_open().await {
            Ok(opened) => opened.map(|consumer| self.consumer = Some(consumer)),
            Err(error) => {
                let is_gone = matches!(error, LogUnavailable::Answered { code: STREAM_NOT_FOUND, .. });
                if is_gone && !self.is_gone {
                    let stream = &self.log.shared.names.stream;
                    tracing::error!(
                        stream,
                        "NATS has no log of this cluster any more; it can be restored from a node's store"
                    );
                }
                self.is_gone = is_gone;
                tracing::debug!(next = self.next, %error, "the log cannot be followed");
                sleep(RETRY_PAUSE).await;
                Ok(())
            }
        }
    }

    async fn try_open(&self) -> Result<Result<Consumer, FollowEnd>, LogUnavailable> {
        let first = self.log.state().await?.first_seq;
        if first > self.next {
            return Ok(Err(FollowEnd::Trimmed { first }));
        }
        let client = &self.log.shared.client;
        let inbox = client.new_inbox();
        let failed = |error: async_nats::SubscribeError| LogUnavailable::Failed(error.to_string());
        let messages = client.subscribe(inbox.clone()).await.map_err(failed)?;
        // The part of the inbox that is random.
        let name = inbox.rsplit('.').next().unwrap_or_default();
        api::create_consumer(&self.log, name, &inbox, self.next, HEARTBEAT).await?;
        self.log.succeeded();
        Ok(Ok(Consumer { messages, checked: Instant::now() }))
    }
}

fn delivered(message: &Message) -> Delivered {
    let reply = message.reply.as_ref().map(|reply| reply.as_str());
    match message.status {
        None => match reply.and_then(sequence) {
            Some(number) => Delivered::Record(number),
            None => Delivered::Unknown,
        },
        Some(StatusCode::IDLE_HEARTBEAT) => {
            let stalled = message.headers.as_ref().and_then(|headers| headers.get(STALLED));
            match reply.or(stalled.map(|subject| subject.as_str())) {
                Some(subject) => Delivered::FlowControl(subject.to_owned()),
                None => Delivered::Heartbeat,
            }
        }
        Some(_) => Delivered::Unknown,
    }
}

/// Returns the sequence in the subject for acknowledgements: `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.…`, or with a domain and an
/// account before the stream.
fn sequence(reply: &str) -> Option<u64> {
    let parts: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = if parts.len() < 9 { 3 } else { 5 };
    parts.get(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_found_in_both_forms() {
        for (reply, expected) in [
            ("$JS.ACK.umbra-x.abc.1.42.7.1700000000000000000.0", Some(42)),
            ("$JS.ACK._.hash.umbra-x.abc.1.42.7.1700000000000000000.0", Some(42)),
            ("$JS.ACK._.hash.umbra-x.abc.1.42.7.1700000000000000000.0.token", Some(42)),
            ("$JS.FC.umbra-x.abc.1", None),
            ("$JS.ACK.umbra-x", None),
            ("$JS.ACK.umbra-x.abc.1.x.7.1.0", None),
        ] {
            assert_eq!(sequence(reply), expected, "{reply}");
        }
    }
}
