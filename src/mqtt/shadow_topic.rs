//! Which topics are the service's own, and what a publication to one of them asks for.
//!
//! `shadow/<id>` and `shadow/<id>/name/<name>` are the prefixes of a shadow's topics. A client may publish to
//! `…/update`, `…/get` and `…/delete` below a prefix; everything else below `shadow/` and below `$` is the service's
//! to publish. All other topics are ordinary.

use crate::{
    mqtt::topic::TopicName,
    shadow::{DeviceId, ShadowKey, ShadowName},
};

/// What a publication to a topic means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An ordinary message.
    Plain,
    /// A request to a shadow.
    Request(ShadowKey, Operation),
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
        if topic.starts_with('$') {
            return Self::Reserved;
        }
        let Some(rest) = topic.strip_prefix("shadow/") else {
            return Self::Plain;
        };
        request(rest).map_or(Self::Reserved, |(key, operation)| Self::Request(key, operation))
    }
}

impl Event {
    /// The topic of this event of `key`'s shadow.
    #[must_use]
    pub fn topic(self, key: &ShadowKey) -> String {
        let mut topic = String::with_capacity(32 + key.device.as_str().len());
        topic.push_str("shadow/");
        topic.push_str(key.device.as_str());
        if let Some(name) = &key.name {
            topic.push_str("/name/");
            topic.push_str(name.as_str());
        }
        topic.push_str(self.suffix());
        topic
    }

    /// The shadow whose event of this kind `topic` is.
    #[must_use]
    pub fn key_of(self, topic: &str) -> Option<ShadowKey> {
        shadow(topic.strip_prefix("shadow/")?.strip_suffix(self.suffix())?)
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

fn request(rest: &str) -> Option<(ShadowKey, Operation)> {
    let (prefix, verb) = rest.rsplit_once('/')?;
    let operation = match verb {
        "update" => Operation::Update,
        "get" => Operation::Get,
        "delete" => Operation::Delete,
        _ => return None,
    };
    Some((shadow(prefix)?, operation))
}

/// Reads `<id>` or `<id>/name/<name>`.
fn shadow(prefix: &str) -> Option<ShadowKey> {
    match prefix.split_once("/name/") {
        None => DeviceId::new(prefix).ok().map(ShadowKey::classic),
        Some((device, name)) => Some(ShadowKey::named(DeviceId::new(device).ok()?, ShadowName::new(name).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_s_topic_names_its_shadow() {
        for key in ["d1", "d1/name/n$"] {
            let key = shadow(key).expect("valid");
            assert_eq!(Event::Document.key_of(&Event::Document.topic(&key)), Some(key.clone()));
            assert_eq!(Event::Document.key_of(&Event::Delta.topic(&key)), None);
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
            ("$aws/things/d1/shadow/update", "reserved"),
            ("$SYS/broker", "reserved"),
            ("sensors/1", "plain"),
            ("shadow/d1/name/n/name/update", "reserved"),
            ("shadow/name/name/name/update", "name~name Update"),
        ] {
            let found = TopicName::new(topic).map(|name| match Destination::of(&name) {
                Destination::Plain => "plain".to_owned(),
                Destination::Reserved => "reserved".to_owned(),
                Destination::Request(key, operation) => format!("{key} {operation:?}"),
            });
            assert_eq!(found, Ok(expected.to_owned()), "{topic}");
        }
    }
}
