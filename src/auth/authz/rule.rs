//! Rules: the operations that a role may perform, on which shadows and topics.
//!
//! A rule only allows. A role may do what any of its rules allows, and a principal what any of its roles may do. For
//! shadows, a rule allows the combination of its devices *and* names *and* operations *and* paths.

use std::sync::Arc;

use crate::{
    auth::authz::{
        administration::{Administration, Administrations},
        pattern::{Pattern, PatternError, PlaceholderValues},
        topics::TopicPattern,
    },
    config::RuleConfig,
    shadow::{DeviceId, Paths, Pointer, ShadowKey, ShadowName, pointer::NotAPointer},
};

/// The operations on a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads it on request.
    Get,
    /// Writes to it.
    Update,
    /// Deletes it.
    Delete,
    /// Receives its changes.
    Subscribe,
    /// Reads the history of its changes.
    History,
}

/// A set of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations(u8);

/// A checked rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The role.
    pub role: Arc<str>,
    /// The location of the rule.
    pub origin: Origin,
    devices: Vec<Devices>,
    names: Vec<Pattern>,
    operations: Operations,
    read: PathPatterns,
    write: PathPatterns,
    publish: Vec<TopicPattern>,
    subscribe: Vec<TopicPattern>,
    administer: Administrations,
}

/// The location of a rule. It is ignored when rules are compared.
#[derive(Clone, Debug)]
pub struct Origin(pub Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    Like(Pattern),
    /// The devices named by the grant of the role.
    GrantedRule,
}

/// A list of paths, some with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PathPatterns {
    fixed: Paths,
    others: Vec<(Pointer, Vec<Pattern>)>,
}

/// The error of a refused rule: its key and the problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct RuleError {
    /// The key in the rule.
    pub key: &'static str,
    /// The problem, with the offending value.
    pub problem: String,
}

/// A placeholder in `devices` for the devices of the grant.
pub const GRANTED: &str = "{devices}";

impl Operation {
    /// All operations by their names in rules.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("get", Self::Get),
        ("update", Self::Update),
        ("delete", Self::Delete),
        ("subscribe", Self::Subscribe),
        ("history", Self::History),
    ];

    /// Returns the operation of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, operation)| operation)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.into_iter().find(|(_, operation)| *operation == self).map_or("", |(name, _)| name)
    }
}

impl Operations {
    /// Returns true if `operation` is in the set.
    #[must_use]
    pub fn has(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }

    fn is_all(self) -> bool {
        Operation::NAMED.into_iter().all(|(_, operation)| self.has(operation))
    }
}

impl Rule {
    /// Checks a rule.
    ///
    /// # Errors
    ///
    /// The first invalid value.
    pub fn read(text: &RuleConfig) -> Result<Self, RuleError> {
        let failed = |key| move |error: String| RuleError { key, problem: error };
        let all = || Operation::NAMED.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut operations = Operations::default();
        for name in &text.operations.clone().unwrap_or_else(all) {
            let Some(operation) = Operation::of(name) else {
                let known = Operation::NAMED.map(|(name, _)| name).join(", ");
                return Err(failed("operations")(format!("has '{name}', but must be of {known}")));
            };
            operations.0 |= 1 << operation as u8;
        }
        let device = |text: &String| match text.as_str() {
            GRANTED => Ok(Devices::GrantedRule),
            text => device_pattern(text).map(Devices::Like),
        };
        Ok(Self {
            role: text.role.as_str().into(),
            origin: Origin(text.origin.as_str().into()),
            devices: each(&text.devices, device).map_err(failed("devices"))?,
            names: each(&text.names, |text| name_pattern(text)).map_err(failed("names"))?,
            operations,
            read: PathPatterns::read(&text.read).map_err(failed("read"))?,
            write: PathPatterns::read(&text.write).map_err(failed("write"))?,
            publish: each(&text.publish, |text| text.parse::<TopicPattern>()).map_err(failed("publish"))?,
            subscribe: each(&text.subscribe, |text| text.parse::<TopicPattern>()).map_err(failed("subscribe"))?,
            administer: Administrations::read(&text.administer).map_err(failed("administer"))?,
        })
    }

    /// Returns true if the rule covers the devices that the role is granted with.
    #[must_use]
    pub fn has_granted(&self) -> bool {
        self.devices.contains(&Devices::GrantedRule)
    }

    /// Returns true if the rule covers `device`, for a role granted with `granted`.
    #[must_use]
    pub fn has_device(&self, device: &str, granted: &[Pattern], who: PlaceholderValues<'_>) -> bool {
        self.devices.iter().any(|devices| match devices {
            Devices::Like(pattern) => pattern.matches(device, who),
            Devices::GrantedRule => granted.iter().any(|pattern| pattern.matches(device, who)),
        })
    }

    /// Iterates over the patterns of the devices that the rule covers, for a role granted with `granted`.
    pub(super) fn device_patterns<'a>(&'a self, granted: &'a [Pattern]) -> impl Iterator<Item = &'a Pattern> {
        self.devices.iter().flat_map(move |devices| match devices {
            Devices::Like(pattern) => std::slice::from_ref(pattern),
            Devices::GrantedRule => granted,
        })
    }

    /// Returns true if the rule covers any device, for a role granted with `granted`.
    #[must_use]
    pub fn has_devices(&self, granted: &[Pattern], who: PlaceholderValues<'_>) -> bool {
        self.devices.iter().any(|devices| match devices {
            Devices::Like(pattern) => pattern.may_be_level(who),
            Devices::GrantedRule => granted.iter().any(|pattern| pattern.may_be_level(who)),
        })
    }

    /// Returns true if the rule covers shadows of this name; the classic shadow has the empty name.
    #[must_use]
    pub fn has_name(&self, name: &str, who: PlaceholderValues<'_>) -> bool {
        self.names.iter().any(|pattern| pattern.matches(name, who))
    }

    /// Returns true if the rule covers any named shadow.
    #[must_use]
    pub fn has_names(&self, who: PlaceholderValues<'_>) -> bool {
        self.names.iter().any(|pattern| pattern.may_be_level(who) && pattern.name(who).as_deref() != Some(""))
    }

    /// Returns true if the rule covers `key`.
    #[must_use]
    pub fn is_about(&self, key: &ShadowKey, granted: &[Pattern], who: PlaceholderValues<'_>) -> bool {
        self.has_name(key.name.as_ref().map_or("", |name| name.as_str()), who)
            && self.has_device(key.device.as_str(), granted, who)
    }

    /// Returns true if the rule allows `operation` on its shadows.
    #[must_use]
    pub fn allows(&self, operation: Operation) -> bool {
        self.operations.has(operation)
    }

    /// Returns the readable paths.
    #[must_use]
    pub fn reads(&self, who: PlaceholderValues<'_>) -> Paths {
        self.read.of(who)
    }

    /// Returns the writable paths.
    #[must_use]
    pub fn writes(&self, who: PlaceholderValues<'_>) -> Paths {
        self.write.of(who)
    }

    /// Returns the patterns of ordinary topics for publishing.
    #[must_use]
    pub fn publish(&self) -> &[TopicPattern] {
        &self.publish
    }

    /// Returns the patterns of ordinary topics for receiving.
    #[must_use]
    pub fn subscribe(&self) -> &[TopicPattern] {
        &self.subscribe
    }

    /// Returns true if the rule allows everything, or `operation` by name.
    #[must_use]
    pub fn may_administer(&self, operation: Administration) -> bool {
        self.administer.has(operation) || self.is_everything()
    }

    /// Returns true if the devices, names or topics that it receives depend on the client id.
    pub(super) fn is_by_client(&self) -> bool {
        let device = |devices: &Devices| matches!(devices, Devices::Like(pattern) if pattern.is_by_client());
        self.devices.iter().any(device)
            || self.names.iter().any(Pattern::is_by_client)
            || self.subscribe.iter().any(TopicPattern::is_by_client)
    }

    /// Returns true if the rule allows everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        let any_device = |devices: &Devices| matches!(devices, Devices::Like(pattern) if pattern.is_any());
        self.operations.is_all()
            && self.devices.iter().any(any_device)
            && self.names.iter().any(Pattern::is_any)
            && self.read.fixed == Paths::ALL
            && self.write.fixed == Paths::ALL
            && self.publish.iter().any(TopicPattern::is_any)
            && self.subscribe.iter().any(TopicPattern::is_any)
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

impl PathPatterns {
    fn read(texts: &[String]) -> Result<Self, String> {
        let mut read = Self::default();
        for text in texts {
            let path: Pointer = text.parse().map_err(|error: NotAPointer| format!("has '{text}', {error}"))?;
            if text.contains('*') {
                return Err(PatternError::Star(text.clone()).to_string());
            }
            match text.contains(['{', '}']) {
                false => read.fixed.insert(&path),
                true => {
                    let keys = each(&path.keys, |key| key.parse::<Pattern>())?;
                    read.others.push((path, keys));
                }
            }
        }
        Ok(read)
    }

    fn of(&self, who: PlaceholderValues<'_>) -> Paths {
        let mut paths = self.fixed.clone();
        for (path, keys) in &self.others {
            let keys = keys.iter().filter_map(|key| key.name(who)).map(Into::into).collect();
            paths.insert(&Pointer { section: path.section, keys });
        }
        paths
    }
}

/// Parses a pattern of device ids. One that no id can match is refused, since it would silently grant nothing.
pub(in crate::auth) fn device_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = text.parse::<Pattern>().map_err(|error| error.to_string())?;
    let fits = if text.is_empty() { DeviceId::new(text).map(drop) } else { Ok(()) };
    let fits = fits.and(pattern.texts().try_for_each(|text| DeviceId::new(text).map(drop)));
    fits.map_err(|error| format!("has '{text}', which no device id matches: {error}"))?;
    Ok(pattern)
}

/// Parses a pattern of shadow names; that of the classic shadow is empty.
fn name_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = text.parse::<Pattern>().map_err(|error| error.to_string())?;
    let fits = pattern.texts().try_for_each(|text| ShadowName::new(text).map(drop));
    fits.map_err(|error| format!("has '{text}', which no shadow name matches: {error}"))?;
    Ok(pattern)
}

fn each<S, T, E: std::fmt::Display>(texts: &[S], read: impl Fn(&S) -> Result<T, E>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| read(text).map_err(|error| error.to_string())).collect()
}
