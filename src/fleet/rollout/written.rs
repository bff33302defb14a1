//! The paths that a rollout wrote to a document, with their former values, and the update that restores these.
//!
//! *Invariant:* while every written path still has what the rollout wrote, the restoring update turns each of them into
//! what it was, and touches no other path.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::shadow::{Change, Document, Effect, Pointer, SectionPatch, Update, command::put};

/// A path that a rollout wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenPath {
    /// The path.
    pub path: Pointer,
    /// The value that was written; `None` if it was removed.
    pub now: Option<Value>,
    /// The former value; `None` if there was none.
    pub was: Option<Value>,
}

/// A written path in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    now: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    was: Option<Value>,
}

impl Serialize for WrittenPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record { path: self.path.to_string(), now: self.now.clone(), was: self.was.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WrittenPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Record { path, now, was } = Record::deserialize(deserializer)?;
        Ok(Self { path: path.parse().map_err(serde::de::Error::custom)?, now, was })
    }
}

/// Returns the paths that `changes` wrote. A section that appeared or disappeared is written member by member, so that
/// members that others add are left alone.
#[must_use]
pub fn written(changes: &[Change]) -> Vec<WrittenPath> {
    let mut paths = Vec::new();
    for change in changes {
        let was = change.replaced.as_ref().map(|replaced| replaced.value.clone());
        let now = match &change.effect {
            Effect::Set(value) => Some(value.clone()),
            Effect::Remove => None,
            Effect::Touch => continue,
        };
        match (&change.path.keys[..], &now, &was) {
            ([], Some(Value::Object(members)), None) => {
                let path = |key: &String, value: &Value| (change.path.member(key), Some(value.clone()), None);
                paths.extend(members.iter().map(|(key, value)| path(key, value)));
            }
            ([], None, Some(Value::Object(members))) => {
                let path = |key: &String, value: &Value| (change.path.member(key), None, Some(value.clone()));
                paths.extend(members.iter().map(|(key, value)| path(key, value)));
            }
            _ => paths.push((change.path.clone(), now, was)),
        }
    }
    paths.into_iter().map(|(path, now, was)| WrittenPath { path, now, was }).collect()
}

/// Returns the update of `current` that restores the former values of `paths`.
///
/// # Errors
///
/// The first path that does not have what was written any more.
pub fn restoring(paths: &[WrittenPath], current: &Document) -> Result<Update, Pointer> {
    let mut update = Update::default();
    for WrittenPath { path, now, was } in paths {
        let is_same = match (now, current.find(path)) {
            (None, None) => true,
            (Some(now), Some(found)) => found.is(now),
            _ => false,
        };
        let Some((first, below)) = path.keys.split_first().filter(|_| is_same) else { return Err(path.clone()) };
        let section = update.section_mut(path.section);
        if !matches!(section, SectionPatch::Merge(_)) {
            *section = SectionPatch::Merge(Map::new());
        }
        if let SectionPatch::Merge(members) = section {
            put(members, first, below.iter().map(|key| &**key), difference(now.as_ref(), was.as_ref()));
        }
    }
    Ok(update)
}

/// Returns the merge patch (RFC 7396) that turns `now` into `was`.
fn difference(now: Option<&Value>, was: Option<&Value>) -> Value {
    match (now, was) {
        (_, None) => Value::Null,
        (Some(Value::Object(now)), Some(Value::Object(was))) => {
            let removed = now.keys().filter(|key| !was.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let changed = was.iter().filter(|(key, value)| now.get(*key) != Some(value));
            let changed = changed.map(|(key, value)| (key.clone(), difference(now.get(key), Some(value))));
            Value::Object(removed.chain(changed).collect())
        }
        (_, Some(was)) => was.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::shadow::{
        Command, Decision, DocumentLimits, Scope, Sender, SenderLogin, Timestamp, decide, pointer::SectionName,
    };

    fn apply(document: &Document, update: Update) -> Option<(Document, Vec<Change>)> {
        let author = Sender { by: "a".into(), scope: Scope::ALL, login: SenderLogin::default() };
        let limits = DocumentLimits::default();
        match decide(document, &Command::Update(update), &author, Timestamp(1), &limits).unwrap() {
            Decision::Changed { document, changes } => Some((document, changes)),
            Decision::Unchanged => None,
        }
    }

    fn merge(desired: &Value) -> Update {
        let Value::Object(members) = desired else { panic!("an object") };
        Update { desired: SectionPatch::Merge(members.clone()), ..Update::default() }
    }

    fn state(document: &Document) -> Value {
        document.find(&Pointer::section(SectionName::Desired)).map_or(Value::Null, |found| found.to_value())
    }

    fn object(nulls: bool) -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![(0..3).prop_map(|n| json!(n)), Just(json!([1, {"x": 2}])), Just(json!({}))];
        let leaf = if nulls { prop_oneof![scalar, Just(Value::Null)].boxed() } else { scalar.boxed() };
        let members = |inner: BoxedStrategy<Value>| {
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|members| json!(members)).boxed()
        };
        members(leaf.prop_recursive(3, 24, 4, move |inner| members(inner.boxed())).boxed())
    }

    proptest! {
        /// Whatever the rollout wrote to whatever document is undone exactly, and through the store's form as well.
        #[test]
        fn the_former_values_come_back(before in object(false), patch in object(true)) {
            let start = apply(&Document::absent(), merge(&before)).unwrap().0;
            if let Some((after, changes)) = apply(&start, merge(&patch)) {
                let text = serde_json::to_string(&written(&changes)).unwrap();
                let paths: Vec<WrittenPath> = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(&paths, &written(&changes));
                let undo = restoring(&paths, &after).unwrap();
                let end = apply(&after, undo).map_or(after, |(document, _)| document);
                prop_assert_eq!(state(&end), state(&start));
            }
        }
    }

    #[test]
    fn changes_of_others_are_seen_and_left_alone() {
        for (before, patch, other, expected) in [
            (json!({"a": 1}), json!({"a": 2}), json!({"b": 5}), Ok(json!({"a": 1, "b": 5}))),
            (json!({"a": 1}), json!({"a": 2}), json!({"a": 3}), Err("/desired/a")),
            (json!({"a": 1}), json!({"a": 2}), json!({"a": null}), Err("/desired/a")),
            (json!({"a": 1}), json!({"a": null, "x": 1}), json!({"a": 4}), Err("/desired/a")),
            (json!({}), json!({"a": 2}), json!({"b": 5}), Ok(json!({"b": 5}))),
            (
                json!({"a": {"b": 1}}),
                json!({"a": {"c": 2}}),
                json!({"a": {"d": 3}}),
                Ok(json!({"a": {"b": 1, "d": 3}})),
            ),
            (json!({"a": 1}), json!({"a": null}), json!({"b": 5}), Ok(json!({"a": 1, "b": 5}))),
        ] {
            let start = apply(&Document::absent(), merge(&before)).unwrap().0;
            let (after, changes) = apply(&start, merge(&patch)).unwrap();
            let others = apply(&after, merge(&other)).unwrap().0;
            let undone = restoring(&written(&changes), &others);
            let undone = undone.map(|undo| state(&apply(&others, undo).unwrap().0)).map_err(|path| path.to_string());
            assert_eq!(undone, expected.map_err(str::to_owned), "{before} {patch} {other}");
        }
    }
}
