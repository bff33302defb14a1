//! The known keys with their types and defaults, from the shipped `broker.toml`.

use config::{Config, File, FileFormat, Map, Value, ValueKind};

use super::{error::Problem, removed};

/// The shipped configuration, which is the lowest layer. So the keys and defaults that an operator reads there are
/// those in effect.
pub(super) const SHIPPED: &str = include_str!("../../broker.toml");

/// Most edits between a misspelt key and a suggestion.
const EDITS_MAX: usize = 4;

/// The keys of [`SHIPPED`]. A list of sections (`[[listener]]`) is represented by its first section.
pub(super) struct KnownKeys(Map<String, Value>);

/// The meaning of a top-level name.
pub(super) enum KnownEntry<'a> {
    /// A key outside of sections.
    Key,
    /// A section `[name]`.
    Section(&'a Map<String, Value>),
    /// A list of sections `[[name]]`.
    List(&'a Map<String, Value>),
}

impl KnownKeys {
    pub(super) fn shipped() -> Result<Self, config::ConfigError> {
        let shipped = Config::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build()?;
        shipped.try_deserialize().map(Self)
    }

    pub(super) fn entry(&self, name: &str) -> Option<KnownEntry<'_>> {
        self.0.get(name).map(entry)
    }

    /// Returns the default of `key` in `section`, or of `key` outside of sections.
    pub(super) fn default(&self, section: Option<&str>, key: &str) -> Option<&Value> {
        match section.map(|section| self.entry(section)) {
            None => self.0.get(key).filter(|value| matches!(entry(value), KnownEntry::Key)),
            Some(Some(KnownEntry::Section(keys) | KnownEntry::List(keys))) => keys.get(key),
            Some(_) => None,
        }
    }

    /// Returns the problem with an unknown key of `section`: its replacement, or the key it may be misspelt from.
    pub(super) fn unknown(&self, section: Option<&str>, key: &str) -> Problem {
        match removed::replacement(section, key) {
            Some(replacement) => Problem::Removed(replacement),
            None => Problem::Unknown(self.nearest(section, key)),
        }
    }

    /// Returns the known key most similar to `key`, preferably in the same section. Returns `None` for a known key in
    /// the wrong place, or with a missing or superfluous index.
    fn nearest(&self, section: Option<&str>, key: &str) -> Option<String> {
        if self.default(section, key).is_some() || (section.is_none() && self.0.contains_key(key)) {
            return None;
        }
        let outside = self.0.keys().map(|name| (None, name));
        let inside = self.0.iter().flat_map(|(name, value)| match entry(value) {
            KnownEntry::Key => Vec::new(),
            KnownEntry::Section(keys) | KnownEntry::List(keys) => {
                keys.keys().map(|key| (Some(name.as_str()), key)).collect()
            }
        });
        let ranked = outside.chain(inside).map(|(place, name)| (edits(key, name), place != section, place, name));
        let (edits, _, place, name) = ranked.min()?;
        let near = edits <= EDITS_MAX.min(key.len() / 3);
        near.then(|| place.map_or_else(|| name.clone(), |place| format!("{place}.{name}")))
    }
}

/// Returns the edit distance of `given` and `known`. An incomplete name, such as `depth` for `depth_max`, counts as one
/// edit.
fn edits(given: &str, known: &str) -> usize {
    match known.strip_prefix(given) {
        Some(rest) if rest.starts_with('_') => 1,
        _ => strsim::damerau_levenshtein(given, known),
    }
}

fn entry(value: &Value) -> KnownEntry<'_> {
    match &value.kind {
        ValueKind::Table(keys) => KnownEntry::Section(keys),
        ValueKind::Array(sections) => match sections.first().map(|section| &section.kind) {
            Some(ValueKind::Table(keys)) => KnownEntry::List(keys),
            _ => KnownEntry::Key,
        },
        _ => KnownEntry::Key,
    }
}
