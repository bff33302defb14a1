//! Handling of the packets that concern the broker: PUBLISH, SUBSCRIBE, UNSUBSCRIBE.

use std::{future, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    admission::{Admitted, QuotaKind, work},
    auth::Access,
    engine::{self, IncomingRequest, Permit, RefusedRequest, Taken},
    mqtt::{
        broker::{
            Published,
            durable::{received_row, subscription_row},
            presence, rights,
            time_slice::TimeSlice,
        },
        connection::{Connection, EndReason},
        protocol::{
            message::{Message, Row},
            packet::{PacketId, Protocol, QoS, Reason, Subscribe, Subscription},
            topic::{TopicError, TopicFilter, TopicName, is_clean},
        },
        session::{AckId, AckResult, Inbound},
        shadow::{
            query_topics,
            request::{ReceivedIdentifier, ReceivedRequest, Request, RequestOrigin, ResponseTopic},
            topics::{Destination, RequestKind},
        },
    },
    observability::logging::{Shortened, limited},
    search::named::QueryName,
    shadow::{Document, Rejection, ShadowKey, Timestamp},
    store::RowEdit,
    wire::Dialect,
};

/// A request that waits for memory in the engine's queue. Boxed, since it is rare and a connection is kept small.
pub(in crate::mqtt) type AwaitingPermit = Box<engine::AwaitingPermit<ReceivedRequest>>;

/// The rest of an action, which waits for the disk.
pub(in crate::mqtt) enum UnfinishedAction {
    /// A get whose document is not in memory.
    Get(Box<(ReceivedRequest, Admitted, Timestamp)>),
    /// The answer to a SUBSCRIBE. If the session outlives its connection, its subscriptions precede it on the disk, as do those
    /// to groups of a cluster (true), of which other nodes have to know.
    Subscribed(PacketId, Vec<Reason>, bool),
    /// An UNSUBSCRIBE. Its answer waits as that to a SUBSCRIBE does.
    Unsubscribe(PacketId, Vec<Result<TopicFilter, Reason>>),
}

/// Waits until memory is reserved for `awaiting_permit`; forever if there is none.
pub(in crate::mqtt) async fn awaited_permit(awaiting_permit: &mut Option<AwaitingPermit>) -> Result<Permit, Rejection> {
    match awaiting_permit {
        Some(awaiting_permit) => awaiting_permit.reserved().await,
        None => future::pending().await,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Handles a PUBLISH.
    pub(in crate::mqtt) fn publish(&mut self, inbound: Inbound) -> Option<UnfinishedAction> {
        if let Some(result) = unfit(&inbound) {
            self.refuse_publish(&inbound, result);
            return None;
        }
        match Destination::of(&inbound.topic) {
            Destination::Ordinary => self.publish_ordinary(inbound),
            Destination::Reserved(reserved) => self.refuse_publish(&inbound, refused(&reserved.to_string())),
            Destination::Request(key, operation, dialect) => return self.request(inbound, key, operation, dialect),
        }
        None
    }

    /// Completes an action that need not wait, and returns any other.
    pub(in crate::mqtt) fn complete_at_once(&mut self, action: UnfinishedAction) -> Option<UnfinishedAction> {
        match action {
            UnfinishedAction::Subscribed(id, reasons, false) if self.session_expiry == 0 => {
                self.client.session.subscribed(id, reasons, self.transport.output());
            }
            waits => return Some(waits),
        }
        None
    }

    /// Waits for the disk, and completes `action`.
    pub(in crate::mqtt) async fn complete_action(&mut self, action: UnfinishedAction) -> Result<(), EndReason> {
        match action {
            UnfinishedAction::Get(get) => self.get_from_disk(*get).await,
            UnfinishedAction::Subscribed(id, reasons, _) => {
                self.wait_until_durable().await?;
                self.client.session.subscribed(id, reasons, self.transport.output());
            }
            UnfinishedAction::Unsubscribe(id, filters) => {
                let reasons = self.unsubscribe(filters).await;
                if self.session_expiry > 0 {
                    self.wait_until_durable().await?;
                }
                self.client.session.unsubscribed(id, reasons, self.transport.output());
            }
        }
        Ok(())
    }

    fn publish_ordinary(&mut self, inbound: Inbound) {
        let ack_id = inbound.ack_id;
        if !self.client.outbox.with_access(|access| access.may_publish(inbound.topic.as_str())) {
            return self.refuse_publish(&inbound, forbidden(&inbound.topic));
        }
        // The payload is a slice of the read buffer, which a retained or queued message must not keep alive.
        let payload = Bytes::copy_from_slice(&inbound.payload);
        // Only a retained message can exceed a quota.
        let retained_topic = inbound.retain.then(|| inbound.topic.clone());
        let Inbound { topic, qos, retain, properties, packet_id, .. } = inbound;
        let message = Message::new(topic, payload, qos, retain, properties, Instant::now());
        let rows = self.keeps_identifier(qos).then(|| self.broker.recorder.open(&message)).flatten();
        let quota = self.client.filters.quota();
        let mut published = if self.broker.may_miss_sessions(&message) {
            self.broker.service.quotas().count_for(QuotaKind::Disk, quota.name());
            Err(QuotaKind::Disk)
        } else {
            self.broker.publish(message, quota, Some(self.client.outbox.id()))
        };
        let result = match &published {
            Ok(Published { has_receivers: false, .. }) => {
                AckResult { reason: Reason::NO_MATCHING_SUBSCRIBERS, ..AckResult::SUCCESS }
            }
            Ok(_) => AckResult::SUCCESS,
            Err(cause) => {
                let topic = retained_topic.as_ref().map_or("", TopicName::as_str);
                self.log_refusal("a message was refused", topic, &cause.full());
                over(*cause)
            }
        };
        if let Some(rows) = &rows {
            let identifier = ack_id.zip(packet_id).filter(|_| published.is_ok());
            let edit = identifier.map(|(ack_id, id)| (self.keep_identifier(ack_id, id, result.reason).0, id));
            match (edit, published.as_mut().ok().and_then(|published| published.shared.as_mut())) {
                // In one record with the message.
                (Some((_, id)), Some(shared)) => shared.keep_identifier(id, result.reason),
                (edit, _) => rows.close(edit.map(|(edit, _)| edit)),
            }
        }
        match (ack_id, published) {
            (Some(ack_id), Ok(published)) if published.is_kept || rows.is_some() => {
                let outbox = self.client.outbox.clone();
                self.broker.after_kept(published, move || outbox.push_ack(ack_id, result));
            }
            // The connection of a 3.1.1 client ends instead: it must not believe that the message is kept.
            (Some(ack_id), Err(QuotaKind::Disk)) => {
                self.client.outbox.push_ack(ack_id, AckResult { unknown: true, ..result });
            }
            (ack_id, published) => {
                let shared = published.ok().and_then(|published| published.shared);
                shared.into_iter().for_each(|shared| self.broker.share(shared, None));
                self.complete(ack_id, result);
            }
        }
    }

    /// Returns true if the packet identifier of a message has a row: at QoS 2 in a session that outlives its connection.
    fn keeps_identifier(&self, qos: QoS) -> bool {
        qos == QoS::ExactlyOnce && self.session_expiry > 0
    }

    /// Gives the session the row of a QoS 2 identifier. Returns the edit that writes it, and the row.
    fn keep_identifier(&mut self, ack_id: AckId, id: PacketId, reason: Reason) -> (RowEdit, Arc<dyn Row>) {
        let (edit, row) = received_row::insert(self.client.outbox.id(), id, reason, &self.broker.recorder);
        self.client.session.keep(ack_id, row.clone());
        (edit, row)
    }

    fn request(
        &mut self,
        inbound: Inbound,
        key: ShadowKey,
        operation: RequestKind,
        dialect: Dialect,
    ) -> Option<UnfinishedAction> {
        let (now, access) = (self.broker.service.now(), self.client.outbox.access());
        if self.device.is_none() && presence::acts_as(&access, &key.device) {
            self.broker.presence.opened(&key.device, self.address, self.protocol, now, None);
            self.device = Some(key.device.clone());
        }
        let response = match response_topic(&inbound, &access) {
            Ok(response) => response,
            Err(result) => {
                self.complete(inbound.ack_id, result);
                return None;
            }
        };
        let origin = RequestOrigin::Session { outbox: self.client.outbox.clone(), ack_id: inbound.ack_id };
        let changes_shadow = operation != RequestKind::Get && self.keeps_identifier(inbound.qos);
        let received = inbound.ack_id.zip(inbound.packet_id).filter(|_| changes_shadow).map(|(ack_id, id)| {
            let (edit, row) = self.keep_identifier(ack_id, id, Reason::SUCCESS);
            ReceivedIdentifier { edit: Some(edit), is_shared: self.broker.has_peers(), row }
        });
        let request =
            Request { response, received, ..Request::new(self.broker.events.clone(), origin, key, operation, dialect) };
        let received = ReceivedRequest {
            request,
            payload: inbound.payload,
            properties: inbound.properties,
            client: self.key.client_id.clone(),
            limits: self.broker.limits.document,
        };
        if operation == RequestKind::Get {
            return self.get(received, now);
        }
        let taken = self.broker.service.take(received, self.client.filters.quota());
        match taken {
            Ok(Taken::Submitted) => {}
            Ok(Taken::AwaitingPermit(awaiting_permit)) => self.awaiting_permit = Some(Box::new(awaiting_permit)),
            Err(refused) => self.refuse(refused),
        }
        None
    }

    /// Replies to a get from memory, or returns it if its document is not there.
    fn get(&mut self, mut received: ReceivedRequest, now: Timestamp) -> Option<UnfinishedAction> {
        let admitted = match self.broker.service.admit(self.client.filters.quota(), &received.request.key) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.refuse(RefusedRequest { request: received, refusal, is_over_quota: true });
                return None;
            }
        };
        if let Err(refusal) = received.parse() {
            self.refuse(RefusedRequest { request: received, refusal, is_over_quota: false });
            return None;
        }
        match self.broker.service.cached(&received.request.key) {
            Some(stored) => self.got(received, &stored.document, now),
            None => return Some(UnfinishedAction::Get(Box::new((received, admitted, now)))),
        }
        None
    }

    fn got(&self, received: ReceivedRequest, document: &Document, now: Timestamp) {
        let units = work::rendered_messages(received.request.got(document, now));
        if units > 0 {
            let _pauses_its_connection = self.client.filters.quota().charge_work(units, Instant::now());
        }
    }

    async fn get_from_disk(&mut self, (received, _admitted, now): (ReceivedRequest, Admitted, Timestamp)) {
        let request = &received.request;
        let read = self.broker.service.read_for(&request.key, self.client.filters.quota());
        match request.id.scope(read).await {
            Ok(stored) => self.got(received, &stored.document, now),
            Err(refusal) => self.refuse(RefusedRequest { request: received, refusal, is_over_quota: false }),
        }
    }

    /// Continues with the request that waited for memory.
    pub(in crate::mqtt) fn resume_awaiting(&mut self, permit: Result<Permit, Rejection>) {
        if let Some(awaiting_permit) = self.awaiting_permit.take()
            && let Err(refused) = awaiting_permit.resume(permit)
        {
            self.refuse(refused);
        }
    }

    /// Refuses a PUBLISH.
    fn refuse_publish(&mut self, inbound: &Inbound, result: AckResult) {
        self.broker.counters.publishes_refused.add(1);
        let reason = result.reason_string.as_deref().unwrap_or_default();
        self.log_refusal("a message was refused", inbound.topic.as_str(), reason);
        self.complete(inbound.ack_id, result);
    }

    /// Logs a refusal that concerns `topic` to an MQTT 3.1.1 client, which receives no reason.
    fn log_refusal(&self, what: &str, topic: &str, reason: &str) {
        if self.protocol == Protocol::V5 {
            return;
        }
        limited!(info,
            self.broker.refusals, principal = %Shortened(self.key.principal.name()),
            client = %Shortened(&self.key.client_id), address = %self.address,
            topic = %Shortened(topic), reason = %Shortened(reason), "{what}"
        );
    }

    fn refuse(&mut self, refused: RefusedRequest<ReceivedRequest>) {
        if refused.is_over_quota {
            self.rate_limit.refused(&self.broker.limits.rates, Instant::now());
        }
        let (received, rejection) = ReceivedRequest::refused(refused);
        if matches!(rejection, Rejection::Forbidden { .. } | Rejection::Unauthorized) {
            let key = &received.request.key;
            self.log_refusal("a request was refused", &key.to_string(), &rejection.message(key));
        }
        received.refuse(&self.broker.service, &rejection);
    }

    fn complete(&mut self, ack_id: Option<AckId>, result: AckResult) {
        if let Some(ack_id) = ack_id {
            self.client.session.complete(ack_id, result, self.transport.output());
        }
    }

    /// Handles a SUBSCRIBE. Retained messages follow the SUBACK.
    pub(in crate::mqtt) fn subscribe(&mut self, subscribe: Subscribe) -> UnfinishedAction {
        let Subscribe { id, subscription_id, filters } = subscribe;
        self.client.resync.subscribing();
        let is_shared = |filter: &Result<Subscription, Reason>| {
            filter.as_ref().is_ok_and(|subscription| subscription.filter.share().is_some())
        };
        let joins_group = self.broker.has_peers() && filters.iter().any(is_shared);
        let reasons: Vec<Reason> = filters
            .into_iter()
            .map(|filter| filter.and_then(|subscription| self.subscribe_one_logged(subscription, subscription_id)))
            .map(|granted| granted.unwrap_or_else(|reason| reason))
            .collect();
        if reasons.contains(&Reason::QUOTA_EXCEEDED) {
            self.rate_limit.refused(&self.broker.limits.rates, Instant::now());
        }
        UnfinishedAction::Subscribed(id, reasons, joins_group)
    }

    /// Waits until the changes of the session are on disk.
    async fn wait_until_durable(&mut self) -> Result<(), EndReason> {
        let is_durable = self.broker.recorder.durable().await;
        if self.client.outbox.is_void() {
            return Err(EndReason::Server(Reason::SESSION_TAKEN_OVER)); // they concern no session any more
        }
        if is_durable { Ok(()) } else { Err(EndReason::Server(Reason::IMPLEMENTATION_SPECIFIC)) }
    }

    /// Calls [`Self::subscribe_one`] and logs a refusal to an MQTT 3.1.1 client, which receives no reason.
    fn subscribe_one_logged(&mut self, subscription: Subscription, id: Option<u32>) -> Result<Reason, Reason> {
        let filter = (self.protocol == Protocol::V4).then(|| subscription.filter.as_str().to_owned());
        let granted = self.subscribe_one(subscription, id);
        if let (Some(filter), Err(reason)) = (filter, &granted) {
            self.log_refusal("a subscription was refused", &filter, reason.name());
        }
        granted
    }

    fn subscribe_one(
        &mut self,
        mut subscription: Subscription,
        subscription_id: Option<u32>,
    ) -> Result<Reason, Reason> {
        if self.bridge {
            subscription.no_local = subscription.filter.share().is_none(); // [MQTT-3.8.3-4] of MQTT 5
            subscription.retain_as_published = true;
        }
        let filter = &subscription.filter;
        if !self.client.outbox.with_access(|access| rights::may_subscribe(access, filter)) {
            return Err(Reason::NOT_AUTHORIZED);
        }
        let query = query_topics::query_of(filter).transpose()?;
        let outbox = &self.client.outbox;
        let admitted = |name: &QueryName| self.client.resync.admit_query(name, &self.broker, outbox);
        let permit = query.as_ref().map(admitted).transpose()?.flatten();
        let known = self.client.filters.contains(filter);
        if !known && let Err(cause) = self.client.filters.add(filter, self.broker.limits.filters_max) {
            self.broker.service.quotas().count_for(cause, self.key.principal.name());
            return Err(Reason::QUOTA_EXCEEDED);
        }
        let subscribed = match self.broker.router.subscribe(&self.client.outbox, &subscription, subscription_id) {
            Ok(subscribed) => subscribed,
            Err(reason) => {
                self.client.filters.remove(filter);
                return Err(reason);
            }
        };
        let granted = Reason(subscription.qos as u8);
        self.client.filters.grant(&subscription);
        match query {
            Some(name) => self.client.resync.subscribed_to_query(name, &subscription, subscribed, permit),
            None => self.client.resync.subscribed(&subscription, subscription_id, subscribed),
        }
        if self.session_expiry > 0 {
            let retain_handling = self.client.resync.due_after(&subscription);
            let subscription = Subscription { retain_handling, ..subscription };
            let row = subscription_row::put(self.client.outbox.id(), &subscription, subscription_id);
            self.broker.recorder.write(vec![row]);
        }
        Ok(granted)
    }

    /// Handles an UNSUBSCRIBE, which may have any number of filters. Those that the session does not have cost no more than
    /// the search for them.
    async fn unsubscribe(&mut self, filters: Vec<Result<TopicFilter, Reason>>) -> Vec<Reason> {
        let (mut slice, mut reasons) = (TimeSlice::begin(), Vec::with_capacity(filters.len()));
        for filter in filters {
            reasons.push(filter.map_or_else(|reason| reason, |filter| self.unsubscribe_one(&filter)));
            slice.pause().await;
        }
        reasons
    }

    fn unsubscribe_one(&mut self, filter: &TopicFilter) -> Reason {
        if !self.client.filters.remove(filter) {
            return Reason::NO_SUBSCRIPTION_EXISTED;
        }
        self.client.resync.unsubscribed(filter);
        if self.client.is_recorded {
            let row = subscription_row::remove(self.client.outbox.id(), filter);
            self.broker.recorder.write(vec![row]);
        }
        match self.broker.router.unsubscribe(self.client.outbox.id(), filter) {
            true => Reason::SUCCESS,
            false => Reason::NO_SUBSCRIPTION_EXISTED,
        }
    }
}

/// Returns the refusal of a well-formed message that cannot be delivered.
fn unfit(inbound: &Inbound) -> Option<AckResult> {
    let topic = inbound.topic.as_str();
    if !is_clean(topic) {
        return Some(refused(&TopicError::Character.to_string()));
    }
    let properties = inbound.properties.as_deref()?;
    let user = properties.user.iter().flat_map(|(name, value)| [name, value]);
    let mut strings = user.chain(&properties.content_type);
    let is_unclean = strings.any(|text| !is_clean(text));
    is_unclean.then(|| AckResult {
        reason: Reason::PAYLOAD_FORMAT_INVALID,
        reason_string: Some("a property holds a control character or a Unicode non-character".into()),
        unknown: false,
    })
}

/// Returns the response topic of a request, which must be an ordinary topic to which the client may publish.
fn response_topic(inbound: &Inbound, access: &Access) -> Result<Option<ResponseTopic>, AckResult> {
    let Some(properties) = inbound.properties.as_deref() else { return Ok(None) };
    let Some(topic) = &properties.response_topic else { return Ok(None) };
    if Destination::of(topic) != Destination::Ordinary {
        return Err(refused("the response topic is not an ordinary one"));
    }
    if !access.may_publish(topic.as_str()) {
        return Err(refused("the response topic is not one that this client may publish to"));
    }
    let correlation_data = properties.correlation_data.clone();
    Ok(Some(ResponseTopic { topic: topic.clone(), correlation_data }))
}

fn refused(why: &str) -> AckResult {
    AckResult { reason: Reason::TOPIC_NAME_INVALID, reason_string: Some(why.into()), unknown: false }
}

fn over(cause: QuotaKind) -> AckResult {
    AckResult { reason: Reason::QUOTA_EXCEEDED, reason_string: Some(cause.full().into()), unknown: false }
}

fn forbidden(topic: &TopicName) -> AckResult {
    let text = format!("Forbidden: publish {topic}");
    AckResult { reason: Reason::NOT_AUTHORIZED, reason_string: Some(text.into()), unknown: false }
}
