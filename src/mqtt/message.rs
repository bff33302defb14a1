//! An application message on its way to subscribers.
//!
//! A message is rendered once and shared; its PUBLISH frame is encoded once per protocol version and QoS, and the
//! packet identifier is patched in per subscriber.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::mqtt::{
    packet::{Properties, QoS},
    topic::TopicName,
};

/// A message as it was published.
#[derive(Debug)]
pub struct Message {
    /// Where it was published.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// The QoS it was published at; a subscription may lower it.
    pub qos: QoS,
    /// Whether it was published with the retain flag.
    pub retain: bool,
    /// MQTT 5 properties, without a topic alias.
    pub properties: Option<Box<Properties>>,
    /// When it stops being worth delivering, from its message expiry interval.
    pub expires_at: Option<Instant>,
}

impl Message {
    /// What the properties occupy in memory, in bytes.
    #[must_use]
    pub fn properties_bytes(&self) -> usize {
        let Some(properties) = self.properties.as_deref() else { return 0 };
        size_of::<Properties>()
            + properties.content_type.as_ref().map_or(0, String::len)
            + properties.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
            + properties.correlation_data.as_ref().map_or(0, Bytes::len)
            + properties.user.iter().map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len()).sum::<usize>()
    }
}

/// A message on its way to one subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What is delivered.
    pub message: Arc<Message>,
    /// The lower of the publisher's and the subscription's.
    pub qos: QoS,
    /// The retain flag to send.
    pub retain: bool,
    /// Identifiers of the subscriptions that selected it.
    pub subscription_ids: Box<[u32]>,
}
