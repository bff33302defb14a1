//! The fan-out of shadow events: the messages of a decided command, their order and their topics.
//!
//! For a change: delta if there is one, documents, accepted, then the document, then the lean delta if it has changed.
//! For a no-op: accepted. For a replay or a dry run: accepted, to the requester alone. An event is published under both
//! prefixes of its shadow, native first. It is rendered only if somebody subscribes to it, and once for all readers
//! with the same projection. The notifier thread, which calls [`Notifier::notify`](crate::engine::Notifier::notify) in the order of the journal, fixes
//! the order between commands. [`FanOutPosition`] shows the outboxes how far it has come.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use crate::{
    auth::{Access, Operation},
    engine::{self, Notifier, Outcome, Requester},
    mqtt::{
        broker::{
            outbox::{FanOutPosition, SessionId},
            router::{DeliveryKind, Publication, Router},
        },
        protocol::{message::Message, packet::QoS, topic::TopicName},
        shadow::{
            rendering::{self, DIALECTS},
            request::Request,
            topics::Event,
        },
    },
    shadow::{Command, Projection, ShadowKey},
    store::{Applied, Seq},
    wire::{Dialect, ReplyOptions},
};

/// The publisher of shadow events.
#[derive(Debug)]
pub struct Events {
    router: Arc<Router>,
    fan_out_position: FanOutPosition,
}

/// An accepted command with the options of its requester.
struct Accepted<'a> {
    key: &'a ShadowKey,
    command: &'a Command,
    applied: &'a Applied,
    requester: Option<SessionId>,
    options: ReplyOptions<'a>,
}

impl Events {
    /// Creates a publisher that continues after `head`, the last change in the journal.
    #[must_use]
    pub fn new(router: Arc<Router>, head: Seq) -> Self {
        Self { router, fan_out_position: FanOutPosition::new(head.0) }
    }

    /// Returns the position in the journal up to which events were published.
    #[must_use]
    pub fn fan_out_position(&self) -> &FanOutPosition {
        &self.fan_out_position
    }

    /// Publishes a reply without a change to all subscribers and to the requester, even if that has no subscription.
    /// The requester may have asked for no `metadata`. Returns the bytes of the messages that were rendered.
    pub fn reply(
        &self,
        key: &ShadowKey,
        event: Event,
        to: Option<SessionId>,
        metadata: bool,
        render: impl Fn(Dialect, &Projection, bool) -> Bytes,
    ) -> usize {
        let kind = to.map_or(DeliveryKind::Ordinary { from: None }, |to| DeliveryKind::Reply { to, seq: None });
        let lean = to.filter(|_| !metadata);
        self.publish(key, event, kind, lean, |dialect, reader, metadata| Some(render(dialect, reader, metadata)))
    }

    /// Publishes a reply to the requester alone.
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

    /// Publishes the form of a reply that sessions other than `than` receive.
    pub fn tell_others(
        &self,
        key: &ShadowKey,
        event: Event,
        than: Option<SessionId>,
        render: impl Fn(Dialect, &Projection) -> Bytes,
    ) {
        let kind = than.map_or(DeliveryKind::Ordinary { from: None }, |than| DeliveryKind::Others { than });
        self.publish(key, event, kind, None, |dialect, reader, _| Some(render(dialect, reader)));
    }

    /// Publishes `message` on the ordinary response topic that `to` named.
    pub fn respond(&self, message: Message, to: Option<SessionId>) {
        let kind = to.map_or(DeliveryKind::Ordinary { from: None }, |to| DeliveryKind::Reply { to, seq: None });
        self.router.publish(&Arc::new(message), kind);
    }

    /// Publishes the messages of an accepted command. Returns the bytes that were rendered.
    fn accepted(&self, accepted: &Accepted<'_>) -> usize {
        let Accepted { key, command, applied, options, .. } = *accepted;
        let mut bytes = 0;
        let lean = accepted.requester.filter(|_| !options.metadata);
        let (before, after) = (&*applied.before, &*applied.after);
        if let Some(Seq(seq)) = applied.seq
            && let Command::Update(_) = command
        {
            let kind = accepted.requester.map_or(DeliveryKind::Event { seq }, |by| DeliveryKind::Change { by, seq });
            bytes += self.publish(key, Event::Delta, kind, lean, |dialect, reader, metadata| {
                rendering::delta(dialect, after, reader, ReplyOptions { metadata, ..options })
            });
            bytes += self.publish(key, Event::Documents, kind, lean, |dialect, reader, metadata| {
                Some(rendering::documents(dialect, before, after, reader, ReplyOptions { metadata, ..options }))
            });
        }
        let kind = match (accepted.requester, applied.seq) {
            (Some(to), _) if applied.is_private() => DeliveryKind::Private { to },
            (None, _) if applied.is_private() => return bytes,
            (Some(to), seq) => DeliveryKind::Reply { to, seq: seq.map(|seq| seq.0) },
            (None, Some(Seq(seq))) => DeliveryKind::Event { seq },
            (None, None) => DeliveryKind::Ordinary { from: None },
        };
        bytes += self.publish(key, accepted_event(command), kind, lean, |dialect, reader, metadata| {
            Some(engine::accepted(dialect, command, applied, reader, ReplyOptions { metadata, ..options }))
        });
        if let Some(Seq(seq)) = applied.seq {
            let kind = DeliveryKind::Document { seq };
            bytes +=
                self.publish(key, Event::Document, kind, None, |_, reader, _| Some(rendering::document(after, reader)));
            bytes += self.publish(key, Event::LeanDelta, kind, None, |_, reader, _| {
                rendering::changed_delta(before, after, reader)
            });
        }
        bytes
    }

    /// Publishes an event on its topics. `render` is called for each dialect and projection with a subscriber, and with
    /// false for `lean`, the requester that wants no metadata. Returns the bytes that were rendered.
    fn publish(
        &self,
        key: &ShadowKey,
        event: Event,
        kind: DeliveryKind,
        lean: Option<SessionId>,
        render: impl Fn(Dialect, &Projection, bool) -> Option<Bytes>,
    ) -> usize {
        let bytes = Cell::new(0);
        for dialect in DIALECTS.into_iter().filter(|&dialect| rendering::has(dialect, event)) {
            let topic = event.topic(dialect, key);
            let render = |reader: &Projection, metadata| {
                let payload = render(dialect, reader, metadata);
                bytes.update(|bytes| bytes + payload.as_ref().map_or(0, Bytes::len));
                payload
            };
            let privately = matches!(kind, DeliveryKind::Private { .. });
            let rendered = RefCell::default();
            self.router.publish(&FanOut { key, event, topic, privately, lean, render, rendered }, kind);
        }
        bytes.get()
    }
}

/// One event on one topic, rendered for each projection.
struct FanOut<'a, F> {
    key: &'a ShadowKey,
    event: Event,
    topic: String,
    /// True for a reply to the requester alone, which it receives whatever it may read.
    privately: bool,
    /// The session that receives the event without metadata.
    lean: Option<SessionId>,
    render: F,
    /// The events rendered so far, by projection and presence of metadata.
    rendered: RefCell<Vec<Rendered>>,
}

/// A rendered event, with its reader's projection and a flag for metadata; `None` if there is nothing to send.
type Rendered = ((Projection, bool), Option<Arc<Message>>);

impl<F: Fn(&Projection, bool) -> Option<Bytes>> Publication for FanOut<'_, F> {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn is_individual(&self, session: SessionId) -> bool {
        self.lean == Some(session)
    }

    fn message_for(&self, session: SessionId, access: &Access) -> Option<Arc<Message>> {
        let reader = access.projection(self.key, Operation::Subscribe);
        let reader = reader.or_else(|| self.privately.then_some(Projection::NONE))?;
        let reader = (reader, self.lean != Some(session));
        let mut rendered = self.rendered.borrow_mut();
        if let Some((_, message)) = rendered.iter().find(|(known, _)| *known == reader) {
            return message.clone();
        }
        let message = (self.render)(&reader.0, reader.1).map(|payload| message(self.event, &self.topic, payload));
        if rendered.len() < RENDERED_MAX {
            rendered.push((reader, message.clone()));
        }
        message
    }
}

impl Notifier for Arc<Events> {
    fn notify(&mut self, Outcome { envelope, result }: Outcome<'_>, requester: &dyn Requester) -> usize {
        let Ok(applied) = result else { return 0 };
        if let Some(Seq(seq)) = applied.seq {
            self.fan_out_position.begin(seq);
        }
        // A requester over MQTT receives its reply in order with the events, by its own session.
        let request = (requester as &dyn Any).downcast_ref::<Request>();
        let bytes = self.accepted(&Accepted {
            key: &envelope.key,
            command: &envelope.command,
            applied,
            requester: request.and_then(Request::session_id),
            options: ReplyOptions {
                token: envelope.client_token.as_ref(),
                metadata: request.is_none_or(|request| request.metadata),
            },
        });
        if let Some(Seq(seq)) = applied.seq {
            self.fan_out_position.finish(seq);
        }
        bytes
    }
}

/// Returns the message for `event` on `topic`.
pub(in crate::mqtt) fn message(event: Event, topic: &str, payload: Bytes) -> Arc<Message> {
    let topic = TopicName::new(topic).expect("a shadow's topics are built from checked names and fit the limit");
    // PROTOCOL section 2.
    Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, event.is_retained(), None, Instant::now()))
}

/// Returns a message of the service on `topic` that subscribers may request as retained.
pub(in crate::mqtt) fn retained_message(topic: &str, payload: Bytes) -> Arc<Message> {
    message(Event::Document, topic, payload)
}

fn accepted_event(command: &Command) -> Event {
    match command {
        Command::Update(_) | Command::Patch(_) => Event::UpdateAccepted,
        Command::Delete(_) => Event::DeleteAccepted,
    }
}

/// Rendered projections kept per event; further ones are rendered again for each reader.
const RENDERED_MAX: usize = 32;
