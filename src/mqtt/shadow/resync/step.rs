//! One message of a resync: makes it at the moment it is sent, or decides that it is not sent.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;

use crate::{
    admission::{PrincipalPermit, work},
    auth::{DeviceRange, Operation},
    mqtt::{
        broker::{
            Broker,
            durable::subscription_row,
            filters::Filters,
            outbox::{Outbox, QueuedForShadow, Unsent},
            presence,
            router::Selection,
            sessions::SessionKey,
        },
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, RetainHandling, Subscription},
            topic::{TopicFilter, TopicName},
        },
        shadow::{
            fan_out::message,
            rendering::{self, DIALECTS},
            topics::Event,
        },
    },
    shadow::{DeviceId, Document, PreviousVersion, Projection, Rejection, ShadowKey, Version},
    store::{JournalEntry, StoredShadow},
    wire::Dialect,
};

/// A message that is to be made and sent.
#[derive(Debug)]
pub(super) enum ResyncStep {
    /// One event of a missed change, if the shadow is still at that version.
    MissedChanges(Arc<JournalEntry>, Event, Dialect),
    /// One event of a shadow's current state.
    Present(ShadowKey, Event, Dialect),
    /// A retained document or lean delta.
    Document(ShadowKey, Event, Arc<RetainedSelection>),
    /// The presence of a device; retained if it is for a new subscription.
    Presence(DeviceId, Option<Arc<RetainedSelection>>),
    /// A message if it is still the retained one; only this reference is kept for absent sessions.
    Retained(Weak<Message>, Arc<RetainedSelection>),
}

/// The reason for which a step sends nothing.
#[derive(Debug)]
pub(super) enum Skip {
    /// The step is outdated, or its data is damaged.
    Void,
    /// The step has to wait for the QoS window or for older queued messages.
    Wait,
    /// The store could not be read.
    ReadFailed,
}

impl From<Rejection> for Skip {
    fn from(_: Rejection) -> Self {
        Self::ReadFailed
    }
}

/// The subscription for which retained messages are sent.
#[derive(Debug)]
pub(super) struct RetainedSelection {
    pub(super) subscription: Subscription,
    pub(super) id: Option<u32>,
}

/// The session that receives the messages of a step.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) broker: &'a Broker,
    pub(super) own: &'a SessionKey,
    pub(super) filters: &'a Filters,
    pub(super) outbox: &'a Arc<Outbox>,
    /// True if a message at QoS 1 or 2 may be sent now.
    pub(super) window_open: bool,
}

/// Returns the steps of a missed change in the order of publication, except those sent before according to `unsent`.
pub(super) fn missed(entry: &Arc<JournalEntry>, unsent: Option<&Unsent>) -> Vec<ResyncStep> {
    let events: &[Event] = match entry.deleted {
        false => &[Event::Delta, Event::Documents, Event::UpdateAccepted, Event::Document, Event::LeanDelta],
        true => &[Event::DeleteAccepted, Event::Document, Event::LeanDelta],
    };
    let mut events: Vec<_> = both(events).collect();
    if let Some(Unsent { topic, document_sent, .. }) = unsent.filter(|unsent| unsent.seq == entry.seq.0) {
        let is_first = |&(event, dialect): &(Event, Dialect)| match topic {
            Some(topic) => event.topic(dialect, &entry.key) == topic.as_str(),
            None => event == Event::Document,
        };
        let first = events.iter().position(is_first).unwrap_or(0);
        events.drain(..first);
        events.retain(|(event, _)| !document_sent || *event != Event::Document);
    }
    events.into_iter().map(|(event, dialect)| ResyncStep::MissedChanges(entry.clone(), event, dialect)).collect()
}

/// Returns the steps of a shadow's current state.
pub(super) fn present(key: &ShadowKey) -> impl Iterator<Item = ResyncStep> {
    both(&[Event::Delta, Event::Document, Event::LeanDelta])
        .map(|(event, dialect)| ResyncStep::Present(key.clone(), event, dialect))
}

impl ResyncStep {
    /// Makes the message of this step from the current state.
    pub(super) async fn deliver(&self, reader: Reader<'_>) -> Result<Delivery, Skip> {
        let Reader { broker, outbox, .. } = reader;
        match self {
            &Self::MissedChanges(ref entry, event, dialect) => {
                let (topic, selection) = reader.select(event.topic(dialect, &entry.key))?;
                reader.wait_for_replies()?;
                let projection = reader.projection(&entry.key)?;
                let document = reader.read(&entry.key).await?.document;
                if document.version != entry.version {
                    return Err(Skip::Void); // a newer entry follows
                }
                let payload = missed_payload(reader, (event, dialect), entry, &document, &projection).await?;
                Ok(selection.deliver(message(event, &topic, payload)))
            }
            &Self::Present(ref key, event, dialect) => {
                let (topic, selection) = reader.select(event.topic(dialect, key))?;
                reader.wait_for_replies()?;
                let projection = reader.projection(key)?;
                let document = reader.read(key).await?.document;
                let payload = present_payload((event, dialect), &document, &projection)?;
                Ok(selection.deliver(message(event, &topic, payload)))
            }
            &Self::Document(ref key, event, ref pending) => retained(key, event, pending, reader).await,
            Self::Presence(device, pending) => {
                reader.projection(&ShadowKey::classic(device.clone()))?;
                let message = presence::message(device, broker.presence.of(device).ok_or(Skip::Void)?);
                match pending {
                    Some(pending) => {
                        reader.wait_for_window(pending.qos(&message))?;
                        Ok(pending.deliver(message))
                    }
                    None => Ok(reader.select(message.topic.to_string())?.1.deliver(message)),
                }
            }
            Self::Retained(message, pending) => {
                let message = message.upgrade().ok_or(Skip::Void)?;
                let may = outbox.with_access(|access| access.may_receive(message.topic.as_str()));
                if !may || !broker.router.is_retained(&message) {
                    return Err(Skip::Void);
                }
                let delivery = pending.deliver(message);
                // A queued one is sent in its turn, after the older ones of its topic.
                if outbox.has_ordinary(&delivery) {
                    return Err(Skip::Void);
                }
                reader.wait_for_window(delivery.qos)?;
                let delivery = outbox.keep(delivery);
                if delivery.row.is_some() {
                    let _pauses_its_connection = outbox.quota().charge_work(work::KEPT_DELIVERY, Instant::now());
                }
                Ok(delivery)
            }
        }
    }

    /// Returns true if the step sends something for the subscription with this filter.
    pub(super) fn is_for(&self, filter: &TopicFilter) -> bool {
        match self {
            Self::Document(_, _, pending) | Self::Retained(_, pending) | Self::Presence(_, Some(pending)) => {
                pending.filter() == filter
            }
            Self::MissedChanges(..) | Self::Present(..) | Self::Presence(_, None) => false,
        }
    }
}

/// Makes a retained document or lean delta. A queued one is sent in its turn. A document waits for older queued events
/// of its shadow: they precede the subscription, since each later change brings the document itself.
async fn retained(
    key: &ShadowKey,
    event: Event,
    pending: &RetainedSelection,
    reader: Reader<'_>,
) -> Result<Delivery, Skip> {
    let Reader { broker, outbox, .. } = reader;
    let topic = event.topic(Dialect::Native, key);
    if !TopicName::new(&topic).is_ok_and(|topic| pending.filter().matches(&topic)) {
        return Err(Skip::Void);
    }
    match outbox.ahead_of_document(key, &topic) {
        QueuedForShadow::Older if event == Event::Document => return Err(Skip::Wait),
        QueuedForShadow::Nothing | QueuedForShadow::Older => {}
        QueuedForShadow::Document => return Err(Skip::Void),
    }
    reader.wait_for_window(pending.subscription.qos)?;
    let projection = reader.projection(key)?;
    let read = reader.read(key).await?;
    let payload = rendering::retained(event, &read.document, &projection);
    if payload.is_empty() {
        return Err(Skip::Void);
    }
    let message = message(event, &topic, payload);
    outbox.document_sent(&message.topic, read.last_entry.0, broker.events.fan_out_position());
    Ok(pending.deliver(message))
}

impl Reader<'_> {
    /// Waits for a permit to read the store, of those that the principal has over all protocols, and charges the read.
    pub(super) async fn turn(&self) -> PrincipalPermit {
        let quota = self.outbox.quota();
        let _pauses_its_connection = quota.charge_work(work::PAGE, Instant::now());
        self.broker.service.quotas().principals.reading(&quota).await
    }

    /// Reads the document of `key`.
    pub(super) async fn read(&self, key: &ShadowKey) -> Result<StoredShadow, Skip> {
        let service = &self.broker.service;
        if let Some(stored) = service.cached(key) {
            return Ok(stored);
        }
        service.read_if_sound(key, self.turn().await).await?.ok_or(Skip::Void)
    }

    /// Returns the ranges of the devices of which the session may receive anything; `None` if there are too many.
    pub(super) fn devices(&self) -> Option<Vec<DeviceRange>> {
        self.outbox.with_access(|access| access.devices(Operation::Subscribe, RANGES_MAX))
    }

    /// Returns the options with which the session's subscriptions select `topic`, whose messages have QoS 1.
    pub(super) fn select(&self, topic: String) -> Result<(String, Selection), Skip> {
        let selection = self.broker.router.selection(self.outbox, &topic).ok_or(Skip::Void)?;
        self.wait_for_window(selection.qos())?;
        Ok((topic, selection))
    }

    fn wait_for_window(&self, qos: QoS) -> Result<(), Skip> {
        if self.window_open || qos == QoS::AtMostOnce { Ok(()) } else { Err(Skip::Wait) }
    }

    /// Makes a change wait for the replies to earlier requests.
    fn wait_for_replies(&self) -> Result<(), Skip> {
        if self.outbox.has_replies() { Err(Skip::Wait) } else { Ok(()) }
    }

    /// Returns the part of `key` that the session may read as it changes.
    fn projection(&self, key: &ShadowKey) -> Result<Projection, Skip> {
        self.outbox.with_access(|access| access.projection(key, Operation::Subscribe)).ok_or(Skip::Void)
    }
}

impl RetainedSelection {
    pub(super) fn filter(&self) -> &TopicFilter {
        &self.subscription.filter
    }

    /// Notes in the row of the subscription, if it has one, that all messages were sent.
    pub(super) fn note_sent(&self, Reader { broker, outbox, .. }: Reader<'_>) {
        // The row of one at QoS 0 never said that any are due.
        if self.subscription.qos != QoS::AtMostOnce && outbox.is_kept() {
            let subscription = Subscription { retain_handling: RetainHandling::DoNotSend, ..self.subscription.clone() };
            broker.recorder.write(vec![subscription_row::put(outbox.id(), &subscription, self.id)]);
        }
    }

    fn qos(&self, message: &Message) -> QoS {
        self.subscription.qos.min(message.qos)
    }

    /// Returns the delivery of a retained message. [MQTT-3.3.1-8]
    fn deliver(&self, message: Arc<Message>) -> Delivery {
        Delivery {
            qos: self.qos(&message),
            message,
            retain: true,
            subscription_ids: self.id.into_iter().collect(),
            share: None,
            row: None,
        }
    }
}

/// Returns `events` in each dialect that has them, in the order of publication.
fn both(events: &[Event]) -> impl Iterator<Item = (Event, Dialect)> {
    let each = |event| DIALECTS.into_iter().map(move |dialect| (event, dialect));
    events.iter().copied().flat_map(each).filter(|&(event, dialect)| rendering::has(dialect, event))
}

/// Returns the payload for a missed change that made `document`. Its `accepted` has the changed paths as `state`, and
/// no client token.
async fn missed_payload(
    for_session: Reader<'_>,
    (event, dialect): (Event, Dialect),
    entry: &JournalEntry,
    document: &Document,
    reader: &Projection,
) -> Result<Bytes, Skip> {
    let own = for_session.own;
    let is_own = entry.client == own.client_id && entry.principal == *own.principal.name();
    match event {
        Event::Documents => {
            let before = document.undo(&entry.changes, former(for_session, entry).await?);
            Ok(rendering::documents(dialect, &before, document, reader, None.into()))
        }
        // The outbox keeps replies to the session's own requests.
        Event::UpdateAccepted | Event::DeleteAccepted if is_own => Err(Skip::Void),
        Event::UpdateAccepted | Event::DeleteAccepted => {
            Ok(rendering::missed_accepted(dialect, &entry.changes, document, reader))
        }
        event => present_payload((event, dialect), document, reader),
    }
}

/// Returns the version before that of `entry`, as far as the journal still has it.
async fn former(reader: Reader<'_>, entry: &JournalEntry) -> Result<PreviousVersion, Rejection> {
    let turn = reader.turn().await;
    Ok(match reader.broker.service.former_if_sound(&entry.key, entry.version, turn).await? {
        Some(former) => {
            PreviousVersion { version: former.version, timestamp: former.timestamp, deleted: former.deleted }
        }
        None => PreviousVersion { version: Version(entry.version.0 - 1), timestamp: entry.timestamp, deleted: false },
    })
}

fn present_payload(
    (event, dialect): (Event, Dialect),
    document: &Document,
    reader: &Projection,
) -> Result<Bytes, Skip> {
    match event {
        Event::Delta if document.exists() => rendering::delta(dialect, document, reader, None.into()).ok_or(Skip::Void),
        Event::Document | Event::LeanDelta => Ok(rendering::retained(event, document, reader)),
        _ => Err(Skip::Void),
    }
}

/// Most ranges of devices that are looked up one by one. A session with more walks all devices.
const RANGES_MAX: usize = 256;
