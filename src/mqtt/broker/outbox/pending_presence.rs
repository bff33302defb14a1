//! The presence changes that a session has yet to be sent: a few topics, or all changes since some number.
//!
//! Only the fact of a change is kept, not the presence itself. A device that connects and disconnects often takes one
//! entry.

use crate::mqtt::protocol::topic::TopicName;

/// The changes marked since the last take. Boxed, since every session has one and most are empty.
#[derive(Debug, Default)]
pub(super) struct PendingPresence(Option<Box<ChangedPresence>>);

/// Presence changes to send.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedPresence {
    /// Topics whose presence changed.
    pub topics: Vec<TopicName>,
    /// The number above which all changes have to be sent too.
    pub since: Option<u64>,
}

/// Topics that are marked one by one; beyond that, all changes count.
const TOPICS_MAX: usize = 32;

impl PendingPresence {
    /// Marks the change `number` on `topic`. Returns true if it was not covered before.
    pub(super) fn add(&mut self, topic: &TopicName, number: u64) -> bool {
        let ChangedPresence { topics, since } = &mut **self.0.get_or_insert_default();
        if since.is_some() || topics.contains(topic) {
            return false;
        }
        match topics.len() < TOPICS_MAX {
            true => topics.push(topic.clone()),
            false => *since = Some(number.saturating_sub(1)),
        }
        true
    }

    /// Covers all changes above `number`, none of which is marked any more.
    pub(super) fn cover_after(&mut self, number: u64) {
        let ChangedPresence { since, .. } = &mut **self.0.get_or_insert_default();
        *since = Some(since.map_or(number, |since| since.min(number)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn take(&mut self) -> ChangedPresence {
        self.0.take().map(|changed| *changed).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn many_topics_become_a_change_number() {
        let mut pending = PendingPresence::default();
        let topic = |n: usize| TopicName::new(&format!("t/{n}")).unwrap();
        for n in 0..TOPICS_MAX {
            assert!(pending.add(&topic(n), n as u64 + 1));
            assert!(!pending.add(&topic(0), 50), "marked already");
        }
        assert!(pending.add(&topic(90), 100) && !pending.add(&topic(91), 101));
        let changed = pending.take();
        assert_eq!((changed.topics.len(), changed.since), (TOPICS_MAX, Some(99)));
        assert!(pending.is_empty() && pending.add(&topic(0), 102));
    }

    #[test]
    fn a_session_without_a_connection_keeps_a_change_number() {
        let mut pending = PendingPresence::default();
        let topic = |n: usize| TopicName::new(&format!("t/{n}")).unwrap();
        assert!(pending.add(&topic(0), 1));
        pending.cover_after(1);
        assert!(!pending.add(&topic(1), 2));
        pending.cover_after(5);
        assert_eq!(pending.take(), ChangedPresence { topics: vec![topic(0)], since: Some(1) });
    }
}
