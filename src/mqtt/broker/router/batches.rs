//! The delivery of one publication to very many sessions, a batch at a time.
//!
//! A connection that subscribes waits until the publishers release the router, and publishers that come later wait
//! behind it. So a publisher lets waiting connections go first after each batch, and then looks up the subscribers anew.
//! Sessions come in the order of their ids, and each batch continues after the last id of the one before. So each
//! session gets the message once, and one that unsubscribed meanwhile does not get it any more.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use parking_lot::RwLockReadGuard;

use crate::mqtt::broker::{
    outbox::SessionId,
    router::{
        Filters, Publication,
        route::{AbsentReceivers, MatchedFilters, Route},
        subscribers::{Subscriber, Subscribers},
    },
};

/// The subscribers of one filter that follow, in the order of their session ids.
struct Source<'a> {
    next: &'a Subscriber,
    rest: Box<dyn Iterator<Item = &'a Subscriber> + 'a>,
}

/// Returns true if the publication to `found` is made in batches.
pub(super) fn are_many(found: &MatchedFilters<'_>, absent: AbsentReceivers) -> bool {
    let count = |subscribers: &Subscribers| subscribers.own_count() + absent.count(subscribers);
    found.all().map(count).sum::<usize>() > BATCH
}

impl<P: Publication> Route<'_, P> {
    /// Delivers once to each session and group that subscribed. Returns the number of receivers.
    pub(super) fn deliver_in_batches(
        &self,
        mut filters: RwLockReadGuard<'_, Filters>,
        absent: AbsentReceivers,
    ) -> usize {
        let (mut receivers, mut after) = (0, None);
        loop {
            let found = filters.matching(self.topic());
            let (delivered, last) = self.deliver_batch(&found, absent, after);
            receivers += delivered;
            if last.is_none() {
                return receivers + self.deliver_to_groups(&filters, &found);
            }
            after = last;
            RwLockReadGuard::bump(&mut filters);
        }
    }

    /// Delivers to the sessions after `after`. Returns the number of receivers, and the last session if there may be
    /// more.
    fn deliver_batch(
        &self,
        found: &MatchedFilters<'_>,
        absent: AbsentReceivers,
        after: Option<SessionId>,
    ) -> (usize, Option<SessionId>) {
        // Each batch begins with a step for each filter.
        let size = found.all().count().max(BATCH);
        let sources = found.all().flat_map(|filter| {
            let own: Box<dyn Iterator<Item = &Subscriber>> = Box::new(filter.own_after(after));
            [own, Box::new(absent.among_after(filter, after))]
        });
        let mut sources: BinaryHeap<_> = sources.filter_map(Source::new).map(Reverse).collect();
        let (mut receivers, mut visited, mut of_session) = (0, 0, Vec::<&Subscriber>::new());
        while let Some(mut source) = sources.peek_mut() {
            let next = source.0.next;
            if let Some(last) = of_session.last().map(|last| last.outbox.id()).filter(|last| *last != next.outbox.id())
            {
                receivers += self.deliver(&of_session);
                of_session.clear();
                if visited >= size {
                    return (receivers, Some(last));
                }
            }
            if !of_session.last().is_some_and(|last| last.is_same_narrowed(next)) {
                of_session.push(next);
            }
            visited += 1;
            if !source.0.advance() {
                PeekMut::pop(source);
            }
        }
        (receivers + self.deliver(&of_session), None)
    }
}

impl<'a> Source<'a> {
    fn new(mut rest: Box<dyn Iterator<Item = &'a Subscriber> + 'a>) -> Option<Self> {
        rest.next().map(|next| Self { next, rest })
    }

    /// Moves to the next subscriber. Returns false if there is none.
    fn advance(&mut self) -> bool {
        let next = self.rest.next();
        self.next = next.unwrap_or(self.next);
        next.is_some()
    }
}

impl Ord for Source<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.next.key().cmp(&other.next.key())
    }
}

impl PartialOrd for Source<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Source<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Source<'_> {}

/// Subscribers that a publisher visits before others may change their subscriptions: some 50 µs.
pub(super) const BATCH: usize = 128;
