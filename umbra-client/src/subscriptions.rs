//! Which filters a client's watches need, and who gets a message.
//!
//! Filters are shared: the first watch that needs one subscribes, the last one that goes unsubscribes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crate::{
    error::Error,
    messages::{Message, MessageSink, Qos},
    names::ShadowId,
    watch::{News, Queue, Scope, Topic},
};

/// All watches of a client.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    watches: Vec<Watcher>,
    sinks: Vec<MessageSink>,
    needed: BTreeMap<String, FilterUse>,
}

/// Who needs a filter.
#[derive(Debug, Default)]
struct FilterUse {
    count: usize,
    /// The highest that was asked for.
    qos: Qos,
}

/// One watch as the client's task knows it.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) scope: Scope,
    pub(crate) topics: HashSet<Topic>,
    pub(crate) queue: Arc<Queue>,
}

impl Subscriptions {
    /// Adds a watch; the filters that nobody needed before.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyWatches`]; nothing was added.
    pub(crate) fn add(&mut self, watcher: Watcher) -> Result<Vec<String>, Error> {
        let new = self.need(watcher.filters(), Qos::AtLeastOnce)?;
        self.watches.push(watcher);
        Ok(new)
    }

    /// Adds a subscription to messages; returns the filters to subscribe to.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyWatches`]; nothing was added.
    pub(crate) fn add_sink(&mut self, sink: MessageSink) -> Result<Vec<String>, Error> {
        let new = self.need(sink.filters.clone(), sink.qos)?;
        self.sinks.push(sink);
        Ok(new)
    }

    /// Counts `filters` as needed once more; returns those that nobody needed before at that quality of service.
    fn need(&mut self, filters: Vec<String>, qos: Qos) -> Result<Vec<String>, Error> {
        let unmet = |filter: &&String| self.needed.get(*filter).is_none_or(|need| need.qos < qos);
        let new: Vec<_> = filters.iter().filter(unmet).cloned().collect();
        if self.needed.len() + new.len() > FILTERS_MAX {
            return Err(Error::TooManyWatches(FILTERS_MAX));
        }
        for filter in filters {
            let need = self.needed.entry(filter).or_default();
            need.count += 1;
            need.qos = need.qos.max(qos);
        }
        Ok(new)
    }

    /// Removes watches that nobody reads; the filters that nobody needs since.
    pub(crate) fn prune(&mut self) -> Vec<String> {
        let watches = self.watches.extract_if(.., |watcher| watcher.queue.is_closed());
        let mut filters: Vec<_> = watches.flat_map(|watcher| watcher.filters()).collect();
        filters.extend(self.sinks.extract_if(.., |sink| sink.is_closed()).flat_map(|sink| sink.filters));
        filters.retain(|filter| {
            let Some(need) = self.needed.get_mut(filter) else { return false };
            need.count -= 1;
            let unneeded = need.count == 0;
            if unneeded {
                self.needed.remove(filter);
            }
            unneeded
        });
        filters
    }

    /// Every filter that somebody needs.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &String> {
        self.needed.keys()
    }

    /// The quality of service to subscribe to `filter` with.
    pub(crate) fn qos(&self, filter: &str) -> Qos {
        self.needed.get(filter).map_or(Qos::AtLeastOnce, |need| need.qos)
    }

    /// True if somebody subscribed to messages.
    pub(crate) fn has_sinks(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// Hands a message to the subscriptions whose filters match, waiting for readers that are behind.
    pub(crate) async fn deliver(&self, message: &Message) {
        for sink in &self.sinks {
            sink.offer(message).await;
        }
    }

    /// Hands a message to those who watch for it.
    pub(crate) fn route(&self, topic: &str, payload: &[u8]) -> serde_json::Result<()> {
        let Some((shadow, rest)) = ShadowId::of_topic(topic) else { return Ok(()) };
        let Some(topic) = TOPICS.into_iter().find(|topic| topic.suffix() == rest) else { return Ok(()) };
        let mut takers = self.watches.iter().filter(|watcher| watcher.takes(&shadow, topic)).peekable();
        if takers.peek().is_none() {
            return Ok(());
        }
        let news = topic.parse(shadow.clone(), payload)?;
        takers.for_each(|watcher| watcher.queue.push(news.clone()));
        Ok(())
    }

    /// Tells everybody.
    pub(crate) fn tell_all(&self, news: &News) {
        self.watches.iter().for_each(|watcher| watcher.queue.push(news.clone()));
    }

    /// Ends all watches.
    pub(crate) fn close(&mut self) {
        self.sinks.clear();
        self.watches.iter().for_each(|watcher| watcher.queue.close());
    }
}

impl Watcher {
    fn takes(&self, shadow: &ShadowId, topic: Topic) -> bool {
        let in_scope = match &self.scope {
            Scope::Shadow(own) => own == shadow,
            Scope::All => true,
        };
        in_scope && self.topics.contains(&topic)
    }

    fn filters(&self) -> Vec<String> {
        let prefixes = match &self.scope {
            Scope::Shadow(shadow) => vec![shadow.prefix()],
            Scope::All => vec!["shadow/+".to_owned(), "shadow/+/name/+".to_owned()],
        };
        let topics = self.topics.iter().map(|topic| topic.suffix());
        topics.flat_map(|topic| prefixes.iter().map(move |prefix| format!("{prefix}/{topic}"))).collect()
    }
}

const TOPICS: [Topic; 5] = [Topic::Delta, Topic::Difference, Topic::Changes, Topic::Document, Topic::Accepted];
/// The service takes 256 filters in one session; one is for replies.
const FILTERS_MAX: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceId, watch::Watch};

    fn watcher(scope: Scope, topics: &[Topic]) -> (Watcher, Watch) {
        let queue = Arc::new(Queue::new(8));
        let watch = Watch::new(queue.clone(), Arc::default());
        (Watcher { scope, topics: topics.iter().copied().collect(), queue }, watch)
    }

    fn one(device: &str) -> Scope {
        Scope::Shadow(DeviceId::new(device).expect("a device id").into())
    }

    #[test]
    fn filters_are_shared_and_let_go_with_the_last_watch() {
        let mut subscriptions = Subscriptions::default();
        let (first, first_watch) = watcher(one("a"), &[Topic::Delta]);
        let (second, second_watch) = watcher(one("a"), &[Topic::Delta]);
        assert_eq!(subscriptions.add(first), Ok(vec!["shadow/a/update/delta".to_owned()]));
        assert_eq!(subscriptions.add(second), Ok(vec![]));
        drop(first_watch);
        assert_eq!(subscriptions.prune(), Vec::<String>::new());
        drop(second_watch);
        assert_eq!(subscriptions.prune(), ["shadow/a/update/delta"]);
        assert_eq!(subscriptions.filters().count(), 0);
    }

    #[test]
    fn messages_reach_those_who_watch_for_them() {
        let mut subscriptions = Subscriptions::default();
        let rows = [
            (one("a"), vec![Topic::Delta], 1),
            (one("b"), vec![Topic::Delta], 0),
            (one("a"), vec![Topic::Difference], 2),
            (Scope::All, vec![Topic::Delta, Topic::Document], 3),
            (Scope::All, vec![Topic::Accepted], 0),
        ];
        let watches = rows.map(|(scope, topics, expected)| {
            let (watcher, watch) = watcher(scope.clone(), &topics);
            subscriptions.add(watcher).expect("room");
            (scope, watch, expected)
        });
        for (topic, payload) in [
            ("shadow/a/update/delta", r#"{"state": {}, "version": 1}"#),
            ("shadow/c/name/x/update/delta", r#"{"state": {}, "version": 1}"#),
            ("shadow/a/delta", r#"{"version": 1, "state": {"v": 2}}"#),
            ("shadow/a/delta", ""),
            ("shadow/a/document", ""),
            ("shadow/a/presence", "{}"),
            ("elsewhere", "{}"),
        ] {
            assert!(subscriptions.route(topic, payload.as_bytes()).is_ok(), "{topic}");
        }
        assert!(subscriptions.route("shadow/a/update/delta", b"?").is_err());
        for (scope, mut watch, expected) in watches {
            assert_eq!(std::iter::from_fn(|| watch.try_recv()).count(), expected, "{scope:?}");
        }
    }

    #[test]
    fn the_number_of_filters_is_bounded() {
        let mut subscriptions = Subscriptions::default();
        let mut watches = Vec::new();
        for n in 0..FILTERS_MAX {
            let (watcher, watch) = watcher(one(&n.to_string()), &[Topic::Delta]);
            assert!(subscriptions.add(watcher).is_ok());
            watches.push(watch);
        }
        let (one_more, _watch) = watcher(one("more"), &[Topic::Delta]);
        assert_eq!(subscriptions.add(one_more), Err(Error::TooManyWatches(FILTERS_MAX)));
        drop(watches);
        assert_eq!(subscriptions.prune().len(), FILTERS_MAX);
    }
}
