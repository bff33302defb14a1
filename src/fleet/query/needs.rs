//! The parts of a device that fields read, so that nothing else is decoded for them.

use crate::{
    fleet::query::{
        Query,
        field::{Field, Part, ShadowField},
    },
    shadow::{ShadowName, pointer::SectionName, selection::Selection},
};

/// The parts of a device that some fields read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The shadows whose content is read, and the parts of their documents.
    shadows: Vec<(Option<ShadowName>, ShadowNeeds)>,
    /// The parts of every other shadow.
    others: ShadowNeeds,
    presence: bool,
}

/// The parts of a shadow that some fields read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowNeeds {
    /// The parts of the document.
    pub selection: Selection,
    /// True if its content is read, and not only that it exists.
    pub content: bool,
    /// True if the values of its delta are read.
    pub delta: bool,
    /// True if it matters whether there is a delta.
    pub drift: bool,
}

impl Needs {
    /// Returns all parts of all shadows.
    #[must_use]
    pub fn everything() -> Self {
        let others = ShadowNeeds { content: true, delta: true, drift: true, selection: Selection::everything() };
        Self { others, ..Self::default() }
    }

    /// Adds the fields that `query` reads.
    #[must_use]
    pub fn with_query(mut self, query: Option<&Query>) -> Self {
        if let Some(query) = query {
            query.0.any_field(&mut |field| {
                self.add(field);
                false
            });
        }
        self
    }

    /// Adds these fields.
    #[must_use]
    pub fn with_fields<'a>(mut self, fields: impl IntoIterator<Item = &'a Field>) -> Self {
        fields.into_iter().for_each(|field| self.add(field));
        self
    }

    /// Returns the parts of the shadow with this name that are read; `None` is the name of the classic one.
    #[must_use]
    pub fn shadow(&self, name: Option<&ShadowName>) -> &ShadowNeeds {
        let known = self.shadows.iter().find(|(known, _)| known.as_ref() == name);
        known.map_or(&self.others, |(_, needs)| needs)
    }

    /// Returns true if the presence of the device is read.
    #[must_use]
    pub fn presence(&self) -> bool {
        self.presence
    }

    fn add(&mut self, field: &Field) {
        self.presence |= field.reads_presence();
        match field {
            Field::Device | Field::Connected | Field::ConnectivityTimestamp | Field::Seen | Field::Updated => {}
            Field::Drift => {
                self.others.needs_drift();
                self.shadows.iter_mut().for_each(|(_, needs)| needs.needs_drift());
            }
            Field::Shadow(name, field) => self.of_shadow(name).add(field),
        }
    }

    fn of_shadow(&mut self, name: &Option<ShadowName>) -> &mut ShadowNeeds {
        let known = self.shadows.iter().position(|(known, _)| known == name);
        let index = known.unwrap_or_else(|| {
            self.shadows.push((name.clone(), self.others.clone()));
            self.shadows.len() - 1
        });
        match self.shadows.get_mut(index) {
            Some((_, needs)) => needs,
            None => &mut self.others,
        }
    }
}

impl ShadowNeeds {
    fn add(&mut self, field: &ShadowField) {
        self.content = true;
        match field {
            ShadowField::Itself | ShadowField::Version | ShadowField::Updated => {}
            ShadowField::Value(Part::Section(section), keys) => self.selection.add(*section, keys),
            ShadowField::HasDelta | ShadowField::Value(Part::Delta, _) => {
                self.needs_drift();
                self.delta = true;
            }
        }
    }

    fn needs_drift(&mut self) {
        self.drift = true;
        self.selection.add(SectionName::Desired, &[]);
        self.selection.add(SectionName::Reported, &[]);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::shadow::selection::SelectedPart;

    fn needs(query: &str) -> Needs {
        Needs::default().with_query(Some(&query.parse().unwrap()))
    }

    #[test]
    fn the_needs_of_a_query_are_those_of_its_fields() {
        let cfg = ShadowName::new("cfg").unwrap();
        for (query, classic, named, presence) in [
            ("lamp", (false, false, false), (false, false, false), false),
            ("connected:true updated:<1h", (false, false, false), (false, false, false), true),
            ("reported.a:1", (true, false, false), (false, false, false), false),
            ("version:1", (true, false, false), (false, false, false), false),
            ("drift:true", (false, false, true), (false, false, true), false),
            ("reported.a:1 drift:true", (true, false, true), (false, false, true), false),
            ("drift:true OR shadow.name.cfg:*", (false, false, true), (true, false, true), false),
            ("shadow.hasDelta:true", (true, true, true), (false, false, false), false),
            ("NOT shadow.name.cfg.delta.x:1", (false, false, false), (true, true, true), false),
        ] {
            let found = needs(query);
            let of = |name| {
                let ShadowNeeds { content, delta, drift, .. } = found.shadow(name);
                (*content, *delta, *drift)
            };
            assert_eq!((of(None), of(Some(&cfg)), found.presence()), (classic, named, presence), "{query}");
        }
        assert!(needs("version:1").shadow(None).selection.section(SectionName::Reported).is_nothing());
        assert_eq!(*needs("drift:true").shadow(None).selection.section(SectionName::Reported), SelectedPart::All);
        assert!(needs("drift:true").shadow(None).selection.section(SectionName::Tags).is_nothing());
    }
}
