//! A bounded queue in which sources take turns: one item of each, and first in, first out within a source.
//!
//! An item waits for about one item of each other source, however many those have queued. A source has at most half of
//! the places. In a full queue, an item of a source with fewer ones takes the place of the newest item of the source with
//! the most.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// A bounded queue of items from several sources.
pub(in crate::auth) struct FairQueue<S, T> {
    /// The items of each source that has any.
    items: HashMap<S, VecDeque<T>>,
    /// The same sources, in the order of their next turns.
    turns: VecDeque<S>,
    len: usize,
    len_max: usize,
}

impl<S: Clone + Eq + Hash, T> FairQueue<S, T> {
    /// Returns an empty queue for at most `len_max` items.
    pub(in crate::auth) fn new(len_max: usize) -> Self {
        Self { items: HashMap::new(), turns: VecDeque::new(), len: 0, len_max }
    }

    /// Queues an item. Returns the one for which there is no place any more: `item` itself, or another one.
    pub(in crate::auth) fn push(&mut self, source: &S, item: T) -> Option<T> {
        let own = self.items.get(source).map_or(0, VecDeque::len);
        if own >= self.len_max.div_ceil(2) {
            return Some(item);
        }
        let mut displaced = None;
        if self.len >= self.len_max {
            let longest = self.items.values_mut().max_by_key(|items| items.len());
            let Some(longest) = longest.filter(|longest| longest.len() > own + 1) else { return Some(item) };
            displaced = longest.pop_back();
            self.len -= 1;
        }
        if own == 0 {
            self.turns.push_back(source.clone());
        }
        self.items.entry(source.clone()).or_default().push_back(item);
        self.len += 1;
        displaced
    }

    /// Removes and returns the next item.
    pub(in crate::auth) fn pop(&mut self) -> Option<T> {
        let source = self.turns.pop_front()?;
        let items = self.items.get_mut(&source)?;
        let item = items.pop_front();
        self.len -= 1;
        if items.is_empty() {
            self.items.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        item
    }

    /// Removes and returns the first item of `source` for which `is_it` is true.
    pub(in crate::auth) fn remove(&mut self, source: &S, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let items = self.items.get_mut(source)?;
        let item = items.remove(items.iter().position(is_it)?);
        self.len -= 1;
        if items.is_empty() {
            self.items.remove(source);
            self.turns.retain(|other| other != source);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Queue = FairQueue<char, (char, u32)>;

    fn queue(len_max: usize, items: &[(char, u32)]) -> Queue {
        let mut queue = Queue::new(len_max);
        for item in items {
            assert_eq!(queue.push(&item.0, *item), None, "{item:?}");
        }
        queue
    }

    fn rest(mut queue: Queue) -> String {
        let rest = std::iter::from_fn(|| queue.pop()).map(|(source, number)| format!("{source}{number}"));
        let rest = rest.collect::<Vec<_>>().join(" ");
        assert!(queue.items.is_empty() && queue.turns.is_empty() && queue.len == 0);
        rest
    }

    #[test]
    fn sources_take_turns() {
        for (items, expected) in [
            (vec![('a', 1), ('a', 2), ('a', 3)], "a1 a2 a3"),
            (vec![('a', 1), ('a', 2), ('a', 3), ('b', 1), ('b', 2), ('c', 1)], "a1 b1 c1 a2 b2 a3"),
        ] {
            assert_eq!(rest(queue(12, &items)), expected);
        }
    }

    #[test]
    fn a_source_that_comes_back_waits_for_the_others_again() {
        let mut queue = queue(12, &[('a', 1), ('b', 1), ('b', 2)]);
        assert_eq!(queue.pop(), Some(('a', 1)));
        assert_eq!(queue.push(&'a', ('a', 2)), None);
        assert_eq!(rest(queue), "b1 a2 b2");
    }

    #[test]
    fn a_source_has_at_most_half_of_the_places() {
        let mut queue = queue(4, &[('a', 1), ('a', 2)]);
        assert_eq!(queue.push(&'a', ('a', 3)), Some(('a', 3)));
        assert_eq!(queue.push(&'b', ('b', 1)), None);
        assert_eq!(rest(queue), "a1 b1 a2");
    }

    #[test]
    fn a_full_queue_has_a_place_for_a_source_with_fewer_items() {
        let mut queue = queue(4, &[('a', 1), ('a', 2), ('b', 1), ('b', 2)]);
        assert!(queue.push(&'c', ('c', 1)).is_some_and(|(_, number)| number == 2), "the newest of one of the two");
        assert_eq!(queue.push(&'c', ('c', 2)), Some(('c', 2)), "it would have as many as the other");
        assert!(queue.push(&'d', ('d', 1)).is_some_and(|(_, number)| number == 2));
        assert_eq!(queue.push(&'e', ('e', 1)), Some(('e', 1)), "each has one");
        assert_eq!(rest(queue), "a1 b1 c1 d1");
    }

    #[test]
    fn a_removed_item_frees_its_place() {
        let mut queue = queue(4, &[('a', 1), ('a', 2), ('b', 1), ('c', 1)]);
        assert_eq!(queue.remove(&'a', |item| item.1 == 3), None);
        assert_eq!(queue.remove(&'d', |_| true), None);
        assert_eq!(queue.remove(&'a', |item| item.1 == 1), Some(('a', 1)));
        assert_eq!(queue.remove(&'b', |_| true), Some(('b', 1)));
        assert_eq!(queue.push(&'d', ('d', 1)), None);
        assert_eq!(rest(queue), "a2 c1 d1");
    }
}
