//! Ordinary messages of the broker for the HTTP front end: AWS's `Publish` and the retained messages.

use futures_util::future::BoxFuture;

use crate::{
    auth::Access,
    http::{self, PublishedMessage, RetainedBatch, RetainedMessage},
    mqtt::{
        broker::external::{ExternalMessage, NotPublished},
        protocol::{
            message::Message,
            packet::{Properties, QoS},
        },
    },
    server::telemetry::Telemetry,
};

impl http::MessageBroker for Telemetry {
    fn publish<'a>(
        &'a self,
        access: &'a Access,
        message: PublishedMessage,
    ) -> BoxFuture<'a, Result<(), http::NotPublished>> {
        Box::pin(self.publish_for(access, message))
    }

    fn retained(&self, topic: &str) -> Option<RetainedMessage> {
        let (message, at) = self.broker.router.retained_on(topic)?;
        Some(self.described(&message, at))
    }

    fn visible_retained<'a>(
        &'a self,
        access: &'a Access,
        topic: Option<&str>,
    ) -> Box<dyn Iterator<Item = RetainedBatch> + Send + 'a> {
        let batches = self.broker.router.visible_retained(access, topic);
        Box::new(batches.map(|batch| RetainedBatch {
            messages: batch.messages.iter().map(|(message, at)| self.described(message, *at)).collect(),
            work: batch.work,
        }))
    }
}

impl Telemetry {
    async fn publish_for(&self, access: &Access, message: PublishedMessage) -> Result<(), http::NotPublished> {
        let properties = Properties {
            payload_format_indicator: message.payload_is_utf8.map(u8::from),
            message_expiry: message.expiry,
            content_type: message.content_type,
            response_topic: None,
            correlation_data: message.correlation_data,
            user: message.user,
        };
        let external = ExternalMessage {
            topic: &message.topic,
            payload: &message.payload,
            qos: if message.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce },
            retain: message.retain,
            properties: (properties != Properties::default()).then(|| Box::new(properties)),
            response_topic: message.response_topic.as_deref(),
        };
        self.broker.publish_external(access, external).await.map_err(|error| match error {
            NotPublished::Unknown => http::NotPublished::Unknown,
            NotPublished::Forbidden => http::NotPublished::Forbidden,
            NotPublished::Quota(_) => http::NotPublished::Quota(error.to_string()),
            NotPublished::UserProperties(_) => http::NotPublished::UserProperties(error.to_string()),
            error => http::NotPublished::Topic(error.to_string()),
        })
    }

    fn described(&self, message: &Message, stored_at_ms: u64) -> RetainedMessage {
        RetainedMessage {
            topic: message.topic.as_str().to_owned(),
            payload: message.payload.clone(),
            qos: message.qos as u8,
            stored_at_ms,
            user: message.properties.as_ref().map(|properties| properties.user.clone()).unwrap_or_default(),
        }
    }
}
