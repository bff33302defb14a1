//! What a connection does with the packets that concern the broker: PUBLISH, SUBSCRIBE, UNSUBSCRIBE.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    mqtt::{
        connection::Connection,
        message::Message,
        outbox::Verdict,
        packet::{PacketId, Protocol, Reason, Subscribe, Subscription},
        request::{Request, ResponseTopic},
        session::Inbound,
        shadow_topic::{Destination, Operation},
        topic::TopicFilter,
    },
    service::{Permit, Submission},
    shadow::{Command, Rejection, ShadowKey},
    wire,
};

/// A request that is admitted and waits for room in the engine.
pub struct Stalled(Submission);

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Carries out a PUBLISH.
    pub(super) async fn publish(&mut self, inbound: Inbound) {
        let now = Instant::now();
        if let Err(wait) = self.publishes.take(self.broker.limits.publishes, now) {
            self.paused = Some(now + wait);
        }
        match Destination::of(&inbound.topic) {
            Destination::Plain => self.publish_plain(inbound, now),
            Destination::Reserved => {
                self.broker.counters.publishes_refused();
                self.complete(inbound.id, Verdict::refused(Reason::TOPIC_NAME_INVALID, "only the service publishes there"));
            }
            Destination::Request(key, operation) => self.request(inbound, key, operation).await,
        }
    }

    fn publish_plain(&mut self, inbound: Inbound, now: Instant) {
        let id = inbound.id;
        // The payload is a slice of the read buffer, which must not be kept alive by a retained or queued message.
        let payload = Bytes::copy_from_slice(&inbound.payload);
        let message =
            Message::new(inbound.topic, payload, inbound.qos, inbound.retain, inbound.properties, now);
        let receivers = self.broker.router.publish(Arc::new(message), Some(self.client.outbox.id()));
        let reason = if receivers == 0 { Reason::NO_MATCHING_SUBSCRIBERS } else { Reason::SUCCESS };
        self.complete(id, Verdict { reason, reason_string: None });
    }

    async fn request(&mut self, inbound: Inbound, key: ShadowKey, operation: Operation) {
        let now = self.broker.service.now();
        let response = match self.response_topic(&inbound) {
            Ok(response) => response,
            Err(verdict) => return self.complete(inbound.id, verdict),
        };
        let mut request = Request {
            events: self.broker.events.clone(),
            from: Some(self.client.outbox.clone()),
            key,
            operation,
            id: inbound.id,
            client_token: None,
            response,
        };
        let parsed = wire::parse(operation, &inbound.payload, &self.broker.limits.document);
        request.client_token = parsed.client_token;
        let admitted = self.broker.service.admit(self.access.principal(), &request.key);
        match admitted.and(parsed.body) {
            Err(rejection) => request.reject(&rejection, now),
            Ok(None) => match self.broker.service.read(&request.key).await {
                Ok(document) => request.got(&document, now),
                Err(rejection) => request.reject(&rejection, now),
            },
            Ok(Some(command)) => self.submit(request, command),
        }
    }

    fn submit(&mut self, request: Request, command: Command) {
        let submission = Submission {
            key: request.key.clone(),
            command,
            principal: self.access.principal().clone(),
            client: self.key.client_id.clone(),
            requester: Box::new(request),
        };
        match self.broker.service.try_reserve() {
            Some(permit) => permit.submit(submission),
            None => self.stalled = Some(Stalled(submission)),
        }
    }

    /// Goes on with the request that waited.
    pub(super) fn resume_stalled(&mut self, permit: Permit<'_>) {
        if let Some(Stalled(submission)) = self.stalled.take() {
            permit.submit(submission);
        }
    }

    /// The response topic of a request, which must be an ordinary one.
    fn response_topic(&self, inbound: &Inbound) -> Result<Option<ResponseTopic>, Verdict> {
        let Some(properties) = inbound.properties.as_deref() else { return Ok(None) };
        let Some(topic) = &properties.response_topic else { return Ok(None) };
        if Destination::of(topic) != Destination::Plain {
            return Err(Verdict::refused(Reason::TOPIC_NAME_INVALID, "the response topic is not an ordinary one"));
        }
        let correlation_data = properties.correlation_data.as_ref().map(|data| Bytes::copy_from_slice(data));
        Ok(Some(ResponseTopic { topic: topic.clone(), correlation_data }))
    }

    fn complete(&mut self, id: Option<PacketId>, verdict: Verdict) {
        if let Some(id) = id {
            self.client.session.complete(id, verdict, self.transport.output());
        }
    }

    /// Carries out a SUBSCRIBE and answers it; what is retained follows the SUBACK.
    pub(super) fn subscribe(&mut self, subscribe: Subscribe) {
        let Subscribe { id, subscription_id, filters } = subscribe;
        let reasons = filters
            .into_iter()
            .map(|filter| filter.and_then(|subscription| self.subscribe_one(subscription, subscription_id)))
            .map(|granted| granted.unwrap_or_else(|reason| reason))
            .collect();
        self.client.session.subscribed(id, reasons, self.transport.output());
    }

    fn subscribe_one(&mut self, subscription: Subscription, subscription_id: Option<u32>) -> Result<Reason, Reason> {
        let filter = &subscription.filter;
        let known = self.client.filters.contains(filter);
        if !known && self.client.filters.len() >= self.broker.limits.filters_per_session_max {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        let existed = self.broker.router.subscribe(&self.client.outbox, &subscription, subscription_id).existed;
        if !known {
            self.client.filters.push(filter.clone());
        }
        let granted = Reason(subscription.qos as u8);
        self.backlog.subscribed(subscription, subscription_id, existed);
        Ok(granted)
    }

    /// Carries out an UNSUBSCRIBE and answers it.
    pub(super) fn unsubscribe(&mut self, id: PacketId, filters: Vec<Result<TopicFilter, Reason>>) {
        let reasons = filters
            .into_iter()
            .map(|filter| match filter {
                Err(reason) => reason,
                Ok(filter) => {
                    self.client.filters.retain(|known| *known != filter);
                    self.backlog.unsubscribed(&filter);
                    match self.broker.router.unsubscribe(&self.client.outbox, &filter) {
                        true => Reason::SUCCESS,
                        false => Reason::NO_SUBSCRIPTION_EXISTED,
                    }
                }
            })
            .collect();
        self.client.session.unsubscribed(id, reasons, self.transport.output());
    }
}
