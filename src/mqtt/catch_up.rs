//! What a connection sends when its outbox is empty: which devices came and went, the changes its session missed, then
//! what is retained for its new subscriptions.
//!
//! A session that was away, or too slow, has a journal sequence above which it was sent nothing ([`Outbox::lag`]). The
//! journal is walked from there to its head; an entry that is still the newest of its shadow is sent as delta,
//! documents, accepted and document, any other is passed over, since a later one follows. Where retention has passed
//! the sequence, the delta and document of every shadow are sent instead.
//!
//! What of this a connection has not sent waits in its session for the next one. Only the walk begins anew, at the lag
//! that the outbox still has.
//!
//! Everything is read at the moment it is sent and a page at a time, so that no state older than one already sent
//! follows, and a long walk holds little memory and goes as fast as the client reads.
//!
//! [`Outbox::lag`]: super::outbox::Outbox::lag

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use crate::{
    auth::{Operation, Projection},
    mqtt::{
        broker::Broker,
        events::message,
        message::{Delivery, Message},
        outbox::{Noted, Outbox},
        packet::{RetainHandling, Subscription},
        presence::{self, PresenceTable},
        router::{Cursor, Subscribed},
        sessions::SessionKey,
        shadow_topic::{self, Event},
        shapes::{self, DIALECTS},
        topic::{TopicFilter, TopicName},
    },
    shadow::{DeviceId, Document, Former, ShadowKey, Version},
    store::{Entry, Listed, Seq},
    wire::Dialect,
};

/// What is still to be sent.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// The page in hand.
    steps: VecDeque<Step>,
    /// How far the journal was walked, while there is lag.
    walked: Option<Seq>,
    /// The last change of presence that was sent, while all after some change are.
    presence: Option<u64>,
    /// The last shadow that was sent, while all shadows are.
    resent: Option<Option<ShadowKey>>,
    /// Subscriptions whose retained messages are to be sent, first come first.
    wanted: VecDeque<Wanted>,
}

/// What [`CatchUp::next`] found.
#[derive(Debug)]
pub(super) enum Next {
    /// A message to send.
    Delivery(Box<Delivery>),
    /// Nothing yet; ask again when nothing else is to be done.
    Later,
    /// There is nothing to catch up with, or the store cannot be read now.
    Nothing,
}

#[derive(Debug)]
enum Step {
    /// One event of a missed change, if the shadow is still at that version.
    Missed(Arc<Entry>, Event, Dialect),
    /// One event of a shadow's present state.
    Present(ShadowKey, Event, Dialect),
    /// A retained document.
    Document(ShadowKey, Arc<Wanting>),
    /// Whether a device is connected; retained, for a new subscription.
    Presence(DeviceId, Option<Arc<Wanting>>),
    /// A retained message, if it is still the one retained: a session that is away keeps no other.
    Retained(Weak<Message>, Arc<Wanting>),
}

/// The subscription something retained is sent for.
#[derive(Debug)]
struct Wanting {
    subscription: Subscription,
    id: Option<u32>,
}

#[derive(Debug)]
struct Wanted {
    selection: Arc<Wanting>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Messages(Cursor),
    Documents(Option<ShadowKey>),
    Presence(Option<DeviceId>),
}

impl CatchUp {
    /// Notes that what is retained for a subscription is to be sent, as its retain handling asks.
    pub(super) fn subscribed(&mut self, subscription: Subscription, id: Option<u32>, subscribed: Subscribed) {
        self.unsubscribed(&subscription.filter);
        // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
        let send = match subscription.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => subscribed == Subscribed::New,
            RetainHandling::DoNotSend => false,
        };
        if send && subscription.filter.share().is_none() {
            let selection = Arc::new(Wanting { subscription, id });
            self.wanted.push_back(Wanted { selection, stage: Stage::Messages(Cursor::default()) });
        }
    }

    /// The connection ended and the session lives on: what is still to be sent waits for the next one, but for the
    /// missed changes, since the walk begins anew.
    pub(super) fn detach(&mut self) {
        (self.walked, self.resent) = (None, None);
        self.steps.retain(|step| !matches!(step, Step::Missed(..) | Step::Present(..)));
        self.steps.shrink_to_fit();
    }

    /// Forgets what was to be sent for `filter`.
    pub(super) fn unsubscribed(&mut self, filter: &TopicFilter) {
        self.wanted.retain(|wanted| wanted.selection.subscription.filter != *filter);
        self.steps.retain(|step| match step {
            Step::Document(_, selection) | Step::Retained(_, selection) | Step::Presence(_, Some(selection)) => {
                selection.subscription.filter != *filter
            }
            Step::Missed(..) | Step::Present(..) | Step::Presence(_, None) => true,
        });
    }

    /// Whether there is nothing to catch up with.
    pub(super) fn is_idle(&self, outbox: &Outbox) -> bool {
        self.steps.is_empty()
            && self.wanted.is_empty()
            && self.presence.is_none()
            && outbox.lag().is_none()
            && !outbox.has_noted()
    }

    /// The next message to send. Looks at [`PAGES_AT_ONCE`] at most, however little of them concerns the session.
    pub(super) async fn next(&mut self, broker: &Broker, own: &SessionKey, outbox: &Outbox) -> Next {
        for _ in 0..PAGES_AT_ONCE {
            while let Some(step) = self.steps.pop_front() {
                if let Some(delivery) = step.deliver(broker, own, outbox).await {
                    return Next::Delivery(Box::new(delivery));
                }
            }
            if self.take_presence(broker, outbox) {
                continue;
            }
            let taken = match outbox.lag() {
                Some(lag) => self.walk(broker, outbox, Seq(lag)).await,
                None => self.take_wanted(broker, outbox).await,
            };
            if taken.is_none() {
                return Next::Nothing;
            }
        }
        Next::Later
    }

    /// Takes the next page of missed changes, or ends the lag. `None`: the store cannot be read now.
    async fn walk(&mut self, broker: &Broker, outbox: &Outbox, lag: Seq) -> Option<()> {
        if let Some(after) = self.resent.take() {
            return self.resend(broker, after).await;
        }
        let walked = self.walked.map_or(lag, |walked| walked.max(lag));
        let page = broker.service.journal(walked, PAGE).await.ok()?;
        if page.gone {
            // What was missed is no longer known: every shadow is sent, then the journal from the present head on.
            self.walked = Some(broker.service.head());
            self.resent = Some(None);
            return Some(());
        }
        match page.entries.last() {
            Some(last) => self.walked = Some(last.seq),
            None if outbox.leave_lag(walked.0, broker.events.routed()) => self.walked = None,
            None => self.walked = Some(walked),
        }
        for entry in page.entries.into_iter().map(Arc::new) {
            let events: &[Event] = match entry.deleted {
                false => &[Event::Delta, Event::Documents, Event::UpdateAccepted, Event::Document],
                true => &[Event::DeleteAccepted, Event::Document],
            };
            self.steps.extend(both(events).map(|(event, dialect)| Step::Missed(entry.clone(), event, dialect)));
        }
        Some(())
    }

    /// Takes what has changed of who is connected. False: nothing has.
    fn take_presence(&mut self, broker: &Broker, outbox: &Outbox) -> bool {
        if let Some(after) = self.presence.take() {
            let changed = broker.presence.changed_after(after, PAGE);
            self.presence = changed.last().map(|(number, _)| *number);
            self.steps.extend(changed.into_iter().map(|(_, device)| Step::Presence(device, None)));
            return true;
        }
        if !outbox.has_noted() {
            return false;
        }
        let Noted { topics, since } = outbox.take_noted();
        self.presence = since;
        let devices = topics.iter().filter_map(presence::device_in);
        self.steps.extend(devices.map(|device| Step::Presence(device, None)));
        true
    }

    async fn resend(&mut self, broker: &Broker, after: Option<ShadowKey>) -> Option<()> {
        let page = broker.service.list(after, PAGE).await.ok()?;
        self.resent = page.last().map(|last| Some(last.key.clone()));
        let page = page.into_iter().filter(|listed| !listed.deleted).map(|listed| listed.key);
        let events = |key: ShadowKey| {
            both(&[Event::Delta, Event::Document])
                .map(move |(event, dialect)| Step::Present(key.clone(), event, dialect))
        };
        self.steps.extend(page.flat_map(events));
        Some(())
    }

    /// Takes the next page of what is retained. `None`: there is none left.
    async fn take_wanted(&mut self, broker: &Broker, outbox: &Outbox) -> Option<()> {
        let wanted = self.wanted.front_mut()?;
        let (selection, filter) = (wanted.selection.clone(), &wanted.selection.subscription.filter);
        match &mut wanted.stage {
            Stage::Messages(cursor) => {
                let page = broker.router.retained(outbox, filter, std::mem::take(cursor));
                let retained = |message| Step::Retained(Arc::downgrade(message), selection.clone());
                self.steps.extend(page.messages.iter().map(retained));
                wanted.stage = page.next.map_or(Stage::Documents(None), Stage::Messages);
            }
            Stage::Documents(after) => {
                let (page, next) = Documents::of(filter).page(broker, after.take()).await?;
                match next {
                    Some(next) => *after = Some(next),
                    None => wanted.stage = Stage::Presence(None),
                }
                let existing = page.into_iter().filter(|listed| !listed.deleted);
                self.steps.extend(existing.map(|listed| Step::Document(listed.key, selection.clone())));
            }
            Stage::Presence(after) => {
                let (page, next) = Devices::of(filter).page(&broker.presence, after.take());
                match next {
                    Some(next) => *after = Some(next),
                    None => drop(self.wanted.pop_front()),
                }
                self.steps.extend(page.into_iter().map(|device| Step::Presence(device, Some(selection.clone()))));
            }
        }
        Some(())
    }
}

impl Step {
    /// The message of this step, as things are now; `None` if it has become void.
    async fn deliver(self, broker: &Broker, own: &SessionKey, outbox: &Outbox) -> Option<Delivery> {
        match self {
            Self::Missed(entry, event, dialect) => {
                let topic = event.topic(dialect, &entry.key);
                let selection = broker.router.selection(outbox, &topic)?;
                let reader = reader(outbox, &entry.key)?;
                let document = broker.service.read(&entry.key).await.ok()?.document;
                if document.version != entry.version {
                    return None; // a newer entry follows
                }
                let payload = missed_payload(broker, own, (event, dialect), &entry, &document, &reader).await?;
                Some(selection.deliver(message(event, &topic, payload)))
            }
            Self::Present(key, event, dialect) => {
                let topic = event.topic(dialect, &key);
                let selection = broker.router.selection(outbox, &topic)?;
                let reader = reader(outbox, &key)?;
                let document = broker.service.read(&key).await.ok()?.document;
                let payload = present_payload((event, dialect), &document, &reader)?;
                Some(selection.deliver(message(event, &topic, payload)))
            }
            Self::Document(key, wanted) => {
                let topic = Event::Document.topic(Dialect::Native, &key);
                let filter = &wanted.subscription.filter;
                if !TopicName::new(&topic).is_ok_and(|topic| filter.matches(&topic)) {
                    return None;
                }
                let reader = reader(outbox, &key)?;
                let read = broker.service.read(&key).await.ok()?;
                if !read.document.exists() {
                    return None;
                }
                let message = message(Event::Document, &topic, shapes::document(&read.document, &reader));
                outbox.document_sent(&message.topic, read.last_entry.0, broker.events.routed());
                Some(wanted.deliver(message))
            }
            Self::Presence(device, wanted) => {
                let topic = shadow_topic::presence(&device);
                let selection = match &wanted {
                    None => Some(broker.router.selection(outbox, &topic)?),
                    Some(_) => None,
                };
                reader(outbox, &ShadowKey::classic(device.clone()))?;
                let message = presence::message(&device, broker.presence.of(&device)?);
                match (selection, wanted) {
                    (Some(selection), _) => Some(selection.deliver(message)),
                    (None, wanted) => wanted.map(|wanted| wanted.deliver(message)),
                }
            }
            Self::Retained(message, wanted) => {
                let message = message.upgrade()?;
                let may = outbox.with_access(|access| access.may_receive(message.topic.as_str()));
                (may && broker.router.is_retained(&message)).then(|| wanted.deliver(message))
            }
        }
    }
}

impl Wanting {
    /// A message that goes out because it is retained. [MQTT-3.3.1-8]
    fn deliver(&self, message: Arc<Message>) -> Delivery {
        Delivery {
            qos: self.subscription.qos.min(message.qos),
            message,
            retain: true,
            subscription_ids: self.id.into_iter().collect(),
        }
    }
}

/// Which shadows' documents a filter selects.
enum Documents {
    None,
    One(ShadowKey),
    /// Each of this device has to be looked at.
    Device(DeviceId),
    /// Each has to be looked at.
    Any,
}

impl Documents {
    fn of(filter: &TopicFilter) -> Self {
        let text = filter.as_str();
        if !text.contains(['+', '#']) {
            return Event::Document.key_of(text).map_or(Self::None, Self::One);
        }
        let shapes = [&["shadow", "+", "document"][..], &["shadow", "+", "name", "+", "document"]];
        if !shapes.into_iter().any(|shape| selects_any(text, shape)) {
            return Self::None;
        }
        // A fleet's most common filter is `shadow/<id>/#`; it must not make each device look at all others.
        let mut levels = text.split('/');
        match (levels.next(), levels.next().map(DeviceId::new)) {
            (Some("shadow"), Some(Ok(device))) => Self::Device(device),
            _ => Self::Any,
        }
    }

    /// Some of the shadows, from the beginning or after `after`, and where to go on. `None`: the store cannot be read
    /// now.
    async fn page(self, broker: &Broker, after: Option<ShadowKey>) -> Option<(Vec<Listed>, Option<ShadowKey>)> {
        let (mut page, device) = match self {
            Self::None => return Some((Vec::new(), None)),
            Self::One(key) => return Some((vec![Listed { key, deleted: false }], None)),
            Self::Device(device) if after.is_none() => {
                // The classic shadow is the first of its device, if it is there.
                let classic = ShadowKey::classic(device);
                return Some((vec![Listed { key: classic.clone(), deleted: false }], Some(classic)));
            }
            Self::Device(device) => (broker.service.list(after, PAGE).await.ok()?, Some(device)),
            Self::Any => (broker.service.list(after, PAGE).await.ok()?, None),
        };
        let full = page.len() == PAGE;
        if let Some(device) = &device {
            page.retain(|listed| listed.key.device == *device);
        }
        let next = page.last().filter(|_| full && page.len() == PAGE).map(|last| last.key.clone());
        Some((page, next))
    }
}

/// Which devices' presence a filter selects.
enum Devices {
    None,
    One(DeviceId),
    Any,
}

impl Devices {
    fn of(filter: &TopicFilter) -> Self {
        let text = filter.as_str();
        if !selects_any(text, &["shadow", "+", "presence"]) {
            return Self::None;
        }
        let mut levels = text.split('/');
        match (levels.next(), levels.next()) {
            (Some("shadow"), Some(device)) if !matches!(device, "+" | "#") => {
                DeviceId::new(device).map_or(Self::None, Self::One)
            }
            _ => Self::Any,
        }
    }

    /// Some of the devices, from the beginning or after `after`, and where to go on.
    fn page(self, table: &PresenceTable, after: Option<DeviceId>) -> (Vec<DeviceId>, Option<DeviceId>) {
        match self {
            Self::None => (Vec::new(), None),
            Self::One(device) => (vec![device], None),
            Self::Any => {
                let page = table.page(after.as_ref(), PAGE);
                let next = page.last().filter(|_| page.len() == PAGE).cloned();
                (page, next)
            }
        }
    }
}

/// Whether `filter` selects a topic of this shape, in which `+` is any level.
fn selects_any(filter: &str, shape: &[&str]) -> bool {
    let mut levels = filter.split('/');
    for &wanted in shape {
        match levels.next() {
            Some("#") => return true,
            Some(level) if level == wanted || level == "+" || wanted == "+" => {}
            _ => return false,
        }
    }
    matches!(levels.next(), None | Some("#"))
}

/// `events` as each dialect has them, in the order they are told.
fn both(events: &[Event]) -> impl Iterator<Item = (Event, Dialect)> {
    let each = |event| DIALECTS.into_iter().map(move |dialect| (event, dialect));
    events.iter().copied().flat_map(each).filter(|&(event, dialect)| shapes::has(dialect, event))
}

/// What the session may read of `key` as it changes; `None`: nothing.
fn reader(outbox: &Outbox, key: &ShadowKey) -> Option<Projection> {
    outbox.with_access(|access| access.projection(key, Operation::Subscribe))
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
) -> Option<Bytes> {
    let is_own = entry.client == own.client_id && entry.principal == *own.principal.name();
    match event {
        Event::Documents => {
            let before = document.undo(&entry.changes, former(broker, entry).await?);
            Some(shapes::documents(dialect, &before, document, reader, None))
        }
        // Replies to requests of the session itself are not left to the journal.
        Event::UpdateAccepted | Event::DeleteAccepted if is_own => None,
        Event::UpdateAccepted | Event::DeleteAccepted => {
            Some(shapes::missed_accepted(dialect, &entry.changes, document, reader))
        }
        event => present_payload((event, dialect), document, reader),
    }
}

/// The version before that of `entry`, as far as the journal still tells.
async fn former(broker: &Broker, entry: &Entry) -> Option<Former> {
    let history = broker.service.history(&entry.key, entry.version, 1, ()).await.ok()?;
    Some(match history.entries.first() {
        Some(former) => Former { version: former.version, timestamp: former.timestamp, deleted: former.deleted },
        None => Former { version: Version(entry.version.0 - 1), timestamp: entry.timestamp, deleted: false },
    })
}

fn present_payload((event, dialect): (Event, Dialect), document: &Document, reader: &Projection) -> Option<Bytes> {
    match event {
        Event::Delta if document.exists() => shapes::delta(dialect, document, reader, None),
        Event::Document => Some(shapes::document(document, reader)),
        _ => None,
    }
}

/// Journal entries or shadows read at once.
const PAGE: usize = 64;

/// Pages looked at before the connection's other business has its turn.
const PAGES_AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A device that subscribed to `shadow/<id>/#` was looked up among the shadows of all devices.
    #[test]
    fn a_filter_looks_at_the_shadows_it_can_select() {
        for (filter, expected) in [
            ("shadow/d1/document", "one"),
            ("shadow/d1/name/n/document", "one"),
            ("shadow/d1/update/accepted", "none"),
            ("shadow/d1/#", "device"),
            ("shadow/d1/+", "device"),
            ("shadow/d1/document/#", "device"),
            ("shadow/d1/name/+/document", "device"),
            ("shadow/d1/update/+", "none"),
            ("shadow/+/update/accepted", "none"),
            ("shadow/+/update/#", "none"),
            ("+/+/+/delta", "none"),
            ("shadow/+/document", "any"),
            ("shadow/+/+/+/document", "any"),
            ("+/d1/document", "any"),
            ("shadow/#", "any"),
            ("#", "any"),
            ("sensors/#", "none"),
        ] {
            let found = match Documents::of(&TopicFilter::new(filter).unwrap()) {
                Documents::None => "none",
                Documents::One(_) => "one",
                Documents::Device(_) => "device",
                Documents::Any => "any",
            };
            assert_eq!(found, expected, "{filter}");
        }
    }
}
