//! A trie, by level, of the subscribers of filters with wildcards.
//!
//! The path to a node is a prefix of filters. A walk for a topic visits only nodes whose path matches the topic so far,
//! each at most once, on an explicit stack. It never visits the filters of other topics. Nodes without subscribers and
//! without children are freed. Depth is at most [`LEVELS_MAX`], which also bounds the recursion of removing and
//! freeing, and the memory of one filter's nodes.

use std::{collections::HashMap, ops::ControlFlow};

use crate::mqtt::broker::router::{shrink, subscribers::Subscribers};
use crate::mqtt::protocol::topic::TopicFilter;

/// Maximum levels of a filter with wildcards. A level costs a node, so 512 bytes of `/` would cost 500 times as much.
pub(super) const LEVELS_MAX: usize = 64;

/// Subscribers by filter.
#[derive(Debug, Default)]
pub(super) struct Trie {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Subscribers of the filter that ends at this node.
    here: Option<Box<Subscribers>>,
    /// Subscribers of the filter that ends in `#` below this node.
    rest: Option<Box<Subscribers>>,
    /// The child of level `+`.
    any: Option<Box<Node>>,
    named: Named,
}

/// The children of levels that are not wildcards. Most nodes have one, which needs no table.
#[derive(Debug, Default)]
struct Named {
    first: Option<Box<(Box<str>, Node)>>,
    #[expect(clippy::box_collection, reason = "nearly always none, and there is one for each level")]
    more: Option<Box<HashMap<Box<str>, Node>>>,
}

impl Trie {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Returns the subscribers of `filter`, and inserts the filter if it is missing. It has at most [`LEVELS_MAX`]
    /// levels.
    pub(super) fn entry(&mut self, filter: &TopicFilter) -> &mut Subscribers {
        let mut node = &mut self.root;
        for level in filter.as_str().split('/') {
            node = match level {
                "#" => return node.rest.get_or_insert_default(),
                "+" => node.any.get_or_insert_default(),
                name => node.named.entry(name),
            };
        }
        node.here.get_or_insert_default()
    }

    /// Calls `take` to remove a subscriber from `filter`, and frees empty nodes. Returns the result of `take`, or false
    /// if the filter is unknown.
    pub(super) fn remove(&mut self, filter: &TopicFilter, take: impl FnOnce(&mut Subscribers) -> bool) -> bool {
        self.root.remove(Some(filter.as_str()), take)
    }

    /// Calls `visit` with the subscribers of each filter that selects `topic`, until it breaks.
    pub(super) fn visit<'a>(
        &'a self,
        topic: &str,
        mut visit: impl FnMut(&'a Subscribers) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut pending = Vec::with_capacity(8);
        pending.push((&self.root, Some(topic)));
        // [MQTT-4.7.2-1]: only the first level is excluded from wildcards.
        let mut wildcards = !topic.starts_with('$');
        while let Some((node, rest)) = pending.pop() {
            if wildcards && let Some(subscribers) = &node.rest {
                visit(subscribers)?;
            }
            match rest {
                None => {
                    if let Some(subscribers) = &node.here {
                        visit(subscribers)?;
                    }
                }
                Some(rest) => {
                    let (level, rest) = split(rest);
                    if wildcards && let Some(any) = &node.any {
                        pending.push((any, rest));
                    }
                    if let Some(named) = node.named.get(level) {
                        pending.push((named, rest));
                    }
                }
            }
            wildcards = true;
        }
        ControlFlow::Continue(())
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.here.is_none() && self.rest.is_none() && self.any.is_none() && self.named.is_empty()
    }

    fn remove(&mut self, levels: Option<&str>, take: impl FnOnce(&mut Subscribers) -> bool) -> bool {
        let Some(levels) = levels else { return take_from(&mut self.here, take) };
        match split(levels) {
            ("#", _) => take_from(&mut self.rest, take),
            ("+", rest) => {
                let Some(any) = &mut self.any else { return false };
                let removed = any.remove(rest, take);
                if any.is_empty() {
                    self.any = None;
                }
                removed
            }
            (name, rest) => {
                let Some(node) = self.named.get_mut(name) else { return false };
                let removed = node.remove(rest, take);
                if node.is_empty() {
                    self.named.remove(name);
                }
                removed
            }
        }
    }
}

impl Named {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_none()
    }

    fn get(&self, name: &str) -> Option<&Node> {
        match &self.first {
            Some(first) if *first.0 == *name => Some(&first.1),
            _ => self.more.as_ref()?.get(name),
        }
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        match &mut self.first {
            Some(first) if *first.0 == *name => Some(&mut first.1),
            _ => self.more.as_mut()?.get_mut(name),
        }
    }

    fn entry(&mut self, name: &str) -> &mut Node {
        if self.is_empty() {
            self.first = Some(Box::new((name.into(), Node::default())));
        }
        match &mut self.first {
            Some(first) if *first.0 == *name => &mut first.1,
            _ => self.more.get_or_insert_default().entry(name.into()).or_default(),
        }
    }

    fn remove(&mut self, name: &str) {
        self.first.take_if(|first| *first.0 == *name);
        if let Some(more) = &mut self.more {
            more.remove(name);
            shrink(more);
            if more.is_empty() {
                self.more = None;
            }
        }
    }
}

/// Splits off the first level.
fn split(levels: &str) -> (&str, Option<&str>) {
    match levels.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (levels, None),
    }
}

fn take_from(slot: &mut Option<Box<Subscribers>>, take: impl FnOnce(&mut Subscribers) -> bool) -> bool {
    let Some(subscribers) = slot else { return false };
    let removed = take(subscribers);
    if subscribers.is_empty() {
        *slot = None;
    }
    removed
}
