//! JSON Patch, RFC 6902, on `state` as its reader sees it.
//!
//! A patch is applied to the document that was read, which tells whether it fits and what it changes. What goes to the
//! engine is an update of just those paths, with conditions that hold exactly if the patch would come to the same on
//! the document it is decided against: what it touched has not changed (the update is to be *rebased*), and neither has
//! what it looked at (`Edit::seen`). So other writers of the shadow are no reason to refuse it, and none can come in between.
//!
//! A path leads into a section; the whole of `state` and a section that is no object are refused. Sections without
//! members are not there, as in what GET shows. No value may hold a null, which the contract has no place for.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::shadow::{
    Pointer, Rejection, SectionPatch, Update, Version,
    command::{Expectation, Expected},
    pointer::SectionName,
    same,
};

/// The most operations of a patch.
pub(super) const OPERATIONS_MAX: usize = 256;

/// Levels of objects and arrays that `state` may reach while a patch is applied; what it comes to has its own limit.
const LEVELS_MAX: usize = 72;

/// A patch that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Patch(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Add(Pointer, Value),
    Remove(Pointer),
    Replace(Pointer, Value),
    Move { from: Pointer, to: Pointer },
    Copy { from: Pointer, to: Pointer },
    Test(Pointer, Value),
}

/// What a patch comes to on the document it was applied to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edit {
    /// What it changes; merges and clears alone.
    pub(super) update: Update,
    /// Paths that `test`, `copy` and `move` looked at, which takes the right to read them.
    pub(super) seen: Vec<Pointer>,
    /// Paths that it gives an object: what else has come to be in there would stay.
    pub(super) objects: Vec<Pointer>,
    /// Sections that it writes into, which must not have lost their last member: they would not be there any more.
    pub(super) entered: Vec<SectionName>,
}

/// Why a patch does not fit a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Misfit {
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
    /// Bytes that may still be copied: copies of copies grow fast.
    copied_left: usize,
    copied_max: usize,
}

impl Patch {
    /// Reads the operations in `json`.
    ///
    /// # Errors
    ///
    /// A rejection of code 400 that names the operation, counted from 0.
    pub(super) fn read(json: Value) -> Result<Self, Rejection> {
        let Value::Array(operations) = json else { return Err(invalid("patch", "must be an array of operations")) };
        if operations.len() > OPERATIONS_MAX {
            return Err(invalid("patch", &format!("has more than {OPERATIONS_MAX} operations")));
        }
        let steps = operations.into_iter().enumerate().map(|(index, operation)| {
            let named = |reason: String| invalid(&format!("operation {index}"), &reason);
            step(operation).map_err(|fault| match fault {
                Fault::Reason(reason) => named(reason),
                Fault::Rejected(rejection) => rejection,
            })
        });
        steps.collect::<Result<_, _>>().map(Self)
    }

    /// The paths that it looks at: whether something is there, or what.
    pub(super) fn looks_at(&self) -> impl Iterator<Item = &Pointer> {
        self.0.iter().filter_map(|step| match step {
            Step::Add(..) => None,
            Step::Remove(path) | Step::Replace(path, _) | Step::Test(path, _) => Some(path),
            Step::Move { from, .. } | Step::Copy { from, .. } => Some(from),
        })
    }

    /// Applies it to `state`, which has the sections that have members. All of `bytes_max` may be copied once over.
    ///
    /// # Errors
    ///
    /// The first operation that does not fit, and the paths that were written or looked at up to it.
    pub(super) fn apply(&self, state: &Map<String, Value>, bytes_max: usize) -> Result<Edit, (Misfit, Vec<Pointer>)> {
        let mut work = Work {
            state: state.clone(),
            written: BTreeSet::new(),
            seen: BTreeSet::new(),
            copied_left: bytes_max,
            copied_max: bytes_max,
        };
        for step in &self.0 {
            if let Err(misfit) = work.apply(step) {
                return Err((misfit, work.written.into_iter().chain(work.seen).collect()));
            }
        }
        Ok(work.edit(state))
    }
}

/// What is wrong with one operation.
enum Fault {
    Reason(String),
    Rejected(Rejection),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

fn step(operation: Value) -> Result<Step, Fault> {
    let Value::Object(mut members) = operation else { return Err("must be an object".to_owned().into()) };
    let op = members.get("op").and_then(Value::as_str).ok_or_else(|| "'op' must be a string".to_owned())?.to_owned();
    let path = pointer(&members, "path")?;
    let mut value = || members.remove("value").ok_or_else(|| format!("'{op}' needs a 'value'"));
    Ok(match op.as_str() {
        "add" => Step::Add(path.clone(), storable(&path, value()?)?),
        "replace" => Step::Replace(path.clone(), storable(&path, value()?)?),
        "test" => Step::Test(path, value()?),
        "remove" => Step::Remove(path),
        "move" | "copy" => {
            let from = pointer(&members, "from")?;
            match op.as_str() {
                // RFC 6902 section 4.4.
                "move" if path != from && path.is_within(&from) => {
                    return Err("a value cannot be moved into itself".to_owned().into());
                }
                "move" => Step::Move { from, to: path },
                _ => Step::Copy { from, to: path },
            }
        }
        _ => {
            let op: String = op.chars().take(64).collect();
            return Err(format!("'{op}' is none of add, remove, replace, move, copy and test").into());
        }
    })
}

fn pointer(members: &Map<String, Value>, field: &str) -> Result<Pointer, Fault> {
    let text = members.get(field).and_then(Value::as_str).ok_or_else(|| format!("'{field}' must be a string"))?;
    text.parse().map_err(|error| {
        let text: String = text.chars().take(64).collect();
        Fault::Reason(format!("'{field}' is '{text}', {error}"))
    })
}

/// A value that a shadow may hold at `path`.
fn storable(path: &Pointer, value: Value) -> Result<Value, Fault> {
    if path.keys.is_empty() && !value.is_object() {
        return Err(Fault::Rejected(Rejection::InvalidSection(Some(path.section))));
    }
    let key = path.keys.last().map_or_else(|| path.section.as_str(), |key| key);
    match null_in(key, &value) {
        Some(key) => Err(Fault::Rejected(Rejection::InvalidNode { key: key.chars().take(64).collect() })),
        None => Ok(value),
    }
}

/// The key nearest above the first null in `value`.
fn null_in<'v>(key: &'v str, value: &'v Value) -> Option<&'v str> {
    match value {
        Value::Null => Some(key),
        Value::Array(elements) => elements.iter().find_map(|element| null_in(key, element)),
        Value::Object(members) => members.iter().find_map(|(key, member)| null_in(key, member)),
        _ => None,
    }
}

impl Edit {
    /// That nothing it looked at changed after `since`.
    pub(super) fn looks(&self, since: Version) -> impl Iterator<Item = Expectation> {
        self.seen.iter().map(move |path| Expectation { path: path.clone(), holds: Expected::Version(since) })
    }

    /// What else must hold for it to come to the same as at `since`, apart from what it touches.
    pub(super) fn guards(&self, since: Version) -> impl Iterator<Item = Expectation> {
        let unchanged = move |path: &Pointer| Expectation { path: path.clone(), holds: Expected::Version(since) };
        let present = |name: &SectionName| Expectation { path: Pointer::section(*name), holds: Expected::Present };
        self.objects.iter().map(unchanged).chain(self.entered.iter().map(present))
    }
}

impl Work {
    fn apply(&mut self, step: &Step) -> Result<(), Misfit> {
        match step {
            Step::Test(path, value) => {
                let found = self.look(path)?;
                if same(found, value) { Ok(()) } else { Err(Misfit::Different(path.clone())) }
            }
            Step::Add(path, value) => self.add(path, value.clone()),
            Step::Remove(path) => self.remove(path).map(|_| ()),
            Step::Replace(path, value) => {
                self.look_up(path)?;
                self.levels(path, value)?;
                *self.find(path)? = value.clone();
                self.wrote(path);
                Ok(())
            }
            Step::Copy { from, to } => {
                let value = self.look(from)?.clone();
                let size = weight(&value);
                let max = self.copied_max;
                self.copied_left = self
                    .copied_left
                    .checked_sub(size)
                    .ok_or(Misfit::Refused(Rejection::TooLarge { size: size.saturating_add(max), max }))?;
                self.add(to, value)
            }
            Step::Move { from, to } => {
                self.look_up(from)?;
                if from == to {
                    return Ok(());
                }
                self.seen.insert(from.clone());
                let value = self.remove(from)?;
                self.add(to, value)
            }
        }
    }

    /// What is at `path`, on which all that follows depends.
    fn look(&mut self, path: &Pointer) -> Result<&Value, Misfit> {
        self.seen.insert(path.clone());
        self.look_up(path)
    }

    fn look_up(&self, path: &Pointer) -> Result<&Value, Misfit> {
        let section = self.state.get(path.section.as_str());
        let found = path.keys.iter().fold(section, |at, key| match at? {
            Value::Object(members) => members.get(&**key),
            Value::Array(elements) => elements.get(index(key)?),
            _ => None,
        });
        found.ok_or_else(|| Misfit::Absent(path.clone()))
    }

    fn find(&mut self, path: &Pointer) -> Result<&mut Value, Misfit> {
        let section = self.state.get_mut(path.section.as_str());
        let found = path.keys.iter().fold(section, |at, key| match at? {
            Value::Object(members) => members.get_mut(&**key),
            Value::Array(elements) => elements.get_mut(index(key)?),
            _ => None,
        });
        found.ok_or_else(|| Misfit::Absent(path.clone()))
    }

    fn add(&mut self, path: &Pointer, value: Value) -> Result<(), Misfit> {
        self.levels(path, &value)?;
        let Some((last, parent)) = path.keys.split_last() else {
            if !value.is_object() {
                return Err(Misfit::Refused(Rejection::InvalidSection(Some(path.section))));
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
                    Some(place) => elements.insert(place, value),
                    None => return Err(Misfit::Absent(path.clone())),
                }
            }
            _ => return Err(Misfit::Absent(path.clone())),
        }
        Ok(())
    }

    fn remove(&mut self, path: &Pointer) -> Result<Value, Misfit> {
        self.wrote(path);
        let absent = || Misfit::Absent(path.clone());
        let Some((last, parent)) = path.keys.split_last() else {
            return self.state.remove(path.section.as_str()).ok_or_else(absent);
        };
        let parent = Pointer { section: path.section, keys: parent.to_vec() };
        match self.find(&parent).map_err(|_| absent())? {
            Value::Object(members) => members.remove(&**last).ok_or_else(absent),
            Value::Array(elements) => match index(last).filter(|place| *place < elements.len()) {
                Some(place) => Ok(elements.remove(place)),
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

    /// Refuses what would nest so deep that it is a danger to handle.
    fn levels(&self, path: &Pointer, value: &Value) -> Result<(), Misfit> {
        let levels = path.keys.len() + depth(value);
        if levels <= LEVELS_MAX { Ok(()) } else { Err(Misfit::Refused(Rejection::TooDeep { max: LEVELS_MAX })) }
    }

    /// What was written, against `before`.
    fn edit(self, before: &Map<String, Value>) -> Edit {
        let Self { state, written, seen, .. } = self;
        let mut objects = Vec::new();
        let mut patches: Map<String, Value> = Map::new();
        let mut update = Update::default();
        let mut entered = BTreeSet::new();
        let mut last: Option<&Pointer> = None;
        // A path comes before all that is below it.
        for path in &written {
            if last.is_some_and(|last| path.is_within(last)) {
                continue;
            }
            last = Some(path);
            let (old, new) = (at(before, path), at(&state, path));
            if !path.keys.is_empty() {
                entered.insert(path.section);
            }
            // Merged into an object, an object leaves there what it does not name.
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
        Edit { update, seen: seen.into_iter().collect(), objects, entered: entered.into_iter().collect() }
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

/// RFC 6901: digits without leading zeros.
fn index(key: &str) -> Option<usize> {
    let canonical = key == "0" || !key.starts_with(['0', '+']);
    key.parse().ok().filter(|_| canonical)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the bytes of its JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => 2 + text.len(),
        Value::Array(elements) => 2 + elements.iter().map(|element| 1 + weight(element)).sum::<usize>(),
        Value::Object(members) => 2 + members.iter().map(|(key, value)| 4 + key.len() + weight(value)).sum::<usize>(),
    }
}

fn invalid(field: &str, reason: &str) -> Rejection {
    Rejection::InvalidField { field: field.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
