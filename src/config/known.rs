//! The keys that exist, their types and defaults: what the shipped `broker.toml` says.

use config::{Config, File, FileFormat, Map, Value, ValueKind};

/// The shipped configuration: the lowest layer, so what an operator may set and reads there is what counts.
pub(super) const SHIPPED: &str = include_str!("../../broker.toml");

/// Furthest a misspelt key may be from the one that was meant, in edits.
const EDITS_MAX: usize = 4;

/// The keys of [`SHIPPED`]. A list of sections (`[[listener]]`) counts as one section, its first.
pub(super) struct Known(Map<String, Value>);

/// What a name at the top of the file stands for.
pub(super) enum Entry<'a> {
    /// A key outside any section.
    Key,
    /// `[name]`.
    Section(&'a Map<String, Value>),
    /// `[[name]]`.
    List(&'a Map<String, Value>),
}

impl Known {
    pub(super) fn shipped() -> Result<Self, config::ConfigError> {
        let shipped = Config::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build()?;
        shipped.try_deserialize().map(Self)
    }

    pub(super) fn entry(&self, name: &str) -> Option<Entry<'_>> {
        self.0.get(name).map(entry)
    }

    /// The default of `key` in `section`, or of `key` outside any.
    pub(super) fn default(&self, section: Option<&str>, key: &str) -> Option<&Value> {
        match section.map(|section| self.entry(section)) {
            None => self.0.get(key).filter(|value| matches!(entry(value), Entry::Key)),
            Some(Some(Entry::Section(keys) | Entry::List(keys))) => keys.get(key),
            Some(_) => None,
        }
    }

    /// The known key most like `key`; of those equally like, one in the same section. None is like one that is known,
    /// and stands in the wrong place, or with an index too many or too few.
    pub(super) fn nearest(&self, section: Option<&str>, key: &str) -> Option<String> {
        if self.default(section, key).is_some() || (section.is_none() && self.0.contains_key(key)) {
            return None;
        }
        let outside = self.0.keys().map(|name| (None, name));
        let inside = self.0.iter().flat_map(|(name, value)| match entry(value) {
            Entry::Key => Vec::new(),
            Entry::Section(keys) | Entry::List(keys) => keys.keys().map(|key| (Some(name.as_str()), key)).collect(),
        });
        let ranked = outside.chain(inside).map(|(place, name)| (edits(key, name), place != section, place, name));
        let (edits, _, place, name) = ranked.min()?;
        let near = edits <= EDITS_MAX.min(key.len() / 3);
        near.then(|| place.map_or_else(|| name.clone(), |place| format!("{place}.{name}")))
    }
}

/// How far `given` is from `known`; a name that was not finished, `depth` for `depth_max`, counts as one edit.
fn edits(given: &str, known: &str) -> usize {
    match known.strip_prefix(given) {
        Some(rest) if rest.starts_with('_') => 1,
        _ => strsim::damerau_levenshtein(given, known),
    }
}

fn entry(value: &Value) -> Entry<'_> {
    match &value.kind {
        ValueKind::Table(keys) => Entry::Section(keys),
        ValueKind::Array(sections) => match sections.first().map(|section| &section.kind) {
            Some(ValueKind::Table(keys)) => Entry::List(keys),
            _ => Entry::Key,
        },
        _ => Entry::Key,
    }
}
