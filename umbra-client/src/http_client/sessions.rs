//! MQTT sessions and retained messages of all clients, for operators.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{HttpClient, Pages, pages::parameter, transport};
use crate::error::Error;

/// The filters of a list of MQTT sessions. The default lists all.
///
/// ```
/// use umbra_client::SessionQuery;
///
/// let away = SessionQuery::new().prefix("lamp-").connected(false);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionQuery {
    /// Only sessions of principals whose names begin with this.
    pub prefix: Option<String>,
    /// Only sessions with a connection (true) or without one (false).
    pub connected: Option<bool>,
}

impl SessionQuery {
    /// Returns a query for all sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Restricts the list to sessions of principals whose names begin with `prefix`.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Restricts the list to sessions with a connection, or to those without one.
    #[must_use]
    pub fn connected(mut self, connected: bool) -> Self {
        self.connected = Some(connected);
        self
    }

    fn parameters(&self) -> String {
        let prefix = self.prefix.as_ref().map(|prefix| parameter("prefix", prefix));
        let connected = self.connected.map(|connected| format!("&connected={connected}"));
        [prefix, connected].into_iter().flatten().collect()
    }
}

/// The numbers of connections that [`HttpClient::end_connections`] has ended, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
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

/// An MQTT session in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct SessionEntry {
    /// The principal.
    pub principal: String,
    /// The client id.
    pub client: String,
    /// The node of a cluster that has it.
    pub node: Option<u64>,
    /// True if it has a connection.
    pub connected: bool,
    /// The address of the connection, or of the last one since the start of the server.
    pub address: Option<String>,
    /// The MQTT version of that connection: `mqtt-3.1.1` or `mqtt-5`.
    pub protocol: Option<String>,
    /// The time of the connection while it lasts, in seconds since the epoch.
    pub connected_since: Option<u64>,
    /// Seconds that the session outlives its connection, while that lasts.
    pub session_expiry: Option<u64>,
    /// The time when it lost its connection, in seconds since the epoch.
    pub disconnected_since: Option<u64>,
    /// The time when it expires, in seconds since the epoch.
    pub expires: Option<u64>,
    /// The number of messages that wait for it.
    pub queued: u64,
    /// Bytes of these messages.
    pub queued_bytes: u64,
    /// The number of messages that were sent and not acknowledged.
    pub in_flight: u64,
    /// The number of its filters.
    pub filters: u64,
}

/// A filter of an MQTT session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GrantedFilter {
    /// The filter, with the group of a shared subscription.
    pub filter: String,
    /// The QoS that was granted.
    pub qos: u8,
}

/// An MQTT session with its filters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct SessionDetail {
    /// The principal.
    pub principal: String,
    /// The client id.
    pub client: String,
    /// The node of a cluster that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// True if it has a connection.
    pub connected: bool,
    /// The address of the connection, or of the last one since the start of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The MQTT version of that connection: `mqtt-3.1.1` or `mqtt-5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The time of the connection while it lasts, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<u64>,
    /// Seconds that the session outlives its connection, while that lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry: Option<u64>,
    /// The time when it lost its connection, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnected_since: Option<u64>,
    /// The time when it expires, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The number of messages that wait for it.
    pub queued: u64,
    /// Bytes of these messages.
    pub queued_bytes: u64,
    /// The number of messages that were sent and not acknowledged.
    pub in_flight: u64,
    /// Its filters.
    pub filters: Vec<GrantedFilter>,
}

/// A retained message without its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RetainedEntry {
    /// The topic.
    pub topic: String,
    /// Bytes of the payload.
    pub bytes: u64,
    /// The QoS of the publication.
    pub qos: u8,
    /// The principal that published it.
    pub by: String,
    /// The time of the publication, in seconds since the epoch.
    pub since: u64,
}

impl HttpClient {
    /// Returns the MQTT sessions of all clients, in the order of their principals and client ids.
    ///
    /// ```no_run
    /// use umbra_client::SessionQuery;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut away = http.sessions(&SessionQuery::new().connected(false));
    /// while let Some(session) = away.try_next().await? {
    ///     println!("{} {}: {} messages wait", session.principal, session.client, session.queued);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sessions(&self, query: &SessionQuery) -> Pages<SessionEntry> {
        Pages::new(self.clone(), "/v1/sessions".to_owned(), query.parameters(), "sessions")
    }

    /// Returns an MQTT session with its filters.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: there is no such session, or the client has no right to list sessions.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let session = http.session("app-1", "dashboard").await?;
    /// println!("{} filters, {} messages wait", session.filters.len(), session.queued);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn session(&self, principal: &str, client: &str) -> Result<SessionDetail, Error> {
        self.get_json(&path(principal, client)).await
    }

    /// Ends an MQTT session and its connection. Returns when that is on the disk of the server.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: there is no such session, or the client has no right to end sessions.
    /// - [`Error::Http`]: there was no response. The session may have ended.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// http.end_session("app-1", "dashboard").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn end_session(&self, principal: &str, client: &str) -> Result<(), Error> {
        let path = path(principal, client);
        transport::send(&self.settings, hyper::Method::DELETE, &path).await?.collect().await.map(drop)
    }

    /// Returns the retained messages of ordinary topics that begin with `prefix`, without their payload.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut retained = http.retained("plant/");
    /// while let Some(message) = retained.try_next().await? {
    ///     println!("{}: {} bytes by {}", message.topic, message.bytes, message.by);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn retained(&self, prefix: &str) -> Pages<RetainedEntry> {
        let parameters = if prefix.is_empty() { String::new() } else { parameter("prefix", prefix) };
        Pages::new(self.clone(), "/v1/retained".to_owned(), parameters, "retained")
    }
}

fn path(principal: &str, client: &str) -> String {
    let [principal, client] = [principal, client].map(|name| utf8_percent_encode(name, NON_ALPHANUMERIC));
    format!("/v1/sessions/{principal}/{client}")
}
