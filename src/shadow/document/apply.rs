//! Application of changes to a document, and their reversal.
//!
//! *Invariant:* applying the same changes to an equal document gives an equal document. Recovery depends on it when it
//! applies the decided changes from the journal.
//!
//! Sections without changes are shared with the previous document. The canonical form of `desired` and `reported` is
//! written once per change, for the size and the digest. It is not kept: writing one section again costs about a
//! microsecond, and keeping it would add a quarter to each cached document.

use std::{cell::RefCell, collections::BTreeMap, mem, sync::Arc};

use serde_json::{Map, Value};

use crate::shadow::{
    document::{
        Document, Section, Stamp, Timestamp, Version,
        change::{Change, Effect},
        etag::{Etag, StateForm},
        tombstone,
        tree::{self, Leaf, Members, Node},
    },
    pointer::SectionName,
};

/// The metadata of a previous version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousVersion {
    /// The version.
    pub version: Version,
    /// The time at which it was made.
    pub timestamp: Timestamp,
    /// True if it was a deletion.
    pub deleted: bool,
}

impl Document {
    /// Returns the document after `changes`. Live updates and recovery make the next version only here.
    ///
    /// `changes` must come from [`crate::shadow::decide()`] on this document. Applying the same changes to an equal
    /// document gives an equal document. `deleted` makes the result a tombstone.
    #[must_use]
    pub fn apply(&self, changes: &[Change], stamp: &Arc<Stamp>, deleted: bool, tombstones_max: usize) -> Self {
        if deleted {
            return Self {
                version: stamp.version,
                timestamp: stamp.timestamp,
                deleted,
                etag: Etag { version: stamp.version, ..Self::absent().etag },
                // Every path counts as changed at this version.
                floor: stamp.version,
                ..Self::absent()
            };
        }
        let mut next = Self { version: stamp.version, timestamp: stamp.timestamp, deleted, ..self.clone() };
        tombstone::note(&mut next.tombstones, changes, stamp);
        next.floor = next.floor.max(tombstone::evict(&mut next.tombstones, tombstones_max));
        let touched = Touched::default();
        next.take(|name| {
            edited(self.section(name), name, changes, |change, there| target(change, there, stamp, &touched))
        });
        next
    }

    /// Returns the document before `changes`: [`ReverseChange`] of one version.
    #[must_use]
    pub fn undo(&self, changes: &[Change], former: PreviousVersion) -> Self {
        let mut undoing = self.undoing();
        undoing.undo(changes);
        undoing.arrive(former)
    }

    /// Begins to go back from this version.
    #[must_use]
    pub fn undoing(&self) -> ReverseChange<'_> {
        ReverseChange { from: self, touched: BTreeMap::new() }
    }

    /// Replaces the sections for which `edit` returns members, and updates sizes and etag.
    fn take(&mut self, mut edit: impl FnMut(SectionName) -> Option<Members>) {
        if let Some(tags) = edit(SectionName::Tags) {
            self.tags = Arc::new(Section::new(tags));
        }
        let (desired, reported) = (edit(SectionName::Desired), edit(SectionName::Reported));
        if desired.is_none() && reported.is_none() {
            self.etag.version = self.version;
            return;
        }
        let mut form = StateForm::with_capacity(self.state_bytes());
        for (section, members) in [(&mut self.desired, desired), (&mut self.reported, reported)] {
            match members {
                None => _ = form.push(&section.members),
                Some(members) => {
                    let (canonical_bytes, leaves) = (form.push(&members), tree::leaves(&members));
                    *section = Arc::new(Section { members, canonical_bytes, leaves });
                }
            }
        }
        self.etag = form.tag(self.version);
    }
}

/// A document while it goes back over versions, newest first. The result is measured once, at the end, so a step costs
/// the length of its changes and not the size of the document.
///
/// Values are exact. A restored leaf is stamped with the version in [`Change::replaced`], by [`Stamp::forgotten`].
/// Tombstones are unknown, so the floor is the version itself.
#[derive(Clone, Debug)]
pub struct ReverseChange<'a> {
    from: &'a Document,
    /// The sections that differ from those of `from`.
    touched: BTreeMap<SectionName, Members>,
}

impl ReverseChange<'_> {
    /// Goes back over one more version, made by `changes`.
    pub fn undo(&mut self, changes: &[Change]) {
        for change in changes {
            let (name, origin) = (change.path.section, origin(change));
            if !change.path.keys.is_empty() {
                let members = self.touched.entry(name).or_insert_with(|| self.from.section(name).members.clone());
                put(members, &change.path.keys, |_| origin);
            } else {
                self.touched.insert(name, whole(origin));
            }
        }
    }

    /// Returns the document at the version reached, with the metadata `former`.
    #[must_use]
    pub fn arrive(mut self, former: PreviousVersion) -> Document {
        let mut before = Document {
            version: former.version,
            timestamp: former.timestamp,
            deleted: former.deleted,
            floor: former.version,
            tombstones: Arc::default(),
            ..self.from.clone()
        };
        before.take(|name| self.touched.remove(&name));
        before
    }
}

impl Section {
    /// Returns a section with these members, measured.
    #[must_use]
    pub fn new(members: Members) -> Self {
        Self { canonical_bytes: StateForm::with_capacity(512).push(&members), leaves: tree::leaves(&members), members }
    }

    /// Returns the values without their stamps.
    #[must_use]
    pub fn values(&self) -> Map<String, Value> {
        tree::values(&self.members)
    }
}

/// Returns the node that `change` leaves at its path; `there` is the current one.
fn target(change: &Change, there: Option<&Node>, stamp: &Arc<Stamp>, touched: &Touched) -> Option<Node> {
    match &change.effect {
        Effect::Set(value) => Some(Node::new(value, stamp)),
        Effect::Remove => None,
        Effect::Touch => match there? {
            Node::Leaf(Leaf { value, changed }) => {
                Some(Node::Leaf(Leaf { value: value.clone(), changed: touched.at(changed, stamp.timestamp) }))
            }
            Node::Object(_) => {
                debug_assert!(false, "only leaves are touched");
                there.cloned()
            }
        },
    }
}

/// A memory of the last refreshed stamp, so that leaves that shared a stamp still share one.
#[derive(Default)]
struct Touched(RefCell<Option<(Arc<Stamp>, Arc<Stamp>)>>);

impl Touched {
    /// Returns `stamp` with its time set to `now`.
    fn at(&self, stamp: &Arc<Stamp>, now: Timestamp) -> Arc<Stamp> {
        if stamp.timestamp == now {
            return stamp.clone();
        }
        match &mut *self.0.borrow_mut() {
            Some((last, moved)) if Arc::ptr_eq(last, stamp) => moved.clone(),
            other => {
                let moved = Arc::new(Stamp { timestamp: now, ..Stamp::clone(stamp) });
                *other = Some((stamp.clone(), moved.clone()));
                moved
            }
        }
    }
}

/// Returns the node that was at the path of `change` before.
fn origin(change: &Change) -> Option<Node> {
    change.replaced.as_ref().map(|former| Node::new(&former.value, &Arc::new(Stamp::forgotten(former.version))))
}

/// Returns the members of `section` with `node` of each change set at its path; `None` if no change concerns the
/// section.
fn edited(
    section: &Section,
    name: SectionName,
    changes: &[Change],
    node: impl Fn(&Change, Option<&Node>) -> Option<Node>,
) -> Option<Members> {
    let mut changes = changes.iter().filter(|change| change.path.section == name).peekable();
    if changes.peek()?.path.keys.is_empty() {
        // One change covers the whole section: its members need no clone, and there is no other change.
        return changes.next().map(|change| whole(node(change, None)));
    }
    let mut members = section.members.clone();
    for change in changes {
        put(&mut members, &change.path.keys, |there| node(change, there));
    }
    Some(members)
}

/// Returns the members of a section that one change covers whole.
fn whole(node: Option<Node>) -> Members {
    match node {
        Some(Node::Object(members)) => members,
        Some(Node::Leaf(_)) | None => Members::new(),
    }
}

/// Replaces the node at `keys` by the result of `node`, or removes it. All objects above it exist, because a change
/// that creates or removes an object is a change of that object.
fn put(members: &mut Members, keys: &[Box<str>], node: impl FnOnce(Option<&Node>) -> Option<Node>) {
    match keys {
        [] => {}
        [key] => match node(members.get(key)) {
            Some(node) => match members.get_mut(key) {
                Some(there) => _ = mem::replace(there, node),
                None => members.insert(key, node),
            },
            None => members.remove(key),
        },
        [key, rest @ ..] => match members.get_mut(key) {
            Some(Node::Object(inner)) => put(inner, rest, node),
            Some(Node::Leaf(_)) | None => debug_assert!(false, "a change below something that is no object"),
        },
    }
}
