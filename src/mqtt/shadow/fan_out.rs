//! The events of shadows: which messages a decided command makes, in which order they leave, on which topics.
//!
//! For a change: delta if there is one, documents, accepted, then the document, then the lean delta if the difference is
//! another one; for a no-op: accepted; for a replay or
//! a dry run: accepted, to who asked alone. An event is told under both prefixes of its shadow, native first, rendered
//! only if somebody listens there, and once for all who may read the same part of the shadow. The order between
//! commands is the announcer thread's, which calls [`Events::announce`] in the order of the journal; [`FanOutPosition`] tells
//! the outboxes how far that has come.

use std::{cell::RefCell, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    auth::{Access, Operation, Projection},
    engine::{self, Notifier, Outcome, Requester},
    mqtt::{
        broker::{
            outbox::{FanOutPosition, SessionId},
            router::{DeliveryKind, Publication, Router},
        },
        protocol::{message::Message, packet::QoS, topic::TopicName},
        shadow::{
            rendering::{self, DIALECTS},
            topics::Event,
        },
    },
    shadow::{Command, ShadowKey},
    store::{Applied, Seq},
    wire::{Dialect, ReplyOptions},
};

/// The way of shadow events to their subscribers.
#[derive(Debug)]
pub struct Events {
    router: Arc<Router>,
    fan_out_position: FanOutPosition,
}

/// What one accepted command tells.
struct Accepted<'a> {
    key: &'a ShadowKey,
    command: &'a Command,
    applied: &'a Applied,
    requester: Option<SessionId>,
    options: ReplyOptions<'a>,
}

impl Events {
    /// Events that go on after `head`, the last change in the journal.
    #[must_use]
    pub fn new(router: Arc<Router>, head: Seq) -> Self {
        Self { router, fan_out_position: FanOutPosition::new(head.0) }
    }

    /// How far the journal has been announced.
    #[must_use]
    pub fn fan_out_position(&self) -> &FanOutPosition {
        &self.fan_out_position
    }

    /// Publishes a reply that tells of no change: to all subscribers, and surely to who asked, who may want no `metadata`.
    pub fn reply(
        &self,
        key: &ShadowKey,
        event: Event,
        to: Option<SessionId>,
        metadata: bool,
        render: impl Fn(Dialect, &Projection, bool) -> Bytes,
    ) {
        let class = to.map_or(DeliveryKind::Ordinary { from: None }, |to| DeliveryKind::Reply { to, seq: None });
        let lean = to.filter(|_| !metadata);
        self.publish(key, event, class, lean, |dialect, reader, metadata| Some(render(dialect, reader, metadata)));
    }

    /// Publishes a reply for who asked alone; nobody else hears of it.
    pub fn reply_privately(
        &self,
        key: &ShadowKey,
        event: Event,
        to: Option<SessionId>,
        render: impl Fn(Dialect, &Projection) -> Bytes,
    ) {
        if let Some(to) = to {
            self.publish(key, event, DeliveryKind::Private { to }, None, |dialect, reader, _| {
                Some(render(dialect, reader))
            });
        }
    }

    /// Publishes what others than `than` are told of a reply.
    pub fn tell_others(
        &self,
        key: &ShadowKey,
        event: Event,
        than: Option<SessionId>,
        render: impl Fn(Dialect, &Projection) -> Bytes,
    ) {
        let class = than.map_or(DeliveryKind::Ordinary { from: None }, |than| DeliveryKind::Others { than });
        self.publish(key, event, class, None, |dialect, reader, _| Some(render(dialect, reader)));
    }

    /// Publishes `message` on the ordinary topic where `to` wants a reply.
    pub fn respond(&self, message: Message, to: Option<SessionId>) {
        let class = to.map_or(DeliveryKind::Ordinary { from: None }, |to| DeliveryKind::Reply { to, seq: None });
        self.router.tell(&Arc::new(message), class);
    }

    fn accepted(&self, told: &Accepted<'_>) {
        let Accepted { key, command, applied, options, .. } = *told;
        let lean = told.requester.filter(|_| !options.metadata);
        let (before, after) = (&*applied.before, &*applied.after);
        if let Some(Seq(seq)) = applied.seq
            && let Command::Update(_) = command
        {
            let class = told.requester.map_or(DeliveryKind::Event { seq }, |by| DeliveryKind::Change { by, seq });
            self.publish(key, Event::Delta, class, lean, |dialect, reader, metadata| {
                rendering::delta(dialect, after, reader, ReplyOptions { metadata, ..options })
            });
            self.publish(key, Event::Documents, class, lean, |dialect, reader, metadata| {
                Some(rendering::documents(dialect, before, after, reader, ReplyOptions { metadata, ..options }))
            });
        }
        let class = match (told.requester, applied.seq) {
            (Some(to), _) if applied.is_private() => DeliveryKind::Private { to },
            (None, _) if applied.is_private() => return,
            (Some(to), seq) => DeliveryKind::Reply { to, seq: seq.map(|seq| seq.0) },
            (None, Some(Seq(seq))) => DeliveryKind::Event { seq },
            (None, None) => DeliveryKind::Ordinary { from: None },
        };
        self.publish(key, accepted_event(command), class, lean, |dialect, reader, metadata| {
            Some(engine::accepted(dialect, command, applied, reader, ReplyOptions { metadata, ..options }))
        });
        if let Some(Seq(seq)) = applied.seq {
            let class = DeliveryKind::Document { seq };
            self.publish(key, Event::Document, class, None, |_, reader, _| Some(rendering::document(after, reader)));
            self.publish(key, Event::LeanDelta, class, None, |_, reader, _| {
                rendering::changed_delta(before, after, reader)
            });
        }
    }

    /// The one way of an event to its topics; `render` is called for each dialect and part of the shadow that anybody
    /// listens to, and with false for `lean`, who wants no metadata.
    fn publish(
        &self,
        key: &ShadowKey,
        event: Event,
        class: DeliveryKind,
        lean: Option<SessionId>,
        render: impl Fn(Dialect, &Projection, bool) -> Option<Bytes>,
    ) {
        for dialect in DIALECTS.into_iter().filter(|&dialect| rendering::has(dialect, event)) {
            let topic = event.topic(dialect, key);
            let render = |reader: &Projection, metadata| render(dialect, reader, metadata);
            let privately = matches!(class, DeliveryKind::Private { .. });
            let told = RefCell::default();
            self.router.tell(&FanOut { key, event, topic, privately, lean, render, told }, class);
        }
    }
}

/// One event on one topic: each reader is told the part that it may see.
struct FanOut<'a, F> {
    key: &'a ShadowKey,
    event: Event,
    topic: String,
    /// Who asked is answered, whatever it may read.
    privately: bool,
    /// Who is told it without metadata.
    lean: Option<SessionId>,
    render: F,
    /// What has been rendered, for whom and whether with metadata.
    told: RefCell<Vec<Rendered>>,
}

/// A rendered event, with its reader's projection and whether it has metadata; `None` if there is nothing to send.
type Rendered = ((Projection, bool), Option<Arc<Message>>);

impl<F: Fn(&Projection, bool) -> Option<Bytes>> Publication for FanOut<'_, F> {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn told_to(&self, session: SessionId, access: &Access) -> Option<Arc<Message>> {
        let reader = access.projection(self.key, Operation::Subscribe);
        let reader = reader.or_else(|| self.privately.then_some(Projection::NONE))?;
        let reader = (reader, self.lean != Some(session));
        let mut told = self.told.borrow_mut();
        if let Some((_, message)) = told.iter().find(|(known, _)| *known == reader) {
            return message.clone();
        }
        let message = (self.render)(&reader.0, reader.1).map(|payload| message(self.event, &self.topic, payload));
        if told.len() < TOLD_MAX {
            told.push((reader, message.clone()));
        }
        message
    }
}

impl Notifier for Arc<Events> {
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester) {
        let Ok(applied) = &outcome.result else { return };
        if let Some(Seq(seq)) = applied.seq {
            self.fan_out_position.begin(seq);
        }
        self.accepted(&Accepted {
            key: &outcome.key,
            command: &outcome.command,
            applied,
            requester: requester.session().map(SessionId),
            options: ReplyOptions { token: requester.client_token(), metadata: requester.wants_metadata() },
        });
        if let Some(Seq(seq)) = applied.seq {
            self.fan_out_position.finish(seq);
        }
    }
}

/// The message that tells `event` on `topic`.
pub(in crate::mqtt) fn message(event: Event, topic: &str, payload: Bytes) -> Arc<Message> {
    let topic = TopicName::new(topic).expect("a shadow's topics are built from checked names and fit the limit");
    // PROTOCOL section 2.
    Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, event.is_retained(), None, Instant::now()))
}

/// A message of the service on `topic` that a subscriber may ask to be told as retained.
pub(in crate::mqtt) fn retained_message(topic: &str, payload: Bytes) -> Arc<Message> {
    message(Event::Document, topic, payload)
}

fn accepted_event(command: &Command) -> Event {
    match command {
        Command::Update(_) | Command::Patch(_) => Event::UpdateAccepted,
        Command::Delete(_) => Event::DeleteAccepted,
    }
}

/// Parts of a shadow that one event is kept rendered for; beyond, it is rendered again for each reader.
const TOLD_MAX: usize = 32;
