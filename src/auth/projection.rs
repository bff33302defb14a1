//! The part of a shadow that a reader may see, and the one place where that is applied.
//!
//! Everything that is rendered for somebody asks a projection for the parts of a document and never takes them from
//! the document itself. Two readers with equal projections are sent the same bytes, so a projection is also the key
//! under which a rendered event is shared.

use crate::shadow::{
    Document, Section, SectionPatch, Update,
    delta::{self, delta},
    pointer::SectionName,
    tree::Members,
};

/// Which sections of a shadow a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Projection {
    desired: bool,
    reported: bool,
    tags: bool,
}

impl Projection {
    /// Everything.
    pub const ALL: Self = Self { desired: true, reported: true, tags: true };

    /// What a device sees by default: all but the back end's notes.
    pub const STATE: Self = Self { desired: true, reported: true, tags: false };

    /// Nothing: such a reader still learns that there is a version.
    pub const NONE: Self = Self { desired: false, reported: false, tags: false };

    /// This projection and `section`.
    #[must_use]
    pub fn with(mut self, section: SectionName) -> Self {
        match section {
            SectionName::Desired => self.desired = true,
            SectionName::Reported => self.reported = true,
            SectionName::Tags => self.tags = true,
        }
        self
    }

    /// Whether `section` may be seen.
    #[must_use]
    pub fn reads(self, section: SectionName) -> bool {
        match section {
            SectionName::Desired => self.desired,
            SectionName::Reported => self.reported,
            SectionName::Tags => self.tags,
        }
    }

    /// The sections of `document` that are there and may be seen, in the order documents show them.
    pub fn sections(self, document: &Document) -> impl Iterator<Item = (SectionName, &Section)> {
        let visible = SectionName::ALL.into_iter().filter(move |&name| self.reads(name));
        visible.map(|name| (name, &**document.section(name))).filter(|(_, section)| !section.members.is_empty())
    }

    /// The delta of `document`. It tells of both sections, so it takes the right to see both.
    #[must_use]
    pub fn delta(self, document: &Document) -> Option<Members> {
        if self.reads_delta() { delta(document) } else { None }
    }

    /// Whether there is a delta to see.
    #[must_use]
    pub fn has_delta(self, document: &Document) -> bool {
        self.reads_delta() && delta::has_delta(document)
    }

    /// The patches of `update` to the sections that it names and that may be seen.
    pub fn patches(self, update: &Update) -> impl Iterator<Item = (SectionName, &SectionPatch)> {
        let visible = SectionName::ALL.into_iter().filter(move |&name| self.reads(name));
        visible.map(|name| (name, update.section(name))).filter(|(_, patch)| **patch != SectionPatch::Keep)
    }

    fn reads_delta(self) -> bool {
        self.desired && self.reported
    }
}
