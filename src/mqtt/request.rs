//! A shadow request that came as a PUBLISH: from its payload to the packets that answer it.
//!
//! However a request ends, its answers leave through the requester's outbox in this order: the `accepted` or
//! `rejected` event, the same on the response topic if one was named, then the PUBACK or PUBREC with the verdict.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    mqtt::{
        events::Events,
        message::Message,
        outbox::{Outbox, Verdict},
        packet::{PacketId, Properties, QoS, Reason},
        reason,
        shadow_topic::{Event, Operation},
        topic::TopicName,
    },
    service::{Outcome, Requester},
    shadow::{Command, Document, Rejection, ShadowKey, Timestamp},
    wire::{self, ClientToken},
};

/// What is needed to answer a request, whatever becomes of it.
pub struct Request {
    /// Where its events go.
    pub events: Arc<Events>,
    /// Who asked; `None`: a will, which nobody waits for.
    pub from: Option<Arc<Outbox>>,
    /// The shadow.
    pub key: ShadowKey,
    /// What was asked.
    pub operation: Operation,
    /// The packet identifier, for QoS 1 and 2.
    pub id: Option<PacketId>,
    /// Correlates replies.
    pub client_token: Option<ClientToken>,
    /// Where the reply goes as well.
    pub response: Option<ResponseTopic>,
}

/// Where a requester wants its reply besides the shadow's own topics.
#[derive(Clone, Debug)]
pub struct ResponseTopic {
    /// An ordinary topic.
    pub topic: TopicName,
    /// Sent back as it came.
    pub correlation_data: Option<Bytes>,
}

impl Request {
    /// Refuses the request.
    pub fn reject(self, rejection: &Rejection, now: Timestamp) {
        let payload = wire::rejected(rejection, now, self.client_token.as_ref());
        self.events.reply(&self.key, self.operation.rejected(), &payload, self.from.as_deref());
        self.answer(payload, reason::verdict(rejection));
    }

    /// Answers a get with `document`.
    pub fn got(self, document: &Document, now: Timestamp) {
        match wire::get_accepted(document, now, crate::auth::Projection::ALL, self.client_token.as_ref()) {
            Some(payload) => {
                self.events.reply(&self.key, Event::GetAccepted, &payload, self.from.as_deref());
                self.answer(payload, Verdict::SUCCESS);
            }
            None => {
                let rejection = Rejection::NotFound(self.key.clone());
                self.reject(&rejection, now);
            }
        }
    }

    /// Sends `payload` to the response topic and the verdict to the requester.
    fn answer(self, payload: Bytes, verdict: Verdict) {
        if let Some(ResponseTopic { topic, correlation_data }) = self.response {
            let properties = correlation_data
                .map(|data| Box::new(Properties { correlation_data: Some(data), ..Properties::default() }));
            let reply = Message::new(topic, payload, QoS::AtLeastOnce, false, properties, Instant::now());
            self.events.respond(reply, self.from.as_deref());
        }
        if let (Some(from), Some(id)) = (self.from, self.id) {
            from.push_ack(id, verdict);
        }
    }
}
