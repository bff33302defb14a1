//! The written values of all keys, by which a running server reports changes since its start, and the locations of
//! rules, grants and queries, which are checked later.

use std::collections::{BTreeMap, BTreeSet};

use config::{Config as Tree, Value, ValueKind};

use super::error::ValueSource;

/// The written values of all keys except rules, grants and queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    values: BTreeMap<String, String>,
    /// The advice for each listener whose address cannot be bound.
    binds: Vec<String>,
    /// The locations of the sections and keys of rules, grants and queries.
    places: BTreeMap<String, ValueSource>,
}

impl Written {
    /// Returns the values of `tree`, in which no key is missing. A key of a listener is `listener.NAME.KEY`. `place`
    /// returns the location of a key.
    pub(super) fn of(tree: &Tree, place: impl Fn(&str) -> ValueSource) -> Self {
        let mut written = Self { values: BTreeMap::new(), binds: Vec::new(), places: BTreeMap::new() };
        let ValueKind::Table(sections) = &tree.cache.kind else { return written };
        for (name, value) in sections {
            match &value.kind {
                ValueKind::Table(keys) => written.section(name, keys),
                ValueKind::Array(listeners) if name == "listener" => {
                    for (index, listener) in listeners.iter().enumerate() {
                        let key = format!("{name}[{index}].bind");
                        written.binds.push(match place(&key) {
                            ValueSource::Named(source) => format!("change {source}"),
                            place @ ValueSource::File(..) => format!("change '{key}' at {place}"),
                            ValueSource::Default => {
                                format!("set '{key}' in a file given with --config, or UMBRA__LISTENER__{index}__BIND")
                            }
                        });
                        let ValueKind::Table(keys) = &listener.kind else { continue };
                        let own = keys.get("name").map(ToString::to_string).unwrap_or_default();
                        written.section(&format!("{name}.{own}"), keys);
                    }
                }
                ValueKind::Array(sections) => {
                    for (index, section) in sections.iter().enumerate() {
                        let section_key = format!("{name}[{index}]");
                        if let ValueKind::Table(keys) = &section.kind {
                            let keys = keys.keys().map(|key| format!("{section_key}.{key}"));
                            written.places.extend(keys.map(|key| (key.clone(), place(&key))));
                        }
                        written.places.insert(section_key.clone(), place(&section_key));
                    }
                }
                _ => _ = written.values.insert(name.clone(), value.to_string()),
            }
        }
        written
    }

    /// Returns the keys whose values differ in `now`. For an added or removed listener, returns only its name.
    #[must_use]
    pub fn changed(&self, now: &Self) -> BTreeSet<String> {
        let keys = self.values.keys().chain(now.values.keys());
        let keys = keys.filter(|key| self.values.get(*key) != now.values.get(*key));
        let named = |key: &String| match self.values.contains_key(key) && now.values.contains_key(key) {
            true => key.clone(),
            false => key.rsplit_once('.').map_or(key.clone(), |(section, _)| section.to_owned()),
        };
        keys.map(named).collect()
    }

    /// Says where to change the address of the listener `index`, from 0.
    #[must_use]
    pub fn bind_advice(&self, index: usize) -> &str {
        self.binds.get(index).map_or("", String::as_str)
    }

    /// Returns the location of a key of a rule, grant or query. For a missing key, returns that of its section.
    pub(super) fn place(&self, key: &str) -> ValueSource {
        let section = key.split('.').next().unwrap_or_default();
        self.places.get(key).or_else(|| self.places.get(section)).cloned().unwrap_or(ValueSource::Default)
    }

    fn section(&mut self, name: &str, keys: &config::Map<String, Value>) {
        self.values.extend(keys.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())));
    }
}
