//! JSON Patch, RFC 6902, on `state` as its sender sees it.
//!
//! Operations are applied in turn to a copy of the sections; what comes out is the update that does the same, for the
//! document the copy was made of. That document has to be the one the update is decided against ([`Patch::resolve`]).
//!
//! A path leads into a section; a section that is no object is refused. Sections without members are not there, as in
//! what GET shows. That no value holds a null, which the contract has no place for, was settled before.
//!
//! This runs on the writer's thread, so what it may take is bounded: the number of operations, what all of them put
//! there, the levels that this reaches, and what is gone through to move values about.
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
struct Work {
    state: Map<String, Value>,
    written: BTreeSet<Pointer>,
    seen: BTreeSet<Pointer>,
    /// Bytes that were put there, and how many may be: copies of copies grow fast.
    put: usize,
    put_max: usize,
    /// Values that were gone through only because others moved.
    moved: usize,
}

/// The most operations of a patch.
pub const OPERATIONS_MAX: usize = 256;

/// Elements along which an array is moved in the time that going through one value takes.
const ALONG: usize = 8;

/// Levels of objects and arrays that `state` may reach while a patch is applied, and keys that a path may have; what it
/// comes to has its own limit.
pub const LEVELS_MAX: usize = 72;

/// Values that all operations of a patch together may go through to move what is there: down to other levels, or along
/// an array, eight elements of which count as one. All leaves of a shadow as shipped may be moved by each operation.
pub const MOVED_MAX: usize = OPERATIONS_MAX * 1024;

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

    /// Applies it to `state`, which has the sections that it names and that have members. At most `put_max` bytes may
    /// be put there.
    ///
    /// # Errors
    ///
    /// The first operation that does not fit.
    pub(super) fn apply(&self, state: &Map<String, Value>, put_max: usize) -> Result<Edit, Misfit> {
        let (written, seen) = (BTreeSet::new(), BTreeSet::new());
        let mut work = Work { state: state.clone(), written, seen, put: 0, put_max, moved: 0 };
        for (number, operation) in self.0.iter().enumerate() {
            if let Err(reason) = work.apply(operation).and_then(|()| work.has_moved(number)) {
                return Err(Misfit { reason, paths: work.written.into_iter().chain(work.seen).collect() });
            }
        }
        Ok(work.edit(state))
    }
}

impl Work {
    fn apply(&mut self, operation: &Operation) -> Result<(), Reason> {
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
                self.seen.insert(from.clone());
                let value = self.remove(from)?;
                // Looking through a large value takes long, and where it nests no deeper it is not needed.
                if to.keys.len() > from.keys.len() {
                    self.moved += levels(to, &value)?;
                }
                self.add(to, value)
            }
        }
    }

    /// Refuses what moves too much, operation `number` being the last.
    fn has_moved(&self, number: usize) -> Result<(), Reason> {
        if self.moved <= MOVED_MAX {
            return Ok(());
        }
        let reason = format!("would, with those before it, move more than {MOVED_MAX} values");
        Err(Reason::Refused(Rejection::InvalidField { field: format!("operation {number}"), reason }))
    }

    /// What is at `path`, on which all that follows depends.
    fn look(&mut self, path: &Pointer) -> Result<&Value, Reason> {
        self.seen.insert(path.clone());
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
        let section = self.state.get_mut(path.section.as_str());
        let found = path.keys.iter().fold(section, |at, key| match at? {
            Value::Object(members) => members.get_mut(&**key),
            Value::Array(elements) => elements.get_mut(index(key)?),
            _ => None,
        });
        found.ok_or_else(|| Reason::Absent(path.clone()))
    }

    fn add(&mut self, path: &Pointer, value: Value) -> Result<(), Reason> {
        let Some((last, parent)) = path.keys.split_last() else {
            if !value.is_object() {
                return Err(Reason::Refused(Rejection::InvalidSection(Some(path.section))));
            }
            self.wrote(path);
            self.state.insert(path.section.as_str().to_owned(), value);
            return Ok(());
        };
        let parent = Pointer { section: path.section, keys: parent.to_vec() };
        self.wrote(path);
        match self.find(&parent)? {
            Value::Object(members) => _ = members.insert((**last).into(), value),
            Value::Array(elements) => {
                let place = if &**last == "-" { Some(elements.len()) } else { index(last) };
                match place.filter(|place| *place <= elements.len()) {
                    Some(place) => {
                        let after = elements.len() - place;
                        elements.insert(place, value);
                        self.moved += after / ALONG;
                    }
                    None => return Err(Reason::Absent(path.clone())),
                }
            }
            _ => return Err(Reason::Absent(path.clone())),
        }
        Ok(())
    }

    fn remove(&mut self, path: &Pointer) -> Result<Value, Reason> {
        self.wrote(path);
        let absent = || Reason::Absent(path.clone());
        let Some((last, parent)) = path.keys.split_last() else {
            return self.state.remove(path.section.as_str()).ok_or_else(absent);
        };
        let parent = Pointer { section: path.section, keys: parent.to_vec() };
        match self.find(&parent).map_err(|_| absent())? {
            Value::Object(members) => members.remove(&**last).ok_or_else(absent),
            Value::Array(elements) => match index(last).filter(|place| *place < elements.len()) {
                Some(place) => {
                    let (value, after) = (elements.remove(place), elements.len() - place);
                    self.moved += after / ALONG;
                    Ok(value)
                }
                None => Err(absent()),
            },
            _ => Err(absent()),
        }
    }

    /// Notes that `path` is written. An array is one value, so it is written whole.
    fn wrote(&mut self, path: &Pointer) {
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
        let keys = path.keys.get(..length).unwrap_or_default().to_vec();
        self.written.insert(Pointer { section: path.section, keys });
    }

    /// Counts what is put at `path`, where there was nothing of it before.
    fn puts(&mut self, path: &Pointer, value: &Value) -> Result<(), Reason> {
        levels(path, value)?;
        let (size, max) = (self.put.saturating_add(json_bytes(value)), self.put_max);
        self.put = size;
        if size <= max {
            Ok(())
        } else {
            Err(Reason::Refused(Rejection::TooLarge { what: Measured::Patch, size, max }))
        }
    }

    /// What was written, against `before`.
    fn edit(self, before: &Map<String, Value>) -> Edit {
        let Self { state, written, seen, .. } = self;
        let mut objects = Vec::new();
        let mut patches: Map<String, Value> = Map::new();
        let mut update = Update::default();
        let mut last: Option<&Pointer> = None;
        // A path comes before all that is below it.
        for path in &written {
            if last.is_some_and(|last| path.is_within(last)) {
                continue;
            }
            last = Some(path);
            let (old, new) = (at(before, path), at(&state, path));
            if new.is_some_and(Value::is_object) {
                objects.push(path.clone());
            }
            match (path.keys.is_empty(), new) {
                (true, None) => *section(&mut update, path.section) = SectionPatch::Clear,
                _ => put(&mut patches, path, difference(old, new)),
            }
        }
        for name in SectionName::ALL {
            if let Some(Value::Object(members)) = patches.remove(name.as_str()) {
                *section(&mut update, name) = SectionPatch::Merge(members);
            }
        }
        Edit { update, seen: seen.into_iter().collect(), objects }
    }
}

fn section(update: &mut Update, name: SectionName) -> &mut SectionPatch {
    match name {
        SectionName::Desired => &mut update.desired,
        SectionName::Reported => &mut update.reported,
        SectionName::Tags => &mut update.tags,
    }
}

fn at<'s>(state: &'s Map<String, Value>, path: &Pointer) -> Option<&'s Value> {
    let section = state.get(path.section.as_str());
    path.keys.iter().fold(section, |at, key| at?.as_object()?.get(&**key))
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

/// Puts `value` at `path` of a merge patch; above it there are objects in the document, before and after.
fn put(patches: &mut Map<String, Value>, path: &Pointer, value: Value) {
    let mut place = patches.entry(path.section.as_str()).or_insert_with(|| Value::Object(Map::new()));
    for key in &path.keys {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(members) = place else { return };
        place = members.entry(&**key).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = value;
}

/// Refuses what would nest so deep that it is a danger to handle. Returns how many values it went through.
fn levels(path: &Pointer, value: &Value) -> Result<usize, Reason> {
    let mut count = 0;
    let levels = path.keys.len() + depth(value, &mut count);
    if levels <= LEVELS_MAX { Ok(count) } else { Err(Reason::Refused(Rejection::TooDeep { max: LEVELS_MAX })) }
}

fn depth(value: &Value, count: &mut usize) -> usize {
    *count += 1;
    match value {
        Value::Array(elements) => 1 + elements.iter().map(|element| depth(element, count)).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(|member| depth(member, count)).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the bytes of its JSON.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => 2 + text.len(),
        Value::Array(elements) => 2 + elements.iter().map(|element| 1 + json_bytes(element)).sum::<usize>(),
        Value::Object(members) => {
            2 + members.iter().map(|(key, value)| 4 + key.len() + json_bytes(value)).sum::<usize>()
        }
    }
}
