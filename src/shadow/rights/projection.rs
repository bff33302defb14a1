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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::{
        document::change::Effect,
        tests::{state, update, written},
    };

    fn only(paths: &[&str]) -> Projection {
        let paths: Vec<Pointer> = paths.iter().map(|path| path.parse().unwrap()).collect();
        Projection::from(Paths::from_iter(&paths))
    }

    fn document() -> Document {
        written(&[json!({"desired": {"a": 1, "b": 2}, "reported": {"b": 2}, "tags": {"t": 1}})])
    }

    #[test]
    fn a_projection_shows_its_paths_alone() {
        let all = json!({"desired": {"a": 1, "b": 2}, "reported": {"b": 2}, "tags": {"t": 1}});
        let without_tags = json!({"desired": {"a": 1, "b": 2}, "reported": {"b": 2}});
        for (projection, seen, is_whole) in [
            (Projection::ALL, all, true),
            (Projection::STATE, without_tags.clone(), true),
            (Projection::ALL.without_tags(), without_tags, true),
            (only(&["/desired/b", "/reported"]), json!({"desired": {"b": 2}, "reported": {"b": 2}}), false),
            (Projection::NONE, json!({}), false),
        ] {
            let document = document();
            assert_eq!(state(&projection.document(&document)), seen, "{projection:?}");
            assert_eq!(state(&projection.values(&document)), seen, "{projection:?}");
            assert_eq!(projection.reads_state(), is_whole, "{projection:?}");
            assert_eq!(projection.etag(&document) == document.etag, is_whole, "{projection:?}");
            assert_eq!(projection.document(&document).etag, projection.etag(&document), "{projection:?}");
            let delta = projection.delta(&document);
            assert_eq!(delta.is_some(), is_whole, "{projection:?}");
            assert_eq!(projection.has_delta(&document), is_whole, "{projection:?}");
        }
        let converged = written(&[json!({"desired": {"a": 1}, "reported": {"a": 1}})]);
        assert!(!Projection::ALL.has_delta(&converged));
    }

    #[test]
    fn a_projection_shows_its_part_of_changes_and_updates() {
        let desired = only(&["/desired/a"]);
        let change = |path: &str| Change { path: path.parse().unwrap(), replaced: None, effect: Effect::Remove };
        assert_eq!(desired.change(&change("/desired/a")).as_deref(), Some(&change("/desired/a")));
        assert_eq!(desired.change(&change("/desired/b")), None);
        assert!(desired.reads(&"/desired/a/x".parse().unwrap()) && !desired.reads(&"/desired".parse().unwrap()));
        let sent = update(json!({"desired": {"a": 1, "b": 2}, "tags": {"t": 1}}));
        assert_eq!(*desired.update(&sent), update(json!({"desired": {"a": 1}})));
        assert!(matches!(Projection::ALL.update(&sent), Cow::Borrowed(_)));
        assert_eq!(desired.paths(), &Paths::from_iter([&"/desired/a".parse::<Pointer>().unwrap()]));
    }
}
