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
    time::{Duration, Instant},
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
        shadow_topic::Event,
        shapes::{self, DIALECTS},
        topic::{TopicFilter, TopicName},
    },
    shadow::{DeviceId, Document, Former, Rejection, ShadowKey, Version},
    store::{Entry, Held, Listed, Seq},
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
    /// SUBSCRIBE packets so far.
    subscribes: u64,
    /// Until when the store is not read, since it could not be.
    paused: Option<Instant>,
}

/// What [`CatchUp::next`] found.
#[derive(Debug)]
pub(super) enum Next {
    /// A message to send.
    Delivery(Box<Delivery>),
    /// Nothing yet; ask again when nothing else is to be done.
    Later,
    /// There is nothing to catch up with, or the store cannot be read now: then there is a pause.
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

/// Why a step sends nothing.
enum Gap {
    /// It has become void, or what it tells of is damaged.
    Void,
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
struct Wanting {
    subscription: Subscription,
    id: Option<u32>,
}

#[derive(Debug)]
struct Wanted {
    selection: Arc<Wanting>,
    stage: Stage,
    /// The SUBSCRIBE packet it came in, by number.
    packet: u64,
    /// How often that packet asks for it.
    times: u16,
}

#[derive(Debug)]
enum Stage {
    Messages(Cursor),
    Documents(Option<ShadowKey>),
    Presence(Option<DeviceId>),
}

impl CatchUp {
    /// Notes that the subscriptions of another SUBSCRIBE follow.
    pub(super) fn subscribing(&mut self) {
        self.subscribes += 1;
    }

    /// Notes that what is retained for a subscription is to be sent, as its retain handling asks.
    pub(super) fn subscribed(&mut self, subscription: Subscription, id: Option<u32>, subscribed: Subscribed) {
        let packet = self.subscribes;
        let is_same = |wanted: &&mut Wanted| wanted.packet == packet && wanted.filter() == &subscription.filter;
        let same = self.wanted.iter_mut().find(is_same);
        // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
        let send = match subscription.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => subscribed == Subscribed::New,
            RetainHandling::DoNotSend => false,
        };
        // A filter that stands twice in one SUBSCRIBE counts as if it stood in two of them [MQTT-3.8.4-5].
        match same {
            Some(same) if send => {
                same.selection = Arc::new(Wanting { subscription, id });
                same.times = same.times.saturating_add(1);
            }
            Some(_) => {}
            None => {
                self.unsubscribed(&subscription.filter);
                if send && subscription.filter.share().is_none() {
                    let selection = Arc::new(Wanting { subscription, id });
                    self.wanted.push_back(Wanted { selection, stage: Stage::default(), packet, times: 1 });
                }
            }
        }
    }

    /// The connection ended and the session lives on: what is still to be sent waits for the next one, but for the
    /// missed changes, since the walk begins anew.
    pub(super) fn detach(&mut self) {
        (self.walked, self.resent, self.paused) = (None, None, None);
        self.steps.retain(|step| !matches!(step, Step::Missed(..) | Step::Present(..)));
        self.steps.shrink_to_fit();
    }

    /// Forgets what was to be sent for `filter`.
    pub(super) fn unsubscribed(&mut self, filter: &TopicFilter) {
        self.wanted.retain(|wanted| wanted.filter() != filter);
        self.steps.retain(|step| match step {
            Step::Document(_, selection) | Step::Retained(_, selection) | Step::Presence(_, Some(selection)) => {
                selection.subscription.filter != *filter
            }
            Step::Missed(..) | Step::Present(..) | Step::Presence(_, None) => true,
        });
    }

    /// Whether there is nothing to catch up with now.
    pub(super) fn is_idle(&self, outbox: &Outbox) -> bool {
        let is_done = self.steps.is_empty()
            && self.wanted.is_empty()
            && self.presence.is_none()
            && outbox.lag().is_none()
            && !outbox.has_noted();
        is_done || self.paused.is_some()
    }

    /// When to go on, during a pause.
    pub(super) fn paused(&self) -> Option<Instant> {
        self.paused
    }

    /// Ends the pause if it is over.
    pub(super) fn resume(&mut self, now: Instant) {
        self.paused = self.paused.filter(|until| *until > now);
    }

    /// The next message to send. Looks at [`PAGES_AT_ONCE`] at most, however little of them concerns the session.
    pub(super) async fn next(&mut self, broker: &Broker, own: &SessionKey, outbox: &Outbox) -> Next {
        for _ in 0..PAGES_AT_ONCE {
            while let Some(step) = self.steps.front() {
                let delivery = match step.deliver(broker, own, outbox).await {
                    Ok(delivery) => Some(delivery),
                    Err(Gap::Void) => None,
                    Err(Gap::Unread) => return self.pause(),
                };
                self.steps.pop_front();
                if let Some(delivery) = delivery {
                    return Next::Delivery(Box::new(delivery));
                }
            }
            if self.take_presence(broker, outbox) {
                continue;
            }
            let taken = match outbox.lag() {
                Some(lag) => self.walk(broker, outbox, Seq(lag)).await.map(|()| true),
                None => self.take_wanted(broker, outbox).await,
            };
            match taken {
                Ok(true) => {}
                Ok(false) => return Next::Nothing,
                Err(_) => return self.pause(),
            }
        }
        Next::Later
    }

    /// What could not be read is as it was before, and is read again later.
    fn pause(&mut self) -> Next {
        self.paused = Some(Instant::now() + PAUSE);
        Next::Nothing
    }

    /// Takes the next page of missed changes, or ends the lag.
    async fn walk(&mut self, broker: &Broker, outbox: &Outbox, lag: Seq) -> Result<(), Rejection> {
        if let Some(after) = self.resent.clone() {
            return self.resend(broker, after).await;
        }
        let walked = self.walked.map_or(lag, |walked| walked.max(lag));
        let page = broker.service.journal_if_sound(walked, PAGE).await?;
        let Some(page) = page.filter(|page| !page.gone) else {
            // What was missed cannot be known: every shadow is sent, then the journal from the present head on.
            self.walked = Some(broker.service.head());
            self.resent = Some(None);
            return Ok(());
        };
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
        Ok(())
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

    async fn resend(&mut self, broker: &Broker, after: Option<ShadowKey>) -> Result<(), Rejection> {
        let page = broker.service.list(after, PAGE).await?;
        self.resent = page.last().map(|last| Some(last.key.clone()));
        let page = page.into_iter().filter(|listed| !listed.deleted).map(|listed| listed.key);
        let events = |key: ShadowKey| {
            both(&[Event::Delta, Event::Document])
                .map(move |(event, dialect)| Step::Present(key.clone(), event, dialect))
        };
        self.steps.extend(page.flat_map(events));
        Ok(())
    }

    /// Takes the next page of what is retained. False: there is none left.
    async fn take_wanted(&mut self, broker: &Broker, outbox: &Outbox) -> Result<bool, Rejection> {
        let Some(wanted) = self.wanted.front_mut() else { return Ok(false) };
        let (selection, filter) = (wanted.selection.clone(), &wanted.selection.subscription.filter);
        match &mut wanted.stage {
            Stage::Messages(cursor) => {
                let page = broker.router.retained(outbox, filter, std::mem::take(cursor));
                let retained = |message| Step::Retained(Arc::downgrade(message), selection.clone());
                self.steps.extend(page.messages.iter().map(retained));
                wanted.stage = page.next.map_or(Stage::Documents(None), Stage::Messages);
            }
            Stage::Documents(after) => {
                let (page, next) = Documents::of(filter).page(broker, after.clone()).await?;
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
                    None if wanted.times > 1 => (wanted.times, wanted.stage) = (wanted.times - 1, Stage::default()),
                    None => drop(self.wanted.pop_front()),
                }
                self.steps.extend(page.into_iter().map(|device| Step::Presence(device, Some(selection.clone()))));
            }
        }
        Ok(true)
    }
}

impl Step {
    /// The message of this step, as things are now.
    async fn deliver(&self, broker: &Broker, own: &SessionKey, outbox: &Outbox) -> Result<Delivery, Gap> {
        match self {
            &Self::Missed(ref entry, event, dialect) => {
                let topic = event.topic(dialect, &entry.key);
                let selection = broker.router.selection(outbox, &topic).ok_or(Gap::Void)?;
                let reader = reader(outbox, &entry.key)?;
                let document = read(broker, &entry.key).await?.document;
                if document.version != entry.version {
                    return Err(Gap::Void); // a newer entry follows
                }
                let payload = missed_payload(broker, own, (event, dialect), entry, &document, &reader).await?;
                Ok(selection.deliver(message(event, &topic, payload)))
            }
            &Self::Present(ref key, event, dialect) => {
                let topic = event.topic(dialect, key);
                let selection = broker.router.selection(outbox, &topic).ok_or(Gap::Void)?;
                let reader = reader(outbox, key)?;
                let document = read(broker, key).await?.document;
                let payload = present_payload((event, dialect), &document, &reader)?;
                Ok(selection.deliver(message(event, &topic, payload)))
            }
            Self::Document(key, wanted) => {
                let topic = Event::Document.topic(Dialect::Native, key);
                let filter = &wanted.subscription.filter;
                if !TopicName::new(&topic).is_ok_and(|topic| filter.matches(&topic)) {
                    return Err(Gap::Void);
                }
                let reader = reader(outbox, key)?;
                let read = read(broker, key).await?;
                if !read.document.exists() {
                    return Err(Gap::Void);
                }
                let message = message(Event::Document, &topic, shapes::document(&read.document, &reader));
                outbox.document_sent(&message.topic, read.last_entry.0, broker.events.routed());
                Ok(wanted.deliver(message))
            }
            Self::Presence(device, wanted) => {
                reader(outbox, &ShadowKey::classic(device.clone()))?;
                let message = presence::message(device, broker.presence.of(device).ok_or(Gap::Void)?);
                match wanted {
                    Some(wanted) => Ok(wanted.deliver(message)),
                    None => {
                        let selection = broker.router.selection(outbox, message.topic.as_str());
                        Ok(selection.ok_or(Gap::Void)?.deliver(message))
                    }
                }
            }
            Self::Retained(message, wanted) => {
                let message = message.upgrade().ok_or(Gap::Void)?;
                let may = outbox.with_access(|access| access.may_receive(message.topic.as_str()));
                match may && broker.router.is_retained(&message) {
                    true => Ok(wanted.deliver(message)),
                    false => Err(Gap::Void),
                }
            }
        }
    }
}

impl Wanted {
    fn filter(&self) -> &TopicFilter {
        &self.selection.subscription.filter
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::Messages(Cursor::default())
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

    /// Some of the shadows, from the beginning or after `after`, and where to go on.
    async fn page(
        self,
        broker: &Broker,
        after: Option<ShadowKey>,
    ) -> Result<(Vec<Listed>, Option<ShadowKey>), Rejection> {
        let (mut page, device) = match self {
            Self::None => return Ok((Vec::new(), None)),
            Self::One(key) => return Ok((vec![Listed { key, deleted: false }], None)),
            Self::Device(device) if after.is_none() => {
                // The classic shadow is the first of its device, if it is there.
                let classic = ShadowKey::classic(device);
                return Ok((vec![Listed { key: classic.clone(), deleted: false }], Some(classic)));
            }
            Self::Device(device) => (broker.service.list(after, PAGE).await?, Some(device)),
            Self::Any => (broker.service.list(after, PAGE).await?, None),
        };
        let full = page.len() == PAGE;
        if let Some(device) = &device {
            page.retain(|listed| listed.key.device == *device);
        }
        let next = page.last().filter(|_| full && page.len() == PAGE).map(|last| last.key.clone());
        Ok((page, next))
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

/// What the session may read of `key` as it changes.
fn reader(outbox: &Outbox, key: &ShadowKey) -> Result<Projection, Gap> {
    outbox.with_access(|access| access.projection(key, Operation::Subscribe)).ok_or(Gap::Void)
}

/// The document of `key`.
async fn read(broker: &Broker, key: &ShadowKey) -> Result<Held, Gap> {
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
            Ok(shapes::documents(dialect, &before, document, reader, None))
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
        Event::Delta if document.exists() => shapes::delta(dialect, document, reader, None).ok_or(Gap::Void),
        Event::Document => Ok(shapes::document(document, reader)),
        _ => Err(Gap::Void),
    }
}

/// Journal entries or shadows read at once.
const PAGE: usize = 64;

/// How long the store is not read after it could not be.
const PAUSE: Duration = Duration::from_secs(5);

/// Pages looked at before the connection's other business has its turn.
const PAGES_AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::fs::{self, File};

    use super::*;
    use crate::{
        auth::{Access, Principal},
        mqtt::{
            connection::tests::{broker, leave},
            packet::QoS,
        },
    };

    /// A page that could not be read was passed over, or all before it came again.
    #[tokio::test]
    async fn what_cannot_be_read_is_read_later() {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker(directory.path());
        let principal = Principal::anonymous("c");
        let outbox = broker.new_session(&Access::admin(principal.clone())).outbox;
        let own = SessionKey { principal, client_id: "c".into() };
        File::options().write(true).open(directory.path().join("store")).unwrap().set_len(0).unwrap();
        let key = ShadowKey::classic(DeviceId::new("d").unwrap());
        let subscription = Subscription {
            filter: TopicFilter::new("shadow/#").unwrap(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let selection = Arc::new(Wanting { subscription, id: None });
        let step = Step::Document(key.clone(), selection.clone());
        let wanted = Wanted { selection, stage: Stage::Documents(Some(key.clone())), packet: 0, times: 1 };
        for (lags, mut catch_up) in [
            (false, CatchUp { steps: [step].into(), ..CatchUp::default() }),
            (false, CatchUp { wanted: [wanted].into(), ..CatchUp::default() }),
            (true, CatchUp { resent: Some(Some(key)), ..CatchUp::default() }),
        ] {
            if lags {
                outbox.detach(broker.events.routed());
            }
            let before = format!("{catch_up:?}");
            assert!(matches!(catch_up.next(&broker, &own, &outbox).await, Next::Nothing), "{before}");
            let until = catch_up.paused().unwrap();
            assert!(catch_up.is_idle(&outbox), "{before}");
            catch_up.resume(until);
            assert!(!catch_up.is_idle(&outbox), "there is more, after a pause");
            assert_eq!(format!("{catch_up:?}"), before);
        }
    }

    /// A damaged entry of the journal kept a session from catching up for good.
    #[tokio::test]
    async fn what_is_damaged_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker(directory.path());
        leave(&broker, "shadow/d/update", br#"{"state":{"reported":{"needle":1}}}"#);
        broker.finish().await;
        broker.service.close();
        let path = directory.path().join("store");
        let mut file = fs::read(&path).unwrap();
        let needles: Vec<_> =
            file.windows(6).enumerate().filter(|(_, bytes)| bytes == b"needle").map(|(at, _)| at).collect();
        needles.into_iter().for_each(|at| file[at] = b'N');
        fs::write(&path, file).unwrap();
        let outbox = broker.new_session(&Access::admin(Principal::anonymous("c"))).outbox;
        let mut catch_up = CatchUp::default();
        assert!(catch_up.walk(&broker, &outbox, Seq(0)).await.is_ok());
        assert_eq!((catch_up.walked, catch_up.resent), (Some(Seq(1)), Some(None)), "every shadow is sent");
        let key = ShadowKey::classic(DeviceId::new("d").unwrap());
        assert!(matches!(read(&broker, &key).await, Err(Gap::Void)));
    }

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
