//! Selections: the parts of a document that a reader needs.
//!
//! A document that is made of a part of its record has everything at and below the selected paths. Above them it has the
//! objects that lead there, perhaps without some of their members, or without any.

use std::collections::BTreeMap;

use crate::shadow::pointer::SectionName;

/// The parts of a document that a reader needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    desired: SelectedPart,
    reported: SelectedPart,
    tags: SelectedPart,
}

/// The parts of a section or object that a reader needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectedPart {
    /// These members, or parts of them; perhaps none.
    Members(BTreeMap<Box<str>, SelectedPart>),
    /// Everything.
    All,
}

impl Default for SelectedPart {
    fn default() -> Self {
        Self::Members(BTreeMap::new())
    }
}

impl SelectedPart {
    /// Returns true if nothing is needed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Members(members) if members.is_empty())
    }

    fn add(&mut self, keys: &[Box<str>]) {
        match (keys, &mut *self) {
            (_, Self::All) => {}
            ([], _) => *self = Self::All,
            ([key, rest @ ..], Self::Members(members)) => members.entry(key.clone()).or_default().add(rest),
        }
    }
}

impl Selection {
    /// Returns all parts.
    #[must_use]
    pub fn everything() -> Self {
        Self { desired: SelectedPart::All, reported: SelectedPart::All, tags: SelectedPart::All }
    }

    /// Adds the path of `keys` in a section, with all below it.
    pub fn add(&mut self, section: SectionName, keys: &[Box<str>]) {
        let part = match section {
            SectionName::Desired => &mut self.desired,
            SectionName::Reported => &mut self.reported,
            SectionName::Tags => &mut self.tags,
        };
        part.add(keys);
    }

    /// Returns true if all parts are needed.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        SectionName::ALL.into_iter().all(|section| *self.section(section) == SelectedPart::All)
    }

    /// Returns the needed part of a section.
    #[must_use]
    pub fn section(&self, section: SectionName) -> &SelectedPart {
        match section {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<Box<str>> {
        text.split('.').filter(|key| !key.is_empty()).map(Box::from).collect()
    }

    #[test]
    fn everything_is_every_section() {
        let mut selection = Selection::default();
        for (section, is_everything) in
            [(SectionName::Desired, false), (SectionName::Reported, false), (SectionName::Tags, true)]
        {
            assert!(selection.section(section).is_nothing());
            selection.add(section, &[]);
            assert_eq!(selection.section(section), &SelectedPart::All);
            assert!(!selection.section(section).is_nothing());
            assert_eq!(selection.is_everything(), is_everything);
        }
        assert_eq!(Selection::everything(), selection);
    }

    #[test]
    fn a_path_includes_those_below_it() {
        let of = |paths: &[&str]| {
            let mut selection = Selection::default();
            paths.iter().for_each(|path| selection.add(SectionName::Tags, &keys(path)));
            selection
        };
        assert!(of(&[]).section(SectionName::Tags).is_nothing());
        assert_eq!(of(&["a", "a.b"]), of(&["a"]));
        assert_eq!(of(&["a.b", "a"]), of(&["a"]));
        assert_eq!(of(&["a.b", "", "c"]).section(SectionName::Tags), &SelectedPart::All);
        assert_ne!(of(&["a.b", "a.c"]), of(&["a.b"]));
        assert!(of(&["a"]).section(SectionName::Reported).is_nothing());
    }
}
