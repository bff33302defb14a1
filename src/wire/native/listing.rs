//! Lists of devices and of the shadows of a device.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    shadow::{Etag, ShadowName, Timestamp, Version, document::canonical},
    wire::{
        native::{cursor, message},
        write::Object,
    },
};

/// A device that has shadows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Its id.
    pub id: String,
    /// True if it is connected; `None` if the reader may not know.
    pub connected: Option<bool>,
    /// Its last connection, if there was one and the reader may know.
    pub seen: Option<Seen>,
    /// True if one of its shadows has a delta.
    pub drift: bool,
    /// The number of its shadows.
    pub shadows: usize,
}

/// The last connection of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The time of its connection; once it is disconnected, of its last packet.
    pub last: Timestamp,
    /// The protocol.
    pub protocol: &'static str,
    /// The source address, if the reader may know.
    pub address: Option<IpAddr>,
}

/// A shadow of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowEntry {
    /// The name; `None` for the classic shadow.
    pub name: Option<ShadowName>,
    /// Its version.
    pub version: Version,
    /// Its etag.
    pub etag: Etag,
    /// The time of that version.
    pub timestamp: Timestamp,
    /// True if it has a delta.
    pub drift: bool,
}

/// Renders a page of devices; `next` is the cursor of the next page.
#[must_use]
pub fn devices(entries: &[DeviceEntry], next: Option<&str>) -> Bytes {
    message(|envelope| {
        envelope.array("devices", entries.iter(), |out, entry| {
            let mut object = Object::open(out);
            device_members(&mut object, entry);
            object.close();
        });
        cursor(envelope, next);
    })
}

/// A device that a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundDevice {
    /// The device.
    pub device: DeviceEntry,
    /// The names and values of the fields asked for; a field without a value is missing.
    pub fields: Vec<(String, Value)>,
}

/// Renders a page of found devices; `total` is the number of all, `next` the cursor of the next page.
#[must_use]
pub fn found_devices(entries: &[FoundDevice], total: Option<usize>, next: Option<&str>) -> Bytes {
    message(|envelope| {
        envelope.array("devices", entries.iter(), |out, found| {
            let mut object = Object::open(out);
            device_members(&mut object, &found.device);
            let mut fields = object.object("fields");
            found.fields.iter().for_each(|(name, value)| fields.member(name, value));
            fields.close();
            object.close();
        });
        if let Some(total) = total {
            envelope.member("total", &total);
        }
        cursor(envelope, next);
    })
}

fn device_members(object: &mut Object<'_>, entry: &DeviceEntry) {
    object.text("id", &entry.id);
    presence_members(object, entry.connected, entry.seen.as_ref());
    object.member("drift", &entry.drift);
    object.member("shadows", &entry.shadows);
}

/// One device with its shadows.
#[derive(Clone, Copy, Debug)]
pub struct DeviceDetail<'a> {
    /// Its id.
    pub id: &'a str,
    /// True if it is connected; `None` if the reader may not know.
    pub connected: Option<bool>,
    /// Its last connection, if there was one and the reader may know.
    pub seen: Option<&'a Seen>,
    /// Its shadows that the reader may see.
    pub shadows: &'a [ShadowEntry],
}

/// Renders one device; `next` is the cursor of the remaining shadows.
#[must_use]
pub fn device(detail: &DeviceDetail<'_>, next: Option<&str>) -> Bytes {
    message(|envelope| {
        envelope.text("id", detail.id);
        presence_members(envelope, detail.connected, detail.seen);
        if let Some(seen) = detail.seen.filter(|_| detail.connected == Some(true)) {
            envelope.member("connectedSince", &seen.last.0);
        }
        envelope.member("drift", &detail.shadows.iter().any(|entry| entry.drift));
        envelope.array("shadows", detail.shadows.iter(), write_shadow);
        cursor(envelope, next);
    })
}

fn presence_members(object: &mut Object<'_>, connected: Option<bool>, seen: Option<&Seen>) {
    if let Some(connected) = connected {
        object.member("connected", &connected);
    }
    if let Some(seen) = seen {
        object.member("lastSeen", &seen.last.0);
        object.text("protocol", seen.protocol);
        if let Some(address) = seen.address {
            object.text("address", &address.to_string());
        }
    }
}

/// Renders the presence of a device.
#[must_use]
pub fn presence(connected: bool, last_seen: Timestamp) -> Bytes {
    message(|envelope| {
        envelope.member("connected", &connected);
        envelope.member("lastSeen", &last_seen.0);
    })
}

/// Renders a page of the shadows of a device.
#[must_use]
pub fn shadows(entries: &[ShadowEntry], next: Option<&str>) -> Bytes {
    message(|envelope| {
        envelope.array("shadows", entries.iter(), write_shadow);
        cursor(envelope, next);
    })
}

fn write_shadow(out: &mut Vec<u8>, entry: &ShadowEntry) {
    let mut object = Object::open(out);
    if let Some(name) = &entry.name {
        object.text("name", name.as_str());
    }
    object.member("version", &entry.version.0);
    object.text("etag", &entry.etag.to_string());
    object.member("timestamp", &entry.timestamp.0);
    object.member("drift", &entry.drift);
    object.close();
}

/// Renders the caller: principal, authentication method and roles.
#[must_use]
pub fn session<'a>(principal: &str, method: &str, roles: impl Iterator<Item = &'a str>, sees_cluster: bool) -> Bytes {
    message(|envelope| {
        envelope.text("principal", principal);
        envelope.text("method", method);
        envelope.array("roles", roles, canonical::write_string);
        if sees_cluster {
            envelope.member("cluster", &true);
        }
    })
}

/// The numbers of what ended when an operator ended the connections of a principal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedConnections {
    /// MQTT connections.
    pub connections: usize,
    /// MQTT sessions, connected or not.
    pub sessions: usize,
    /// Event streams and waits.
    pub streams: usize,
    /// Browser sessions.
    pub sign_ins: usize,
}

impl EndedConnections {
    /// Returns the sums with those of another node.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            sessions: self.sessions + other.sessions,
            streams: self.streams + other.streams,
            sign_ins: self.sign_ins + other.sign_ins,
        }
    }
}

/// Renders what ended.
#[must_use]
pub fn ended_connections(ended: &EndedConnections) -> Bytes {
    message(|envelope| {
        envelope.member("connections", &ended.connections);
        envelope.member("sessions", &ended.sessions);
        envelope.member("streams", &ended.streams);
        envelope.member("signIns", &ended.sign_ins);
    })
}

/// A part of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeStep<'a> {
    /// Shadows that were deleted or tombstones that were dropped; in a dry run, those that would be.
    pub purged: usize,
    /// Shadows that changed in between, or tombstones that cannot be dropped yet.
    pub kept: usize,
    /// The cursor of the next part; `None` after the last one.
    pub next: Option<&'a str>,
}

/// Renders a part of a purge.
#[must_use]
pub fn purge_step(step: &PurgeStep<'_>) -> Bytes {
    message(|envelope| {
        envelope.member("purged", &step.purged);
        envelope.member("kept", &step.kept);
        cursor(envelope, step.next);
    })
}

/// An amount in use, and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    /// The amount in use.
    pub used: usize,
    /// The most that may be in use.
    pub limit: usize,
}

/// The use that a principal makes of its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrincipalUse<'a> {
    /// The name of the principal.
    pub principal: &'a str,
    /// Bytes kept on its behalf.
    pub memory: Used,
    /// Units of work a second that it may cause.
    pub work_per_second: u64,
    /// Milliseconds until it is within its rate of work.
    pub throttled_for_ms: u64,
    /// Times that it was throttled or refused for work or memory.
    pub throttled: usize,
    /// MQTT sessions, connected or not.
    pub sessions: Used,
    /// MQTT sessions with a connection.
    pub connected: usize,
    /// Filters of all its sessions.
    pub filters: Used,
    /// Event streams and waits.
    pub streams: Used,
    /// Shadows that it created in the last 24 hours, and may create in them.
    pub new_shadows: Used,
}

/// Renders the use that a principal makes of its limits.
#[must_use]
pub fn principal_use(of: &PrincipalUse<'_>) -> Bytes {
    message(|envelope| {
        envelope.member("principal", of.principal);
        envelope.member("memory", &of.memory);
        envelope.member("workPerSecond", &of.work_per_second);
        envelope.member("throttledForMs", &of.throttled_for_ms);
        envelope.member("throttled", &of.throttled);
        envelope.member("sessions", &of.sessions);
        envelope.member("connected", &of.connected);
        envelope.member("filters", &of.filters);
        envelope.member("streams", &of.streams);
        envelope.member("newShadows", &of.new_shadows);
    })
}

/// A listener for MQTT.
#[derive(Clone, Copy, Debug)]
pub struct MqttAddress {
    /// The host to connect to; `None` for any that resolves to this server.
    pub host: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// True if clients need TLS.
    pub tls: bool,
    /// True if clients need no credentials.
    pub anonymous: bool,
}

/// Renders the listeners for MQTT.
#[must_use]
pub fn mqtt_listeners(listeners: impl Iterator<Item = MqttAddress>) -> Bytes {
    message(|envelope| {
        envelope.array("listeners", listeners, |out, listener| {
            let mut object = Object::open(out);
            if let Some(host) = listener.host {
                object.text("host", &host.to_string());
            }
            object.member("port", &listener.port);
            object.member("tls", &listener.tls);
            object.member("anonymous", &listener.anonymous);
            object.close();
        });
    })
}

/// Renders a page of the names of a device's named shadows, in the AWS dialect.
#[must_use]
pub fn names<'a>(names: impl Iterator<Item = &'a str>, next: Option<&str>, now: Timestamp) -> Bytes {
    message(|envelope| {
        envelope.array("results", names, canonical::write_string);
        envelope.member("timestamp", &now.0);
        if let Some(next) = next {
            envelope.text("nextToken", next);
        }
    })
}
