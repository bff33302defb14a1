//! Publication of ordinary messages for requesters that are not MQTT clients.

use std::time::Instant;

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    admission::QuotaKind,
    auth::Access,
    mqtt::{
        broker::{Broker, durable::DURABLE_TIMEOUT},
        protocol::{
            message::Message,
            packet::{Properties, QoS},
            topic::{TOPIC_BYTES_MAX, TopicError, TopicName},
        },
        shadow::topics::Destination,
    },
};

/// A message from outside MQTT.
#[derive(Debug)]
pub struct ExternalMessage<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The payload, which may be a part of a larger buffer.
    pub payload: &'a [u8],
    /// QoS 0 or 1.
    pub qos: QoS,
    /// The retain flag.
    pub retain: bool,
    /// MQTT 5 properties without the response topic, if there are any.
    pub properties: Option<Box<Properties>>,
    /// The topic for replies.
    pub response_topic: Option<&'a str>,
}

/// Reason why a message from outside was not published.
#[derive(Debug, thiserror::Error)]
pub enum NotPublished {
    /// The topic or response topic is invalid.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The topic exceeds the configured length.
    #[error("exceeds {0} bytes")]
    TooLong(usize),
    /// The topic is reserved.
    #[error("is a reserved topic of shadows or of the service")]
    Reserved,
    /// The publisher lacks the right.
    #[error("may not be published to")]
    Forbidden,
    /// The disk does not take the message in time, or the server ends before it does.
    #[error("may or may not be kept: the disk did not take it in time")]
    Unknown,
    /// There is no memory to retain the message.
    #[error("{}", .0.full())]
    Quota(QuotaKind),
}

impl Broker {
    /// Publishes `external` for a client with `access`, as if it had arrived in a PUBLISH. Returns when it would be
    /// acknowledged.
    ///
    /// # Errors
    ///
    /// Any [`NotPublished`]; nothing is changed.
    pub async fn publish_external(&self, access: &Access, external: ExternalMessage<'_>) -> Result<(), NotPublished> {
        let topic = Self::ordinary_topic(external.topic).inspect_err(|_| self.counters.publishes_refused.add(1))?;
        if !access.may_publish(topic.as_str()) {
            self.counters.publishes_refused.add(1);
            return Err(NotPublished::Forbidden);
        }
        let mut properties = external.properties;
        if let Some(response_topic) = external.response_topic {
            properties.get_or_insert_default().response_topic = Some(TopicName::new(response_topic)?);
        }
        let payload = Bytes::copy_from_slice(external.payload);
        let message = Message::new(topic, payload, external.qos, external.retain, properties, Instant::now());
        if self.may_miss_sessions(&message) {
            return Err(NotPublished::Quota(QuotaKind::Disk));
        }
        let published = self.publish(message, &self.quota(access), None).map_err(NotPublished::Quota)?;
        if published.shared.is_none() && !published.is_kept {
            return Ok(());
        }
        let (kept, is_kept) = oneshot::channel();
        self.after_kept(published, move || {
            let _nobody_waits_any_more = kept.send(());
        });
        match timeout(DURABLE_TIMEOUT, is_kept).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotPublished::Unknown),
        }
    }

    fn ordinary_topic(text: &str) -> Result<TopicName, NotPublished> {
        if text.len() > TOPIC_BYTES_MAX {
            return Err(NotPublished::TooLong(TOPIC_BYTES_MAX));
        }
        let topic = TopicName::new(text)?;
        if Destination::of(&topic) == Destination::Ordinary { Ok(topic) } else { Err(NotPublished::Reserved) }
    }
}
