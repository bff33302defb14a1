//! The events of shadows: which messages a decided command makes, in which order they leave, on which topics.
//!
//! For a change: delta if there is one, documents, accepted, then the document; for a no-op: accepted; for a replay or
//! a dry run: accepted, to who asked alone. An event is told under both prefixes of its shadow, native first, rendered
//! once for each and only if somebody listens there. The order between commands is the announcer thread's, which calls
//! [`Events::announce`] in the order of the journal; [`Routed`] tells the outboxes how far that has come.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    mqtt::{
        message::Message,
        outbox::{Routed, SessionId},
        packet::QoS,
        router::{Class, Router},
        shadow_topic::Event,
        shapes::{self, DIALECTS},
        topic::TopicName,
    },
    service::{Announcer, Outcome, Requester},
    shadow::{Command, ShadowKey},
    store::{Applied, Seq},
    wire::{ClientToken, Dialect},
};

/// The way of shadow events to their subscribers.
#[derive(Debug)]
pub struct Events {
    router: Arc<Router>,
    routed: Routed,
}

/// What one accepted command tells.
struct Accepted<'a> {
    key: &'a ShadowKey,
    command: &'a Command,
    applied: &'a Applied,
    requester: Option<SessionId>,
    client_token: Option<&'a ClientToken>,
}

impl Events {
    /// Events that go on after `head`, the last change in the journal.
    #[must_use]
    pub fn new(router: Arc<Router>, head: Seq) -> Self {
        Self { router, routed: Routed::new(head.0) }
    }

    /// How far the journal has been announced.
    #[must_use]
    pub fn routed(&self) -> &Routed {
        &self.routed
    }

    /// Publishes a reply that tells of no change: to all subscribers, and surely to who asked.
    pub fn reply(&self, key: &ShadowKey, event: Event, to: Option<SessionId>, payload: impl Fn(Dialect) -> Bytes) {
        let class = to.map_or(Class::Plain { from: None }, |to| Class::Reply { to, seq: None });
        self.publish(key, event, class, |dialect| Some(payload(dialect)));
    }

    /// Publishes a reply for who asked alone; nobody else hears of it.
    pub fn reply_privately(
        &self,
        key: &ShadowKey,
        event: Event,
        to: Option<SessionId>,
        payload: impl Fn(Dialect) -> Bytes,
    ) {
        if let Some(to) = to {
            self.publish(key, event, Class::Private { to }, |dialect| Some(payload(dialect)));
        }
    }

    /// Publishes `message` on the ordinary topic where `to` wants a reply.
    pub fn respond(&self, message: Message, to: Option<SessionId>) {
        let class = to.map_or(Class::Plain { from: None }, |to| Class::Reply { to, seq: None });
        self.router.publish(&Arc::new(message), class);
    }

    fn accepted(&self, told: &Accepted<'_>) {
        let Accepted { key, command, applied, client_token, .. } = *told;
        let (before, after) = (&*applied.before, &*applied.after);
        if let Some(Seq(seq)) = applied.seq
            && let Command::Update(_) = command
        {
            let class = told.requester.map_or(Class::Event { seq }, |by| Class::Change { by, seq });
            self.publish(key, Event::Delta, class, |dialect| shapes::delta(dialect, after, client_token));
            let documents = |dialect| Some(shapes::documents(dialect, before, after, client_token));
            self.publish(key, Event::Documents, class, documents);
        }
        let class = match (told.requester, applied.seq) {
            (Some(to), _) if applied.is_private() => Class::Private { to },
            (None, _) if applied.is_private() => return,
            (Some(to), seq) => Class::Reply { to, seq: seq.map(|seq| seq.0) },
            (None, Some(Seq(seq))) => Class::Event { seq },
            (None, None) => Class::Plain { from: None },
        };
        let accepted = |dialect| Some(shapes::accepted(dialect, command, applied, client_token));
        self.publish(key, accepted_event(command), class, accepted);
        if let Some(Seq(seq)) = applied.seq {
            self.publish(key, Event::Document, Class::Document { seq }, |_| Some(shapes::document(after)));
        }
    }

    /// The one way of an event to its topics; `render` is called for those on which anybody listens.
    fn publish(&self, key: &ShadowKey, event: Event, class: Class, render: impl Fn(Dialect) -> Option<Bytes>) {
        for dialect in DIALECTS.into_iter().filter(|&dialect| shapes::has(dialect, event)) {
            let topic = event.topic(dialect, key);
            if self.router.has_subscribers(&topic)
                && let Some(payload) = render(dialect)
            {
                self.router.publish(&message(event, &topic, payload), class);
            }
        }
    }
}

impl Announcer for Arc<Events> {
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester) {
        let Ok(applied) = &outcome.result else { return };
        if let Some(Seq(seq)) = applied.seq {
            self.routed.begin(seq);
        }
        self.accepted(&Accepted {
            key: &outcome.key,
            command: &outcome.command,
            applied,
            requester: requester.session().map(SessionId),
            client_token: requester.client_token(),
        });
        if let Some(Seq(seq)) = applied.seq {
            self.routed.finish(seq);
        }
    }
}

/// The message that tells `event` on `topic`.
pub(super) fn message(event: Event, topic: &str, payload: Bytes) -> Arc<Message> {
    let topic = TopicName::new(topic).expect("a shadow's topics are built from checked names and fit the limit");
    // The document is what a subscriber may ask to be told as retained. PROTOCOL section 2.
    Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, event == Event::Document, None, Instant::now()))
}

fn accepted_event(command: &Command) -> Event {
    match command {
        Command::Update(_) => Event::UpdateAccepted,
        Command::Delete(_) => Event::DeleteAccepted,
    }
}
