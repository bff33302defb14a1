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
            codec::USER_PROPERTIES_MAX,
            message::Message,
            packet::{Properties, QoS},
            topic::{TOPIC_BYTES_MAX, TopicError, TopicName, is_clean},
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
    /// The message has more user properties than a packet may have.
    #[error("has {0} user properties; the limit is {USER_PROPERTIES_MAX}")]
    UserProperties(usize),
    /// A property is one that a packet cannot have.
    #[error("has a property with a control character, with a Unicode non-character, or of more than 65,535 bytes")]
    Property,
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
        properties.as_deref().map_or(Ok(()), check).inspect_err(|_| self.counters.publishes_refused.add(1))?;
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

/// Checks that a packet may have `properties`. The rows of the store and the log of a cluster have a message as a packet:
/// a restart, or another node, could not read one that clients may not send.
fn check(properties: &Properties) -> Result<(), NotPublished> {
    if properties.user.len() > USER_PROPERTIES_MAX {
        return Err(NotPublished::UserProperties(properties.user.len()));
    }
    let user = properties.user.iter().flat_map(|(name, value)| [name, value]);
    let is_fit = |text: &String| text.len() <= FIELD_BYTES_MAX && is_clean(text);
    let is_short = properties.correlation_data.as_ref().is_none_or(|data| data.len() <= FIELD_BYTES_MAX);
    if is_short && user.chain(&properties.content_type).all(is_fit) { Ok(()) } else { Err(NotPublished::Property) }
}

/// Bytes of a string or of binary data in a packet, whose length has two bytes.
const FIELD_BYTES_MAX: usize = u16::MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    /// A message from outside with more user properties than the decoder takes was accepted, and lost at the restart: its
    /// row could not be read.
    #[test]
    fn properties_that_a_packet_cannot_have_are_refused() {
        let user = |count: usize, text: &str| Properties {
            user: vec![(text.to_owned(), String::new()); count],
            ..Properties::default()
        };
        let content = |text: String| Properties { content_type: Some(text), ..Properties::default() };
        let data = |bytes: usize| Properties { correlation_data: Some(vec![0; bytes].into()), ..Properties::default() };
        for (properties, error) in [
            (user(256, "n"), None),
            (user(257, "n"), Some("has 257 user properties; the limit is 256")),
            (user(1, &"n".repeat(65_535)), None),
            (user(1, &"n".repeat(65_536)), Some("has a property with")),
            (user(1, "a\u{1}b"), Some("has a property with")),
            (content("t".repeat(65_535)), None),
            (content("t".repeat(65_536)), Some("has a property with")),
            (content("\0".to_owned()), Some("has a property with")),
            (data(65_535), None),
            (data(65_536), Some("has a property with")),
        ] {
            let found = check(&properties).err().map(|error| error.to_string());
            assert_eq!(found.is_some(), error.is_some(), "{found:?}, expected {error:?}");
            assert!(found.zip(error).is_none_or(|(found, error)| found.starts_with(error)), "{error:?}");
        }
    }
}
