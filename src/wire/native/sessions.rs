//! Lists of MQTT sessions and of retained messages, for operators.

use std::net::IpAddr;

use bytes::Bytes;

use crate::wire::{
    native::{cursor, message},
    write::Object,
};

/// An MQTT session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry<'a> {
    /// The principal.
    pub principal: &'a str,
    /// The client id.
    pub client: &'a str,
    /// The node of a cluster that has it.
    pub node: Option<u64>,
    /// True if it has a connection.
    pub connected: bool,
    /// The address of its connection, or of the last one.
    pub address: Option<IpAddr>,
    /// The protocol of that connection.
    pub protocol: Option<&'a str>,
    /// The time of that connection; shown while it lasts.
    pub connected_since: Option<u64>,
    /// Seconds that the session outlives its connection; shown while that lasts.
    pub session_expiry: Option<u32>,
    /// The time when it lost its connection.
    pub disconnected_since: Option<u64>,
    /// The time when it expires.
    pub expires: Option<u64>,
    /// The number of its filters.
    pub filters: usize,
    /// The number of messages that wait for it.
    pub queued: usize,
    /// Bytes of these messages.
    pub queued_bytes: usize,
    /// The number of messages that were sent and not acknowledged.
    pub inflight: usize,
}

/// A filter and its granted QoS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedFilter<'a> {
    /// The filter, with the group of a shared subscription.
    pub filter: &'a str,
    /// The maximum QoS.
    pub qos: u8,
}

/// An MQTT session with its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionDetail<'a> {
    /// The session.
    pub entry: SessionEntry<'a>,
    /// Its filters.
    pub filters: &'a [GrantedFilter<'a>],
}

/// A retained message without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedEntry<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Bytes of the payload.
    pub bytes: usize,
    /// The QoS of the publication.
    pub qos: u8,
    /// The principal that published it.
    pub by: &'a str,
    /// The time of the publication.
    pub since: u64,
}

/// Renders a page of MQTT sessions; `next` is the cursor of the next page. Sessions of the nodes `unreachable` may be missing.
#[must_use]
pub fn mqtt_sessions(entries: &[SessionEntry<'_>], next: Option<&str>, unreachable: &[u64]) -> Bytes {
    message(|envelope| {
        envelope.array("sessions", entries.iter(), |out, entry| {
            let mut object = Object::open(out);
            session_members(&mut object, entry);
            object.member("filters", &entry.filters);
            object.close();
        });
        if !unreachable.is_empty() {
            envelope.member("unreachable", &unreachable);
        }
        cursor(envelope, next);
    })
}

/// Renders an MQTT session with its filters.
#[must_use]
pub fn mqtt_session(detail: &SessionDetail<'_>) -> Bytes {
    message(|envelope| {
        session_members(envelope, &detail.entry);
        envelope.array("filters", detail.filters.iter(), |out, granted| {
            let mut object = Object::open(out);
            object.text("filter", granted.filter);
            object.member("qos", &granted.qos);
            object.close();
        });
    })
}

fn session_members(object: &mut Object<'_>, entry: &SessionEntry<'_>) {
    object.text("principal", entry.principal);
    object.text("client", entry.client);
    if let Some(node) = entry.node {
        object.member("node", &node);
    }
    object.member("connected", &entry.connected);
    if let Some(address) = entry.address {
        object.text("address", &address.to_string());
    }
    if let Some(protocol) = entry.protocol {
        object.text("protocol", protocol);
    }
    let connection =
        [("connectedSince", entry.connected_since), ("sessionExpiry", entry.session_expiry.map(u64::from))];
    let loss = [("disconnectedSince", entry.disconnected_since), ("expires", entry.expires)];
    for (name, value) in if entry.connected { connection } else { loss } {
        if let Some(value) = value {
            object.member(name, &value);
        }
    }
    object.member("queued", &entry.queued);
    object.member("queuedBytes", &entry.queued_bytes);
    object.member("inFlight", &entry.inflight);
}

/// Renders a page of retained messages; `next` is the cursor of the next page.
#[must_use]
pub fn retained(entries: &[RetainedEntry<'_>], next: Option<&str>) -> Bytes {
    message(|envelope| {
        envelope.array("retained", entries.iter(), |out, entry| {
            let mut object = Object::open(out);
            object.text("topic", entry.topic);
            object.member("bytes", &entry.bytes);
            object.member("qos", &entry.qos);
            object.text("by", entry.by);
            object.member("since", &entry.since);
            object.close();
        });
        cursor(envelope, next);
    })
}
