//! An application message on its way to subscribers.
//!
//! A message is rendered once and shared; its PUBLISH frame is encoded once per protocol version and QoS, and the
//! packet identifier is patched in per subscriber.

use std::time::Instant;

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
