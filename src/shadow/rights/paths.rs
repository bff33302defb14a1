//! A set of paths of a shadow that a principal may read or write.
//!
//! A path in the set includes every path below it, present or future. So a path is in the set if the path itself or one
//! above it was inserted. Documents are cut to the set leaf by leaf ([`Document::seen`]).
//!
//! Arrays are leaves: a path into an array includes nothing of it.
//!
//! [`Document::seen`]: crate::shadow::Document::seen

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use crate::shadow::{
    command::SectionPatch,
    document::{
        change::{Change, Effect, Replaced},
        equality,
        tree::{Members, Node},
    },
    pointer::{Pointer, SectionName},
};

/// A set of paths. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Paths {
    desired: PathSubset,
    reported: PathSubset,
    tags: PathSubset,
}

/// The part of a set at and below one path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum PathSubset {
    #[default]
    Nothing,
    Everything,
    /// Some of the members. None of these parts is empty.
    Below(Arc<Branches>),
}

type Branches = BTreeMap<Box<str>, PathSubset>;

impl Paths {
    /// The empty set.
    pub const NONE: Self =
        Self { desired: PathSubset::Nothing, reported: PathSubset::Nothing, tags: PathSubset::Nothing };

    /// The set of all paths.
    pub const ALL: Self =
        Self { desired: PathSubset::Everything, reported: PathSubset::Everything, tags: PathSubset::Everything };

    /// All of `desired` and `reported`: the default for a device.
    pub const STATE: Self = Self { tags: PathSubset::Nothing, ..Self::ALL };

    /// Adds `path` and all paths below it.
    pub fn insert(&mut self, path: &Pointer) {
        self.part_mut(path.section).insert(&path.keys);
    }

    /// Adds all paths of `other`.
    pub fn add(&mut self, other: &Self) {
        for name in SectionName::ALL {
            let part = self.part(name).union(other.part(name));
            *self.part_mut(name) = part;
        }
    }

    /// Returns the smallest set of paths that makes this set.
    pub(crate) fn pointers(&self) -> Vec<Pointer> {
        let mut pointers = Vec::new();
        for section in SectionName::ALL {
            self.part(section).collect(&mut Pointer::section(section), &mut pointers);
        }
        pointers
    }

    /// Removes `section` from the set.
    #[must_use]
    pub fn without(mut self, section: SectionName) -> Self {
        *self.part_mut(section) = PathSubset::Nothing;
        self
    }

    /// Returns true if the set includes `path` and all paths below it.
    #[must_use]
    pub fn has(&self, path: &Pointer) -> bool {
        self.part(path.section).has(&path.keys)
    }

    /// Returns true if the set includes all of `section`.
    #[must_use]
    pub fn has_section(&self, section: SectionName) -> bool {
        *self.part(section) == PathSubset::Everything
    }

    /// Returns true if the set includes all of `desired` and `reported`, which the etag covers.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.has_section(SectionName::Desired) && self.has_section(SectionName::Reported)
    }

    /// Returns true if the set has no path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Returns the included part of `members`, the members of a section.
    pub(in crate::shadow) fn members<'a>(&self, section: SectionName, members: &'a Members) -> Cow<'a, Members> {
        self.part(section).members(members)
    }

    /// Returns the part of `difference` that both the `desired` and the `reported` part include, since a delta reveals
    /// both sides.
    pub(in crate::shadow) fn difference<'a>(&self, difference: &'a Members) -> Cow<'a, Members> {
        self.desired.intersection(&self.reported).members(difference)
    }

    /// Returns the included part of `patch` to `section`. If the patch removes a parent of included paths or makes it a
    /// leaf, these paths are removed.
    #[must_use]
    pub fn patch<'a>(&self, section: SectionName, patch: &'a SectionPatch) -> Cow<'a, SectionPatch> {
        match (self.part(section), patch) {
            (PathSubset::Everything, patch) => Cow::Borrowed(patch),
            (PathSubset::Nothing, _) | (_, SectionPatch::Keep) => Cow::Owned(SectionPatch::Keep),
            (PathSubset::Below(branches), SectionPatch::Clear) => Cow::Owned(SectionPatch::Merge(removals(branches))),
            (PathSubset::Below(branches), SectionPatch::Merge(patch)) => match restrict(branches, patch) {
                restricted if restricted.is_empty() => Cow::Owned(SectionPatch::Keep),
                restricted => Cow::Owned(SectionPatch::Merge(restricted)),
            },
        }
    }

    /// Returns the effect of `change` on the included paths; `None` if there is none.
    #[must_use]
    pub fn change<'a>(&self, change: &'a Change) -> Option<Cow<'a, Change>> {
        let branches = match self.part(change.path.section).at(&change.path.keys) {
            PathSubset::Everything => return Some(Cow::Borrowed(change)),
            PathSubset::Nothing => return None,
            PathSubset::Below(branches) => branches,
        };
        // The change is above included paths: compare their values before and after.
        let after = match &change.effect {
            Effect::Set(value) => cut(branches, value),
            Effect::Touch | Effect::Remove => None,
        };
        let before = change.replaced.as_ref().and_then(|replaced| {
            cut(branches, &replaced.value).map(|value| Replaced { value, version: replaced.version })
        });
        let same = match (&before, &after) {
            (None, None) => true,
            (Some(before), Some(after)) => equality::same(&before.value, after),
            _ => false,
        };
        let effect = after.map_or(Effect::Remove, Effect::Set);
        (!same).then(|| Cow::Owned(Change { path: change.path.clone(), replaced: before, effect }))
    }

    fn part(&self, section: SectionName) -> &PathSubset {
        match section {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }

    fn part_mut(&mut self, section: SectionName) -> &mut PathSubset {
        match section {
            SectionName::Desired => &mut self.desired,
            SectionName::Reported => &mut self.reported,
            SectionName::Tags => &mut self.tags,
        }
    }
}

impl<'a> FromIterator<&'a Pointer> for Paths {
    fn from_iter<I: IntoIterator<Item = &'a Pointer>>(paths: I) -> Self {
        let mut set = Self::NONE;
        paths.into_iter().for_each(|path| set.insert(path));
        set
    }
}

impl PathSubset {
    /// Adds the paths at and below `path`.
    fn collect(&self, path: &mut Pointer, pointers: &mut Vec<Pointer>) {
        match self {
            Self::Nothing => {}
            Self::Everything => pointers.push(path.clone()),
            Self::Below(branches) => {
                for (key, part) in &**branches {
                    path.keys.push(key.clone());
                    part.collect(path, pointers);
                    path.keys.pop();
                }
            }
        }
    }

    fn insert(&mut self, keys: &[Box<str>]) {
        match (&mut *self, keys) {
            (Self::Everything, _) => {}
            (_, []) => *self = Self::Everything,
            (Self::Nothing, [key, rest @ ..]) => {
                let mut inner = Self::Nothing;
                inner.insert(rest);
                *self = Self::Below(Arc::new(Branches::from([(key.clone(), inner)])));
            }
            (Self::Below(branches), [key, rest @ ..]) => {
                Arc::make_mut(branches).entry(key.clone()).or_default().insert(rest);
            }
        }
    }

    fn has(&self, keys: &[Box<str>]) -> bool {
        *self.at(keys) == Self::Everything
    }

    /// Returns the part at and below `keys`.
    fn at(&self, keys: &[Box<str>]) -> &Self {
        match (self, keys) {
            (Self::Everything | Self::Nothing, _) | (Self::Below(_), []) => self,
            (Self::Below(branches), [key, rest @ ..]) => branches.get(key).map_or(&Self::Nothing, |part| part.at(rest)),
        }
    }

    fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (part, Self::Nothing) | (Self::Nothing, part) => part.clone(),
            (Self::Below(one), Self::Below(other)) => {
                let mut all = Branches::clone(one);
                for (key, part) in &**other {
                    let there = all.entry(key.clone()).or_default();
                    *there = there.union(part);
                }
                Self::Below(Arc::new(all))
            }
        }
    }

    fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (part, Self::Everything) | (Self::Everything, part) => part.clone(),
            (Self::Below(one), Self::Below(other)) => {
                let both = one.iter().filter_map(|(key, part)| {
                    let part = part.intersection(other.get(key)?);
                    (part != Self::Nothing).then(|| (key.clone(), part))
                });
                match both.collect::<Branches>() {
                    both if both.is_empty() => Self::Nothing,
                    both => Self::Below(Arc::new(both)),
                }
            }
        }
    }

    fn members<'a>(&self, members: &'a Members) -> Cow<'a, Members> {
        match self {
            Self::Nothing => Cow::Owned(Members::new()),
            Self::Everything => Cow::Borrowed(members),
            Self::Below(branches) => {
                let seen = branches.iter().filter_map(|(key, part)| {
                    let node = match (part, members.get(key)?) {
                        (Self::Everything, node) => node.clone(),
                        (part, Node::Object(inner)) => match part.members(inner).into_owned() {
                            inner if inner.is_empty() => return None,
                            inner => Node::Object(inner),
                        },
                        (_, Node::Leaf(_)) => return None,
                    };
                    Some((key.as_ref().into(), node))
                });
                Cow::Owned(seen.collect())
            }
        }
    }
}

/// Returns the part of `value` in `branches`; `None` if there is none.
fn cut(branches: &Branches, value: &Value) -> Option<Value> {
    let Value::Object(members) = value else { return None };
    let seen = branches.iter().filter_map(|(key, part)| {
        let value = members.get(&**key)?;
        let value = match part {
            PathSubset::Everything => value.clone(),
            PathSubset::Below(inner) => cut(inner, value)?,
            PathSubset::Nothing => return None,
        };
        Some((key.to_string(), value))
    });
    let seen: Map<String, Value> = seen.collect();
    (!seen.is_empty()).then_some(Value::Object(seen))
}

/// Returns a patch that removes all of `branches`.
fn removals(branches: &Branches) -> Map<String, Value> {
    let removal = |key: &str, part: &PathSubset| {
        let value = match part {
            PathSubset::Below(inner) => Value::Object(removals(inner)),
            PathSubset::Everything | PathSubset::Nothing => Value::Null,
        };
        (key.to_string(), value)
    };
    branches.iter().map(|(key, part)| removal(key, part)).collect()
}

/// Returns the part of `patch` that concerns `branches`.
fn restrict(branches: &Branches, patch: &Map<String, Value>) -> Map<String, Value> {
    let restricted = branches.iter().filter_map(|(key, part)| {
        let value = match (part, patch.get(&**key)?) {
            (PathSubset::Below(inner), Value::Object(patch)) => match restrict(inner, patch) {
                restricted if restricted.is_empty() => return None,
                restricted => Value::Object(restricted),
            },
            (PathSubset::Below(inner), _) => Value::Object(removals(inner)),
            (_, value) => value.clone(),
        };
        Some((key.to_string(), value))
    });
    restricted.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::Version;

    fn paths(texts: &[&str]) -> Paths {
        texts.iter().map(|text| text.parse::<Pointer>().unwrap()).collect::<Vec<_>>().iter().collect()
    }

    #[test]
    fn a_path_includes_all_below_it_and_nothing_above_or_beside() {
        let set = paths(&["/desired/a/b", "/reported", "/desired/x~1y"]);
        let mut pointers: Vec<_> = set.pointers().iter().map(Pointer::to_string).collect();
        pointers.sort();
        assert_eq!(pointers, ["/desired/a/b", "/desired/x~1y", "/reported"]);
        for (path, expected) in [
            ("/desired/a/b", true),
            ("/desired/a/b/c/d", true),
            ("/desired/a", false),
            ("/desired", false),
            ("/desired/a/bc", false),
            ("/desired/A/b", false),
            ("/desired/x~1y", true),
            ("/desired/x/y", false),
            ("/reported", true),
            ("/reported/anything", true),
            ("/tags", false),
            ("/tags/a/b", false),
        ] {
            assert_eq!(set.has(&path.parse().unwrap()), expected, "{path}");
        }
        assert!(!set.has_state() && Paths::STATE.has_state());
        assert!(Paths::default().is_empty());
    }

    #[test]
    fn equal_sets_do_not_depend_on_insertion_order() {
        let mut joined = paths(&["/desired/a/b"]);
        joined.add(&paths(&["/desired/a/c", "/tags/t"]));
        assert_eq!(joined, paths(&["/tags/t", "/desired/a/c", "/desired/a/b"]));
        joined.insert(&"/desired/a".parse().unwrap());
        assert_eq!(joined, paths(&["/desired/a", "/tags/t"]));
        joined.insert(&"/desired/a/deeper".parse().unwrap());
        assert_eq!(joined, paths(&["/desired/a", "/tags/t"]), "what is there already");
    }

    #[test]
    fn restricts_a_change_to_the_set() {
        let set = paths(&["/desired/zone/t", "/desired/m"]);
        let change = |path: &str, before: Value, after: Option<Value>| Change {
            path: path.parse().unwrap(),
            replaced: (!before.is_null()).then_some(Replaced { value: before, version: Version(1) }),
            effect: after.map_or(Effect::Remove, Effect::Set),
        };
        // path, before, after; the visible change
        for (path, before, after, expected) in [
            ("/desired/zone/t", json!(1), Some(json!(2)), Some((json!(1), Some(json!(2))))),
            ("/desired/zone/u", json!(1), Some(json!(2)), None),
            ("/desired/zone/t/deep", json!(1), None, Some((json!(1), None))),
            ("/desired/zone", json!({"t": 1, "u": 2}), None, Some((json!({"t": 1}), None))),
            ("/desired/zone", json!({"u": 2}), None, None),
            ("/desired/zone", json!({"t": 1, "u": 2}), Some(json!(5)), Some((json!({"t": 1}), None))),
            ("/desired/zone", json!(5), Some(json!({"t": 1, "u": 2})), Some((json!(null), Some(json!({"t": 1}))))),
            ("/desired/zone", json!([1]), Some(json!({})), None),
            ("/desired", json!(null), Some(json!({"m": 1, "n": 2})), Some((json!(null), Some(json!({"m": 1}))))),
            ("/desired", json!({"m": 1, "n": 2}), None, Some((json!({"m": 1}), None))),
            ("/tags", json!({"m": 1}), None, None),
        ] {
            let whole = change(path, before.clone(), after);
            let expected = expected.map(|(before, after)| change(path, before, after));
            assert_eq!(set.change(&whole).as_deref(), expected.as_ref(), "{path} {before}");
            assert_eq!(Paths::ALL.change(&whole).as_deref(), Some(&whole));
        }
    }

    #[test]
    fn restricts_a_patch_to_the_set() {
        let merge = |value: Value| SectionPatch::Merge(value.as_object().unwrap().clone());
        let set = paths(&["/desired/zone/t", "/desired/m"]);
        for (patch, expected) in [
            (merge(json!({"zone": {"t": 1, "u": 2}, "m": 3, "n": 4})), merge(json!({"zone": {"t": 1}, "m": 3}))),
            (merge(json!({"zone": null})), merge(json!({"zone": {"t": null}}))),
            (merge(json!({"zone": 5})), merge(json!({"zone": {"t": null}}))),
            (merge(json!({"zone": {"u": 1}, "n": 2})), SectionPatch::Keep),
            (SectionPatch::Clear, merge(json!({"zone": {"t": null}, "m": null}))),
            (SectionPatch::Keep, SectionPatch::Keep),
        ] {
            assert_eq!(*set.patch(SectionName::Desired, &patch), expected, "{patch:?}");
            assert_eq!(*Paths::ALL.patch(SectionName::Desired, &patch), patch);
            assert_eq!(*set.patch(SectionName::Tags, &patch), SectionPatch::Keep);
        }
    }
}
