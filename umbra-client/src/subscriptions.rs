//! The filters that a client's watches and subscriptions need, and the dispatch of messages to them.
//!
//! Filters are shared: the first user of a filter subscribes, the last one unsubscribes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crate::{
    error::Error,
    messages::{Message, MessageSink, Qos},
    names::ShadowId,
    watch::{Event, Queue, Scope, Topic},
};

/// All watches and subscriptions of a client.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    watches: Vec<Watcher>,
    sinks: Vec<MessageSink>,
    needed: BTreeMap<String, FilterUse>,
}

/// The use of a filter.
#[derive(Debug, Default)]
struct FilterUse {
    count: usize,
    /// The highest QoS requested.
    qos: Qos,
}

/// The sending half of a [`crate::Watch`].
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) scope: Scope,
    pub(crate) topics: HashSet<Topic>,
    pub(crate) queue: Arc<Queue>,
}

impl Subscriptions {
    /// Adds a watch; returns the filters to subscribe to.
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

    /// Counts one more use of `filters`; returns those that are new, or need a higher QoS.
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

    /// Removes dropped watches and subscriptions; returns the filters to unsubscribe from.
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

    /// Returns all filters in use.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &String> {
        self.needed.keys()
    }

    /// Returns the QoS to subscribe to `filter` with.
    pub(crate) fn qos(&self, filter: &str) -> Qos {
        self.needed.get(filter).map_or(Qos::AtLeastOnce, |need| need.qos)
    }

    /// Returns true if there are subscriptions to messages.
    pub(crate) fn has_sinks(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// Sends a message to the subscriptions whose filters match, waiting for readers that are behind.
    pub(crate) async fn deliver(&self, message: &Message) {
        for sink in &self.sinks {
            sink.offer(message).await;
        }
    }

    /// Sends the event that a message is to the watches that cover it.
    ///
    /// # Errors
    ///
    /// A watch covers the message, and its payload does not have the shape of the topic.
    pub(crate) fn dispatch(&self, topic: &str, payload: &[u8]) -> serde_json::Result<()> {
        let Some((shadow, rest)) = ShadowId::of_topic(topic) else { return Ok(()) };
        let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.suffix() == rest) else { return Ok(()) };
        let mut watchers = self.watches.iter().filter(|watcher| watcher.covers(&shadow, topic)).peekable();
        if watchers.peek().is_none() {
            return Ok(());
        }
        let event = topic.parse(shadow.clone(), payload)?;
        watchers.for_each(|watcher| watcher.queue.push(event.clone()));
        Ok(())
    }

    /// Sends `event` to all watches.
    pub(crate) fn broadcast(&self, event: &Event) {
        self.watches.iter().for_each(|watcher| watcher.queue.push(event.clone()));
    }

    /// Ends all watches and subscriptions.
    pub(crate) fn close(&mut self) {
        self.sinks.clear();
        self.watches.iter().for_each(|watcher| watcher.queue.close());
    }
}

impl Watcher {
    fn covers(&self, shadow: &ShadowId, topic: Topic) -> bool {
        let in_scope = match &self.scope {
            // Presence is the device's, whichever shadow is watched.
            Scope::Shadow(own) if topic == Topic::Presence => own.device() == shadow.device(),
            Scope::Shadow(own) => own == shadow,
            Scope::All => true,
        };
        in_scope && self.topics.contains(&topic)
    }

    fn filters(&self) -> Vec<String> {
        let (device, shadows) = match &self.scope {
            Scope::Shadow(shadow) => (format!("shadow/{}", shadow.device()), vec![shadow.prefix()]),
            Scope::All => ("shadow/+".to_owned(), vec!["shadow/+".to_owned(), "shadow/+/name/+".to_owned()]),
        };
        let filters = |topic: &Topic| {
            let prefixes = if *topic == Topic::Presence { std::slice::from_ref(&device) } else { &shadows };
            prefixes.iter().map(|prefix| format!("{prefix}/{}", topic.suffix())).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(filters).collect()
    }
}

/// The service allows 256 filters in a session; one is for replies.
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

    fn named(device: &str, name: &str) -> Scope {
        let device = DeviceId::new(device).expect("a device id");
        Scope::Shadow(ShadowId::named(device, name).expect("a name"))
    }

    fn one(device: &str) -> Scope {
        Scope::Shadow(DeviceId::new(device).expect("a device id").into())
    }

    #[test]
    fn filters_are_shared_and_released_with_the_last_watch() {
        let mut subscriptions = Subscriptions::default();
        let (first, first_watch) = watcher(one("a"), &[Topic::Delta]);
        let (second, second_watch) = watcher(one("a"), &[Topic::Delta]);
        assert_eq!(subscriptions.add(first).expect("capacity"), ["shadow/a/update/delta"]);
        assert_eq!(subscriptions.add(second).expect("capacity"), Vec::<String>::new());
        drop(first_watch);
        assert_eq!(subscriptions.prune(), Vec::<String>::new());
        drop(second_watch);
        assert_eq!(subscriptions.prune(), ["shadow/a/update/delta"]);
        assert_eq!(subscriptions.filters().count(), 0);
    }

    #[test]
    fn messages_reach_the_watches_that_cover_them() {
        let mut subscriptions = Subscriptions::default();
        let rows = [
            (one("a"), vec![Topic::Delta], 1),
            (one("b"), vec![Topic::Delta], 0),
            (one("a"), vec![Topic::LeanDelta], 2),
            (Scope::All, vec![Topic::Delta, Topic::Document], 3),
            (Scope::All, vec![Topic::Accepted], 0),
            (named("a", "x"), vec![Topic::Presence], 1),
            (Scope::All, vec![Topic::Presence], 1),
        ];
        let watches = rows.map(|(scope, topics, expected)| {
            let (watcher, watch) = watcher(scope.clone(), &topics);
            subscriptions.add(watcher).expect("capacity");
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
            assert!(subscriptions.dispatch(topic, payload.as_bytes()).is_ok(), "{topic}");
        }
        assert!(subscriptions.dispatch("shadow/a/update/delta", b"?").is_err());
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
        assert!(matches!(subscriptions.add(one_more), Err(Error::TooManyWatches(FILTERS_MAX))));
        drop(watches);
        assert_eq!(subscriptions.prune().len(), FILTERS_MAX);
    }
}
