//! What is written for each key, for a server that runs to tell what has changed since it was started.

use std::collections::{BTreeMap, BTreeSet};

use config::{Config as Tree, Value, ValueKind};

/// The values of all keys as they are written, but for rules and grants. Configurations that differ in it alone are
/// equal.
#[derive(Clone, Debug)]
pub struct Written(BTreeMap<String, String>);

impl Written {
    /// Those of `tree`, in which no key is missing. A key of a listener is `listener.NAME.KEY`.
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

    /// The keys whose values are others in `now`; of a listener that came or went, it alone.
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
