//! Projections: the part of a shadow that a reader may see.
//!
//! All rendering for readers takes the parts of a document from a projection, never from the document itself. Readers
//! with equal projections receive equal bytes, so a projection is also the cache key of a rendered event.

use std::borrow::Cow;

use crate::shadow::{
    Change, Document, Etag, Paths, Pointer, Update,
    document::{delta, tree::Members},
    pointer::SectionName,
};

/// The paths of a shadow that a reader may see. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Projection(Paths);

impl Projection {
    /// All paths.
    pub const ALL: Self = Self(Paths::ALL);

    /// The default of a device: everything except `tags`.
    pub const STATE: Self = Self(Paths::STATE);

    /// No path. Such a reader still sees the version.
    pub const NONE: Self = Self(Paths::NONE);

    /// Returns this projection without `tags`, which the AWS dialect lacks.
    #[must_use]
    pub fn without_tags(&self) -> Self {
        Self(self.0.clone().without(SectionName::Tags))
    }

    /// Returns true if `path` and all paths below it are visible.
    #[must_use]
    pub fn reads(&self, path: &Pointer) -> bool {
        self.0.has(path)
    }

    /// Returns true if all of `desired` and `reported` is visible. Otherwise the etag covers only the visible part.
    #[must_use]
    pub fn reads_state(&self) -> bool {
        self.0.has_state()
    }

    /// Returns the visible part of `document`.
    #[must_use]
    pub fn document<'a>(&self, document: &'a Document) -> Cow<'a, Document> {
        document.seen(&self.0)
    }

    /// Returns the visible part of `document` for someone who only looks at values.
    #[must_use]
    pub fn values<'a>(&self, document: &'a Document) -> Cow<'a, Document> {
        document.values_seen(&self.0)
    }

    /// Returns the visible part of the delta. A path must be visible in both sections, since a delta reveals both.
    #[must_use]
    pub fn delta(&self, document: &Document) -> Option<Members> {
        document.delta_seen(&self.0)
    }

    /// Returns true if there is a visible delta; cheaper than computing it.
    #[must_use]
    pub fn has_delta(&self, document: &Document) -> bool {
        if self.reads_state() { delta::has_delta(document) } else { self.delta(document).is_some() }
    }

    /// Returns the visible effect of `change`; `None` if there is none.
    #[must_use]
    pub fn change<'a>(&self, change: &'a Change) -> Option<Cow<'a, Change>> {
        self.0.change(change)
    }

    /// Returns the etag of the visible part of `document`.
    #[must_use]
    pub fn etag(&self, document: &Document) -> Etag {
        document.etag_seen(&self.0)
    }

    /// Returns the visible paths.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.0
    }

    /// Returns the visible part of `update`.
    #[must_use]
    pub fn update<'a>(&self, update: &'a Update) -> Cow<'a, Update> {
        update.seen(&self.0)
    }
}

impl From<Paths> for Projection {
    fn from(paths: Paths) -> Self {
        Self(paths)
    }
}
