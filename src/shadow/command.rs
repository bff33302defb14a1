//! What a requester asks of a shadow, parsed and typed.

use serde_json::{Map, Value};

use crate::shadow::{document::Version, etag::Etag, pointer::SectionName};

/// A request that may change a shadow.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Merge or replace sections.
    Update(Update),
    /// Delete the shadow.
    Delete(Delete),
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
}

impl Update {
    /// What it does to one section.
    #[must_use]
    pub fn section(&self, name: SectionName) -> &SectionPatch {
        match name {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }
}

/// A deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delete {
    /// What must hold.
    pub preconditions: Preconditions,
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
    /// The current etag must be this one. Kept as text: a tag of any form is compared, none but the current one is equal.
    pub etag: Option<EtagCondition>,
}

/// An etag a requester sent.
#[derive(Clone, Debug, PartialEq)]
pub enum EtagCondition {
    /// Well formed.
    Tag(Etag),
    /// Not of our form, so equal to no tag.
    Other(String),
}
