//! One message that catching up sends: what it takes to make it at the moment it is sent, or not to send it.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::{
    auth::{Operation, Projection},
    mqtt::{
        broker::Broker,
        events::message,
        message::{Delivery, Message},
        outbox::{Ahead, Outbox, Unsent},
        packet::{QoS, Subscription},
        presence,
        router::Selection,
        sessions::SessionKey,
        shadow_topic::Event,
        shapes::{self, DIALECTS},
        topic::{TopicFilter, TopicName},
    },
    shadow::{DeviceId, Document, Former, Rejection, ShadowKey, Version},
    store::{Entry, Held},
    wire::Dialect,
};

/// A message to be looked up and sent.
#[derive(Debug)]
pub(super) enum Step {
    /// One event of a missed change, if the shadow is still at that version.
    Missed(Arc<Entry>, Event, Dialect),
    /// One event of a shadow's present state.
    Present(ShadowKey, Event, Dialect),
    /// A retained document or difference.
    Document(ShadowKey, Event, Arc<Wanting>),
    /// Whether a device is connected; retained, for a new subscription.
    Presence(DeviceId, Option<Arc<Wanting>>),
    /// A retained message, if it is still the one retained: a session that is away keeps no other.
    Retained(Weak<Message>, Arc<Wanting>),
}

/// Why a step sends nothing.
#[derive(Debug)]
pub(super) enum Gap {
    /// It has become void, or what it tells of is damaged.
    Void,
    /// It has to wait for the QoS window, or for something older that is queued.
    Held,
    /// The store could not be read.
    Unread,
}

impl From<Rejection> for Gap {
    fn from(_: Rejection) -> Self {
        Self::Unread
    }
}

/// The subscription something retained is sent for.
#[derive(Debug)]
pub(super) struct Wanting {
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
pub(super) fn missed(entry: &Arc<Entry>, unsent: Option<&Unsent>) -> Vec<Step> {
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
    events.into_iter().map(|(event, dialect)| Step::Missed(entry.clone(), event, dialect)).collect()
}

/// The steps of a shadow's present state.
pub(super) fn present(key: &ShadowKey) -> impl Iterator<Item = Step> {
    both(&[Event::Delta, Event::Document, Event::LeanDelta])
        .map(|(event, dialect)| Step::Present(key.clone(), event, dialect))
}

impl Step {
    /// The message of this step, as things are now.
    pub(super) async fn deliver(&self, reader: Reader<'_>) -> Result<Delivery, Gap> {
        let Reader { broker, own, outbox, .. } = reader;
        match self {
            &Self::Missed(ref entry, event, dialect) => {
                let (topic, selection) = reader.select(event.topic(dialect, &entry.key))?;
                reader.hold_for_replies()?;
                let projection = reader.projection(&entry.key)?;
                let document = read(broker, &entry.key).await?.document;
                if document.version != entry.version {
                    return Err(Gap::Void); // a newer entry follows
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
            &Self::Document(ref key, event, ref wanted) => retained(key, event, wanted, reader).await,
            Self::Presence(device, wanted) => {
                reader.projection(&ShadowKey::classic(device.clone()))?;
                let message = presence::message(device, broker.presence.of(device).ok_or(Gap::Void)?);
                match wanted {
                    Some(wanted) => {
                        reader.hold_for_window(wanted.qos(&message))?;
                        Ok(wanted.deliver(message))
                    }
                    None => Ok(reader.select(message.topic.to_string())?.1.deliver(message)),
                }
            }
            Self::Retained(message, wanted) => {
                let message = message.upgrade().ok_or(Gap::Void)?;
                let may = outbox.with_access(|access| access.may_receive(message.topic.as_str()));
                // One that is queued comes in its turn, behind the older ones of its topic.
                if !may || !broker.router.is_retained(&message) || outbox.has_ordinary(&message) {
                    return Err(Gap::Void);
                }
                reader.hold_for_window(wanted.qos(&message))?;
                Ok(wanted.deliver(message))
            }
        }
    }

    /// Returns true if it is sent for the subscription with this filter.
    pub(super) fn is_for(&self, filter: &TopicFilter) -> bool {
        match self {
            Self::Document(_, _, wanted) | Self::Retained(_, wanted) | Self::Presence(_, Some(wanted)) => {
                wanted.filter() == filter
            }
            Self::Missed(..) | Self::Present(..) | Self::Presence(_, None) => false,
        }
    }
}

/// A document or difference that is retained. One that is queued comes in its turn. If older events of its shadow are, a
/// document waits for them: they are from before the subscription, since each later change brings the document itself.
async fn retained(key: &ShadowKey, event: Event, wanted: &Wanting, reader: Reader<'_>) -> Result<Delivery, Gap> {
    let Reader { broker, outbox, .. } = reader;
    let topic = event.topic(Dialect::Native, key);
    if !TopicName::new(&topic).is_ok_and(|topic| wanted.filter().matches(&topic)) {
        return Err(Gap::Void);
    }
    match outbox.ahead_of_document(key, &topic) {
        Ahead::Older if event == Event::Document => return Err(Gap::Held),
        Ahead::Nothing | Ahead::Older => {}
        Ahead::Document => return Err(Gap::Void),
    }
    reader.hold_for_window(wanted.subscription.qos)?;
    let projection = reader.projection(key)?;
    let read = read(broker, key).await?;
    let payload = shapes::retained(event, &read.document, &projection);
    if payload.is_empty() {
        return Err(Gap::Void);
    }
    let message = message(event, &topic, payload);
    outbox.document_sent(&message.topic, read.last_entry.0, broker.events.routed());
    Ok(wanted.deliver(message))
}

impl Reader<'_> {
    /// How the session's subscriptions select `topic`, on which the service tells at QoS 1.
    fn select(&self, topic: String) -> Result<(String, Selection), Gap> {
        let selection = self.broker.router.selection(self.outbox, &topic).ok_or(Gap::Void)?;
        self.hold_for_window(selection.qos())?;
        Ok((topic, selection))
    }

    fn hold_for_window(&self, qos: QoS) -> Result<(), Gap> {
        if self.window_open || qos == QoS::AtMostOnce { Ok(()) } else { Err(Gap::Held) }
    }

    /// A reply tells of a request that was decided before, so a later change waits for it.
    fn hold_for_replies(&self) -> Result<(), Gap> {
        if self.outbox.has_replies() { Err(Gap::Held) } else { Ok(()) }
    }

    /// What the session may read of `key` as it changes.
    fn projection(&self, key: &ShadowKey) -> Result<Projection, Gap> {
        self.outbox.with_access(|access| access.projection(key, Operation::Subscribe)).ok_or(Gap::Void)
    }
}

impl Wanting {
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
    events.iter().copied().flat_map(each).filter(|&(event, dialect)| shapes::has(dialect, event))
}

/// The document of `key`.
pub(super) async fn read(broker: &Broker, key: &ShadowKey) -> Result<Held, Gap> {
    broker.service.read_if_sound(key).await?.ok_or(Gap::Void)
}

/// What the change of `entry`, which made `document`, tells in hindsight: `state` of `accepted` is what it changed, and
/// there is no client token.
async fn missed_payload(
    broker: &Broker,
    own: &SessionKey,
    (event, dialect): (Event, Dialect),
    entry: &Entry,
    document: &Document,
    reader: &Projection,
) -> Result<Bytes, Gap> {
    let is_own = entry.client == own.client_id && entry.principal == *own.principal.name();
    match event {
        Event::Documents => {
            let before = document.undo(&entry.changes, former(broker, entry).await?);
            Ok(shapes::documents(dialect, &before, document, reader, None.into()))
        }
        // Replies to requests of the session itself are not left to the journal.
        Event::UpdateAccepted | Event::DeleteAccepted if is_own => Err(Gap::Void),
        Event::UpdateAccepted | Event::DeleteAccepted => {
            Ok(shapes::missed_accepted(dialect, &entry.changes, document, reader))
        }
        event => present_payload((event, dialect), document, reader),
    }
}

/// The version before that of `entry`, as far as the journal still tells.
async fn former(broker: &Broker, entry: &Entry) -> Result<Former, Rejection> {
    Ok(match broker.service.former_if_sound(&entry.key, entry.version).await? {
        Some(former) => Former { version: former.version, timestamp: former.timestamp, deleted: former.deleted },
        None => Former { version: Version(entry.version.0 - 1), timestamp: entry.timestamp, deleted: false },
    })
}

fn present_payload((event, dialect): (Event, Dialect), document: &Document, reader: &Projection) -> Result<Bytes, Gap> {
    match event {
        Event::Delta if document.exists() => shapes::delta(dialect, document, reader, None.into()).ok_or(Gap::Void),
        Event::Document | Event::LeanDelta => Ok(shapes::retained(event, document, reader)),
        _ => Err(Gap::Void),
    }
}
