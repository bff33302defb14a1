//! Lists of devices, searches and histories over HTTP: their filters and entries.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::pages::parameter;
use crate::version::Version;

/// The filters of a list of devices. The default lists all.
///
/// ```
/// use umbra_client::DeviceQuery;
///
/// let waiting = DeviceQuery::new().prefix("lamp-").connected(true).drift(true);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceQuery {
    /// Only devices whose ids begin with this.
    pub prefix: Option<String>,
    /// Only devices that are connected (true) or not (false).
    pub connected: Option<bool>,
    /// Only devices with (true) or without (false) a delta.
    pub drift: Option<bool>,
}

impl DeviceQuery {
    /// Returns a query for all devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Restricts the list to devices whose ids begin with `prefix`.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Restricts the list to devices that are connected, or to those that are not.
    #[must_use]
    pub fn connected(mut self, connected: bool) -> Self {
        self.connected = Some(connected);
        self
    }

    /// Restricts the list to devices with a delta, or to those without.
    #[must_use]
    pub fn drift(mut self, drift: bool) -> Self {
        self.drift = Some(drift);
        self
    }

    pub(super) fn parameters(&self) -> String {
        let prefix = self.prefix.as_ref().map(|prefix| parameter("prefix", prefix));
        let connected = self.connected.map(|connected| format!("&connected={connected}"));
        let drift = self.drift.map(|drift| format!("&drift={drift}"));
        [prefix, connected, drift].into_iter().flatten().collect()
    }
}

/// A search for devices. The default finds all, in the order of their ids.
///
/// ```
/// use umbra_client::SearchQuery;
///
/// let old = SearchQuery::new("reported.firmware:1.4*").fields("reported.firmware,tags.region").sort("-reported.battery");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchQuery {
    /// The query; empty: all devices.
    pub query: String,
    /// The fields whose values are returned, separated by commas.
    pub fields: Option<String>,
    /// The field of the order, after a hyphen for the descending one.
    pub sort: Option<String>,
}

impl SearchQuery {
    /// Returns a search for the devices for which `query` is true.
    #[must_use]
    pub fn new(query: &str) -> Self {
        Self { query: query.to_owned(), ..Self::default() }
    }

    /// Sets the fields whose values are returned, separated by commas.
    #[must_use]
    pub fn fields(mut self, fields: &str) -> Self {
        self.fields = Some(fields.to_owned());
        self
    }

    /// Sets the field of the order, after a hyphen for the descending one.
    #[must_use]
    pub fn sort(mut self, field: &str) -> Self {
        self.sort = Some(field.to_owned());
        self
    }

    pub(super) fn parameters(&self) -> String {
        let query = (!self.query.is_empty()).then(|| parameter("q", &self.query));
        let fields = self.fields.as_ref().map(|fields| parameter("fields", fields));
        let sort = self.sort.as_ref().map(|sort| parameter("sort", sort));
        [query, fields, sort].into_iter().flatten().collect()
    }
}

/// A device that a search found.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct FoundDevice {
    /// The device.
    #[serde(flatten)]
    pub device: DeviceEntry,
    /// The values of the fields asked for, by name; a field without a value is missing.
    pub fields: BTreeMap<String, Value>,
}

/// The range of a history. The default lists all changes that are kept.
///
/// ```
/// use umbra_client::{HistoryQuery, Version};
///
/// let older = HistoryQuery::new().before(Version(100));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryQuery {
    /// Only changes before this version.
    pub before: Option<Version>,
}

impl HistoryQuery {
    /// Returns a query for all changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Restricts the history to changes before `version`.
    #[must_use]
    pub fn before(mut self, version: Version) -> Self {
        self.before = Some(version);
        self
    }

    pub(super) fn parameters(&self) -> String {
        self.before.map_or_else(String::new, |before| format!("&before={before}"))
    }
}

/// A device in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct DeviceEntry {
    /// The device id.
    pub id: String,
    /// True while the device is connected; `None` if the client has no right to know.
    pub connected: Option<bool>,
    /// The time of the connection while it lasts, else of the last packet, in seconds since the epoch.
    pub last_seen: Option<u64>,
    /// The MQTT version: `mqtt-3.1.1` or `mqtt-5`.
    pub protocol: Option<String>,
    /// The network address, for administrators.
    pub address: Option<String>,
    /// True if one of its shadows has a delta.
    pub drift: bool,
    /// The number of its shadows.
    pub shadows: u64,
}

/// A device with its shadows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct DeviceDetail {
    /// The device id.
    pub id: String,
    /// True while the device is connected; `None` if the client has no right to know.
    pub connected: Option<bool>,
    /// The time of the connection while it lasts, in seconds since the epoch.
    pub connected_since: Option<u64>,
    /// The time of the connection while it lasts, else of the last packet, in seconds since the epoch.
    pub last_seen: Option<u64>,
    /// The MQTT version: `mqtt-3.1.1` or `mqtt-5`.
    pub protocol: Option<String>,
    /// The network address, for administrators.
    pub address: Option<String>,
    /// True if one of its shadows has a delta.
    pub drift: bool,
    /// Its first 100 shadows; [`crate::HttpClient::shadows`] lists all.
    pub shadows: Vec<ShadowEntry>,
}

/// A shadow in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ShadowEntry {
    /// The name; `None`: the classic shadow.
    pub name: Option<String>,
    /// The version.
    pub version: Version,
    /// The etag.
    pub etag: String,
    /// The time of the last change, in seconds since the epoch.
    pub timestamp: u64,
    /// True if it has a delta.
    pub drift: bool,
}

/// A change in a history.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The version after the change.
    pub version: Version,
    /// The time of the change, in seconds since the epoch.
    pub timestamp: u64,
    /// The principal.
    pub by: String,
    /// The client.
    pub client: String,
    /// The etag after the change.
    pub etag: String,
    /// True if the change deleted the shadow.
    pub deleted: bool,
    /// The changed paths.
    pub changes: Vec<PathChange>,
}

/// A changed path.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PathChange {
    /// A JSON Pointer into the state.
    pub path: String,
    /// The value after the change; `None` if it was removed.
    pub value: Option<Value>,
    /// The value before the change; `None` if there was none.
    pub previous: Option<Value>,
    /// True if it was removed.
    pub removed: bool,
}
