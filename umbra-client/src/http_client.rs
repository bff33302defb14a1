//! A client of the HTTP interface: lists, histories and backups, which MQTT has no requests for.
//!
//! HTTP/1.1, one connection per request, with TLS if the URL says https. hyper, and not a blocking client with TLS of its
//! own: the requests are cancelled by dropping them, and use the same [`Tls`] as the MQTT connection.

mod aggregate;
mod event_stream;
mod events;
mod listing;
mod pages;
mod purge;
mod queries;
mod rollouts;
mod sessions;
mod transport;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

pub use aggregate::AggregateQuery;
pub use events::{Changes, Rejections};
pub use listing::{
    DeviceDetail, DeviceEntry, DeviceQuery, FoundDevice, HistoryEntry, HistoryQuery, PathChange, SearchQuery,
    ShadowEntry,
};
pub use pages::Pages;
pub use purge::{PurgeQuery, PurgeStep};
pub use queries::NamedQuery;
pub use rollouts::{Progress, Rollout, RolloutCommand, RolloutDevice, RolloutWave};
pub use sessions::{EndedConnections, GrantedFilter, RetainedEntry, SessionDetail, SessionEntry, SessionQuery};
pub use transport::Body;

use crate::{
    address::Address,
    credentials::Credentials,
    error::Error,
    names::{DeviceId, ShadowId},
    tls::Tls,
};

/// A client of the HTTP interface of a broker. Clones share their settings.
///
/// ```no_run
/// use umbra_client::{DeviceId, HttpClient};
///
/// # async fn example() -> Result<(), umbra_client::Error> {
/// let http = HttpClient::new("http://127.0.0.1:8080")?;
/// let lamp = http.device(&DeviceId::new("lamp-1")?).await?;
/// println!("connected: {:?}, {} shadows", lamp.connected, lamp.shadows.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HttpClient {
    settings: Arc<Settings>,
}

#[derive(Debug, Clone)]
struct Settings {
    /// The base URL, without a trailing slash.
    url: String,
    /// For https; by default set by the first request.
    tls: OnceLock<Tls>,
    /// The value of the Authorization header.
    authorization: Option<Authorization>,
    timeout: Duration,
}

/// A secret header value.
#[derive(Clone)]
struct Authorization(String);

impl HttpClient {
    /// Returns a client of the HTTP interface at `url`, such as `https://broker.example`.
    ///
    /// # Errors
    ///
    /// - [`Error::Address`]: the URL is malformed.
    /// - [`Error::NotHttp`]: it is another kind of URL.
    pub fn new(url: &str) -> Result<Self, Error> {
        let address: Address = url.parse()?;
        address.http_url().map(Self::at).ok_or(Error::NotHttp(address))
    }

    pub(crate) fn at(url: String) -> Self {
        let settings = Settings { url, tls: OnceLock::new(), authorization: None, timeout: TIMEOUT };
        Self { settings: Arc::new(settings) }
    }

    /// Sets the certificate authorities and the client certificate, for https.
    ///
    /// ```no_run
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use umbra_client::{HttpClient, Tls};
    ///
    /// let tls = Tls::from_pem(Some(&std::fs::read("ca.pem")?), None)?;
    /// let http = HttpClient::new("https://broker.example")?.tls(tls);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        self.with(|settings| settings.tls = tls.into())
    }

    /// Sets the credentials.
    ///
    /// ```
    /// use umbra_client::{Credentials, HttpClient};
    ///
    /// let token = Credentials::Token("eyJ…".to_owned());
    /// let http = HttpClient::new("https://broker.example")?.credentials(&token);
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn credentials(self, credentials: &Credentials) -> Self {
        let value = match credentials {
            Credentials::Token(token) => format!("Bearer {token}"),
            Credentials::Password(user, password) => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
            }
        };
        self.with(|settings| settings.authorization = Some(Authorization(value)))
    }

    /// Sets the time that the server may take to connect, to answer, and between two parts of its answer: 30 seconds by
    /// default.
    ///
    /// ```
    /// use std::time::Duration;
    /// use umbra_client::HttpClient;
    ///
    /// let http = HttpClient::new("http://127.0.0.1:8080")?.timeout(Duration::from_secs(5));
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.timeout = timeout)
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Returns the devices that have shadows, in the order of their ids.
    ///
    /// ```no_run
    /// use umbra_client::DeviceQuery;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut waiting = http.devices(&DeviceQuery::new().prefix("lamp-").drift(true));
    /// while let Some(device) = waiting.try_next().await? {
    ///     println!("{} has not reached its desired state", device.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn devices(&self, query: &DeviceQuery) -> Pages<DeviceEntry> {
        Pages::new(self.clone(), "/v1/devices".to_owned(), query.parameters(), "devices")
    }

    /// Returns the devices for which a query is true, with the values of chosen fields.
    ///
    /// ```no_run
    /// use umbra_client::SearchQuery;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let search = SearchQuery::new("reported.firmware:1.4* AND connected:true").fields("reported.firmware");
    /// let mut old = http.search(&search);
    /// while let Some(found) = old.try_next().await? {
    ///     println!("{}: {:?}", found.device.id, found.fields.get("reported.firmware"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn search(&self, search: &SearchQuery) -> Pages<FoundDevice> {
        Pages::new(self.clone(), "/v1/search".to_owned(), search.parameters(), "devices")
    }

    /// Returns the number of devices for which `query` is true; of all, if it is empty.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the query is wrong, or the service cannot read all shadows in time.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// println!("{} devices have a delta", http.count("drift:true").await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn count(&self, query: &str) -> Result<u64, Error> {
        let path = format!("/v1/search?limit=1&total=true{}", SearchQuery::new(query).parameters());
        let page: serde_json::Value = self.get_json(&path).await?;
        Ok(page.get("total").and_then(serde_json::Value::as_u64).unwrap_or_default())
    }

    /// Returns an aggregate of a field over the devices for which a query is true, as the service sends it.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the field or the query is wrong, or the service cannot read all shadows in time.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// use umbra_client::AggregateQuery;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let regions = http.aggregate(&AggregateQuery::terms("tags.region").query("drift:true")).await?;
    /// println!("most devices with a delta are in {}", regions["terms"][0]["value"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn aggregate(&self, query: &AggregateQuery) -> Result<serde_json::Value, Error> {
        self.get_json(&format!("/v1/aggregate?{}", query.parameters())).await
    }

    /// Returns one device: its presence and its first 100 shadows.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the device has no shadow, or the client has no right to see one.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// use umbra_client::DeviceId;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let lamp = http.device(&DeviceId::new("lamp-1")?).await?;
    /// println!("connected: {:?}, last seen {:?}", lamp.connected, lamp.last_seen);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn device(&self, device: &DeviceId) -> Result<DeviceDetail, Error> {
        self.get_json(&format!("/v1/devices/{device}")).await
    }

    /// Returns a shadow as the newest of all nodes of a cluster has it, as a [`Document`](crate::Document) or a
    /// `serde_json::Value`. The server answers once it has applied everything that the cluster's log has. A single node answers
    /// at once.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the shadow does not exist, the client has no right to read it, or the log of the cluster cannot be
    ///   asked (code 503).
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// use umbra_client::{DeviceId, Document};
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let lamp: Document = http.consistent_shadow(&DeviceId::new("lamp-1")?.into()).await?;
    /// println!("version {}", lamp.version);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn consistent_shadow<T: DeserializeOwned>(&self, shadow: &ShadowId) -> Result<T, Error> {
        self.get_json(&format!("{}?consistent=true", path_of(shadow))).await
    }

    /// Returns the shadows of a device: the classic one first, then in the order of their names.
    ///
    /// ```no_run
    /// use umbra_client::DeviceId;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut shadows = http.shadows(&DeviceId::new("lamp-1")?);
    /// while let Some(shadow) = shadows.try_next().await? {
    ///     println!("{:?} is at version {}", shadow.name, shadow.version);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shadows(&self, device: &DeviceId) -> Pages<ShadowEntry> {
        Pages::new(self.clone(), format!("/v1/devices/{device}/shadows"), String::new(), "shadows")
    }

    /// Returns the changes of a shadow, newest first, as far back as the journal is kept.
    ///
    /// ```no_run
    /// use umbra_client::{DeviceId, HistoryQuery, Version};
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let lamp = DeviceId::new("lamp-1")?.into();
    /// let mut history = http.history(&lamp, &HistoryQuery::new().before(Version(100)));
    /// while let Some(entry) = history.try_next().await? {
    ///     println!("version {} by {}", entry.version, entry.by);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn history(&self, shadow: &ShadowId, query: &HistoryQuery) -> Pages<HistoryEntry> {
        Pages::new(self.clone(), format!("{}/history", path_of(shadow)), query.parameters(), "entries")
    }

    /// Takes a backup of the running server and returns it in parts.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has no right to take one, or another is being taken.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// use std::{fs::File, io::Write};
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut backup, mut file) = (http.backup().await?, File::create("backup")?);
    /// while let Some(part) = backup.chunk().await? {
    ///     file.write_all(&part)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn backup(&self) -> Result<Body, Error> {
        transport::send(&self.settings, hyper::Method::POST, "/v1/backup").await
    }

    /// Ends all connections, event streams and browser sessions of a principal, and its MQTT sessions unless
    /// `keep_sessions` is set. Its clients may connect again.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has not all rights.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let ended = http.end_connections("lamp-1", false).await?;
    /// println!("{} connections and {} event streams ended", ended.connections, ended.streams);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn end_connections(&self, principal: &str, keep_sessions: bool) -> Result<EndedConnections, Error> {
        let name = utf8_percent_encode(principal, NON_ALPHANUMERIC);
        let path = format!("/v1/principals/{name}/connections?keep_sessions={keep_sessions}");
        let body = transport::send(&self.settings, hyper::Method::DELETE, &path).await?.collect().await?;
        serde_json::from_slice(&body).map_err(Error::unreadable)
    }

    /// Returns the nodes of a cluster as the server knows them, as it sent them.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has not all rights, or the server is a single node.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// println!("node {} decides", http.cluster().await?["decider"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cluster(&self) -> Result<serde_json::Value, Error> {
        self.get_json("/v1/cluster").await
    }

    /// Purges a part of the shadows that `query` selects. Call it again with [`PurgeQuery::cursor`] set to the `next` of the
    /// result until there is none.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has not all rights, the query is invalid, or the store takes no writes.
    /// - [`Error::Http`]: there was no response. A part of the shadows may have been purged.
    ///
    /// ```no_run
    /// use umbra_client::PurgeQuery;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut query = PurgeQuery::shadows("junk-*").dry_run(true);
    /// let mut count = 0;
    /// loop {
    ///     let step = http.purge(&query).await?;
    ///     count += step.purged;
    ///     query.cursor = step.next;
    ///     if query.cursor.is_none() {
    ///         break;
    ///     }
    /// }
    /// println!("{count} shadows would be deleted");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn purge(&self, query: &PurgeQuery) -> Result<PurgeStep, Error> {
        let path = format!("/v1/purge?{}", query.parameters());
        let body = transport::send(&self.settings, hyper::Method::POST, &path).await?.collect().await?;
        serde_json::from_slice(&body).map_err(Error::unreadable)
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let body = transport::send(&self.settings, hyper::Method::GET, path).await?.collect().await?;
        serde_json::from_slice(&body).map_err(Error::unreadable)
    }
}

/// Returns the path of a shadow.
fn path_of(shadow: &ShadowId) -> String {
    let device = shadow.device();
    match shadow.name() {
        None => format!("/v1/devices/{device}/shadow"),
        // `$` is the only character of a name that a URL would need encoded.
        Some(name) => format!("/v1/devices/{device}/shadows/{}", name.replace('$', "%24")),
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the secret.
        f.write_str("Authorization")
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);
