//! Which topics are the service's own, and what a publication to one of them asks for.
//!
//! `shadow/<id>` and `shadow/<id>/name/<name>` are the prefixes of a shadow's topics, `$aws/things/<id>/shadow` and
//! `$aws/things/<id>/shadow/name/<name>` are those of the same shadow in the AWS dialect. A client may publish to
//! `…/update`, `…/get` and `…/delete` below a prefix; everything else below `shadow/` and below `$` is the service's
//! to publish. All other topics are ordinary.

use crate::{
    auth,
    mqtt::topic::TopicName,
    shadow::{DeviceId, ShadowKey, ShadowName},
    wire::Dialect,
};

/// What a publication to a topic means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An ordinary message.
    Plain,
    /// A request to a shadow.
    Request(ShadowKey, Operation, Dialect),
    /// Nobody but the service publishes there.
    Reserved,
}

/// What a request asks of a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `P/update`.
    Update,
    /// `P/get`.
    Get,
    /// `P/delete`.
    Delete,
}

/// A topic below a shadow's prefix that the service publishes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `P/update/delta`.
    Delta,
    /// `P/update/documents`.
    Documents,
    /// `P/update/accepted`.
    UpdateAccepted,
    /// `P/update/rejected`.
    UpdateRejected,
    /// `P/get/accepted`.
    GetAccepted,
    /// `P/get/rejected`.
    GetRejected,
    /// `P/delete/accepted`.
    DeleteAccepted,
    /// `P/delete/rejected`.
    DeleteRejected,
    /// `P/document`.
    Document,
}

impl From<Operation> for auth::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Update => Self::Update,
            Operation::Get => Self::Get,
            Operation::Delete => Self::Delete,
        }
    }
}

impl Operation {
    /// Where a refusal of it is told.
    #[must_use]
    pub fn rejected(self) -> Event {
        match self {
            Self::Update => Event::UpdateRejected,
            Self::Get => Event::GetRejected,
            Self::Delete => Event::DeleteRejected,
        }
    }
}

impl Destination {
    /// What a publication to `topic` means.
    #[must_use]
    pub fn of(topic: &TopicName) -> Self {
        let topic = topic.as_str();
        let request = if let Some(rest) = topic.strip_prefix(NATIVE) {
            operation(rest).and_then(|(prefix, operation)| Some((native(prefix)?, operation, Dialect::Native)))
        } else if topic.starts_with('$') {
            let rest = topic.strip_prefix(AWS).and_then(operation);
            rest.and_then(|(prefix, operation)| Some((aws(prefix)?, operation, Dialect::Aws)))
        } else {
            return Self::Plain;
        };
        request.map_or(Self::Reserved, |(key, operation, dialect)| Self::Request(key, operation, dialect))
    }
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Delta,
        Self::Documents,
        Self::UpdateAccepted,
        Self::UpdateRejected,
        Self::GetAccepted,
        Self::GetRejected,
        Self::DeleteAccepted,
        Self::DeleteRejected,
        Self::Document,
    ];

    /// The topic of this event of `key`'s shadow in `dialect`.
    #[must_use]
    pub fn topic(self, dialect: Dialect, key: &ShadowKey) -> String {
        let (root, shadow) = match dialect {
            Dialect::Native => (NATIVE, ""),
            Dialect::Aws => (AWS, AWS_SHADOW),
        };
        let (slash, name) = key.name.as_ref().map_or(("", ""), |name| (NAME, name.as_str()));
        [root, key.device.as_str(), shadow, slash, name, self.suffix()].concat()
    }

    /// The shadow whose event of this kind the native `topic` is.
    #[must_use]
    pub fn key_of(self, topic: &str) -> Option<ShadowKey> {
        native(topic.strip_prefix(NATIVE)?.strip_suffix(self.suffix())?)
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Delta => "/update/delta",
            Self::Documents => "/update/documents",
            Self::UpdateAccepted => "/update/accepted",
            Self::UpdateRejected => "/update/rejected",
            Self::GetAccepted => "/get/accepted",
            Self::GetRejected => "/get/rejected",
            Self::DeleteAccepted => "/delete/accepted",
            Self::DeleteRejected => "/delete/rejected",
            Self::Document => "/document",
        }
    }
}

/// Where it is told whether `device` is connected.
#[must_use]
pub fn presence(device: &DeviceId) -> String {
    [NATIVE, device.as_str(), PRESENCE].concat()
}

/// The device of which `topic` tells whether it is connected.
#[must_use]
pub fn presence_of(topic: &str) -> Option<DeviceId> {
    DeviceId::new(topic.strip_prefix(NATIVE)?.strip_suffix(PRESENCE)?).ok()
}

/// One level of a topic that the service publishes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// This text.
    Is(&'static str),
    /// A device id.
    Device,
    /// The name of a named shadow.
    Name,
}

/// The topics that the service publishes to, level by level.
pub fn shapes() -> impl Iterator<Item = Vec<Level>> {
    let suffixes = Event::ALL.map(|event| (event.suffix(), event != Event::Document));
    let suffixes = suffixes.into_iter().chain([(PRESENCE, false)]);
    suffixes.flat_map(|(suffix, over_aws)| {
        let native = &[Level::Is("shadow"), Level::Device][..];
        let aws = &[Level::Is("$aws"), Level::Is("things"), Level::Device, Level::Is("shadow")][..];
        let prefixes = if over_aws { vec![native, aws] } else { vec![native] };
        let names = if suffix == PRESENCE { vec![&[][..]] } else { vec![&[][..], &[Level::Is("name"), Level::Name]] };
        prefixes.into_iter().flat_map(move |prefix| {
            let end = suffix.split('/').skip(1).map(Level::Is);
            let shape = move |name: &[Level]| [prefix, name].concat().into_iter().chain(end.clone()).collect();
            names.clone().into_iter().map(shape)
        })
    })
}

/// Splits off what is asked.
fn operation(rest: &str) -> Option<(&str, Operation)> {
    let (prefix, verb) = rest.rsplit_once('/')?;
    let operation = match verb {
        "update" => Operation::Update,
        "get" => Operation::Get,
        "delete" => Operation::Delete,
        _ => return None,
    };
    Some((prefix, operation))
}

/// Reads `<id>` or `<id>/name/<name>`.
fn native(prefix: &str) -> Option<ShadowKey> {
    match prefix.split_once(NAME) {
        None => key(prefix, None),
        Some((device, name)) => key(device, Some(name)),
    }
}

/// Reads `<id>/shadow` or `<id>/shadow/name/<name>`.
fn aws(prefix: &str) -> Option<ShadowKey> {
    match prefix.split_once('/').map(|(device, rest)| (device, rest.strip_prefix("shadow"))) {
        Some((device, Some(""))) => key(device, None),
        Some((device, Some(rest))) => key(device, Some(rest.strip_prefix(NAME)?)),
        _ => None,
    }
}

fn key(device: &str, name: Option<&str>) -> Option<ShadowKey> {
    let device = DeviceId::new(device).ok()?;
    Some(match name {
        None => ShadowKey::classic(device),
        Some(name) => ShadowKey::named(device, ShadowName::new(name).ok()?),
    })
}

const NATIVE: &str = "shadow/";
const AWS: &str = "$aws/things/";
const AWS_SHADOW: &str = "/shadow";
const NAME: &str = "/name/";
const PRESENCE: &str = "/presence";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_s_topic_names_its_shadow() {
        for key in ["d1", "d1/name/n$"] {
            let key = native(key).expect("valid");
            assert_eq!(Event::Document.key_of(&Event::Document.topic(Dialect::Native, &key)), Some(key.clone()));
            assert_eq!(Event::Document.key_of(&Event::Delta.topic(Dialect::Native, &key)), None);
            for dialect in [Dialect::Native, Dialect::Aws] {
                let topic = Event::UpdateAccepted.topic(dialect, &key);
                let request = topic.strip_suffix("/accepted").and_then(|topic| TopicName::new(topic).ok());
                let expected = Destination::Request(key.clone(), Operation::Update, dialect);
                assert_eq!(request.map(|topic| Destination::of(&topic)), Some(expected), "{topic}");
            }
        }
    }

    #[test]
    fn topics_are_told_apart() {
        // topic, "plain", "reserved" or the request
        for (topic, expected) in [
            ("shadow/d1/update", "d1 Update"),
            ("shadow/d1/get", "d1 Get"),
            ("shadow/d1/delete", "d1 Delete"),
            ("shadow/d1/name/n$1/update", "d1~n$1 Update"),
            ("shadow/d1/update/accepted", "reserved"),
            ("shadow/d1/update/", "reserved"),
            ("shadow/d1/document", "reserved"),
            ("shadow/d1/name/update", "reserved"),
            ("shadow/d1/name//update", "reserved"),
            ("shadow/d.1/update", "reserved"),
            ("shadow//update", "reserved"),
            ("shadow/", "reserved"),
            ("shadow", "plain"),
            ("shadows/d1/update", "plain"),
            ("/shadow/d1/update", "plain"),
            ("$aws/things/d1/shadow/update", "d1 Update over AWS"),
            ("$aws/things/d1/shadow/get", "d1 Get over AWS"),
            ("$aws/things/d1/shadow/name/n$1/delete", "d1~n$1 Delete over AWS"),
            ("$aws/things/shadow/shadow/name/shadow/get", "shadow~shadow Get over AWS"),
            ("$aws/things/d1/shadow/update/accepted", "reserved"),
            ("$aws/things/d1/shadow/document", "reserved"),
            ("$aws/things/d1/shadow/name/update", "reserved"),
            ("$aws/things/d1/shadow/name//update", "reserved"),
            ("$aws/things/d1/shadows/update", "reserved"),
            ("$aws/things/d1/shadow/names/n/update", "reserved"),
            ("$aws/things/d1/update", "reserved"),
            ("$aws/things//shadow/update", "reserved"),
            ("$aws/things/d1/shadow/", "reserved"),
            ("$aws/things/", "reserved"),
            ("$aws", "reserved"),
            ("$aws/rules/r1", "reserved"),
            ("$share/g/x", "reserved"),
            ("$SYS/broker", "reserved"),
            ("sensors/1", "plain"),
            ("shadow/d1/name/n/name/update", "reserved"),
            ("shadow/name/name/name/update", "name~name Update"),
        ] {
            let found = TopicName::new(topic).map(|name| match Destination::of(&name) {
                Destination::Plain => "plain".to_owned(),
                Destination::Reserved => "reserved".to_owned(),
                Destination::Request(key, operation, Dialect::Native) => format!("{key} {operation:?}"),
                Destination::Request(key, operation, Dialect::Aws) => format!("{key} {operation:?} over AWS"),
            });
            assert_eq!(found, Ok(expected.to_owned()), "{topic}");
        }
    }
}
