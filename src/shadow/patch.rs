//! JSON Patch (RFC 6902) on `state` as its sender may read it.
//!
//! The operations are applied in order to a copy of the sections. The result is an update with the same effect on the
//! document that was copied. The update must be decided against that document ([`Patch::resolve`]).
//!
//! A path must lead into a section, and a section must stay an object. Sections without members are absent, as in the
//! GET reply. No value holds a null: the parser refuses it.
//!
//! The patch runs on the writer thread, so its cost is bounded. There are limits on the number of operations, on the
//! nesting of the values they insert, and on the work beyond reading patch and state. The work counts each inserted
//! value with its bytes, and each array element that an operation shifts. A `move` to the same or a smaller depth is
//! not charged for the moved value.
//!
//! [`Patch::resolve`]: crate::shadow::command::Patch::resolve

pub(super) mod resolution;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::shadow::{
    command::{
        SectionPatch, Update, put,
        rejection::{Rejection, SizeLimit},
    },
    document::{equality::same, find::index},
    pointer::{Pointer, SectionName},
};

/// The operations of a patch, at most [`OPERATIONS_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonPatch(Vec<PatchOperation>);

/// One operation. Its value holds no null.
#[derive(Clone, Debug, PartialEq)]
pub enum PatchOperation {
    /// Inserts a value into an object or array, or sets a section.
    Add(Pointer, Value),
    /// Removes a value.
    Remove(Pointer),
    /// Replaces a value.
    Replace(Pointer, Value),
    /// Removes the value at `from` and adds it at `to`.
    Move {
        /// The source path.
        from: Pointer,
        /// The target path.
        to: Pointer,
    },
    /// Adds the value at `from` at `to`.
    Copy {
        /// The source path.
        from: Pointer,
        /// The target path.
        to: Pointer,
    },
    /// Requires this value at the path.
    Test(Pointer, Value),
}

/// The result of a patch on one state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edit {
    /// The equivalent update, which only merges and clears.
    pub(super) update: Update,
    /// The paths that `test`, `copy` and `move` read.
    pub(super) seen: Vec<Pointer>,
    /// The paths set to an object; every member of the former value counts as touched.
    pub(super) objects: Vec<Pointer>,
}

/// The error of a patch that does not apply to a state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PatchError {
    /// The reason why the first failing operation does not apply.
    pub(super) reason: Reason,
    /// The paths written or read up to the failure.
    pub(super) paths: Vec<Pointer>,
}

/// A reason why an operation does not apply.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reason {
    /// The path is empty but the operation requires a value.
    Absent(Pointer),
    /// The path holds another value than the `test` requires.
    Different(Pointer),
    /// The result cannot be a shadow.
    Refused(Rejection),
}

/// A patch while it is applied.
struct PatchInProgress<'p> {
    state: Map<String, Value>,
    written: BTreeSet<Location<'p>>,
    seen: BTreeSet<Location<'p>>,
    /// The number of the current operation.
    operation: usize,
    /// Bytes inserted, plus one for eight shifted array elements; at most `size_max`.
    size: usize,
    size_max: usize,
}

/// A path of an operation, or a prefix of one.
type Location<'p> = (SectionName, &'p [Box<str>]);

/// Most operations of a patch.
pub const OPERATIONS_MAX: usize = 256;

/// Most levels of objects and arrays in `state` while a patch is applied, and most keys of a path. The result has its
/// own, lower limit.
pub const LEVELS_MAX: usize = 72;

impl JsonPatch {
    /// Returns a patch of these operations; `None` if there are too many.
    #[must_use]
    pub fn new(operations: Vec<PatchOperation>) -> Option<Self> {
        (operations.len() <= OPERATIONS_MAX).then_some(Self(operations))
    }

    /// Returns the operations, in order.
    pub(crate) fn operations(&self) -> &[PatchOperation] {
        &self.0
    }

    /// Returns the paths whose existence or value the patch reads.
    pub fn looks_at(&self) -> impl Iterator<Item = &Pointer> {
        self.0.iter().filter_map(|operation| match operation {
            PatchOperation::Add(..) => None,
            PatchOperation::Remove(path) | PatchOperation::Replace(path, _) | PatchOperation::Test(path, _) => {
                Some(path)
            }
            PatchOperation::Move { from, .. } | PatchOperation::Copy { from, .. } => Some(from),
        })
    }

    /// Returns true if a path of the patch leads into `section`.
    pub(super) fn names(&self, section: SectionName) -> bool {
        self.0.iter().any(|operation| match operation {
            PatchOperation::Add(path, _)
            | PatchOperation::Remove(path)
            | PatchOperation::Replace(path, _)
            | PatchOperation::Test(path, _) => path.section == section,
            PatchOperation::Move { from, to } | PatchOperation::Copy { from, to } => {
                [from, to].iter().any(|path| path.section == section)
            }
        })
    }

    /// Applies the patch to `state`, the named sections that have members. The work may add up to `size_max`; see the
    /// module for how it is counted.
    ///
    /// # Errors
    ///
    /// The first operation that does not apply.
    pub(super) fn apply(&self, state: &Map<String, Value>, size_max: usize) -> Result<Edit, PatchError> {
        let (written, seen) = (BTreeSet::new(), BTreeSet::new());
        let mut work = PatchInProgress { state: state.clone(), written, seen, operation: 0, size: 0, size_max };
        for (number, operation) in self.0.iter().enumerate() {
            work.operation = number;
            if let Err(reason) = work.apply(operation) {
                return Err(PatchError { reason, paths: work.written.iter().chain(&work.seen).map(pointer).collect() });
            }
        }
        Ok(work.edit(state))
    }
}

impl<'p> PatchInProgress<'p> {
    fn apply(&mut self, operation: &'p PatchOperation) -> Result<(), Reason> {
        match operation {
            PatchOperation::Test(path, value) => {
                let found = self.look(path)?;
                if same(found, value) { Ok(()) } else { Err(Reason::Different(path.clone())) }
            }
            PatchOperation::Add(path, value) => {
                self.puts(path, value)?;
                self.add(path, value.clone())
            }
            PatchOperation::Remove(path) => self.remove(path).map(|_| ()),
            PatchOperation::Replace(path, value) => {
                self.look_up(path)?;
                self.puts(path, value)?;
                *self.find(path)? = value.clone();
                self.wrote(path);
                Ok(())
            }
            PatchOperation::Copy { from, to } => {
                let value = self.look(from)?.clone();
                self.puts(to, &value)?;
                self.add(to, value)
            }
            PatchOperation::Move { from, to } => {
                self.look_up(from)?;
                if from == to {
                    return Ok(());
                }
                self.seen.insert(place(from));
                let value = self.remove(from)?;
                if to.keys.len() > from.keys.len() {
                    self.puts(to, &value)?;
                }
                self.add(to, value)
            }
        }
    }

    /// Returns the value at `path` and records that the outcome depends on it.
    fn look(&mut self, path: &'p Pointer) -> Result<&Value, Reason> {
        self.seen.insert(place(path));
        self.look_up(path)
    }

    fn look_up(&self, path: &Pointer) -> Result<&Value, Reason> {
        let section = self.state.get(path.section.as_str());
        let found = path.keys.iter().fold(section, |at, key| match at? {
            Value::Object(members) => members.get(&**key),
            Value::Array(elements) => elements.get(index(key)?),
            _ => None,
        });
        found.ok_or_else(|| Reason::Absent(path.clone()))
    }

    fn find(&mut self, path: &Pointer) -> Result<&mut Value, Reason> {
        self.find_at(place(path)).ok_or_else(|| Reason::Absent(path.clone()))
    }

    fn find_at(&mut self, (section, keys): Location<'_>) -> Option<&mut Value> {
        let section = self.state.get_mut(section.as_str());
        keys.iter().fold(section, |at, key| match at? {
            Value::Object(members) => members.get_mut(&**key),
            Value::Array(elements) => elements.get_mut(index(key)?),
            _ => None,
        })
    }

    fn add(&mut self, path: &'p Pointer, value: Value) -> Result<(), Reason> {
        let Some((last, parent)) = path.keys.split_last() else {
            if !value.is_object() {
                return Err(Reason::Refused(Rejection::InvalidSection(Some(path.section))));
            }
            self.wrote(path);
            self.state.insert(path.section.as_str().to_owned(), value);
            return Ok(());
        };
        self.wrote(path);
        let absent = || Reason::Absent(path.clone());
        let made_way = match self.find_at((path.section, parent)) {
            Some(Value::Object(members)) => {
                members.insert((**last).into(), value);
                0
            }
            Some(Value::Array(elements)) => {
                let place = if &**last == "-" { Some(elements.len()) } else { index(last) };
                let place = place.filter(|place| *place <= elements.len()).ok_or_else(absent)?;
                elements.insert(place, value);
                elements.len() - place
            }
            _ => return Err(absent()),
        };
        self.counts(made_way / 8)
    }

    fn remove(&mut self, path: &'p Pointer) -> Result<Value, Reason> {
        self.wrote(path);
        let absent = || Reason::Absent(path.clone());
        let Some((last, parent)) = path.keys.split_last() else {
            return self.state.remove(path.section.as_str()).ok_or_else(absent);
        };
        let (removed, made_way) = match self.find_at((path.section, parent)) {
            Some(Value::Object(members)) => (members.remove(&**last).ok_or_else(absent)?, 0),
            Some(Value::Array(elements)) => {
                let place = index(last).filter(|place| *place < elements.len()).ok_or_else(absent)?;
                (elements.remove(place), elements.len() - place)
            }
            _ => return Err(absent()),
        };
        self.counts(made_way / 8)?;
        Ok(removed)
    }

    /// Records that `path` is written. A path into an array counts as the array, which is one value.
    fn wrote(&mut self, path: &'p Pointer) {
        let mut at = self.state.get(path.section.as_str());
        let mut length = 0;
        for key in &path.keys {
            match at {
                Some(Value::Object(members)) => at = members.get(&**key),
                Some(Value::Array(_)) => break,
                _ => {}
            }
            length += 1;
        }
        self.written.insert((path.section, path.keys.get(..length).unwrap_or_default()));
    }

    /// Counts a value inserted at `path`. Refuses nesting that would be unsafe to process.
    fn puts(&mut self, path: &Pointer, value: &Value) -> Result<(), Reason> {
        let Extent { levels, bytes } = extent(value);
        if path.keys.len() + levels > LEVELS_MAX {
            return Err(Reason::Refused(Rejection::TooDeep { max: LEVELS_MAX }));
        }
        self.counts(bytes)
    }

    fn counts(&mut self, bytes: usize) -> Result<(), Reason> {
        self.size = self.size.saturating_add(bytes);
        let (operation, size, max) = (self.operation, self.size, self.size_max);
        if size <= max {
            Ok(())
        } else {
            Err(Reason::Refused(Rejection::TooLarge { what: SizeLimit::Patch { operation }, size, max }))
        }
    }

    /// Returns the difference between `before` and the patched state.
    fn edit(self, before: &Map<String, Value>) -> Edit {
        let Self { state, written, seen, .. } = self;
        let mut objects = Vec::new();
        let mut patches: Map<String, Value> = Map::new();
        let mut update = Update::default();
        let mut last: Option<Location<'_>> = None;
        // A path sorts before all paths below it.
        for &(name, keys) in &written {
            if last.is_some_and(|(above, begin)| name == above && keys.starts_with(begin)) {
                continue;
            }
            last = Some((name, keys));
            let (old, new) = (at(before, (name, keys)), at(&state, (name, keys)));
            if new.is_some_and(Value::is_object) {
                objects.push(pointer(&(name, keys)));
            }
            match (keys.is_empty(), new) {
                (true, None) => *update.section_mut(name) = SectionPatch::Clear,
                _ => put(&mut patches, name.as_str(), keys.iter().map(|key| &**key), difference(old, new)),
            }
        }
        for name in SectionName::ALL {
            if let Some(Value::Object(members)) = patches.remove(name.as_str()) {
                *update.section_mut(name) = SectionPatch::Merge(members);
            }
        }
        Edit { update, seen: seen.iter().map(pointer).collect(), objects }
    }
}

fn place(path: &Pointer) -> Location<'_> {
    (path.section, &path.keys)
}

fn pointer(&(section, keys): &Location<'_>) -> Pointer {
    Pointer { section, keys: keys.to_vec() }
}

fn at<'s>(state: &'s Map<String, Value>, (section, keys): Location<'_>) -> Option<&'s Value> {
    let section = state.get(section.as_str());
    keys.iter().fold(section, |at, key| at?.as_object()?.get(&**key))
}

/// Returns the value that merges `old` into `new`. It has every leaf of `new`, changed or not, so that all count as
/// touched.
fn difference(old: Option<&Value>, new: Option<&Value>) -> Value {
    match (old, new) {
        (_, None) => Value::Null,
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let there = new.iter().map(|(key, value)| (key.clone(), difference(old.get(key), Some(value))));
            Value::Object(there.chain(gone).collect())
        }
        (_, Some(new)) => new.clone(),
    }
}

/// The depth and size of a value.
struct Extent {
    /// The levels of objects and arrays; 0 for a scalar.
    levels: usize,
    /// The approximate bytes of the JSON, plus eight for each value.
    bytes: usize,
}

fn extent(value: &Value) -> Extent {
    let (levels, bytes) = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => (0, 0),
        Value::String(text) => (0, text.len()),
        Value::Array(elements) => around(elements.iter().map(extent)),
        Value::Object(members) => around(members.iter().map(|(key, value)| {
            let Extent { levels, bytes } = extent(value);
            Extent { levels, bytes: 4 + key.len() + bytes }
        })),
    };
    Extent { levels, bytes: 8 + bytes }
}

/// Returns the levels and bytes of an array or object with these parts.
fn around(parts: impl Iterator<Item = Extent>) -> (usize, usize) {
    let (deepest, bytes) = parts.fold((0, 0), |(deepest, bytes), part| (part.levels.max(deepest), bytes + part.bytes));
    (1 + deepest, bytes)
}
