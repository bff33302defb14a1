//! The order in which the members of a group get messages.
//!
//! Members are apart by what they would do with a message, as far as is known ([`Standing`]), and by their rights
//! ([`MemberClass`]). Of those that are alike, the one that waited longest for its turn is next. A turn is a number that rises
//! over all groups, so that members at several filters of the router can be compared.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    auth::Access,
    mqtt::{
        broker::{
            outbox::{Readiness, SessionId},
            router::{shrink, subscribers::Subscriber},
        },
        protocol::{message::Message, packet::QoS},
    },
};

/// The members of a group at one filter, in their order.
#[derive(Debug, Default)]
pub(super) struct Turns {
    members: HashMap<SessionId, Member>,
    order: BTreeMap<Turn, SessionId>,
    /// At most one for each number.
    classes: Vec<MemberClass>,
}

/// The place of a member: its class, its standing, and the number of its turn.
type Turn = (u8, Standing, u64);

#[derive(Debug)]
struct Member {
    subscriber: Subscriber,
    /// False from when the outbox was detached until just before it is attached again.
    is_connected: bool,
    turn: Turn,
}

/// The prospect of a message for a member, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It would send it now.
    Ready,
    /// It would have the message wait.
    Waiting,
    /// It has no connection, and keeps what is not at QoS 0.
    Away,
    /// It would drop the message.
    Full,
}

/// The members for whose rights every check has the same result.
#[derive(Debug)]
struct MemberClass {
    number: u8,
    /// `None` for members of all other rights, when there are too many different ones.
    rights: Option<Arc<Access>>,
    /// The number of members of each standing.
    counts: [usize; 4],
    refused: Option<Refused>,
}

/// A message that all members of a class would have dropped.
#[derive(Debug)]
struct Refused {
    until: Instant,
    payload_bytes: usize,
    qos: QoS,
}

/// A member whose turn it is.
pub(super) struct Taken {
    pub(super) subscriber: Subscriber,
    /// The number of its class.
    pub(super) class: u8,
    /// The rights of its class.
    pub(super) rights: Option<Arc<Access>>,
}

/// The numbers of classes, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClassSet(u32);

impl ClassSet {
    pub(super) fn insert(&mut self, class: u8) {
        self.0 |= 1 << class;
    }

    pub(super) fn contains(self, class: u8) -> bool {
        self.0 & (1 << class) != 0
    }
}

impl Turns {
    /// Adds or replaces a member, which has these rights and a connection.
    pub(super) fn insert(&mut self, subscriber: Subscriber, access: &Access) {
        let session = subscriber.outbox.id();
        self.remove(session);
        let turn = (self.class_of(access), Standing::Ready, next_turn());
        self.enter(turn, session);
        self.members.insert(session, Member { subscriber, is_connected: true, turn });
    }

    /// Removes a member. Returns true if it was there.
    pub(super) fn remove(&mut self, session: SessionId) -> bool {
        let Some(member) = self.members.remove(&session) else { return false };
        self.leave(member.turn);
        self.classes.retain(|class| class.counts != [0; 4]);
        shrink(&mut self.members);
        true
    }

    /// Marks a member as connected or not. One with a connection may be ready, and is visited soon.
    pub(super) fn set_connected(&mut self, session: SessionId, connected: bool) {
        let Some(member) = self.members.get_mut(&session) else { return };
        member.is_connected = connected;
        let standing = match (connected, member.subscriber.qos) {
            (true, _) => Standing::Ready,
            (false, QoS::AtMostOnce) => Standing::Full,
            (false, _) => Standing::Away,
        };
        let class = member.turn.0;
        self.put(session, standing);
        self.class_mut(class).into_iter().for_each(|class| class.refused = None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Iterates over the members.
    pub(super) fn members(&self) -> impl Iterator<Item = &Subscriber> {
        self.members.values().map(|member| &member.subscriber)
    }

    /// Returns the number of members of this standing whose classes are not in `denied`.
    pub(super) fn count(&self, standing: Standing, denied: ClassSet) -> usize {
        let classes = self.classes.iter().filter(|class| !denied.contains(class.number));
        classes.map(|class| class.count(standing)).sum()
    }

    /// Returns the number of members of this standing in a class.
    pub(super) fn count_in(&self, class: u8, standing: Standing) -> usize {
        self.classes.iter().find(|known| known.number == class).map_or(0, |class| class.count(standing))
    }

    /// Returns the earliest turn of this standing whose class is not in `denied`.
    pub(super) fn first(&self, standing: Standing, denied: ClassSet) -> Option<(u64, SessionId)> {
        let classes = self.classes.iter().filter(|class| class.count(standing) > 0 && !denied.contains(class.number));
        let firsts = classes.filter_map(|class| {
            let all = (class.number, standing, 0)..=(class.number, standing, u64::MAX);
            self.order.range(all).next().map(|((.., turn), session)| (*turn, *session))
        });
        firsts.min()
    }

    /// Gives a member its turn: it is the last of its standing from now on.
    pub(super) fn take(&mut self, session: SessionId) -> Option<Taken> {
        let (class, standing, _) = self.members.get(&session)?.turn;
        self.put(session, standing);
        let rights = self.classes.iter().find(|known| known.number == class)?.rights.clone();
        Some(Taken { subscriber: self.members.get(&session)?.subscriber.clone(), class, rights })
    }

    /// Gives a member, if it is one, the standing that follows from its readiness for `message`, as the last.
    pub(super) fn settle(&mut self, session: SessionId, readiness: Readiness, message: &Message) {
        let Some(member) = self.members.get(&session) else { return };
        let keeps_others = !member.is_connected && member.subscriber.qos != QoS::AtMostOnce;
        let standing = match readiness {
            Readiness::Now => Standing::Ready,
            Readiness::Waits => Standing::Waiting,
            Readiness::Later if member.is_connected => Standing::Waiting, // it is about to be attached
            Readiness::Later => Standing::Away,
            Readiness::Never if keeps_others && message.qos == QoS::AtMostOnce => Standing::Away,
            Readiness::Never => Standing::Full,
        };
        self.put(session, standing);
    }

    /// Returns the members that may keep `message` and whose classes are neither in `denied` nor have refused such a message
    /// lately.
    pub(super) fn untried(&self, message: Option<&Message>, denied: ClassSet, now: Instant) -> Vec<SessionId> {
        let has_refused = |class: &MemberClass| message.is_some_and(|message| class.has_refused(message, now));
        let classes = self.classes.iter().filter(|class| !denied.contains(class.number) && !has_refused(class));
        let all = classes.flat_map(|class| {
            let all = (class.number, Standing::Ready, 0)..=(class.number, Standing::Full, u64::MAX);
            self.order.range(all).map(|(_, session)| *session)
        });
        let is_momentary = message.is_some_and(|message| message.qos == QoS::AtMostOnce);
        all.filter(|session| !is_momentary || self.members.get(session).is_some_and(|member| member.is_connected))
            .collect()
    }

    /// Notes that all members whose classes are not in `denied` would have dropped `message`.
    pub(super) fn note_refused(&mut self, message: &Message, denied: ClassSet, now: Instant) {
        for class in self.classes.iter_mut().filter(|class| !denied.contains(class.number)) {
            if !class.has_refused(message, now) {
                let (until, payload_bytes) = (now + REFUSED_FOR, message.payload.len());
                class.refused = Some(Refused { until, payload_bytes, qos: message.qos });
            }
        }
    }

    /// Gives a member another standing, as the last.
    fn put(&mut self, session: SessionId, standing: Standing) {
        let Some(member) = self.members.get_mut(&session) else { return };
        let turn = (member.turn.0, standing, next_turn());
        let former = std::mem::replace(&mut member.turn, turn);
        self.leave(former);
        self.enter(turn, session);
    }

    fn enter(&mut self, turn: Turn, session: SessionId) {
        self.order.insert(turn, session);
        self.class_mut(turn.0).into_iter().for_each(|class| *class.count_mut(turn.1) += 1);
    }

    fn leave(&mut self, turn: Turn) {
        self.order.remove(&turn);
        self.class_mut(turn.0).into_iter().for_each(|class| *class.count_mut(turn.1) -= 1);
    }

    fn class_mut(&mut self, number: u8) -> Option<&mut MemberClass> {
        self.classes.iter_mut().find(|class| class.number == number)
    }

    /// Returns the class of members with these rights, which gets another one.
    fn class_of(&mut self, access: &Access) -> u8 {
        let has_rights =
            |class: &&mut MemberClass| class.rights.as_ref().is_some_and(|rights| rights.decides_as(access));
        if let Some(known) = self.classes.iter_mut().find(has_rights) {
            known.refused = None;
            return known.number;
        }
        let free = (0..CLASSES_MAX).find(|number| self.classes.iter().all(|class| class.number != *number));
        let number = free.unwrap_or(CLASSES_MAX);
        match self.class_mut(number) {
            Some(of_others) => of_others.refused = None,
            None => {
                let rights = free.map(|_| Arc::new(access.clone()));
                self.classes.push(MemberClass { number, rights, counts: [0; 4], refused: None });
            }
        }
        number
    }
}

impl MemberClass {
    fn count(&self, standing: Standing) -> usize {
        let [ready, waiting, away, full] = self.counts;
        match standing {
            Standing::Ready => ready,
            Standing::Waiting => waiting,
            Standing::Away => away,
            Standing::Full => full,
        }
    }

    fn count_mut(&mut self, standing: Standing) -> &mut usize {
        let [ready, waiting, away, full] = &mut self.counts;
        match standing {
            Standing::Ready => ready,
            Standing::Waiting => waiting,
            Standing::Away => away,
            Standing::Full => full,
        }
    }

    /// Returns true if all members would have dropped a message lately that they take no less than `message`.
    fn has_refused(&self, message: &Message, now: Instant) -> bool {
        self.refused.as_ref().is_some_and(|refused| {
            let is_as_durable = refused.qos != QoS::AtMostOnce || message.qos == QoS::AtMostOnce;
            now < refused.until && refused.payload_bytes <= message.payload.len() && is_as_durable
        })
    }
}

fn next_turn() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Most different rights at one filter that have classes of their own.
const CLASSES_MAX: u8 = 16;

/// Time for which a message that all members would drop stands for others.
const REFUSED_FOR: Duration = Duration::from_millis(100);
