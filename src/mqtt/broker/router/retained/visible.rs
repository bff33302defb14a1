//! The retained messages that one client may receive, for a list of them.
//!
//! They are looked up with the filters that outline the client's rights. So the messages of others are not visited, whatever
//! their number. All messages are examined for a client whose rights have no outline. The lock is held for a batch only, and
//! each batch reports its work, for the budget of the client.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::{
    Cursor, PAGE_STEPS, Retained, RetainedPage,
    level_index::{Place, SEPARATOR},
};
use crate::{
    admission::work,
    auth::Access,
    mqtt::{
        broker::narrowing::outlines,
        protocol::{message::Message, topic::TopicFilter},
    },
};

/// An iterator over the retained messages that one client may receive.
#[derive(Debug)]
pub struct VisibleRetained<'a> {
    retained: &'a Mutex<Retained>,
    access: &'a Access,
    /// The filters that select what the client may receive; `None` if all messages are examined.
    filters: Option<Vec<TopicFilter>>,
    /// The beginning of the next batch, if there is one.
    from: Option<Cursor>,
}

/// Retained messages that were found under one lock.
#[derive(Debug)]
pub struct RetainedBatch {
    /// The messages that the client may receive, and the dates when they were stored, in milliseconds since 1970. May be
    /// empty although more follow.
    pub messages: Vec<(Arc<Message>, u64)>,
    /// The units of work for finding them.
    pub work: u64,
}

impl<'a> VisibleRetained<'a> {
    pub(in crate::mqtt::broker::router) fn new(
        retained: &'a Mutex<Retained>,
        access: &'a Access,
        after: Option<&str>,
    ) -> Self {
        let from = after.map_or_else(Place::default, |topic| Place::after(topic.replace('/', SEPARATOR).into()));
        Self { retained, access, filters: outlines(access), from: Some(Cursor(from)) }
    }
}

impl Iterator for VisibleRetained<'_> {
    type Item = RetainedBatch;

    fn next(&mut self) -> Option<RetainedBatch> {
        let (from, now) = (self.from.take()?, Instant::now());
        let mut retained = self.retained.lock();
        let page = match &self.filters {
            Some(filters) => retained.page(filters, from, now),
            None => retained.examine(&from, now),
        };
        let work = work::retained(page.messages.len(), page.steps);
        let visible = page.messages.into_iter().filter(|message| self.access.may_receive(message.topic.as_str()));
        let messages = visible.filter_map(|message| retained.on(message.topic.as_str(), now)).collect();
        self.from = page.next;
        Some(RetainedBatch { messages, work })
    }
}

impl Retained {
    /// Returns a page of all messages from `from` on.
    fn examine(&mut self, from: &Cursor, now: Instant) -> RetainedPage {
        self.expire(now);
        let mut page = RetainedPage::default();
        for (key, kept) in self.messages.range::<str, _>(from.0.on()) {
            if page.steps == PAGE_STEPS {
                page.next = Some(Cursor(Place::before(Arc::clone(key))));
                break;
            }
            page.steps += 1;
            page.messages.extend((!kept.message.is_expired(now)).then(|| Arc::clone(&kept.message)));
        }
        page
    }
}
