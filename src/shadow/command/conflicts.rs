//! The conflicts of a refused command: paths it touches that changed since the version it expected.
//!
//! The *touched* paths of a patch are its leaves and removals. A section that is replaced or cleared is touched whole.
//! The writer thread checks only whether a command is free of conflicts, which decides a rebase. The conflicting paths
//! are listed later, for the reply, from the same document.
//!
//! For a section touched whole, the most specific paths are listed: the leaves sent, the present leaves that the
//! command would remove, and the paths removed meanwhile. If none of these explains the change (for instance if it
//! created an empty object), the section itself is listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::shadow::{
    command::{Command, SectionPatch, Update},
    document::{
        Document, Stamp, Version,
        merge::without_nulls,
        tree::{Members, Node},
    },
    pointer::{Pointer, SectionName},
};

/// Most conflicts and most clean paths listed.
pub const LISTED_MAX: usize = 64;

/// The touched paths of a refused command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collisions {
    /// The paths that changed after the expected version.
    pub conflicts: Vec<Conflict>,
    /// The paths that did not change.
    pub clean: Vec<Pointer>,
    /// True if one of the lists was cut.
    pub truncated: bool,
}

/// A touched path that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The path.
    pub path: Pointer,
    /// The value that the command would set; null for a removal.
    pub yours: Value,
    /// The value at the expected version, if it was found; see [`crate::shadow::ReverseApply`].
    pub base: Option<Value>,
    /// The current value; `None` if the path is empty.
    pub current: Option<Value>,
    /// The last change of the path, if it is still known.
    pub changed: Option<Arc<Stamp>>,
}

/// The extent to which a command touches one section.
enum SectionTouch<'a> {
    /// The leaves and removals of this patch.
    Parts(&'a Map<String, Value>),
    /// The whole section; the members sent, if any.
    Whole(Option<&'a Map<String, Value>>),
}

fn touch(update: &Update, name: SectionName) -> Option<SectionTouch<'_>> {
    match (update.section(name), update.replace) {
        (SectionPatch::Keep, _) => None,
        (SectionPatch::Clear, _) => Some(SectionTouch::Whole(None)),
        (SectionPatch::Merge(patch), true) => Some(SectionTouch::Whole(Some(patch))),
        (SectionPatch::Merge(patch), false) => Some(SectionTouch::Parts(patch)),
    }
}

/// Returns true if no path that `update` touches changed after `since`.
pub(crate) fn is_clean(update: &Update, current: &Document, since: Version) -> bool {
    let changes = Changes::after(current, since);
    SectionName::ALL.into_iter().all(|name| match touch(update, name) {
        None => true,
        Some(SectionTouch::Parts(patch)) => {
            leaves_of(patch, &mut Pointer::section(name), &mut |path, _| !changes.is_changed(path))
        }
        Some(SectionTouch::Whole(_)) => !changes.is_changed(&Pointer::section(name)),
    })
}

/// Sorts the paths that `command` touches into those changed after `since` and the others.
#[must_use]
pub fn collisions(command: &Command, current: &Document, since: Version) -> Collisions {
    let (changes, mut found) = (Changes::after(current, since), Collisions::default());
    for name in SectionName::ALL {
        let touch = match command {
            Command::Update(update) => touch(update, name),
            Command::Delete(_) if current.section(name).members.is_empty() => None,
            Command::Delete(_) => Some(SectionTouch::Whole(None)),
            // A patch touches unknown paths until it is resolved.
            Command::Patch(_) => None,
        };
        let mut sort = |path: &Pointer, yours: &Value| found.sort(path, yours, &changes);
        match touch {
            None => {}
            Some(SectionTouch::Parts(patch)) => _ = leaves_of(patch, &mut Pointer::section(name), &mut sort),
            Some(SectionTouch::Whole(next)) => {
                let stripped = next.map(without_nulls);
                let next = stripped.as_ref();
                whole_section(name, next.unwrap_or(&Map::new()), &changes, &mut sort);
                let section = Pointer::section(name);
                if !found.account_for(&section, changes.is_changed(&section)) {
                    found.sort(&section, &next.map_or(Value::Null, |next| Value::Object(next.clone())), &changes);
                }
            }
        }
    }
    found
}

impl Collisions {
    /// Lists `path`. Returns false once both lists are full.
    fn sort(&mut self, path: &Pointer, yours: &Value, changes: &Changes<'_>) -> bool {
        if !changes.is_changed(path) {
            match self.clean.len() < LISTED_MAX {
                true => self.clean.push(path.clone()),
                false => self.truncated = true,
            }
        } else if self.conflicts.len() < LISTED_MAX {
            let current = changes.document;
            self.conflicts.push(Conflict {
                path: path.clone(),
                yours: yours.clone(),
                base: None,
                current: current.find(path).map(|found| found.to_value()),
                changed: current.newest_change(path).filter(|stamp| stamp.version > changes.since).cloned(),
            });
        } else {
            self.truncated = true;
        }
        !(self.truncated && self.conflicts.len() == LISTED_MAX && self.clean.len() == LISTED_MAX)
    }

    /// Returns true if the listed paths of `section` explain that it changed, or that it did not.
    fn account_for(&self, section: &Pointer, changed: bool) -> bool {
        let conflicts = self.conflicts.iter().any(|conflict| conflict.path.is_within(section));
        self.truncated || conflicts || !changed && self.clean.iter().any(|path| path.is_within(section))
    }
}

/// The changes since a version, indexed for checks of many paths.
struct Changes<'a> {
    document: &'a Document,
    since: Version,
    /// The paths removed since then, by section.
    removed: BTreeMap<SectionName, Removals<'a>>,
}

/// A tree of removed paths: a lookup compares each key of a path once, however long the keys are that many paths share.
#[derive(Default)]
struct Removals<'a> {
    /// True if this path itself was removed.
    is_removed: bool,
    below: BTreeMap<&'a str, Removals<'a>>,
}

impl<'a> Removals<'a> {
    fn add(&mut self, path: &'a [Box<str>]) {
        path.iter().fold(self, |at, key| at.below.entry(key).or_default()).is_removed = true;
    }

    /// Returns true if `path` is in the tree, above a path in it, or below one.
    fn concern(&self, path: &[Box<str>]) -> bool {
        let mut at = self;
        for key in path {
            match at.below.get(&**key) {
                _ if at.is_removed => return true,
                Some(below) => at = below,
                None => return false,
            }
        }
        true
    }
}

impl<'a> Changes<'a> {
    fn after(document: &'a Document, since: Version) -> Self {
        let mut changes = Self { document, since, removed: BTreeMap::new() };
        for path in changes.removed_paths() {
            changes.removed.entry(path.section).or_default().add(&path.keys);
        }
        changes
    }

    fn removed_paths(&self) -> impl Iterator<Item = &'a Pointer> + use<'a> {
        let (tombstones, since) = (&self.document.tombstones, self.since);
        let removed = tombstones.iter().filter(move |tombstone| tombstone.removed.version > since);
        removed.map(|tombstone| &tombstone.path)
    }

    /// Returns the same as [`Document::changed_after`].
    fn is_changed(&self, path: &Pointer) -> bool {
        self.since < self.document.floor || self.document.newest_stamp(path) > self.since || self.has_removal(path)
    }

    fn has_removal(&self, path: &Pointer) -> bool {
        self.removed.get(&path.section).is_some_and(|removed| removed.concern(&path.keys))
    }
}

/// Calls `each` for each leaf and removal in `patch`, until it returns false. Returns false in that case.
pub(in crate::shadow) fn leaves_of(
    patch: &Map<String, Value>,
    at: &mut Pointer,
    each: &mut dyn FnMut(&Pointer, &Value) -> bool,
) -> bool {
    patch.iter().all(|(key, value)| {
        at.keys.push(key.as_str().into());
        let goes_on = match value {
            Value::Object(members) if !members.is_empty() => leaves_of(members, at, each),
            _ => each(at, value),
        };
        at.keys.pop();
        goes_on
    })
}

/// Calls `each` for the most specific paths of a section that is to become `next`.
fn whole_section(
    name: SectionName,
    next: &Map<String, Value>,
    changes: &Changes<'_>,
    each: &mut dyn FnMut(&Pointer, &Value) -> bool,
) {
    let mut at = Pointer::section(name);
    let goes_on = leaves_of(next, &mut at, each)
        && leaves_that_go(&changes.document.section(name).members, Some(next), &mut at, each);
    if goes_on {
        let removed: BTreeSet<_> = changes.removed_paths().filter(|path| path.section == name).collect();
        let mut unseen =
            removed.into_iter().filter(|path| changes.document.find(path).is_none() && !is_in(next, &path.keys));
        unseen.all(|path| each(path, &Value::Null));
    }
}

/// Calls `each` for the leaves of `members` that are not in `next` and neither below nor above a value there.
fn leaves_that_go(
    members: &Members,
    next: Option<&Map<String, Value>>,
    at: &mut Pointer,
    each: &mut dyn FnMut(&Pointer, &Value) -> bool,
) -> bool {
    members.iter().all(|(key, node)| {
        at.keys.push((**key).into());
        let goes_on = match (node, next.and_then(|next| next.get(&**key)).filter(|value| !value.is_null())) {
            (Node::Object(inner), None) => leaves_that_go(inner, None, at, each),
            (Node::Object(inner), Some(Value::Object(next))) if !next.is_empty() => {
                leaves_that_go(inner, Some(next), at, each)
            }
            (Node::Leaf(_), None) => each(at, &Value::Null),
            (_, Some(_)) => true,
        };
        at.keys.pop();
        goes_on
    })
}

/// Returns true if a leaf of `next` is at, above or below `keys`, the path of a removed member.
fn is_in(next: &Map<String, Value>, keys: &[Box<str>]) -> bool {
    // The end of the path is an object with members.
    let [key, rest @ ..] = keys else { return true };
    match next.get(&**key) {
        None => false,
        Some(Value::Object(inner)) if !inner.is_empty() => is_in(inner, rest),
        Some(_) => true,
    }
}
