//! The way of one publication to its receivers: who gets it, with which options, into which lane of the outbox.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use crate::{
    auth::{Access, Operation},
    mqtt::{
        broker::{
            outbox::{Outbox, SessionId},
            router::{
                DeliveryKind, Filters, Publication,
                cluster_groups::GroupReceivers,
                shared::{self, Group, Prospect},
                subscribers::{Subscriber, Subscribers},
            },
        },
        protocol::{
            message::{Delivery, Message},
            topic::TopicFilter,
        },
        shadow::topics,
    },
    shadow::ShadowKey,
};

/// The subscribers of the filters that select a topic. Nearly always one filter does.
#[derive(Default)]
pub(super) struct MatchedFilters<'a> {
    first: Option<&'a Subscribers>,
    more: Vec<&'a Subscribers>,
}

impl<'a> MatchedFilters<'a> {
    pub(super) fn add(&mut self, subscribers: &'a Subscribers) {
        match self.first {
            None => self.first = Some(subscribers),
            Some(_) => self.more.push(subscribers),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a Subscribers> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    /// Returns true if at most one filter selects the topic.
    pub(super) fn is_one_filter(&self) -> bool {
        self.more.is_empty()
    }

    /// Returns the subscriber if there is at most one, connected and outside groups; `None` if there may be others.
    pub(super) fn only(&self) -> Option<Option<&'a Subscriber>> {
        match self.first {
            None => Some(None),
            Some(first) => first.only().filter(|_| self.more.is_empty()),
        }
    }
}

/// The sessions without a connection that may receive a publication.
#[derive(Clone, Copy)]
pub(super) enum AbsentReceivers {
    /// No session: those that return look it up, or it is of no use to them.
    None,
    /// The session of the requester.
    Requester(SessionId),
    /// Every session.
    All,
}

impl AbsentReceivers {
    /// Returns the absent receivers of a publication.
    pub(super) fn of(kind: DeliveryKind, publication: &impl Publication) -> Self {
        match kind {
            DeliveryKind::Event { .. } | DeliveryKind::Document { .. } | DeliveryKind::Presence { .. } => Self::None,
            DeliveryKind::Change { by: to, .. } | DeliveryKind::Private { to } => Self::Requester(to),
            DeliveryKind::Reply { to, .. } if topics::is_service(publication.topic()) => Self::Requester(to),
            DeliveryKind::Others { .. } if topics::is_service(publication.topic()) => Self::None,
            DeliveryKind::Ordinary { .. } if !publication.is_kept_for_absent() => Self::None,
            DeliveryKind::Reply { .. } | DeliveryKind::Others { .. } | DeliveryKind::Ordinary { .. } => Self::All,
        }
    }

    /// Iterates over those of `subscribers` that are such receivers.
    pub(super) fn among(self, subscribers: &Subscribers) -> impl Iterator<Item = &Subscriber> {
        self.among_after(subscribers, None)
    }

    /// Iterates over those of `subscribers` that are such receivers, of the sessions after `after`.
    pub(super) fn among_after(
        self,
        subscribers: &Subscribers,
        after: Option<SessionId>,
    ) -> impl Iterator<Item = &Subscriber> {
        let one = if let Self::Requester(session) = self { Some(session) } else { None };
        let one = one.filter(|session| after.is_none_or(|after| *session > after));
        let all = matches!(self, Self::All).then(|| subscribers.absent_after(after));
        all.into_iter().flatten().chain(one.into_iter().flat_map(|session| subscribers.absent_of(session)))
    }

    /// Returns an upper bound of their number among `subscribers`, that of a single session aside.
    pub(super) fn count(self, subscribers: &Subscribers) -> usize {
        if matches!(self, Self::All) { subscribers.absent_count() } else { 0 }
    }
}

/// One publication during its routing.
pub(super) struct Route<'a, P> {
    publication: &'a P,
    kind: DeliveryKind,
    /// The messages by the rights of their receivers, which are evaluated once for all sessions that have the same;
    /// `None` if there is one subscriber.
    known: Option<RefCell<KnownMessages>>,
    groups: GroupReceivers<'a>,
}

/// Messages by the rights of their receivers, the newest last.
type KnownMessages = VecDeque<(Access, Option<Arc<Message>>)>;

/// A message that a member of a shared group had not acknowledged when its session ended.
pub(super) struct OrphanedMessage<'a> {
    pub(super) message: &'a Arc<Message>,
    /// The rights of the former member.
    pub(super) former: &'a Access,
    /// The shadow of the message, if it is on a shadow topic.
    pub(super) key: Option<ShadowKey>,
}

/// A shadow message, which was rendered for the former member, goes only to members with the same projection.
impl Publication for OrphanedMessage<'_> {
    fn topic(&self) -> &str {
        self.message.topic.as_str()
    }

    fn message_for(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        let part = |access: &Access, key| access.projection(key, Operation::Subscribe);
        let may = match &self.key {
            None => access.may_receive(self.topic()),
            Some(key) => part(access, key).is_some_and(|it| Some(it) == part(self.former, key)),
        };
        may.then(|| Arc::clone(self.message))
    }
}

impl<'a, P: Publication> Route<'a, P> {
    /// Returns the route of a publication. `one` is true if it has at most one subscriber.
    pub(super) fn new(publication: &'a P, kind: DeliveryKind, one: bool, groups: GroupReceivers<'a>) -> Self {
        Self { publication, kind, known: (!one).then(RefCell::default), groups }
    }

    /// Delivers once to each session in `subscribers`, in any order. Returns the number of receivers.
    pub(super) fn deliver_once_each<'s>(&self, subscribers: impl Iterator<Item = &'s Subscriber>) -> usize {
        let mut all: Vec<&Subscriber> = subscribers.collect();
        all.sort_by_key(|subscriber| (subscriber.outbox.id(), subscriber.narrowed));
        all.dedup_by(|a, b| a.is_same_narrowed(b));
        all.chunk_by(|a, b| a.outbox.id() == b.outbox.id()).map(|one| self.deliver(one)).sum()
    }

    /// Delivers once to each session in `subscribers` of one filter. Returns the number of receivers.
    pub(super) fn deliver_in_order<'s>(&self, subscribers: impl Iterator<Item = &'s Subscriber>) -> usize {
        let (mut subscribers, mut receivers) = (subscribers.peekable(), 0);
        while let Some(subscriber) = subscribers.next() {
            let mut same = || subscribers.next_if(|next| next.outbox.id() == subscriber.outbox.id());
            receivers += match same() {
                None => self.deliver(&[subscriber]),
                Some(second) => {
                    let mut all = vec![subscriber, second];
                    all.extend(std::iter::from_fn(same));
                    self.deliver(&all)
                }
            };
        }
        receivers
    }

    /// Returns the topic of the publication.
    pub(super) fn topic(&self) -> &str {
        self.publication.topic()
    }

    /// Delivers to one member of each group. Returns the number of receivers.
    pub(super) fn deliver_to_groups(&self, filters: &Filters, found: &MatchedFilters<'_>) -> usize {
        let mut parts: Vec<&Group> = found.all().flat_map(Subscribers::groups).collect();
        if !found.is_one_filter() {
            parts.sort_by(|a, b| a.filter().cmp(b.filter()));
        }
        let groups = parts.chunk_by(|a, b| a.filter() == b.filter());
        let chosen = groups.filter(|parts| parts.first().is_some_and(|part| self.groups.contain(part.filter())));
        chosen.map(|parts| self.deliver_to_one(filters, parts)).sum()
    }

    /// Delivers to one member of the group with these parts. Returns the number of receivers, 0 or 1.
    pub(super) fn deliver_to_one(&self, filters: &Filters, parts: &[&Group]) -> usize {
        let Some(filter) = parts.first().map(|part| part.filter()) else { return 0 };
        if let DeliveryKind::Others { than } = self.kind
            && filters.narrowed.has_member(than, filter)
        {
            return 0; // that member got the reply for the whole group
        }
        // A resync covers a session's own subscriptions only, so events of shared ones are ordinary messages.
        let kind = match self.kind {
            DeliveryKind::Event { .. } | DeliveryKind::Document { .. } | DeliveryKind::Presence { .. } => {
                DeliveryKind::Ordinary { from: None }
            }
            DeliveryKind::Change { by: to, .. } | DeliveryKind::Reply { to, .. } => {
                DeliveryKind::Reply { to, seq: None }
            }
            kind @ (DeliveryKind::Ordinary { .. } | DeliveryKind::Private { .. } | DeliveryKind::Others { .. }) => kind,
        };
        let member = shared::pick(parts, |outbox, of_others| self.prospect(outbox, of_others));
        member.map_or(0, |member| self.deliver_as(&[&member], kind, Some(filter)))
    }

    /// Delivers to one session as a member of its groups, whatever its rights. Returns the number of receivers.
    pub(super) fn deliver_as_member(&self, filters: &Filters, session: SessionId) -> usize {
        let groups = filters.narrowed.groups_selecting(session, self.topic());
        groups.map(|(filter, member)| self.deliver_as(&[member], self.kind, Some(&Arc::new(filter.clone())))).sum()
    }

    /// Returns the message for a member of a group, whose rights were those `of_others` when it became one.
    fn prospect(&self, outbox: &Outbox, of_others: Option<&Access>) -> Prospect {
        outbox.with_access(|access| match self.message_for(outbox, access) {
            Some(message) => Prospect::Message(message),
            None if self.publication.is_individual(outbox.id()) => Prospect::NotForMember,
            None if of_others.is_some_and(|rights| rights.decides_as(access)) => Prospect::NotForRights,
            None => Prospect::NotForMember,
        })
    }

    /// Queues the message for the one session that has these subscriptions. Returns the number of receivers, 0 or 1.
    pub(super) fn deliver(&self, subscriptions: &[&Subscriber]) -> usize {
        self.deliver_as(subscriptions, self.kind, None)
    }

    /// Delivers as a message of this kind, of the shared subscription `share` or the session's own ones.
    fn deliver_as(&self, subscriptions: &[&Subscriber], kind: DeliveryKind, share: Option<&Arc<TopicFilter>>) -> usize {
        let Some(outbox) = subscriptions.first().map(|first| &*first.outbox) else { return 0 };
        // Queued under the lock of the rights: a change of rights then checks everything queued before it.
        outbox.with_access(|access| {
            self.message_for(outbox, access).map_or(0, |message| queue(outbox, subscriptions, message, kind, share))
        })
    }

    /// Returns the message for the session of `outbox`, which has `access`; `None` if it gets none.
    fn message_for(&self, outbox: &Outbox, access: &Access) -> Option<Arc<Message>> {
        match self.kind {
            DeliveryKind::Private { to } if to != outbox.id() => None,
            DeliveryKind::Others { than } if than == outbox.id() => None,
            _ => match &self.known {
                Some(known) if !self.publication.is_individual(outbox.id()) => {
                    self.known_message(&mut known.borrow_mut(), outbox, access)
                }
                _ => self.publication.message_for(outbox.id(), access),
            },
        }
    }

    /// Returns the message for a receiver with `access`, from `known` if one with the same rights was there.
    fn known_message(&self, known: &mut KnownMessages, outbox: &Outbox, access: &Access) -> Option<Arc<Message>> {
        if let Some((_, message)) = known.iter().find(|(other, _)| other.decides_as(access)) {
            return message.clone();
        }
        let message = self.publication.message_for(outbox.id(), access);
        if known.len() >= KNOWN_MAX {
            known.pop_front();
        }
        known.push_back((access.clone(), message.clone()));
        message
    }
}

/// Queues `message` for the session of `outbox`, which has these subscriptions. Returns the number of receivers, 0 or 1.
fn queue(
    outbox: &Outbox,
    subscriptions: &[&Subscriber],
    message: Arc<Message>,
    kind: DeliveryKind,
    share: Option<&Arc<TopicFilter>>,
) -> usize {
    let own = matches!(kind, DeliveryKind::Ordinary { from } if from == Some(outbox.id()));
    let selected = || subscriptions.iter().filter(|subscription| !(own && subscription.no_local)); // [MQTT-3.8.3-3]
    let Some(qos) = selected().map(|subscription| subscription.qos).max() else { return 0 };
    let delivery = Delivery {
        qos: qos.min(message.qos), // [MQTT-3.8.4-8]
        // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
        retain: message.retain && selected().any(|subscription| subscription.retain_as_published),
        // [MQTT-3.3.4-3], [MQTT-3.3.4-4]
        subscription_ids: selected().filter_map(|subscription| subscription.id).map(u32::from).collect(),
        share: share.cloned(),
        row: None,
        message,
    };
    push(outbox, delivery, kind);
    1
}

fn push(outbox: &Outbox, delivery: Delivery, kind: DeliveryKind) {
    match kind {
        DeliveryKind::Private { .. } => outbox.push_reply(delivery),
        DeliveryKind::Reply { to, .. } if to == outbox.id() => outbox.push_reply(delivery),
        DeliveryKind::Change { by, seq } if by == outbox.id() => outbox.push_own_event(delivery, seq),
        DeliveryKind::Event { seq } | DeliveryKind::Change { seq, .. } | DeliveryKind::Reply { seq: Some(seq), .. } => {
            outbox.push_event(delivery, seq)
        }
        DeliveryKind::Presence { number } => outbox.mark_presence(&delivery.message.topic, number),
        DeliveryKind::Document { seq } => outbox.push_document(delivery, seq),
        DeliveryKind::Ordinary { .. } | DeliveryKind::Others { .. } | DeliveryKind::Reply { seq: None, .. } => {
            let is_notice = delivery.share.is_none() && topics::is_service(delivery.message.topic.as_str());
            if is_notice { outbox.push_notice(delivery) } else { outbox.push_ordinary(delivery) }
        }
    }
}

/// Most rights whose messages are remembered during one publication.
const KNOWN_MAX: usize = 16;
