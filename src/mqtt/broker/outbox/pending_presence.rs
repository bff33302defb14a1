//! Which devices' presence a session has yet to be told: a few topics, or all that changed since some change.
//!
//! What they are is not kept, only that they changed, so a device that comes and goes takes one place however often it
//! does.

use crate::mqtt::protocol::topic::TopicName;

/// What was noted since it was taken last; in a box, since there is one for each session and mostly nothing.
#[derive(Debug, Default)]
pub(super) struct PendingPresence(Option<Box<ChangedPresence>>);

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedPresence {
    /// The topics that it is told on.
    pub topics: Vec<TopicName>,
    /// And all changes numbered above this.
    pub since: Option<u64>,
}

/// Topics that are noted; after that, all that changes.
const TOPICS_MAX: usize = 32;

impl PendingPresence {
    /// Notes the change `number`, on `topic`. Returns whether that is news.
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

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn take(&mut self) -> ChangedPresence {
        self.0.take().map(|noted| *noted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn many_topics_become_a_number() {
        let mut notes = PendingPresence::default();
        let topic = |n: usize| TopicName::new(&format!("t/{n}")).unwrap();
        for n in 0..TOPICS_MAX {
            assert!(notes.add(&topic(n), n as u64 + 1));
            assert!(!notes.add(&topic(0), 50), "once is enough");
        }
        assert!(notes.add(&topic(90), 100) && !notes.add(&topic(91), 101));
        let noted = notes.take();
        assert_eq!((noted.topics.len(), noted.since), (TOPICS_MAX, Some(99)));
        assert!(notes.is_empty() && notes.add(&topic(0), 102));
    }
}
