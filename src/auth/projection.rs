//! The part of a shadow that a reader may see, and the one place where that is applied.
//!
//! Everything that is rendered for somebody asks a projection for the parts of a document and never takes them from
//! the document itself. Two readers with equal projections are sent the same bytes, so a projection is also the key
//! under which a rendered event is shared.

use std::borrow::Cow;

use crate::shadow::{Change, Document, Etag, Paths, Pointer, Update, delta, pointer::SectionName, tree::Members};

/// Which paths of a shadow a reader may see. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Projection(Paths);

impl Projection {
    /// Everything.
    pub const ALL: Self = Self(Paths::ALL);

    /// What a device sees by default: all but the back end's notes.
    pub const STATE: Self = Self(Paths::STATE);

    /// Nothing: such a reader still learns that there is a version.
    pub const NONE: Self = Self(Paths::NONE);

    /// This one without `tags`, which the AWS dialect has not.
    #[must_use]
    pub fn without_tags(&self) -> Self {
        Self(self.0.clone().without(SectionName::Tags))
    }

    /// Whether `path` may be seen, and all below it.
    #[must_use]
    pub fn reads(&self, path: &Pointer) -> bool {
        self.0.has(path)
    }

    /// Whether all of `desired` and `reported` may be seen. Who may not is told an etag of what may be.
    #[must_use]
    pub fn reads_state(&self) -> bool {
        self.0.has_state()
    }

    /// What may be seen of `document`.
    #[must_use]
    pub fn document<'a>(&self, document: &'a Document) -> Cow<'a, Document> {
        document.seen(&self.0)
    }

    /// What may be seen of the delta of `document`. It tells of both sections, so it takes the right to see both.
    #[must_use]
    pub fn delta(&self, document: &Document) -> Option<Members> {
        document.delta_seen(&self.0)
    }

    /// Whether there is a delta to see; cheaper than asking for it.
    #[must_use]
    pub fn has_delta(&self, document: &Document) -> bool {
        if self.reads_state() { delta::has_delta(document) } else { self.delta(document).is_some() }
    }

    /// What may be seen of what `change` did; `None`: nothing.
    #[must_use]
    pub fn change<'a>(&self, change: &'a Change) -> Option<Cow<'a, Change>> {
        self.0.change(change)
    }

    /// The etag of `document`, made of what may be seen.
    #[must_use]
    pub fn etag(&self, document: &Document) -> Etag {
        document.etag_seen(&self.0)
    }

    /// The paths that may be read.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.0
    }

    /// What may be seen of what `update` says.
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
