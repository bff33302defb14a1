//! The subscriptions whose filters are narrowed to the rights of their session ([`crate::mqtt::broker::narrowing`]), and
//! all shared ones.
//!
//! The router has each under the filters it was narrowed to, with a number that separates these from other subscriptions of
//! the session, so that a message which two of them select counts as one of this subscription. All else, from SUBACK to
//! UNSUBSCRIBE, knows only the filter as the client sent it.
//!
//! A shared subscription makes its session a member of its group at each of these filters, or at the one that the client
//! sent. It is here in any case, since a group has the rights of its members ([`super::shared`]), which may change.

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

/// These subscriptions by session; most sessions have none.
#[derive(Debug, Default)]
pub(super) struct NarrowedSubscriptions(HashMap<SessionId, OfSession>);

/// The subscriptions of one session that are here.
#[derive(Debug, Default)]
struct OfSession {
    /// By the filter as the client sent it.
    subscriptions: HashMap<TopicFilter, NarrowedSubscription>,
    numbers: Numbers,
}

/// The numbers in use, a bit each; 0 is that of shared subscriptions, and of those that are not narrowed.
#[derive(Debug)]
struct Numbers([u64; 4]);

#[derive(Debug)]
struct NarrowedSubscription {
    /// The filters in the router.
    within: Vec<TopicFilter>,
    /// The rights they were made with.
    access: Access,
    subscriber: Subscriber,
    is_connected: bool,
    /// The memory of `within`.
    charge: Charge,
}

impl NarrowedSubscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the subscriptions of `session` outside groups whose filters, as the client sent them, select `topic`.
    pub(super) fn selecting(&self, session: SessionId, topic: &str) -> impl Iterator<Item = &Subscriber> {
        let all = self.all_selecting(session, topic);
        all.filter(|(filter, _)| filter.share().is_none()).map(|(_, subscriber)| subscriber)
    }

    /// Returns the groups of `session` whose filters, as the client sent them, select `topic`, and it as their member.
    pub(super) fn groups_selecting(
        &self,
        session: SessionId,
        topic: &str,
    ) -> impl Iterator<Item = (&TopicFilter, &Subscriber)> {
        self.all_selecting(session, topic).filter(|(filter, _)| filter.share().is_some())
    }

    fn all_selecting(&self, session: SessionId, topic: &str) -> impl Iterator<Item = (&TopicFilter, &Subscriber)> {
        let all = self.0.get(&session).into_iter().flat_map(|of_session| &of_session.subscriptions);
        all.filter(move |(filter, _)| filter.selects(topic)).map(|(filter, one)| (filter, &one.subscriber))
    }

    /// Returns true if `session` is a member of the group with this filter, as the client sent it.
    pub(super) fn has_member(&self, session: SessionId, filter: &TopicFilter) -> bool {
        self.0.get(&session).is_some_and(|of_session| of_session.subscriptions.contains_key(filter))
    }

    #[cfg(test)]
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.0.get(&session).map_or(0, |of_session| of_session.subscriptions.len())
    }

    /// Marks the subscription as that of a connected session or not. Returns the filters that `filter` was narrowed to, and
    /// their number.
    fn set_connected(
        &mut self,
        session: SessionId,
        filter: &TopicFilter,
        connected: bool,
    ) -> Option<(Vec<TopicFilter>, u8)> {
        let known = self.0.get_mut(&session)?.subscriptions.get_mut(filter)?;
        known.is_connected = connected;
        Some((known.within.clone(), known.subscriber.narrowed))
    }

    /// Takes a number for another subscription of `session`, if there is one left.
    fn take_number(&mut self, session: SessionId, filter: &TopicFilter) -> Option<u8> {
        if filter.share().is_some() { Some(0) } else { self.0.entry(session).or_default().numbers.take() }
    }

    fn take(&mut self, session: SessionId, filter: &TopicFilter) -> Option<NarrowedSubscription> {
        let of_session = self.0.get_mut(&session)?;
        let taken = of_session.subscriptions.remove(filter)?;
        if filter.share().is_none() {
            of_session.numbers.put_back(taken.subscriber.narrowed);
        }
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
    /// Adds or replaces the subscription with `filter`, narrowed to `within` by `access` if there is such, as that of a
    /// connected session. Returns true if one was replaced.
    pub(super) fn subscribe(
        &mut self,
        filter: &TopicFilter,
        subscriber: Subscriber,
        within: Option<(Access, Vec<TopicFilter>)>,
    ) -> bool {
        let session = subscriber.outbox.id();
        let existed = self.unsubscribe_narrowed(session, filter);
        if let Some((access, within)) = within
            && let Some(number) = self.narrowed.take_number(session, filter)
        {
            let existed = self.remove(session, filter, filter, 0) || existed;
            let subscriber = Subscriber { narrowed: number, ..subscriber };
            within.iter().for_each(|narrow| self.add(narrow, filter, subscriber.clone(), &access));
            let charge = Charge::new(subscriber.outbox.quota(), bytes(filter, &within));
            let subscription = NarrowedSubscription { within, access, subscriber, is_connected: true, charge };
            self.narrowed.0.entry(session).or_default().subscriptions.insert(filter.clone(), subscription);
            return existed;
        }
        self.entry(filter).insert(subscriber) || existed
    }

    /// Adds or replaces the subscriber with the filter `sent` by its client at the filter `at`.
    fn add(&mut self, at: &TopicFilter, sent: &TopicFilter, subscriber: Subscriber, access: &Access) {
        let subscribers = self.entry(at);
        if sent.share().is_some() {
            subscribers.join(sent, subscriber, access);
        } else {
            subscribers.insert(subscriber);
        }
    }

    /// Marks the existing subscription with `filter` as that of a connected session or not.
    pub(super) fn set_connected(&mut self, session: SessionId, filter: &TopicFilter, connected: bool) {
        let narrowed = self.narrowed.set_connected(session, filter, connected);
        let (within, number) = narrowed.unwrap_or_else(|| (vec![filter.clone()], 0));
        within.iter().for_each(|narrow| self.entry(narrow).set_connected(filter, session, number, connected));
    }

    /// Removes the subscription with `filter`. Returns true if it existed.
    pub(super) fn unsubscribe(&mut self, session: SessionId, filter: &TopicFilter) -> bool {
        self.unsubscribe_narrowed(session, filter) || self.remove(session, filter, filter, 0)
    }

    fn unsubscribe_narrowed(&mut self, session: SessionId, filter: &TopicFilter) -> bool {
        if self.narrowed.is_empty() {
            return false;
        }
        let Some(taken) = self.narrowed.take(session, filter) else { return false };
        taken.within.iter().for_each(|narrow| _ = self.remove(session, narrow, filter, taken.subscriber.narrowed));
        true
    }

    /// Puts the subscription with `filter` under the filters `within` in place of its former ones.
    fn narrow_again(&mut self, session: SessionId, filter: &TopicFilter, within: Vec<TopicFilter>, access: &Access) {
        let of_session = self.narrowed.0.get_mut(&session);
        let Some(known) = of_session.and_then(|all| all.subscriptions.get_mut(filter)) else { return };
        let (subscriber, former) = (known.subscriber.clone(), std::mem::replace(&mut known.within, within.clone()));
        let is_connected = known.is_connected;
        known.access = access.clone();
        known.charge.resize(bytes(filter, &within));
        // A filter of both stays where it is, except that a group has the rights of its members.
        for narrow in within.iter().filter(|narrow| filter.share().is_some() || !former.contains(narrow)) {
            self.add(narrow, filter, subscriber.clone(), access);
            if !is_connected {
                self.entry(narrow).set_connected(filter, session, subscriber.narrowed, false);
            }
        }
        for narrow in former.iter().filter(|narrow| !within.contains(narrow)) {
            self.remove(session, narrow, filter, subscriber.narrowed);
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
            for filter in filters {
                let within = narrowed(&access, &filter).unwrap_or_else(|| vec![filter.without_share()]);
                self.filters.write().narrow_again(session, &filter, within, &access); // one lock per filter
            }
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

/// Returns the filters that the router has for `filter` of a client with `access`; `None` if it has that one, outside
/// groups.
pub(super) fn within(access: &Access, filter: &TopicFilter) -> Option<Vec<TopicFilter>> {
    narrowed(access, filter).or_else(|| filter.share().map(|_| vec![filter.without_share()]))
}

/// Returns the memory of a subscription with `filter` that was narrowed to `within`. The price of a filter includes that the
/// router has it as it is.
fn bytes(filter: &TopicFilter, within: &[TopicFilter]) -> usize {
    let others = within.iter().filter(|narrow| narrow.as_str() != filter.as_str());
    2 * size_of::<(TopicFilter, NarrowedSubscription)>() + others.map(filters::cost).sum::<usize>()
}
