//! The events of shadows: which messages a decided command makes, in which order they leave, on which topics.
//!
//! For a change: delta if there is one, documents, accepted, then the document; for a no-op: accepted; for a replay or
//! a dry run: accepted, to who asked alone. An event is
//! rendered once and only if somebody listens. The order between commands is the announcer thread's, which calls
//! [`Events::announce`] in the order of the journal; [`Routed`] tells the outboxes how far that has come.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    auth::Projection,
    mqtt::{
        message::Message,
        outbox::{Routed, SessionId},
        packet::QoS,
        router::{Class, Router},
        shadow_topic::Event,
        topic::TopicName,
    },
    service::{Announcer, Outcome, Requester},
    shadow::{Command, Document, ShadowKey},
    store::{Applied, Seq},
    wire::{self, ClientToken},
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
    pub fn reply(&self, key: &ShadowKey, event: Event, payload: &Bytes, to: Option<SessionId>) {
        let class = to.map_or(Class::Plain { from: None }, |to| Class::Reply { to, seq: None });
        self.publish(key, event, class, || Some(payload.clone()));
    }

    /// Publishes a reply for who asked alone; nobody else hears of it.
    pub fn reply_privately(&self, key: &ShadowKey, event: Event, payload: &Bytes, to: Option<SessionId>) {
        if let Some(to) = to {
            self.publish(key, event, Class::Private { to }, || Some(payload.clone()));
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
            let class = Class::Event { seq };
            let delta = || wire::update_delta(after, Projection::ALL, client_token);
            self.publish(key, Event::Delta, class, delta);
            let documents = || Some(wire::update_documents(before, after, Projection::ALL, client_token));
            self.publish(key, Event::Documents, class, documents);
        }
        let class = match (told.requester, applied.seq) {
            (Some(to), _) if applied.is_private() => Class::Private { to },
            (None, _) if applied.is_private() => return,
            (Some(to), seq) => Class::Reply { to, seq: seq.map(|seq| seq.0) },
            (None, Some(Seq(seq))) => Class::Event { seq },
            (None, None) => Class::Plain { from: None },
        };
        self.publish(key, accepted_event(command), class, || Some(told.payload()));
        if let Some(Seq(seq)) = applied.seq {
            let document = || Some(document_payload(after));
            self.publish(key, Event::Document, Class::Document { seq }, document);
        }
    }

    /// The one way of an event to its topic; `render` is called if anybody listens.
    fn publish(&self, key: &ShadowKey, event: Event, class: Class, render: impl FnOnce() -> Option<Bytes>) {
        let topic = event.topic(key);
        if !self.router.has_subscribers(&topic) {
            return;
        }
        if let Some(payload) = render() {
            self.router.publish(&message(event, &topic, payload), class);
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

impl Accepted<'_> {
    fn payload(&self) -> Bytes {
        accepted_payload(self.command, self.applied, self.client_token)
    }
}

/// The message that tells `event` on `topic`.
pub(super) fn message(event: Event, topic: &str, payload: Bytes) -> Arc<Message> {
    let topic = TopicName::new(topic).expect("a shadow's topics are built from checked names and fit the limit");
    // The document is what a subscriber may ask to be told as retained. PROTOCOL section 2.
    Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, event == Event::Document, None, Instant::now()))
}

/// What `accepted` says of a command.
pub(super) fn accepted_payload(command: &Command, applied: &Applied, token: Option<&ClientToken>) -> Bytes {
    match command {
        Command::Update(update) => {
            let accepted = wire::Accepted {
                update,
                changed: applied.is_changed(),
                document: &applied.after,
                rebased_from: applied.rebased_from,
                manner: applied.manner,
            };
            wire::update_outcome(&accepted, Projection::ALL, token)
        }
        Command::Delete(_) => wire::delete_outcome(&applied.after, applied.manner, token),
    }
}

/// What `get/accepted` says.
pub(super) fn got_payload(document: &Document, token: Option<&ClientToken>) -> Bytes {
    wire::get_accepted(document, Projection::ALL, token)
}

/// What `P/document` says: the document, or nothing once it is deleted.
pub(super) fn document_payload(document: &Document) -> Bytes {
    match document.exists() {
        true => got_payload(document, None),
        false => Bytes::new(),
    }
}

fn accepted_event(command: &Command) -> Event {
    match command {
        Command::Update(_) => Event::UpdateAccepted,
        Command::Delete(_) => Event::DeleteAccepted,
    }
}
