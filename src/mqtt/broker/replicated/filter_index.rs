//! The filters of all sessions that outlive their connections, by level.

use std::collections::{BTreeMap, HashMap};

use crate::mqtt::{
    broker::outbox::SessionId,
    protocol::{
        packet::{QoS, Subscription},
        topic::TopicFilter,
    },
};

/// The subscriptions at QoS 1 and 2 outside groups, of all nodes.
#[derive(Default)]
pub(super) struct FilterIndex {
    exact: HashMap<Box<str>, Subscriptions>,
    wildcard: Node,
}

type Subscriptions = BTreeMap<SessionId, Options>;

#[derive(Clone, Copy)]
struct Options {
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    id: Option<u32>,
}

#[derive(Default)]
struct Node {
    here: Subscriptions,
    children: HashMap<Box<str>, Self>,
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
        let subscriptions = match is_wildcard(filter) {
            false => self.exact.entry(filter.as_str().into()).or_default(),
            true => {
                let levels = filter.as_str().split('/');
                &mut levels.fold(&mut self.wildcard, |node, level| node.children.entry(level.into()).or_default()).here
            }
        };
        subscriptions.insert(session, options);
    }

    /// Removes a subscription, if it is there.
    pub(super) fn remove(&mut self, session: SessionId, filter: &TopicFilter) {
        if filter.share().is_some() {
            return;
        }
        if is_wildcard(filter) {
            self.wildcard.remove(session, &mut filter.as_str().split('/'));
        } else if let Some(subscriptions) = self.exact.get_mut(filter.as_str()) {
            subscriptions.remove(&session);
            if subscriptions.is_empty() {
                self.exact.remove(filter.as_str());
            }
        }
    }

    /// Returns the number of subscriptions that select `topic`.
    pub(super) fn count(&self, topic: &str) -> usize {
        let mut count = 0;
        self.visit(topic, &mut |subscriptions| count += subscriptions.len());
        count
    }

    /// Returns the sessions that a message of the session `from` on `topic` is for.
    pub(super) fn selecting(&self, topic: &str, from: Option<SessionId>) -> BTreeMap<SessionId, Selected> {
        let mut found = BTreeMap::<_, Selected>::new();
        self.visit(topic, &mut |subscriptions| {
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

    fn visit(&self, topic: &str, visit: &mut impl FnMut(&Subscriptions)) {
        self.exact.get(topic).into_iter().for_each(&mut *visit);
        let mut pending = vec![(&self.wildcard, Some(topic))];
        // [MQTT-4.7.2-1]: only the first level is excluded from wildcards.
        let mut wildcards = !topic.starts_with('$');
        while let Some((node, rest)) = pending.pop() {
            if wildcards && let Some(all) = node.children.get("#") {
                visit(&all.here);
            }
            match rest {
                None if !node.here.is_empty() => visit(&node.here),
                None => {}
                Some(rest) => {
                    let (level, rest) = rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
                    let any = node.children.get("+").filter(|_| wildcards);
                    pending.extend(any.into_iter().chain(node.children.get(level)).map(|child| (child, rest)));
                }
            }
            wildcards = true;
        }
    }
}

impl Node {
    /// Removes a subscription, whose depth the router limits, and the nodes that are empty then.
    fn remove<'a>(&mut self, session: SessionId, levels: &mut impl Iterator<Item = &'a str>) {
        let Some(level) = levels.next() else {
            self.here.remove(&session);
            return;
        };
        let Some(child) = self.children.get_mut(level) else { return };
        child.remove(session, levels);
        if child.here.is_empty() && child.children.is_empty() {
            self.children.remove(level);
        }
    }
}

fn is_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
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
            assert!(index.count(topic) == 0 && index.exact.is_empty() && index.wildcard.children.is_empty());
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
