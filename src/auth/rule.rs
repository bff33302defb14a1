//! Rules: what a role may do, and to which shadows and topics.
//!
//! A rule allows, nothing forbids: a role may do what any of its rules allows, a principal what any of its roles does.
//! What a rule says of shadows holds for the devices *and* names *and* operations *and* paths it has.

use std::sync::Arc;

use crate::{
    auth::{
        pattern::{Pattern, PatternError, Who},
        topics::TopicPattern,
    },
    shadow::{DeviceId, Paths, Pointer, ShadowKey, ShadowName, pointer::NotAPointer},
};

/// What may be done to a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read it on request.
    Get,
    /// Write to it.
    Update,
    /// Delete it.
    Delete,
    /// Be told of its changes.
    Subscribe,
    /// Read who changed what.
    History,
}

/// Some operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations(u8);

/// A rule as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    /// The role.
    pub role: String,
    /// Where it stands, for those who ask which rule it was.
    pub origin: String,
    /// Patterns of device ids; [`GRANTED`]: those of the grant.
    pub devices: Vec<String>,
    /// Patterns of shadow names; the classic shadow's is empty.
    pub names: Vec<String>,
    /// Names of operations.
    pub operations: Vec<String>,
    /// Paths.
    pub read: Vec<String>,
    /// Paths.
    pub write: Vec<String>,
    /// Patterns of ordinary topics.
    pub publish: Vec<String>,
    /// Patterns of ordinary topics.
    pub subscribe: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The role.
    pub role: Arc<str>,
    /// Where it stands.
    pub origin: Origin,
    devices: Vec<Devices>,
    names: Vec<Pattern>,
    operations: Operations,
    read: PathPatterns,
    write: PathPatterns,
    publish: Vec<TopicPattern>,
    subscribe: Vec<TopicPattern>,
}

/// Where a rule stands. Rules that differ in it alone are equal.
#[derive(Clone, Debug)]
pub struct Origin(pub Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    Like(Pattern),
    /// Those that the grant of the role names.
    Granted,
}

/// Paths, some with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PathPatterns {
    fixed: Paths,
    others: Vec<(Pointer, Vec<Pattern>)>,
}

/// A rule that is refused: the key, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct RuleError {
    /// The key in the rule.
    pub key: &'static str,
    /// What is wrong, naming the value.
    pub problem: String,
}

/// In `devices` of a rule: the devices of the grant.
pub const GRANTED: &str = "{devices}";

impl Operation {
    /// All, as they are named in rules.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("get", Self::Get),
        ("update", Self::Update),
        ("delete", Self::Delete),
        ("subscribe", Self::Subscribe),
        ("history", Self::History),
    ];

    /// The operation of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, operation)| operation)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.into_iter().find(|(_, operation)| *operation == self).map_or("", |(name, _)| name)
    }
}

impl Operations {
    /// Whether `operation` is one of them.
    #[must_use]
    pub fn has(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }

    fn is_all(self) -> bool {
        Operation::NAMED.into_iter().all(|(_, operation)| self.has(operation))
    }
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    ///
    /// The first value that makes no sense.
    pub fn read(text: &RuleText) -> Result<Self, RuleError> {
        let failed = |key| move |error: String| RuleError { key, problem: error };
        let mut operations = Operations::default();
        for name in &text.operations {
            let Some(operation) = Operation::of(name) else {
                let known = Operation::NAMED.map(|(name, _)| name).join(", ");
                return Err(failed("operations")(format!("has '{name}', but must be of {known}")));
            };
            operations.0 |= 1 << operation as u8;
        }
        let device = |text: &String| match text.as_str() {
            GRANTED => Ok(Devices::Granted),
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
        })
    }

    /// Whether it is about `device` when the role was granted with `granted`.
    #[must_use]
    pub fn has_device(&self, device: &str, granted: &[Pattern], who: Who<'_>) -> bool {
        self.devices.iter().any(|devices| match devices {
            Devices::Like(pattern) => pattern.matches(device, who),
            Devices::Granted => granted.iter().any(|pattern| pattern.matches(device, who)),
        })
    }

    /// Whether it is about any device when the role was granted with `granted`.
    #[must_use]
    pub fn has_devices(&self, granted: &[Pattern], who: Who<'_>) -> bool {
        self.devices.iter().any(|devices| match devices {
            Devices::Like(pattern) => pattern.may_be_level(who),
            Devices::Granted => granted.iter().any(|pattern| pattern.may_be_level(who)),
        })
    }

    /// Whether it is about the shadow of this name; empty: the classic one.
    #[must_use]
    pub fn has_name(&self, name: &str, who: Who<'_>) -> bool {
        self.names.iter().any(|pattern| pattern.matches(name, who))
    }

    /// Whether it is about any shadow that has a name.
    #[must_use]
    pub fn has_names(&self, who: Who<'_>) -> bool {
        self.names.iter().any(|pattern| pattern.may_be_level(who) && pattern.name(who).as_deref() != Some(""))
    }

    /// Whether it is about `key`.
    #[must_use]
    pub fn is_about(&self, key: &ShadowKey, granted: &[Pattern], who: Who<'_>) -> bool {
        self.has_name(key.name.as_ref().map_or("", |name| name.as_str()), who)
            && self.has_device(key.device.as_str(), granted, who)
    }

    /// Whether it allows `operation` on the shadows that it is about.
    #[must_use]
    pub fn allows(&self, operation: Operation) -> bool {
        self.operations.has(operation)
    }

    /// The paths that may be read.
    #[must_use]
    pub fn reads(&self, who: Who<'_>) -> Paths {
        self.read.of(who)
    }

    /// The paths that may be written.
    #[must_use]
    pub fn writes(&self, who: Who<'_>) -> Paths {
        self.write.of(who)
    }

    /// The ordinary topics that may be published to.
    #[must_use]
    pub fn publish(&self) -> &[TopicPattern] {
        &self.publish
    }

    /// The ordinary topics that may be received.
    #[must_use]
    pub fn subscribe(&self) -> &[TopicPattern] {
        &self.subscribe
    }

    /// Whether it allows everything.
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

    fn of(&self, who: Who<'_>) -> Paths {
        let mut paths = self.fixed.clone();
        for (path, keys) in &self.others {
            let keys = keys.iter().filter_map(|key| key.name(who)).map(Into::into).collect();
            paths.insert(&Pointer { section: path.section, keys });
        }
        paths
    }
}

/// A pattern of device ids. One that no id matches would grant nothing and never be noticed.
pub(super) fn device_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = text.parse::<Pattern>().map_err(|error| error.to_string())?;
    let fits = if text.is_empty() { DeviceId::new(text).map(drop) } else { Ok(()) };
    let fits = fits.and(pattern.texts().try_for_each(|text| DeviceId::new(text).map(drop)));
    fits.map_err(|error| format!("has '{text}', which no device id matches: {error}"))?;
    Ok(pattern)
}

/// A pattern of shadow names, that of the classic shadow being empty.
fn name_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = text.parse::<Pattern>().map_err(|error| error.to_string())?;
    let fits = pattern.texts().try_for_each(|text| ShadowName::new(text).map(drop));
    fits.map_err(|error| format!("has '{text}', which no shadow name matches: {error}"))?;
    Ok(pattern)
}

fn each<S, T, E: std::fmt::Display>(texts: &[S], read: impl Fn(&S) -> Result<T, E>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| read(text).map_err(|error| error.to_string())).collect()
}
