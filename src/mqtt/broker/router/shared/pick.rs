//! The choice of the member that gets a message.
//!
//! Each member that is visited costs a lock of its outbox and a check of its rights. One that is not ready is put among those
//! that are not, once; from there up to two return with each message, if they are ready again. If nobody is ready, a few of the others
//! are visited, and all only if these would drop the message. If all would, the message is dropped, and so are others like it for
//! 100 ms, unless a few visits find a member that takes it.
//!
//! One of many members with the same rights is visited for a topic that these do not cover. More than 16 different rights
//! at one filter are not kept apart, and their members are visited one by one until one may read.

use std::{sync::Arc, time::Instant};

use super::{
    Group,
    turns::{ClassSet, Standing, Taken},
};
use crate::{
    auth::Access,
    mqtt::{
        broker::{
            outbox::{Outbox, Readiness},
            router::subscribers::Subscriber,
        },
        protocol::{message::Message, packet::QoS},
    },
};

/// The message for a member, if there is one.
pub(in crate::mqtt::broker::router) enum Prospect {
    Message(Arc<Message>),
    /// There is none for this member.
    NotForMember,
    /// There is none for any member with the same rights.
    NotForRights,
}

/// One choice among the members at all filters that select the topic.
struct Pick<'a, F> {
    parts: Vec<Part<'a>>,
    message_for: F,
    /// The message for one of the members that were visited.
    message: Option<Arc<Message>>,
    best: Option<(Readiness, Subscriber)>,
}

/// The members at one filter.
struct Part<'a> {
    group: &'a Group,
    /// The classes whose rights do not cover the topic.
    denied: ClassSet,
}

/// Returns the member whose turn it is, among those for which `message_for` returns a message. The rights are those that the
/// member is known to share with others.
pub(in crate::mqtt::broker::router) fn pick(
    groups: &[&Group],
    message_for: impl Fn(&Outbox, Option<&Access>) -> Prospect,
) -> Option<Subscriber> {
    let parts = groups.iter().map(|group| Part { group, denied: ClassSet::default() }).collect();
    Pick { parts, message_for, message: None, best: None }.run()
}

impl<F: Fn(&Outbox, Option<&Access>) -> Prospect> Pick<'_, F> {
    fn run(mut self) -> Option<Subscriber> {
        self.visit(Standing::Ready, usize::MAX, Readiness::Now);
        if self.has(Readiness::Now) {
            // These may be ready again.
            self.visit(Standing::Waiting, 1, Readiness::Now);
            self.visit(Standing::Full, 1, Readiness::Now);
            return self.best.map(|(_, member)| member);
        }
        self.visit(Standing::Waiting, FEW, Readiness::Now);
        self.visit(Standing::Full, if self.has(Readiness::Waits) { 1 } else { FEW }, Readiness::Waits);
        if !self.has(Readiness::Later) {
            self.visit(Standing::Away, 1, Readiness::Later);
        }
        if !self.has(Readiness::Later) && !self.is_momentary() {
            self.visit(Standing::Away, FEW, Readiness::Later);
        }
        if !self.has(Readiness::Later) {
            self.visit_all();
        }
        let (readiness, member) = self.best?;
        if let Some(message) = &self.message {
            // Others were visited after it.
            settle(&self.parts, &member, readiness, message);
        }
        Some(member)
    }

    /// Returns true if a member was found that is at least so ready.
    fn has(&self, readiness: Readiness) -> bool {
        self.best.as_ref().is_some_and(|(best, _)| *best <= readiness)
    }

    /// Returns true if absent members would drop the message.
    fn is_momentary(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.qos == QoS::AtMostOnce)
    }

    /// Visits up to `limit` members of this standing until one is at least so ready.
    fn visit(&mut self, standing: Standing, limit: usize, enough: Readiness) {
        // Each at most once.
        let mut left =
            self.parts.iter().map(|part| part.group.turns.lock().count(standing, part.denied)).sum::<usize>();
        let mut visits = 0;
        while left > 0 && visits < limit {
            let firsts = self.parts.iter().enumerate().filter_map(|(index, part)| {
                part.group.turns.lock().first(standing, part.denied).map(|first| (first, index))
            });
            let Some(((_, session), index)) = firsts.min() else { return };
            let Some(part) = self.parts.get_mut(index) else { return };
            let Some(taken) = part.group.turns.lock().take(session) else { return };
            match prospect(&self.message_for, &taken) {
                Prospect::NotForRights => {
                    part.denied.insert(taken.class);
                    left = left.saturating_sub(part.group.turns.lock().count_in(taken.class, standing).max(1));
                    continue;
                }
                Prospect::NotForMember => {}
                Prospect::Message(message) => {
                    if self.examine(&taken, message) <= enough {
                        return;
                    }
                }
            }
            left -= 1;
            visits += 1;
        }
    }

    /// Visits all members, except those whose like have refused such a message lately, until one keeps it.
    fn visit_all(&mut self) {
        let now = Instant::now();
        for index in 0..self.parts.len() {
            let Some(part) = self.parts.get(index) else { return };
            let sessions = part.group.turns.lock().untried(self.message.as_deref(), part.denied, now);
            for session in sessions {
                let Some(part) = self.parts.get_mut(index) else { return };
                let Some(taken) = part.group.turns.lock().take(session) else { continue };
                if part.denied.contains(taken.class) {
                    continue;
                }
                match prospect(&self.message_for, &taken) {
                    Prospect::NotForRights => part.denied.insert(taken.class),
                    Prospect::NotForMember => {}
                    Prospect::Message(message) => {
                        if self.examine(&taken, message) <= Readiness::Later {
                            return;
                        }
                    }
                }
            }
        }
        if let Some(message) = &self.message {
            self.parts.iter().for_each(|part| part.group.turns.lock().note_refused(message, part.denied, now));
        }
    }

    /// Notes how ready a member is for `message`, and returns it.
    fn examine(&mut self, taken: &Taken, message: Arc<Message>) -> Readiness {
        let member = &taken.subscriber;
        let readiness = member.outbox.readiness(&message, message.qos.min(member.qos));
        settle(&self.parts, member, readiness, &message);
        self.message = Some(message);
        if !self.has(readiness) {
            self.best = Some((readiness, member.clone()));
        }
        readiness
    }
}

/// Visits a member.
fn prospect(message_for: &impl Fn(&Outbox, Option<&Access>) -> Prospect, taken: &Taken) -> Prospect {
    #[cfg(test)]
    visits::add();
    message_for(&taken.subscriber.outbox, taken.rights.as_deref())
}

/// Notes in all parts that have the member how ready it is.
fn settle(parts: &[Part<'_>], member: &Subscriber, readiness: Readiness, message: &Message) {
    parts.iter().for_each(|part| part.group.turns.lock().settle(member.outbox.id(), readiness, message));
}

/// Members that are visited in one standing while none is ready.
const FEW: usize = 32;

/// The members that picks on this thread visit.
#[cfg(test)]
pub(in crate::mqtt::broker::router) mod visits {
    use std::cell::Cell;

    thread_local! {
        static VISITS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add() {
        VISITS.set(VISITS.get() + 1);
    }

    /// Returns the visits that `operation` makes.
    pub(in crate::mqtt::broker::router) fn of(operation: impl FnOnce()) -> usize {
        let before = VISITS.get();
        operation();
        VISITS.get() - before
    }
}
