//! What a requester asks of a shadow, parsed and typed.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::shadow::{
    change::{Change, Effect},
    document::Version,
    etag::Etag,
    idempotency::Keyed,
    json_patch::JsonPatch,
    pointer::{Pointer, SectionName},
};

/// A request that may change a shadow.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Merge or replace sections.
    Update(Update),
    /// Delete the shadow.
    Delete(Delete),
    /// Edit sections. It becomes an update when its turn comes, of what is there then.
    Patch(Patch),
}

impl Command {
    /// What it says of the state; `None`: it is a deletion. What a patch says is not known before its turn comes, which
    /// it does not where it is told again.
    #[must_use]
    pub fn said(&self) -> Option<Cow<'_, Update>> {
        match self {
            Self::Update(update) => Some(Cow::Borrowed(update)),
            Self::Patch(patch) => Some(Cow::Owned(Update { dry_run: patch.dry_run, ..Update::default() })),
            Self::Delete(_) => None,
        }
    }
}

/// An update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// What to do to each section.
    pub desired: SectionPatch,
    /// What to do to each section.
    pub reported: SectionPatch,
    /// What to do to each section.
    pub tags: SectionPatch,
    /// Whether the request said `"state": null`; the three patches are `Clear` then.
    pub state_is_null: bool,
    /// What must hold.
    pub preconditions: Preconditions,
    /// Replace each named section whole instead of merging.
    pub replace: bool,
    /// Takes a version even when no value changes, and moves the time of leaves that are sent again: the AWS dialect.
    pub touches: bool,
    /// Tell what would become of it, and do nothing.
    pub dry_run: bool,
    /// Under which key it may be sent again; [`Keyed::update`] and [`Keyed::delete`] make one.
    pub keyed: Option<Keyed>,
}

impl Update {
    /// The update that says what `changes` did, for telling of it in hindsight.
    #[must_use]
    pub fn of_changes(changes: &[Change]) -> Self {
        let mut update = Self::default();
        for change in changes {
            let patch = match change.path.section {
                SectionName::Desired => &mut update.desired,
                SectionName::Reported => &mut update.reported,
                SectionName::Tags => &mut update.tags,
            };
            patch.say(&change.path.keys, change);
        }
        update
    }

    /// What it does to one section.
    #[must_use]
    pub fn section(&self, name: SectionName) -> &SectionPatch {
        match name {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }

    /// The patches to the sections that it names, in the order documents show them.
    pub fn patches(&self) -> impl Iterator<Item = (SectionName, &SectionPatch)> {
        let all = SectionName::ALL.into_iter().map(|name| (name, self.section(name)));
        all.filter(|(_, patch)| **patch != SectionPatch::Keep)
    }
}

/// A deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delete {
    /// What must hold.
    pub preconditions: Preconditions,
    /// Under which key it may be sent again; [`Keyed::update`] and [`Keyed::delete`] make one.
    pub keyed: Option<Keyed>,
}

/// A JSON Patch; what it comes to depends on what is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// What is to be done, in turn.
    pub operations: JsonPatch,
    /// What must hold.
    pub preconditions: Preconditions,
    /// Tell what would become of it, and do nothing.
    pub dry_run: bool,
    /// Under which key it may be sent again; [`Keyed::edits`] makes one.
    pub keyed: Option<Keyed>,
}

/// What an update does to one section.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SectionPatch {
    /// The section is not named.
    #[default]
    Keep,
    /// The section is `null`: clear it.
    Clear,
    /// RFC 7396 merge, or with `replace` the new section.
    Merge(Map<String, Value>),
}

/// What must hold for a command to be accepted; nothing given: last write wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preconditions {
    /// The current version must be this one; 0: the shadow must not exist now.
    pub version: Option<Version>,
    /// The current etag must be this one. Kept as text: a tag of any form is compared, none but the current one is
    /// equal.
    pub etag: Option<EtagCondition>,
    /// The current etag must be none of these.
    pub none_of: Vec<Etag>,
    /// What becomes of the command if `version` is an earlier one.
    pub on_conflict: OnConflict,
    /// What must hold of single paths.
    pub expect: Vec<Expectation>,
}

/// What becomes of a command that expects an earlier version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// It is refused.
    #[default]
    Reject,
    /// It is accepted if no path that it touches changed since.
    Rebase,
}

/// What must hold of one path.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// Where. Its last keys may be indexes into an array.
    pub path: Pointer,
    /// What.
    pub holds: Expected,
}

/// What may be expected of a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// It did not change after this version.
    Version(Version),
    /// There is this value.
    Value(Value),
    /// There is nothing.
    Absent,
}

/// An etag a requester sent.
#[derive(Clone, Debug, PartialEq)]
pub enum EtagCondition {
    /// Well formed.
    Tag(Etag),
    /// Not of our form, so equal to no tag.
    Other(String),
    /// One of several must be the current one.
    OneOf(Vec<EtagCondition>),
    /// There must be a current one, whichever.
    Any,
}

impl SectionPatch {
    fn say(&mut self, keys: &[Box<str>], change: &Change) {
        let value = match (&change.effect, &change.replaced) {
            (Effect::Set(value), _) => value.clone(),
            (Effect::Touch, Some(same)) => same.value.clone(),
            (Effect::Touch, None) | (Effect::Remove, _) => Value::Null,
        };
        let Some((last, above)) = keys.split_last() else {
            *self = match value {
                Value::Object(members) => Self::Merge(members),
                _ => Self::Clear,
            };
            return;
        };
        if !matches!(self, Self::Merge(_)) {
            *self = Self::Merge(Map::new());
        }
        let Self::Merge(mut members) = std::mem::take(self) else { return };
        let mut inner = &mut members;
        for key in above {
            let member = inner.entry(&**key).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(object) = member else { return };
            inner = object;
        }
        inner.insert((**last).into(), value);
        *self = Self::Merge(members);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::{Pointer, change::Replaced};

    #[test]
    fn changes_are_told_as_an_update() {
        let change = |section, keys: &[&str], effect| {
            let path = Pointer { section, keys: keys.iter().map(|key| (*key).into()).collect() };
            Change { path, replaced: Some(Replaced { value: json!("was"), version: Version(1) }), effect }
        };
        let changes = [
            change(SectionName::Desired, &["a", "b"], Effect::Set(json!(1))),
            change(SectionName::Desired, &["a", "c"], Effect::Remove),
            change(SectionName::Desired, &["t"], Effect::Touch),
            change(SectionName::Reported, &[], Effect::Remove),
            change(SectionName::Tags, &[], Effect::Set(json!({"x": {"y": []}}))),
        ];
        let update = Update::of_changes(&changes);
        let merge = |value: Value| SectionPatch::Merge(value.as_object().unwrap().clone());
        assert_eq!(update.desired, merge(json!({"a": {"b": 1, "c": null}, "t": "was"})));
        assert_eq!(update.reported, SectionPatch::Clear);
        assert_eq!(update.tags, merge(json!({"x": {"y": []}})));
    }
}
