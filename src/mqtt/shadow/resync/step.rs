//! One message that catching up sends: what it takes to make it at the moment it is sent, or not to send it.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::{
    auth::{Operation, Projection},
    mqtt::{
        broker::{
            Broker,
            outbox::{Outbox, QueuedForShadow, Unsent},
            presence,
            router::Selection,
            sessions::SessionKey,
        },
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, Subscription},
            topic::{TopicFilter, TopicName},
        },
        shadow::{
            fan_out::message,
            rendering::{self, DIALECTS},
            topics::Event,
        },
    },
    shadow::{DeviceId, Document, PreviousVersion, Rejection, ShadowKey, Version},
    store::{JournalEntry, StoredShadow},
    wire::Dialect,
};

/// A message to be looked up and sent.
#[derive(Debug)]
pub(super) enum ResyncStep {
    /// One event of a missed change, if the shadow is still at that version.
    MissedChanges(Arc<JournalEntry>, Event, Dialect),
    /// One event of a shadow's present state.
    Present(ShadowKey, Event, Dialect),
    /// A retained document or difference.
    Document(ShadowKey, Event, Arc<RetainedSelection>),
    /// Whether a device is connected; retained, for a new subscription.
    Presence(DeviceId, Option<Arc<RetainedSelection>>),
    /// A retained message, if it is still the one retained: a session that is away keeps no other.
    Retained(Weak<Message>, Arc<RetainedSelection>),
}

/// Why a step sends nothing.
#[derive(Debug)]
pub(super) enum Skip {
    /// It has become void, or what it tells of is damaged.
    Void,
    /// It has to wait for the QoS window, or for something older that is queued.
    StoredShadow,
    /// The store could not be read.
    ReadFailed,
}

impl From<Rejection> for Skip {
    fn from(_: Rejection) -> Self {
        Self::ReadFailed
    }
}

/// The subscription something retained is sent for.
#[derive(Debug)]
pub(super) struct RetainedSelection {
    pub(super) subscription: Subscription,
    pub(super) id: Option<u32>,
}

/// What a step needs to know of its session.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) broker: &'a Broker,
    pub(super) own: &'a SessionKey,
    pub(super) outbox: &'a Outbox,
    /// Whether a message at QoS 1 or 2 may be sent now.
    pub(super) window_open: bool,
}

/// The steps of a missed change, in the order in which its events are told, but for those that `unsent` says were sent.
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

/// The steps of a shadow's present state.
pub(super) fn present(key: &ShadowKey) -> impl Iterator<Item = ResyncStep> {
    both(&[Event::Delta, Event::Document, Event::LeanDelta])
        .map(|(event, dialect)| ResyncStep::Present(key.clone(), event, dialect))
}

impl ResyncStep {
    /// The message of this step, as things are now.
    pub(super) async fn deliver(&self, reader: Reader<'_>) -> Result<Delivery, Skip> {
        let Reader { broker, own, outbox, .. } = reader;
        match self {
            &Self::MissedChanges(ref entry, event, dialect) => {
                let (topic, selection) = reader.select(event.topic(dialect, &entry.key))?;
                reader.hold_for_replies()?;
                let projection = reader.projection(&entry.key)?;
                let document = read(broker, &entry.key).await?.document;
                if document.version != entry.version {
                    return Err(Skip::Void); // a newer entry follows
                }
                let payload = missed_payload(broker, own, (event, dialect), entry, &document, &projection).await?;
                Ok(selection.deliver(message(event, &topic, payload)))
            }
            &Self::Present(ref key, event, dialect) => {
                let (topic, selection) = reader.select(event.topic(dialect, key))?;
                reader.hold_for_replies()?;
                let projection = reader.projection(key)?;
                let document = read(broker, key).await?.document;
                let payload = present_payload((event, dialect), &document, &projection)?;
                Ok(selection.deliver(message(event, &topic, payload)))
            }
            &Self::Document(ref key, event, ref pending) => retained(key, event, pending, reader).await,
            Self::Presence(device, pending) => {
                reader.projection(&ShadowKey::classic(device.clone()))?;
                let message = presence::message(device, broker.presence.of(device).ok_or(Skip::Void)?);
                match pending {
                    Some(pending) => {
                        reader.hold_for_window(pending.qos(&message))?;
                        Ok(pending.deliver(message))
                    }
                    None => Ok(reader.select(message.topic.to_string())?.1.deliver(message)),
                }
            }
            Self::Retained(message, pending) => {
                let message = message.upgrade().ok_or(Skip::Void)?;
                let may = outbox.with_access(|access| access.may_receive(message.topic.as_str()));
                // One that is queued comes in its turn, behind the older ones of its topic.
                if !may || !broker.router.is_retained(&message) || outbox.has_ordinary(&message) {
                    return Err(Skip::Void);
                }
                reader.hold_for_window(pending.qos(&message))?;
                Ok(pending.deliver(message))
            }
        }
    }

    /// Returns true if it is sent for the subscription with this filter.
    pub(super) fn is_for(&self, filter: &TopicFilter) -> bool {
        match self {
            Self::Document(_, _, pending) | Self::Retained(_, pending) | Self::Presence(_, Some(pending)) => {
                pending.filter() == filter
            }
            Self::MissedChanges(..) | Self::Present(..) | Self::Presence(_, None) => false,
        }
    }
}

/// A document or difference that is retained. One that is queued comes in its turn. If older events of its shadow are, a
/// document waits for them: they are from before the subscription, since each later change brings the document itself.
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
        QueuedForShadow::Older if event == Event::Document => return Err(Skip::StoredShadow),
        QueuedForShadow::Nothing | QueuedForShadow::Older => {}
        QueuedForShadow::Document => return Err(Skip::Void),
    }
    reader.hold_for_window(pending.subscription.qos)?;
    let projection = reader.projection(key)?;
    let read = read(broker, key).await?;
    let payload = rendering::retained(event, &read.document, &projection);
    if payload.is_empty() {
        return Err(Skip::Void);
    }
    let message = message(event, &topic, payload);
    outbox.document_sent(&message.topic, read.last_entry.0, broker.events.fan_out_position());
    Ok(pending.deliver(message))
}

impl Reader<'_> {
    /// How the session's subscriptions select `topic`, on which the service tells at QoS 1.
    fn select(&self, topic: String) -> Result<(String, Selection), Skip> {
        let selection = self.broker.router.selection(self.outbox, &topic).ok_or(Skip::Void)?;
        self.hold_for_window(selection.qos())?;
        Ok((topic, selection))
    }

    fn hold_for_window(&self, qos: QoS) -> Result<(), Skip> {
        if self.window_open || qos == QoS::AtMostOnce { Ok(()) } else { Err(Skip::StoredShadow) }
    }

    /// A reply tells of a request that was decided before, so a later change waits for it.
    fn hold_for_replies(&self) -> Result<(), Skip> {
        if self.outbox.has_replies() { Err(Skip::StoredShadow) } else { Ok(()) }
    }

    /// What the session may read of `key` as it changes.
    fn projection(&self, key: &ShadowKey) -> Result<Projection, Skip> {
        self.outbox.with_access(|access| access.projection(key, Operation::Subscribe)).ok_or(Skip::Void)
    }
}

impl RetainedSelection {
    pub(super) fn filter(&self) -> &TopicFilter {
        &self.subscription.filter
    }

    fn qos(&self, message: &Message) -> QoS {
        self.subscription.qos.min(message.qos)
    }

    /// A message that goes out because it is retained. [MQTT-3.3.1-8]
    fn deliver(&self, message: Arc<Message>) -> Delivery {
        Delivery {
            qos: self.qos(&message),
            message,
            retain: true,
            subscription_ids: self.id.into_iter().collect(),
            share: None,
        }
    }
}

/// `events` as each dialect has them, in the order they are told.
fn both(events: &[Event]) -> impl Iterator<Item = (Event, Dialect)> {
    let each = |event| DIALECTS.into_iter().map(move |dialect| (event, dialect));
    events.iter().copied().flat_map(each).filter(|&(event, dialect)| rendering::has(dialect, event))
}

/// The document of `key`.
pub(super) async fn read(broker: &Broker, key: &ShadowKey) -> Result<StoredShadow, Skip> {
    broker.service.read_if_sound(key).await?.ok_or(Skip::Void)
}

/// What the change of `entry`, which made `document`, tells in hindsight: `state` of `accepted` is what it changed, and
/// there is no client token.
async fn missed_payload(
    broker: &Broker,
    own: &SessionKey,
    (event, dialect): (Event, Dialect),
    entry: &JournalEntry,
    document: &Document,
    reader: &Projection,
) -> Result<Bytes, Skip> {
    let is_own = entry.client == own.client_id && entry.principal == *own.principal.name();
    match event {
        Event::Documents => {
            let before = document.undo(&entry.changes, former(broker, entry).await?);
            Ok(rendering::documents(dialect, &before, document, reader, None.into()))
        }
        // Replies to requests of the session itself are not left to the journal.
        Event::UpdateAccepted | Event::DeleteAccepted if is_own => Err(Skip::Void),
        Event::UpdateAccepted | Event::DeleteAccepted => {
            Ok(rendering::missed_accepted(dialect, &entry.changes, document, reader))
        }
        event => present_payload((event, dialect), document, reader),
    }
}

/// The version before that of `entry`, as far as the journal still tells.
async fn former(broker: &Broker, entry: &JournalEntry) -> Result<PreviousVersion, Rejection> {
    Ok(match broker.service.former_if_sound(&entry.key, entry.version).await? {
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
