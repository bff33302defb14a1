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
            narrowing::narrowed,
            outbox::{Outbox, SessionId},
            router::{Filters, Router, shrink, subscribers::Subscriber},
            time_slice::TimeSlice,
        },
        protocol::topic::TopicFilter,
    },
};

/// The narrowed subscriptions by session; most sessions have none.
#[derive(Debug, Default)]
pub(super) struct NarrowedSubscriptions(HashMap<SessionId, OfSession>);

/// The narrowed subscriptions of one session.
#[derive(Debug, Default)]
struct OfSession {
    /// By the filter as the client sent it.
    subscriptions: HashMap<TopicFilter, NarrowedSubscription>,
    numbers: Numbers,
}

/// The numbers in use, a bit each; 0 is that of subscriptions that are not narrowed.
#[derive(Debug)]
struct Numbers([u64; 4]);

#[derive(Debug)]
struct NarrowedSubscription {
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
        let all = self.0.get(&session).into_iter().flat_map(|of_session| &of_session.subscriptions);
        all.filter(move |(filter, _)| filter.selects(topic)).map(|(_, one)| &one.subscriber)
    }

    #[cfg(test)]
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.0.get(&session).map_or(0, |of_session| of_session.subscriptions.len())
    }

    /// Returns the filters that `filter` of `session` was narrowed to, and their number.
    fn within(&self, session: SessionId, filter: &TopicFilter) -> Option<(Vec<TopicFilter>, u8)> {
        let known = self.0.get(&session)?.subscriptions.get(filter)?;
        Some((known.within.clone(), known.subscriber.narrowed))
    }

    /// Takes a number for another subscription of `session`, if there is one left.
    fn take_number(&mut self, session: SessionId) -> Option<u8> {
        self.0.entry(session).or_default().numbers.take()
    }

    fn take(&mut self, session: SessionId, filter: &TopicFilter) -> Option<NarrowedSubscription> {
        let of_session = self.0.get_mut(&session)?;
        let taken = of_session.subscriptions.remove(filter)?;
        of_session.numbers.put_back(taken.subscriber.narrowed);
        shrink(&mut of_session.subscriptions);
        if of_session.subscriptions.is_empty() {
            self.0.remove(&session);
            shrink(&mut self.0);
        }
        Some(taken)
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self([1, 0, 0, 0])
    }
}

impl Numbers {
    fn take(&mut self) -> Option<u8> {
        let (at, word) = self.0.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        u8::try_from(at * 64 + bit as usize).ok()
    }

    fn put_back(&mut self, number: u8) {
        if let Some(word) = self.0.get_mut(usize::from(number) / 64) {
            *word &= !(1 << (number % 64));
        }
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
            && let Some(number) = self.narrowed.take_number(session)
        {
            let existed = self.remove(session, filter, 0) || existed;
            let subscriber = Subscriber { narrowed: number, ..subscriber };
            within.iter().for_each(|narrow| _ = self.entry(narrow).insert(narrow, subscriber.clone()));
            let charge = Charge::new(subscriber.outbox.quota(), bytes(&within));
            let subscription = NarrowedSubscription { within, access, subscriber, charge };
            self.narrowed.0.entry(session).or_default().subscriptions.insert(filter.clone(), subscription);
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
        let of_session = self.narrowed.0.get_mut(&session);
        let Some(known) = of_session.and_then(|all| all.subscriptions.get_mut(filter)) else { return };
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
        let all = &filters.narrowed.0.get(&session)?.subscriptions;
        let outbox = &all.values().next()?.subscriber.outbox;
        let access = outbox.access();
        let outdated = all.iter().filter(|(_, known)| !known.access.is_same(&access));
        let outdated: Vec<_> = outdated.map(|(filter, _)| filter.clone()).collect();
        (!outdated.is_empty()).then(|| (outbox.clone(), outdated))
    }
}

/// Returns the memory of a subscription that was narrowed to `within`.
fn bytes(within: &[TopicFilter]) -> usize {
    2 * size_of::<(TopicFilter, NarrowedSubscription)>() + within.iter().map(filters::cost).sum::<usize>()
}
