//! The fields of a device: their names, and their values.

use std::{fmt, str::FromStr};

use serde_json::Value;

use crate::{
    fleet::{
        device::{Device, Shadow},
        query::{QueryError, parse, text::write_escaped},
    },
    shadow::{
        ShadowName,
        document::tree::{self, Members, Node},
        pointer::SectionName,
    },
};

/// A field of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The id.
    Device,
    /// True if the device is connected.
    Connected,
    /// The time of the last connection, or once disconnected of the last packet, in milliseconds since 1970.
    ConnectivityTimestamp,
    /// The time since the device was last connected: 0 while it is.
    Seen,
    /// True if a shadow has a delta.
    Drift,
    /// The time since the newest change of a shadow.
    Updated,
    /// A field of the shadow with this name; `None` is the name of the classic one.
    Shadow(Option<ShadowName>, ShadowField),
}

/// A field of a shadow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowField {
    /// The shadow itself, which exists or not.
    Itself,
    /// True if it has a delta.
    HasDelta,
    /// Its version.
    Version,
    /// The time since its newest change.
    Updated,
    /// The value at these keys below a part of its state.
    Value(Part, Vec<Box<str>>),
}

/// A part of the state of a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A section.
    Section(SectionName),
    /// The values of `desired` that differ in `reported`.
    Delta,
}

/// The kind of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any JSON value.
    Any,
    /// True or false.
    Flag,
    /// A number.
    Number,
    /// A time span up to now.
    Age,
    /// Nothing but its existence.
    Existence,
}

/// The names that begin a field, for messages.
const NAMES: &str = "device, connected, seen, drift, updated, version, reported, desired, tags, delta, shadow, and AWS's \
                     thingName, thingTypeName, thingGroupNames, attributes, connectivity.connected and \
                     connectivity.timestamp";

/// The names of the fields of a shadow, for messages.
const SHADOW_NAMES: &str = "reported, desired, tags, delta, hasDelta, version, updated and name.<shadow name>";

/// Parses the name of one field.
impl FromStr for Field {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        match Self::list(text)?.as_slice() {
            [(_, field)] => Ok(field.clone()),
            _ => Err(QueryError { column: 1, reason: "expected one field".to_owned() }),
        }
    }
}

impl Field {
    /// Parses names of fields, separated by commas. Returns each as written, and its field.
    ///
    /// # Errors
    ///
    /// A [`QueryError`] for a text that is no list of fields.
    pub fn list(text: &str) -> Result<Vec<(String, Self)>, QueryError> {
        parse::fields(text)
    }

    /// Returns the field with this name, given as its parts between the dots.
    pub(super) fn of(parts: &[Box<str>]) -> Result<Self, String> {
        let parts: Vec<_> = parts.iter().map(|part| &**part).collect();
        let tag = |name: &str| {
            let value = ShadowField::Value(Part::Section(SectionName::Tags), vec![name.into()]);
            Ok(Self::Shadow(None, value))
        };
        match parts.as_slice() {
            ["device" | "thingName"] => Ok(Self::Device),
            ["connected"] | ["connectivity", "connected"] => Ok(Self::Connected),
            ["connectivity", "timestamp"] => Ok(Self::ConnectivityTimestamp),
            ["seen"] => Ok(Self::Seen),
            ["drift"] => Ok(Self::Drift),
            ["updated"] => Ok(Self::Updated),
            ["version"] => Ok(Self::Shadow(None, ShadowField::Version)),
            ["registry", name @ ("thingTypeName" | "thingGroupNames")]
            | [name @ ("thingTypeName" | "thingGroupNames")] => tag(name),
            ["attributes", keys @ ..] => Ok(Self::Shadow(None, value(Part::Section(SectionName::Tags), keys)?)),
            ["shadow", "name", name, rest @ ..] => {
                let name = ShadowName::new(name).map_err(|error| format!("the shadow name {error}"))?;
                Ok(Self::Shadow(Some(name), ShadowField::of(rest)?))
            }
            ["shadow", rest @ ..] => Ok(Self::Shadow(None, ShadowField::of(rest)?)),
            [first, keys @ ..] => match Part::of(first) {
                Some(part) => Ok(Self::Shadow(None, value(part, keys)?)),
                None => Err(format!("unknown field '{}'; fields are {NAMES}", excerpt(&parts.join(".")))),
            },
            [] => Err("expected the name of a field".to_owned()),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Device | Self::Shadow(_, ShadowField::Value(..)) => Kind::Any,
            Self::Connected | Self::Drift | Self::Shadow(_, ShadowField::HasDelta) => Kind::Flag,
            Self::ConnectivityTimestamp | Self::Shadow(_, ShadowField::Version) => Kind::Number,
            Self::Seen | Self::Updated | Self::Shadow(_, ShadowField::Updated) => Kind::Age,
            Self::Shadow(_, ShadowField::Itself) => Kind::Existence,
        }
    }

    /// Returns true if the field is about the presence of the device.
    #[must_use]
    pub fn reads_presence(&self) -> bool {
        matches!(self, Self::Connected | Self::ConnectivityTimestamp | Self::Seen)
    }

    /// Returns true if the field is about the shadow with this name.
    #[must_use]
    pub fn reads_shadow(&self, name: Option<&ShadowName>) -> bool {
        matches!(self, Self::Shadow(wanted, _) if wanted.as_ref() == name)
    }

    /// Returns the value of the field in JSON; `None` if it has none. Times are in seconds since 1970. A path that goes
    /// on below an array has the value of the first element with one.
    #[must_use]
    pub fn value(&self, device: &Device) -> Option<Value> {
        let seen = || device.presence.and_then(|presence| presence.seen);
        match self {
            Self::Device => Some(device.id.as_str().into()),
            Self::Connected => device.presence.map(|presence| presence.connected.into()),
            Self::ConnectivityTimestamp => seen().map(|seen| seen.0.saturating_mul(1000).into()),
            Self::Seen => seen().map(|seen| seen.0.into()),
            Self::Drift => Some(device.drift.into()),
            Self::Updated => device.updated.map(|updated| updated.0.into()),
            Self::Shadow(name, field) => field.value(device.shadow(name.as_ref())?),
        }
    }

    /// Passes each value of the field that is no object to `visit`: the elements of an array one by one, and of a path
    /// that goes on below an array those of each element.
    pub fn each_value(&self, device: &Device, visit: &mut dyn FnMut(&Value)) {
        match self {
            Self::Shadow(name, ShadowField::Value(part, keys)) => {
                if let Some(shadow) = device.shadow(name.as_ref()) {
                    each_in_members(part.members(shadow), keys, visit);
                }
            }
            field => field.value(device).iter().for_each(visit),
        }
    }
}

impl ShadowField {
    fn of(parts: &[&str]) -> Result<Self, String> {
        match parts {
            [] => Ok(Self::Itself),
            ["hasDelta"] => Ok(Self::HasDelta),
            ["version"] => Ok(Self::Version),
            ["updated"] => Ok(Self::Updated),
            [first, keys @ ..] => match Part::of(first) {
                Some(part) => value(part, keys),
                None => {
                    let name = excerpt(&parts.join(".")).to_owned();
                    Err(format!("unknown field '{name}' of a shadow; its fields are {SHADOW_NAMES}"))
                }
            },
        }
    }

    fn value(&self, shadow: &Shadow) -> Option<Value> {
        match self {
            Self::Itself => Some(true.into()),
            Self::HasDelta => Some((!shadow.delta.is_empty()).into()),
            Self::Version => Some(shadow.document.version.0.into()),
            Self::Updated => Some(shadow.document.timestamp.0.into()),
            Self::Value(part, keys) => {
                let members = part.members(shadow);
                match keys.as_slice() {
                    [] => (!members.is_empty()).then(|| Value::Object(tree::values(members))),
                    keys => value_at(members, keys),
                }
            }
        }
    }
}

impl Part {
    fn of(name: &str) -> Option<Self> {
        if name == "delta" { Some(Self::Delta) } else { SectionName::of(name).map(Self::Section) }
    }

    /// Returns the members of this part of `shadow`.
    pub(super) fn members(self, shadow: &Shadow) -> &Members {
        match self {
            Self::Section(name) => &shadow.document.section(name).members,
            Self::Delta => &shadow.delta,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Section(name) => name.as_str(),
            Self::Delta => "delta",
        }
    }
}

fn value(part: Part, keys: &[&str]) -> Result<ShadowField, String> {
    match keys.iter().any(|key| key.is_empty()) {
        true => Err("expected a key before and after each dot of a field".to_owned()),
        false => Ok(ShadowField::Value(part, keys.iter().map(|key| Box::from(*key)).collect())),
    }
}

fn value_at(members: &Members, keys: &[Box<str>]) -> Option<Value> {
    let [key, rest @ ..] = keys else { return Some(Value::Object(tree::values(members))) };
    match members.get(key)? {
        Node::Object(members) => value_at(members, rest),
        Node::Leaf(leaf) => value_in(&leaf.value, rest).cloned(),
    }
}

fn value_in<'a>(value: &'a Value, keys: &[Box<str>]) -> Option<&'a Value> {
    let [key, rest @ ..] = keys else { return Some(value) };
    match value {
        Value::Object(members) => value_in(members.get(&**key)?, rest),
        Value::Array(elements) => elements.iter().find_map(|element| value_in(element, keys)),
        _ => None,
    }
}

fn each_in_members(members: &Members, keys: &[Box<str>], visit: &mut dyn FnMut(&Value)) {
    let [key, rest @ ..] = keys else { return };
    match members.get(key) {
        None => {}
        Some(Node::Object(members)) => each_in_members(members, rest, visit),
        Some(Node::Leaf(leaf)) => each_in_value(&leaf.value, rest, visit),
    }
}

fn each_in_value(value: &Value, keys: &[Box<str>], visit: &mut dyn FnMut(&Value)) {
    match (value, keys) {
        (Value::Array(elements), keys) => elements.iter().for_each(|element| each_in_value(element, keys, visit)),
        (Value::Object(members), [key, rest @ ..]) => {
            members.get(&**key).into_iter().for_each(|value| each_in_value(value, rest, visit));
        }
        (Value::Object(_), []) | (_, [_, ..]) => {}
        (value, []) => visit(value),
    }
}

fn excerpt(text: &str) -> &str {
    crate::shadow::excerpt(text, 64)
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, field) = match self {
            Self::Device => return f.write_str("device"),
            Self::Connected => return f.write_str("connected"),
            Self::ConnectivityTimestamp => return f.write_str("connectivity.timestamp"),
            Self::Seen => return f.write_str("seen"),
            Self::Drift => return f.write_str("drift"),
            Self::Updated => return f.write_str("updated"),
            Self::Shadow(name, field) => (name, field),
        };
        match name {
            Some(name) => {
                f.write_str("shadow.name.")?;
                write_escaped(f, name.as_str())?;
            }
            None if matches!(field, ShadowField::Value(..)) => {}
            None => f.write_str("shadow")?,
        }
        let dot = if name.is_some() { "." } else { "" };
        match field {
            ShadowField::Itself => Ok(()),
            ShadowField::HasDelta => f.write_str(".hasDelta"),
            ShadowField::Version => f.write_str(".version"),
            ShadowField::Updated => f.write_str(".updated"),
            ShadowField::Value(part, keys) => {
                write!(f, "{dot}{}", part.name())?;
                keys.iter().try_for_each(|key| {
                    f.write_str(".")?;
                    write_escaped(f, key)
                })
            }
        }
    }
}
