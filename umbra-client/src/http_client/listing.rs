//! Lists that come in pages: devices, shadows, and changes.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::HttpClient;
use crate::{document::Version, error::Error};

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
    /// Its first 100 shadows; [`HttpClient::shadows`] lists all.
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

/// The entries of a list, read page by page as they are needed.
///
/// It is a [`Stream`] of entries, and ends after the first error.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use umbra_client::{DeviceQuery, HttpClient};
///
/// # async fn example() -> Result<(), umbra_client::Error> {
/// let http = HttpClient::new("http://127.0.0.1:8080")?;
/// let ids: Vec<_> = http.devices(&DeviceQuery::new()).take(10).map(|device| device.map(|device| device.id)).collect().await;
/// # Ok(())
/// # }
/// ```
pub struct Pages<T> {
    http: HttpClient,
    path: String,
    /// The parameters of every page, each with its `&`.
    parameters: String,
    /// The member of a page that holds the entries.
    member: &'static str,
    page_size: usize,
    entries: VecDeque<Value>,
    state: PageState,
    entry: PhantomData<fn() -> T>,
}

enum PageState {
    /// The next page begins at this cursor; `None`: the first one.
    Next(Option<String>),
    /// A page is being read.
    Reading(Pin<Box<dyn Future<Output = Result<Value, Error>> + Send>>),
    /// There are no more pages.
    End,
}

impl<T> Pages<T> {
    pub(super) fn new(http: HttpClient, path: String, parameters: String, member: &'static str) -> Self {
        let (entries, state) = (VecDeque::new(), PageState::Next(None));
        Self { http, path, parameters, member, page_size: PAGE_SIZE, entries, state, entry: PhantomData }
    }

    /// Sets the number of entries read at once: 100 by default, which is the most.
    ///
    /// ```
    /// use umbra_client::{DeviceQuery, HttpClient};
    ///
    /// let devices = HttpClient::new("http://127.0.0.1:8080")?.devices(&DeviceQuery::new()).page_size(10);
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn page_size(mut self, entries: usize) -> Self {
        self.page_size = entries.clamp(1, PAGE_SIZE);
        self
    }

    /// Returns the same list with its entries as the service sends them.
    ///
    /// ```
    /// use umbra_client::{DeviceQuery, HttpClient, Pages};
    /// use serde_json::Value;
    ///
    /// let devices: Pages<Value> = HttpClient::new("http://127.0.0.1:8080")?.devices(&DeviceQuery::new()).raw();
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn raw(self) -> Pages<Value> {
        let Self { http, path, parameters, member, page_size, entries, state, entry: _ } = self;
        Pages { http, path, parameters, member, page_size, entries, state, entry: PhantomData }
    }

    fn read_page(&self, cursor: Option<&str>) -> PageState {
        let cursor = cursor.map_or_else(String::new, |cursor| parameter("cursor", cursor));
        // A cursor of a history holds the version that it is before.
        let parameters = if cursor.is_empty() || self.member != "entries" { &*self.parameters } else { "" };
        let path = format!("{}?limit={}{parameters}{cursor}", self.path, self.page_size);
        let http = self.http.clone();
        PageState::Reading(Box::pin(async move { http.get_json(&path).await }))
    }
}

impl<T: DeserializeOwned> Pages<T> {
    /// Returns the next entry; `None` at the end of the list.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has no right to read the list, or a quota is exhausted.
    /// - [`Error::Http`]: there was no response.
    /// - [`Error::Unreadable`]: an entry does not have the expected shape.
    ///
    /// ```no_run
    /// use umbra_client::{DeviceQuery, HttpClient};
    ///
    /// # async fn example() -> Result<(), umbra_client::Error> {
    /// let mut devices = HttpClient::new("http://127.0.0.1:8080")?.devices(&DeviceQuery::new());
    /// while let Some(device) = devices.try_next().await? {
    ///     println!("{}", device.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_next(&mut self) -> Result<Option<T>, Error> {
        poll_fn(|context| self.poll_entry(context)).await.transpose()
    }

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Poll::Ready(Some(serde_json::from_value(entry).map_err(Error::unreadable)));
            }
            self.state = match &mut self.state {
                PageState::End => return Poll::Ready(None),
                PageState::Next(cursor) => {
                    let cursor = cursor.take();
                    self.read_page(cursor.as_deref())
                }
                PageState::Reading(page) => match ready!(page.as_mut().poll(context)) {
                    Err(error) => {
                        self.state = PageState::End;
                        return Poll::Ready(Some(Err(error)));
                    }
                    Ok(mut page) => {
                        if let Some(Value::Array(entries)) = page.get_mut(self.member).map(Value::take) {
                            self.entries = entries.into();
                        }
                        match page.get("next").and_then(Value::as_str) {
                            Some(next) => PageState::Next(Some(next.to_owned())),
                            None => PageState::End,
                        }
                    }
                },
            };
        }
    }
}

impl<T: DeserializeOwned> Stream for Pages<T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        self.get_mut().poll_entry(context)
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({}{})", self.http.settings.url, self.path)
    }
}

fn parameter(name: &str, value: &str) -> String {
    format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

/// The most entries that the service sends at once.
const PAGE_SIZE: usize = 100;
