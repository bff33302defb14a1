//! Commands to a shadow, parsed and typed.

pub mod conflicts;
pub mod decide;
pub mod idempotency;
pub(super) mod precondition;
pub mod rejection;
use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

use crate::shadow::{
    command::idempotency::Keyed,
    document::{
        Version,
        change::{Change, Effect},
        etag::Etag,
    },
    patch::JsonPatch,
    pointer::{Pointer, SectionName},
};

/// A text of at most 64 bytes by which a requester correlates replies. It is echoed on every message of the request. It
/// is no identity, and is not used to find duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientToken(Arc<str>);

/// A request that may change a shadow.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Merges or replaces sections.
    Update(Update),
    /// Deletes the shadow.
    Delete(Delete),
    /// Edits sections. The writer resolves it to an update of the document that is current at that moment.
    Patch(Patch),
}

impl ClientToken {
    /// The most bytes of a token.
    pub const BYTES_MAX: usize = 64;

    /// Returns the token `text`; `None` if it is too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (text.len() <= Self::BYTES_MAX).then(|| Self(text.into()))
    }

    /// Returns the token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Command {
    /// Returns the update that this command describes; `None` for a deletion. A patch is not resolved yet, so its
    /// update is empty.
    #[must_use]
    pub fn update(&self) -> Option<Cow<'_, Update>> {
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
    /// The edit of `desired`.
    pub desired: SectionPatch,
    /// The edit of `reported`.
    pub reported: SectionPatch,
    /// The edit of `tags`.
    pub tags: SectionPatch,
    /// True if the request had `"state": null`; the three patches are `Clear` then.
    pub state_is_null: bool,
    /// The conditions for accepting the update.
    pub preconditions: Preconditions,
    /// True to replace each named section instead of merging.
    pub replace: bool,
    /// True to take a version even if no value changes, and to refresh the time of leaves that are sent again (the AWS
    /// dialect).
    pub bumps: bool,
    /// True to report the outcome without applying it.
    pub dry_run: bool,
    /// The idempotency key and request digest, made by [`Keyed::update`] or [`Keyed::delete`].
    pub keyed: Option<Keyed>,
}

impl Update {
    /// Returns an update that describes `changes`, for rendering a change from the journal.
    #[must_use]
    pub fn of_changes(changes: &[Change]) -> Self {
        let mut update = Self::default();
        for change in changes {
            update.section_mut(change.path.section).record(&change.path.keys, change);
        }
        update
    }

    /// Returns the edit of the section `name`.
    #[must_use]
    pub fn section(&self, name: SectionName) -> &SectionPatch {
        match name {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }

    /// Returns the edit of the section `name` for changing it.
    pub(crate) fn section_mut(&mut self, name: SectionName) -> &mut SectionPatch {
        match name {
            SectionName::Desired => &mut self.desired,
            SectionName::Reported => &mut self.reported,
            SectionName::Tags => &mut self.tags,
        }
    }

    /// Returns the edits of the named sections, in the order of the JSON document.
    pub fn patches(&self) -> impl Iterator<Item = (SectionName, &SectionPatch)> {
        let all = SectionName::ALL.into_iter().map(|name| (name, self.section(name)));
        all.filter(|(_, patch)| **patch != SectionPatch::Keep)
    }
}

/// A deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delete {
    /// The conditions for accepting the deletion.
    pub preconditions: Preconditions,
    /// The idempotency key and request digest, made by [`Keyed::update`] or [`Keyed::delete`].
    pub keyed: Option<Keyed>,
}

/// A JSON Patch. The resulting update depends on the current document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// The operations, in order.
    pub operations: JsonPatch,
    /// The conditions for accepting the patch.
    pub preconditions: Preconditions,
    /// True to report the outcome without applying it.
    pub dry_run: bool,
    /// The idempotency key and request digest, made by [`Keyed::edits`].
    pub keyed: Option<Keyed>,
}

/// The edit of one section.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SectionPatch {
    /// Leaves the section as it is.
    #[default]
    Keep,
    /// Clears the section (JSON `null`).
    Clear,
    /// Merges these members (RFC 7396), or with `replace` sets them as the new section.
    Merge(Map<String, Value>),
}

/// The conditions under which a command is accepted. Without any, the last write wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preconditions {
    /// The required current version; 0 requires that the shadow does not exist.
    pub version: Option<Version>,
    /// The required current etag. A tag in any other form is kept as text and never equals the current one.
    pub etag: Option<EtagCondition>,
    /// The etags that the current document must not have.
    pub none_of: Vec<Etag>,
    /// The handling of a `version` that is not the newest.
    pub on_conflict: OnConflict,
    /// The conditions on single paths.
    pub expect: Vec<Expectation>,
}

/// The handling of a command that expects an earlier version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuses the command.
    #[default]
    Reject,
    /// Accepts the command if none of the paths it touches changed since that version.
    Rebase,
}

/// A condition on one path.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// The path. Its last keys may be array indexes.
    pub path: Pointer,
    /// The condition.
    pub holds: Expected,
}

/// The kinds of conditions on a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// The path did not change after this version.
    Version(Version),
    /// The path holds this value.
    Value(Value),
    /// The path is empty.
    Absent,
}

/// An etag condition sent by a requester.
#[derive(Clone, Debug, PartialEq)]
pub enum EtagCondition {
    /// A well-formed etag.
    Tag(Etag),
    /// A text that is not an etag of this server, so it never matches.
    Other(String),
    /// A list of which one must be the current etag.
    OneOf(Vec<EtagCondition>),
    /// Any etag: the shadow must exist.
    Any,
}

impl SectionPatch {
    fn record(&mut self, keys: &[Box<str>], change: &Change) {
        let value = match (&change.effect, &change.replaced) {
            (Effect::Set(value), _) => value.clone(),
            (Effect::Touch, Some(same)) => same.value.clone(),
            (Effect::Touch, None) | (Effect::Remove, _) => Value::Null,
        };
        let Some((first, below)) = keys.split_first() else {
            *self = match value {
                Value::Object(members) => Self::Merge(members),
                _ => Self::Clear,
            };
            return;
        };
        if !matches!(self, Self::Merge(_)) {
            *self = Self::Merge(Map::new());
        }
        if let Self::Merge(members) = self {
            put(members, first, below.iter().map(|key| &**key), value);
        }
    }
}

/// Sets `value` at the path of `first` and `below` in a merge patch, and creates the objects above it.
pub(crate) fn put<'k>(
    members: &mut Map<String, Value>,
    first: &str,
    below: impl Iterator<Item = &'k str>,
    value: Value,
) {
    let mut place = members.entry(first).or_insert(Value::Null);
    for key in below {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(members) = place else { return };
        place = members.entry(key).or_insert(Value::Null);
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::{Pointer, document::change::Replaced};

    #[test]
    fn a_command_describes_an_update_unless_it_deletes() {
        let dry = |dry_run| Command::Patch(Patch { dry_run, ..Patch::default() }).update().map(|update| update.dry_run);
        assert_eq!((dry(true), dry(false)), (Some(true), Some(false)));
        let update = Update { replace: true, ..Update::default() };
        assert_eq!(Command::Update(update.clone()).update().as_deref(), Some(&update));
        assert_eq!(Command::Delete(Delete::default()).update(), None);
    }

    #[test]
    fn changes_become_an_update() {
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
