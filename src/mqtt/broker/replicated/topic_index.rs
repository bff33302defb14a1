//! Values by topic filter, by level, found by the topics that their filters select.

use std::collections::HashMap;

use crate::mqtt::protocol::topic::TopicFilter;

/// Values by filter. Groups of filters are not looked at.
pub(super) struct TopicIndex<T> {
    exact: HashMap<Box<str>, T>,
    wildcard: Node<T>,
}

struct Node<T> {
    here: Option<T>,
    children: HashMap<Box<str>, Self>,
}

impl<T> Default for TopicIndex<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: Node::default() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { here: None, children: HashMap::new() }
    }
}

impl<T: Default> TopicIndex<T> {
    /// Returns the value of `filter`, which is added if it is not there.
    pub(super) fn entry(&mut self, filter: &TopicFilter) -> &mut T {
        if !is_wildcard(filter) {
            return self.exact.entry(filter.as_str().into()).or_default();
        }
        let levels = filter.as_str().split('/');
        let node = levels.fold(&mut self.wildcard, |node, level| node.children.entry(level.into()).or_default());
        node.here.get_or_insert_default()
    }

    /// Changes the value of `filter`, if it is there, and removes it if `change` returns true.
    pub(super) fn change(&mut self, filter: &TopicFilter, change: impl FnOnce(&mut T) -> bool) {
        if is_wildcard(filter) {
            self.wildcard.change(&mut filter.as_str().split('/'), change);
        } else if let Some(value) = self.exact.get_mut(filter.as_str())
            && change(value)
        {
            self.exact.remove(filter.as_str());
        }
    }

    /// Returns the value of `filter`.
    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&T> {
        if !is_wildcard(filter) {
            return self.exact.get(filter.as_str());
        }
        let mut levels = filter.as_str().split('/');
        levels.try_fold(&self.wildcard, |node, level| node.children.get(level))?.here.as_ref()
    }

    /// Calls `visit` with the value of each filter that selects `topic`.
    pub(super) fn visit<'a>(&'a self, topic: &str, visit: &mut impl FnMut(&'a T)) {
        self.exact.get(topic).into_iter().for_each(&mut *visit);
        let mut pending = vec![(&self.wildcard, Some(topic))];
        // [MQTT-4.7.2-1]: only the first level is excluded from wildcards.
        let mut wildcards = !topic.starts_with('$');
        while let Some((node, rest)) = pending.pop() {
            if wildcards && let Some(all) = node.children.get("#") {
                all.here.iter().for_each(&mut *visit);
            }
            match rest {
                None => node.here.iter().for_each(&mut *visit),
                Some(rest) => {
                    let (level, rest) = rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
                    let any = node.children.get("+").filter(|_| wildcards);
                    pending.extend(any.into_iter().chain(node.children.get(level)).map(|child| (child, rest)));
                }
            }
            wildcards = true;
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.children.is_empty()
    }
}

impl<T> Node<T> {
    /// Changes a value, at a depth that the router limits, and removes the nodes that are empty then.
    fn change<'a>(&mut self, levels: &mut impl Iterator<Item = &'a str>, change: impl FnOnce(&mut T) -> bool) {
        let Some(level) = levels.next() else {
            if self.here.as_mut().is_some_and(change) {
                self.here = None;
            }
            return;
        };
        let Some(child) = self.children.get_mut(level) else { return };
        child.change(levels, change);
        if child.here.is_none() && child.children.is_empty() {
            self.children.remove(level);
        }
    }
}

fn is_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
}
