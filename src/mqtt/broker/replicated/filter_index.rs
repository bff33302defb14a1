//! The filters of all sessions that outlive their connections.

use std::collections::BTreeMap;

use crate::mqtt::{
    broker::{outbox::SessionId, replicated::topic_index::TopicIndex},
    protocol::{
        packet::{QoS, Subscription},
        topic::TopicFilter,
    },
};

/// The subscriptions at QoS 1 and 2 outside groups, of all nodes.
#[derive(Default)]
pub(super) struct FilterIndex(TopicIndex<Subscriptions>);

type Subscriptions = BTreeMap<SessionId, Options>;

#[derive(Clone, Copy)]
struct Options {
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    id: Option<u32>,
}

/// The combined options of one session's subscriptions that select a topic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) ids: Vec<u32>,
}

impl FilterIndex {
    /// Adds or replaces a subscription.
    pub(super) fn insert(&mut self, session: SessionId, subscription: &Subscription, id: Option<u32>) {
        let Subscription { filter, qos, no_local, retain_as_published, .. } = subscription;
        if filter.share().is_some() {
            return;
        }
        if *qos == QoS::AtMostOnce {
            return self.remove(session, filter);
        }
        let options = Options { qos: *qos, no_local: *no_local, retain_as_published: *retain_as_published, id };
        self.0.entry(filter).insert(session, options);
    }

    /// Removes a subscription, if it is there.
    pub(super) fn remove(&mut self, session: SessionId, filter: &TopicFilter) {
        if filter.share().is_none() {
            self.0.change(filter, |subscriptions| {
                subscriptions.remove(&session);
                subscriptions.is_empty()
            });
        }
    }

    /// Returns the number of subscriptions that select `topic`.
    pub(super) fn count(&self, topic: &str) -> usize {
        let mut count = 0;
        self.0.visit(topic, &mut |subscriptions| count += subscriptions.len());
        count
    }

    /// Returns the sessions that a message of the session `from` on `topic` is for.
    pub(super) fn selecting(&self, topic: &str, from: Option<SessionId>) -> BTreeMap<SessionId, Selected> {
        let mut found = BTreeMap::<_, Selected>::new();
        self.0.visit(topic, &mut |subscriptions| {
            let receiving = subscriptions.iter().filter(|(id, it)| !(it.no_local && Some(**id) == from)); // [MQTT-3.8.3-3]
            for (session, options) in receiving {
                let selected = found.entry(*session).or_default();
                selected.qos = selected.qos.max(options.qos);
                selected.retain_as_published |= options.retain_as_published;
                selected.ids.extend(options.id);
            }
        });
        found
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use crate::mqtt::protocol::packet::RetainHandling;

    fn subscription(filter: &str, qos: QoS) -> Subscription {
        Subscription {
            filter: TopicFilter::new(filter).unwrap(),
            qos,
            no_local: filter.starts_with("local"),
            retain_as_published: false,
            retain_handling: RetainHandling::DoNotSend,
        }
    }

    #[test]
    fn a_topic_selects_the_sessions_whose_filters_match() {
        let filters = ["a/b", "a/+", "a/#", "#", "+/b", "a/b/c", "$share/g/a/b", "a", "+/+/+", "local/#", "$x/#"];
        for (topic, matching) in [
            ("a/b", vec!["a/b", "a/+", "a/#", "#", "+/b"]),
            ("a", vec!["a/#", "#", "a"]),
            ("a/b/c", vec!["a/#", "#", "a/b/c", "+/+/+"]),
            ("$x/b", vec!["$x/#"]),
            ("a/", vec!["a/+", "a/#", "#"]),
        ] {
            let mut index = FilterIndex::default();
            for (number, filter) in (0..).zip(filters) {
                index.insert(SessionId(number), &subscription(filter, QoS::AtLeastOnce), Some(1));
            }
            let found: Vec<_> =
                index.selecting(topic, None).into_keys().map(|id| filters[usize::try_from(id.0).unwrap()]).collect();
            assert_eq!(
                found,
                filters.into_iter().filter(|filter| matching.contains(filter)).collect::<Vec<_>>(),
                "{topic}"
            );
            for (number, filter) in (0..).zip(filters) {
                index.remove(SessionId(number), &TopicFilter::new(filter).unwrap());
            }
            assert!(index.count(topic) == 0 && index.0.is_empty());
        }
    }

    #[test]
    fn the_subscriptions_of_a_session_are_combined() {
        let mut index = FilterIndex::default();
        index.insert(SessionId(1), &subscription("x/y", QoS::AtLeastOnce), Some(5));
        index.insert(SessionId(1), &subscription("x/#", QoS::ExactlyOnce), None);
        index.insert(SessionId(2), &subscription("local/#", QoS::AtLeastOnce), None);
        let selected = index.selecting("x/y", Some(SessionId(1)));
        let expected = Selected { qos: QoS::ExactlyOnce, retain_as_published: false, ids: vec![5] };
        assert_eq!(selected.into_iter().collect::<Vec<_>>(), [(SessionId(1), expected)]);
        assert!(index.selecting("local/x", Some(SessionId(2))).is_empty(), "no local");
        index.insert(SessionId(2), &subscription("local/#", QoS::AtMostOnce), None);
        assert_eq!(index.count("local/x"), 0, "at QoS 0");
    }
}
