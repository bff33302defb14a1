//! The written values of all keys, by which a running server reports changes since its start.

use std::collections::{BTreeMap, BTreeSet};

use config::{Config as Tree, Value, ValueKind};

/// The written values of all keys except rules and grants. It is ignored when configurations are compared.
#[derive(Clone, Debug)]
pub struct Written(BTreeMap<String, String>);

impl Written {
    /// Returns the values of `tree`, in which no key is missing. A key of a listener is `listener.NAME.KEY`.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut written = Self(BTreeMap::new());
        let ValueKind::Table(sections) = &tree.cache.kind else { return written };
        for (name, value) in sections {
            match &value.kind {
                ValueKind::Table(keys) => written.section(name, keys),
                ValueKind::Array(listeners) if name == "listener" => {
                    for listener in listeners {
                        let ValueKind::Table(keys) = &listener.kind else { continue };
                        let own = keys.get("name").map(ToString::to_string).unwrap_or_default();
                        written.section(&format!("{name}.{own}"), keys);
                    }
                }
                ValueKind::Array(_) => {}
                _ => _ = written.0.insert(name.clone(), value.to_string()),
            }
        }
        written
    }

    /// Returns the keys whose values differ in `now`. For an added or removed listener, returns only its name.
    #[must_use]
    pub fn changed(&self, now: &Self) -> BTreeSet<String> {
        let keys = self.0.keys().chain(now.0.keys()).filter(|key| self.0.get(*key) != now.0.get(*key));
        let named = |key: &String| match self.0.contains_key(key) && now.0.contains_key(key) {
            true => key.clone(),
            false => key.rsplit_once('.').map_or(key.clone(), |(section, _)| section.to_owned()),
        };
        keys.map(named).collect()
    }

    fn section(&mut self, name: &str, keys: &config::Map<String, Value>) {
        self.0.extend(keys.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())));
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
