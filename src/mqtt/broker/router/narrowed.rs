//! The subscriptions whose filters are narrowed to the rights of their session ([`crate::mqtt::broker::narrowing`]).
//!
//! The router has each under the filters it was narrowed to, with a number that separates these from other subscriptions of
//! the session, so that a message which two of them select counts as one of this subscription. All else, from SUBACK to
//! UNSUBSCRIBE, knows only the filter as the client sent it.

use std::{collections::HashMap, sync::Arc};

use crate::{
    admission::Charge,
    auth::Access,
    mqtt::{
        broker::{
            filters,
            narrowing::{narrowed, selects},
            outbox::{Outbox, SessionId},
            router::{Filters, Router, shrink, subscribers::Subscriber},
            time_slice::TimeSlice,
        },
        protocol::topic::TopicFilter,
    },
};

/// The narrowed subscriptions by session; most sessions have none.
#[derive(Debug, Default)]
pub(super) struct NarrowedSubscriptions(HashMap<SessionId, Vec<NarrowedSubscription>>);

#[derive(Debug)]
pub(super) struct NarrowedSubscription {
    /// The filter as the client sent it.
    filter: TopicFilter,
    /// The filters in the router.
    within: Vec<TopicFilter>,
    /// The rights they were made with.
    access: Access,
    subscriber: Subscriber,
    /// The memory of `within`.
    charge: Charge,
}

impl NarrowedSubscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the subscriptions of `session` whose filters, as the client sent them, select `topic`.
    pub(super) fn selecting(&self, session: SessionId, topic: &str) -> impl Iterator<Item = &Subscriber> {
        let all = self.0.get(&session).into_iter().flatten();
        all.filter(move |one| selects(&one.filter, topic)).map(|one| &one.subscriber)
    }

    /// Returns the filters that `filter` of `session` was narrowed to, and their number.
    fn within(&self, session: SessionId, filter: &TopicFilter) -> Option<(Vec<TopicFilter>, u8)> {
        let known = self.of(session).iter().find(|known| known.filter == *filter)?;
        Some((known.within.clone(), known.subscriber.narrowed))
    }

    fn of(&self, session: SessionId) -> &[NarrowedSubscription] {
        self.0.get(&session).map_or(&[], Vec::as_slice)
    }

    /// Returns a number for another subscription of `session`, if there is one left.
    fn free_number(&self, session: SessionId) -> Option<u8> {
        let all = self.of(session);
        (1..=u8::MAX).find(|number| all.iter().all(|known| known.subscriber.narrowed != *number))
    }

    fn take(&mut self, session: SessionId, filter: &TopicFilter) -> Option<NarrowedSubscription> {
        let all = self.0.get_mut(&session)?;
        let at = all.iter().position(|known| known.filter == *filter)?;
        let taken = all.swap_remove(at);
        if all.is_empty() {
            self.0.remove(&session);
            shrink(&mut self.0);
        }
        Some(taken)
    }
}

impl Filters {
    /// Adds or replaces the subscription with `filter`, narrowed to `within` by `access` if there is such. Returns true if
    /// one was replaced.
    pub(super) fn subscribe(
        &mut self,
        filter: &TopicFilter,
        subscriber: Subscriber,
        within: Option<(Access, Vec<TopicFilter>)>,
    ) -> bool {
        let session = subscriber.outbox.id();
        let existed = self.unsubscribe_narrowed(session, filter);
        if let Some((access, within)) = within
            && let Some(number) = self.narrowed.free_number(session)
        {
            let existed = self.remove(session, filter, 0) || existed;
            let subscriber = Subscriber { narrowed: number, ..subscriber };
            within.iter().for_each(|narrow| _ = self.entry(narrow).insert(narrow, subscriber.clone()));
            let charge = Charge::new(subscriber.outbox.quota(), bytes(&within));
            let subscription = NarrowedSubscription { filter: filter.clone(), within, access, subscriber, charge };
            self.narrowed.0.entry(session).or_default().push(subscription);
            return existed;
        }
        self.entry(filter).insert(filter, subscriber) || existed
    }

    /// Marks the existing subscription with `filter` as that of a connected session or not.
    pub(super) fn set_connected(&mut self, session: SessionId, filter: &TopicFilter, connected: bool) {
        match self.narrowed.within(session, filter) {
            None => self.entry(filter).set_connected(session, 0, connected),
            Some((within, number)) => {
                within.iter().for_each(|narrow| self.entry(narrow).set_connected(session, number, connected));
            }
        }
    }

    /// Removes the subscription with `filter`. Returns true if it existed.
    pub(super) fn unsubscribe(&mut self, session: SessionId, filter: &TopicFilter) -> bool {
        self.unsubscribe_narrowed(session, filter) || self.remove(session, filter, 0)
    }

    fn unsubscribe_narrowed(&mut self, session: SessionId, filter: &TopicFilter) -> bool {
        if self.narrowed.is_empty() || filter.share().is_some() {
            return false;
        }
        let Some(taken) = self.narrowed.take(session, filter) else { return false };
        taken.within.iter().for_each(|narrow| _ = self.remove(session, narrow, taken.subscriber.narrowed));
        true
    }

    /// Puts the subscription with `filter` under the filters `within` in place of its former ones.
    fn narrow_again(&mut self, session: SessionId, filter: &TopicFilter, within: Vec<TopicFilter>, access: &Access) {
        let all = self.narrowed.0.get_mut(&session).into_iter().flatten();
        let Some(known) = all.into_iter().find(|known| known.filter == *filter) else { return };
        let (subscriber, former) = (known.subscriber.clone(), std::mem::replace(&mut known.within, within.clone()));
        known.access = access.clone();
        known.charge.resize(bytes(&within));
        // A filter of both stays where it is.
        for narrow in within.iter().filter(|narrow| !former.contains(narrow)) {
            self.entry(narrow).insert(narrow, subscriber.clone());
        }
        for narrow in former.iter().filter(|narrow| !within.contains(narrow)) {
            self.remove(session, narrow, subscriber.narrowed);
        }
    }
}

impl Router {
    /// Narrows the filters of all sessions anew whose rights have changed.
    pub(in crate::mqtt) async fn narrow_again(&self) {
        let sessions: Vec<SessionId> = self.filters.read().narrowed.0.keys().copied().collect();
        let mut slice = TimeSlice::begin();
        for session in sessions {
            self.narrow_session_again(session);
            slice.pause().await;
        }
    }

    /// Narrows the filters of `session` anew if its rights have changed. It receives what the former and the present
    /// rights allow also meanwhile.
    pub fn narrow_session_again(&self, session: SessionId) {
        while let Some((outbox, filters)) = self.outdated(session) {
            let access = outbox.access();
            let within =
                |filter: TopicFilter| (narrowed(&access, &filter).unwrap_or_else(|| vec![filter.clone()]), filter);
            let anew: Vec<_> = filters.into_iter().map(within).collect();
            let mut filters = self.filters.write();
            anew.into_iter().for_each(|(within, filter)| filters.narrow_again(session, &filter, within, &access));
        }
    }

    /// Returns the filters of `session` that were narrowed with other rights than it has now; `None` if there are none.
    fn outdated(&self, session: SessionId) -> Option<(Arc<Outbox>, Vec<TopicFilter>)> {
        let filters = self.filters.read();
        let all = filters.narrowed.of(session);
        let outbox = &all.first()?.subscriber.outbox;
        let access = outbox.access();
        let outdated = all.iter().filter(|known| !known.access.is_same(&access));
        let outdated: Vec<_> = outdated.map(|known| known.filter.clone()).collect();
        (!outdated.is_empty()).then(|| (outbox.clone(), outdated))
    }
}

/// Returns the memory of a subscription that was narrowed to `within`.
fn bytes(within: &[TopicFilter]) -> usize {
    size_of::<NarrowedSubscription>() + within.iter().map(filters::cost).sum::<usize>()
}
