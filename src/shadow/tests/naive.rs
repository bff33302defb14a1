//! The oracle: the same rules written a second time, on plain values and without regard to speed.

use serde_json::{Map, Value};

use crate::shadow::{Pointer, SectionPatch, pointer::SectionName};

/// The values of the sections before or after an update.
pub(super) type State = [Map<String, Value>; 3];

/// Merges as the pseudo code of RFC 7396 does.
pub(super) fn merge_patch(target: Option<&Value>, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = target.and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            let merged = merge_patch(target.get(key), value);
            target.insert(key.clone(), merged);
        }
    }
    Value::Object(target)
}

/// Returns the section after a patch.
pub(super) fn section_after(current: &Map<String, Value>, patch: &SectionPatch, replace: bool) -> Map<String, Value> {
    match patch {
        SectionPatch::Keep => current.clone(),
        SectionPatch::Clear => Map::new(),
        SectionPatch::Merge(patch) => {
            let target = Value::Object(if replace { Map::new() } else { current.clone() });
            super::object(merge_patch(Some(&target), &Value::Object(patch.clone())))
        }
    }
}

/// Returns the canonical form from the other implementation.
pub(super) fn canonical(value: &Value) -> String {
    serde_json_canonicalizer::to_string(value).unwrap()
}

/// Returns true if a write that led from `before` to `after` changed `path`, by the definition. The value at the path
/// differs, or a value above it was removed, or a scalar or array above it appeared, ceased or changed.
pub(super) fn touched(path: &Pointer, before: &State, after: &State) -> bool {
    let at = |state: &State, depth: usize| {
        let section = SectionName::ALL.iter().position(|&name| name == path.section).unwrap();
        let section = Value::Object(state[section].clone());
        path.keys[..depth].iter().try_fold(section, |value, key| value.get(&**key).cloned())
    };
    let differ = |a: &Option<Value>, b: &Option<Value>| a.as_ref().map(canonical) != b.as_ref().map(canonical);
    let above = |depth: usize| match (at(before, depth), at(after, depth)) {
        (before, Some(after)) if !after.is_object() => differ(&before, &Some(after)),
        (Some(before), Some(_)) => !before.is_object(),
        (Some(_), None) => true,
        (None, _) => false,
    };
    let depth = path.keys.len();
    differ(&at(before, depth), &at(after, depth)) || (1..depth).any(above)
}
