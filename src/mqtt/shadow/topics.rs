//! The topics of shadows, and the request that a publication to one of them makes.
//!
//! `shadow/<id>` and `shadow/<id>/name/<name>` are the prefixes of a shadow's topics, `$aws/things/<id>/shadow` and
//! `$aws/things/<id>/shadow/name/<name>` those of the same shadow in the AWS dialect. A client may publish to
//! `…/update`, `…/get` and `…/delete` below a prefix. Only the service publishes to the other topics below `shadow/`,
//! `$aws`, `$SYS` and `$share`, and so [`query_topics`]. All other topics are ordinary, including other ones that begin with `$`.

use crate::{
    auth,
    mqtt::{
        protocol::topic::{TopicFilter, TopicName},
        shadow::query_topics,
    },
    shadow::{DeviceId, ShadowKey, ShadowName, excerpt, name::NameError},
    wire::Dialect,
};

/// The meaning of a publication to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An ordinary message.
    Ordinary,
    /// A request to a shadow.
    Request(ShadowKey, RequestKind, Dialect),
    /// A topic that no client may publish to.
    Reserved(Reserved),
}

/// The reason for which a reserved topic is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reserved {
    /// The topic belongs to the service.
    #[error("only the service publishes to this topic")]
    Service,
    /// The device id is invalid.
    #[error("invalid device id: {0}")]
    Device(NameError),
    /// The shadow name is invalid.
    #[error("invalid shadow name: {0}")]
    Name(NameError),
    /// The last level is no request.
    #[error("unknown operation '{0}': known are update, get and delete")]
    RequestKind(String),
}

/// The kind of a request to a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
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
    /// `P/delta`.
    LeanDelta,
}

impl From<RequestKind> for auth::Operation {
    fn from(operation: RequestKind) -> Self {
        match operation {
            RequestKind::Update => Self::Update,
            RequestKind::Get => Self::Get,
            RequestKind::Delete => Self::Delete,
        }
    }
}

impl RequestKind {
    /// Returns the event that reports a rejection of this request.
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
    /// Returns the meaning of a publication to `topic`.
    #[must_use]
    pub fn of(topic: &TopicName) -> Self {
        let topic = topic.as_str();
        let (parts, dialect) = if query_topics::is_of_queries(topic) {
            (None, Dialect::Native)
        } else if let Some(rest) = topic.strip_prefix(NATIVE) {
            (rest.split_once('/'), Dialect::Native)
        } else if auth::is_reserved(topic) {
            let parts = topic.strip_prefix(AWS).and_then(|rest| rest.split_once('/'));
            let parts = parts.and_then(|(device, rest)| Some((device, rest.strip_prefix("shadow/")?)));
            (parts, Dialect::Aws)
        } else {
            return Self::Ordinary;
        };
        match parts.ok_or(Reserved::Service).and_then(|(device, rest)| request(device, rest)) {
            Ok((key, operation)) => Self::Request(key, operation, dialect),
            Err(reserved) => Self::Reserved(reserved),
        }
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 10] = [
        Self::Delta,
        Self::Documents,
        Self::UpdateAccepted,
        Self::UpdateRejected,
        Self::GetAccepted,
        Self::GetRejected,
        Self::DeleteAccepted,
        Self::DeleteRejected,
        Self::Document,
        Self::LeanDelta,
    ];

    /// The events that are sent as retained messages to new subscribers; only the newest counts.
    pub const RETAINED: [Self; 2] = [Self::Document, Self::LeanDelta];

    /// Returns true for one of [`Event::RETAINED`], which the AWS dialect does not have.
    #[must_use]
    pub fn is_retained(self) -> bool {
        Self::RETAINED.contains(&self)
    }

    /// Returns the topic of this event of `key`'s shadow in `dialect`.
    #[must_use]
    pub fn topic(self, dialect: Dialect, key: &ShadowKey) -> String {
        let (root, shadow) = match dialect {
            Dialect::Native => (NATIVE, ""),
            Dialect::Aws => (AWS, AWS_SHADOW),
        };
        let (slash, name) = key.name.as_ref().map_or(("", ""), |name| (NAME, name.as_str()));
        [root, key.device.as_str(), shadow, slash, name, self.suffix()].concat()
    }

    /// Returns the shadow whose event of this kind is published on the native `topic`.
    #[must_use]
    pub fn key_of(self, topic: &str) -> Option<ShadowKey> {
        let prefix = topic.strip_prefix(NATIVE)?.strip_suffix(self.suffix())?;
        let (device, name) = prefix.split_once(NAME).map_or((prefix, None), |(device, name)| (device, Some(name)));
        key(device, name).ok()
    }

    /// Returns true if `end`, the last levels of a topic, is that of an event.
    fn is_named(end: &str) -> bool {
        Self::ALL.iter().any(|event| event.suffix().strip_prefix('/') == Some(end))
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
            Self::LeanDelta => "/delta",
        }
    }
}

/// Returns the topic for the presence of `device`.
#[must_use]
pub fn presence(device: &DeviceId) -> String {
    [NATIVE, device.as_str(), PRESENCE].concat()
}

/// Returns the device whose presence is published on `topic`.
#[must_use]
pub fn presence_of(topic: &str) -> Option<DeviceId> {
    DeviceId::new(topic.strip_prefix(NATIVE)?.strip_suffix(PRESENCE)?).ok()
}

/// Returns true if `topic` is one of a named query.
#[must_use]
pub fn is_of_a_query(topic: &TopicName) -> bool {
    TopicFilter::new(topic.as_str()).is_ok_and(|topic| matches!(query_topics::query_of(&topic), Some(Ok(_))))
}

/// Returns the shadow whose events or presence are published on `topic`, of either dialect.
#[must_use]
pub fn shadow_of(topic: &str) -> Option<ShadowKey> {
    let aws = topic.strip_prefix(AWS).and_then(|rest| {
        let (device, rest) = rest.split_once('/')?;
        Some([NATIVE, device, rest.strip_prefix("shadow")?].concat())
    });
    let event = |event: Event| event.key_of(aws.as_deref().unwrap_or(topic));
    presence_of(topic).map(ShadowKey::classic).or_else(|| Event::ALL.into_iter().find_map(event))
}

/// Returns true if events of `key`'s shadow, presence excluded, are published on `topic`, of either dialect.
#[must_use]
pub fn is_of(topic: &str, key: &ShadowKey) -> bool {
    let (rest, shadow) = match topic.strip_prefix(NATIVE) {
        Some(rest) => (Some(rest), ""),
        None => (topic.strip_prefix(AWS), AWS_SHADOW),
    };
    let rest = rest.and_then(|rest| rest.strip_prefix(key.device.as_str())?.strip_prefix(shadow));
    let rest = match &key.name {
        None => rest,
        Some(name) => rest.and_then(|rest| rest.strip_prefix(NAME)?.strip_prefix(name.as_str())),
    };
    rest.is_some_and(|end| Event::ALL.iter().any(|event| event.suffix() == end))
}

/// Returns true if the retained `topic` of a shadow is that of its lean delta.
#[must_use]
pub fn is_lean_delta(topic: &str) -> bool {
    topic.ends_with(Event::LeanDelta.suffix())
}

/// Returns true if only the service publishes to `topic`.
#[must_use]
pub fn is_service(topic: &str) -> bool {
    topic.starts_with(NATIVE) || topic.starts_with(AWS)
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
pub fn rendering() -> impl Iterator<Item = Vec<Level>> {
    let suffixes = Event::ALL.map(|event| (event.suffix(), !event.is_retained()));
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

/// Parses the levels after `device` in a topic: `<operation>` or `name/<name>/<operation>`.
fn request(device: &str, rest: &str) -> Result<(ShadowKey, RequestKind), Reserved> {
    let (name, verb) = match rest.strip_prefix("name/") {
        None => (None, rest),
        Some(rest) => rest.split_once('/').map(|(name, verb)| (Some(name), verb)).ok_or(Reserved::Service)?,
    };
    let operation = match verb {
        "update" => RequestKind::Update,
        "get" => RequestKind::Get,
        "delete" => RequestKind::Delete,
        end if Event::is_named(end) || PRESENCE.strip_prefix('/') == Some(end) => return Err(Reserved::Service),
        other => return Err(Reserved::RequestKind(excerpt(other, 64).to_owned())),
    };
    Ok((key(device, name)?, operation))
}

fn key(device: &str, name: Option<&str>) -> Result<ShadowKey, Reserved> {
    let device = DeviceId::new(device).map_err(Reserved::Device)?;
    Ok(match name {
        None => ShadowKey::classic(device),
        Some(name) => ShadowKey::named(device, ShadowName::new(name).map_err(Reserved::Name)?),
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
    fn the_topic_of_an_event_names_its_shadow() {
        for key in ["d1", "d1/name/n$"] {
            let (device, name) = key.split_once(NAME).map_or((key, None), |(device, name)| (device, Some(name)));
            let key = super::key(device, name).expect("valid");
            assert_eq!(Event::Document.key_of(&Event::Document.topic(Dialect::Native, &key)), Some(key.clone()));
            assert_eq!(Event::Document.key_of(&Event::Delta.topic(Dialect::Native, &key)), None);
            let lean = Event::LeanDelta.topic(Dialect::Native, &key);
            assert_eq!(shadow_of(&lean), Some(key.clone()));
            assert_eq!((Event::LeanDelta.key_of(&lean), Event::Delta.key_of(&lean)), (Some(key.clone()), None));
            assert_eq!(Event::LeanDelta.key_of(&Event::Delta.topic(Dialect::Native, &key)), None);
            assert_eq!(shadow_of(&presence(&key.device)), Some(ShadowKey::classic(key.device.clone())));
            for dialect in [Dialect::Native, Dialect::Aws] {
                let topic = Event::UpdateAccepted.topic(dialect, &key);
                assert_eq!(shadow_of(&topic), Some(key.clone()), "{topic}");
                let request = topic.strip_suffix("/accepted").and_then(|topic| TopicName::new(topic).ok());
                let expected = Destination::Request(key.clone(), RequestKind::Update, dialect);
                assert_eq!(request.map(|topic| Destination::of(&topic)), Some(expected), "{topic}");
            }
        }
    }

    #[test]
    fn parses_the_destination_of_a_publication() {
        // topic; then "ordinary", the beginning of the error, or the request
        const RESERVED: &str = "only the service publishes to this topic";
        for (topic, expected) in [
            ("shadow/d1/update", "d1 Update"),
            ("shadow/d1/get", "d1 Get"),
            ("shadow/d1/delete", "d1 Delete"),
            ("shadow/d1/name/n$1/update", "d1~n$1 Update"),
            ("shadow/d1/update/accepted", RESERVED),
            ("shadow/d1/update/", "unknown operation 'update/'"),
            ("shadow/d1/document", RESERVED),
            ("shadow/d1/delta", RESERVED),
            ("shadow/d1/name/n/delta", RESERVED),
            ("shadow/d1/name/update", RESERVED),
            ("shadow/d1/name//update", "invalid shadow name: ''"),
            ("shadow/d.1/update", "invalid device id: 'd.1' holds '.', allowed are A-Z a-z 0-9 : _ -"),
            ("shadow//update", "invalid device id: '' is 0 bytes long"),
            ("shadow/", RESERVED),
            ("shadow/x/updat", "unknown operation 'updat': known are update, get and delete"),
            ("shadow/d1/presence", RESERVED),
            ("shadow/d1/name/a.b/update", "invalid shadow name: 'a.b' holds '.', allowed are A-Z a-z 0-9 : _ - $"),
            ("shadow/$query/q/count", RESERVED),
            ("shadow/$query", RESERVED),
            ("shadow", "ordinary"),
            ("shadows/d1/update", "ordinary"),
            ("/shadow/d1/update", "ordinary"),
            ("$aws/things/d1/shadow/update", "d1 Update over AWS"),
            ("$aws/things/d1/shadow/get", "d1 Get over AWS"),
            ("$aws/things/d1/shadow/name/n$1/delete", "d1~n$1 Delete over AWS"),
            ("$aws/things/shadow/shadow/name/shadow/get", "shadow~shadow Get over AWS"),
            ("$aws/things/d1/shadow/update/accepted", RESERVED),
            ("$aws/things/d1/shadow/document", RESERVED),
            ("$aws/things/d1/shadow/name/update", RESERVED),
            ("$aws/things/d1/shadow/name//update", "invalid shadow name: ''"),
            ("$aws/things/d1/shadows/update", RESERVED),
            ("$aws/things/d1/shadow/names/n/update", "unknown operation 'names/n/update'"),
            ("$aws/things/d1/update", RESERVED),
            ("$aws/things//shadow/update", "invalid device id: '' is 0 bytes long"),
            ("$aws/things/d1/shadow/", "unknown operation ''"),
            ("$aws/things/", RESERVED),
            ("$aws", RESERVED),
            ("$aws/rules/r1", RESERVED),
            ("$share/g/x", RESERVED),
            ("$SYS/broker", RESERVED),
            ("$SYS", RESERVED),
            ("$other/x", "ordinary"),
            ("$awsome", "ordinary"),
            ("$aws-x/things/d1/shadow/update", "ordinary"),
            ("$sys/x", "ordinary"),
            ("$", "ordinary"),
            ("sensors/1", "ordinary"),
            ("shadow/d1/name/n/name/update", "unknown operation 'name/update'"),
            ("shadow/name/name/name/update", "name~name Update"),
        ] {
            let found = TopicName::new(topic).map(|name| match Destination::of(&name) {
                Destination::Ordinary => "ordinary".to_owned(),
                Destination::Reserved(reserved) => reserved.to_string(),
                Destination::Request(key, operation, Dialect::Native) => format!("{key} {operation:?}"),
                Destination::Request(key, operation, Dialect::Aws) => format!("{key} {operation:?} over AWS"),
            });
            assert!(found.as_ref().is_ok_and(|found| found.starts_with(expected)), "{topic}: {found:?}");
        }
    }
}
