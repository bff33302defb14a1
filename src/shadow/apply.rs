//! How changes make the next document, and how undoing them gives the former one back.
//!
//! *Invariant:* applying the same changes to an equal document gives an equal document. Recovery depends on it: it
//! applies from the journal what was decided before.
//!
//! Sections that no change names are shared with the document before. The canonical form of `desired` and `reported`
//! is written once per change, to count its bytes and to digest it; it is not kept, since writing one
//! section again costs about a microsecond and keeping it would add a quarter to each cached document.

use std::{cell::RefCell, collections::BTreeMap, mem, sync::Arc};

use serde_json::{Map, Value};

use crate::shadow::{
    change::{Change, Effect},
    document::{Document, Section, Stamp, Timestamp, Version},
    etag::{Etag, StateForm},
    pointer::SectionName,
    tombstone,
    tree::{self, Leaf, Members, Node},
};

/// What is known of the version before the one that is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// Its version.
    pub version: Version,
    /// When it was made.
    pub timestamp: Timestamp,
    /// Whether it was a deletion.
    pub deleted: bool,
}

impl Document {
    /// The document that `changes` make of this one: the only way to a next version, live and in recovery.
    ///
    /// `changes` must be what [`crate::shadow::decide()`] returned for this document; applying the same changes to
    /// an equal document gives an equal document. `deleted` makes the result a tombstone.
    #[must_use]
    pub fn apply(&self, changes: &[Change], stamp: &Arc<Stamp>, deleted: bool, tombstones_max: usize) -> Self {
        if deleted {
            return Self {
                version: stamp.version,
                timestamp: stamp.timestamp,
                deleted,
                etag: Etag { version: stamp.version, ..Self::absent().etag },
                // Whatever was there ceased to be at this version.
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

    /// The document as it was before `changes` made this one of it: [`Undoing`] of one version.
    #[must_use]
    pub fn undo(&self, changes: &[Change], former: Former) -> Self {
        let mut undoing = self.undoing();
        undoing.undo(changes);
        undoing.arrive(former)
    }

    /// Begins to go back from this version.
    #[must_use]
    pub fn undoing(&self) -> Undoing<'_> {
        Undoing { from: self, touched: BTreeMap::new() }
    }

    /// Puts in the sections that `edit` has new members for, and brings sizes and the etag up to date.
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

/// A document on its way back over versions, newest first. What it has come to is measured once, where it arrives: the
/// way there costs what the changes are long, not what the document is.
///
/// Values are exact. A leaf that comes back is stamped with the version that [`Change::replaced`] tells, by
/// [`Stamp::forgotten`]; tombstones are not known any more, so the floor is the version itself.
#[derive(Clone, Debug)]
pub struct Undoing<'a> {
    from: &'a Document,
    /// The sections that are not those of `from` any more.
    touched: BTreeMap<SectionName, Members>,
}

impl Undoing<'_> {
    /// Goes back over one more version, which `changes` made.
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

    /// The document at the version that was arrived at.
    #[must_use]
    pub fn arrive(mut self, former: Former) -> Document {
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
    /// The section with these members, measured.
    #[must_use]
    pub fn new(members: Members) -> Self {
        Self { canonical_bytes: StateForm::with_capacity(512).push(&members), leaves: tree::leaves(&members), members }
    }

    /// Its values without their stamps.
    #[must_use]
    pub fn values(&self) -> Map<String, Value> {
        tree::values(&self.members)
    }
}

/// What `change` puts at its path, where `there` is now.
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

/// Touches stamps, so that leaves which shared one still do.
#[derive(Default)]
struct Touched(RefCell<Option<(Arc<Stamp>, Arc<Stamp>)>>);

impl Touched {
    /// `stamp` with its time moved to `now`.
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

/// What was at the path of `change` before.
fn origin(change: &Change) -> Option<Node> {
    change.replaced.as_ref().map(|former| Node::new(&former.value, &Arc::new(Stamp::forgotten(former.version))))
}

/// The members of `section` with `node` of each change, given what is there, put at its path; `None` if no change is
/// about it.
fn edited(
    section: &Section,
    name: SectionName,
    changes: &[Change],
    node: impl Fn(&Change, Option<&Node>) -> Option<Node>,
) -> Option<Members> {
    let mut changes = changes.iter().filter(|change| change.path.section == name).peekable();
    if changes.peek()?.path.keys.is_empty() {
        // Told whole: nothing of it need be cloned, and there is no other change of this section.
        return changes.next().map(|change| whole(node(change, None)));
    }
    let mut members = section.members.clone();
    for change in changes {
        put(&mut members, &change.path.keys, |there| node(change, there));
    }
    Some(members)
}

/// The members of a section that is told whole.
fn whole(node: Option<Node>) -> Members {
    match node {
        Some(Node::Object(members)) => members,
        Some(Node::Leaf(_)) | None => Members::new(),
    }
}

/// Puts at `keys` what `node` makes of what is there, or takes that away. All objects on the way are there: a change
/// that makes or unmakes one is told at that object.
fn put(members: &mut Members, keys: &[Box<str>], node: impl FnOnce(Option<&Node>) -> Option<Node>) {
    match keys {
        [] => {}
        [key] => match node(members.get(key)) {
            Some(node) => match members.get_mut(key) {
                Some(there) => _ = mem::replace(there, node),
                None => _ = members.insert(key.clone(), node),
            },
            None => _ = members.remove(key),
        },
        [key, rest @ ..] => match members.get_mut(key) {
            Some(Node::Object(inner)) => put(inner, rest, node),
            Some(Node::Leaf(_)) | None => debug_assert!(false, "a change below something that is no object"),
        },
    }
}
