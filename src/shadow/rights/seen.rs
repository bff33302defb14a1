//! Views of a shadow for readers with rights to some paths only.
//!
//! A view does not depend on hidden paths. Its etag digests the visible paths, so it cannot confirm guesses about the
//! others. Its delta has only paths whose `desired` and `reported` values are both visible.

use std::{borrow::Cow, sync::Arc};

use crate::shadow::{
    command::Update,
    document::{Document, Section, delta, etag::Etag, tree::Members},
    pointer::SectionName,
    rights::paths::Paths,
};

impl Document {
    /// Returns the document cut to `paths`, with an etag of the visible part; borrowed if nothing is hidden.
    #[must_use]
    pub fn seen(&self, paths: &Paths) -> Cow<'_, Self> {
        match self.cut(paths, Section::new) {
            Cow::Borrowed(whole) => Cow::Borrowed(whole),
            Cow::Owned(seen) => Cow::Owned(Self { etag: self.etag_seen(paths), ..seen }),
        }
    }

    /// Returns the document cut to `paths` for someone who only looks at values: the etag and the sizes of its sections are
    /// not those of the visible part.
    #[must_use]
    pub fn values_seen(&self, paths: &Paths) -> Cow<'_, Self> {
        self.cut(paths, |members| Section { members, ..Section::default() })
    }

    fn cut(&self, paths: &Paths, section: impl Fn(Members) -> Section) -> Cow<'_, Self> {
        let hides = |name: &SectionName| !paths.has_section(*name) && !self.section(*name).members.is_empty();
        if !SectionName::ALL.iter().any(hides) {
            return Cow::Borrowed(self);
        }
        let mut seen = Self { tombstones: Arc::default(), floor: self.version, ..self.clone() };
        for name in SectionName::ALL.into_iter().filter(hides) {
            let members = paths.members(name, &self.section(name).members).into_owned();
            *seen.section_mut(name) = Arc::new(section(members));
        }
        Cow::Owned(seen)
    }

    /// Returns the etag for a reader of `paths`.
    #[must_use]
    pub fn etag_seen(&self, paths: &Paths) -> Etag {
        if paths.has_state() {
            return self.etag;
        }
        let part = |name: SectionName| paths.members(name, &self.section(name).members);
        Etag::of(self.version, &part(SectionName::Desired), &part(SectionName::Reported))
    }

    /// Returns the delta for a reader of `paths`; `None` if it is empty.
    #[must_use]
    pub fn delta_seen(&self, paths: &Paths) -> Option<Members> {
        let delta = delta::delta(self)?;
        if paths.has_state() {
            return Some(delta);
        }
        let seen = paths.difference(&delta).into_owned();
        (!seen.is_empty()).then_some(seen)
    }

    fn section_mut(&mut self, name: SectionName) -> &mut Arc<Section> {
        match name {
            SectionName::Desired => &mut self.desired,
            SectionName::Reported => &mut self.reported,
            SectionName::Tags => &mut self.tags,
        }
    }
}

impl Update {
    /// Returns the part of this update that concerns `paths`.
    #[must_use]
    pub fn seen(&self, paths: &Paths) -> Cow<'_, Self> {
        if *paths == Paths::ALL || *paths == Paths::STATE && self.tags == Default::default() {
            return Cow::Borrowed(self);
        }
        let part = |name: SectionName| paths.patch(name, self.section(name)).into_owned();
        Cow::Owned(Self {
            desired: part(SectionName::Desired),
            reported: part(SectionName::Reported),
            tags: part(SectionName::Tags),
            // A reader of a part sees which visible paths were cleared instead.
            state_is_null: self.state_is_null && paths.has_state(),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::{Value, json};

    use super::*;
    use crate::shadow::{
        Pointer, Version,
        tests::{state, update, written},
    };

    fn paths(texts: &[&str]) -> Paths {
        texts.iter().map(|text| text.parse::<Pointer>().unwrap()).collect::<Vec<_>>().iter().collect()
    }

    fn document(hidden: Value) -> Document {
        written(&[json!({
            "desired": {"mode": "eco", "zone": {"t": 20, "secret": hidden}},
            "reported": {"mode": "off", "zone": {"t": 20, "u": 1}},
            "tags": {"owner": "x"},
        })])
    }

    #[test]
    fn a_document_is_cut_to_the_readable_paths() {
        let document = document(json!("h"));
        for (readable, expected) in [
            (&["/desired/zone/t"][..], json!({"desired": {"zone": {"t": 20}}})),
            (&["/desired/mode", "/tags"], json!({"desired": {"mode": "eco"}, "tags": {"owner": "x"}})),
            (&["/desired/zone/t/below", "/desired/none"], json!({})),
            (&["/reported"], json!({"reported": {"mode": "off", "zone": {"t": 20, "u": 1}}})),
        ] {
            assert_eq!(state(&document.seen(&paths(readable))), expected, "{readable:?}");
        }
        assert!(matches!(document.seen(&Paths::ALL), Cow::Borrowed(_)));
    }

    /// Tombstones are paths too, and without them nothing before this version can be compared.
    #[test]
    fn a_part_has_no_tombstones() {
        let document =
            written(&[json!({"desired": {"a": 1, "gone": 1}, "tags": {"t": 1}}), json!({"desired": {"gone": null}})]);
        assert_eq!((document.tombstones.len(), document.floor), (1, Version(0)));
        let part = document.seen(&paths(&["/desired/a"]));
        assert_eq!((part.tombstones.len(), part.floor, part.version), (0, Version(2), Version(2)));
        let values = document.values_seen(&paths(&["/desired/a"]));
        assert_eq!((values.tombstones.len(), state(&values)), (0, json!({"desired": {"a": 1}})));
        // What is hidden is not there.
        assert!(matches!(document.seen(&paths(&["/desired", "/tags"])), Cow::Borrowed(_)));
    }

    #[test]
    fn an_update_is_cut_to_the_readable_paths() {
        let sent = update(json!({"desired": {"a": 1, "b": 2}, "reported": {"c": 1}, "tags": {"t": 1}}));
        for (readable, expected) in [
            (&["/desired/a"][..], json!({"desired": {"a": 1}})),
            (&["/reported", "/tags"], json!({"reported": {"c": 1}, "tags": {"t": 1}})),
            (&["/desired", "/reported"], json!({"desired": {"a": 1, "b": 2}, "reported": {"c": 1}})),
        ] {
            assert_eq!(*sent.seen(&paths(readable)), update(expected), "{readable:?}");
        }
        let state = Update { tags: Default::default(), ..sent.clone() };
        assert!(matches!(state.seen(&Paths::STATE), Cow::Borrowed(_)));
        assert!(matches!(sent.seen(&Paths::STATE), Cow::Owned(_)));
        assert!(matches!(state.seen(&paths(&["/desired"])), Cow::Owned(_)));
        let cleared = update(Value::Null);
        for (readable, is_null) in
            [(&["/desired", "/reported"][..], true), (&["/desired"], false), (&["/reported", "/tags"], false)]
        {
            assert_eq!(cleared.seen(&paths(readable)).state_is_null, is_null, "{readable:?}");
        }
        assert!(!sent.seen(&Paths::STATE).state_is_null);
    }

    /// An etag of all of `desired` and `reported` would confirm guesses about hidden values.
    #[test]
    fn an_etag_does_not_depend_on_hidden_values() {
        let readable = paths(&["/desired/zone/t", "/reported"]);
        let tags = ["a", "b"].map(|hidden| document(json!(hidden)).etag_seen(&readable));
        assert_eq!(tags.first(), tags.last());
        let shown = document(json!("a"));
        assert_eq!(shown.seen(&readable).etag, shown.etag_seen(&readable));
        assert_ne!(shown.etag, shown.etag_seen(&readable));
        assert_eq!(shown.etag, shown.etag_seen(&Paths::STATE), "tags are not in it");
    }

    /// A delta with a hidden value would reveal that `reported` has another one.
    #[test]
    fn a_delta_has_only_paths_visible_on_both_sides() {
        let document = document(json!("h"));
        for (readable, expected) in [
            (&["/desired", "/reported"][..], json!({"mode": "eco", "zone": {"secret": "h"}})),
            (&["/desired", "/reported/mode"], json!({"mode": "eco"})),
            (&["/desired/zone", "/reported"], json!({"zone": {"secret": "h"}})),
            (&["/desired"], Value::Null),
            (&["/desired/zone/t", "/reported"], Value::Null),
        ] {
            let seen = document.delta_seen(&paths(readable));
            let seen = seen.map_or(Value::Null, |delta| Value::Object(crate::shadow::document::tree::values(&delta)));
            assert_eq!(seen, expected, "{readable:?}");
        }
    }
}
