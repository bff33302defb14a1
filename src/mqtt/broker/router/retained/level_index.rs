//! An index of the retained topics by the text of each level and by the number of levels, and the lookup with it.
//!
//! The leading levels of a filter select a range of the ordered topics. A level after a wildcard selects the topics
//! that have its text at that position, and a filter without `#` those with as many levels. A lookup intersects these
//! sets by leapfrog: each set seeks to the first topic at or after the largest candidate of the others. So the smallest
//! set bounds the steps, whatever the other topics are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    hash::{BuildHasher, RandomState},
    ops::Bound,
    sync::Arc,
};

use crate::mqtt::broker::router::shrink;

/// A topic with NUL for `/`.
pub(super) type Key = Arc<str>;

/// A place between two topics in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    key: Key,
    /// True if the place is after `key`, false if before it.
    after: bool,
}

/// The topics by level.
#[derive(Debug, Default)]
pub(super) struct LevelIndex {
    hasher: RandomState,
    /// Topics by the hash of a position and the text there. Topics with the same hash share a set, and a lookup compares
    /// each candidate with the filter anyway.
    levels: HashMap<u64, Posting>,
    /// Topics by their number of levels.
    depths: BTreeMap<usize, BTreeSet<Key>>,
}

/// The topics with one text at one position. Most texts are on one topic.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "it would make the common variant larger")]
enum Posting {
    One(Key),
    Many(Box<BTreeSet<Key>>),
}

/// A lookup of the topics that one filter selects.
#[derive(Debug)]
pub(super) struct Lookup<'a> {
    /// The filter with NUL for `/`.
    pattern: String,
    /// The sets that have all selected topics; empty if only the order of the topics narrows the lookup.
    sources: Vec<Source<'a>>,
    place: Place,
    /// True if `place` is before a selected topic.
    found: bool,
}

/// A set of topics, made of disjoint ones.
#[derive(Debug)]
enum Source<'a> {
    One(&'a Key),
    Many(&'a BTreeSet<Key>),
    Union(Vec<&'a BTreeSet<Key>>),
}

impl Place {
    pub(super) fn before(key: Key) -> Self {
        Self { key, after: false }
    }

    pub(super) fn after(key: Key) -> Self {
        Self { key, after: true }
    }

    /// Returns the range from this place on.
    pub(super) fn on(&self) -> (Bound<&str>, Bound<&str>) {
        (if self.after { Bound::Excluded(&self.key) } else { Bound::Included(&self.key) }, Bound::Unbounded)
    }
}

impl LevelIndex {
    pub(super) fn insert(&mut self, key: &Key) {
        for hash in self.hashes(key) {
            match self.levels.entry(hash) {
                hash_map::Entry::Vacant(vacant) => _ = vacant.insert(Posting::One(Arc::clone(key))),
                hash_map::Entry::Occupied(mut known) => known.get_mut().insert(key),
            }
        }
        self.depths.entry(depth(key)).or_default().insert(Arc::clone(key));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        for hash in self.hashes(key) {
            if let hash_map::Entry::Occupied(mut known) = self.levels.entry(hash)
                && known.get_mut().remove(key)
            {
                known.remove();
            }
        }
        shrink(&mut self.levels);
        if let Some(keys) = self.depths.get_mut(&depth(key)) {
            keys.remove(key);
            if keys.is_empty() {
                self.depths.remove(&depth(key));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.depths.is_empty()
    }

    /// Returns the lookup of `filter`, an MQTT topic filter, from `place` on; `None` if it selects nothing.
    pub(super) fn lookup(&self, filter: &str, place: Place) -> Option<Lookup<'_>> {
        let pattern = filter.replace('/', SEPARATOR);
        let mut sources = Vec::new();
        let literal = pattern.split('\0').take_while(|level| !is_wildcard(level)).count();
        for (position, text) in indexed(&pattern).filter(|(at, text)| *at >= literal && !is_wildcard(text)) {
            sources.push(match self.levels.get(&self.hash(position, text))? {
                Posting::One(key) => Source::One(key),
                Posting::Many(keys) => Source::Many(keys),
            });
        }
        match pattern.strip_suffix('#') {
            None if literal < depth(&pattern) => sources.push(Source::Many(self.depths.get(&depth(&pattern))?)),
            None => {}
            // `a/#` also selects `a`. [MQTT-4.7.1-2]
            Some(_) => {
                let depths = self.depths.range(depth(&pattern) - 1..);
                let deep: Vec<_> = depths.map(|(_, keys)| keys).take(DEPTHS_MERGED + 1).collect();
                if deep.is_empty() {
                    return None;
                }
                if deep.len() <= DEPTHS_MERGED && deep.len() < self.depths.len() {
                    sources.push(Source::Union(deep));
                }
            }
        }
        Some(Lookup { pattern, sources, place, found: false })
    }

    fn hashes(&self, key: &str) -> Vec<u64> {
        indexed(key).map(|(position, text)| self.hash(position, text)).collect()
    }

    fn hash(&self, position: usize, text: &str) -> u64 {
        self.hasher.hash_one((position, text))
    }
}

impl Posting {
    fn insert(&mut self, key: &Key) {
        match self {
            Self::One(one) if one == key => {}
            Self::One(one) => *self = Self::Many(Box::new([Arc::clone(one), Arc::clone(key)].into())),
            Self::Many(keys) => _ = keys.insert(Arc::clone(key)),
        }
    }

    /// Removes `key`. Returns true if nothing is left.
    fn remove(&mut self, key: &Key) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Many(keys) => {
                keys.remove(key);
                if keys.len() == 1
                    && let Some(last) = keys.pop_first()
                {
                    *self = Self::One(last);
                }
                false
            }
        }
    }
}

impl Source<'_> {
    fn seeks(&self) -> u32 {
        match self {
            Self::One(_) | Self::Many(_) => 1,
            Self::Union(sets) => u32::try_from(sets.len()).unwrap_or(u32::MAX),
        }
    }

    fn first(&self, from: &Place) -> Option<&Key> {
        match self {
            Self::One(key) => Some(*key).filter(|key| if from.after { **key > from.key } else { **key >= from.key }),
            Self::Many(keys) => keys.range::<str, _>(from.on()).next(),
            Self::Union(sets) => sets.iter().filter_map(|keys| keys.range::<str, _>(from.on()).next()).min(),
        }
    }
}

impl Lookup<'_> {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the selected topic at the place, if the last step found one.
    pub(super) fn found(&self) -> Option<&Key> {
        self.found.then_some(&self.place.key)
    }

    /// Returns the number of seeks that a step makes.
    pub(super) fn step_cost(&self) -> u32 {
        self.sources.iter().map(Source::seeks).sum::<u32>().max(1)
    }

    /// Continues after the topic that was found.
    pub(super) fn skip(&mut self) {
        (self.place.after, self.found) = (true, false);
    }

    /// Makes one step to the next selected topic. `first` returns the first of all topics from a place on. Returns false
    /// if no topic is left.
    pub(super) fn step(&mut self, first: impl FnOnce(&Place) -> Option<Key>) -> bool {
        let candidate = match self.sources.split_first() {
            None => first(&self.place),
            Some((source, others)) => source.first(&self.place).and_then(|candidate| {
                others.iter().try_fold(Arc::clone(candidate), |candidate, source| {
                    source.first(&Place::before(candidate)).map(Arc::clone)
                })
            }),
        };
        let Some(key) = candidate else { return false };
        // The first sets may lack the candidate. The comparison decides, since it has all levels.
        match compare(&self.pattern, &key) {
            LookupStep::Selected => (self.place, self.found) = (Place::before(key), true),
            LookupStep::Next => self.place = Place::after(key),
            LookupStep::Seek(to) => self.place = Place::before(to.into()),
            LookupStep::End => return false,
        }
        true
    }
}

/// The action of a lookup at a topic.
#[derive(Debug, PartialEq, Eq)]
enum LookupStep {
    /// The topic matches.
    Selected,
    /// The lookup continues with the next topic.
    Next,
    /// The lookup continues with the first topic at or after this one.
    Seek(String),
    /// No further topic can match.
    End,
}

/// Compares a filter with a topic, both with NUL between levels.
fn compare(filter: &str, topic: &str) -> LookupStep {
    // [MQTT-4.7.2-1]; topics that start with `$` sort before all that start with a later character.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return LookupStep::Seek(AFTER_DOLLAR.into());
    }
    // The end of the subtree under the last `+`, to seek past when nothing more can match inside it.
    let mut past = None;
    let mut at = 0;
    let mut levels = filter.split('\0');
    for name in topic.split('\0') {
        let end = at + name.len();
        let head = |length: usize| topic.get(..length).unwrap_or(topic);
        match levels.next() {
            Some("#") => return LookupStep::Selected,
            Some("+") => past = Some(end),
            Some(level) if level == name => {}
            Some(level) if name < level => return LookupStep::Seek(format!("{}{level}", head(at))),
            // The topic sorts after the filter or is deeper, and so is everything that follows inside the subtree.
            _ => {
                return past.map_or(LookupStep::End, |end| LookupStep::Seek(format!("{}{AFTER_SEPARATOR}", head(end))));
            }
        }
        at = end + SEPARATOR.len();
    }
    match levels.next() {
        None | Some("#") => LookupStep::Selected,
        Some(_) => LookupStep::Next,
    }
}

/// Iterates over the indexed levels of a topic or filter, and their positions.
fn indexed(key: &str) -> impl Iterator<Item = (usize, &str)> {
    key.split('\0').enumerate().skip(1).take(LEVELS_INDEXED)
}

fn is_wildcard(level: &str) -> bool {
    matches!(level, "+" | "#")
}

/// Returns the number of levels of a topic or filter with NUL between them.
fn depth(key: &str) -> usize {
    key.split('\0').count()
}

/// Separator of levels. It sorts below every character of a topic.
pub(super) const SEPARATOR: &str = "\0";

/// The first string after all that begin with [`SEPARATOR`].
const AFTER_SEPARATOR: &str = "\u{1}";

/// The first string after all that begin with `$`.
const AFTER_DOLLAR: &str = "%";

/// Levels indexed, after the first one, which the order of the topics covers. A level of a filter beyond them is only
/// compared.
pub(super) const LEVELS_INDEXED: usize = 7;

/// Most numbers of levels whose topics a lookup with `#` merges.
const DEPTHS_MERGED: usize = 8;
