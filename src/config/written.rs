//! The written values of all keys, by which a running server reports changes since its start, and the locations of
//! rules, grants and queries, which are checked later.

use std::collections::{BTreeMap, BTreeSet};

use config::{Config as Tree, Value, ValueKind};

use super::error::ValueSource;

/// The written values of all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The values except those of rules, grants, queries and the limits of roles.
    values: BTreeMap<String, String>,
    /// The advice for each listener whose address cannot be bound.
    binds: Vec<String>,
    /// The locations of the sections and keys of rules, grants and queries.
    places: BTreeMap<String, ValueSource>,
    /// The values of these, by their sections and keys.
    listed: BTreeMap<String, String>,
}

/// The sections of which each node of a cluster has its own: where it is, and what its machine has.
const OWN_SECTIONS: [&str; 1] = ["log"];
/// The keys of which each node has its own; of a section `[[listener]]` without its name.
const OWN_KEYS: [&str; 22] = [
    "rules_file",
    "listener.bind",
    "listener.hosts",
    "listener.tls_certificate",
    "listener.tls_key",
    "listener.tls_client_ca",
    "listener.tls_client_crl",
    "auth.users",
    "auth.token_keys",
    "auth.aws_keys",
    "auth.banned",
    "store.path",
    "store.create",
    "store.memory",
    "store.free_disk_min",
    "store.lag_bytes_max",
    "limits.memory",
    "limits.connections_max",
    "cluster.nats",
    "cluster.node",
    "cluster.credentials_file",
    "cluster.ca_file",
];

impl Written {
    /// Returns the values of `tree`, in which no key is missing. A key of a listener is `listener.NAME.KEY`. `place`
    /// returns the location of a key.
    pub(super) fn of(tree: &Tree, place: impl Fn(&str) -> ValueSource) -> Self {
        let mut written = Self::default();
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
                            let full = |key: &String| format!("{section_key}.{key}");
                            let values = keys.iter().map(|(key, value)| (full(key), value.to_string()));
                            written.listed.extend(values);
                            written.places.extend(keys.keys().map(full).map(|key| (key.clone(), place(&key))));
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

    /// Returns the keys and values that must be the same at all nodes of a cluster, as one text for each section, by its name such
    /// as `[limits]`.
    #[must_use]
    pub fn shared(&self) -> BTreeMap<String, String> {
        let mut sections = BTreeMap::<_, String>::new();
        for (key, value) in self.values.iter().chain(&self.listed) {
            let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
            let (section, rest) = path.split_once(['.', '[']).unwrap_or((path, ""));
            // A listener that the command line opens has its address as name.
            let is_own = |listener: &str| {
                self.values.get(&format!("listener.{listener}.bind")).is_some_and(|bind| bind == listener)
            };
            if section == "listener" && is_own(rest) {
                continue;
            }
            let unnamed = if section.is_empty() { last.to_owned() } else { format!("{section}.{last}") };
            if OWN_SECTIONS.contains(&section) || OWN_KEYS.contains(&unnamed.as_str()) {
                continue;
            }
            let name = match section {
                "" => format!("[{last}]"),
                "listener" => format!("[[listener]] {rest}"),
                _ if rest.is_empty() => format!("[{section}]"),
                _ => format!("[[{section}]]"),
            };
            // A value is written on one line, its quotes and all.
            *sections.entry(name).or_default() += &format!("{key} = {value:?}\n");
        }
        sections
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: &[(&str, &str)], listed: &[(&str, &str)]) -> Written {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Written { values: map(values), listed: map(listed), ..Written::default() }
    }

    #[test]
    fn sections_of_a_cluster_are_without_what_a_node_has_of_its_own() {
        let values = [
            ("allow_anonymous_anywhere", "false"),
            ("auth.failure_delay", "1s"),
            ("auth.users", "/etc/a"),
            ("cluster.name", "x"),
            ("cluster.node", "2"),
            ("limits.depth_max", "8"),
            ("limits.memory", "auto"),
            ("listener.127.0.0.1:1.bind", "127.0.0.1:1"),
            ("listener.127.0.0.1:1.anonymous", "true"),
            ("listener.web.a.bind", "10.0.0.1:80"),
            ("listener.web.a.origins", "[]"),
            ("log.level", "info"),
            ("rules_file", "/etc/b"),
        ];
        let listed = [("rule[0].role", "app"), ("rule[10].role", "admin"), ("grant[0].role", "app")];
        let shared = written(&values, &listed).shared();
        let found: Vec<_> = shared.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(
            found,
            [
                ("[[grant]]", "grant[0].role = \"app\"\n"),
                ("[[listener]] web.a", "listener.web.a.origins = \"[]\"\n"),
                ("[[rule]]", "rule[0].role = \"app\"\nrule[10].role = \"admin\"\n"),
                ("[allow_anonymous_anywhere]", "allow_anonymous_anywhere = \"false\"\n"),
                ("[auth]", "auth.failure_delay = \"1s\"\n"),
                ("[cluster]", "cluster.name = \"x\"\n"),
                ("[limits]", "limits.depth_max = \"8\"\n"),
            ]
        );
    }
}
