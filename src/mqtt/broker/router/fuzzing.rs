//! Entry points for the fuzz targets: the trie and the retained messages, without subscribers.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::mqtt::broker::router::{
    Cursor,
    retained::Retained,
    trie::{LEVELS_MAX, Trie},
};
use crate::{
    admission::PrincipalQuota,
    mqtt::protocol::{
        message::Message,
        packet::QoS,
        topic::{TopicFilter, TopicName},
    },
};

/// Returns true if the router accepts a filter with wildcards and this many levels.
#[must_use]
pub fn is_taken(filter: &TopicFilter) -> bool {
    filter.as_str().split('/').count() <= LEVELS_MAX
}

/// Returns the number of filters that a trie of `filters`, all of them accepted, finds for `topic`. Duplicates count
/// once.
#[must_use]
pub fn filters_found(filters: &[TopicFilter], topic: &TopicName) -> usize {
    let mut trie = Trie::default();
    filters.iter().for_each(|filter| _ = trie.entry(filter));
    let mut found = 0;
    let _ = trie.visit(topic.as_str(), |_| {
        found += 1;
        ControlFlow::Continue(())
    });
    filters.iter().for_each(|filter| _ = trie.remove(filter, |_| true));
    assert!(trie.is_empty(), "nodes remain of {filters:?}");
    found
}

/// Retains a message on each of `topics`, and returns the topics that `filter` selects, page by page.
#[must_use]
pub fn retained_found(topics: &[TopicName], filter: &TopicFilter) -> Vec<TopicName> {
    let (now, by) = (Instant::now(), PrincipalQuota::unlimited("fuzzing"));
    let mut retained = Retained::default();
    for topic in topics {
        let message = Message::new(topic.clone(), Bytes::from_static(b"x"), QoS::AtMostOnce, true, None, now);
        retained.store(&Arc::new(message), &by, now).expect("no limit is set");
    }
    let (mut found, mut next) = (Vec::new(), Some(Cursor::default()));
    while let Some(from) = next {
        let page = retained.page(std::slice::from_ref(filter), from, now);
        found.extend(page.messages.iter().map(|message| message.topic.clone()));
        next = page.next;
    }
    found
}
