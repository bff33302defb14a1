//! The document that an update makes, and the paths that it changes, on plain values.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use umbrad::shadow::{Command, Document, Pointer, SectionPatch, pointer::SectionName};

/// The values of the three sections.
pub type State = [Map<String, Value>; 3];

/// The values of `document`.
#[must_use]
pub fn state(document: &Document) -> State {
    SectionName::ALL.map(|name| document.section(name).values())
}

/// The values after `command`.
#[must_use]
pub fn after(state: &State, command: &Command) -> State {
    let Command::Update(update) = command else { return State::default() };
    let mut sections = state.clone();
    for (name, section) in SectionName::ALL.into_iter().zip(&mut sections) {
        match update.section(name) {
            SectionPatch::Keep => {}
            SectionPatch::Clear => section.clear(),
            SectionPatch::Merge(patch) => {
                if update.replace {
                    section.clear();
                }
                merge(section, patch);
            }
        }
    }
    sections
}

/// RFC 7396.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => _ = target.remove(key),
            Value::Object(patch) => {
                let mut inner = match target.remove(key) {
                    Some(Value::Object(inner)) => inner,
                    _ => Map::new(),
                };
                merge(&mut inner, patch);
                target.insert(key.clone(), Value::Object(inner));
            }
            value => _ = target.insert(key.clone(), value.clone()),
        }
    }
}

/// RFC 8785.
#[must_use]
pub fn canonical(value: &Value) -> String {
    serde_json_canonicalizer::to_string(value).expect("JSON has a canonical form")
}

/// The canonical form of each section.
#[must_use]
pub fn canonical_state(state: &State) -> [String; 3] {
    state.each_ref().map(|section| canonical(&Value::Object(section.clone())))
}

/// The etag of `state` at `version`, as `docs/protocol.md` defines it.
#[must_use]
pub fn etag(state: &State, version: u64) -> String {
    let [desired, reported, _] = canonical_state(state);
    let digest = Sha256::digest(format!("{{\"desired\":{desired},\"reported\":{reported}}}"));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{version}-{hex}\"")
}

/// Leaves: scalars, empty objects, and arrays by their elements.
#[must_use]
pub fn leaves(value: &Value) -> usize {
    match value {
        Value::Array(elements) if !elements.is_empty() => elements.iter().map(leaves).sum(),
        Value::Object(members) if !members.is_empty() => members.values().map(leaves).sum(),
        _ => 1,
    }
}

/// Returns true if a write that made `after` of `before` changed `path`: it or something below it is another value, or a
/// value above it was removed, or turned into another kind, or is another scalar or array.
#[must_use]
pub fn touched(path: &Pointer, before: &State, after: &State) -> bool {
    let section = SectionName::ALL.iter().position(|name| *name == path.section).expect("one of the three");
    let at = |state: &State, depth: usize| {
        let section = Value::Object(state[section].clone());
        path.keys[..depth].iter().try_fold(section, |value, key| value.get(&**key).cloned())
    };
    let differ = |depth: usize| at(before, depth).as_ref().map(canonical) != at(after, depth).as_ref().map(canonical);
    let is_object = |value: &Value| value.is_object();
    let above = |depth: usize| match (at(before, depth), at(after, depth)) {
        (_, Some(after)) if !is_object(&after) => differ(depth),
        (Some(before), Some(_)) => !is_object(&before),
        (before, None) => before.is_some(),
        (None, Some(_)) => false,
    };
    differ(path.keys.len()) || (1..path.keys.len()).any(above)
}
