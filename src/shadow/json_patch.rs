//! JSON Patch, RFC 6902, on `state` as its sender sees it.
//!
//! Operations are applied in turn to a copy of the sections; what comes out is the update that does the same, for the
//! document the copy was made of. That document has to be the one the update is decided against ([`Patch::resolve`]).
//!
//! A path leads into a section; a section that is no object is refused. Sections without members are not there, as in
//! what GET shows. That no value holds a null, which the contract has no place for, was settled before.
//!
//! This runs on the writer's thread, so what it may take is bounded: the number of operations, the levels that what
//! they put there reaches, and what there is to do beyond reading the patch and the state. Of that is counted each
//! value that is put somewhere, with its bytes, and each element of an array that makes way. A `move` that leads no
//! deeper does not look into what it moves.
//!
//! [`Patch::resolve`]: crate::shadow::command::Patch::resolve

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::shadow::{
    command::{SectionPatch, Update},
    equality::same,
    find::index,
    pointer::{Pointer, SectionName},
    rejection::{Measured, Rejection},
};

/// The operations of a patch, at most [`OPERATIONS_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonPatch(Vec<Operation>);

/// One operation. Values hold no null.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Puts a value into an object or array, or a section there.
    Add(Pointer, Value),
    /// Takes away what is there.
    Remove(Pointer),
    /// Puts a value in the place of what is there.
    Replace(Pointer, Value),
    /// Takes away what is at `from` and adds it.
    Move {
        /// Where it is.
        from: Pointer,
        /// Where it is added.
        to: Pointer,
    },
    /// Adds what is at `from`.
    Copy {
        /// Where it is.
        from: Pointer,
        /// Where it is added.
        to: Pointer,
    },
    /// There must be this value.
    Test(Pointer, Value),
}

/// What a patch comes to on the state it was applied to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edit {
    /// What it changes; merges and clears alone.
    pub(super) update: Update,
    /// Paths that `test`, `copy` and `move` looked at.
    pub(super) seen: Vec<Pointer>,
    /// Paths that it gives an object: all that was in there counts as touched.
    pub(super) objects: Vec<Pointer>,
}

/// A patch that does not fit a state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Misfit {
    /// Why its first operation that does not fit does not.
    pub(super) reason: Reason,
    /// What was written or looked at up to there.
    pub(super) paths: Vec<Pointer>,
}

/// Why an operation does not fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reason {
    /// There is nothing at this path, and there would have to be.
    Absent(Pointer),
    /// There is something else at this path than a `test` says.
    Different(Pointer),
    /// It would make something that no shadow can be.
    Refused(Rejection),
}

/// A patch in the middle of being applied.
struct Work<'p> {
    state: Map<String, Value>,
    written: BTreeSet<Place<'p>>,
    seen: BTreeSet<Place<'p>>,
    /// The number of the operation.
    operation: usize,
    /// Bytes that were put and elements that made way, eight to the byte, and how many may be.
    size: usize,
    size_max: usize,
}

/// A path of an operation, or the beginning of one.
type Place<'p> = (SectionName, &'p [Box<str>]);

/// The most operations of a patch.
pub const OPERATIONS_MAX: usize = 256;

/// Levels of objects and arrays that `state` may reach while a patch is applied, and keys that a path may have; what it
/// comes to has its own limit.
pub const LEVELS_MAX: usize = 72;

impl JsonPatch {
    /// These operations in turn; `None`: there are too many.
    #[must_use]
    pub fn new(operations: Vec<Operation>) -> Option<Self> {
        (operations.len() <= OPERATIONS_MAX).then_some(Self(operations))
    }

    /// The paths that it looks at: whether something is there, or what.
    pub fn looks_at(&self) -> impl Iterator<Item = &Pointer> {
        self.0.iter().filter_map(|operation| match operation {
            Operation::Add(..) => None,
            Operation::Remove(path) | Operation::Replace(path, _) | Operation::Test(path, _) => Some(path),
            Operation::Move { from, .. } | Operation::Copy { from, .. } => Some(from),
        })
    }

    /// Whether a path of it leads into `section`.
    pub(super) fn names(&self, section: SectionName) -> bool {
        self.0.iter().any(|operation| match operation {
            Operation::Add(path, _)
            | Operation::Remove(path)
            | Operation::Replace(path, _)
            | Operation::Test(path, _) => path.section == section,
            Operation::Move { from, to } | Operation::Copy { from, to } => {
                [from, to].iter().any(|path| path.section == section)
            }
        })
    }

    /// Applies it to `state`, which has the sections that it names and that have members. What it puts there may come
    /// to `size_max` bytes; see the module for what counts.
    ///
    /// # Errors
    ///
    /// The first operation that does not fit.
    pub(super) fn apply(&self, state: &Map<String, Value>, size_max: usize) -> Result<Edit, Misfit> {
        let (written, seen) = (BTreeSet::new(), BTreeSet::new());
        let mut work = Work { state: state.clone(), written, seen, operation: 0, size: 0, size_max };
        for (number, operation) in self.0.iter().enumerate() {
            work.operation = number;
            if let Err(reason) = work.apply(operation) {
                return Err(Misfit { reason, paths: work.written.iter().chain(&work.seen).map(pointer).collect() });
            }
        }
        Ok(work.edit(state))
    }
}

impl<'p> Work<'p> {
    fn apply(&mut self, operation: &'p Operation) -> Result<(), Reason> {
        match operation {
            Operation::Test(path, value) => {
                let found = self.look(path)?;
                if same(found, value) { Ok(()) } else { Err(Reason::Different(path.clone())) }
            }
            Operation::Add(path, value) => {
                self.puts(path, value)?;
                self.add(path, value.clone())
            }
            Operation::Remove(path) => self.remove(path).map(|_| ()),
            Operation::Replace(path, value) => {
                self.look_up(path)?;
                self.puts(path, value)?;
                *self.find(path)? = value.clone();
                self.wrote(path);
                Ok(())
            }
            Operation::Copy { from, to } => {
                let value = self.look(from)?.clone();
                self.puts(to, &value)?;
                self.add(to, value)
            }
            Operation::Move { from, to } => {
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

    /// What is at `path`, on which all that follows depends.
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

    fn find_at(&mut self, (section, keys): Place<'_>) -> Option<&mut Value> {
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

    /// Notes that `path` is written. An array is one value, so it is written whole.
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

    /// Counts what is put at `path`, and refuses what would nest so deep that it is a danger to handle.
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
            Err(Reason::Refused(Rejection::TooLarge { what: Measured::Patch { operation }, size, max }))
        }
    }

    /// What was written, against `before`.
    fn edit(self, before: &Map<String, Value>) -> Edit {
        let Self { state, written, seen, .. } = self;
        let mut objects = Vec::new();
        let mut patches: Map<String, Value> = Map::new();
        let mut update = Update::default();
        let mut last: Option<Place<'_>> = None;
        // A path comes before all that is below it.
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
                (true, None) => *section(&mut update, name) = SectionPatch::Clear,
                _ => put(&mut patches, (name, keys), difference(old, new)),
            }
        }
        for name in SectionName::ALL {
            if let Some(Value::Object(members)) = patches.remove(name.as_str()) {
                *section(&mut update, name) = SectionPatch::Merge(members);
            }
        }
        Edit { update, seen: seen.iter().map(pointer).collect(), objects }
    }
}

fn section(update: &mut Update, name: SectionName) -> &mut SectionPatch {
    match name {
        SectionName::Desired => &mut update.desired,
        SectionName::Reported => &mut update.reported,
        SectionName::Tags => &mut update.tags,
    }
}

fn place(path: &Pointer) -> Place<'_> {
    (path.section, &path.keys)
}

fn pointer(&(section, keys): &Place<'_>) -> Pointer {
    Pointer { section, keys: keys.to_vec() }
}

fn at<'s>(state: &'s Map<String, Value>, (section, keys): Place<'_>) -> Option<&'s Value> {
    let section = state.get(section.as_str());
    keys.iter().fold(section, |at, key| at?.as_object()?.get(&**key))
}

/// What merges `old` into `new`; every leaf of `new` is in it, changed or not, so that it counts as touched.
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

/// Puts `value` at a place of a merge patch; above it there are objects in the document, before and after.
fn put(patches: &mut Map<String, Value>, (section, keys): Place<'_>, value: Value) {
    let mut place = patches.entry(section.as_str()).or_insert_with(|| Value::Object(Map::new()));
    for key in keys {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(members) = place else { return };
        place = members.entry(&**key).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = value;
}

/// How far a value goes.
struct Extent {
    /// Levels of objects and arrays; a scalar has none.
    levels: usize,
    /// About the bytes of its JSON, and eight for each value.
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

/// The levels and bytes of an array or object around these.
fn around(parts: impl Iterator<Item = Extent>) -> (usize, usize) {
    let (deepest, bytes) = parts.fold((0, 0), |(deepest, bytes), part| (part.levels.max(deepest), bytes + part.bytes));
    (1 + deepest, bytes)
}
